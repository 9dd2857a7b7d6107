"""Pages of shards, of folders and of tables know their images' files, labels and features."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from moco.errors import MocoError
from moco.evaluation.embed import Embedded, write_features
from moco.explore.of_files import is_table, of_table
from moco.explore.of_shards import of_shards
from moco.images.batches import read_image
from moco.images.index import open_split


def encode(split, rows):
    return np.array([[float(row), len(split), 1] for row in rows], dtype=np.float32)


def test_images_of_shards_have_the_files_that_they_came_from(small_project, monkeypatch):
    monkeypatch.chdir(small_project)
    found = of_shards(Path("data/shards"), Path("data/raw"), encode, 1000)
    assert len(found) == found.all == 360
    assert found.files.all()
    for i in range(0, 360, 37):
        assert np.abs(np.asarray(Picture.open(found.names[i]).convert("RGB"), int) - found.read(i)).max() < 60
        label = found.groups["class"].values[found.groups["class"].numbers[i]]
        assert Path(found.names[i]).parent.name == label
    assert set(found.groups["split"].values) == {"train", "val", "test"}
    assert not found.groups["arrival"].tells  # all came in at once


def test_of_more_images_a_sample_of_every_split_is_taken(small_project):
    found = of_shards(small_project / "data/shards", small_project / "none", encode, 100)
    assert len(found) == 100 and found.all == 360 and set(found.names) == {""}
    train = open_split(small_project / "data/shards", "train")
    of_train = np.flatnonzero(found.features[:, 1] == len(train))
    assert 40 < len(of_train) < 100
    for i in of_train[:5]:
        row = int(found.features[i, 0])
        assert found.keys[i] == train.key(row)
        assert np.array_equal(found.read(int(i)), read_image(train, row))


@pytest.fixture
def photos(tmp_path):
    names = [f"{label}/{n}.png" for label in ("cold", "warm") for n in range(10)]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Picture.new("RGB", (8, 8), (len(name), 0, 0)).save(tmp_path / name)
    return tmp_path, names


@pytest.mark.parametrize("suffix", ["parquet", "npy", "csv"])
def test_a_table_of_embed_is_read_as_it_was_written(photos, suffix):
    folder, names = photos
    features = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    table = folder / f"features.{suffix}"
    write_features(table, iter([Embedded(names[:12], features[:12]), Embedded(names[12:], features[12:])]), 5)
    (folder / "cold/3.png").unlink()
    assert is_table(table)
    found = of_table(table, folder, 100)
    assert np.array_equal(found.features, features)
    assert found.names[12] == str(folder / "warm/2.png") and found.names[3] == "cold/3.png"
    assert found.files.tolist() == [n != 3 for n in range(20)]
    assert found.read(0).shape == (8, 8, 3) and found.read(3) is None
    assert found.groups["class"].values == ["cold", "warm"]
    some = of_table(table, folder, 16)
    assert len(some) == 16 and some.all == 20


def test_a_folder_of_pieces_is_one_table(photos):
    folder, names = photos
    (folder / "pieces").mkdir()
    features = np.arange(100, dtype=np.float32).reshape(20, 5)
    for piece in (0, 1):
        part = slice(10 * piece, 10 * piece + 10)
        path = folder / f"pieces/piece-{piece:05d}-of-00002.parquet"
        write_features(path, iter([Embedded(names[part], features[part])]), 5)
    assert is_table(folder / "pieces") and not is_table(folder / "warm")
    assert np.array_equal(of_table(folder / "pieces", folder, 100).features, features)


@pytest.mark.parametrize("content", [b"", b"no table", b"path,f0\na,x\n"])
@pytest.mark.parametrize("suffix", ["parquet", "npy", "csv"])
def test_what_is_no_table_is_one_line(tmp_path, suffix, content):
    (tmp_path / f"a.{suffix}").write_bytes(content)
    (tmp_path / "a.txt").write_text("a\n")
    with pytest.raises(MocoError, match=rf"a\.{suffix}: no table of `moco embed`"):
        of_table(tmp_path / f"a.{suffix}", tmp_path, 100)
