"""Features of a folder: the right ones, whatever lies among the images."""

import csv
import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from moco.encoders.frozen import EncoderSpec, FrozenEncoder
from moco.encoders.kinds import network_of
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.encoders.resnet import ResNet
from moco.errors import MocoError
from moco.evaluation import embed
from moco.evaluation.embed import check_output, embed_files, write_features
from moco.evaluation.inputs import find_images
from moco.features.extract import embed_images
from moco.images.decode import decode


@pytest.fixture(scope="module")
def encoder() -> FrozenEncoder:
    backbone = ResNet("thin", "small")
    spec = EncoderSpec(
        network_of("thin", "small"), 12, 0.875, IMAGENET_MEAN, IMAGENET_STD, backbone.feature_dim, "hash"
    )
    return FrozenEncoder(backbone, spec)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "photos" / "deep er").mkdir(parents=True)
    for number in range(5):
        place = tmp_path / "photos" / ("deep er" if number % 2 else "") / f"{number}.png"
        cv2.imwrite(str(place), rng.integers(0, 255, (16 + number, 30, 3), dtype=np.uint8))
    return tmp_path / "photos"


def run(encoder, folder, output) -> tuple[int, list[str]]:
    skipped: list[str] = []
    batches = embed_files(encoder, find_images([folder], None), lambda place, why: skipped.append(f"{place}: {why}"))
    return write_features(output, batches, encoder.spec.feature_dim), skipped


def expected(encoder, folder) -> tuple[list[str], np.ndarray]:
    paths = sorted(folder.rglob("*.png"))
    features = embed_images(encoder, [decode(path.read_bytes()) for path in paths])
    return [path.relative_to(folder).as_posix() for path in paths], features


@pytest.mark.parametrize("batch", [2, 256])
def test_parquet_holds_each_image_once_with_its_own_features(encoder, folder, tmp_path, monkeypatch, batch):
    monkeypatch.setattr(embed, "BATCH", batch)
    assert run(encoder, folder, tmp_path / "f.parquet") == (5, [])
    table = pq.read_table(tmp_path / "f.parquet")
    paths, features = expected(encoder, folder)
    assert table["path"].to_pylist() == paths
    np.testing.assert_allclose(np.stack(table["features"].to_pylist()), features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [2, 256])
def test_npy_has_a_row_for_each_line_of_its_list(encoder, folder, tmp_path, monkeypatch, batch):
    monkeypatch.setattr(embed, "BATCH", batch)
    run(encoder, folder, tmp_path / "f.npy")
    paths, features = expected(encoder, folder)
    assert (tmp_path / "f.txt").read_text().splitlines() == paths
    np.testing.assert_allclose(np.load(tmp_path / "f.npy"), features, rtol=1e-4, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.npy", "f.txt", "photos"]


def test_what_is_no_image_is_named_with_its_reason_and_skipped(encoder, folder, tmp_path):
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:60])
    (folder / "empty.jpg").touch()
    (folder / ".hidden.png").write_bytes(b"x")
    (folder / "notes.txt").write_text("hello")
    written, skipped = run(encoder, folder, tmp_path / "f.npy")
    assert written == 5 and np.load(tmp_path / "f.npy").shape[0] == 5
    names = ["broken.png", "empty.jpg", "notes.txt"]
    assert [line.split(":")[0] for line in skipped] == [str(folder / name) for name in names]
    assert f"{folder / 'empty.jpg'}: empty file" in skipped


@pytest.mark.parametrize("name", ["f.npy", "f.parquet"])
def test_a_folder_without_one_readable_image_leaves_no_file(encoder, tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("hello")
    with pytest.raises(MocoError, match="not one of the files is a readable image"):
        run(encoder, tmp_path / "in", tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_failure_leaves_the_former_file_as_it_was(encoder, folder, tmp_path):
    (tmp_path / "f.npy").write_bytes(b"former")

    def failing():
        yield from embed_files(encoder, find_images([folder], None), print)
        raise RuntimeError("the power went")

    with pytest.raises(RuntimeError):
        write_features(tmp_path / "f.npy", failing(), encoder.spec.feature_dim)
    assert (tmp_path / "f.npy").read_bytes() == b"former"
    shutil.rmtree(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["f.npy"]


@pytest.mark.parametrize(
    ("output", "complaint"), [("f.json", r"name the output .parquet, .npy or .csv"), ("no/f.npy", "no: no such folder")]
)
def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path, output, complaint):
    def never():
        raise AssertionError("work was begun")
        yield

    with pytest.raises(MocoError, match=complaint):
        write_features(tmp_path / output, never(), 3)


@pytest.mark.parametrize("batch", [2, 256])
def test_csv_has_a_row_for_each_image_with_all_digits(encoder, folder, tmp_path, monkeypatch, batch):
    monkeypatch.setattr(embed, "BATCH", batch)
    (folder / "0.png").rename(folder / 'a "0", b.png')
    run(encoder, folder, tmp_path / "f.csv")
    run(encoder, folder, tmp_path / "f.npy")
    with (tmp_path / "f.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["path", *(f"f{column}" for column in range(encoder.spec.feature_dim))]
    assert [row[0] for row in rows] == (tmp_path / "f.txt").read_text().splitlines()
    assert np.array_equal(np.array([row[1:] for row in rows], np.float32), np.load(tmp_path / "f.npy"))


def test_a_name_with_line_ends_is_a_row_of_each_output(encoder, folder, tmp_path):
    name = "two\nlines\r\u2028.png"
    (folder / "0.png").rename(folder / name)
    for output in ("f.csv", "f.npy", "f.parquet"):
        assert run(encoder, folder, tmp_path / output)[0] == 5
    with (tmp_path / "f.csv").open(newline="", encoding="utf-8") as file:
        assert name in [row[0] for row in csv.reader(file)]
    assert name in pq.read_table(tmp_path / "f.parquet")["path"].to_pylist()
    lines = (tmp_path / "f.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 5 and r"two\nlines\r\u2028.png" in lines


def test_an_output_never_replaces_a_file_that_is_read(tmp_path):
    (tmp_path / "list.txt").write_text("a.png")
    check_output(tmp_path / "list.parquet", [tmp_path / "list.txt"])
    for output, given in (("list.npy", "list.txt"), ("list.txt", "./list.txt")):
        with pytest.raises(MocoError, match=r"would replace .*list\.txt, which is read; name another file"):
            check_output(tmp_path / output, [tmp_path / given])


def test_features_do_not_depend_on_the_other_images_of_the_batch(encoder, folder, tmp_path):
    torch.manual_seed(0)
    run(encoder, folder, tmp_path / "all.npy")
    first = np.load(tmp_path / "all.npy")[0]
    for image in find_images([folder], None)[1:]:
        image.file.unlink()
    run(encoder, folder, tmp_path / "one.npy")
    np.testing.assert_allclose(np.load(tmp_path / "one.npy")[0], first, rtol=1e-4, atol=1e-5)
