"""`moco look` says before any work what the stages will take, and what they will leave out."""

import io
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from moco.advice import look as module
from moco.advice.look import lines, look
from moco.errors import MocoError


def save(path, size=(20, 12), seed=0, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    for number in range(6):
        save(tmp_path / f"cat/{number}.png", seed=number)
        save(tmp_path / f"dog/{number}.jpg", (40, 30), seed=number)
    save(tmp_path / "dog/gray.png", mode="L")
    (tmp_path / "dog/copy.png").write_bytes((tmp_path / "cat/0.png").read_bytes())
    (tmp_path / "dog/cut.png").write_bytes((tmp_path / "cat/1.png").read_bytes()[:200])
    (tmp_path / "dog/phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(12))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    return tmp_path


def test_layout_formats_sizes_classes_copies_and_what_is_left_out_are_said(photos):
    said = "\n".join(lines(look(photos)))
    assert "read as source folder" in said
    assert "left out what systems put there: Thumbs.db (1)" in said
    assert "15 images" in said and "9 PNG, 6 JPEG" in said
    assert "half of them 12 pixels or more" in said and "longest side 40" in said
    assert "not plain RGB: 1 L" in said
    assert "2 classes: dog 9, cat 6" in said
    assert "about 12 train, 2 val, 2 test" in said
    assert "no images, tried and left out: 1 files (1 .txt)" in said
    assert "images that cannot be read: 2" in said
    assert "dog/phone.heic: HEIC is not read; convert it to JPEG or PNG" in said
    assert "dog/cut.png: not a readable image" in said
    assert "1 exact copy among 15, left out" in said


def test_folders_that_are_splits_are_said_with_their_counts(tmp_path):
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            save(tmp_path / f"{split}/cat/{number}.png", seed=number)
    said = "\n".join(lines(look(tmp_path)))
    assert "folders taken for splits: train (train), val (val)" in said
    assert "splits that the source has: val 2" in said
    assert "about 4 train, 0 val, 0 test" in said or "drawn from the other 4" in said


def test_a_list_and_tars_are_read_as_such(photos, tmp_path_factory):
    listed = photos / "list.csv"
    listed.write_text("path,label\ncat/0.png,a\ncat/1.png,b\n")
    assert "2 classes: a 1, b 1" in "\n".join(lines(look(listed)))
    folder = tmp_path_factory.mktemp("tars")
    with tarfile.open(folder / "a.tar", "w") as tar:
        for number in range(3):
            data = (photos / f"cat/{number}.png").read_bytes()
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    said = "\n".join(lines(look(folder)))
    assert "read as source tars" in said and "3 images" in said and "no labels" in said


def test_of_more_files_than_time_allows_a_sample_is_read_and_said_to_be_one(photos, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", -1.0)
    monkeypatch.setattr(module, "cores", lambda: 2)
    found = look(photos)
    assert found.read == 4 < found.files
    assert f"about, by 4 of {found.files} files drawn" in "\n".join(lines(found))


def test_nothing_there_is_one_line(tmp_path):
    with pytest.raises(MocoError, match="no such file or folder"):
        look(tmp_path / "none")
    (tmp_path / "a.txt").write_text("x")
    assert "no image among 1 files" in "\n".join(lines(look(tmp_path)))


def test_it_needs_no_torch():
    code = "import sys, moco.advice.look; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
