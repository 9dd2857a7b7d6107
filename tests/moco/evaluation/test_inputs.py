"""Images by whatever names them: folders, files, lists, and tars as webdataset reads them."""

import io
import os
import tarfile
from pathlib import Path

import pytest
import webdataset

from moco.errors import MocoError
from moco.evaluation.inputs import Skips, find_images
from moco.images.decode import UndecodableError

ODD = [
    "b.jpg",
    "b.json",
    "c.seg.png",
    "c.JPG",
    "d.v1.jpg",
    "x/./e.png",
    "./f.webp",
    ".g.jpg",
    "h",
    "__m__",
    "a.b/i.jpg",
]


def a_tar(path: Path, names: list[str]) -> Path:
    """A tar whose members hold their own names."""
    with tarfile.open(path, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    return path


def names(*arguments: Path, skipped=None) -> list[str]:
    return [image.name for image in find_images(arguments, skipped or Skips())]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("photos/a.png", "photos/deep/b.png", "photos/.hidden.png", "other/a.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    return tmp_path


def test_names_are_relative_to_one_argument_and_whole_with_several(here):
    assert names(Path("photos")) == ["a.png", "deep/b.png"]
    assert names(here / "photos" / "a.png") == ["a.png"]
    several = names(Path("photos"), Path("other"), Path("other/a.png"))
    assert several == ["photos/a.png", "photos/deep/b.png", "other/a.png", "other/a.png"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "a.png\n\n../other/a.png\r\n"),
        ("list.csv", "label,path\n0,a.png\n1,../other/a.png\n"),
        ("list.csv", "\ufeffa.png\n../other/a.png\n"),
        ("list.tsv", "path\tlabel\na.png\t0\n../other/a.png\t1\n"),
    ],
)
def test_a_list_is_of_paths_relative_to_its_folder(here, name, text):
    (here / "photos" / name).write_text(text)
    found = find_images([Path("photos") / name], Skips())
    assert [image.name for image in found] == ["a.png", "../other/a.png"]
    assert [image.read().decode() for image in found] == ["photos/a.png", "other/a.png"]
    assert [image.bytes_there() for image in found] == [12, 11]
    found[0].file.unlink()
    assert found[0].bytes_there() is None and found[0].place == str(Path("photos/a.png"))


def test_a_tar_gives_the_image_of_each_sample_under_webdatasets_key(here, capsys):
    tar = a_tar(here / "odd.tar", ODD)
    found = {image.name: image.read().decode() for image in find_images([tar], Skips())}
    assert found == {
        "b": "b.jpg",
        "c": "c.JPG",
        "d": "d.v1.jpg",
        "x/./e": "x/./e.png",
        "./f": "./f.webp",
        "a.b/i": "a.b/i.jpg",
    }
    samples = [sample["__key__"] for sample in webdataset.WebDataset(str(tar), shardshuffle=False)]
    assert samples == ["b", "c", "d", "x/./e", "./f", "a.b/i"]
    sizes = {image.name: (image.bytes_there(), image.place) for image in find_images([tar], Skips())}
    assert sizes["./f"] == (8, f"./f in {tar}")
    assert "skipped" not in capsys.readouterr().err


def test_tars_in_folders_and_lists_are_opened_too(here):
    a_tar(here / "photos/deep/t.tar", ["1.jpg", "2.png"])
    (here / "list.txt").write_text("photos/deep/t.tar\n")
    assert names(Path("photos")) == ["a.png", "deep/b.png", "deep/t.tar/1", "deep/t.tar/2"]
    assert names(Path("list.txt")) == ["photos/deep/t.tar/1", "photos/deep/t.tar/2"]
    assert names(Path("photos/deep/t.tar"), Path("photos/a.png"))[0] == "photos/deep/t.tar/1"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700])


def cut_within(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:514])


def scribble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[1024:1536] = b"x" * 512
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, cut_within, scribble, lambda path: path.write_bytes(b"no tar" * 200)])
def test_a_damaged_tar_is_named_and_never_half_read(here, damage):
    tar = a_tar(here / "t.tar", ["1.jpg", "2.jpg", "3.jpg"])
    damage(tar)
    with pytest.raises(MocoError, match=r"t\.tar: damaged, or no plain tar \(.*\); restore it"):
        find_images([tar], Skips())


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("nowhere", None, "nowhere: no such file or folder; give images, folders, lists"),
        ("*.png", None, "the shell found nothing that matches"),
        ("t.tar.gz", b"x", "is compressed; unpack it"),
        ("empty.txt", b"\n", "lists no path"),
        ("list.csv", b"a,b\n1,2\n", r"no column path \(columns: a, b\)"),
        ("list.txt", b"\xff\xfe", "not a list in UTF-8"),
    ],
)
def test_what_names_no_image_is_refused_in_one_line(here, name, data, said):
    if data is not None:
        Path(name).write_bytes(data)
    with pytest.raises(MocoError, match=said) as raised:
        find_images([Path(name)], Skips())
    assert "\n" not in str(raised.value)


def test_linked_folders_are_followed_but_not_in_a_circle(here):
    Path("links").mkdir()
    Path("links/photos").symlink_to(here / "photos")
    Path("links/up").symlink_to(here / "links")
    Path("links/gone.png").symlink_to("nowhere")
    assert names(Path("links")) == ["photos/a.png", "photos/deep/b.png"]


def test_what_systems_put_into_a_folder_is_left_out_and_said(here, capsys):
    Path("photos/@eaDir/a.png").mkdir(parents=True)
    Path("photos/@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg").write_text("small")
    Path("photos/deep/Thumbs.db").write_text("many")
    assert names(Path("photos")) == ["a.png", "deep/b.png"]
    assert capsys.readouterr().err == "skipped photos: left out what systems put there: @eaDir (1), Thumbs.db (1)\n"


def test_names_that_differ_in_bytes_that_are_no_utf_8_stay_apart(here):
    for name in (b"photos/\xff.png", b"photos/\xfe.png", b"photos/two\nlines\r.png"):
        Path(os.fsdecode(name)).write_text("x")
    assert set(names(Path("photos"))) == {"a.png", "deep/b.png", r"\xff.png", r"\xfe.png", "two\nlines\r.png"}


def test_a_file_that_no_image_can_be_is_not_read_into_memory(here):
    with Path("photos/film.mov").open("wb") as film:
        film.truncate(10**9)
    film_image = next(image for image in find_images([Path("photos")], Skips()) if image.name == "film.mov")
    with pytest.raises(UndecodableError, match="larger than 256 MB"):
        film_image.read()


def test_an_empty_folder_is_named_and_a_name_that_is_no_text_can_be_written(here):
    (here / "empty").mkdir()
    with pytest.raises(MocoError, match="holds no file"):
        find_images([here / "empty"], Skips())
    Path(os.fsdecode(b"empty/\xff.png")).touch()
    (name,) = names(here / "empty")
    assert name == r"\xff.png"
