"""Training in this process: what it writes, what it refuses, where it stops."""

import os
import re
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from mechanisms import dictionary

from moco import verdicts
from moco.cluster.machine import Machine
from moco.config import load_params
from moco.errors import Interrupted, MocoError
from moco.images.index import open_split
from moco.momentum_contrast import MoCo
from moco.processes import Processes
from moco.runs import checkpoints
from moco.runs.curves import read_rows
from moco.training import checks, setup
from moco.training import log as record
from moco.training.loop import pretrain
from moco.training.monitor import Monitor
from moco.training.run import Run

ALONE = Processes(0, 1, torch.device("cpu"))


def train(run: Run) -> None:
    pretrain(run, ALONE)


@pytest.fixture
def run(project) -> Run:
    params = load_params(overrides=["pretrain.epochs=2", "pretrain.knn_every_epochs=1"])
    train, val = open_split("data/shards", "train"), open_split("data/shards", "val")
    return Run(params.pretrain, train, Monitor(train, val, 0), "hash", project / "run", Machine(num_workers=0))


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process told to stop after a step of its next run."""
    real = record.refuse_non_finite

    def watched(losses, done, *rest):
        real(losses, done, *rest)
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(record, "refuse_non_finite", watched)


def test_curves_hold_every_interval_and_the_loss_falls_below_chance(run):
    train(run)
    rows = read_rows(run.folder / "curves.csv")
    total = 2 * (len(run.images) // 24)
    assert [int(row["step"]) for row in rows] == list(range(1, total + 1))
    assert float(rows[0]["chance"]) == np.log1p(100)
    assert float(rows[-1]["loss"]) < float(rows[-1]["chance"])
    assert float(rows[-1]["queue_fill"]) == 1.0
    readings = read_rows(run.folder / "readings.csv")
    assert [int(row["epoch"]) for row in readings] == [1, 2]
    assert all(0 <= float(row["knn_top1"]) <= 1 < float(row["effective_rank"]) for row in readings)
    assert all(0 < float(row["spread"]) < 1 and -1 <= float(row["leak"]) <= 1 for row in readings)
    assert {"step", "images_per_second", "waiting_share"} == set(read_rows(run.folder / "speed.csv")[0])


def test_a_loss_that_is_not_finite_stops_with_its_step_and_a_remedy(run):
    hot = run.settings.model_copy(update={"lr_per_256": 1e30})
    with pytest.raises(MocoError, match=r"the loss is (nan|inf) at step \d+.*lower pretrain.lr_per_256"):
        train(replace(run, settings=hot))


def test_a_loss_that_is_not_finite_is_found_before_a_checkpoint_is_saved(run):
    hot = run.settings.model_copy(update={"lr_per_256": 1e30, "log_every_steps": 1000})
    with pytest.raises(MocoError, match=r"(the loss is (nan|inf) at|weights are not finite after) step") as error:
        train(replace(run, settings=hot, machine=run.machine.model_copy(update={"checkpoint_every_steps": 1})))
    step = int(re.search(r"step (\d+)", str(error.value))[1])
    assert (checkpoints.newest_step(run.folder) or 0) == step - 1


def test_weights_that_are_not_finite_are_never_saved(run, monkeypatch):
    rates = setup.set_rates

    def diverging(model, optimizer, settings, step, total):
        rate = rates(model, optimizer, settings, step, total)
        for group in optimizer.param_groups:
            group["lr"] = 1e38 if step == total - 1 else rate  # the last loss is still finite
        return rate

    monkeypatch.setattr(setup, "set_rates", diverging)
    quiet = run.settings.model_copy(update={"knn_every_epochs": 0})
    with pytest.raises(
        MocoError, match=r"the encoder's weights are not finite after step \d+.*lower pretrain.lr_per_256"
    ):
        train(replace(run, settings=quiet))
    assert not run.done()


def test_features_that_are_not_finite_stop_at_the_reading(run, monkeypatch):
    monkeypatch.setattr(Monitor, "_features", lambda self, *rest: np.full((9, 4), np.nan, np.float32))
    with pytest.raises(MocoError, match=r"the features of validation images are not finite after epoch 1.*lr_per_256"):
        train(run)


def test_fewer_images_than_a_batch_are_refused(run):
    big = run.settings.model_copy(update={"global_batch": 4800})
    with pytest.raises(MocoError, match=r"global_batch = 4800 is more than the \d+ training images"):
        train(replace(run, settings=big))


def test_processes_that_cannot_hold_whole_groups_are_refused(run):
    with pytest.raises(MocoError, match="leaves no whole groups"):
        checks.check(run.settings, len(run.images), world_size=2)
    checks.check(run.settings, len(run.images), world_size=3)


def test_without_shuffling_the_keys_keep_the_company_of_their_queries(run, monkeypatch):
    seen = []
    real = MoCo.keys

    def spy(model, batch, *rest):
        seen.append(batch.shuffle.leaving.tolist())
        return real(model, batch, *rest)

    monkeypatch.setattr(MoCo, "keys", spy)
    train(replace(run, settings=run.settings.model_copy(update={"shuffle_bn": False, "epochs": 1})))
    assert seen[0] == list(range(24))


@pytest.mark.parametrize(
    "more",
    [
        ({"dictionary": dictionary("momentum-queue"), "knn_every_epochs": 1}),
        ({"dictionary": dictionary("memory-bank", momentum=0.5), "epochs": 12}),
        ({"dictionary": dictionary("end-to-end")}),
        ({"dictionary": dictionary("momentum-batch", symmetric=True, momentum_schedule="cosine"), "head": "mlp-bn"}),
    ],
)
def test_every_mechanism_learns_and_resumes_to_the_same_bytes(run, tmp_path, monkeypatch, more):
    settings = run.settings.model_copy(update={"epochs": 3, **more})
    train(replace(run, settings=settings, folder=tmp_path / "unbroken"))
    rows = read_rows(tmp_path / "unbroken/curves.csv")
    assert float(rows[0]["chance"]) == np.log1p(settings.negatives)
    losses = [float(row["loss"]) for row in rows]
    if settings.dictionary.about.fills != "queue":  # its loss rises while the queue fills with real keys
        assert np.mean(losses[-10:]) < np.mean(losses[:10])  # an epoch each
    assert float(rows[-1]["queue_fill"]) == 1.0
    stop_at(15, monkeypatch)
    with pytest.raises(Interrupted, match="stopped at step 15"):
        train(replace(run, settings=settings))
    train(replace(run, settings=settings))
    unbroken, resumed = (checkpoints.load_newest(f) for f in (tmp_path / "unbroken", run.folder))
    for name, value in unbroken["model"].items():
        assert torch.equal(value, resumed["model"][name]), name
    for name in ("curves.csv", "readings.csv"):
        assert (run.folder / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


def test_a_bank_too_small_for_its_negatives_is_refused(run):
    settings = run.settings.model_copy(update={"dictionary": dictionary("memory-bank", num_keys=300)})
    with pytest.raises(MocoError, match=r"dictionary.num_keys = 300 .* lower it to \d+ at most"):
        train(replace(run, settings=settings))


def test_an_end_to_end_step_in_parts_is_refused(run):
    settings = run.settings.model_copy(update={"dictionary": dictionary("end-to-end")})
    with pytest.raises(MocoError, match="max_batch_per_process = 8 would divide a step"):
        train(replace(run, settings=settings, machine=Machine(num_workers=0, max_batch_per_process=8)))


def test_images_without_labels_have_every_reading_but_knn(run):
    for images in (run.monitor.train, run.monitor.val):
        images.labels[:] = -1
    train(replace(run, settings=run.settings.model_copy(update={"epochs": 1})))
    (row,) = read_rows(run.folder / "readings.csv")
    assert row["knn_top1"] == ""
    assert all(row[name] for name in ("spread", "effective_rank", "leak"))


def test_reading_changes_nothing_of_what_is_trained(run, tmp_path):
    train(replace(run, folder=tmp_path / "read"))
    unread = run.settings.model_copy(update={"knn_every_epochs": 0})
    train(replace(run, settings=unread, folder=tmp_path / "unread"))
    one, other = (checkpoints.load_newest(tmp_path / name) for name in ("read", "unread"))
    assert all(torch.equal(value, other["model"][name]) for name, value in one["model"].items())


def test_a_warning_is_said_once_a_run_whatever_was_stopped_and_resumed(run, monkeypatch, capsys):
    monkeypatch.setattr(verdicts, "COLLAPSED_RANK", 1e9)  # every rank is called a collapse
    stop_at(15, monkeypatch)
    with pytest.raises(Interrupted):
        train(run)
    train(run)
    said = [line for line in capsys.readouterr().out.splitlines() if "warning: the features" in line]
    assert len(said) == 1
    assert said[0].startswith("pretrain: warning: the features use hardly more than one dimension (effective rank ")
    assert len(read_rows(run.folder / "readings.csv")) == 2


def test_readings_of_tars_that_are_elsewhere_are_refused_before_training(run, tmp_path):
    elsewhere = replace(run.monitor.val, folder=tmp_path / "none")
    monitor = replace(run.monitor, val=elsewhere)
    elsewhere.entries = run.monitor.val.entries
    with pytest.raises(
        MocoError, match=r"knn_every_epochs = 1 needs the validation tars in .*val-000000.tar is not there"
    ):
        monitor.require_tars(1)
    monitor.require_tars(0)
