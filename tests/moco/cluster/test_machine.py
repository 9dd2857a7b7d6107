"""machine.yaml, which is optional and checked."""

import pytest

from moco.cluster import machine as module
from moco.cluster.machine import Machine, find, load_machine
from moco.cluster.slurm import Slurm
from moco.cluster.slurm_job import LOGS
from moco.errors import MocoError


def test_without_a_file_the_defaults_hold(tmp_path):
    assert load_machine(tmp_path / "machine.yaml") == Machine()
    assert Machine().workers() >= 1


def test_a_file_changes_what_it_names(tmp_path):
    (tmp_path / "machine.yaml").write_text("processes: 2\nnum_workers: 0\n")
    machine = load_machine(tmp_path / "machine.yaml")
    assert (machine.processes, machine.workers()) == (2, 0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gpus: 2", "gpus is no known key"),
        ("processes: 0", "processes = 0"),
        ("num_workers: -1", "num_workers = -1"),
        ("keep_checkpoints: 0", "keep_checkpoints = 0"),
        ("checkpoint_every_steps: 0", "checkpoint_every_steps = 0"),
        ("checkpoint_every_minutes: 0", "checkpoint_every_minutes = 0"),
        ("max_batch_per_process: 1", "max_batch_per_process = 1"),
        ("step_timeout_seconds: 0", "step_timeout_seconds = 0"),
        ("shards_from: ''", "shards_from = ''"),
    ],
)
def test_a_wrong_key_or_value_is_one_line(tmp_path, text, told):
    (tmp_path / "machine.yaml").write_text(text)
    with pytest.raises(MocoError, match=told):
        load_machine(tmp_path / "machine.yaml")


def test_a_range_of_hosts_is_no_sexagesimal_number(tmp_path):
    path = tmp_path / "machine.yaml"
    path.write_text("launcher: {kind: torchrun, nnodes: 1:2, rendezvous: a:29400}")
    assert load_machine(path).launcher.hosts() == (1, 2)
    path.write_text("launcher: {kind: torchrun, nnodes: 16, rendezvous: a:29400}")
    assert load_machine(path).launcher.hosts() == (16, 16)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("launcher: {kind: torchrun}", "launcher.rendezvous is missing"),
        ("launcher: {kind: torchrun, rendezvous: a}", "launcher.rendezvous = 'a'"),
        ("launcher: {kind: torchrun, rendezvous: a:1, nnodes: 3:2}", "nnodes = 3:2: the fewest are more than the most"),
        ("launcher: {kind: pbs}", "launcher.kind = pbs: choose one of local, torchrun, slurm"),
        (
            "launcher: {kind: slurm, minutes: 2, seconds_to_save: 120}",
            "seconds_to_save = 120 leaves nothing of minutes = 2",
        ),
        ("launcher: {kind: slurm, nodes: 2}", "launcher.minutes is missing"),
        ("launcher: {kind: slurm, minutes: 9, gpus_per_node: 4}", "GPUs need cpus_per_node"),
        (
            "device: cpu\nlauncher: {kind: slurm, minutes: 9, gpus_per_node: 4, cpus_per_node: 8}",
            "device = cpu, but the launcher asks for GPUs",
        ),
        (
            "launcher: torchrun\nnnodes: 1:2\nrendezvous: a:29400",
            "these keys have moved: launcher -> launcher.kind, nnodes -> launcher.nnodes, rendezvous -> launcher.rendezvous;",
        ),
        ("launcher: slurm\nslurm: {minutes: 2}", "slurm -> launcher, beside kind: slurm"),
        ("shards_from: 'pipe:cat /data/x'", "does not say where the tar's name goes; put {shard} there"),
    ],
)
def test_a_launcher_without_what_it_needs_is_one_line(tmp_path, text, told):
    (tmp_path / "machine.yaml").write_text(text)
    with pytest.raises(MocoError, match=told) as error:
        load_machine(tmp_path / "machine.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "cores", "groups", "processes"),
    [
        ({"processes": 3}, 8, 8, 3),
        ({}, 8, 12, 6),  # the most that divide the groups
        ({}, 8, 1, 1),
        ({}, 1, 8, 1),
        ({"launcher": {"kind": "torchrun", "rendezvous": "a:1", "nnodes": "1:4"}}, 8, 8, 2),  # of the most hosts
        ({"launcher": {"kind": "torchrun", "rendezvous": "a:1", "nnodes": "4"}}, 8, 2, 1),  # `check` refuses it
        ({"launcher": {"kind": "slurm", "minutes": 60}}, 8, 8, 1),
        ({"launcher": {"kind": "slurm", "minutes": 60}, "processes": 2}, 8, 8, 2),
    ],
)
def test_processes_share_the_groups_of_all_hosts(monkeypatch, values, cores, groups, processes):
    monkeypatch.setattr(module, "cores", lambda: cores)
    assert Machine(device="cpu", **values).training_processes(groups) == processes


