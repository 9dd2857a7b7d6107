"""The exact order from tars that are elsewhere: every image as indexed, whatever breaks."""

import os
import pickle
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_material import write_arrays
from tar_server import TarServer

from moco.errors import MocoError
from moco.images import exact_reads as module
from moco.images.exact_reads import ExactReads, cache_for
from moco.images.index import ShardSet, open_split
from moco.images.plan import EpochPlan
from moco.images.tar_cache import ends
from moco.images.tar_source import write_addresses


@pytest.fixture(scope="module")
def tars(tmp_path_factory) -> Path:
    """Nine shards of 203 noisy images of 2 kB."""
    noise = np.random.default_rng(0).integers(0, 256, (203, 44, 44), dtype=np.uint8)
    return write_arrays(tmp_path_factory.mktemp("set"), [(noise, None, "train")], [], 23, val_fraction=0)


@pytest.fixture
def index(tars, tmp_path) -> ShardSet:
    """The index alone: the tars are elsewhere."""
    (tmp_path / "index").mkdir()
    for file in ("index.json", "train.index.npy"):
        shutil.copy(tars / file, tmp_path / "index")
    return open_split(tmp_path / "index", "train")


@pytest.fixture
def server(tars):
    server = TarServer(tars)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(module, "PAUSES", (0.01, 0.02, 0.04))
    monkeypatch.setattr(module, "LATER", ())


PLAN = EpochPlan(203, 12, 0)


def check(tars: Path, reads: ExactReads, steps, first: int = 0, last: int = 12) -> None:
    here = open_split(tars, "train")
    for step in steps:
        expected = [here.read(number) for number in PLAN.batch(step)[first:last].tolist()]
        assert reads.read(step, first, last) == expected, step


def test_two_epochs_are_read_in_the_exact_order(tars, index, server):
    check(tars, ExactReads(index, PLAN, server.url), range(2 * PLAN.steps_per_epoch))


def test_a_folder_and_a_list_of_addresses_serve_as_well(tars, index, server, tmp_path):
    check(tars, ExactReads(index, PLAN, str(tars)), range(3))
    objects = {}
    for number, shard in enumerate(index.shards):
        (tmp_path / "objects").mkdir(exist_ok=True)
        shutil.copy(tars / shard, tmp_path / "objects" / f"{number:032x}")
        objects[shard] = str(tmp_path / "objects" / f"{number:032x}")
    write_addresses(tmp_path / "tars.json", objects, None)
    reads = ExactReads(index, PLAN, f"list:{tmp_path / 'tars.json'}")
    check(tars, pickle.loads(pickle.dumps(reads)), range(3), 3, 9)


def test_steps_out_of_order_are_right_too(tars, index, server):
    check(tars, ExactReads(index, PLAN, server.url), [5, 6, 2, 3, 30, 0], 6, 12)


def test_an_overloaded_server_is_asked_again(tars, index, server, capsys):
    server.refuse = [503] * 20 + [429] * 3
    check(tars, ExactReads(index, PLAN, server.url), range(4))
    assert capsys.readouterr().out.count("it is asked again") == 1


def test_a_broken_connection_is_asked_again(tars, index, server):
    server.drop_after = 100
    reads = ExactReads(index, PLAN, server.url)
    with pytest.raises(MocoError, match=r"train-00000\d.tar: .*, 4 times in a row; once it can be read"):
        reads.read(0, 0, 12)
    server.drop_after = None
    check(tars, reads, range(2))


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (
            lambda server: setattr(server, "ranges", False),
            "the server answers with the whole file for a part of it; check",
        ),
        (
            lambda server: setattr(server, "folder", server.folder / "nowhere"),
            "the server answers with error 404; check",
        ),
    ],
)
def test_a_server_that_cannot_serve_is_one_line_at_once(index, server, fault, told):
    fault(server)
    with pytest.raises(MocoError, match=told):
        ExactReads(index, PLAN, server.url).read(0, 0, 12)


