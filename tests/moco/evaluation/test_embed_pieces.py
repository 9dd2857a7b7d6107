"""Pieces: each image once whatever the processes, whole or not at all, and made once."""

from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from piece_engines import Here

from moco.encoders.anyones import Stated
from moco.encoders.frozen import EncoderSpec, FrozenEncoder, load_encoder, random_encoder, save_encoder
from moco.encoders.kinds import network_of
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.encoders.resnet import ResNet
from moco.errors import MocoError
from moco.evaluation.embed import embed_into
from moco.evaluation.embed_pieces import Anywhere, Pieces, Share, embed_elsewhere, embed_pieces
from moco.evaluation.inputs import find_images

ALONE = Share(0, 1, 0, 1)
SPEC = EncoderSpec(
    network_of("thin", "small"), 12, 1.0, IMAGENET_MEAN, IMAGENET_STD, ResNet("thin", "small").feature_dim, "test"
)


@pytest.fixture(scope="module")
def encoder() -> FrozenEncoder:
    return random_encoder(SPEC, 0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(11):
        cv2.imwrite(str(tmp_path / f"photos/{number:02d}.png"), rng.integers(0, 255, (14, 14, 3), dtype=np.uint8))
    return tmp_path / "photos"


def run(encoder, photos, pieces, share=ALONE, made_by="a") -> int:
    pieces.prepare([photos])
    return embed_pieces(encoder, made_by, find_images([photos], print), pieces, share)[0]


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("count", [1, 4, 11, 13])
def test_the_processes_write_each_image_once_and_in_order(encoder, photos, tmp_path, count, world_size):
    pieces = Pieces(tmp_path / "deep/features", count)
    made = [run(encoder, photos, pieces, Share(rank, world_size, 0, 1)) for rank in range(world_size)]
    assert sum(made) == count == pieces.there() and max(made) - min(made) <= 1
    assert len(list(pieces.folder.iterdir())) == count
    embed_into(encoder, find_images([photos], print), tmp_path / "whole.parquet")
    whole, together = pq.read_table(tmp_path / "whole.parquet"), pq.read_table(pieces.folder)
    assert together["path"].to_pylist() == whole["path"].to_pylist()
    features = [np.stack(table["features"].to_pylist()) for table in (together, whole)]
    np.testing.assert_allclose(*features, rtol=1e-4, atol=1e-5)


def test_only_what_is_missing_or_made_of_other_images_or_weights_is_made(encoder, photos, tmp_path):
    pieces = Pieces(tmp_path / "features", 4)
    assert run(encoder, photos, pieces) == 4
    assert run(encoder, photos, pieces) == 0
    pieces.path(2).unlink()
    pieces.path(3).write_bytes(b"half")
    assert run(encoder, photos, pieces) == 2
    cv2.imwrite(str(photos / "00.png"), np.zeros((9, 9, 3), np.uint8))  # in the first piece
    assert run(encoder, photos, pieces) == 1
    (photos / "10.png").rename(photos / "99.png")  # in the last one
    assert run(encoder, photos, pieces) == 1
    assert run(encoder, photos, pieces, made_by="b") == 4


def test_a_process_that_is_stopped_leaves_whole_pieces_only(encoder, photos, tmp_path, monkeypatch):
    pieces, launched = Pieces(tmp_path / "features", 4), []

    def stopped(images):
        launched.append(len(images))
        if len(launched) == 3:
            raise KeyboardInterrupt
        return encoder.embed(images)

    broken = random_encoder(SPEC, 0)
    monkeypatch.setattr(broken, "launch", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(broken, photos, pieces)
    assert sorted(path.name for path in pieces.folder.iterdir()) == [pieces.path(n).name for n in (0, 1)]
    assert run(encoder, photos, pieces) == 2


def test_a_piece_without_a_readable_image_has_no_row(encoder, photos, tmp_path, capsys):
    images = find_images([photos], print)
    for image in images[:3]:
        image.file.write_text("no image")
    pieces = Pieces(tmp_path / "features", 4)
    pieces.prepare([photos])
    made, count = embed_pieces(encoder, "a", images, pieces, ALONE)
    assert (made, count.images, count.skips.count) == (4, 8, 3)
    assert pq.read_table(pieces.path(0)).num_rows < pq.read_table(pieces.path(3)).num_rows == 3
    assert capsys.readouterr().err.count("skipped") == 3


def test_pieces_of_another_number_are_named_and_left_alone(encoder, photos, tmp_path):
    run(encoder, photos, Pieces(tmp_path / "features", 4))
    with pytest.raises(MocoError, match=r"piece-00000-of-00004.parquet: is no piece of 5; give --pieces as before"):
        run(encoder, photos, Pieces(tmp_path / "features", 5))
    assert Pieces(tmp_path / "features", 4).there() == 4


def test_pieces_do_not_lie_among_the_images(encoder, photos):
    with pytest.raises(MocoError, match=r"features: lies in .*photos, whose files are embedded; name another"):
        run(encoder, photos, Pieces(photos / "features", 2))
    assert not (photos / "features").exists()


def test_a_folder_that_cannot_be_made_is_named(encoder, photos, tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(MocoError, match="taken: File exists; name a folder with --output"):
        run(encoder, photos, Pieces(tmp_path / "taken", 2))


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ALONE),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}, Share(5, 8, 1, 4)),
        (
            {
                "SLURM_PROCID": "9",
                "SLURM_STEP_NUM_TASKS": "20",
                "SLURM_LOCALID": "1",
                "SLURM_STEP_TASKS_PER_NODE": "8(x2),4",
            },
            Share(9, 20, 1, 8),
        ),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "20"}, ALONE),
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, Share(1, 2, 0, 1)),
    ],
    ids=["alone", "torchrun", "srun", "a batch script", "torchrun in a Slurm job"],
)
def test_a_process_finds_its_share_in_what_started_it(variables, expected):
    assert Share.of(variables) == expected


