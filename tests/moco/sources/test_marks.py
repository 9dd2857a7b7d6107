"""A file that is as it was costs one look; one that may have changed is read again."""

import os
import time

import pytest

from moco.config import Fetch
from moco.sources import hashing
from moco.sources.hashing import stream
from moco.sources.marks import Marks, look
from moco.sources.open import open_source
from moco.sources.source import Arrays

OLD = time.time() - 100


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        file = tmp_path / "in" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"%d" % i)
        os.utime(file, (OLD, OLD))
    return tmp_path / "in"


def source(folder):
    return open_source(
        Fetch(source="folder", path=str(folder), labels="folders", val_fraction=0, test_fraction=0, split_seed=0)
    )


@pytest.fixture
def fetch(folder, tmp_path, monkeypatch):
    """Give the items of the folder, and how many files were read for them."""
    reads = []
    hash_file = hashing._hash_file
    monkeypatch.setattr(hashing, "_hash_file", lambda root, file: (reads.append(file.path), hash_file(root, file))[1])

    def run():
        reads.clear()
        with Marks(tmp_path / "runs/marks.sqlite") as marks:
            items = list(stream(source(folder), tmp_path, marks))
        return items, sorted(reads)

    return run


def test_files_that_are_as_they_were_are_not_read_again(fetch, folder):
    first, read = fetch()
    assert len(read) == 6
    assert fetch() == (first, [])
    (folder / "a/9.png").write_bytes(b"new")
    (folder / "a/0.png").write_bytes(b"0123")
    os.utime(folder / "b/1.png", (OLD + 1, OLD + 1))
    items, read = fetch()
    assert read == ["a/0.png", "a/9.png", "b/1.png"]
    assert {item.path: item.bytes for item in items}["a/0.png"] == 4


def test_a_file_that_was_just_written_is_read_the_next_time_too(fetch, folder):
    (folder / "a/0.png").write_bytes(b"x")
    assert "a/0.png" in fetch()[1]
    (folder / "a/0.png").write_bytes(b"y")  # within the same tick of some file systems' clocks
    items, read = fetch()
    assert read == ["a/0.png"]
    assert len({item.sha256 for item in items}) == 6


def test_a_file_in_the_place_of_another_of_the_same_size_and_time_is_read(fetch, folder, tmp_path):
    fetch()
    (tmp_path / "other").write_bytes(b"z")
    os.utime(tmp_path / "other", (OLD, OLD))
    (tmp_path / "other").replace(folder / "a/0.png")
    assert fetch()[1] == ["a/0.png"]


def test_a_damaged_memory_holds_nothing(fetch, tmp_path):
    first, _ = fetch()
    (tmp_path / "runs/marks.sqlite").write_bytes(b"no database")
    assert fetch()[0] == first
    assert fetch()[1] == []


def test_a_stopped_run_keeps_what_was_known(fetch, folder, tmp_path):
    fetch()
    with pytest.raises(RuntimeError), Marks(tmp_path / "runs/marks.sqlite") as marks:
        next(stream(source(folder), tmp_path, marks))
        raise RuntimeError
    assert fetch()[1] == []
    assert [file.name for file in (tmp_path / "runs").iterdir()] == ["marks.sqlite"]


def test_the_state_of_a_source_follows_names_marks_and_labels_alone(folder):
    state = look(source(folder), "x")
    assert state is not None
    assert look(source(folder), "x") == state != look(source(folder), "y")
    (folder / "a/0.png").rename(folder / "b/0.png")
    assert look(source(folder), "x") not in (state, None)
    (folder / "b/0.png").write_bytes(b"new")
    assert look(source(folder), "x") is None, "too new to tell"
    assert look(Arrays(list, []), "x") is None
    assert look(Arrays(list, [], [folder / "b/1.png"]), "x") is not None
