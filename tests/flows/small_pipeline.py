"""A throw-away DVC pipeline with the project's parameters, and ways to run it as a person would."""

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

PROJECT = Path(__file__).parents[2]

STAGES = {
    "fetch": {
        "cmd": "mkdir -p data/raw && cp ${fetch.path}/* data/raw/",
        "deps": ["${fetch.path}"],
        "params": ["fetch"],
        "outs": ["data/raw"],
    },
    "pretrain": {
        "cmd": """python -c "print('pretrain  40% · loss 2.1'); open('encoder', 'w').write('weights')" """,
        "deps": ["data/raw"],
        "params": ["pretrain"],
        "outs": ["encoder"],
    },
    "linear": {
        "cmd": """echo '{"moco": {"linear_top1": 0.5}}' > linear.json""",
        "deps": ["encoder"],
        "params": ["linear"],
        "metrics": ["linear.json"],
    },
    "detect": {"cmd": """echo '{"ap": 0.25}' > detect.json""", "deps": ["encoder"], "metrics": ["detect.json"]},
    "report": {
        "cmd": "mkdir -p outputs/report && cat linear.json detect.json > outputs/report/report.html",
        "deps": ["linear.json", "detect.json"],
        "params": ["report"],
        "outs": ["outputs/report"],
    },
}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_until(true: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.1)


def processes_with(mark: str) -> list[str]:
    """Command lines of running processes that have `mark` in their command or folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if command and (mark in command or mark in str((entry / "cwd").readlink())):
                found.append(command)
        except OSError:
            continue
    return found


class Pipeline:
    """A small pipeline in a git repository, with ways to run it as a person would."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder, self.env = folder, env

    def write(self, stages: dict[str, dict[str, object]]) -> None:
        (self.folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))

    def change(self, stage: str, **values: object) -> None:
        stages = yaml.safe_load((self.folder / "dvc.yaml").read_text())["stages"]
        stages[stage].update(values)
        self.write(stages)

    def run(self, *command: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def git(self, *arguments: str) -> str:
        return self.run("git", *arguments).stdout.strip()

    def dvc(self, *arguments: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments).stdout

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "state")

    def flow(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "flows.pretrain_and_evaluate", *arguments, check=check)

    def start_flow(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / "runs" / "flow.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "flows.pretrain_and_evaluate", *arguments],
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )


def make_pipeline(folder: Path, env: dict[str, str]) -> Pipeline:
    folder.mkdir(parents=True)
    pipeline = Pipeline(folder, env | {"PWD": str(folder)})
    for name in ("params.yaml", "prefect.yaml", "prefect.toml"):
        shutil.copy(PROJECT / name, folder / name)
    shutil.copytree(PROJECT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "runs").mkdir()
    inbox = folder / "data/inbox"
    inbox.mkdir(parents=True)
    (inbox / ".gitignore").write_text("*\n!.gitignore\n")
    (inbox / "one.png").write_text("an image")
    (folder / ".gitignore").write_text("/runs/\n__pycache__/\n")
    (folder / ".dvc").mkdir()  # what `dvc init` makes, without its second
    (folder / ".dvc/config").touch()
    (folder / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    pipeline.git("init", "--quiet")
    pipeline.write(STAGES)
    pipeline.commit()
    return pipeline
