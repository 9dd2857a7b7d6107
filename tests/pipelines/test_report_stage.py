"""The report stage, on a real encoder and shards: complete, deterministic, never half-written."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_material import ROOT

from moco.config import Params, load_params
from moco.encoders.frozen import EncoderSpec, save_encoder
from moco.encoders.kinds import network_of
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.encoders.resnet import ResNet
from moco.errors import MocoError
from pipelines.fetch import fetch
from pipelines.report import report
from pipelines.shard import shard

SMALL = [
    *("report.views=3", "report.queries=2", "report.neighbors=3", "report.map_images=24", "fetch.source=folder"),
    *("pretrain.global_batch=32", "pretrain.bn_group_size=32"),
]
SCORES = {"linear_top1": 0.8, "linear_top5": 1.0, "knn_top1": 0.7}


def make_project(root: Path, labels: str) -> Params:
    """A project as the stages before the report leave it."""
    rng = np.random.default_rng(0)
    for number in range(120):
        path = root / "photos" / ("warm" if number % 2 else "cold") / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 90, (20, 24, 3), dtype=np.uint8)
        image[..., 2 if number % 2 else 0] += 150
        cv2.imwrite(str(path), image)
    (root / "photos" / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    changes = [*SMALL, f"fetch.path={root / 'photos'}", f"fetch.labels={labels}", "fetch.val_fraction=0.3"]
    params = load_params(ROOT / "params.yaml", changes)
    fetch(params)
    shard(params)
    torch.manual_seed(0)
    backbone = ResNet("thin", "small")
    spec = EncoderSpec(network_of("thin", "small"), 12, 1.0, IMAGENET_MEAN, IMAGENET_STD, backbone.feature_dim, "hash")
    save_encoder(root / "outputs/pretrain/encoder", backbone, spec)
    kinds = ("moco", "random", "pixels")
    known = labels == "folders"
    sweep = [f"{kind},{rate},0.5\n" for kind in kinds for rate in (0.1, 1)] if known else []
    files = {
        "pretrain/metrics.json": "{}",
        "pretrain/curves.csv": "step,epoch,loss,chance,top1,top5,queue_fill,learning_rate,feature_std\n"
        + "".join(
            f"{step},{step / 60},{8 - step / 50},8.3,0.1,0.2,{min(1, step / 40)},0.06,0.9\n"
            for step in range(20, 200, 20)
        ),
        "pretrain/readings.csv": "epoch,knn_top1,spread,effective_rank,leak\n"
        + f"2,{'0.5' if known else ''},0.6,30,0.01\n",
        "linear/metrics.json": json.dumps({kind: SCORES if known else dict.fromkeys(SCORES) for kind in kinds}),
        "linear/sweep.csv": "features,learning_rate,val_top1\n" + "".join(sweep),
        "linear/confusion.csv": "actual,predicted\n" + ("warm,warm\ncold,warm\n" if known else ""),
    }
    for name, text in files.items():
        (root / "outputs" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "outputs" / name).write_text(text)
    return params


@pytest.fixture(scope="module", params=["folders", "none"])
def project(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MOCO_TRACKING", "off")
        yield make_project(root, request.param)


def report_files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path("outputs/report").iterdir()}


def test_two_runs_leave_the_same_bytes_and_no_trace_of_this_machine(project):
    report(project)
    first = report_files()
    report(project)
    assert report_files() == first
    assert str(Path.cwd()).encode() not in b"".join(first.values())
    assert {"report.md", "report.html", "views.png", "neighbors.png", "map.png"} <= set(first)


def test_the_page_tells_what_happened_to_the_images(project):
    report(project)
    text = Path("outputs/report/report.md").read_text()
    rows = {
        line.split("|")[1].strip(): line.split("|")[2].strip() for line in text.splitlines() if line.startswith("|")
    }
    assert rows["found"] == "121" and rows["unreadable, in quarantine"] == "1"
    labelled = project.fetch.labels == "folders"
    assert ("Skipped: the training images have no labels" in text) != labelled
    assert ("baselines.png" in text) == labelled


def test_a_failure_leaves_the_former_report_whole_and_nothing_beside_it(project, monkeypatch):
    report(project)
    former = report_files()

    def fails(*_):
        raise MocoError("the disk is full")

    monkeypatch.setattr("moco.report.write.render_html", fails)
    with pytest.raises(MocoError):
        report(project)
    assert report_files() == former
    assert not Path("outputs/report.part").exists()
