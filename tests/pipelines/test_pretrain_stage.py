"""Stage pretrain as its own processes: killed, stopped, in several ranks."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from tar_server import TarServer

from moco.errors import MocoError
from moco.runs.checkpoints import name_of, newest_step
from moco.runs.curves import read_rows
from moco.tracking import TrackedRun
from pipelines.pretrain import write_outputs

ENVIRONMENT = {**os.environ, "MOCO_TRACKING": "off", "OMP_NUM_THREADS": "1"}


LONGER = ("--set", "pretrain.epochs=10")


def start(folder: Path, runs: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines.pretrain", *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**ENVIRONMENT, "MOCO_RUNS": str(folder / runs), **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def wait_for_rows(folder: Path, runs: str, rows: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        curves = list((folder / runs).glob("pretrain-*/curves.csv"))
        if curves and len(read_rows(curves[0])) >= rows:
            return
        time.sleep(0.02)
    raise AssertionError("the run did not get that far")


def outputs(folder: Path) -> dict[str, bytes]:
    files = ("curves.csv", "readings.csv", "metrics.json", "encoder/encoder.safetensors", "encoder/encoder.json")
    return {name: (folder / "outputs/pretrain" / name).read_bytes() for name in files}


def left_in_session(session: int) -> list[str]:
    listing = subprocess.run(["ps", "-eo", "sess,pid,stat,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if line.split()[0] == str(session) and " Z" not in line]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 3])
def test_a_run_killed_with_kill_9_and_resumed_equals_an_unbroken_one_to_the_bit(project, processes):
    (project / "machine.yaml").write_text(f"processes: {processes}\ncheckpoint_every_steps: 4\nnum_workers: 1\n")
    finish(start(project, "unbroken", *LONGER))
    expected = outputs(project)

    process = start(project, "broken", *LONGER)
    wait_for_rows(project, "broken", rows=10)
    for member in [process, *psutil.Process(process.pid).children(recursive=True)]:
        member.kill()
    process.communicate()
    folder = next((project / "broken").glob("pretrain-*/curves.csv")).parent  # beside it lies its lock
    done = len(read_rows(folder / "curves.csv"))
    newest = max(folder.glob("step-*.pt"))
    os.truncate(newest, newest.stat().st_size // 2)
    output = finish(start(project, "broken", *LONGER))
    assert f"{newest.name} cannot be read" in output
    resumed_at = int(output.split("pretrain: step ")[1].split(" ")[0])
    assert 4 <= resumed_at < int(newest.stem.split("-")[1]) <= done
    assert outputs(project) == expected
    steps = [int(row["step"]) for row in read_rows(project / "outputs/pretrain/curves.csv")]
    assert steps == list(range(1, len(steps) + 1))
    assert done < len(steps), "the run ended before it was killed"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_tars_behind_a_web_server_train_what_local_ones_train_through_kill_9_too(project, tmp_path):
    streamed = ("--set", "pretrain.stream={lanes: 4, window: 40}", "--set", "pretrain.knn_every_epochs=0", *LONGER)
    shared = (project / "data/shards").resolve()
    (project / "data/shards").unlink()
    shutil.copytree(shared, project / "data/shards")
    machine = "processes: 2\ncheckpoint_every_steps: 4\nnum_workers: 1\n"
    (project / "machine.yaml").write_text(machine)
    two = (*streamed, "--set", "pretrain.bn_group_size=6")
    finish(start(project, "local", *two))
    expected = outputs(project)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for tar in (project / "data/shards").glob("train-*.tar"):
        tar.rename(elsewhere / tar.name)
    server = TarServer(elsewhere)
    (project / "machine.yaml").write_text(f"{machine}shards_from: {server.url}\n")
    process = start(project, "refused", *two, "--set", "pretrain.knn_every_epochs=1")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "knn_every_epochs = 1 needs the training tars in data/shards too, and train-000000.tar" in output
    process = start(project, "broken", *two)
    wait_for_rows(project, "broken", rows=10)
    for member in [process, *psutil.Process(process.pid).children(recursive=True)]:
        member.kill()
    process.communicate()
    output = finish(start(project, "broken", *two))
    server.close()
    assert int(output.split("pretrain: step ")[1].split(" ")[0]) >= 4
    assert server.asked
    assert outputs(project) == expected


@pytest.mark.slow
def test_a_process_killed_with_kill_9_is_started_again_and_nothing_differs(project):
    (project / "machine.yaml").write_text("processes: 2\ncheckpoint_every_steps: 4\nnum_workers: 0\n")
    two = (*LONGER, "--set", "pretrain.bn_group_size=6")
    finish(start(project, "unbroken", *two))
    expected = outputs(project)
    process = start(project, "broken", *two)
    wait_for_rows(project, "broken", rows=10)
    workers = [child for child in psutil.Process(process.pid).children() if "moco.worker" in child.cmdline()]
    assert len(workers) == 2
    workers[1].kill()
    output = finish(process)
    began = [int(line.split()[2]) for line in output.splitlines() if line.startswith("pretrain: step ")]
    assert len(began) == 2
    assert began[1] >= 8
    assert "Traceback" not in output
    assert outputs(project) == expected


@pytest.mark.slow
def test_a_run_that_fails_again_and_again_is_given_up_with_its_reason_above(project, tmp_path):
    (project / "machine.yaml").write_text("processes: 2\nnum_workers: 0\n")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import os, sys\nif 'RANK' in os.environ:\n    import moco.training.schedules as s\n"
        "    s.learning_rate = lambda *a: 1 / 0\n"
    )
    process = start(project, "runs", "--set", "pretrain.bn_group_size=6", PYTHONPATH=f"{broken}:{Path.cwd()}")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "ZeroDivisionError" in output
    assert output.rstrip().splitlines()[-1].startswith("error: ")
    assert "failed 3 times after step 0 without reaching another checkpoint" in output


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("processes", [1, 3])
def test_ctrl_c_or_sigterm_leaves_a_checkpoint_one_line_and_no_process(project, processes, number):
    (project / "machine.yaml").write_text(f"processes: {processes}\nnum_workers: 1\n")
    process = start(project, "runs")
    wait_for_rows(project, "runs", rows=5)
    os.killpg(process.pid, number)  # the whole group, as a terminal and the flow do
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "a checkpoint is saved; the same command resumes from there" in output
    assert "Traceback" not in output
    time.sleep(0.5)
    assert left_in_session(process.pid) == []
    assert len(list((project / "runs").glob("pretrain-*/step-*.pt"))) == 1
    assert not (project / "outputs/pretrain/encoder").exists()


def test_metrics_and_encoder_name_the_run(project):
    finish(start(project, "runs"))
    metrics = json.loads((project / "outputs/pretrain/metrics.json").read_text())
    assert metrics["loss"] < metrics["chance"]
    assert 0 <= metrics["knn_top1"] <= 1
    spec = json.loads((project / "outputs/pretrain/encoder/encoder.json").read_text())
    assert (project / "runs" / f"pretrain-{spec['training_hash']}" / "finished").exists()
    again = finish(start(project, "runs"))  # under the same code and settings there is nothing left to do
    assert f"step {metrics['steps']} of {metrics['steps']}" in again
    restarted = finish(start(project, "runs", "--set", "pretrain.seed=1"))
    assert "step 0 of" in restarted


def test_outputs_are_never_those_of_an_earlier_checkpoint(project, capsys):
    finish(start(project, "runs"))
    expected = outputs(project)
    newest = max((project / "runs").glob("pretrain-*/step-*.pt"))
    saved = torch.load(newest, weights_only=True)
    torch.save(saved | {"step": saved["step"] - 1}, newest.with_name(name_of(saved["step"] - 1)))
    os.truncate(newest, 100)
    folder = newest.parent
    run = SimpleNamespace(folder=folder, total=saved["step"], done=lambda: newest_step(folder) == saved["step"])
    with pytest.raises(MocoError, match="holds no checkpoint of the run's end; run the same command again"):
        write_outputs(run, TrackedRun())
    assert f"{newest.name} cannot be read" in capsys.readouterr().out
    assert outputs(project) == expected


def test_a_second_writer_is_turned_away(project):
    endless = ("--set", "pretrain.epochs=10000")
    process = start(project, "runs", *endless)
    wait_for_rows(project, "runs", rows=1)
    second = start(project, "runs", *endless)
    output, _ = second.communicate(timeout=60)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert second.returncode == 1
    assert "another process is training this very run" in output


def test_a_wrong_parameter_stops_before_any_work_with_one_line(project):
    process = start(project, "runs", "--set", "pretrain.epochs=-1")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output.strip().splitlines() == [
        "error: --set: pretrain.epochs = -1: input should be greater than or equal to 1"
    ]
