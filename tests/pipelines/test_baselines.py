import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from moco.config import Params, load_params
from moco.encoders.frozen import EncoderSpec, save_encoder
from moco.encoders.kinds import network_of
from moco.encoders.resnet import ResNet
from pipelines import baselines, stage
from pipelines.linear import linear

HOLD = """
import sys, time
from pathlib import Path
from pipelines.baselines import features_in_use
with features_in_use(Path(sys.argv[1])):
    print("in use", flush=True)
    sys.stdin.read()
"""


def untrained(seed_of_training: str, stem: str = "small-stride2", image_size: int = 16) -> None:
    """An encoder's folder as stage pretrain leaves it."""
    network = ResNet("thin", stem)
    spec = EncoderSpec(
        network_of("thin", stem), image_size, 1.0, (0.5,) * 3, (0.5,) * 3, network.feature_dim, seed_of_training
    )
    save_encoder(stage.ENCODER, network, spec)


def run(params: Params) -> tuple[str, list[Path]]:
    linear(params)
    text = Path("outputs/linear/metrics.json").read_text() + Path("outputs/linear/sweep.csv").read_text()
    return text, sorted(Path("runs/baselines").iterdir())


def test_kept_baselines_are_equal_to_the_bit_to_computed_ones(project: Path) -> None:
    params = load_params()
    untrained("a")
    computed, kept = run(params)
    assert len(kept) == 2
    read, _ = run(params)
    assert read == computed
    mark = {path: path.stat().st_mtime_ns for path in kept}
    for path in kept:
        path.unlink()
    again, fresh = run(params)
    assert again == computed
    assert fresh == kept
    assert {path.stat().st_mtime_ns for path in fresh}.isdisjoint(mark.values())


def test_device_cpu_is_respected_where_there_are_gpus(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with Path("machine.yaml").open("a") as file:
        file.write("device: cpu\n")
    untrained("a")
    assert len(run(load_params())[1]) == 2


def test_another_training_of_the_same_network_has_the_same_baselines(project: Path) -> None:
    params = load_params()
    untrained("a")
    run(params)
    for path in Path("runs/baselines").iterdir():  # what is read is what is shown
        values = json.loads(path.read_text())
        path.write_text(json.dumps(values | {"linear_top1": 0.125}))
    untrained("b")
    run(params)
    scores = json.loads(Path("outputs/linear/metrics.json").read_text())
    assert scores["random"]["linear_top1"] == scores["pixels"]["linear_top1"] == 0.125
    assert scores["moco"]["linear_top1"] != 0.125


@pytest.mark.parametrize(("changed", "fresh"), [("settings", 2), ("network", 1), ("size", 2)])
def test_what_a_baseline_depends_on_makes_another_one(project: Path, changed: str, fresh: int) -> None:
    params = load_params()
    untrained("a")
    run(params)
    if changed == "settings":
        params = params.model_copy(update={"linear": params.linear.model_copy(update={"epochs": 2})})
    elif changed == "network":
        untrained("a", stem="small")
    else:
        untrained("a", image_size=20)
    assert len(run(params)[1]) == 2 + fresh


def test_a_damaged_baseline_is_made_again(project: Path) -> None:
    params = load_params()
    untrained("a")
    computed, kept = run(params)
    kept[0].write_text('{"val_top1": [')
    assert run(params)[0] == computed


def test_features_go_when_no_running_stage_has_used_them(tmp_path: Path) -> None:
    folder = tmp_path / "features"
    folder.mkdir()
    now = time.time()

    def touch(name: str, age: float) -> Path:
        (folder / name).write_bytes(b"")
        os.utime(folder / name, (now - age, now - age))
        return folder / name

    old = touch("old.npy", 100)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "in use\n"
        time.sleep(0.05)
        theirs = touch("theirs.npy", now - time.time())
        time.sleep(0.05)
        with baselines.features_in_use(folder):
            mine = touch("mine.npy", now - time.time())
        assert not old.exists()
        assert theirs.exists()
        assert mine.exists()
    finally:
        other.communicate("")
    with baselines.features_in_use(folder):
        pass
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("back", [0.0, 3600.0])
def test_a_clock_that_is_set_back_removes_no_features_of_this_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back: float
) -> None:
    mine = tmp_path / "mine.npy"
    with baselines.features_in_use(tmp_path):
        later = SimpleNamespace(time=lambda: time.time() - back, monotonic=time.monotonic)
        monkeypatch.setattr(baselines, "time", later)
        mine.write_bytes(b"")
        used = time.time() - max(back, 1.0)
        os.utime(mine, (used, used))
    assert mine.exists() is (back > 0)


def test_a_stage_that_was_killed_does_not_keep_features_for_ever(tmp_path: Path) -> None:
    folder = tmp_path / "features"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    other.stdout.readline()
    (folder / "theirs.npy").write_bytes(b"")
    other.kill()
    other.wait()
    other.communicate()
    time.sleep(0.05)
    with baselines.features_in_use(folder):
        pass
    assert list(folder.iterdir()) == []


def test_an_evaluation_comes_back_as_it_was(project: Path) -> None:
    from moco.evaluation.linear import Evaluation

    made = Evaluation([0.1, 1 / 3], 0.3, 1 / 7, 0.9, 0.5, np.array([1, 2, 0], dtype=np.int64))
    settings = load_params().linear
    baselines.kept("x", settings, "data", lambda: made)
    read = baselines.kept("x", settings, "data", lambda: replace(made, linear_top1=0.0))
    assert (read.val_top1, read.linear_top1, read.predicted.tolist()) == (made.val_top1, made.linear_top1, [1, 2, 0])
    assert read.predicted.dtype == np.int64
