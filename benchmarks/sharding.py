"""Sharding beside `cp` of the same files, and its memory as the images grow tenfold.

`python -m benchmarks.sharding [--quick] [--folder DIR]` prints both tables. Files are read from the page cache
on both sides and written to the same file system; rounds alternate, medians and the range are shown. Every
file that is sharded is also hashed twice and decoded once, which `cp` does not do. A busy disk slows `cp` much
more than sharding: a folder in memory (/dev/shm) compares the work alone.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from moco.config import Fetch, Shard
from moco.disk import readable
from moco.images.hashing import stream
from moco.images.shards import processors, write_shards
from moco.images.sources import Files, open_source
from moco.images.splits import write_manifest

SHARD = Shard(
    samples_per_shard=5000, megabytes_per_shard=64, max_side=None, jpeg_quality=92, max_bad_fraction=0.0
)


def settings(source: Literal["folder", "list", "fashion-mnist"], path: Path) -> Fetch:
    """A split as params.yaml makes it."""
    return Fetch(
        source=source, path=str(path), labels="none", val_fraction=0.1, test_fraction=0.1, split_seed=0
    )


def small_images(folder: Path, count: int) -> None:
    """The first `count` training images of Fashion-MNIST as PNG files, a thousand a folder."""
    source = open_source(settings("fashion-mnist", folder))
    assert not isinstance(source, Files)
    images = source.parts[0][0]
    for i in range(count):
        place = folder / f"{i // 1000:03d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:06d}.png").write_bytes(cv2.imencode(".png", images[i])[1].tobytes())


def photographs(folder: Path, count: int) -> None:
    """Smooth noise with grain, 500 x 375, stored as JPEGs of about 100 kB like those of ImageNet."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(count):
        coarse = random.integers(0, 256, (30, 40, 3)).astype(np.float32)
        image = cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC)
        image = np.clip(image + random.normal(0, 14, image.shape), 0, 255).astype(np.uint8)
        (folder / f"{i:06d}.jpg").write_bytes(
            cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
        )


def fetched(images: Path, raw: Path, kind: Literal["folder", "list"] = "folder") -> int:
    """The manifest of a folder or list; returns the bytes of its images."""
    source = open_source(settings(kind, images))
    raw.mkdir()
    return write_manifest(stream(source, raw), raw, settings(kind, images), source.root, None).bytes


def beside_cp(name: str, images: Path, scratch: Path, rounds: int, processes: int) -> str:
    """A line of the first table."""
    raw = scratch / f"{images.name}-raw"
    size = fetched(images, raw)
    count = sum(1 for file in images.rglob("*") if file.is_file())
    seconds: dict[str, list[float]] = {"cp": [], "shard": []}
    for _ in range(rounds):
        os.sync()
        start = time.perf_counter()
        subprocess.run(["cp", "-r", images, scratch / "copy"], check=True)
        seconds["cp"].append(time.perf_counter() - start)
        shutil.rmtree(scratch / "copy")
        os.sync()
        start = time.perf_counter()
        write_shards(raw, scratch / "shards", scratch / "runs", SHARD, processes)
        seconds["shard"].append(time.perf_counter() - start)
        shutil.rmtree(scratch / "shards")
    copy, shard = (statistics.median(seconds[what]) for what in ("cp", "shard"))
    rates = [
        f"{size / statistics.median(seconds[what]) / 1e6:.0f}"
        f" ({size / max(seconds[what]) / 1e6:.0f}–{size / min(seconds[what]) / 1e6:.0f})"
        for what in ("cp", "shard")
    ]
    return (
        f"| {count} {name} | {readable(size)} | {processes} | {' | '.join(rates)} |"
        f" {count / shard:.0f} | {copy / shard:.0%} |"
    )


MEASURED = """
import json, sys
from pathlib import Path
import psutil
from moco.config import Shard
from moco.images import shards
peaks = [0, 0, 0]
check = shards._Tally.check
def watching(tally):
    own = psutil.Process()
    workers = [child.memory_full_info() for child in own.children(recursive=True)]
    now = own.memory_info().rss, max(item.rss for item in workers), sum(item.uss for item in workers)
    peaks[:] = map(max, peaks, now)
    check(tally)
shards._Tally.check = watching
raw, target, runs, settings, processes = sys.argv[1:]
shards.write_shards(Path(raw), Path(target), Path(runs), Shard.model_validate_json(settings), int(processes))
print(json.dumps(peaks))
"""


def memory(images: Path, scratch: Path, times: int, processes: int) -> list[int]:
    """Peak resident bytes of the parent and of the largest worker; peak of what the workers hold unshared.

    The images are listed `times` times over.
    """
    raw, listing = scratch / f"{times}-fold", scratch / f"{times}-fold.csv"
    files = [str(file.relative_to(scratch)) for file in sorted(images.rglob("*.png"))]
    listing.write_text("path\n" + "\n".join(files * times) + "\n")
    fetched(listing, raw, "list")
    arguments = [
        str(raw),
        str(scratch / "shards"),
        str(scratch / "runs"),
        SHARD.model_dump_json(),
        str(processes),
    ]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments], check=True, capture_output=True, text=True
    )
    shutil.rmtree(scratch / "shards")
    return [int(value) for value in json.loads(done.stdout.splitlines()[-1])]


def main() -> None:
    """Make the images, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the images, one round")
    parser.add_argument("--folder", default=".", help="where to make and write the images (default: here)")
    arguments = parser.parse_args()
    quick = arguments.quick
    share, rounds = (10, 1) if quick else (1, 5)
    processes = processors()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix=".sharding-") as name:
        scratch = Path(name)
        small_images(scratch / "small", 60_000 // share)
        photographs(scratch / "photographs", 2_000 // share)
        lines = [
            beside_cp("small images (28 x 28 PNG)", scratch / "small", scratch, rounds, processes),
            beside_cp("photographs (500 x 375 JPEG)", scratch / "photographs", scratch, rounds, processes),
        ]
        before, after = (memory(scratch / "small", scratch, times, processes) for times in (1, 10))
    print(f"\n{processes} processors, medians of {rounds} alternating rounds\n")
    print("| images | size | processes | cp MB/s | shard MB/s | images/s | share of cp |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(lines))
    print(f"\n| peak memory | {60_000 // share} images | {600_000 // share} images | ratio |")
    print("|---|---|---|---|")
    for what, one, ten in zip(
        ("parent", "largest worker", "all workers, unshared"), before, after, strict=True
    ):
        print(f"| {what} | {readable(one)} | {readable(ten)} | {ten / one:.2f} |")


if __name__ == "__main__":
    main()
