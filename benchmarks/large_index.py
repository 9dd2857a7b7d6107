"""An index of a billion images: seconds and memory to open it, to draw an epoch, to find an image.

    python -m benchmarks.large_index --images 1000000000 --folder /disk/with/room

The entries are simulated, 28 bytes an image, with no tars beside them; the index is removed at the
end. Each measurement is a process of its own, first with the file out of the memory of the system
where that can be asked for.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from moco import npy
from moco.config import SPLITS
from moco.files import file_sha256, readable, require_free
from moco.images.index import CHECKED_AT_ONCE, ENTRY, FORMAT, hash_of_set, open_split, read_index
from moco.images.plan import EpochPlan
from moco.permutation import mix

AT_ONCE = 10_000_000
BATCH = 4096


def write(folder: Path, images: int, in_a_shard: int, parts: int) -> None:
    """Write an index of simulated entries."""
    require_free(folder, images * ENTRY.itemsize, "the index")
    shards: list[dict[str, Any]] = [
        {
            "file": f"train-{n:06d}.tar",
            "samples": min(in_a_shard, images - first),
            "bytes": 10**9,
            "sha256": f"{n:064x}",
        }
        | {"made_of": f"{n:064x}"}
        for n, first in enumerate(range(0, images, in_a_shard))
    ]
    each = -(-len(shards) // parts)
    stated = []
    for first in range(0, len(shards), each):
        mine = shards[first : first + each]
        samples = sum(shard["samples"] for shard in mine)
        file = folder / f"train{f'-{first:06d}' if first else ''}.index.npy"
        with file.open("wb") as out:
            npy.begin(out, ENTRY, (samples,))
            for start in range(0, samples, AT_ONCE):
                numbers = np.arange(first * in_a_shard + start, first * in_a_shard + min(start + AT_ONCE, samples))
                entries = np.empty(len(numbers), ENTRY)
                entries["offset"], entries["key"] = numbers % in_a_shard * 100_000, mix(numbers.astype(np.uint64))
                entries["size"], entries["shard"], entries["label"] = 98_000, numbers // in_a_shard, -1
                out.write(entries.tobytes())
        checked = file_sha256(file) if file.stat().st_size <= CHECKED_AT_ONCE else "0" * 64
        stated.append({"file": file.name, "samples": samples, "shards": len(mine), "sha256": checked})
    empty = {
        "samples": 0,
        "parts": [{"file": "val.index.npy", "samples": 0, "shards": 0, "sha256": "0" * 64}],
        "shards": [],
    }
    splits: dict[str, Any] = {
        "train": {"samples": images, "parts": stated, "shards": shards},
        "val": empty,
        "test": empty,
    }
    hashes = {split: [shard["sha256"] for shard in splits[split]["shards"]] for split in SPLITS}
    index = {"format": FORMAT, "data_hash": hash_of_set([], hashes), "classes": [], "quarantined": 0, "splits": splits}
    (folder / "index.json").write_text(json.dumps(index, indent=1))


def opened(folder: Path) -> Any:
    """Open the training split and look at the last image."""
    split = open_split(folder, "train")
    return split, split.entries[-1]


def steps(folder: Path) -> Callable[[], Any]:
    """Draw the batches of 1,000 steps in the middle of an epoch."""
    plan = EpochPlan(len(opened(folder)[0]), BATCH, seed=0)
    plan.batch(0)
    first = plan.steps_per_epoch * 3 // 2
    return lambda: [plan.batch(step) for step in range(first, first + 1000)]


def places(folder: Path) -> Callable[[], Any]:
    """Find the tar, offset and size of the images of a step, in the plan's order."""
    split = opened(folder)[0]
    numbers = EpochPlan(len(split), BATCH, seed=0).batch(1)
    return lambda: [(split.entries["shard"].item(i), split.entries["offset"].item(i)) for i in numbers.tolist()]


def labels(folder: Path) -> Callable[[], Any]:
    """Read every label, as evaluation and training on some images do."""
    split = opened(folder)[0]
    return lambda: split.labels


MEASURED: dict[str, Callable[[Path], Callable[[], Any]]] = {
    "read index.json": lambda folder: lambda: read_index(folder),
    "open the split": lambda folder: lambda: opened(folder),
    f"order of 1,000 steps of {BATCH}": steps,
    f"places of {BATCH} images": places,
    "labels of all images": labels,
}


def _measure(name: str, folder: Path) -> None:
    work = MEASURED[name](folder)
    started, at_work = time.perf_counter(), time.process_time()
    work()
    seconds, busy = time.perf_counter() - started, time.process_time() - at_work
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps({"seconds": seconds, "busy": busy, "own": int(status["RssAnon"].split()[0])}))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--in-a-shard", type=int, default=10_000)
    parser.add_argument("--parts", type=int, default=1, help="files of the index")
    parser.add_argument("--folder", type=Path, help="where there is room (default: the system's temporary folder)")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return _measure(options.measure[0], Path(options.measure[1]))
    folder = Path(tempfile.mkdtemp(prefix="moco-index-", dir=options.folder))
    try:
        started = time.perf_counter()
        write(folder, options.images, options.in_a_shard, options.parts)
        size = sum(file.stat().st_size for file in folder.glob("*.npy"))
        print(f"{options.images} images in {-(-options.images // options.in_a_shard)} tars, {options.parts} part(s):")
        print(
            f"{readable(size)}, index.json {readable((folder / 'index.json').stat().st_size)},"
            f" written in {time.perf_counter() - started:.0f} s\n"
        )
        print("| what | file cold, s | again, s | processor, s | memory, MB |\n|---|---|---|---|---|")
        for name in MEASURED:
            for file in folder.iterdir():
                with file.open("rb") as opened_file:
                    os.fsync(opened_file.fileno())
                    os.posix_fadvise(opened_file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            command = [sys.executable, "-m", "benchmarks.large_index", "--measure", name, str(folder)]
            runs = [json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(2)]
            seconds = " | ".join(f"{run['seconds']:.3f}" for run in runs)
            busy, own = runs[-1]["busy"], max(run["own"] for run in runs) / 1000
            print(f"| {name} | {seconds} | {busy:.3f} | {own:.0f} |", flush=True)
    finally:
        shutil.rmtree(folder)
    return None


if __name__ == "__main__":
    main()
