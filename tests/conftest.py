"""Small real material for all tests: a project folder whose shards were made by the stages themselves."""

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

os.environ.setdefault("MOCO_TRACKING", "off")  # tests of tracking turn it on for themselves
os.environ.setdefault("DO_NOT_TRACK", "1")

ROOT = Path(__file__).parents[1]

SMALL_PRETRAIN = {
    "pretrain.image_size": 16,
    "pretrain.queue_size": 100,
    "pretrain.dim": 16,
    "pretrain.global_batch": 24,
    "pretrain.bn_group_size": 8,
    "pretrain.epochs": 4,
    "pretrain.log_every_steps": 1,
    "pretrain.knn_every_epochs": 2,
    "pretrain.precision": "fp32",
    "linear.epochs": 5,
    "linear.learning_rates": [0.1, 1.0],
    "report.map_images": 40,
    "report.queries": 2,
    "report.views": 2,
}


def write_images(folder: Path, classes: int = 3, each: int = 120) -> None:
    """Colour images of varying size: each class has stripes of its own direction and colour."""
    generator = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(each):
            height, width = generator.integers(16, 40, 2)
            y, x = np.mgrid[:height, :width]
            wave = np.sin((x * np.cos(label) + y * np.sin(label)) * 0.7 + generator.uniform(0, 6))
            colour = np.eye(3)[label] * 120 + generator.uniform(40, 90, 3)
            noise = generator.normal(0, 20, (height, width, 3))
            pixels = np.clip(colour * (0.7 + 0.4 * wave[:, :, None]) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{number}.{('png', 'jpg')[number % 2]}")


def write_params(folder: Path, overrides: dict[str, object]) -> None:
    """The project's own params.yaml with some values changed."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key, value in overrides.items():
        section, name = key.split(".")
        values[section][name] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


@pytest.fixture(scope="session")
def small_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with params.yaml, data/raw and data/shards of 360 labelled images; not to be written to."""
    from moco.config import load_params
    from pipelines.fetch import fetch
    from pipelines.shard import shard

    folder = tmp_path_factory.mktemp("project")
    write_images(folder / "data/inbox")
    split = {"fetch.source": "folder", "fetch.val_fraction": 0.15, "fetch.test_fraction": 0.15}
    write_params(folder, split | SMALL_PRETRAIN)
    with contextlib.chdir(folder):
        params = load_params()
        fetch(params)
        shard(params)
    return folder


@pytest.fixture
def project(small_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a copy of the small project that a test may write to; the shards are shared."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/shards").symlink_to(small_project / "data/shards")
    (tmp_path / "params.yaml").write_bytes((small_project / "params.yaml").read_bytes())
    (tmp_path / "machine.yaml").write_text("processes: 1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path