@pytest.mark.parametrize(
    ("device", "gpus", "processes"), [("auto", 4, 4), ("cuda", 4, 4), ("cpu", 4, 8), ("auto", 0, 8)]
)
def test_a_process_has_a_gpu_where_there_are_any(monkeypatch, device, gpus, processes):
    monkeypatch.setattr(module, "cores", lambda: 8)
    monkeypatch.setattr(module, "gpus", lambda device: 0 if device == "cpu" else gpus)
    assert Machine(device=device).training_processes(groups=8) == processes


@pytest.mark.parametrize(
    ("launcher", "device", "trains_on", "processes"),
    [
        ({"gpus_per_node": 8, "cpus_per_node": 64}, "auto", "cuda", 8),  # no GPU there is an error there
        ({"gpus_per_node": 0}, "auto", "cpu", 1),
        ({"options": {"gres": "gpu:2"}, "cpus_per_node": 8}, "auto", "auto", 1),
        ({}, "cuda", "cuda", 1),
    ],
)
def test_training_computes_on_what_slurm_was_asked_for(launcher, device, trains_on, processes):
    machine = Machine(device=device, launcher={"kind": "slurm", "minutes": 60, **launcher})
    assert (machine.training_device, machine.training_processes(8)) == (trains_on, processes)


def test_the_smallest_values_are_allowed():
    machine = Machine(processes=1, num_workers=0, checkpoint_every_steps=1, keep_checkpoints=1, max_batch_per_process=2)
    assert machine.step_timeout_seconds == 40
    assert machine.workers() == 0


@pytest.mark.parametrize(
    ("cores", "processes", "workers"),
    [(8, None, 7), (8, "2", 3), (8, "1", 7), (2, "2", 1), (1, None, 1), (64, None, 16)],
)
def test_loader_processes_share_the_cores_with_the_training_processes(monkeypatch, cores, processes, workers):
    monkeypatch.setattr(module, "cores", lambda: cores)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert Machine().workers() == workers
    assert Machine(num_workers=5).workers() == 5


def test_a_run_is_found_in_slurms_queue_by_the_folder_in_a_jobs_comment(tmp_path, monkeypatch):
    folder, squeue = tmp_path / "pretrain-1", tmp_path / "bin/squeue"
    squeue.parent.mkdir()
    monkeypatch.setenv("PATH", str(squeue.parent))
    (folder / LOGS).mkdir(parents=True)
    assert find(folder) is None  # no Slurm on this host
    squeue.write_text(
        f"#!/bin/sh\necho '6|RUNNING|None|/elsewhere'\necho '7|COMPLETED|None|{folder}'\necho '8|PENDING|Priority|{folder}'\n"
    )
    squeue.chmod(0o755)
    launcher, found = find(folder)
    assert launcher is Slurm
    assert (found.id, found.what, found.end) == ("8", "Slurm job 8 (PENDING)", "scancel 8")
    assert find(tmp_path / "pretrain-2") is None  # never given to Slurm
