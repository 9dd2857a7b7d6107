"""The fine-tuning loop: tasks run, resume exactly, stop on a signal, and refuse bad input."""

import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.multiprocessing import ProcessExitedException
from transfer_material import annotated_set, settings, spawn

from moco.cluster.machine import Machine
from moco.encoders.build import build_encoder
from moco.encoders.frozen import EncoderSpec, save_encoder
from moco.encoders.kinds import network_of
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.encoders.stages import stages_of
from moco.encoders.start import start_from
from moco.errors import Interrupted, MocoError
from moco.features.extract import Labelled
from moco.images.index import open_split
from moco.processes import Processes, join
from moco.runs import checkpoints
from moco.runs.curves import read_rows
from moco.transfer import finetune as loop
from moco.transfer.data.annotations import AnnotatedSet
from moco.transfer.finetune import FineTune, finetune
from moco.transfer.log import Log
from moco.transfer.networks import classification
from moco.transfer.networks.batch_norm import FrozenBatchNorm2d
from moco.transfer.predict import detect
from moco.transfer.schedules import BoxSizes, sizes_of
from moco.transfer.tasks import optimizer_of, task_of

ALONE = Processes(0, 1, torch.device("cpu"))
START = start_from("random", network_of("thin", "small-stride2"), 0)
BOXES = ["loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"]
LOSSES = {
    "detection": BOXES,
    "instances": [*BOXES, "loss_mask"],
    "keypoints": [*BOXES, "loss_keypoint"],
    "semantic": [],
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """More of them sum in another order, and do not survive a fork."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> AnnotatedSet:
    return annotated_set(tmp_path_factory.mktemp("images"))


def run_of(task: str, images, folder: Path, **changes) -> FineTune:
    machine = Machine(num_workers=0)
    return FineTune(settings(task, **changes), START, images, 0, folder, machine, ALONE)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("task", list(LOSSES))
def test_every_task_trains_with_finite_losses_that_add_up_in_its_curves(images, tmp_path, task):
    model = finetune(run_of(task, images, tmp_path, iterations=3))
    assert not model.training
    rows = read_rows(tmp_path / "curves.csv")
    assert list(rows[0]) == ["step", "learning_rate", "loss", *sorted(LOSSES[task], key=list(rows[0]).index)]
    assert set(rows[0]) == {"step", "learning_rate", "loss", *LOSSES[task]}
    assert [int(row["step"]) for row in rows] == [1, 2, 3]
    for row in rows:
        assert np.isfinite(float(row["loss"]))
        if LOSSES[task]:
            assert float(row["loss"]) == pytest.approx(sum(float(row[name]) for name in LOSSES[task]), rel=1e-5)


@pytest.mark.parametrize(
    "name", ["timm:resnet18", "timm:convnext_atto", "timm:mobilenetv3_small_050", "torchvision:regnet_y_400mf"]
)
def test_a_librarys_network_from_an_encoders_folder_trains_and_keeps_its_activations(images, tmp_path, name):
    network = network_of(name)
    backbone = build_encoder(network, bn_group_size=4, image_size=64)
    spec = EncoderSpec(network, 64, 1.0, IMAGENET_MEAN, IMAGENET_STD, backbone.feature_dim, "abc")
    save_encoder(tmp_path / "encoder", backbone, spec)
    start = start_from(str(tmp_path / "encoder"), None, 0)
    for task in ("instances", "semantic"):
        run = replace(run_of(task, images, tmp_path / task, iterations=2), start=start)
        before = stages_of(start.network, 4)
        model = finetune(run)
        assert all(np.isfinite(float(row["loss"])) for row in read_rows(tmp_path / task / "curves.csv"))
        inner = model.stages if task == "semantic" else model.backbone.stages
        after, views = dict(inner.named_parameters()), torch.randn(2, 3, 64, 64)
        assert all(not torch.equal(value, after[key]) for key, value in before.named_parameters() if value.dim() > 1)
        before.load_state_dict(inner.state_dict())  # the same weights in the network as its library makes it
        for found, wanted in zip(inner(views), before.eval()(views), strict=True):
            assert (found - wanted).abs().max() < 1e-2 * wanted.abs().max()  # another memory layout


@pytest.mark.parametrize("task", ["instances", "semantic"])
def test_bfloat16_trains_to_about_the_same_loss(images, tmp_path, task):
    rows = []
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision
        finetune(run_of(task, images, folder, iterations=1, precise_bn_batches=1, precision=precision))
        rows += read_rows(folder / "curves.csv")
    assert float(rows[1]["loss"]) == pytest.approx(float(rows[0]["loss"]), rel=0.05)
    assert rows[1] != rows[0]


def test_rates_in_the_curves_are_the_schedules_scaled_to_the_batch(images, tmp_path):
    finetune(run_of("semantic", images, tmp_path))
    rates = [float(row["learning_rate"]) for row in read_rows(tmp_path / "curves.csv")]
    assert rates == pytest.approx([0.003 / 4] * 7 + [0.003 / 40] * 2 + [0.003 / 400])


@pytest.mark.parametrize("task", ["detection", "semantic"])
def test_a_stopped_run_resumes_to_the_same_weights_to_the_bit(images, tmp_path, monkeypatch, task):
    unbroken = weights(finetune(run_of(task, images, tmp_path / "unbroken", iterations=5)))
    real = Log.step

    def stop_at_2(record, done, *rest):
        real(record, done, *rest)
        if done == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Log, "step", stop_at_2)
    run = run_of(task, images, tmp_path / "broken", iterations=5)
    with pytest.raises(Interrupted, match="stopped at step 2 of 5, a checkpoint is saved"):
        finetune(run)
    torch.manual_seed(99)  # what was drawn elsewhere does not matter
    assert same(weights(finetune(run)), unbroken)
    for name in ("unbroken", "broken"):
        assert len(read_rows(tmp_path / name / "curves.csv")) == 5
    assert (tmp_path / "unbroken/curves.csv").read_bytes() == (tmp_path / "broken/curves.csv").read_bytes()


def killed_at_4(run: FineTune) -> None:
    real = Log.step

    def step(record, done, *rest):
        real(record, done, *rest)
        if done == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    Log.step = step  # this process is of the test alone
    finetune(run)


def test_a_killed_run_resumes_from_its_last_checkpoint_to_the_same_weights(images, tmp_path):
    unbroken = weights(finetune(run_of("instances", images, tmp_path / "unbroken", iterations=5)))
    run = run_of("instances", images, tmp_path / "killed", iterations=5)
    run = replace(run, machine=Machine(num_workers=0, checkpoint_every_steps=3))
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        spawn(killed_at_4, 1, run)
    assert checkpoints.newest_step(run.folder) == 3
    assert same(weights(finetune(run)), unbroken)


def test_statistics_are_estimated_again_after_a_stop_among_their_batches(images, tmp_path, monkeypatch):
    unbroken = weights(finetune(run_of("semantic", images, tmp_path / "unbroken", iterations=2)))
    real = loop._passes

    def stop_within(*arguments):
        for call in real(*arguments):
            os.kill(os.getpid(), signal.SIGTERM)
            yield call

    run = run_of("semantic", images, tmp_path / "broken", iterations=2)
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="stopped at step 2 of 2"):
        patch.setattr(loop, "_passes", stop_within)
        finetune(run)
    assert same(weights(finetune(run)), unbroken)


def test_estimated_statistics_change_nothing_but_running_statistics(images, tmp_path):
    with_them, without = (
        weights(finetune(run_of("semantic", images, tmp_path / str(count), iterations=2, precise_bn_batches=count)))
        for count in (2, 0)
    )
    differ = {name for name, value in with_them.items() if not torch.equal(value, without[name])}
    assert differ
    assert all(name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked") for name in differ)
    assert any(name.endswith("running_mean") for name in differ)


def test_a_finished_run_is_not_trained_again(images, tmp_path, monkeypatch):
    run = run_of("semantic", images, tmp_path, iterations=2)
    trained = weights(finetune(run))
    monkeypatch.setattr(loop, "steps", None)
    assert same(weights(finetune(run)), trained)


def test_a_folder_of_another_run_is_refused(images, tmp_path):
    finetune(run_of("semantic", images, tmp_path, iterations=1))
    more_trials = run_of("semantic", images, tmp_path, iterations=1, trials=5)
    finetune(more_trials)  # how many there are does not matter to each
    for other in (replace(more_trials, seed=1), run_of("semantic", images, tmp_path, iterations=2)):
        with pytest.raises(MocoError, match=r"holds the run .* name another folder, or delete it"):
            finetune(other)


def test_another_seed_gives_another_result(images, tmp_path):
    run = run_of("semantic", images, tmp_path / "0", iterations=1)
    first, second = weights(finetune(run)), weights(finetune(replace(run, seed=1, folder=tmp_path / "1")))
    assert not torch.equal(first["stages.conv1.weight"], second["stages.conv1.weight"])


def test_a_loss_that_is_not_finite_stops_with_a_remedy(images, tmp_path):
    run = run_of("semantic", images, tmp_path, learning_rate=1e4, batch_norm="frozen")
    with pytest.raises(MocoError, match=r"the loss is not finite .* before step \d+, .* lower training.learning_rate"):
        finetune(run)
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.parametrize(
    ("task", "changes", "dropped", "message"),
    [
        ("detection", {"batch_size": 13}, [], "batch_size = 13 is more than the 12 images"),
        ("instances", {}, ["segments"], "rectangles has no segments, which task instances is trained on"),
        ("keypoints", {}, ["keypoints"], "rectangles has no keypoints"),
        ("semantic", {}, ["label_maps"], "rectangles has no label maps"),
        ("classification", {}, [], "needs a shard set with labels"),
    ],
)
def test_data_that_do_not_fit_are_refused_before_any_step(images, tmp_path, task, changes, dropped, message):
    without = replace(images, **dict.fromkeys(dropped))
    with pytest.raises(MocoError, match=message):
        finetune(run_of(task, without, tmp_path, **changes))


def test_a_batch_that_the_processes_cannot_share_is_refused(images, tmp_path):
    three = replace(run_of("semantic", images, tmp_path), processes=Processes(0, 3, torch.device("cpu")))
    with pytest.raises(MocoError, match="batch_size = 4 cannot be shared by 3 processes"):
        finetune(three)


def test_frozen_batch_norm_keeps_its_weights_and_statistics(images, tmp_path):
    model = finetune(run_of("semantic", images, tmp_path, iterations=2, batch_norm="frozen"))
    before, after = START.network.state_dict(), weights(model)
    assert isinstance(model.stages.bn1, FrozenBatchNorm2d)
    for name in ("bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"):
        assert torch.equal(after[f"stages.{name}"], before[name]), name
    assert not torch.equal(after["stages.conv1.weight"], before["conv1.weight"])


@pytest.mark.parametrize(("task", "decay"), [("detection", 0.0), ("semantic", 1e-4)])
def test_all_parameters_are_trained_and_detectors_do_not_decay_their_norms(images, task, decay):
    model = task_of(settings(task), images, START, 0, ALONE).model()
    groups = {
        id(parameter): group["weight_decay"]
        for group in optimizer_of(model, settings(task)).param_groups
        for parameter in group["params"]
    }
    assert len(groups) == len(list(model.parameters()))
    assert (
        groups[id(model.get_parameter(next(n for n, _ in model.named_parameters() if n.endswith("bn1.weight"))))]
        == decay
    )
    assert (
        groups[id(model.get_parameter(next(n for n, _ in model.named_parameters() if n.endswith("conv1.weight"))))]
        == 1e-4
    )


def on_processes(images: AnnotatedSet, shards: Path, folder: Path) -> None:
    """Train each task; each process saves its weights and its detections."""
    processes = join("cpu")
    for task in ("detection", "semantic"):
        run = replace(run_of(task, images, folder / task, iterations=3), processes=processes)
        model = finetune(run)
        torch.save(model.state_dict(), folder / f"{task}.{processes.rank}.pt")
        if task == "detection":
            found = detect(model, images, sizes_of(run.settings, BoxSizes), processes, 0)
            torch.save([found.image, found.boxes, found.scores], folder / f"found.{processes.rank}.pt")
    torch.set_default_dtype(torch.float64)
    classification.normalize = partial(_in_float64, classification.normalize)
    labelled = Labelled.of(open_split(shards, "train"))
    double = replace(start_from("random", network_of("thin", "small-stride2"), 0))
    run = run_of("classification", labelled, folder / "classification", iterations=3, batch_size=8)
    finetune(replace(run, processes=processes, start=replace(double, network=double.network.double())))


def _in_float64(normalize, images: torch.Tensor, *arguments) -> torch.Tensor:
    return normalize(images, *arguments).double()


@pytest.mark.slow
def test_two_processes_compute_what_one_does(images, small_project, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, world_size in ((one, 1), (two, 2)):
        folder.mkdir()
        spawn(on_processes, world_size, images, small_project / "data/shards", folder)
    for task in ("detection", "semantic"):  # all processes end with the same
        assert same(torch.load(two / f"{task}.0.pt"), torch.load(two / f"{task}.1.pt")), task
    for first, second in zip(
        *(torch.load(two / f"found.{rank}.pt", weights_only=False) for rank in (0, 1)), strict=True
    ):
        assert np.array_equal(first, second)
    for task, tolerance in (("semantic", 2e-3), ("classification", 1e-6)):
        rows = [read_rows(folder / task / "curves.csv") for folder in (one, two)]
        assert len(rows[0]) == len(rows[1]) == 3
        for alone, shared in zip(*rows, strict=True):
            assert float(shared["loss"]) == pytest.approx(float(alone["loss"]), abs=tolerance)
    states = [checkpoints.load_newest(folder / "classification")["model"] for folder in (one, two)]
    for name, value in states[0].items():
        assert torch.allclose(states[1][name].double(), value.double(), atol=1e-9), name


def a_librarys_network_on_processes(images: AnnotatedSet, folder: Path) -> None:
    processes = join("cpu")
    start = start_from("random", network_of("timm:mobilenetv3_small_050"), 0)
    for task in ("instances", "semantic"):
        run = run_of(task, images, folder / task, iterations=2)
        model = finetune(replace(run, processes=processes, start=start))
        torch.save(model.state_dict(), folder / f"{task}.{processes.rank}.pt")


@pytest.mark.slow
def test_a_librarys_network_trains_on_two_processes_as_on_one(images, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, world_size in ((one, 1), (two, 2)):
        folder.mkdir()
        spawn(a_librarys_network_on_processes, world_size, images, folder)
    for task in ("instances", "semantic"):
        assert same(torch.load(two / f"{task}.0.pt"), torch.load(two / f"{task}.1.pt")), task
    alone, shared = (read_rows(folder / "semantic/curves.csv") for folder in (one, two))
    assert float(shared[0]["loss"]) == pytest.approx(float(alone[0]["loss"]), abs=2e-3)
