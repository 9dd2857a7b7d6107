"""Damaged and hostile input for everything that reads a file: one clear error, in bounded time.

    python tests/fuzz.py                      each reader, 300 inputs, plain mutations by seed
    python tests/fuzz.py weights --inputs 20000 --seed 7
    python tests/fuzz.py decode --guided 600  guided by coverage (`pip install atheris`), seconds

A reader gives a result, or raises the error that is meant for people. Anything else, more than
SECONDS or more than MEMORY bytes is a crash: its input is kept in the folder `fuzz-crashes`.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import checkout_first  # noqa: F401

ROOT = Path(__file__).parents[1]
SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")
"""Memory is then cleared slowly, and a process that gets none ends."""
SECONDS, MEMORY = 60 if SANITIZED else 10, 3 * 10**9
CRASHES = Path("fuzz-crashes")
TOKENS = (
    *(b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80", b"NaN", b"1e999", b"-1", b"4294967295"),
    *(
        b"null",
        b"[]",
        b"{}",
        b'""',
        b"[[[[[[[[",
        b"&a [*a]",
        b"!!python/object:os.system",
        b"../../../x",
        b"\n",
        b"\r",
        b",",
    ),
    *(b"9" * 400, b"<!ENTITY x '&x;&x;'>", b"{{7*7}}", "é\u202e".encode()),
)
Reader = Callable[[bytes], object]


class TooSlowError(BaseException):
    """A reader took longer than it may; no reader takes it for damage of its input."""


def images() -> list[bytes]:
    """Make small images of many formats."""
    import numpy as np
    from PIL import Image

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    made = []
    for name, mode in (
        *(("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P")),
        *(("WEBP", "RGB"), ("TIFF", "RGB"), ("TIFF", "CMYK"), ("GIF", "P"), ("BMP", "RGB"), ("PPM", "RGB")),
    ):
        with io.BytesIO() as file:
            image.convert(mode).save(file, name)
            made.append(file.getvalue())
    return made


def decode(folder: Path) -> tuple[Reader, list[bytes]]:
    """Pixels of an image, in Python and in C++."""
    import numpy as np

    from moco.images import fused_views
    from moco.images.decode import decode as read

    def both(data: bytes) -> None:
        if fused_views.available() and data:
            fused_views.jpeg_size(data)
        assert read(data).dtype == np.uint8

    return both, images()


def views(folder: Path) -> tuple[Reader, list[bytes]]:
    """Views of an image, as training takes them; in C++ where that is built."""
    import numpy as np

    from moco.config import load_params
    from moco.images import fused_views
    from moco.images.batches import views_of
    from moco.images.views import draw

    drawn = draw(load_params(ROOT / "params.yaml").pretrain.views, 0, 0, np.arange(8), views=2)
    compiled = fused_views.available()
    count = 0

    def read(data: bytes) -> None:
        nonlocal count
        count += 1
        views_of(data, "key", drawn[count % 8], np.empty((2, 32, 32, 3), np.uint8), compiled)

    return read, images()


def settings(folder: Path) -> tuple[Reader, list[bytes]]:
    """params.yaml."""
    from moco.config import load_params

    path = folder / "params.yaml"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        load_params(path)

    return read, [(ROOT / "params.yaml").read_bytes()]


def machine(folder: Path) -> tuple[Reader, list[bytes]]:
    """machine.yaml."""
    from moco.cluster.machine import load_machine

    path = folder / "machine.yaml"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        load_machine(path)

    return read, [
        b"processes: 2\nlauncher: {kind: slurm, nodes: 2, minutes: 60, partition: gpu}\ndevice: auto\n",
        b"launcher: {kind: torchrun, nnodes: 1:4, rendezvous: 'host:29500'}\nshards_from: http://x/{shard}\n",
    ]


def index(folder: Path) -> tuple[Reader, list[bytes]]:
    """index.json and SPLIT.index.npy of a shard set."""
    from small_material import write_gray_numbers

    from moco.images.decode import decode as pixels
    from moco.images.index import open_split
    from moco.shards.index import verify

    (folder / "set").mkdir()
    made = write_gray_numbers(folder / "set")
    names = ("index.json", "train.index.npy")
    whole = {name: (made / name).read_bytes() for name in names}

    def read(data: bytes) -> None:
        name = names[data[:1] != b"{"]
        (made / name).write_bytes(data)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                verify(made)
            split = open_split(made, "train")
            for i in range(min(len(split), 3)):
                pixels(split.read(i))
        finally:
            (made / name).write_bytes(whole[name])

    return read, list(whole.values())


def tar(folder: Path) -> tuple[Reader, list[bytes]]:
    """A tar of anybody's, as `moco embed` reads it."""
    from small_material import write_gray_numbers

    from moco.evaluation.inputs import Skips, find_images

    (folder / "set").mkdir()
    made = write_gray_numbers(folder / "set")
    path = folder / "any.tar"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            for number, image in enumerate(find_images([path], Skips())):
                image.read()
                if number == 5:
                    break

    return read, [(made / "train-000000.tar").read_bytes()]


