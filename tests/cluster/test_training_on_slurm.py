"""A Slurm job that is preempted, cut short, loses a node or its driver, and still finishes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml
from cluster_training import ENVIRONMENT, PRETRAIN, losses, project_of, rows, starts, wait_for_step
from sandbox import wait_until
from small_material import SMALL_PRETRAIN, copy_project, write_images, write_params

JOB = {"nodes": 2, "minutes": 30, "partition": "ci", "cpus_per_node": 1}


@pytest.fixture
def start(slurm, tmp_path):
    """Start the stage on the login host, in a folder."""

    def run(folder):
        return slurm.start(PRETRAIN, cwd=folder, env=ENVIRONMENT, log=tmp_path / "log")

    return run


def on_slurm(tmp_path, small_project, epochs, **job):
    settings = {"launcher": {"kind": "slurm"} | JOB | job, "checkpoint_every_steps": 20}
    return project_of(tmp_path / "project", small_project, epochs, **settings)


def unbroken(tmp_path, small_project, epochs):
    """The losses of the same run, by two processes of one host and never stopped."""
    folder = project_of(tmp_path / "unbroken", small_project, epochs, processes=2)
    subprocess.run(PRETRAIN, cwd=folder, env=ENVIRONMENT, check=True, timeout=240, capture_output=True)
    return losses(folder)


def checkpoints(folder):
    return sorted(int(path.stem.split("-")[1]) for path in folder.glob("runs/pretrain-*/step-*.pt"))


def test_a_preempted_job_saves_and_goes_on_at_the_exact_next_step(slurm, start, small_project, tmp_path):
    folder = on_slurm(tmp_path, small_project, epochs=20)
    driver = start(folder)
    wait_for_step(folder, 25)
    slurm.run(["sbatch", "--partition=urgent", "--nodes=4", "--exclusive", "--wrap=sleep 3"], cwd=tmp_path)
    assert driver.wait(180) == 0
    (first, *_), (again, processes) = starts(tmp_path / "log")
    assert (first, processes) == (0, 2)
    assert f"stopped at step {again} of 200, a checkpoint is saved" in (tmp_path / "log").read_text()
    assert losses(folder) == unbroken(tmp_path, small_project, epochs=20)  # to the bit
    assert (folder / "outputs/pretrain/encoder/encoder.safetensors").exists()


def test_a_job_at_its_time_limit_takes_another_turn(slurm, start, small_project, tmp_path):
    folder = on_slurm(tmp_path, small_project, epochs=400, minutes=2, seconds_to_save=60)
    start(folder)
    wait_until(
        lambda: len(starts(tmp_path / "log")) > 1 if (tmp_path / "log").exists() else False, 180, "a second turn"
    )
    wait_for_step(folder, starts(tmp_path / "log")[1][0] + 1)
    assert f"stopped at step {starts(tmp_path / 'log')[1][0]} of" in (tmp_path / "log").read_text()
    assert [job.id for job in slurm.jobs()] == ["1"]


def test_a_node_that_loses_its_power_costs_the_steps_since_the_last_checkpoint(slurm, start, small_project, tmp_path):
    folder = on_slurm(tmp_path, small_project, epochs=20)
    driver = start(folder)
    wait_for_step(folder, 45)
    slurm.power_off("n2")
    assert driver.wait(240) == 0
    again = starts(tmp_path / "log")[-1][0]
    assert again % 20 == 0
    assert again >= 40
    assert losses(folder) == unbroken(tmp_path, small_project, epochs=20)


def test_a_killed_driver_comes_back_to_its_job_and_submits_no_second_one(slurm, start, small_project, tmp_path):
    folder = on_slurm(tmp_path, small_project, epochs=30)
    driver = start(folder)
    wait_for_step(folder, 10)
    driver.send_signal(signal.SIGKILL)
    driver.wait(10)
    (folder / "machine.yaml").rename(folder / "kept.yaml")
    local = slurm.run(PRETRAIN, cwd=folder, env=ENVIRONMENT)
    assert local.returncode == 1
    assert "Slurm job 1 (RUNNING) trains this very run; end it with `scancel 1`" in local.stderr
    (folder / "kept.yaml").rename(folder / "machine.yaml")
    again = start(folder)
    assert again.wait(120) == 0
    assert "following job 1, which trains this run already" in (tmp_path / "log").read_text()
    assert [(job.id, job.state) for job in slurm.jobs()] == [("1", "COMPLETED")]
    assert len(losses(folder)) == 300


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_the_driver_cancels_the_job_which_saves_first(slurm, start, small_project, tmp_path, number):
    folder = on_slurm(tmp_path, small_project, epochs=400)
    driver = start(folder)
    wait_for_step(folder, 25)
    driver.send_signal(number)
    assert driver.wait(20) == 130
    assert [job.state for job in slurm.jobs()] == ["CANCELLED"]
    assert checkpoints(folder)[-1] >= len(rows(folder)) - 1 > 20
    assert "error: pretrain: job 1 is cancelled; the same command resumes" in (tmp_path / "log").read_text()


def test_a_request_that_cannot_be_met_is_one_line(slurm, small_project, tmp_path):
    folder = on_slurm(tmp_path, small_project, epochs=4, nodes=4, options={"mem": "900G"})
    refused = slurm.run(PRETRAIN, cwd=folder, env=ENVIRONMENT)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "Slurm refuses the job: sbatch: error: " in refused.stderr
    assert "correct the section launcher" in refused.stderr
    without = {**ENVIRONMENT, "PATH": str(tmp_path)}
    nowhere = subprocess.run(PRETRAIN, cwd=folder, env=without, capture_output=True, text=True)
    assert nowhere.stderr.startswith("error: machine.yaml: launcher.kind = slurm, but there is no `sbatch`")
    many = on_slurm(tmp_path / "many", small_project, epochs=4, nodes=6)
    (many / "params.yaml").write_text(
        (many / "params.yaml").read_text().replace("bn_group_size: 6", "bn_group_size: 2")
    )
    never = slurm.run(PRETRAIN, cwd=many, env=ENVIRONMENT)
    assert never.returncode == 1
    assert "Slurm can never start job 2 as asked (PartitionConfig); it is cancelled" in never.stderr
    assert {job.state for job in slurm.jobs()} == {"FAILED", "CANCELLED"}  # nothing waits or runs


@pytest.mark.slow
def test_the_flow_drives_the_job_and_after_its_death_dvc_does(slurm, tmp_path):
    folder = tmp_path / "project"
    copy_project(folder)
    write_images(folder / "data/inbox")
    settings = SMALL_PRETRAIN | {"fetch.source": "folder", "pretrain.bn_group_size": 6, "pretrain.epochs": 60}
    write_params(folder, settings)
    (folder / "machine.yaml").write_text(yaml.safe_dump({"num_workers": 0, "launcher": {"kind": "slurm"} | JOB}))
    environment = ENVIRONMENT | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PWD": str(folder),
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "PREFECT_HOME": str(tmp_path / "prefect"),
    }
    for command in (
        ["init", "--quiet"],
        ["add", "--all"],
        ["-c", "user.name=A", "-c", "user.email=a@b", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    log = tmp_path / "flow.log"
    flow = slurm.start([sys.executable, "-m", "flows.pretrain_and_evaluate"], cwd=folder, env=environment, log=log)
    wait_for_step(folder, 25)
    driven = [flow, *psutil.Process(flow.pid).children(recursive=True)]
    for process in driven:
        process.kill()
    flow.wait(10)
    slurm_log = next(folder.glob("runs/pretrain-*/slurm/1_0_log.out"))
    again = slurm.run([sys.executable, "-m", "dvc", "repro"], cwd=folder, env=environment, timeout=240)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "following job 1, which trains this run already" in again.stdout
    assert starts(slurm_log)[0] == (0, 2)
    assert len(starts(slurm_log)) == 1  # the job never noticed
    assert [(job.id, job.state) for job in slurm.jobs()] == [("1", "COMPLETED")]
    assert (folder / "outputs/report/report.html").exists()
