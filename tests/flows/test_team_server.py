"""docs/team-server.md, block by block: PostgreSQL, S3, passwords, two workers, no secret left."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from s3_store import KEYS, s3_server
from small_pipeline import PROJECT, STAGES, Pipeline, free_port, make_pipeline, wait_until

from flows import services

BINARIES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), Path("/nowhere"))
AS_USER = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
"""PostgreSQL refuses to run as root."""
PAGE = (PROJECT / "docs/team-server.md").read_text()

DESCRIBED = """\
from moco.tracking import connection
try:
    connection.look()
except Exception as error:
    print(connection.describe(error, False))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BINARIES.is_dir(), reason="PostgreSQL is not installed: apt-get install postgresql"),
    pytest.mark.skipif(
        not find_spec("psycopg") or not find_spec("flask_wtf"), reason="without the extra `team`: psycopg, Flask-WTF"
    ),
]


@contextmanager
def postgresql() -> Iterator[tuple[Path, int]]:
    """Serve a PostgreSQL of its own.

    Gives the folder of its socket, which lets everyone in, and its port.
    """
    base, port = Path("/tmp") / f"moco-postgresql-{os.getpid()}", free_port()  # a socket's path must be short
    base.mkdir()
    if AS_USER:
        shutil.chown(base, "postgres", "postgres")
    auth = ("--auth-local", "trust", "--auth-host", "scram-sha-256", "--username", "postgres")
    server = None
    try:
        subprocess.run(
            [BINARIES / "initdb", "--no-sync", *auth, base / "data"],
            check=True,
            capture_output=True,
            cwd=base,
            **AS_USER,
        )
        options = ("-p", str(port), "-k", str(base), "-c", "fsync=off", "-c", "listen_addresses=127.0.0.1")
        with (base / "log").open("wb") as log:
            server = subprocess.Popen(
                [BINARIES / "postgres", "-D", base / "data", *options], cwd=base, stdout=log, stderr=log, **AS_USER
            )
        ready = [BINARIES / "pg_isready", "--quiet", "--host", str(base), "--port", str(port)]
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, 60, "PostgreSQL starts")
        yield base, port
    finally:
        if server:
            server.send_signal(signal.SIGINT)
            server.wait(30)
        shutil.rmtree(base, ignore_errors=True)


class Team:
    """The page's blocks, with the addresses of this test."""

    def __init__(self, pipeline: Pipeline, replaced: dict[str, str]) -> None:
        self.pipeline = pipeline
        code = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
        for old, new in replaced.items():
            assert any(old in one for one in code), old
            code = [one.replace(old, new) for one in code]
        self.install, self.secrets, self.databases, self.up, self.users, *self.workers = code

    def run(self, block: str) -> None:
        self.pipeline.run("bash", "-ec", block)

    @contextmanager
    def serving(self, block: str, said: str, name: str) -> Iterator[Path]:
        log = self.pipeline.folder / f"runs/{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [
                    "bash",
                    "-ec",
                    block.replace("moco up", "exec moco up").replace("prefect worker", "exec prefect worker"),
                ],
                cwd=self.pipeline.folder,
                env=self.pipeline.env,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
        try:
            wait_until(lambda: process.poll() is not None or said in log.read_text(), 300, f"{name} is up")
            assert process.poll() is None, log.read_text()
            yield log
        finally:
            if name == "up":
                process.send_signal(signal.SIGINT)
                process.wait(60)
            else:
                services.end([services.Service(name, process, log)], [])

    def variables(self, name: str) -> dict[str, str]:
        lines = (self.pipeline.folder / name).read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)


