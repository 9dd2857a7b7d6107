"""Sharding beside `cp` and webdataset's writer, and its memory as the images grow tenfold.

`python -m benchmarks.sharding [--quick] [--folder DIR]`. Files are read from the page cache on all
sides and written to the same file system. Every file that is sharded is also hashed twice and
decoded once, which the others do not do; the writer alone hashes once. A busy disk slows `cp` much
more than sharding: a folder in memory (/dev/shm) compares the work alone, so that is where it is
done if there is one.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Literal

import cv2

from benchmarks.measure import Row, found, interleaved, machine, parser_of, save, timed
from benchmarks.photographs import photographs
from moco.config import Fetch, Shard
from moco.cores import cores
from moco.images.index import sample_key
from moco.shards import tars
from moco.shards.write import write_shards
from moco.sources.open import open_source
from moco.sources.source import Files
from moco.sources.take_in import take_in

SHARD = Shard(
    samples_per_shard=5000,
    merge_below=None,
    megabytes_per_shard=64,
    max_side=None,
    jpeg_quality=92,
    max_bad_fraction=0.0,
)
MEMORY = Path("/dev/shm")
TABLE = "Files a second"


def settings(source: Literal["folder", "list", "fashion-mnist"], path: Path) -> Fetch:
    """Make a split as params.yaml makes it."""
    return Fetch(source=source, path=str(path), labels="none", val_fraction=0.1, test_fraction=0.1, split_seed=0)


def small_images(folder: Path, count: int) -> None:
    """Write the first `count` training images of Fashion-MNIST as PNG files, 1,000 a folder."""
    source = open_source(settings("fashion-mnist", folder))
    assert not isinstance(source, Files)
    images = source.parts[0][0]
    for i in range(count):
        place = folder / f"{i // 1000:03d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:06d}.png").write_bytes(cv2.imencode(".png", images[i])[1].tobytes())


def many_photographs(folder: Path, count: int) -> None:
    """Write `count` photographs, no two of the same bytes: 256 pictures with numbered comments."""
    folder.mkdir(parents=True)
    pictures = [file.read_bytes() for file in sorted(photographs(256)[0].rglob("*.jpg"))]
    for i in range(count):
        data = pictures[i % len(pictures)]
        comment = b"\xff\xfe\x00\x0a%08d" % i
        (folder / f"{i:06d}.jpg").write_bytes(data[:2] + comment + data[2:])


def fetched(images: Path, raw: Path, kind: Literal["folder", "list"] = "folder") -> int:
    """Write the manifest of a folder or list; return the bytes of its images."""
    source = open_source(settings(kind, images))
    return take_in(source, settings(kind, images), raw).bytes


def with_webdataset(files: list[Path], target: Path) -> int:
    """Write the files as webdataset's own writer does."""
    import webdataset as wds

    target.mkdir()
    with wds.ShardWriter(f"{target}/%06d.tar", maxcount=5000, maxsize=64e6, verbose=0) as writer:
        for number, file in enumerate(files):
            about = {"label": -1, "class": None, "path": file.name}
            writer.write({"__key__": sample_key(number), file.suffix[1:]: file.read_bytes(), "json": about})
    return len(files)


def writer_alone(files: list[Path], target: Path) -> int:
    """Write the files as our sharding does, without its checks, in one process."""
    target.mkdir()
    with (target / "000000.tar").open("wb", buffering=0) as out:
        tar = tars._Tar(out)
        for number, file in enumerate(files):
            key = sample_key(number)
            tar.add(f"{key}{file.suffix}", file.read_bytes())
            tar.add(f"{key}.json", json.dumps({"label": -1, "class": None, "path": file.name}).encode())
        tar.finish()
    return len(files)


def copied(images: Path, target: Path, count: int) -> int:
    """Copy the files."""
    subprocess.run(["cp", "-r", images, target], check=True)
    return count


def whole_stage(raw: Path, target: Path, scratch: Path, processes: int, count: int) -> int:
    """Shard the files as the stage does."""
    with redirect_stdout(io.StringIO()):
        write_shards(raw, target, scratch / "runs", SHARD, processes)
    return count


