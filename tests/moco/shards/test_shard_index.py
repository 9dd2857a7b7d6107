"""The index beside the shards: what it states, and a check that finds every change."""

import shutil

import numpy as np
import pytest
from small_material import write_gray_numbers

from moco.errors import MocoError
from moco.files import file_sha256
from moco.images.index import hash_of_set, open_split
from moco.shards.index import verify


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_gray_numbers(tmp_path_factory.mktemp("set"))


@pytest.fixture
def copied(made, tmp_path):
    return shutil.copytree(made, tmp_path / "shards")


def test_the_data_hash_follows_classes_and_content(made, tmp_path):
    same = open_split(made, "val").data_hash
    assert open_split(made, "train").data_hash == same
    shards = {"train": ["0" * 64], "val": [], "test": []}
    base = hash_of_set(["a"], shards)
    assert len({base, hash_of_set(["b"], shards), hash_of_set(["a"], {**shards, "val": ["1" * 64]})}) == 3


class TestVerify:
    def test_finds_nothing_in_a_sound_set(self, copied):
        assert verify(copied) == []

    def test_finds_a_changed_byte(self, copied):
        tar = copied / "train-000001.tar"
        data = bytearray(tar.read_bytes())
        data[700] ^= 1
        tar.write_bytes(data)
        assert verify(copied) == [f"{tar}: its content has changed (SHA-256 differs)"]

    def test_finds_short_missing_and_foreign_files(self, copied):
        (copied / "train-000000.tar").write_bytes(b"short")
        (copied / "val-000000.tar").unlink()
        (copied / "other.tar").write_bytes(b"")
        (copied / "test.index.npy").unlink()
        problems = "\n".join(verify(copied))
        assert "train-000000.tar: 5 bytes, the index says" in problems
        assert "val-000000.tar: missing" in problems
        assert "other.tar: not in the index" in problems
        assert "test.index.npy: no such file" in problems

    def test_finds_wrong_counts_and_changed_labels(self, copied):
        path = copied / "train.index.npy"
        entries = np.load(path)
        np.save(path, entries[:-1])
        assert "images, index.json says" in verify(copied)[0]
        entries["label"] = 0
        np.save(path, entries)
        assert verify(copied) == [f"{path}: its content has changed (SHA-256 differs)"]

    @pytest.mark.parametrize(
        ("shard", "said"), [(1, "images by shard are not"), (2**32 - 1, "names shard 4294967295, its own are 0 to")]
    )
    def test_finds_images_counted_in_another_shard(self, copied, shard, said):
        path = copied / "train.index.npy"
        entries = np.load(path)
        entries["shard"][0] = shard
        before = file_sha256(path)
        np.save(path, entries)
        text = (copied / "index.json").read_text()
        (copied / "index.json").write_text(text.replace(before, file_sha256(path)))
        assert said in verify(copied)[0]

    def test_finds_changed_class_names(self, copied):
        path = copied / "index.json"
        path.write_text(path.read_text().replace('"a"', '"z"'))
        with pytest.raises(MocoError, match=r"index\.json: damaged \(.*data_hash does not follow"):
            verify(copied)