def asked(url: str, user: str, body: dict[str, Any] | None = None) -> Any:
    headers = {"Authorization": f"Basic {b64encode(user.encode()).decode()}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    return json.load(urllib.request.urlopen(request, timeout=30))


def test_a_team_works_with_passwords_that_are_nowhere(tmp_path: Path, plain_env: dict[str, str]) -> None:
    pipeline = make_pipeline(tmp_path / "project", plain_env)
    pipeline.write(STAGES | {"shard": {"cmd": "true", "deps": ["data/raw"], "outs": ["data/shards"]}})
    with (pipeline.folder / ".gitignore").open("a") as file:
        file.write("/servers.env\n/worker.env\n/servers/\n/data/raw\n/data/shards\n")
    pipeline.commit()
    new = tmp_path / "new"
    new.mkdir()
    for number in range(200):
        Image.frombytes("RGB", (20, 20), os.urandom(1200)).save(new / f"{number}.png")
    prefect, mlflow = free_port(), free_port()
    with ExitStack() as held:
        socket, port = held.enter_context(postgresql())
        store = held.enter_context(s3_server())
        pipeline.env |= {"MOCO_TRACKING": "on", "AWS_ENDPOINT_URL": store, "MLFLOW_S3_ENDPOINT_URL": store, **KEYS}
        team = Team(
            pipeline,
            {
                "sudo -u postgres psql": f"psql --host {socket} --port {port} --username postgres",
                "moco@127.0.0.1/moco": f"moco@127.0.0.1:{port}/moco --prefect-port {prefect} --mlflow-port {mlflow}",
                "--host 0.0.0.0": "--host 127.0.0.1",
                "s3://BUCKET": "s3://store",
                "127.0.0.1:4200": f"127.0.0.1:{prefect}",
                "127.0.0.1:5000": f"127.0.0.1:{mlflow}",
            },
        )
        for block in (team.secrets, team.databases):
            team.run(block)
        servers = team.variables("servers.env")
        held.enter_context(team.serving(team.up, "Ctrl-C ends", "up"))
        pipeline.env |= servers  # the page's shell has read them
        team.run(team.users)
        for name in servers:
            del pipeline.env[name]
        for name in KEYS:  # MLflow's server hands files over
            del pipeline.env[name]
        worker = team.variables("worker.env")
        for block, pool in zip(team.workers, ("moco-data", "moco"), strict=True):
            held.enter_context(team.serving(block, "started!", f"worker-{pool}"))

        pipeline.env |= worker
        pipeline.run("prefect", "deployment", "run", "ingest/ingest", "-p", f'paths=["{new}"]', "--watch", timeout=180)
        assert (pipeline.folder / "data/shards/index.json").exists()
        key, api = worker["PREFECT_API_AUTH_STRING"], worker["PREFECT_API_URL"]
        nightly = {"deployments": {"name": {"any_": ["nightly"]}}}
        wait_until(lambda: asked(f"{api}/flow_runs/count", key, nightly), 60, "the event starts nightly")
        code = "import mlflow; mlflow.set_experiment('moco'); mlflow.start_run(); mlflow.log_text('there', 'note.txt')"
        pipeline.run(sys.executable, "-c", code)
        listed = subprocess.run(
            [sys.executable, "-c", f"import boto3; print(boto3.client('s3', endpoint_url='{store}').list_objects_v2(Bucket='store'))"],
            env=pipeline.env | KEYS, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert "note.txt" in listed

        for variable, command in (
            ("PREFECT_API_AUTH_STRING", "from flows.server import served; served().__enter__()"),
            ("MLFLOW_TRACKING_PASSWORD", DESCRIBED),
        ):
            wrong = pipeline.env | {variable: "wrong"}
            done = subprocess.run(
                [sys.executable, "-c", command], env=wrong, capture_output=True, text=True, check=False
            )
            assert f"set {variable}" in done.stdout + done.stderr or "and MLFLOW_TRACKING_PASSWORD" in done.stdout

        secrets = {value.removeprefix("team:") for value in (*servers.values(), worker["MLFLOW_TRACKING_PASSWORD"])}
        assert len(secrets) == 5
        for place, content in everywhere(pipeline.folder, socket, port):
            assert not any(secret.encode() in content for secret in secrets), place


def everywhere(folder: Path, socket: Path, port: int) -> Iterator[tuple[str, bytes]]:
    """Give what others may see: the list of processes, the project's files, databases, git."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            yield str(entry), (entry / "cmdline").read_bytes()
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in ("servers.env", "worker.env"):
            yield str(path), path.read_bytes()
    for database in ("moco", "moco_mlflow"):
        dump = [BINARIES / "pg_dump", "--host", socket, "--port", str(port), "--username", "postgres", database]
        yield database, subprocess.run(dump, check=True, capture_output=True).stdout
    objects = subprocess.run(
        ["git", "cat-file", "--batch-all-objects", "--batch"], cwd=folder, check=True, capture_output=True
    )
    yield "git", objects.stdout
