"""The index: any image by number, cheap to open, safe to share."""

import json
import multiprocessing
import os
import pickle
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from small_material import rows_of, write_gray_numbers

from moco.errors import MocoError
from moco.files import file_sha256
from moco.images import index
from moco.images.decode import decode
from moco.images.index import ENTRY, hash_of_set, open_split


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_gray_numbers(tmp_path_factory.mktemp("set"))


@pytest.fixture
def copied(made, tmp_path):
    return shutil.copytree(made, tmp_path / "shards")


def numbers(split):
    return [int(decode(split.read(i))[0, 0, 0]) for i in range(len(split))]


def test_images_come_in_the_order_of_the_manifest_with_their_labels(made):
    rows = rows_of(made.parent / "raw")
    for name in ("train", "val"):
        split = open_split(made, name)
        expected = [row for row in rows if row.split == name]
        assert numbers(split) == [row.row for row in expected]
        assert [split.classes[label] if label >= 0 else "" for label in split.labels] == [row.label for row in expected]
        assert split.labels.dtype == np.int32
        assert split.key(3) == expected[3].sha256[:16]


def test_a_set_travels_to_other_processes_after_it_was_read(made):
    split = open_split(made, "train")
    expected = [split.read(i) for i in range(len(split))]
    copy = pickle.loads(pickle.dumps(split))
    assert [copy.read(i) for i in range(len(copy))] == expected
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(split.read, range(len(split))) == expected
            pool.close()  # terminate() would wait for a fork that has a test's handler of SIGTERM
            pool.join()


def test_threads_may_read_at_once(made):
    split = open_split(made, "train")
    expected = [split.read(i) for i in range(len(split))]
    fresh = open_split(made, "train")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(fresh.read, list(range(len(split))) * 20)) == expected * 20


def test_sets_of_more_shards_than_files_may_be_open_are_read_too(made, monkeypatch):
    monkeypatch.setattr(index, "OPEN_FILES", 2)
    split = open_split(made, "train")
    assert len(split.shards) > 3
    assert numbers(split) == numbers(open_split(made, "train"))
    assert len(split._files) == 2


def test_a_million_images_open_within_a_second(tmp_path):
    entries = np.zeros(1_000_000, ENTRY)
    entries["label"] = np.arange(1_000_000) % 1000
    np.save(tmp_path / "train.index.npy", entries)
    shards = [
        {"file": f"train-{i:06d}.tar", "samples": 5000, "bytes": 1, "sha256": "0" * 64, "made_of": ""}
        for i in range(200)
    ]
    digest = file_sha256(tmp_path / "train.index.npy")
    part = {"file": "train.index.npy", "samples": 1_000_000, "shards": 200, "sha256": digest}
    nothing = {"file": "val.index.npy", "samples": 0, "shards": 0, "sha256": ""}
    empty = {"samples": 0, "parts": [nothing], "shards": []}
    splits = {"train": {"samples": 1_000_000, "parts": [part], "shards": shards}, "val": empty, "test": empty}
    digest = hash_of_set([], {"train": ["0" * 64] * 200, "val": [], "test": []})
    stated = {"format": 2, "classes": [], "data_hash": digest, "quarantined": 0, "splits": splits}
    (tmp_path / "index.json").write_text(json.dumps(stated))
    start = time.perf_counter()
    split = open_split(tmp_path, "train")
    assert (len(split), split.labels[999]) == (1_000_000, 999)
    assert time.perf_counter() - start < 1


class TestErrors:
    def test_a_folder_without_shards_names_the_command(self, tmp_path):
        with pytest.raises(MocoError, match=r"index\.json: no such file; run `dvc repro shard` first"):
            open_split(tmp_path, "train")

    def test_an_unknown_split_is_named(self, made):
        with pytest.raises(MocoError, match="no split 'testing'; the splits are train, val, test"):
            open_split(made, "testing")

    def test_a_missing_or_short_tar_is_one_clear_line(self, copied):
        split = open_split(copied, "train")
        (copied / "train-000000.tar").write_bytes(b"")
        with pytest.raises(MocoError, match=r"train-000000\.tar: is shorter than its index says"):
            split.read(0)
        (copied / "train-000001.tar").unlink()
        with pytest.raises(MocoError, match=r"train-000001\.tar: cannot be read \(No such file"):
            split.read(8)

    def test_another_format_version_is_refused(self, copied):
        path = copied / "index.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
        with pytest.raises(MocoError, match="format 99, expected 2"):
            open_split(copied, "train")

    def test_an_index_with_a_class_of_half_a_surrogate_pair_is_sound(self, copied):
        path = copied / "index.json"
        values = json.loads(path.read_text())
        values["classes"][0] = "a\udce9"
        hashes = {split: [shard["sha256"] for shard in part["shards"]] for split, part in values["splits"].items()}
        path.write_text(json.dumps({**values, "data_hash": hash_of_set(values["classes"], hashes)}))
        assert open_split(copied, "train").classes[0] == "a\udce9"

    def test_an_index_of_brackets_is_damaged(self, copied):
        (copied / "index.json").write_text(10**5 * "[")
        with pytest.raises(MocoError, match=r"index\.json: damaged"):
            open_split(copied, "train")

    def test_a_pipe_in_the_place_of_a_tar_does_not_hang(self, copied):
        (copied / "train-000000.tar").unlink()
        os.mkfifo(copied / "train-000000.tar")
        with pytest.raises(MocoError, match=r"train-000000\.tar: cannot be read"):
            open_split(copied, "train").read(0)

    @pytest.mark.parametrize("name", ["index.json", "train.index.npy"])
    def test_a_damaged_index_is_one_line_wherever_it_is_hit(self, copied, name):
        """Each of 60 damages, seeded, ends in a MocoError, or changes nothing that is read."""
        path, rng = copied / name, np.random.default_rng(0)
        whole = path.read_bytes()
        for number in range(60):
            damaged = bytearray(whole)
            at = int(rng.integers(len(whole)))
            if number % 3 == 0:
                damaged = damaged[:at]
            elif number % 3 == 1:
                damaged[at] ^= 1 << int(rng.integers(8))
            else:
                damaged[at : at + 9] = rng.bytes(9)
            path.write_bytes(bytes(damaged))
            try:
                split = open_split(copied, "train")
                assert len(numbers(split)) == len(split)
            except MocoError as error:
                assert "\n" not in str(error)

    def test_a_tar_of_another_folder_is_refused(self, copied):
        path = copied / "index.json"
        path.write_text(path.read_text().replace('"train-000000.tar"', '"../train-000000.tar"'))
        with pytest.raises(MocoError, match=r"splits\.train\.shards\.0\.file"):
            open_split(copied, "train")
