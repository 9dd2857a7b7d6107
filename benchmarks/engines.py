"""Sharding by 1, 2 and 4 workers of an engine, beside the processes of this host.

    python -m benchmarks.engines --images 4000
    python -m benchmarks.engines --slurm partition=ci --folder /disk/that/nodes/share

Dask's workers are processes of this host, so more of them than cores gain nothing here. Seconds are
those of `write_shards`, with the plan and the index, and for Slurm with its queue; each result is
compared with that of one process, byte for byte.
"""

import argparse
import contextlib
import hashlib
import io
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from moco.cluster.engines import Dask
from moco.cluster.pieces import Engine
from moco.cluster.slurm_array import SlurmArray
from moco.config import Fetch, Shard
from moco.cores import cores
from moco.shards.write import write_shards
from moco.sources.open import open_source
from moco.sources.take_in import take_in

WORKERS = (1, 2, 4)
SETTINGS = Shard(
    samples_per_shard=50, megabytes_per_shard=256, max_side=256, jpeg_quality=92, max_bad_fraction=0.0, merge_below=None
)


def prepare(folder: Path, images: int) -> None:
    """Write JPEG files of 500 x 375 pixels that differ behind their end, and their manifest."""
    coarse = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(data, "JPEG", quality=90)
    for number in range(images):
        place = folder / "images" / f"{number // 1000:06d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.jpg").write_bytes(data.getvalue() + b"%010d" % number)
    settings = Fetch(
        source="folder", path=str(folder / "images"), labels="none", val_fraction=0, test_fraction=0, split_seed=0
    )
    take_in(open_source(settings), settings, folder / "raw")


@contextmanager
def dask(workers: int) -> Iterator[Engine]:
    """Start a cluster of processes, without the time that this takes."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        yield Dask(kind="dask", scheduler=cluster.scheduler_address)


def measure(folder: Path, engine: Engine | None, processes: int) -> tuple[float, str]:
    """Give seconds, and a hash of the result."""
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        write_shards(folder / "raw", folder / "shards", folder / "runs", SETTINGS, processes, engine)
    seconds, digest = time.perf_counter() - started, hashlib.sha256()
    for file in sorted((folder / "shards").iterdir()):
        digest.update(file.name.encode() + file.read_bytes())
    shutil.rmtree(folder / "shards")
    return seconds, digest.hexdigest()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="on a disk that all hosts share (default: a temporary one)")
    parser.add_argument("--slurm", nargs="*", metavar="OPTION=VALUE", help="job arrays, with these options of sbatch")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="moco-engines-", dir=options.folder))
    try:
        prepare(folder, options.images)
        print(f"{options.images} JPEGs of 500 x 375, stored at 256 pixels; this host has {cores()} cores\n")
        print("| engine | workers | s | images/s | to one process | same bytes |\n|---|---|---|---|---|---|")
        alone, wanted = measure(folder, None, 1)

        def show(name: str, workers: int, seconds: float, digest: str) -> None:
            same = "yes" if digest == wanted else "NO"
            rate = options.images / seconds
            print(f"| {name} | {workers} | {seconds:.1f} | {rate:.0f} | {alone / seconds:.2f} | {same} |", flush=True)

        show("processes", 1, alone, wanted)
        show("processes", 2, *measure(folder, None, 2))
        for workers in WORKERS:
            if options.slurm is None:
                with dask(workers) as engine:
                    show("dask", workers, *measure(folder, engine, 1))
            else:
                asked = dict(option.split("=", 1) for option in options.slurm)
                array = SlurmArray(kind="slurm", tasks=workers, minutes=60, options=asked)
                show("slurm", workers, *measure(folder, array, 1))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
