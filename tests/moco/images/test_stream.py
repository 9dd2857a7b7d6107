"""Reading shards from real servers: every image as indexed, whatever breaks."""

import functools
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from small_material import write_arrays
from tar_server import TarServer

from moco.errors import MocoError
from moco.images import stream as module
from moco.images import tar_source
from moco.images.index import ShardSet, open_split
from moco.images.stream import TarStreams
from moco.images.stream_plan import StreamPlan

CURL = shutil.which("curl")
needs_curl = pytest.mark.skipif(CURL is None, reason="needs curl")


@pytest.fixture(scope="module")
def tars(tmp_path_factory) -> Path:
    """Nine shards of 203 noisy images of 2 kB."""
    base = tmp_path_factory.mktemp("set")
    noise = np.random.default_rng(0).integers(0, 256, (203, 44, 44), dtype=np.uint8)
    return write_arrays(base, [(noise, None, "train")], [], 23, val_fraction=0)


@pytest.fixture
def index(tars, tmp_path) -> ShardSet:
    """The index alone: the tars are elsewhere."""
    for file in ("index.json", "train.index.npy"):
        (tmp_path / "index").mkdir(exist_ok=True)
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
    monkeypatch.setattr(module, "LATER", (0.04,) * 6)


@functools.cache
def encoded(tars: Path) -> list[bytes]:
    images = open_split(tars, "train")
    return [images.read(number) for number in range(len(images))]


def plan_for(images: ShardSet, lanes: int = 4, window: int = 16, batch: int = 12) -> StreamPlan:
    bounds = np.searchsorted(images.entries["shard"], np.arange(len(images.shards) + 1))
    return StreamPlan(len(images), batch, 0, lanes, window, bounds)


def expected(tars: Path, plan: StreamPlan, step: int, first: int = 0, last: int | None = None) -> list[bytes]:
    return [encoded(tars)[number] for number in plan.batch(step)[first:last]]


def check(tars: Path, streams: TarStreams, steps, first: int = 0, last: int | None = None) -> None:
    last = streams.plan.global_batch if last is None else last
    for step in steps:
        assert streams.read(step, first, last) == expected(tars, streams.plan, step, first, last), step


def locations(tars: Path, server: TarServer) -> dict[str, str | None]:
    return {
        "http": server.url,
        "template": server.url + "/{shard}?token=x",
        "pipe": f"pipe:cat {tars}/{{shard}}",
        "folder": str(tars),
    }


@needs_curl
@pytest.mark.parametrize("kind", ["http", "template", "pipe", "folder"])
class TestFromAnywhere:
    def test_two_epochs_come_as_planned(self, kind, tars, index, server):
        plan = plan_for(index)
        check(tars, TarStreams(index, plan, locations(tars, server)[kind]), range(2 * plan.steps_per_epoch))

    def test_reading_can_begin_at_any_step(self, kind, tars, index, server):
        plan = plan_for(index)
        for step in range(0, 2 * plan.steps_per_epoch, 7):
            check(tars, TarStreams(index, plan, locations(tars, server)[kind]), range(step, step + 2))

    def test_steps_in_any_order_and_again_are_right_too(self, kind, tars, index, server):
        plan = plan_for(index)
        streams = TarStreams(index, plan, locations(tars, server)[kind])
        check(tars, streams, [3, 3, 2, 14, 0, 40, 1, 2, 15])
        check(tars, streams, [5, 6], 2, 9)

    @pytest.mark.parametrize(("lanes", "window"), [(1, 5), (12, 1), (2, 1000), (3, 23)])
    def test_lanes_and_windows_of_any_size(self, kind, lanes, window, tars, index, server):
        plan = plan_for(index, lanes, window)
        check(tars, TarStreams(index, plan, locations(tars, server)[kind]), range(14, 20))


def test_without_a_location_the_local_tars_are_read(tars):
    images = open_split(tars, "train")
    check(tars, TarStreams(images, plan_for(images)), range(20))


def read_part(streams: TarStreams, first: int, last: int) -> list[list[bytes]]:
    return [streams.read(step, first, last) for step in range(5, 20)]


@needs_curl
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_that_share_the_lanes_read_together_what_one_reads_alone(method, tars, index, server):
    streams = TarStreams(index, plan_for(index), server.url)
    check(tars, streams, [5])  # used before it travels
    with multiprocessing.get_context(method).Pool(2) as pool:
        halves = pool.starmap(read_part, [(streams, 0, 6), (streams, 6, 12)])
    for step, first, second in zip(range(5, 20), *halves, strict=True):
        assert first + second == expected(tars, streams.plan, step)
    check(tars, pickle.loads(pickle.dumps(streams)), [6, 7])
    check(tars, streams, [6, 7])


