"""Measure what the drivers cost: a pipeline with nothing to do, by `dvc repro` and by the flow.

    python -m benchmarks.overhead

Chains of 2 and of 10 stages whose command is `true` are driven in a folder of their own: the slope
between the two is the cost of a stage, the rest is the start.
"""

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from pipelines.stage import errors_in_one_line

DVC = [sys.executable, "-m", "dvc"]
FLOW = [sys.executable, "-m", "flows.pretrain_and_evaluate"]
SHORT, LONG = 2, 10


def seconds(command: list[str], folder: Path, env: dict[str, str], times: int) -> float:
    """Median wall time of a command, after one run that warms the file cache."""
    found = []
    for _ in range(times + 1):
        begin = time.perf_counter()
        subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)
        found.append(time.perf_counter() - begin)
    return statistics.median(found[1:])


def chain(folder: Path, length: int, env: dict[str, str], project: Path) -> None:
    """Make a pipeline of `length` stages, each after the one before it."""
    stages = {
        f"s{number}": {"cmd": f"touch out{number}", "outs": [f"out{number}"]}
        | ({"deps": [f"out{number - 1}"]} if number else {})
        for number in range(length)
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    shutil.copy(project / "params.yaml", folder)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    subprocess.run([*DVC, "init", "--quiet"], cwd=folder, env=env, check=True)
    subprocess.run([*DVC, "repro", "--quiet"], cwd=folder, env=env, check=True)


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3, help="repetitions; the median is shown (default: 3)")
    times = parser.parse_args().times
    project = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        quiet = {"MOCO_TRACKING": "off", "DVC_NO_ANALYTICS": "1", "PREFECT_HOME": f"{scratch}/prefect"}
        env = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"} | quiet | {"PATH": path}
        whole: dict[tuple[str, int], float] = {}
        for length in (SHORT, LONG):
            folder = Path(scratch, str(length))
            folder.mkdir()
            chain(folder, length, env, project)
            whole["dvc repro", length] = seconds([*DVC, "repro"], folder, env, times)
            whole["the flow", length] = seconds(FLOW, folder, env, times)
            one_by_one = " && ".join(
                f"{sys.executable} -m dvc --wait-for-lock repro --single-item s{number}" for number in range(length)
            )
            whole["one `dvc repro --single-item` a stage", length] = seconds(
                ["sh", "-c", one_by_one], folder, env, times
            )
        print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; median of {times}\n")
        print(f"| driver, nothing to do | {SHORT} stages, s | {LONG} stages, s | each stage, s | start, s |")
        print("| --- | --- | --- | --- | --- |")
        for driver in dict.fromkeys(name for name, _ in whole):
            short, long = whole[driver, SHORT], whole[driver, LONG]
            each = (long - short) / (LONG - SHORT)
            print(f"| {driver} | {short:.2f} | {long:.2f} | {each:.2f} | {short - SHORT * each:.2f} |")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