@pytest.mark.parametrize(
    ("visible", "local_rank", "local_world_size", "expected"),
    [(8, 0, 1, range(8)), (8, 3, 8, [3]), (8, 1, 2, [1, 3, 5, 7]), (1, 3, 8, [0])],
    ids=["one process", "one a GPU", "two processes", "confined by Slurm"],
)
def test_processes_of_a_host_share_its_gpus(visible, local_rank, local_world_size, expected):
    gpus = [torch.device("cuda", number) for number in range(visible)]
    assert Share(0, 1, local_rank, local_world_size).devices(gpus) == [gpus[number] for number in expected]


def test_other_hosts_make_the_same_pieces_and_only_those_that_are_missing(photos, tmp_path, capsys):
    save_encoder(tmp_path / "encoder", ResNet("thin", "small"), SPEC)
    (photos / "05.png").write_bytes(b"no image")
    here, there = Pieces(tmp_path / "here", 4), Pieces(tmp_path / "there", 4)
    run(load_encoder(tmp_path / "encoder"), photos, here)
    there.prepare([photos])
    work, images = Anywhere(tmp_path / "encoder", Stated(), "cpu", there), find_images([photos], print)
    with pytest.raises(KeyboardInterrupt):
        embed_elsewhere(Here([3, 0, 1, 2], stop_after=1), tmp_path, work, "a", images)
    assert there.there() == 1
    (there.folder / "piece-00001-of-00004.n2.71.9.part.parquet").touch()  # of a process that was lost
    assert embed_elsewhere(Here(), tmp_path, work, "a", images) == (3, 7, 1)
    assert f"skipped {photos}/05.png: " in capsys.readouterr().err
    assert embed_elsewhere(Here(), tmp_path, work, "a", images) == (0, 0, 0)
    content = [{file.name: file.read_bytes() for file in pieces.folder.iterdir()} for pieces in (here, there)]
    assert content[0] == content[1]