@needs_curl
class TestEconomy:
    def test_each_byte_range_is_asked_for_once(self, tars, index, server):
        plan = plan_for(index, lanes=2)
        check(tars, TarStreams(index, plan, server.url), range(plan.steps_per_epoch))
        time.sleep(0.3)  # what was read ahead
        assert len(set(server.asked)) == len(server.asked)

    def test_a_resumed_run_reads_no_shard_that_it_does_not_need(self, tars, index, server):
        plan = plan_for(index, lanes=1, batch=4)
        check(tars, TarStreams(index, plan, server.url), [40])
        time.sleep(0.3)
        assert len({path for path, _ in server.asked}) <= 3
        assert len(server.asked) <= 4

    def test_a_command_is_started_once_a_shard(self, tars, index, tmp_path):
        plan = plan_for(index, lanes=1, batch=4)
        (tmp_path / "cat").write_text(f"#!/bin/sh\necho $1 >> {tmp_path}/log\nexec cat {tars}/$1\n")
        (tmp_path / "cat").chmod(0o755)
        check(tars, TarStreams(index, plan, f"pipe:{tmp_path}/cat {{shard}}"), range(45))
        started = (tmp_path / "log").read_text().split()
        assert len(started) == len(set(started)) == 9

    def test_only_the_window_at_hand_and_the_next_are_held(self, tars, index):
        plan = plan_for(index, lanes=1, window=16, batch=4)
        streams = TarStreams(index, plan, str(tars))
        for step in range(plan.steps_per_epoch):
            streams.read(step, 0, 4)
            held = [len(reading.images.result()) for reading in streams._lanes[0]._readings.values()]
            assert sum(held) <= 32
            assert len(held) <= 2


@needs_curl
class TestFaults:
    def test_broken_connections_resume_at_the_same_byte_and_are_reported_once(self, tars, index, server, capfd):
        server.drop_after = 9000  # four images
        check(tars, TarStreams(index, plan_for(index), server.url), range(12))
        said = capfd.readouterr().out.splitlines()
        assert len(said) == 1
        assert "train-00000" in said[0] and "reading resumes at the same byte" in said[0]
        assert len(server.asked) > 12
        assert len(set(server.asked)) == len(server.asked)  # each begins where none did before

    def test_a_server_that_knows_no_ranges_is_read_from_the_start_of_each_shard(self, tars, index, server):
        server.ranges = False
        plan = plan_for(index)
        streams = TarStreams(index, plan, server.url)
        check(tars, streams, range(2, plan.steps_per_epoch))
        assert len([part for _, part in server.asked if part]) <= 8

    def test_a_server_that_is_overloaded_for_a_while_is_asked_again(self, tars, index, server):
        server.refuse = [503, 500, 429, 503]
        check(tars, TarStreams(index, plan_for(index), server.url), range(3))

    def test_a_server_that_stays_away_is_an_error_in_the_end(self, index, server):
        server.refuse = [503] * 1000
        with pytest.raises(
            MocoError, match=r"train-00000\d\.tar: .*503, 4 times in a row; once it can be read, the same command"
        ):
            TarStreams(index, plan_for(index), server.url).read(0, 0, 12)
        streams = TarStreams(index, plan_for(index), "http://127.0.0.1:9")
        with pytest.raises(MocoError, match=r"http://127.0.0.1:9/train-00000\d\.tar: curl: \(7\)"):
            streams.read(0, 0, 12)

    def test_a_server_that_images_came_from_is_waited_for_longer(self, tars, index, server):
        plan = plan_for(index, lanes=1)
        streams = TarStreams(index, plan, server.url)
        check(tars, streams, [0])
        time.sleep(0.3)  # what was read ahead
        server.refuse = [503] * 9
        check(tars, streams, range(1, 6))
        assert not server.refuse
        server.refuse = [503] * 1000
        with pytest.raises(MocoError, match=r"503, 10 times in a row"):
            check(tars, streams, range(6, plan.steps_per_epoch))

    @pytest.mark.parametrize("status", [404, 403])
    def test_a_missing_shard_is_an_error_at_once(self, status, index, server):
        server.refuse = [status] * 4
        with pytest.raises(MocoError, match=rf"{status}; check machine.yaml's shards_from") as error:
            TarStreams(index, plan_for(index), server.url + "/{shard}?secret").read(0, 0, 12)
        assert "secret" not in str(error.value) and "\n" not in str(error.value)
        assert len(server.asked) <= 4

    def test_other_shards_of_the_same_names_are_noticed(self, tars, index, tmp_path):
        other = shutil.copytree(tars, tmp_path / "other")
        keys = [index.key(i).encode() for i in range(len(index))]
        for tar in other.glob("train-*.tar"):
            data = tar.read_bytes()
            for key in keys:
                data = data.replace(key, key[::-1])
            tar.write_bytes(data)
        with pytest.raises(MocoError, match=r"is not the tar that was indexed .*; upload data/shards again"):
            TarStreams(index, plan_for(index), str(other)).read(0, 0, 12)
        with pytest.raises(MocoError, match=r"is not the tar that was indexed .*; upload data/shards again"):
            TarStreams(index, plan_for(index), f"pipe:cat {other}/{{shard}}").read(0, 0, 12)

    def test_short_and_missing_local_tars_are_errors_at_once(self, tars, index, tmp_path):
        other = shutil.copytree(tars, tmp_path / "other")
        for tar in other.glob("*.tar"):
            os.truncate(tar, 3000)
        with pytest.raises(MocoError, match=r"train-00000\d\.tar: it ended early; check"):
            TarStreams(index, plan_for(index), str(other)).read(0, 0, 12)
        with pytest.raises(MocoError, match=r"train-00000\d\.tar: No such file or directory; check"):
            TarStreams(index, plan_for(index), str(tmp_path)).read(0, 0, 12)

    @pytest.mark.parametrize(
        ("location", "message"),
        [
            ("pipe:no-such-command {shard}", "exit code 127; check machine.yaml's shards_from"),
            ("pipe:cat /nowhere/{shard}", "exit code 1, 4 times in a row"),
            ("ftp://127.0.0.1", "shards_from = 'ftp://127.0.0.1': .*no gopen handler defined; use another"),
            ("http://a b", "URL"),
        ],
    )
    def test_locations_that_lead_nowhere_are_named(self, location, message, index):
        with pytest.raises(MocoError, match=message):
            TarStreams(index, plan_for(index), location).read(0, 0, 12)


