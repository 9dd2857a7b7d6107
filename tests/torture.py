"""Kill the pipeline at random moments, run it again, and compare with an undisturbed run. By hand.

    python tests/torture.py --kills 50 --seed 0
    python tests/torture.py --kills 5 --driver flow --target driver

Each trial starts where a random number of stages is done, starts `dvc repro` or the flow, and sends
SIGKILL after a random time: to everything that runs in the folder (a power failure), to the driver
alone (its stage is left behind), or to the stage alone; or it sends Ctrl-C, and the seconds until
the prompt is back are printed. Then the same driver runs again at once; if it ends with one line
that says what to do, it runs up to twice more, a little later. Every output must then be byte for
byte that of the undisturbed run. A trial's seed is printed, and gives it again.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import yaml
from small_material import SMALL_PRETRAIN, copy_project, write_images, write_params

STAGES = ("fetch", "shard", "check", "pretrain", "linear", "report")
DRIVERS = {"dvc": ["dvc", "repro"], "flow": [sys.executable, "-m", "flows.pretrain_and_evaluate", "--retries", "0"]}
CTRL_C = "ctrl-c"
TARGETS = ("everything", "driver", "stage", CTRL_C)
LATER = 20.0  # seconds


def main() -> None:
    """Try, print a line a trial, and end with exit code 1 if one differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the first trial; the next ones count up")
    parser.add_argument("--driver", choices=tuple(DRIVERS), help="(default: by chance)")
    parser.add_argument("--target", choices=TARGETS, help="(default: by chance)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="torture-") as scratch:
        place = Path(scratch)
        states, seconds = prepare(place)
        expected = outputs(states[-1])
        bad = tracebacks = 0
        for seed in range(given.seed, given.seed + given.kills):
            chance = random.Random(seed)
            driver, target = chance.choice(tuple(DRIVERS)), chance.choice(TARGETS)
            driver, target = given.driver or driver, given.target or target
            done = chance.randrange(len(STAGES))
            delay = chance.uniform(0.5, seconds[driver] + sum(seconds[stage] for stage in STAGES[done:]))
            work = place / "work"
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(states[done], work, symlinks=True)
            ended, well, texts = trial(work, driver, target, delay)
            found = outputs(work)
            wrong = [] if well else ["it never ended well"]
            wrong += sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            parts = [str(path.relative_to(work)) for path in work.rglob("*.part*") if ".dvc" not in path.parts]
            traced = sum(text.count("Traceback (most recent") for text in texts)
            bad, tracebacks = bad + bool(wrong), tracebacks + traced
            print(
                f"seed {seed}: {driver}, {done} stages done, {target} after {delay:.1f} s{' (too late)' if ended is None else f', ended in {ended:.1f} s'}:"
                f" {'differs: ' + ', '.join(wrong[:4]) if wrong else 'equal'}, {len(texts) - 1} run(s) after it, {traced} traceback(s)"
                + (f", left: {', '.join(parts)}" if parts else ""),
                flush=True,
            )
            if wrong or traced:
                print("\n".join(texts[-1].splitlines()[-25:]), flush=True)
        print(f"{given.kills} kills: {bad} differ, {tracebacks} tracebacks")
        sys.exit(bool(bad or tracebacks))


def prepare(place: Path) -> tuple[list[Path], dict[str, float]]:
    """Make a project as it is before each stage and after the last; and how long each takes."""
    project = place / "project"
    copy_project(project)
    write_images(project / "data/inbox")
    write_params(project, {"fetch.source": "folder", **SMALL_PRETRAIN, "pretrain.bn_group_size": 12})
    (project / "machine.yaml").write_text("processes: 2\nnum_workers: 1\ncheckpoint_every_steps: 5\n")
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", *words], cwd=project, check=True)
    states, seconds = [], {"dvc": 3.0, "flow": 20.0}
    for number, stage in enumerate((*STAGES, "")):
        states.append(place / f"state{number}")
        shutil.copytree(project, states[-1], symlinks=True)
        if stage:
            start = time.monotonic()
            run(["dvc", "repro", "--single-item", stage], project, check=True)
            seconds[stage] = time.monotonic() - start
    print("undisturbed:", ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()), flush=True)
    return states, seconds


def environment() -> dict[str, str]:
    """Make a driver's: nothing is recorded, and each process has one thread."""
    return {**os.environ, "MOCO_TRACKING": "off", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}


def run(command: list[str], folder: Path, check: bool = False) -> tuple[int, str]:
    """Run a driver to its end."""
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=900)
    if check and done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.returncode, done.stdout + done.stderr


def trial(work: Path, driver: str, target: str, delay: float) -> tuple[float | None, bool, list[str]]:
    """Start a driver, kill, and run it again until it ends well.

    Returns:
        Seconds from the signal to the driver's end, None if it had ended before; whether a run
        after it ended well; what was printed, by the run that was hit (only Ctrl-C lets it speak)
        and by each one after it.
    """
    said = work.with_name("said")
    with said.open("w") as file:
        process = subprocess.Popen(
            DRIVERS[driver], cwd=work, env=environment(), stdout=file, stderr=file, start_new_session=True
        )
        with suppress(subprocess.TimeoutExpired):
            process.wait(delay)
    killed, start = process.poll() is None, time.monotonic()
    if target == CTRL_C and killed:
        os.killpg(process.pid, signal.SIGINT)
    victims = {
        "everything": lambda: pids_in(work),
        "driver": lambda: [process.pid],
        CTRL_C: list,
        "stage": lambda: [pid for pid in pids_in(work) if "pipelines." in command_of(pid)][:1],
    }[target]()
    for pid in victims if killed else []:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    ended = time.monotonic() - start
    texts = [said.read_text() if target == CTRL_C else ""]
    for number in range(3):
        time.sleep(LATER if number else 0)
        code, text = run(DRIVERS[driver], work)
        texts.append(text)
        if code == 0:
            break
    return (ended if killed else None), code == 0, texts


def pids_in(folder: Path) -> list[int]:
    """Find the processes that work in a folder, oldest first."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "cwd").readlink().is_relative_to(folder):
                found.append(int(entry.name))
    return sorted(found)


def command_of(pid: int) -> str:
    """Give a process's command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def outputs(project: Path) -> dict[str, str]:
    """Hash every output that dvc.lock names, and what it says of it."""
    found = {}
    lock = yaml.safe_load((project / "dvc.lock").read_text()) if (project / "dvc.lock").exists() else {"stages": {}}
    for name, stage in lock["stages"].items():
        for out in stage.get("outs", []):
            path = project / out["path"]
            files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
            digest = hashlib.sha256(str(out["md5"]).encode())
            for file in files:
                digest.update(str(file.relative_to(project)).encode() + file.read_bytes())
            found[f"{name}: {out['path']}"] = digest.hexdigest()
    return found


if __name__ == "__main__":
    main()
