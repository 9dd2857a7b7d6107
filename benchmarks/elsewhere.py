"""Measure how fast images come from tars that are elsewhere, by the distance of the server.

    python -m benchmarks.elsewhere

A web server of this machine answers each request after a pause. One process reads the encoded
images of steps of 256, in the exact order without and with a cache, and in lanes; nothing is
decoded.
"""

import argparse
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from moco.config import Fetch, Shard
from moco.cores import cores
from moco.images.exact_reads import ExactReads, cache_for
from moco.images.index import ShardSet, open_split
from moco.images.plan import EpochPlan
from moco.images.stream import TarStreams
from moco.images.stream_plan import StreamPlan
from moco.images.tar_cache import ends
from moco.shards.write import write_shards
from moco.sources.source import Arrays
from moco.sources.take_in import take_in
from pipelines.stage import errors_in_one_line

IMAGES, SIDE, BATCH, SHARDS = 20_000, 64, 256, 20
PAUSES = (0.0, 0.02, 0.05)  # seconds


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, folder: Path, pause: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.pause = folder, pause


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        """Answer with a part of a file, after the pause."""
        time.sleep(self.server.pause)
        first, last = map(int, str(self.headers["Range"]).removeprefix("bytes=").split("-"))
        with (self.server.folder / self.path.lstrip("/")).open("rb") as file:
            file.seek(first)
            data = file.read(last + 1 - first)
        head = f"HTTP/1.1 206 Partial Content\r\nContent-Length: {len(data)}\r\n\r\n"
        self.wfile.write(head.encode() + data)


@contextmanager
def _serving(folder: Path, pause: float) -> Iterator[str]:
    server = _Server(folder, pause)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _tars(base: Path) -> Path:
    """Shards of noisy images of 4 kB."""
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, SIDE, SIDE), dtype=np.uint8)
    fetch = Fetch(source="folder", path="x", labels="none", val_fraction=0, test_fraction=0, split_seed=0)
    shard = Shard(
        samples_per_shard=IMAGES // SHARDS,
        merge_below=None,
        megabytes_per_shard=1000,
        max_side=None,
        jpeg_quality=90,
        max_bad_fraction=0,
    )
    take_in(Arrays(lambda: [(pixels, None, "train")], []), fetch, base / "raw")
    write_shards(base / "raw", base / "shards", base / "runs", shard, cores())
    return base / "shards"


def _rate(read: ExactReads | TarStreams, steps: int) -> float:
    """Images a second, after two steps that open connections."""
    for step in range(2):
        read.read(step, 0, BATCH)
    began = time.perf_counter()
    for step in range(2, 2 + steps):
        read.read(step, 0, BATCH)
    return steps * BATCH / (time.perf_counter() - began)


def _cached(images: ShardSet, base: Path, url: str, share: float, plan: EpochPlan) -> ExactReads:
    limit = sum(ends(images)[: round(share * SHARDS)])
    shutil.rmtree(base / "runs/tars", ignore_errors=True)
    cache = cache_for(images, base / "runs", limit / 1e9)
    assert cache is not None
    reads = ExactReads(images, plan, url, cache)
    reads.read(0, 0, BATCH)
    while len(list(cache.folder.glob("train-??????.tar"))) < round(share * SHARDS):
        time.sleep(0.1)
    time.sleep(0.5)  # the last is opened
    return reads


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps",
        type=int,
        default=8,
        help="timed steps of 256 images that are asked for one by one; the others take an epoch (default: 8)",
    )
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory(prefix="moco-") as name:
        base = Path(name)
        tars = _tars(base)
        images = open_split(tars, "train")
        bounds = np.searchsorted(images.entries["shard"], np.arange(SHARDS + 1))
        plan, lanes = EpochPlan(IMAGES, BATCH, 0), StreamPlan(IMAGES, BATCH, 0, 16, 256, bounds)
        print("| a request takes | exact order | half of it cached | all of it cached | 16 lanes |")
        print("|---|---|---|---|---|")
        for pause in PAUSES:
            with _serving(tars, pause) as url:
                rates = [_rate(ExactReads(images, plan, url), steps)]
                rates.append(_rate(_cached(images, base, url, 0.5, plan), steps))
                rates.append(_rate(_cached(images, base, url, 1.0, plan), plan.steps_per_epoch - 2))
                rates.append(_rate(TarStreams(images, lanes, url), plan.steps_per_epoch - 2))  # windows are read ahead
            print(
                f"| {1000 * pause:.0f} ms | " + " | ".join(f"{rate:,.0f} images/s" for rate in rates) + " |", flush=True
            )


if __name__ == "__main__":
    with errors_in_one_line():
        main()
