"""The project itself on a few images: `dvc repro` in one clone, the flow in another."""

import os
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from dvc.utils.serialize import modify_yaml
from small_material import copy_project
from small_pipeline import Pipeline

TINY = {
    "fetch": {"source": "folder"},
    "pretrain": {
        "image_size": 16,
        "dictionary": {
            "kind": "momentum-queue",
            "num_keys": 64,
            "momentum": 0.99,
            "momentum_schedule": "constant",
            "symmetric": False,
        },
        "global_batch": 16,
        "bn_group_size": 8,
        "epochs": 1,
        "knn_every_epochs": 1,
        "log_every_steps": 2,
    },
    "linear": {"epochs": 2, "learning_rates": [0.1, 1.0]},
    "report": {"map_images": 16, "queries": 2, "neighbors": 2, "views": 2},
}


def clone(folder: Path, env: dict[str, str]) -> Pipeline:
    """The project's files as they are in a git repository, with a few images in data/inbox."""
    copy_project(folder)
    random = np.random.default_rng(0)
    for label in ("cats", "dogs"):
        (folder / "data/inbox" / label).mkdir(parents=True)
        for number in range(60):
            pixels = random.integers(0, 255, (20, 20, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / "data/inbox" / label / f"{number}.png"), pixels)
    with modify_yaml(str(folder / "params.yaml")) as params:
        for section, values in TINY.items():
            params[section].update(values)
    pipeline = Pipeline(folder, env | {"PWD": str(folder)})
    pipeline.git("init", "--quiet")
    pipeline.commit()
    return pipeline


@pytest.mark.slow
def test_both_drivers_leave_the_same_lock_and_then_have_nothing_to_do(
    tmp_path: Path, server_env: dict[str, str]
) -> None:
    env = {name: value for name, value in server_env.items() if name != "PYTHONDONTWRITEBYTECODE"}
    by_dvc = clone(tmp_path / "dvc/project", env)
    by_dvc.run(sys.executable, "-m", "dvc", "repro", timeout=600)
    by_flow = clone(tmp_path / "flow/pro\nject %41?#é'\"; x", env)  # any name that a file system allows
    by_flow.run(sys.executable, "-m", "flows.pretrain_and_evaluate", timeout=600)
    locks = [yaml.safe_load((one.folder / "dvc.lock").read_text()) for one in (by_dvc, by_flow)]
    assert list(locks[0]["stages"]) == ["fetch", "shard", "check", "pretrain", "linear", "report"]
    assert locks[0] == locks[1]
    for one in (by_dvc, by_flow):
        said = one.dvc("repro")
        assert re.findall(r"Running stage '(\w+)'", said) == ["fetch"] and "nothing new" in said
    assert os.path.lexists(by_flow.folder / "outputs/report/report.html")
    assert not (by_flow.folder / "mlflow.db").exists()  # MOCO_TRACKING=off