def listing(folder: Path) -> tuple[Reader, list[bytes]]:
    """A list of images with labels."""
    from moco.config import Fetch
    from moco.sources.open import open_source

    (folder / "a.png").write_bytes(images()[3])
    path = folder / "list.csv"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        found = open_source(
            Fetch(source="list", path=str(path), labels="none", val_fraction=0.1, test_fraction=0.1, split_seed=0)
        )
        list(found.walk())  # type: ignore[union-attr]

    return read, [b"path,label,split\na.png,cat,train\na.png,dog,test\n"]


def coco(folder: Path) -> tuple[Reader, list[bytes]]:
    """COCO's annotations."""
    from moco.transfer.data.coco import read_coco

    (folder / "a.png").write_bytes(images()[3])
    path = folder / "coco.json"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.redirect_stdout(io.StringIO()):
            read_coco(path, folder)

    boxes = [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 9, 8], "area": 72, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 3, "bbox": [3, 3, 4, 4], "iscrowd": 1},
    ]
    boxes[0]["segmentation"] = [[1, 2, 9, 2, 9, 8, 1, 8]]
    boxes[1]["segmentation"] = {"size": [24, 32], "counts": [100, 5, 663]}
    pictures = [{"id": 1, "file_name": "a.png", "height": 24, "width": 32}]
    return read, [
        json.dumps({"images": pictures, "annotations": boxes, "categories": [{"id": 3, "name": "cat"}]}).encode()
    ]


def voc(folder: Path) -> tuple[Reader, list[bytes]]:
    """VOC's annotations."""
    from moco.transfer.data.voc import read_voc

    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / "VOC2007" / name).mkdir(parents=True)
    (folder / "VOC2007/JPEGImages/a.jpg").write_bytes(images()[0])
    (folder / "VOC2007/ImageSets/Main/train.txt").write_text("a\n")

    def read(data: bytes) -> None:
        (folder / "VOC2007/Annotations/a.xml").write_bytes(data)
        with contextlib.redirect_stdout(io.StringIO()):
            read_voc(folder, [("2007", "train")])

    box = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>15</ymax></bndbox>"
    text = f"<annotation><size><width>32</width><height>24</height><depth>3</depth></size><object><name>cat</name>{box}</object></annotation>"
    return read, [text.encode()]


def weights(folder: Path) -> tuple[Reader, list[bytes]]:
    """A file of weights, whoever wrote it."""
    import torch
    import torchvision
    from safetensors.torch import save

    from moco.encoders.files.describe import described
    from moco.encoders.files.reading import read as read_file

    path = folder / "weights"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        described(read_file(path))

    state = {
        name: value[:1].clone() if value.dim() else value
        for name, value in torchvision.models.resnet18().state_dict().items()
    }
    seeds = []
    for content in (
        state,
        {"state_dict": {f"module.encoder_q.{name}": value for name, value in state.items()}, "epoch": 3},
    ):
        for old in (False, True):
            with io.BytesIO() as file:
                torch.save(content, file, _use_new_zipfile_serialization=not old)
                seeds.append(file.getvalue())
    return read, [*seeds, save(state)]


READERS = {one.__name__: one for one in (decode, views, settings, machine, index, tar, listing, coco, voc, weights)}


