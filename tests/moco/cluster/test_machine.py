"""machine.yaml, which is optional and checked."""

import pytest

from moco.cluster.machine import Machine, load_machine
from moco.errors import MocoError


def test_without_a_file_the_defaults_hold(tmp_path):
    assert load_machine(tmp_path / "machine.yaml") == Machine()
    assert Machine().workers() >= 1


def test_a_file_changes_what_it_names(tmp_path):
    (tmp_path / "machine.yaml").write_text("processes: 2\nnum_workers: 0\n")
    machine = load_machine(tmp_path / "machine.yaml")
    assert (machine.processes, machine.workers()) == (2, 0)


@pytest.mark.parametrize(("text", "told"), [("gpus: 2", "gpus is no known key"), ("processes: 0", "processes = 0")])
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


def test_processes_share_the_groups_of_all_hosts():
    assert Machine(processes=3).training_processes(groups=8) == 3
    assert Machine(launcher={"kind": "slurm", "minutes": 60, "gpus_per_node": 8}).training_processes(8) == 8
    assert Machine(launcher={"kind": "slurm", "minutes": 60}).training_processes(8) == 1
    assert 4 % Machine(launcher={"kind": "torchrun", "rendezvous": "a:1", "nnodes": "2"}).training_processes(8) == 0
