"""The demo in a fresh clone, and every command block of README.md and docs/ run there, in order.

A block that is not run carries its reason in a comment above it: <!-- not run: why -->. Blocks of a
page share one shell; pages share the clone, in which the demo has run once.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>[^>]+) -->\n+)?```(?P<kind>bash|python)\n(?P<code>.*?)```", re.DOTALL)
NOT_RUN = 62
"""Blocks with a reason, in all pages. A new one is a decision to be seen in review."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2700)]


@dataclass(frozen=True)
class Block:
    kind: str
    code: str
    reason: str | None


def blocks(page: str) -> list[Block]:
    return [Block(match["kind"], match["code"], match["reason"]) for match in BLOCK.finditer((ROOT / page).read_text())]


@dataclass(frozen=True)
class Demo:
    folder: Path
    printed: str


def environment(folder: Path) -> dict[str, str]:
    """A newcomer's shell, except for the virtual environment, which is the tests'."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MOCO_", "MLFLOW_", "PREFECT_"))}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "PREFECT_HOME": str(folder.parent / "prefect-home"),
    }


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """`make demo` in a clone of what is committed and what is not yet."""
    folder = tmp_path_factory.mktemp("newcomer") / "moco"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    listing = ["git", "ls-files", "--modified", "--others", "--exclude-standard"]
    changed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in changed.splitlines():
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    (folder / ".venv/.ready").touch()
    for file in (
        *(folder / name for name in ("requirements.lock", "pyproject.toml", "setup.py")),
        *(folder / "moco/images").glob("fused_*"),
    ):
        os.utime(file, (0, 0))  # older than what is installed, or make would point the environment here
    done = subprocess.run(
        ["make", "demo"],
        cwd=folder,
        env=environment(folder),
        text=True,
        timeout=2400,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return Demo(folder, done.stdout)


def run(code: str, folder: Path, shell: list[str]) -> str:
    done = subprocess.run(
        [*shell, code],
        cwd=folder,
        env=environment(folder),
        text=True,
        timeout=900,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, f"{code}\n{done.stdout[-5000:]}"
    return done.stdout


def test_the_encoder_beats_random_initialization_by_4_points_and_raw_pixels(demo):
    shown = json.loads(run("dvc metrics show --json", demo.folder, ["bash", "-ec"]))
    scores = shown[""]["data"]["outputs/linear/metrics.json"]["data"]
    moco, random, pixels = (scores[name]["linear_top1"] for name in ("moco", "random", "pixels"))
    assert moco >= random + 0.04
    assert moco > pixels
    for name in ("moco", "random", "pixels"):
        features = scores[name]
        assert 0.5 < features["linear_top1"] <= features["linear_top5"] <= 1
        assert features["linear_top1_low"] < features["linear_top1"] < features["linear_top1_high"]
    assert 0.05 < scores["majority"]["linear_top1"] < 0.2


def test_a_second_run_finds_nothing_to_do(demo):
    printed = run("dvc repro", demo.folder, ["bash", "-ec"])
    assert re.findall(r"Running stage '(\w+)'", printed) == ["fetch"]  # which looks, each time
    assert "nothing new" in printed
    assert run("git status --porcelain -- . ':!dvc.lock' ':!.venv'", demo.folder, ["bash", "-ec"]) == ""


def test_another_setting_of_the_probe_runs_linear_and_report_only(demo):
    params = demo.folder / "params.yaml"
    before = params.read_text()
    params.write_text(re.sub(r"(linear:\n(?:  .*\n)*?  epochs: )\d+", r"\g<1>1", before))
    assert params.read_text() != before
    printed = run("dvc repro", demo.folder, ["bash", "-ec"])
    assert re.findall(r"Running stage '(\w+)'", printed) == ["fetch", "linear", "report"]
    params.write_text(before)
    printed = run("dvc repro", demo.folder, ["bash", "-ec"])
    assert re.findall(r"Running stage '(\w+)'", printed) == ["fetch"]  # DVC remembers the other run


def test_the_demo_says_where_everything_is(demo):
    for pointer in ("outputs/report/report.html", "mlflow ui"):
        assert pointer in demo.printed
    assert "Traceback" not in demo.printed


def test_the_transfer_demo_in_small_makes_its_table(demo):
    file = demo.folder / "transfer/params.yaml"
    values = yaml.safe_load(before := file.read_text())
    values["scenes"] |= {"train": 48, "val": 4, "test": 8}
    values["supervised"]["training"]["iterations"] = 20
    for task in ("detection", "classification"):
        values[task]["training"] |= {"iterations": 12, "trials": 1}
    file.write_text(yaml.safe_dump(values))
    printed = run("make transfer-demo", demo.folder, ["bash", "-ec"])
    assert "outputs/transfer/report/report.html" in printed
    assert "Traceback" not in printed
    page = (demo.folder / "outputs/transfer/report/report.md").read_text()
    assert all(re.search(rf"^\| {init} ", page, re.MULTILINE) for init in ("random", "supervised", "MoCo"))
    printed = run("dvc repro transfer/dvc.yaml", demo.folder, ["bash", "-ec"])
    assert all(name.endswith("fetch") for name in re.findall(r"Running stage '([^']+)'", printed))
    file.write_text(before)


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_work(page, demo):
    bash = "\n".join(b.code for b in blocks(page) if b.kind == "bash" and not b.reason and "make demo" not in b.code)
    run(bash, demo.folder, ["bash", "-ec"])
    for block in blocks(page):
        if block.kind == "python" and not block.reason:
            run(block.code, demo.folder, [sys.executable, "-c"])
    run("git checkout -q -- . ", demo.folder, ["bash", "-ec"])


def test_blocks_that_are_not_run_are_counted_and_each_has_its_reason():
    reasons = [block.reason for page in PAGES for block in blocks(page) if block.reason]
    assert all(len(reason) > 10 for reason in reasons)
    assert len(reasons) == NOT_RUN