def mutate(data: bytes, chance: random.Random, other: bytes) -> bytes:
    """Change an input in one to six places."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(changed) + 1)
        span = chance.choice((1, 2, 4, 16, 256))
        match chance.randrange(7):
            case 0 if at < len(changed):
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                changed[at : at + span] = chance.randbytes(span)
            case 2:
                changed[at:at] = chance.choice(TOKENS)
            case 3:
                token = chance.choice(TOKENS)
                changed[at : at + len(token)] = token
            case 4:
                del changed[at : at + span]
            case 5:
                start = chance.randrange(len(other) + 1)
                changed[at:at] = other[start : start + span]
            case _ if chance.random() < 0.2:
                del changed[at:]
    return bytes(changed)


def judged(read: Reader, data: bytes, name: str) -> bool:
    """Read an input; False, and it is kept, if that gave neither result nor error for people."""
    from moco.errors import MocoError
    from moco.images.decode import UndecodableError

    before = _most_memory()
    signal.alarm(SECONDS)
    try:
        read(data)
    except (MocoError, UndecodableError) as error:
        if "\n" in str(error) or len(str(error)) > 2000:
            return _kept(name, data, f"not one short line: {str(error)[:300]!r}")
    except (Exception, TooSlowError):
        return _kept(name, data, traceback.format_exc(limit=-6))
    finally:
        signal.alarm(0)
    if not SANITIZED and (taken := _most_memory() - before) > MEMORY:  # a reader may have caught the MemoryError
        return _kept(name, data, f"took {taken} bytes")
    return True


def _kept(name: str, data: bytes, text: str) -> bool:
    CRASHES.mkdir(exist_ok=True)
    path = CRASHES / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}"
    path.write_bytes(data)
    print(f"{name}: {path}\n{text}", flush=True)
    return False


def try_plainly(name: str, inputs: int, seed: int) -> int:
    """Give a reader mutations by seed; the number of crashes."""
    with tempfile.TemporaryDirectory() as scratch:
        read, seeds = READERS[name](Path(scratch))
        for data in seeds:
            read(data)  # what is whole must be read
        chance, crashes, start = random.Random(f"{name} {seed}"), 0, time.monotonic()
        if not SANITIZED:
            limit = _memory_now() + 2 * MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
        for _ in range(inputs):
            crashes += not judged(read, mutate(chance.choice(seeds), chance, chance.choice(seeds)), name)
        print(f"{name}: {inputs} inputs, {crashes} crashes, {time.monotonic() - start:.0f} s", flush=True)
        return crashes


def try_guided(name: str, seconds: int) -> None:
    """Give a reader inputs that reach further into its code; ends the process."""
    import atheris

    with atheris.instrument_imports(
        include=["moco", "yaml", "PIL", "json", "xml", "tarfile", "csv", "pickle", "zipfile"]
    ):
        import moco.config
        import moco.encoders.files.reading
        import moco.evaluation.inputs
        import moco.images.decode
        import moco.shards.index
        import moco.transfer.data.coco
        import moco.transfer.data.voc  # noqa: F401
    scratch = Path(tempfile.mkdtemp())
    read, seeds = READERS[name](scratch)
    corpus = scratch / "corpus"
    corpus.mkdir()
    for number, data in enumerate(seeds):
        (corpus / str(number)).write_bytes(data)
    count = crashes = 0

    def one(data: bytes) -> None:
        nonlocal count, crashes
        count += 1
        crashes += not judged(read, data, name)
        if count % 1000 == 0:
            print(f"{name}: {count} inputs, {crashes} crashes", flush=True)

    options = [
        f"-max_total_time={seconds}",
        "-max_len=65536",
        "-rss_limit_mb=6000",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _memory_now() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise TooSlowError(f"more than {SECONDS} s")


def main() -> None:
    """Try readers; exit code 1 if there was a crash."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"{', '.join(READERS)} (default: all)")
    parser.add_argument("--inputs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", type=int, metavar="SECONDS")
    given = parser.parse_args()
    signal.signal(signal.SIGALRM, _too_slow)
    if given.guided:
        try_guided(given.readers[0], given.guided)
    crashes = sum(try_plainly(name, given.inputs, given.seed) for name in given.readers or READERS)
    sys.exit(bool(crashes))


if __name__ == "__main__":
    main()
