"""Material for tests: images of three kinds, and the project's parameters made small."""

import shutil
import subprocess
import sys
from functools import reduce
from operator import getitem
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]

SMALL_PRETRAIN = {
    "pretrain.image_size": 16,
    "pretrain.dictionary.num_keys": 100,
    "pretrain.dictionary.start": "random",
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


def smooth_photo(height: int, width: int) -> np.ndarray:
    """Smooth color fields and an object with hard edges, uint8 height x width x 3."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    pixels = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))
    pixels[height // 4 : height // 2, width // 4 : width // 2] = (200, 40, 90)
    return pixels


def photographs() -> list[np.ndarray]:
    """Two real photographs of 427 x 640; smooth ones where scikit-learn is not installed."""
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        return [smooth_photo(427, 640), smooth_photo(427, 640)[::-1].copy()]
    return load_sample_images().images


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two images of 256 levels, dB."""
    error = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def whole_view(rows: int, columns: int, **values: object) -> np.ndarray:
    """Make one view: the whole image, unless `values` say something else."""
    from moco.images.operations import VIEW

    one = np.zeros(1, VIEW)
    one["order"], one["height"], one["width"] = -1, rows, columns
    for name, value in values.items():
        one[name] = value
    return one


def write_images(folder: Path, classes: int = 3, each: int = 120) -> None:
    """Color images of varying size: each class has stripes of its own direction and color."""
    generator = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(each):
            height, width = generator.integers(16, 40, 2)
            y, x = np.mgrid[:height, :width]
            wave = np.sin((x * np.cos(label) + y * np.sin(label)) * 0.7 + generator.uniform(0, 6))
            color = np.eye(3)[label] * 120 + generator.uniform(40, 90, 3)
            noise = generator.normal(0, 20, (height, width, 3))
            pixels = np.clip(color * (0.7 + 0.4 * wave[:, :, None]) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{number}.{('png', 'jpg')[number % 2]}")


def write_arrays(base: Path, parts: list, classes: list[str], samples_per_shard: int, val_fraction: float) -> Path:
    """Shards of images from arrays, in `base`/shards, and their manifest in `base`/raw."""
    from moco.config import Fetch, Shard
    from moco.shards.write import write_shards
    from moco.sources.source import Arrays
    from moco.sources.take_in import take_in

    fetch = Fetch(source="folder", path="x", labels="none", val_fraction=val_fraction, test_fraction=0, split_seed=0)
    limits = {"samples_per_shard": samples_per_shard, "megabytes_per_shard": 1, "max_side": None, "merge_below": None}
    take_in(Arrays(lambda: parts, classes), fetch, base / "raw")
    write_shards(base / "raw", base / "shards", base / "runs", Shard(**limits, jpeg_quality=90, max_bad_fraction=0), 1)
    return base / "shards"


def rows_of(raw: Path) -> list:
    """The images in the set of a manifest, in order."""
    from moco.sources.manifest import lines, read_manifest

    return [placed.row for placed in lines(raw, read_manifest(raw)) if not placed.removed]


def write_gray_numbers(base: Path) -> Path:
    """Shards of 40 gray images of their own number, the last ten unlabelled, seven in a shard."""
    images = np.repeat(np.arange(40, dtype=np.uint8), 64).reshape(40, 8, 8)
    parts = [(images[:30], np.arange(30) % 3, "train"), (images[30:], None, "train")]
    return write_arrays(base, parts, ["a", "b", "c"], 7, val_fraction=0.2)


def write_params(folder: Path, overrides: dict[str, object]) -> None:
    """The project's own params.yaml with some values changed."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key, value in overrides.items():
        *sections, name = key.split(".")
        reduce(getitem, sections, values)[name] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def copy_project(folder: Path) -> None:
    """The project's files as they are now, in another folder."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in names:
        if name and name != "dvc.lock" and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def run_with_little_shared_memory(script: Path, code: str) -> None:
    """Run Python code where /dev/shm holds 1 MB, less than the 64 of a container.

    Args:
        script: file for the code, whose directory is free for use.
        code: exits with 0.
    """
    script.write_text(code)
    shell = f"mount -t tmpfs -o size=1m tmpfs /dev/shm && exec {sys.executable} {script}"
    ended = subprocess.run(["unshare", "--mount", "sh", "-c", shell], capture_output=True, text=True, check=False)
    if "unshare" in ended.stderr or "mount:" in ended.stderr:
        pytest.skip("this user may not mount")
    assert ended.returncode == 0, ended.stderr
