"""Files appear whole or not at all, whatever the disk does, and come back as they were written."""

import csv
import errno
import io
import os
import shutil
from pathlib import Path

import pytest

from moco import files
from moco.files import copy_file, csv_writer, move_folder, read_note, whole_file, whole_folder, write_json, write_text

ODD = [
    "a\nb",
    "a\rb",
    "\r",
    "\n",
    "\r\n",
    'q"q',
    "a,b",
    " a ",
    "-",
    "=1+1",
    "",
    "\u2028",
    "\U0001f600",
    "fj\udce9",
    "'",
]


@pytest.mark.parametrize("value", ODD)
def test_a_row_of_csv_comes_back_as_it_was_written(value):
    file = io.StringIO(newline="")
    csv_writer(file).writerows([[value, "x"], ["y", value]])
    file.seek(0)
    assert list(csv.reader(file)) == [[value, "x"], ["y", value]]


def test_rows_of_usual_values_have_the_bytes_that_pythons_writer_gives():
    ours, theirs = io.StringIO(newline=""), io.StringIO(newline="")
    rows = [["path", "label"], ["a b.png", 3], ["with, comma", 0.5], ['"', None], ["two\nlines", ""]]
    csv_writer(ours).writerows(rows)
    csv.writer(theirs, lineterminator="\n").writerows(rows)
    assert ours.getvalue() == theirs.getvalue()


@pytest.mark.parametrize("write", [lambda path: write_text(path, "new"), lambda path: copy_file(__file__, path)])
def test_another_name_of_the_old_file_keeps_its_content(tmp_path, write):
    cached, output = tmp_path / "cached", tmp_path / "output"
    cached.write_text("old")
    os.link(cached, output)
    write(output)
    assert cached.read_text() == "old"
    assert output.read_text() != "old"


def test_a_name_of_255_bytes_can_be_written(tmp_path):
    path = tmp_path / ("é" * 125 + ".json")
    write_json(path, {})
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="file") as raised, whole_file(path) as part:
        part.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(path)
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("file", "old")]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b'{"a": 1', b"[" * 100_000])
def test_a_damaged_note_is_none(tmp_path, content):
    (tmp_path / "note.json").write_bytes(content)
    assert read_note(tmp_path / "note.json") == {}


@pytest.fixture
def folders(tmp_path):
    for name in ("new", "old"):
        (tmp_path / name / "below").mkdir(parents=True)
        (tmp_path / name / "below" / "file").write_text(name)
    return tmp_path / "new", tmp_path / "old"


@pytest.mark.parametrize("exchanged", [False, True])
@pytest.mark.parametrize("other_file_system", [False, True])
def test_a_folder_takes_the_place_of_another(folders, monkeypatch, other_file_system, exchanged):
    new, old = folders
    if other_file_system:
        monkeypatch.setattr(files, "_renamed", lambda *_: False)
    if not exchanged:
        monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    move_folder(new, old)
    assert (old / "below/file").read_text() == "new"
    assert [path.name for path in old.parent.iterdir()] == ["old"]


def test_a_copy_that_finds_no_room_leaves_both_folders(folders, monkeypatch):
    new, old = folders

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "file")

    monkeypatch.setattr(files, "_renamed", lambda *_: False)
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        move_folder(new, old)
    assert sorted(path.read_text() for path in old.parent.rglob("file")) == ["new", "old"]


def test_an_old_folder_set_aside_by_a_killed_process_comes_back(folders):
    new, old = folders
    old.rename(old.with_name("old.old.part"))
    with pytest.raises(RuntimeError), whole_folder(old):
        raise RuntimeError
    move_folder(new, old)
    assert [path.name for path in old.parent.iterdir()] == ["old"]


def test_a_link_to_another_disk_stays_one(folders, tmp_path):
    _, old = folders
    (tmp_path / "link").symlink_to(old)
    for number in range(2):
        with whole_folder(tmp_path / "link") as part:
            (part / "file").write_text(str(number))
        assert (tmp_path / "link").is_symlink()
        assert [path.name for path in old.iterdir()] == ["file"]
        assert (old / "file").read_text() == str(number)


def test_a_rename_that_fails_at_the_end_leaves_both_folders(folders, monkeypatch):
    new, old = folders
    rename, calls = Path.rename, []

    def third_fails(path, target):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.EACCES, "Permission denied", str(path))
        return rename(path, target)

    monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    monkeypatch.setattr(Path, "rename", third_fails)
    with pytest.raises(OSError, match="Permission denied"):
        move_folder(new, old)
    assert (new / "below/file").read_text() == "new"
    assert (old / "below/file").read_text() == "old"
