"""Starting processes: what is refused before anything starts, and the line that does the same."""

import pytest
from moco.cluster.launch import line_of, run_here

from moco.cluster.machine import Machine
from moco.errors import MocoError


def test_a_rendezvous_on_no_known_host_is_refused_at_once(tmp_path):
    machine = Machine(launcher="torchrun", nnodes="2", rendezvous="nowhere.invalid:29400")
    with pytest.raises(MocoError, match=r"nowhere.invalid:29400: there is no host nowhere.invalid"):
        run_here(tmp_path, machine, processes=1)


def test_the_line_names_hosts_processes_and_the_meeting_point(tmp_path):
    machine = Machine(launcher="torchrun", nnodes="2:4", rendezvous="a:29400")
    line = line_of(tmp_path / "run", machine, processes=3)
    assert "--nnodes=2:4 --nproc-per-node=3" in line
    assert "--rdzv-backend=c10d --rdzv-endpoint=a:29400" in line
    assert line.endswith(f"-m moco.worker {tmp_path / 'run'}")
    assert line.startswith("TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 ")
