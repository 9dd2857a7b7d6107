"""Press Ctrl-C in every stage, and measure the seconds until the prompt is back. By hand.

    python tests/stops.py
    python tests/stops.py linear "flow: linear" --moments 0.5

A stage is hit at shares of the time that it takes, under `dvc repro` and under its flow. SIGINT
goes to the process group, as a terminal sends it. A line says the seconds, the machine's load, the
exit code, how many tracebacks were printed, how many processes were left a second later, and the
last line.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile, copytree, rmtree

import yaml
from torture import STAGES, command_of, environment, pids_in, prepare, run

TRANSFER = ("scenes", "weights-supervised", "transfer@classification-random", "report")
AT_MOST, WAIT = 5.0, 600.0  # seconds
FEW = {"iterations": 30, "batch_size": 4, "precise_bn_batches": 1, "trials": 1, "precision": "fp32"}
RUNS = [{"series": "MoCo", "x": keys, "set": {"pretrain.dictionary.num_keys": keys}} for keys in (48, 96)]
STUDY = {
    "title": "Small",
    "question": "Does it stop?",
    "source": "nowhere",
    "metric": "linear_top1",
    "axis": {"label": "K", "kind": "log2"},
    "scales": {"laptop": {"stated": "Seconds.", "seeds": [0], "runs": RUNS}},
}


@dataclass(frozen=True)
class Work:
    """What is stopped.

    Attributes:
        name: for people.
        state: the folder as it is before it.
        command: that starts it.
        begin: what it prints as the stage begins.
        seconds: that the stage takes.
    """

    name: str
    state: Path
    command: list[str]
    begin: str
    seconds: float


def main() -> None:
    """Stop each at each moment, print a line, and end with exit code 1 if one was slow or noisy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a stage, `flow: STAGE`, `transfer: STAGE` or study")
    parser.add_argument("--moments", type=float, nargs="+", default=[0.05, 0.4, 0.8], metavar="SHARE")
    given = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory(prefix="stops-") as scratch:
        for work in all_work(Path(scratch), given.names):
            for moment in given.moments:
                bad += not stopped_well(work, moment * work.seconds, Path(scratch) / "work")
    sys.exit(bool(bad))


def all_work(place: Path, names: list[str]) -> Iterator[Work]:
    """Give what is to be stopped, whose states are made as they are needed."""
    states, seconds = prepare(place)
    for number, stage in enumerate(STAGES):
        of_dvc = ["dvc", "repro", "--single-item", stage]
        of_flow = [sys.executable, "-m", "flows.pretrain_and_evaluate", "--retries", "0"]
        for name, command in ((stage, of_dvc), (f"flow: {stage}", of_flow)):
            if not names or name in names:
                yield Work(name, states[number], command, f"Running stage '{stage}'", seconds[stage])
    if not names or "study" in names:
        (states[-1] / "studies/small.yaml").write_text(yaml.safe_dump(STUDY))
        flow = [sys.executable, "-m", "flows.study", "small"]
        yield Work("study", states[-1], flow, "Running stage 'pretrain'", seconds["pretrain"])
    wanted = [stage for stage in TRANSFER if not names or f"transfer: {stage}" in names]
    if wanted:
        small_transfer(states[-1])
    for stage in TRANSFER[: TRANSFER.index(wanted[-1]) + 1] if wanted else ():
        full = f"transfer/dvc.yaml:{stage}"
        before = place / f"before-{stage}"
        copytree(states[-1], before, symlinks=True)
        start = time.monotonic()
        run(["dvc", "repro", full], states[-1], check=True)
        if stage in wanted:
            took = time.monotonic() - start
            yield Work(f"transfer: {stage}", before, ["dvc", "repro", full], f"Running stage '{full}'", took)
            flow = [sys.executable, "-m", "flows.transfer", "--retries", "0"]
            yield Work(f"transfer flow: {stage}", before, flow, f"Running stage '{full}'", took)


def small_transfer(project: Path) -> None:
    """Make the transfer pipeline one task of seconds, and show it to DVC as its flow does."""
    copyfile(project / "transfer/graph.yaml", project / "transfer/dvc.yaml")
    path = project / "transfer/params.yaml"
    values = yaml.safe_load(path.read_text())
    values["tasks"], values["inits"] = ["classification"], ["random"]
    values["classification"]["training"] |= FEW
    values["supervised"]["training"] |= FEW
    path.write_text(yaml.safe_dump(values, sort_keys=False))


def stopped_well(work: Work, delay: float, folder: Path) -> bool:
    """Run, stop and say how it went."""
    rmtree(folder, ignore_errors=True)
    copytree(work.state, folder, symlinks=True)
    said = folder.with_name("said")
    with said.open("w") as file:
        process = subprocess.Popen(
            work.command,
            cwd=folder,
            env=environment(),
            stdout=file,
            stderr=file,
            process_group=0,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    until = time.monotonic() + WAIT
    while work.begin not in said.read_text() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(delay)
    late = process.poll() is not None
    start = time.monotonic()
    if not late:
        os.killpg(process.pid, signal.SIGINT)
    process.wait()
    took = time.monotonic() - start
    time.sleep(1)
    left = [command_of(pid) for pid in pids_in(folder)]
    text = said.read_text()
    traced = text.count("Traceback (most recent")
    well = late or (took <= AT_MOST and not traced and not left and process.returncode != 0)
    how = f"{took:.1f} s at a load of {os.getloadavg()[0]:.0f}, exit code {process.returncode}"
    how = "had ended" if late else how
    last = (text.splitlines() or [""])[-1]
    print(f"{work.name} after {delay:.1f} s: {how}, {traced} traceback(s), {len(left)} left, {last!r}", flush=True)
    if not well:
        print("\n".join([*text.splitlines()[-25:], *left]), flush=True)
    return well


if __name__ == "__main__":
    main()
