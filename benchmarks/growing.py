"""What a set costs each night: fetch, fetch again, a hundred more images, and what is up to date.

    python -m benchmarks.growing --images 10000 --folder /disk/with/room

Each step is a command of its own in a fresh project under git and DVC; memory is that of its
largest process. The images are PNG files of under a kilobyte, 1,000 a folder.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
MORE = 100
SETTINGS = {"fetch": {"source": "folder", "labels": "none"}, "shard": {"samples_per_shard": 10_000}}


def write_files(folder: Path, first: int, count: int) -> None:
    """Write PNG files that differ: one small picture, and a number behind its end."""
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)).save(data, "PNG")
    for i in range(first, first + count):
        place = folder / f"{i // 1000:05d}"
        if i % 1000 == 0 or i == first:
            place.mkdir(parents=True, exist_ok=True)
        (place / f"{i}.png").write_bytes(data.getvalue() + b"%010d" % i)


def project(folder: Path, images: Path) -> None:
    """Make a project whose images are those of a folder."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for name in filter(None, names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    for section, values in SETTINGS.items():
        params[section].update(values)
    params["fetch"]["path"] = str(images)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (folder / "dvc.lock").unlink()
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)


def step(name: str, folder: Path, *command: str) -> None:
    """Run a command; print its seconds, those of its processes, and the memory of the largest."""
    env = {**os.environ, "MOCO_TRACKING": "off", "PYTHONPATH": str(folder), "PWD": str(folder)}
    start = time.monotonic()
    with tempfile.TemporaryFile() as said:
        running = subprocess.Popen([sys.executable, "-m", *command], cwd=folder, env=env, stdout=said, stderr=said)
        _, status, used = os.wait4(running.pid, 0)
        seconds = time.monotonic() - start
        if os.waitstatus_to_exitcode(status):
            said.seek(0)
            sys.exit(f"{name}: {said.read().decode()}")
    cpu = used.ru_utime + used.ru_stime
    size = sum(path.stat().st_size for path in (folder / ".dvc/cache").rglob("*") if path.is_file())
    print(
        f"| {name} | {seconds:.1f} s | {cpu:.1f} s | {used.ru_maxrss / 1000:.0f} MB | {size / 1e6:.2f} MB |", flush=True
    )


def main() -> None:
    """Make the images, and run the steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where the images and the project are made, and kept")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        base = given.folder or Path(scratch)
        base.mkdir(parents=True, exist_ok=True)
        images, more, folder = base / "images", base / "more", base / "project"
        if not images.exists():
            write_files(base / "images.part", 0, given.images)
            (base / "images.part").rename(images)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(more, ignore_errors=True)
        write_files(more, given.images, MORE)
        project(folder, images)
        time.sleep(3)  # a file that has just been written is read again
        print(
            f"{given.images:,} files\n\n| step | wall | CPU | largest process | cache after |\n|---|---:|---:|---:|---:|"
        )
        step("fetch", folder, "dvc", "repro", "-s", "fetch")
        step("fetch again, nothing new", folder, "dvc", "repro", "-s", "fetch")
        step("shard", folder, "dvc", "repro", "-s", "shard")
        step("ingest 100 more", folder, "pipelines.ingest", str(more))
        step("`dvc repro shard`, up to date", folder, "dvc", "repro", "shard")
        size = sum(path.stat().st_size for path in more.rglob("*.png"))
        print(f"\nthe {MORE} new files have {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
