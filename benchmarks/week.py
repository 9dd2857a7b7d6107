"""A week of seven nights through the deployment `nightly`, and what is on record afterwards.

    python -m benchmarks.week --folder /disk/with/room

A project of its own under git and DVC, with a Prefect server, a worker and MLflow's database. Each
evening Fashion-MNIST images come in by `moco ingest`, and its event starts the night's run. One
batch is bad, one run is killed while it trains, one night has a bad setting, one image set loses
images on request. Then the record is read and compared with what happened.
"""

import argparse
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import yaml
from PIL import Image

from benchmarks.week_record import Night, dump, faults, locks_of, read, table
from moco.config import load_params
from moco.sources.fashion_mnist import CLASSES, find

ROOT = Path(__file__).parents[1]
SETTINGS: dict[str, dict[str, Any]] = {
    "fetch": {"source": "folder"},
    "pretrain": {"epochs": 4, "knn_every_epochs": 4},
    "linear": {"epochs": 10, "learning_rates": [0.03, 0.3, 3.0]},
    "report": {"map_images": 100, "queries": 4},
}
KEYS = 1024
FIRST, MORE, BAD, FORGOTTEN = 2000, 120, 100, 25
"""Images of the first evening, of each further one, of the bad batch, and of the request."""
TOO_FAST = 9.0
"""`pretrain.lr_per_256` of the bad setting, a hundred times what it was."""
PATIENCE, PAUSE = 3600.0, 1.0
"""Longest wait for anything, and the time between two looks; seconds."""
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Project:
    """The project of the week, with the commands of a person who operates it.

    Args:
        folder: to make it in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.base = folder / "project", folder
        port = _free_port()
        self.api = f"http://127.0.0.1:{port}/api"
        self.env = {
            name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MOCO_", "MLFLOW_"))
        }
        self.env |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": self.api,
            "DO_NOT_TRACK": "1",
            "PYTHONPATH": str(self.folder),
            "PWD": str(self.folder),
            "GIT_CONFIG_GLOBAL": os.devnull,
        }
        self.days = 0
        images, labels, _ = find(load_params(ROOT / "params.yaml").fetch).parts[0]
        assert labels is not None
        self._images, self._labels, self._taken = images, labels, 0
        self._make()

    def _make(self) -> None:
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
        built = [str(path.relative_to(ROOT)) for path in ROOT.glob("moco/images/*.so")]
        for name in filter(None, [*names, *built]):
            if name != "dvc.lock" and (ROOT / name).is_file():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, self.folder / name)
        for section, values in SETTINGS.items():
            self.edit(section, **values)
        self.edit("pretrain", dictionary=self.params()["pretrain"]["dictionary"] | {"num_keys": KEYS})
        (self.folder / "machine.yaml").write_text("checkpoint_every_steps: 20\n")
        self("git", "init", "--quiet")
        for key, value in (("name", "A Person"), ("email", "person@localhost")):
            self("git", "config", f"user.{key}", value)
        self.commit("the project")

    def __call__(self, *command: str, check: bool = True) -> str:
        """Run a command in the project's folder and give what it says."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        if check and done.returncode:
            raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr * (not check)

    def params(self) -> dict[str, dict[str, Any]]:
        """Read params.yaml."""
        found: dict[str, dict[str, Any]] = yaml.safe_load((self.folder / "params.yaml").read_text())
        return found

    def edit(self, section: str, **values: Any) -> None:
        """Edit params.yaml."""
        params = self.params()
        params[section].update(values)
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def commit(self, what: str) -> None:
        """Commit everything that git does not ignore."""
        self("git", "add", "--all")
        self("git", "commit", "--quiet", "--message", what)

    def evening(self, count: int, bad: bool = False) -> Path:
        """Put images that nobody has seen into a new folder, a folder a class below it.

        Args:
            count: how many.
            bad: black frames in their place, as of a camera with its cap on.
        """
        self.days += 1
        folder = self.base / f"evening-{self.days}"
        random = np.random.default_rng(self.days)
        for number in range(self._taken, self._taken + count):
            name = CLASSES[int(self._labels[number])].replace("/", "-").replace(" ", "-")
            pixels = random.integers(0, 12, (28, 28), np.uint8) if bad else self._images[number]
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"{number:05d}.png")
        self._taken += count
        return folder

    @contextmanager
    def operated(self) -> Iterator[None]:
        """Start a server and a worker and deploy, as docs/prefect.md says; end them again."""
        port = self.api.split(":")[2].partition("/")[0]
        server = self._start("server", "prefect", "server", "start", "--port", port)
        worker = None
        try:
            wait(lambda: _answers(f"{self.api}/health"), "the Prefect server")
            for pool in ("moco", "moco-data"):
                self("prefect", "work-pool", "create", pool, "--type", "process")
            self("prefect", "deploy", "--all")
            worker = self._start("worker", "prefect", "worker", "start", "--pool", "moco")
            yield
        finally:
            for process in filter(None, (worker, server)):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                process.wait(60)

    def _start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.base / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env=self.env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def ask(self, path: str, **body: Any) -> Any:
        """Post to the Prefect server."""
        answer = httpx.post(f"{self.api}/{path}", json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def runs(self) -> list[dict[str, Any]]:
        """Prefect's flow runs, the oldest first."""
        found: list[dict[str, Any]] = self.ask("flow_runs/filter", sort="EXPECTED_START_TIME_ASC", limit=200)
        return [run for run in found if run["state_type"] != "SCHEDULED"]

    def lines(self, run: str) -> list[str]:
        """Read the log of a flow run."""
        found: list[dict[str, Any]] = []
        flow_run = {"flow_run_id": {"any_": [run]}}
        while page := self.ask("logs/filter", logs=flow_run, sort="TIMESTAMP_ASC", limit=200, offset=len(found)):
            found += page
        return [line["message"] for line in found]

    def tags(self) -> set[str]:
        """Names of the versions in git."""
        return set(self("git", "tag", "--list", "version-*").split())

    def processes(self) -> list[psutil.Process]:
        """Find the processes of a flow run and its stages."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                words = process.cmdline()
                if process.cwd() == str(self.folder) and not {"server", "worker"} & set(words[:4]):
                    found.append(process)
        return found

    def champion(self) -> str | None:
        """MLflow's number of the best encoder."""
        code = (
            "from moco import tracking; from moco.tracking.connection import connect; c, _ = connect();"
            "print(c.get_model_version_by_alias('moco-encoder', 'champion').version)"
        )
        said = self(sys.executable, "-c", code, check=False).split()
        return said[-1] if said and said[-1].isdigit() else None


def wait(true: Callable[[], Any], what: str) -> Any:
    """Wait until something is true, and give it."""
    deadline = time.monotonic() + PATIENCE
    while not (found := true()):
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {PATIENCE:g} s")
        time.sleep(PAUSE)
    return found


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


class Week:
    """The nights, one after the other.

    Args:
        project: to operate.
    """

    def __init__(self, project: Project) -> None:
        self.project, self.nights = project, list[Night]()

    def ingest(self, count: int = MORE, bad: bool = False) -> None:
        """Take an evening's images in, which starts the night's run."""
        said = self.project("moco", "ingest", str(self.project.evening(count, bad)))
        print(said.strip().splitlines()[0], flush=True)

    def night(self, story: str, *expected: str, version: bool = True, promoted: bool | None = None) -> None:
        """Wait for as many runs as are expected, and write down what came of them.

        Args:
            story: what was done.
            expected: states of the runs.
            version: whether one is to come.
            promoted: whether the champion is to change; None: either will do.
        """
        project = self.project
        name = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")[len(self.nights)]
        night = Night(name, story, (expected, version, promoted))
        before = self.known()
        tags = {one.version for one in self.nights}

        def ended() -> list[dict[str, Any]]:
            new = [run for run in project.runs() if run["id"] not in before]
            return new if len(new) >= len(expected) and all(run["state_type"] in ENDED for run in new) else []

        runs = wait(ended, f"the runs of {name}")
        night.runs = [(run["id"], run["name"], run["state_type"], float(run["total_run_time"])) for run in runs]
        night.version = next(iter(sorted(project.tags() - tags)), None)
        night.champion = project.champion()
        said = [line for run in runs for line in project.lines(run["id"])]
        night.promotion = next((line for line in reversed(said) if line.startswith("champion")), "")
        self.nights.append(night)
        print(f"{name}: {story}: {[run[2:] for run in night.runs]}, {night.version}; {night.promotion}", flush=True)
        for run in runs:
            if run["state_type"] != "COMPLETED":
                print(f"  {run['name']}: {run['state']['message']}", flush=True)

    def known(self) -> set[str]:
        """Give the ids of the runs of earlier nights."""
        return {run for one in self.nights for run, _, _, _ in one.runs}

    def ended(self, what: str) -> None:
        """Wait for the end of the one run of this night so far."""
        known = self.known()
        wait(lambda: any(run["state_type"] in ENDED and run["id"] not in known for run in self.project.runs()), what)

    def again(self) -> None:
        """Start the deployment by hand."""
        self.project("prefect", "deployment", "run", "pretrain-and-evaluate/nightly")

    def kill(self) -> None:
        """End every process of the night's run by SIGKILL once it has a checkpoint of its own."""
        runs, before = self.project.folder / "runs", time.time()

        def trained() -> bool:
            return any(path.stat().st_mtime > before for path in runs.glob("pretrain-*/step-*.pt"))

        wait(trained, "a checkpoint")
        for process in self.project.processes():
            with suppress(psutil.Error):
                process.kill()

    def run(self) -> None:
        """Live through it."""
        project = self.project
        self.ingest(FIRST)
        self.night(f"{FIRST} images", "COMPLETED", promoted=True)
        self.ingest()
        self.night(f"{MORE} more", "COMPLETED")
        self.ingest(BAD, bad=True)
        self.night(f"{BAD} black frames", "FAILED", version=False, promoted=False)
        bad = project.base / f"evening-{project.days}"
        project("moco", "forget", str(_listed(bad)))
        self.ingest()
        self.kill()
        self.ended("the killed run")
        self.again()
        self.night(f"the frames forgotten, {MORE} more; killed while it trained, started again", "CRASHED", "COMPLETED")
        good = project.params()["pretrain"]["lr_per_256"]
        project.edit("pretrain", lr_per_256=TOO_FAST)
        project.commit("learn faster")
        self.ingest()
        self.night(f"{MORE} more; learning rate {TOO_FAST:g} by mistake", "COMPLETED", promoted=False)
        project.edit("pretrain", lr_per_256=good)
        project.commit("learn as before")
        project("moco", "forget", str(_listed(project.base / "evening-1", FORGOTTEN)))
        self.again()
        self.night(f"{FORGOTTEN} images forgotten on request; learning rate as before", "COMPLETED")
        self.ingest()
        self.ended("Sunday's run")
        self.again()
        self.night(f"{MORE} more; started once more with nothing new", "COMPLETED", "COMPLETED")


def _listed(folder: Path, most: int | None = None) -> Path:
    """List the SHA-256 of images in a folder, as a person writes them down who wants them gone."""
    files = sorted(folder.rglob("*.png"))[:most]
    path = folder.with_suffix(".txt")
    path.write_text("".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}\n" for file in files))
    return path


def main() -> None:
    """Run the week and judge its record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where everything is made, and kept")
    given = parser.parse_args()
    given.folder.mkdir(parents=True)
    project = Project(given.folder.resolve())
    began = time.monotonic()
    with project.operated():
        week = Week(project)
        week.run()
        flow_runs = project.runs()
    found = judge(project, week, flow_runs)
    print(f"{time.monotonic() - began:.0f} s; {len(found)} faults in the record")
    if found:
        raise SystemExit("\n".join(found))


def judge(project: Project, week: Week, flow_runs: list[dict[str, Any]]) -> list[str]:
    """Print the record of a week, and give its faults."""
    record = read(project.folder, flow_runs)
    dump(project.base / "record.json", record, week.nights)
    print("\n".join(table(record, week.nights)))
    print(project("moco", "versions"))
    first, last = record.versions[0].name, record.versions[-1].name
    print(project("moco", "versions", first, last))
    found = [*faults(record, week.nights, locks_of(project.folder, record))]
    return [*found, *_brought_back(project, first)]


def _brought_back(project: Project, version: str) -> list[str]:
    """Check a version out, and see that it is whole."""
    branch = project("git", "symbolic-ref", "--short", "HEAD").strip()
    project("git", "checkout", "--quiet", version)
    project(sys.executable, "-m", "dvc", "checkout")
    project("moco", "start", "--as-in", version)
    said = project(sys.executable, "-m", "dvc", "status").split()
    project("git", "checkout", "--quiet", branch)
    project(sys.executable, "-m", "dvc", "checkout")
    return [] if said == ["fetch:", "always", "changed"] else [f"{version}, brought back: {said}"]


if __name__ == "__main__":
    main()
