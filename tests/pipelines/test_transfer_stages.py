"""The stages of transfer/graph.yaml on a few tiny scenes: everything but the figures."""

import contextlib
import csv
import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from small_material import ROOT

from moco.cluster.machine import load_machine
from moco.encoders.frozen import load_encoder, random_encoder, save_encoder
from moco.errors import MocoError
from moco.settings import validate
from moco.transfer.config import TransferParams
from pipelines.scenes import scenes
from pipelines.stage import alone
from pipelines.supervised import supervised
from pipelines.transfer import _processes, summary, transfer
from pipelines.transfer_report import report
from pipelines.weights import weights

FEW = {"iterations": 3, "batch_size": 4, "precise_bn_batches": 1, "trials": 2, "precision": "fp32"}


def small_params(**changes: Any) -> TransferParams:
    """The project's own transfer/params.yaml, made tiny."""
    values = yaml.safe_load((ROOT / "transfer/params.yaml").read_text())
    values["tasks"] = ["detection", "instances", "semantic"]
    values["scenes"] |= {"train": 12, "val": 2, "test": 4, "side": 64, "item_max": 40}
    for task in values["tasks"]:
        values[task]["training"] |= FEW
    values["supervised"]["training"] |= FEW | {"trials": 1, "batch_size": 16, "test_short_side": 16, "crop_size": 16}
    return validate(values | changes, "params.yaml", TransferParams)


def test_means_and_deviations_are_of_the_trials_and_undefined_figures_stay_so():
    trials = [
        {"box": {"AP": 0.1, "APl": None, "per_class": {"cat": {"AP": 0.1}}}},
        {"box": {"AP": 0.3, "APl": None, "per_class": {"cat": {"AP": 0.3}}}},
    ]
    found = summary(trials)
    assert found == {"box": {"AP": pytest.approx(0.2), "AP_std": pytest.approx(0.02**0.5), "APl": None}}
    assert summary(trials[:1]) == {"box": {"AP": 0.1, "APl": None}}


@pytest.mark.parametrize(
    ("name", "place", "start"),
    [
        ("scenes", "data/scenes", scenes),
        ("weights", "outputs/transfer/weights/random", partial(weights, init="random")),
        ("weights", "outputs/transfer/weights/moco", partial(weights, init="moco")),
        ("weights", "outputs/transfer/weights/supervised", supervised),
        ("transfer", "outputs/transfer/results/detection-moco", partial(transfer, task="detection", init="moco")),
        ("transfer-report", "outputs/transfer/report", report),
    ],
)
def test_a_second_run_of_a_stage_in_a_folder_says_so_and_writes_nothing(project: Path, name, place, start):
    with (
        alone(name, project / place, "it"),
        pytest.raises(MocoError, match=rf"^{place}: another process runs `.*` here \(process \d+ on .*wait for it"),
    ):
        start(small_params())
    assert not (project / place).exists()


@pytest.mark.slow
def test_scenes_weights_trials_and_the_page(project: Path, capsys: pytest.CaptureFixture[str]):
    params = small_params()
    scenes(params)
    weights(params, "random")
    supervised(params)
    spec = load_encoder("outputs/transfer/weights/supervised").spec
    untrained = random_encoder(spec, 7)
    save_encoder("outputs/pretrain/encoder", untrained.backbone, untrained.spec)
    named = json.loads(Path("outputs/pretrain/encoder/encoder.json").read_text()) | {"training_hash": "0" * 16}
    Path("outputs/pretrain/encoder/encoder.json").write_text(json.dumps(named))
    weights(params, "moco")
    for task in params.tasks:
        for init in params.inits:
            transfer(params, task, init)
    report(params)

    results = Path("outputs/transfer/results")
    for task, kind, figure in (
        ("detection", "box", "AP50"),
        ("instances", "mask", "AP"),
        ("semantic", "pixel", "mIoU"),
    ):
        for init in params.inits:
            folder = results / f"{task}-{init}"
            metrics = json.loads((folder / "metrics.json").read_text())
            assert 0 <= metrics[kind][figure] <= 1
            assert metrics[kind][f"{figure}_std"] >= 0
            rows = list(csv.DictReader((folder / "curves.csv").open()))
            assert {row["trial"] for row in rows} == {"0", "1"}
            assert (folder / "predictions/predictions.png").stat().st_size > 1000
            written = sorted(path.name for path in (folder / "predictions").glob("*.json"))
            assert written == ["results-box.json", "results-mask.json"] * (task == "instances")
    for kind, name in (("bbox", "box"), ("segm", "mask")):
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO("data/scenes/annotations/instances_test.json")
            found = truth.loadRes(str(results / f"instances-moco/predictions/results-{name}.json"))
            official = COCOeval(truth, found, kind)
            official.evaluate(), official.accumulate(), official.summarize()
        rows = csv.DictReader((results / "instances-moco/trials.csv").open())
        ours = {row["metric"]: float(row["value"]) for row in rows if row["trial"] == "0"}
        for figure, place in (("AP", 0), ("AP50", 1), ("AR100", 8)):
            assert ours[f"{name}.{figure}"] == pytest.approx(official.stats[place], abs=1e-9)
        assert found.anns
    page = Path("outputs/transfer/report/report.html").read_text()
    for words in ("Detection", "Instance segmentation", "Semantic segmentation", "MoCo", "supervised", "±"):
        assert words in page
    first = {path: path.read_bytes() for path in sorted(results.rglob("*")) if path.is_file()}

    capsys.readouterr()
    transfer(params, "semantic", "moco")
    assert capsys.readouterr().out.count("done before") == 2
    assert {path: path.read_bytes() for path in sorted(results.rglob("*")) if path.is_file()} == first


@pytest.mark.slow
def test_processes_of_machine_yaml_share_a_trial(project: Path, capfd: pytest.CaptureFixture[str]):
    params = small_params()
    scenes(params)
    weights(params, "random")
    (project / "machine.yaml").write_text("processes: 2\nnum_workers: 0\n")
    transfer(params, "detection", "random")
    assert "on 2 process(es)" in capfd.readouterr().out
    metrics = json.loads(Path("outputs/transfer/results/detection-random/metrics.json").read_text())
    assert 0 <= metrics["box"]["AP50"] <= 1


def test_a_slurm_launcher_is_refused_with_what_to_do(project: Path):
    params = small_params()
    (project / "machine.yaml").write_text("launcher: {kind: slurm, minutes: 5}\n")
    with pytest.raises(MocoError, match=r"launcher\.kind = slurm submits pretraining only"):
        _processes(params.detection, load_machine())


def test_a_task_that_is_none_and_weights_that_are_nowhere_leave_nothing_behind(project: Path):
    with pytest.raises(MocoError, match="has no section nonsense; add it, or name another task"):
        transfer(small_params(), "nonsense", "random")
    with pytest.raises(MocoError, match=r"VOCdevkit"):
        transfer(small_params(), "detection", "nowhere.pth")
    assert not list(Path("outputs/transfer").rglob("*.json"))
    assert not Path("outputs/transfer/results/detection-nowhere").exists()