@pytest.fixture(scope="module")
def buckets(tars):
    """The environment of a server of the S3 protocol, with the tars in a bucket."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    if not shutil.which("moto_server", path=path) or not shutil.which("aws", path=path):
        pytest.skip("needs the commands moto_server and aws")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    given = {"PATH": path, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", **keys}
    env = os.environ | given
    aws = functools.partial(subprocess.run, env=env, capture_output=True)
    server = ["moto_server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(server, env=env, stderr=subprocess.DEVNULL) as moto:
        wait_until(lambda: not aws(["aws", "s3", "mb", "s3://here"]).returncode)
        aws(["aws", "s3", "cp", "--quiet", "--recursive", tars, "s3://here/shards"], check=True)
        yield given
        moto.terminate()


@pytest.fixture
def bucket(buckets, monkeypatch):
    """The tars in a bucket behind the S3 protocol."""
    for name, value in buckets.items():
        monkeypatch.setenv(name, value)
    return "s3://here/shards"


@needs_curl
@pytest.mark.slow
class TestS3:
    def test_a_bucket_is_read_from_its_middle_too(self, tars, index, bucket):
        plan = plan_for(index)
        check(tars, TarStreams(index, plan, bucket), range(plan.steps_per_epoch))
        check(tars, TarStreams(index, plan, bucket), [30])

    def test_a_missing_bucket_and_missing_credentials_are_named(self, index, bucket, monkeypatch):
        with pytest.raises(MocoError, match=r"s3://there/train-00000\d\.tar: .*404; check"):
            TarStreams(index, plan_for(index), "s3://there").read(0, 0, 12)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        tar_source._s3_client.cache_clear()  # as in another process
        with pytest.raises(MocoError, match=r"s3://here/.*[Cc]redentials"):
            TarStreams(index, plan_for(index, lanes=1), bucket).read(0, 0, 12)


def commands_with(text: str) -> list[str]:
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if text in line]


def read_forever(streams: TarStreams) -> None:
    for step in range(10**6):
        streams.read(step, 0, 12)


@needs_curl
@pytest.mark.parametrize("kind", ["http", "pipe"])
def test_a_killed_worker_leaves_no_commands(kind, tars, index, server, tmp_path):
    mark = str(tmp_path / "mark")
    location = f"{server.url}/{{shard}}?{mark}"
    server.seconds_a_piece = 0.05
    if kind == "pipe":
        (tmp_path / "mark").write_text("cat $1\nexec cat /dev/zero\n")
        location = f"pipe:sh {mark} {tars}/{{shard}}"
    streams = TarStreams(index, plan_for(index), location)
    worker = multiprocessing.get_context("fork").Process(target=read_forever, args=(streams,))
    worker.start()
    wait_until(lambda: commands_with(mark))
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    wait_until(lambda: not commands_with(mark))


def wait_until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_module_imports_without_webdataset():
    code = "import sys; sys.modules['webdataset'] = None; import moco.images.stream"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
