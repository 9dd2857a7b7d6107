"""Launchers: what is refused before anything starts, and the line that does the same."""

import pytest

from moco.cluster.launcher import Work
from moco.cluster.local import Local
from moco.cluster.torchrun import Torchrun
from moco.errors import MocoError


def work(folder, processes: int, trained: list[str]) -> Work:
    return Work(folder, processes, lambda: trained.append("here"), lambda: bool(trained))


def test_a_rendezvous_on_no_known_host_is_refused_at_once(tmp_path):
    launcher = Torchrun(kind="torchrun", nnodes="2", rendezvous="nowhere.invalid:29400")
    with pytest.raises(MocoError, match=r"nowhere.invalid:29400: there is no host nowhere.invalid"):
        launcher.run(work(tmp_path, 1, []), None)


def test_one_process_of_this_machine_is_this_one(tmp_path):
    trained = []
    Local().run(work(tmp_path, 1, trained), None)
    assert trained == ["here"]
    assert Local.find(tmp_path) is None


def test_the_line_names_hosts_processes_and_the_meeting_point(tmp_path):
    line = Torchrun(kind="torchrun", nnodes="2:4", rendezvous="a:29400").line(tmp_path / "run", processes=3)
    assert "--nnodes=2:4 --nproc-per-node=3" in line
    assert "--rdzv-backend=c10d --rdzv-endpoint=a:29400" in line
    assert line.endswith(f"-m moco.worker {tmp_path / 'run'}")
    assert line.startswith("TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 ")
    assert "--nnodes=1 --nproc-per-node=2" in Local().line(tmp_path, 2)
    assert "--standalone" in Local().line(tmp_path, 2)