def beside_others(name: str, images: Path, scratch: Path, rounds: int, processes: int, goals: bool) -> list[Row]:
    """Our stage and our writer beside cp and webdataset's writer."""
    raw, target = scratch / f"{images.name}-raw", scratch / "written"
    with redirect_stdout(io.StringIO()):
        fetched(images, raw)
    files = sorted(file for file in images.rglob("*") if file.is_file())
    works: dict[str, Callable[[], int]] = {
        "cp -r": partial(copied, images, target, len(files)),
        "writer": partial(writer_alone, files, target),
        "stage": partial(whole_stage, raw, target, scratch, processes, len(files)),
    }
    if found("webdataset"):
        works["wds.ShardWriter"] = partial(with_webdataset, files, target)

    def side(work: Callable[[], int]) -> tuple[int, float, float]:
        shutil.rmtree(target, ignore_errors=True)
        os.sync()
        return timed(work)

    costs = interleaved({what: partial(side, work) for what, work in works.items()}, rounds)
    rows = []
    for mine, words in (
        ("writer", "the writer alone, one process"),
        ("stage", f"the whole stage, {processes} processes"),
    ):
        for other, goal in (("wds.ShardWriter", 2.0), ("cp -r", 0.7)):
            if other not in costs:
                rows.append(
                    Row(TABLE, f"{name}: {words}", "files/s", peer_name=other, not_run="webdataset is not installed")
                )
                continue
            own, peer = costs[mine], costs[other]
            rows.append(
                Row(
                    TABLE,
                    f"{name}: {words}",
                    "files/s",
                    1 / own.wall,
                    other,
                    1 / peer.wall,
                    None if mine == "stage" else 1 / own.cpu,
                    1 / peer.cpu,  # the stage's processes are no children of this one
                    at_least=goal if goals and mine == "writer" else None,
                    limit=1 / costs["cp -r"].wall,
                    limit_name="cp",
                )
            )
    return rows


def same_members(images: Path, scratch: Path) -> str:
    """Check that our tar and webdataset's hold the same files.

    Raises:
        AssertionError: they do not.
    """
    files = sorted(file for file in images.rglob("*") if file.is_file())[:500]
    writers = [writer_alone] + ([with_webdataset] if found("webdataset") else [])
    contents = []
    for number, write in enumerate(writers):
        target = scratch / f"compared-{number}"
        write(files, target)
        members: dict[str, bytes] = {}
        for path in sorted(target.glob("*.tar")):
            with tarfile.open(path) as tar:
                members |= {item.name: tar.extractfile(item).read() for item in tar if item.isfile()}  # type: ignore[union-attr]
        contents.append({name: json.loads(data) if name.endswith(".json") else data for name, data in members.items()})
    assert all(content == contents[0] for content in contents), "the tars hold other files"
    return f"the tars of {len(files)} files hold the same members, byte for byte, json by its values"


MEASURED = """
import json, sys
from pathlib import Path
import psutil
from moco.config import Shard
from moco.shards import write
peaks = [0, 0, 0]
check = write._Tally.check
def watching(tally):
    own = psutil.Process()
    workers = [child.memory_full_info() for child in own.children(recursive=True)]
    now = own.memory_info().rss, max(item.rss for item in workers), sum(item.uss for item in workers)
    peaks[:] = map(max, peaks, now)
    check(tally)
write._Tally.check = watching
raw, target, runs, settings, processes = sys.argv[1:]
write.write_shards(Path(raw), Path(target), Path(runs), Shard.model_validate_json(settings), int(processes))
print(json.dumps(peaks))
"""


def memory(images: Path, scratch: Path, times: int, processes: int) -> list[int]:
    """Measure peak bytes: the parent, the largest worker, and all workers without shared pages.

    The images are listed `times` times over.
    """
    raw, listing = scratch / f"{times}-fold", scratch / f"{times}-fold.csv"
    files = [str(file.relative_to(scratch)) for file in sorted(images.rglob("*.png"))]
    listing.write_text("path\n" + "\n".join(files * times) + "\n")
    fetched(listing, raw, "list")
    arguments = [str(raw), str(scratch / "shards"), str(scratch / "runs"), SHARD.model_dump_json(), str(processes)]
    done = subprocess.run([sys.executable, "-c", MEASURED, *arguments], check=True, capture_output=True, text=True)
    shutil.rmtree(scratch / "shards")
    return [int(value) for value in json.loads(done.stdout.splitlines()[-1])]


def main() -> None:
    """Make the images, measure, save."""
    parser = parser_of(__doc__)
    parser.add_argument("--folder", type=Path, help="where to make and write the images (default: /dev/shm, else here)")
    arguments = parser.parse_args()
    quick, begun = arguments.quick, machine()
    share, rounds = (10, 3) if quick else (1, 5)
    processes = cores()
    folder = arguments.folder or (MEMORY if MEMORY.is_dir() else Path())
    with tempfile.TemporaryDirectory(dir=folder, prefix=".sharding-") as name:
        scratch = Path(name)
        small_images(scratch / "small", 60_000 // share)
        many_photographs(scratch / "photographs", 1_000 if quick else 2_000)
        proofs = [same_members(scratch / "photographs", scratch)]
        rows = beside_others("28 x 28 PNG", scratch / "small", scratch, rounds, processes, False)
        rows += beside_others("photographs", scratch / "photographs", scratch, rounds, processes, True)
        before, after = (memory(scratch / "small", scratch, times, processes) for times in (1, 10))
    table = f"Peak memory of the stage, {600_000 // share:,} images beside {60_000 // share:,}"
    goal = None if quick else 0.9  # fewer images than two shards keep one worker busy
    for what, one, ten in zip(("parent", "largest worker", "all workers, unshared"), before, after, strict=True):
        rows.append(Row(table, what, "MB", ten / 1e6, "a tenth of the images", one / 1e6, at_least=goal))
    save("sharding", rows, proofs, begun, quick)


if __name__ == "__main__":
    main()
