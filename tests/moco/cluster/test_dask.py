"""Pieces on a Dask cluster: the same bytes for any number of workers, one of them killed."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from piece_engines import Killing
from PIL import Image
from small_material import write_images

from moco.cluster.engines import Dask
from moco.cluster.machine import load_machine
from moco.cluster.pieces import spread
from moco.config import Fetch, Shard
from moco.duplicates.blocks import Elsewhere
from moco.duplicates.find import find
from moco.duplicates.likeness import Copies
from moco.encoders.anyones import Stated
from moco.encoders.frozen import EncoderSpec, load_encoder, save_encoder
from moco.encoders.kinds import network_of
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.encoders.resnet import ResNet
from moco.errors import MocoError
from moco.evaluation.embed_pieces import Anywhere, Pieces, Share, embed_elsewhere, embed_pieces
from moco.evaluation.inputs import find_images
from moco.shards.write import write_shards
from moco.sources.open import open_source
from moco.sources.take_in import take_in
from moco.survey.run import survey

distributed = pytest.importorskip("distributed")
SETTINGS = Shard(
    samples_per_shard=4, merge_below=None, megabytes_per_shard=256, max_side=16, jpeg_quality=92, max_bad_fraction=0.05
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of 110 images, 20 of them near-duplicates, by a path from the working directory."""
    folder = tmp_path_factory.mktemp("images")
    write_images(folder / "photos", each=30)
    for number, file in enumerate(sorted((folder / "photos/class0").glob("*.png"))[:10]):
        with Image.open(file) as image:
            image.save(file.with_name(f"copy{number}.jpg"), quality=95)
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(file.with_name(f"mirror{number}.png"))
    for file in (folder / "photos").rglob("*.*"):
        os.utime(file, (10**9, 10**9))  # old enough for their time to tell that they are as they were
    return os.path.relpath(folder / "photos")


class Workers:
    """Processes `dask worker` of this host, and their scheduler."""

    def __init__(self, count, threads, folder):
        self.scheduler = distributed.LocalCluster(n_workers=0, dashboard_address=None)
        self.address, self.threads, self.folder = self.scheduler.scheduler_address, threads, folder
        self.processes = []
        for _ in range(count):
            self.start()

    def start(self):
        options = ["--nthreads", str(self.threads), "--no-nanny", "--no-dashboard", "--local-directory", self.folder]
        command = [sys.executable, "-m", "distributed.cli.dask_worker", self.address, *options]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        self.processes.append(subprocess.Popen(command, env=environment, cwd=self.folder, stderr=subprocess.DEVNULL))

    def replace_one(self):
        """Kill a worker; another one comes, as from a batch system."""
        lost = self.processes.pop(0)
        lost.kill()
        lost.wait()
        self.start()

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()
        self.scheduler.close()


@pytest.fixture
def cluster(tmp_path_factory):
    """Make a Dask cluster whose workers are processes of this host, in a folder of their own."""
    made = []

    def make(workers, threads=1):
        made.append(Workers(workers, threads, tmp_path_factory.mktemp("workers")))
        return made[-1]

    yield make
    for one in made:
        one.close()


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def fetched(photos, folder, engine=None):
    settings = Fetch(source="folder", path=photos, labels="folders", val_fraction=0.1, test_fraction=0.1, split_seed=0)
    take_in(open_source(settings), settings, folder / "raw", None, folder / "marks.sqlite", engine=engine)
    return folder / "raw"


@pytest.mark.parametrize(
    ("workers", "threads"),
    [pytest.param(1, 4, marks=pytest.mark.slow), (2, 1), pytest.param(4, 1, marks=pytest.mark.slow)],
)
def test_any_number_of_workers_one_of_them_killed_make_the_same(
    photos, cluster, tmp_path, monkeypatch, workers, threads
):
    for name in ("moco.sources.hashing.CHUNK_ELSEWHERE", "moco.duplicates.blocks.FEWEST"):
        monkeypatch.setattr(name, 7)
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    here = made_by(None, photos, tmp_path / "here")
    dask = cluster(workers, threads)
    engine, killed = Dask(kind="dask", scheduler=dask.address), []

    def killing():
        killed.append(Killing(engine, dask.replace_one))
        return killed[-1]

    assert here == made_by(killing, photos, tmp_path / "there")
    assert len(killed) == 5
    assert all(one.killed for one in killed), "a worker was killed in each step"


def encoder_in(folder):
    """Write an encoder with random weights."""
    torch.manual_seed(0)
    network = ResNet("thin", "small")
    spec = EncoderSpec(network_of("thin", "small"), 12, 1.0, IMAGENET_MEAN, IMAGENET_STD, network.feature_dim, "0" * 16)
    save_encoder(folder, network, spec)
    return folder


def made_by(engine, photos, folder):
    """What each of the four steps makes, by an engine or by this host alone."""
    runs, there = folder / "runs", engine or (lambda: None)
    raw = fetched(photos, folder, there())
    write_shards(raw, folder / "shards", runs, SETTINGS, 1, there())
    found = survey(folder / "shards", runs / "survey", "check", there())
    twins = find(found, Copies(), 7, 0.5, True, engine and Elsewhere(there(), runs / "survey", "check"))
    pieces = Pieces(folder / "features", 5)
    pieces.prepare([])
    images = find_images([Path(photos)], print)
    encoder = encoder_in(folder / "encoder")
    if engine:
        embed_elsewhere(there(), runs, Anywhere(encoder, Stated(), "cpu", pieces), "a", images)
    else:
        embed_pieces(load_encoder(encoder), "a", images, pieces, Share(0, 1, 0, 1))
    assert pq.read_table(folder / "features")["path"].to_pylist() == [image.name for image in images]
    assert {pair.kind for pair in twins.pairs} == {"near", "mirrored"}
    assert sorted(path.name for path in runs.iterdir()) == ["survey"]
    assert {path.suffix for path in (runs / "survey").iterdir()} == {".npy"}
    assert len(list(folder.iterdir())) == 6
    return (content(raw), content(folder / "shards"), content(runs / "survey"), twins, content(folder / "features"))


def failing(item):
    """Fail at one item."""
    if item == 3:
        raise MocoError("photos/3.png: has changed since fetch")
    return item


def test_an_error_of_a_piece_is_the_drivers(cluster, tmp_path, capsys):
    engine = Dask(kind="dask", scheduler=cluster(1).address)
    assert list(spread(engine, "count", tmp_path / "work", abs, range(3))) == [0, 1, 2]
    with pytest.raises(MocoError, match=r"photos/3\.png: has changed since fetch"):
        list(spread(engine, "count", tmp_path / "work", failing, range(5)))
    assert list(tmp_path.iterdir()) == []


def test_no_scheduler_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("moco.cluster.engines.SECONDS_TO_CONNECT", 1)
    (tmp_path / "machine.yaml").write_text(yaml.safe_dump({"engine": {"kind": "dask", "scheduler": "tcp://[::1]:9"}}))
    engine = load_machine(tmp_path / "machine.yaml").elsewhere
    with pytest.raises(MocoError, match=r"engine\.scheduler = tcp://\[::1\]:9: no Dask scheduler answers"):
        list(spread(engine, "count", tmp_path / "work", abs, range(3)))
