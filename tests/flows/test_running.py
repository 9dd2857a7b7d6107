"""What flows share: the machine in parts for stages that run side by side."""

import sys

import pytest
from small_pipeline import Pipeline

from flows import running
from moco.cluster import machine


def drained(count: int | None, at_most: int | None = None) -> list[dict[str, str]]:
    slots = running.shares(count, at_most)
    return [slots.get() for _ in range(slots.qsize())]


def test_cores_are_shared_out_to_stages_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "cores", lambda: 4)
    assert drained(2) == [{"OMP_NUM_THREADS": "2", "MOCO_CORES": "2"}] * 2
    assert drained(None) == [{"OMP_NUM_THREADS": "1", "MOCO_CORES": "1"}] * 4
    assert drained(9) == [{"OMP_NUM_THREADS": "1", "MOCO_CORES": "1"}] * 9
    assert drained(None, 1) == [{"OMP_NUM_THREADS": "4", "MOCO_CORES": "4"}]  # one is left: all of them


def test_a_share_of_the_cores_is_all_that_a_stage_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine.cores()
    monkeypatch.setenv("MOCO_CORES", "1")
    assert machine.cores() == 1
    assert machine.Machine(device="cpu").training_processes(8) == 1
    monkeypatch.setenv("MOCO_CORES", str(here + 5))
    assert machine.cores() == here


@pytest.mark.parametrize(
    ("count", "devices"),
    [(None, ["0", "1", "2", "3"]), (2, ["0,2", "1,3"]), (1, ["0,1,2,3"]), (5, ["0", "1", "2", "3", "0"])],
)
def test_gpus_are_shared_out_too(count: int | None, devices: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "gpus", lambda device: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")  # the caller's, which are all that there is
    mapped = ["".join(str(int(at) + 4) if at.isdigit() else at for at in names) for names in devices]
    assert [share["CUDA_VISIBLE_DEVICES"] for share in drained(count)] == mapped


def test_a_pipeline_below_runs_with_what_it_builds_on_and_nothing_else(alone: Pipeline) -> None:
    below = alone.folder / "below"
    below.mkdir()
    (below / "dvc.yaml").write_text(
        "stages: {more: {wdir: .., matrix: {n: [1, 2]}, cmd: 'cp encoder below/x${item.n}', deps: [encoder], outs: ['below/x${item.n}']}}"
    )
    (alone.folder / "below.py").write_text(
        "import os\nfrom pathlib import Path\nfrom flows.running import run_stages\nfrom flows.server import served\n"
        "from prefect import flow\n@flow\ndef below():\n"
        "    run_stages(Path.cwd(), dict(os.environ), 0, 'below/dvc.yaml', 2)\nwith served():\n    below()\n"
    )
    alone.run(sys.executable, "below.py")
    assert (below / "x1").exists() and (below / "x2").exists()
    assert not (alone.folder / "detect.json").exists()
