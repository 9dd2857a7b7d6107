"""The plan of shards: a function of the manifest and the limits."""

from pathlib import Path

from moco.config import Fetch, Shard
from moco.shards.plan import plan_shards
from moco.sources.grow import Arrival, grow
from moco.sources.listing import Item

FETCH = Fetch(source="folder", path="x", labels="none", val_fraction=0.2, test_fraction=0, split_seed=0)


def cut(folder: Path, size: int, limit: int, images: int = 20) -> dict[str, list[int]]:
    """Count the images in each shard, of `size` bytes each, in consecutive shards of a split."""
    items = [Item(f"{i}.png", None, "", "all", f"{i:064x}", size) for i in range(images)]
    manifest = grow(Arrival(items, FETCH, "folder", "x"), folder, folder)
    limits = {"samples_per_shard": limit, "megabytes_per_shard": 1, "max_side": None, "merge_below": None}
    counts: dict[str, list[int]] = {"train": [], "val": []}
    for planned in plan_shards(folder, manifest, {}, Shard(**limits, jpeg_quality=90, max_bad_fraction=0)):
        before = counts[planned.split]
        assert planned.name == f"{planned.split}-{len(before):06d}.tar"
        before.append(len(planned.rows))
    return counts


def test_shards_close_at_their_limit_of_images_or_before_their_limit_of_bytes(tmp_path):
    assert cut(tmp_path, 100, limit=7) == {"train": [7, 7, 3], "val": [3]}
    assert cut(tmp_path, 250_000, limit=100) == {"train": [4, 4, 4, 4, 1], "val": [3]}
    by_bytes = cut(tmp_path, 9901, limit=200, images=265)  # 101 are a byte too many
    assert by_bytes == {"train": [100, 100, 10], "val": [55]}


def test_an_image_above_the_limit_has_a_shard_to_itself(tmp_path):
    assert cut(tmp_path, 3_000_000, limit=100) == {"train": [1] * 17, "val": [1] * 3}
