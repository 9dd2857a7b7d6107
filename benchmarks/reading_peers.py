"""Other people's formats of samples, each written and read by index as its documentation has it."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import found
from moco.images.index import ShardSet

Read = Callable[[int], bytes]
"""Reads the encoded bytes of a sample by its number."""
SHUFFLED = "litdata, in epochs that it shuffles"
NOTES = {
    "litdata": "by index from its chunks, which it keeps mapped",
    SHUFFLED: "starts threads in every epoch",
    "mosaicml-streaming": "by index from MDS shards",
}


def by_index(images: ShardSet, folder: Path) -> tuple[dict[str, Read], dict[str, str]]:
    """Give the readers of the peers that are installed, and say why others are missing.

    What mosaicml-streaming shuffles by itself is slower by an order of magnitude: it is left out.

    Args:
        images: the samples; each peer's copy of them is written unless it is there.
        folder: where the copies are kept.
    """
    sides, missing = {}, {}
    for name, module, write, read in (
        ("litdata", "litdata", _write_litdata, _litdata),
        ("mosaicml-streaming", "streaming", _write_mds, _mds),
    ):
        if not found(module):
            missing[name] = "not installed; `make bench` does where it can"
            continue
        written = _written(folder, module, images)
        if not written.exists():
            part = written.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)  # of a run that was stopped
            write(images, part)
            part.rename(written)
        sides[name] = read(written)
    return sides, missing


def shuffled(images: ShardSet, folder: Path) -> Iterator[bytes]:
    """Read the samples of litdata's copy, without end, in its own random order."""
    import litdata

    samples = litdata.StreamingDataset(str(_written(folder, "litdata", images)), shuffle=True)
    while True:
        for sample in samples:
            yield sample["image"]


def _written(folder: Path, module: str, images: ShardSet) -> Path:
    return folder / f"{module}-{len(images)}"


def _sample(images: ShardSet, i: int) -> dict[str, Any]:
    return {"image": images.read(i)}


def _write_litdata(images: ShardSet, folder: Path) -> None:
    import litdata

    inputs = list(range(len(images)))
    litdata.optimize(partial(_sample, images), inputs, str(folder), num_workers=1, chunk_bytes="64MB")


def _litdata(folder: Path) -> Read:
    import litdata

    samples = litdata.StreamingDataset(str(folder))
    return lambda i: samples[i]["image"]


def _write_mds(images: ShardSet, folder: Path) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(folder), columns={"image": "bytes"}, size_limit="64mb") as shards:
        for i in range(len(images)):
            shards.write(_sample(images, i))


def _mds(folder: Path) -> Read:
    from streaming import StreamingDataset

    samples = StreamingDataset(local=str(folder), batch_size=1)
    return lambda i: samples[i]["image"]