def test_other_tars_than_the_indexed_ones_are_refused(tars, index, tmp_path):
    (tmp_path / "other").mkdir()
    keys = [index.key(i).encode() for i in range(len(index))]
    for shard in index.shards:
        data = (tars / shard).read_bytes()
        for key in keys:
            data = data.replace(key, key[::-1])
        (tmp_path / "other" / shard).write_bytes(data)
    with pytest.raises(MocoError, match="is not the tar that was indexed"):
        ExactReads(index, PLAN, str(tmp_path / "other")).read(0, 0, 12)


def test_what_is_read_forwards_only_says_what_to_set(index):
    with pytest.raises(MocoError, match=r"is read forwards only; set pretrain.stream, for example"):
        ExactReads(index, PLAN, "pipe:cat {shard}").read(0, 0, 12)


def test_a_list_that_is_missing_or_lacks_a_tar_is_one_line(index, tmp_path):
    with pytest.raises(MocoError, match=r"tars.json: no list of the tars' addresses"):
        ExactReads(index, PLAN, f"list:{tmp_path / 'tars.json'}").read(0, 0, 12)
    write_addresses(tmp_path / "tars.json", {index.shards[0]: "/x.tar"}, None)
    with pytest.raises(MocoError, match=r"is not among the objects of the DVC remote|No such file"):
        ExactReads(index, PLAN, f"list:{tmp_path / 'tars.json'}").read(0, 0, 12)


@pytest.mark.parametrize("kept", [4, 9])
def test_the_cache_holds_whole_tars_within_its_bound_and_serves_them(tars, index, server, tmp_path, kept):
    bound = sum(ends(index)[:kept])
    cache = cache_for(index, tmp_path, bound / 1e9)
    assert cache is not None
    reads = ExactReads(index, PLAN, server.url, cache)
    check(tars, reads, range(1))
    deadline = time.monotonic() + 20
    while len(list(cache.folder.glob("train-??????.tar"))) < kept or len(cache._files) < kept:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    check(tars, reads, range(1, PLAN.steps_per_epoch))
    assert sum(path.stat().st_size for path in cache.folder.glob("*.tar")) <= bound
    asked = len(server.asked)
    check(tars, reads, range(PLAN.steps_per_epoch, PLAN.steps_per_epoch + 8))
    share = (len(server.asked) - asked) / (12 * 8)
    assert share == 0 if kept == 9 else 0.3 < share < 0.9  # 5 of 9 tars, and what is ahead
    again = ExactReads(index, PLAN, "http://127.0.0.1:9", cache_for(index, tmp_path, bound / 1e9))
    if kept == 9:  # of an earlier run
        check(tars, again, range(2))
    assert cache_for(index, tmp_path, 0) is None


def test_without_credentials_an_object_on_s3_is_one_line(index, tmp_path, monkeypatch):
    pytest.importorskip("botocore")
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere/config")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere/credentials")
    write_addresses(tmp_path / "tars.json", dict.fromkeys(index.shards, "s3://a/b"), "http://127.0.0.1:9")
    with pytest.raises(MocoError, match=r"s3://a/b: Unable to locate credentials; set AWS_ACCESS_KEY_ID"):
        ExactReads(index, PLAN, f"list:{tmp_path / 'tars.json'}").read(0, 0, 12)


def test_without_botocore_the_command_aws_signs(tars, index, server, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    program = tmp_path / "bin/aws"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\necho {server.url}/$(basename $5)\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    module_cache = sys.modules["moco.images.tar_source"]._s3_client
    module_cache.cache_clear()
    write_addresses(tmp_path / "tars.json", {shard: f"s3://a/{shard}" for shard in index.shards}, "http://e")
    check(tars, ExactReads(index, PLAN, f"list:{tmp_path / 'tars.json'}"), range(1))
    assert "--endpoint-url http://e s3 presign s3://a/train-" in (tmp_path / "asked").read_text()
    module_cache.cache_clear()
