"""JPEGs like ImageNet's, cut from the photographs on this machine: 500 x 375, 100 kB, 4:2:0."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from moco.config import Fetch, Shard
from moco.files import move_folder
from moco.images.index import ShardSet, open_split
from moco.shards.write import write_shards
from moco.sources.open import open_source
from moco.sources.take_in import take_in

KEPT = Path("runs/benchmarks")
"""Where photographs are kept from run to run; not versioned."""
WALLPAPERS = (Path("/usr/share/backgrounds"), Path("/usr/share/wallpapers"))
SHAPES = ((500, 375), (500, 375), (500, 375), (500, 333), (375, 500), (333, 500), (500, 500), (640, 480))
SHARD = Shard(
    samples_per_shard=5000,
    merge_below=None,
    megabytes_per_shard=256,
    max_side=None,
    jpeg_quality=92,
    max_bad_fraction=0.0,
)


def photographs(count: int) -> tuple[Path, str]:
    """Make a folder of `count` files in one class folder, and say where they come from.

    The sources are the wallpapers that Debian's mate-backgrounds and its like install, and
    scikit-learn's two photographs; on a machine without any, smooth noise with grain stands in.
    """
    folder = KEPT / f"photographs-{count}"
    note = folder.with_suffix(".json")
    sources = [Image.open(path).convert("RGB") for path in _sources()]
    if not folder.exists():
        part = folder.with_suffix(".part")
        (part / "all").mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(0)
        for number in range(count):
            shape = SHAPES[random.integers(len(SHAPES))]
            if sources:
                image = _cut(sources[random.integers(len(sources))], shape, random)
            else:
                image = _synthetic(shape, random)
            data = _jpeg(image, int(115_000 * np.exp(0.3 * random.standard_normal())))
            (part / "all" / f"{number:06d}.jpg").write_bytes(data)
        size = sum(file.stat().st_size for file in (part / "all").iterdir()) / count
        origin = f"cut from {len(sources)} photographs" if sources else "synthetic, for no photographs were found"
        note.write_text(json.dumps(f"{count} JPEGs of {size / 1e3:.0f} kB on average, {origin}"))
        move_folder(part, folder)
    return folder, json.loads(note.read_text())


def photograph_shards(count: int) -> tuple[ShardSet, Path, str]:
    """Give the same photographs as tars with an index, their folder, and where they come from."""
    folder, origin = photographs(count)
    settings = Fetch(source="folder", path=str(folder), labels="folders", val_fraction=0, test_fraction=0, split_seed=0)
    return open_split(sharded(settings, KEPT / f"shards-{count}"), "train"), folder, origin


def sharded(settings: Fetch, folder: Path) -> Path:
    """Shards of a source in `folder`, made unless they are there."""
    if not folder.exists():
        raw = folder.with_suffix(".raw")
        take_in(open_source(settings), settings, raw)
        write_shards(raw, folder, KEPT, SHARD)
    return folder


def _sources() -> list[Path]:
    found = [path for folder in WALLPAPERS for path in sorted(folder.rglob("*.jpg"))]
    try:
        from sklearn import datasets
    except ImportError:
        return found
    return found + sorted((Path(datasets.__file__).parent / "images").glob("*.jpg"))


def _cut(photograph: Image.Image, shape: tuple[int, int], random: np.random.Generator) -> Image.Image:
    """Cut a random part of a photograph, from its own pixels up to all of it."""
    width, height = shape
    most = min(photograph.width / width, photograph.height / height)
    scale = most ** random.uniform(0.5, 1) if most > 1 else most
    w, h = int(width * scale), int(height * scale)
    left, top = random.integers(photograph.width - w + 1), random.integers(photograph.height - h + 1)
    box = (int(left), int(top), int(left) + w, int(top) + h)
    return photograph.resize(shape, Image.Resampling.LANCZOS, box=box)


def _synthetic(shape: tuple[int, int], random: np.random.Generator) -> Image.Image:
    coarse = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(shape)
    grain = np.asarray(coarse) + random.normal(0, 14, (shape[1], shape[0], 3))
    return Image.fromarray(grain.clip(0, 255).astype(np.uint8))


def _jpeg(image: Image.Image, size: int) -> bytes:
    """Encode at the highest quality (60 to 98) that stays below `size` bytes."""
    low, high, best = 60, 98, b""
    while low <= high:
        quality = (low + high) // 2
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
        if len(buffer.getvalue()) <= size or not best:
            best = buffer.getvalue()
        if len(buffer.getvalue()) <= size:
            low = quality + 1
        else:
            high = quality - 1
    return best
