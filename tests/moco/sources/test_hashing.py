"""Hashing on other hosts gives what threads give, and is not done again after a stop."""

import os

import pytest
from piece_engines import Here

from moco.config import Fetch
from moco.sources import hashing
from moco.sources.open import open_source
from moco.sources.take_in import take_in


@pytest.fixture
def photos(tmp_path):
    """A folder of 20 files and a link that leads nowhere."""
    (tmp_path / "photos").mkdir()
    for number in range(20):
        file = tmp_path / "photos" / f"{number:02d}.jpg"
        file.write_bytes(b"%d" % number)
        os.utime(file, (10**9, 10**9))
    (tmp_path / "photos/broken.jpg").symlink_to("nowhere")
    return tmp_path / "photos"


def taken_in(photos, raw, engine=None):
    settings = Fetch(
        source="folder", path=str(photos), labels="none", val_fraction=0.2, test_fraction=0.2, split_seed=0
    )
    take_in(open_source(settings), settings, raw, None, raw.with_name("marks.sqlite"), engine=engine)
    return {file.name: file.read_bytes() for file in raw.iterdir()}


def test_other_hosts_give_the_same_manifest_and_marks(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(hashing, "CHUNK_ELSEWHERE", 3)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert taken_in(photos, tmp_path / "a/raw") == taken_in(photos, tmp_path / "b/raw", Here([6, 2, 0, 1, 3, 5, 4]))
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["marks.sqlite", "raw"]
    monkeypatch.setattr(hashing, "_hash_file", None)  # nothing is read: the marks know it
    (photos / "broken.jpg").unlink()
    taken_in(photos, tmp_path / "b/raw")


def test_a_stopped_fetch_keeps_what_was_hashed_unless_the_file_has_changed(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(hashing, "CHUNK_ELSEWHERE", 3)
    wanted = taken_in(photos, tmp_path / "raw")
    (tmp_path / "marks.sqlite").unlink()
    with pytest.raises(KeyboardInterrupt):
        taken_in(photos, tmp_path / "again", Here(stop_after=4))
    read, hash_file = [], hashing._hash_file
    monkeypatch.setattr(hashing, "_hash_file", lambda root, file: read.append(file.path) or hash_file(root, file))
    (photos / "00.jpg").write_bytes(b"changed")
    os.utime(photos / "00.jpg", (10**9 + 1, 10**9 + 1))
    found = taken_in(photos, tmp_path / "again", Here())
    assert set(read) == {f"{number:02d}.jpg" for number in [0, 1, 2, *range(12, 20)]} | {"broken.jpg"}
    assert found.keys() == wanted.keys()
    assert found["000000.csv"] != wanted["000000.csv"]
