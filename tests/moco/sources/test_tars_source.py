"""Tars of other writers as a source: what is an image, a label and a split in them."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from small_material import rows_of

from moco.config import Fetch, Shard
from moco.errors import MocoError
from moco.shards.plan import plan_shards
from moco.shards.tars import Origin, Segment, write_tar
from moco.sources.hashing import stream
from moco.sources.open import open_source
from moco.sources.take_in import take_in

SETTINGS = Fetch(source="tars", path="x", labels="folders", val_fraction=0.2, test_fraction=0.2, split_seed=0)


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (seed, 2 * seed, 3 * seed)).save(file, "PNG")
    return file.getvalue()


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def fetch(path: Path, **changes):
    settings = SETTINGS.model_copy(update={"path": str(path), **changes})
    found = open_source(settings)
    return found, list(stream(found, path, None))


def img2dataset(folder: Path, count: int = 30) -> Path:
    """Two tars and their tables, as img2dataset writes them."""
    for tar in range(2):
        members = {}
        for n in range(count // 2):
            key = f"{tar:05d}{n:04d}"
            members[f"{key}.png"] = png(tar * 100 + n)
            members[f"{key}.txt"] = b"a caption"
            members[f"{key}.json"] = json.dumps({"caption": "a caption", "key": key, "status": "success"}).encode()
        tar_of(folder / f"{tar:05d}.tar", members)
        (folder / f"{tar:05d}.parquet").write_bytes(b"PAR1")
        (folder / f"{tar:05d}_stats.json").write_text("{}")
    return folder


def test_the_tars_of_img2dataset_give_each_image_once_without_labels(tmp_path):
    found, items = fetch(img2dataset(tmp_path))
    assert len(items) == 30 and {item.label for item in items} == {""}
    assert items[16].path == "00001.tar/000010001.png"
    assert items[16].sha256 == hashlib.sha256(png(101)).hexdigest()
    assert found.root == str(tmp_path)
    one, of_one = fetch(tmp_path / "00001.tar")
    assert of_one == items[15:] and one.root == found.root


def test_images_go_from_tars_to_shards_byte_for_byte(tmp_path):
    source, _ = fetch(img2dataset(tmp_path / "in"))
    raw = tmp_path / "raw"
    manifest = take_in(source, SETTINGS, raw)
    shards = Shard(
        samples_per_shard=99,
        merge_below=None,
        megabytes_per_shard=9,
        max_side=None,
        jpeg_quality=92,
        max_bad_fraction=0,
    )
    images = set()
    for planned in plan_shards(raw, manifest, {}, shards):
        origin = Origin(tmp_path / "in", None, {}, shards)
        rows = [placed.row for placed in planned.rows]
        note = write_tar(tmp_path / "out.tar", [Segment(rows, [origin] * len(rows))], lambda size: None)
        assert note["quarantine"] == []
        data = (tmp_path / "out.tar").read_bytes()
        images |= {data[offset : offset + size] for offset, size, _, _ in note["index"]}
    assert images == {png(tar * 100 + n) for tar in range(2) for n in range(15)}
    row = rows_of(raw)[0]
    tar_of(tmp_path / "in" / row.path.split("/")[0], {"other.png": png(7)})
    with pytest.raises(MocoError, match=r"\.tar/\d+\.png: has changed since fetch"):
        write_tar(tmp_path / "out.tar", [Segment([row], [origin])], lambda size: None)


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"cls": b"3"}, "3"),
        ({"cls": b"cat\n"}, "cat"),
        ({"cls": b"none"}, "none"),
        ({"cls": b"-1"}, ""),
        ({"json": b'{"label": 2, "class": "dog"}'}, "dog"),
        ({"json": b'{"label": 0}'}, "0"),
        ({"json": b'{"label": -1, "class": null}'}, ""),
        ({"json": b"no json"}, ""),
        ({"json": b"[1]"}, ""),
        ({"txt": b"a caption"}, ""),
    ],
)
def test_a_label_is_the_field_cls_or_stands_in_json(tmp_path, fields, label):
    tar = tar_of(tmp_path / "a.tar", {"k.jpg": b"x", **{f"k.{name}": data for name, data in fields.items()}})
    assert [item.label for item in fetch(tar)[1]] == [label]
    assert [item.label for item in fetch(tar, labels="none")[1]] == [""]


def test_an_image_is_known_by_the_last_suffix_of_its_field(tmp_path):
    tar = tar_of(tmp_path / "a.tar", {"IMG.2020.JPG": b"1", "scan.v2.txt": b"text"})
    assert [item.path for item in fetch(tar)[1]] == ["a.tar/IMG.2020.JPG"]


def test_what_is_left_out_of_tars_is_counted(tmp_path):
    tar_of(tmp_path / "a.tar", {"a.jpg": b"1", "b.txt": b"2", "c.2020.jpg": b"3", "c.2021.jpg": b"4"})
    (tmp_path / "b.tar.gz").write_bytes(b"x")
    found, items = fetch(tmp_path)
    list(found.walk())
    assert [item.path for item in items] == ["a.tar/a.jpg", "a.tar/c.2020.jpg"]
    assert found.notes == [
        "compressed tars, which are not read: 1 (b.tar.gz)",
        "samples without an image, which are left out: 1",
        "images behind the first of a sample (what is before the first dot), left out: 1",
    ]


def test_tars_named_for_splits_are_splits(tmp_path):
    for name in ("train-000", "train-001", "val-000", "test-000"):
        tar_of(tmp_path / f"{name}.tar", {"k.jpg": name.encode()})
    found, items = fetch(tmp_path)
    assert [item.part for item in items] == ["test", "train", "train", "val"]
    assert found.own == {"val", "test"} and found.notes == ["tars taken for splits: test, train, val"]
    tar_of(tmp_path / "more.tar", {"k.jpg": b"more"})
    assert {item.part for item in fetch(tmp_path)[1]} == {"all"}


@pytest.mark.parametrize(
    ("name", "said"), [("a.jpg", "no tars there; name a tar"), ("a.tar.gz", r"a\.tar\.gz: is compressed; unpack it")]
)
def test_a_folder_without_tars_is_refused(tmp_path, name, said):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(MocoError, match=said):
        fetch(tmp_path)


def test_a_damaged_tar_is_named(tmp_path):
    tar = tar_of(tmp_path / "a.tar", {f"{n}.jpg": bytes(600) for n in range(9)})
    tar.write_bytes(tar.read_bytes()[:5000])
    with pytest.raises(MocoError, match=r"a\.tar: damaged, or no plain tar"):
        fetch(tmp_path)
