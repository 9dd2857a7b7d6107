"""A full disk, in each stage: one line, nothing half-written, and the next run ends well."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_material import ROOT

from moco.config import load_params

pytestmark = pytest.mark.slow

FEW = {"iterations": 3, "batch_size": 4, "precise_bn_batches": 1, "trials": 1, "precision": "fp32"}
STAGES = (
    "fetch",
    "shard",
    "pretrain",
    "linear",
    "report",
    "scenes",
    "weights moco",
    "supervised",
    "transfer classification moco",
    "transfer_report",
)
PLACES = {
    "fetch": ["data/raw", "outputs/fetch"],
    "shard": ["data/shards", "outputs/shard"],
    "pretrain": ["outputs/pretrain"],
    "linear": ["outputs/linear"],
    "report": ["outputs/report"],
    "scenes": ["data/scenes"],
    "weights moco": ["outputs/transfer"],
    "supervised": ["outputs/transfer"],
    "transfer classification moco": ["outputs/transfer"],
    "transfer_report": ["outputs/transfer"],
}
"""What each stage writes. The folder of untracked state is a place too."""
SMALL = ("linear", "transfer classification")
"""Write less than 40 kB."""
CHANGES = {"shard": ["shard.samples_per_shard=100"], "linear": ["linear.seed=5"], "report": ["report.queries=1"]}
"""So that a stage has something to do."""
SCRIPT = """
set -e
mount -t tmpfs -o size=64m none "$DISK"
for place in $PLACES; do
    mkdir -p "$(dirname "$DISK/$place")" "$place"
    cp -a "$place" "$DISK/$place"
    rm -r "$place"
    ln -s "$DISK/$place" "$place"
done
list() { (cd "$DISK" && find . -path './[do]*' -type f ! -name '*.lock' -exec sha256sum {} + | sort); }
list > before
used=$(df --output=used -B1 "$DISK" | tail -1)
mount -o remount,size=$((used + FREE)) "$DISK"
code=0
"$@" > said 2> error || code=$?
list > after
find -L . -name '*.part*' > parts
mount -o remount,size=2g "$DISK"
"$@" > said-again 2> error-again
echo $code > code
"""


@pytest.fixture(scope="module")
def done(small_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose stages have all run."""
    folder = tmp_path_factory.mktemp("full") / "project"
    shutil.copytree(small_project, folder, symlinks=True)
    (folder / "machine.yaml").write_text("processes: 1\nnum_workers: 0\n")
    values = yaml.safe_load((ROOT / "transfer/params.yaml").read_text())
    values["tasks"], values["inits"] = ["classification"], ["moco"]
    values["scenes"] |= {"train": 12, "val": 2, "test": 4, "side": 64, "item_max": 40}
    values["random"] = load_params(folder / "params.yaml").pretrain.encoder.model_dump()
    values["classification"]["training"] |= FEW | {"label_fraction": 1.0}
    values["supervised"]["training"] |= FEW | {"batch_size": 16}
    (folder / "transfer").mkdir()
    (folder / "transfer/params.yaml").write_text(yaml.safe_dump(values))
    for stage in STAGES:
        ended = subprocess.run(command(stage), cwd=folder, env=environment(), capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
    return folder


def command(stage: str, *changes: str) -> list[str]:
    module, *arguments = stage.split()
    return [
        sys.executable,
        "-m",
        f"pipelines.{module}",
        *arguments,
        *(word for one in changes for word in ("--set", one)),
    ]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MOCO_TRACKING": "off", **more}


@pytest.mark.parametrize(
    ("stage", "place", "free"),
    [
        *((stage, "outputs", 0 if stage.startswith(SMALL) else 40_000) for stage in STAGES),
        ("pretrain", "runs", 40_000),
        ("linear", "runs", 40_000),
    ],
)
def test_a_stage_on_a_full_disk_says_so_and_ends_well_with_room(
    done: Path, tmp_path: Path, stage: str, place: str, free: int
) -> None:
    folder, disk = tmp_path / "project", tmp_path / "disk"
    shutil.copytree(done, folder, symlinks=True)
    disk.mkdir()
    if place == "runs":
        shutil.rmtree(folder / "runs")
        (folder / "runs").mkdir()
    places = ["runs"] if place == "runs" else PLACES[stage]
    env = environment(DISK=str(disk), PLACES=" ".join(places), FREE=str(free))
    script = tmp_path / "script"
    script.write_text(SCRIPT)
    ended = subprocess.run(
        ["unshare", "--mount", "sh", str(script), *command(stage, *CHANGES.get(stage, []))],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
    )
    if "unshare:" in ended.stderr:
        pytest.skip("this user may not mount")
    again = folder / "error-again"
    assert ended.returncode == 0, ended.stderr + (again.read_text() if again.exists() else "")
    error = (folder / "error").read_text()
    assert (folder / "code").read_text().strip() == "1", error
    line = error.splitlines()[-1]
    assert error.count("error: ") == 1 and "Traceback" not in error
    assert line.startswith("error: ") and "free some space" in line
    assert any(part in line for part in places) or str(disk) in line
    assert (folder / "after").read_text() == (folder / "before").read_text()
    assert (folder / "parts").read_text() == ""
