"""The clusters that the other tests of this folder stand on."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from network_hosts import NetworkHosts
from sandbox import wait_until
from slurm_cluster import NODES, Job, SlurmCluster

LISTEN = """
import socket
server = socket.create_server(("", 5000))
print("listening", flush=True)
connections = []
while True:
    connections.append(server.accept())
"""
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], 5000), timeout=1)"


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """A word in the environment of whatever is started from now on, the beds included."""
    mark = f"TESTBED={uuid.uuid4()}"
    monkeypatch.setenv(*mark.split("="))
    return mark


def marked(mark: str) -> set[str]:
    """The processes on this machine that carry the mark, except the tests' own."""
    found = set()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in environment.read_bytes():
                found.add(environment.parent.name)
        except OSError:  # it has just ended
            continue
    return found - {str(os.getpid())}


def reaches(hosts: NetworkHosts, source: str, target: str) -> bool:
    return hosts.run(source, [sys.executable, "-c", CONNECT, target]).returncode == 0


def listen(hosts: NetworkHosts, name: str, log: Path) -> subprocess.Popen:
    process = hosts.start(name, [sys.executable, "-c", LISTEN], log=log)
    wait_until(lambda: "listening" in log.read_text(), 10, f"{name} listens")
    log.unlink()
    return process


def test_hosts_have_names_and_addresses_of_their_own(hosts: NetworkHosts, tmp_path: Path) -> None:
    own = "import socket; name = socket.gethostname(); print(name, socket.gethostbyname(name))"
    addresses = [hosts.run(name, [sys.executable, "-c", own], cwd=tmp_path).stdout.split() for name in "abc"]
    assert addresses == [["a", "10.77.0.11"], ["b", "10.77.0.12"], ["c", "10.77.0.13"]]
    hosts.run("a", ["touch", "file"], cwd=tmp_path)
    assert (tmp_path / "file").exists()


def test_a_cut_cable_is_silent_and_can_be_mended(hosts: NetworkHosts, tmp_path: Path) -> None:
    listen(hosts, "b", tmp_path / "log")
    talk = "import socket; c = socket.create_connection(('b', 5000)); print('talks', flush=True); c.recv(1)"
    log = tmp_path / "talk"
    talker = hosts.start("a", [sys.executable, "-c", talk], log=log)
    wait_until(lambda: "talks" in log.read_text(), 10, "a talks to b")
    hosts.cut("b")
    assert not reaches(hosts, "a", "b")
    assert talker.poll() is None
    hosts.reconnect("b")
    wait_until(lambda: reaches(hosts, "a", "b"), 10, "b is reached again")


def test_a_host_without_power_keeps_no_process_and_comes_back_empty(
    mark: str, hosts: NetworkHosts, tmp_path: Path
) -> None:
    process = listen(hosts, "b", tmp_path / "log")
    before = marked(mark)
    hosts.start("b", ["bash", "-c", "setsid sleep 600 & exec sleep 600"])
    assert reaches(hosts, "a", "b")
    hosts.power_off("b")
    assert process.returncode == -signal.SIGKILL
    assert marked(mark) < before
    assert not reaches(hosts, "a", "b")
    hosts.power_on("b")
    assert not reaches(hosts, "a", "b")
    listen(hosts, "b", tmp_path / "log")
    assert reaches(hosts, "a", "b")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_the_command_itself(hosts: NetworkHosts, tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "log"
    process = hosts.start("a", ["bash", "-c", "echo runs; exec sleep 600"], log=log)
    wait_until(lambda: log.exists() and log.read_text() == "runs\n", 10, "it runs")
    process.send_signal(number)
    assert process.wait(10) == -number


def test_slurm_runs_one_task_on_each_node(slurm: SlurmCluster) -> None:
    result = slurm.run(["srun", "-N4", "hostname"])
    assert sorted(result.stdout.split()) == list(NODES), result.stderr


def test_a_node_without_power_is_down_and_its_job_starts_again_elsewhere(slurm: SlurmCluster, tmp_path: Path) -> None:
    task, log = "srun -v sleep 600", tmp_path / "log"
    slurm.run(["sbatch", "-N2", "--requeue", "-o", log.name, "--wrap", task], cwd=tmp_path, check=True)
    # A node that dies before srun has heard of its tasks fails the job instead.
    wait_until(lambda: log.exists() and log.read_text().count("tasks started") == 2, 20, "srun says it runs")
    slurm.power_off("n2")
    wait_until(lambda: slurm.node_states()["n2"] == "down*", 60, "the node is down")
    wait_until(lambda: slurm.jobs()[0].state == "RUNNING", 60, "the job runs again")
    assert "2" not in slurm.jobs()[0].nodes
    slurm.power_on("n2")
    slurm.run(["scancel", "1"], check=True)
    slurm.wait_until_idle()


def test_an_urgent_job_takes_the_nodes(slurm: SlurmCluster) -> None:
    batch = ["sbatch", "-N4", "--exclusive", "-o", os.devnull, "--wrap", "sleep 600"]
    slurm.run(batch, check=True)
    wait_until(lambda: slurm.jobs() == [Job("1", "RUNNING", "n[1-4]")], 20, "it runs")
    slurm.run([*batch, "--partition", "urgent"], check=True)
    wait_until(lambda: Job("2", "RUNNING", "n[1-4]") in slurm.jobs(), 60, "the urgent job runs")
    assert Job("1", "PENDING", "") in slurm.jobs()


def test_a_job_outlives_its_controller(slurm: SlurmCluster) -> None:
    slurm.run(["sbatch", "-o", os.devnull, "--wrap", "sleep 600"], check=True)
    wait_until(lambda: slurm.jobs() == [Job("1", "RUNNING", "n1")], 20, "it runs")
    slurm.restart_controller()
    assert slurm.jobs() == [Job("1", "RUNNING", "n1")]


def hold_and_kill(program: str, mark: str) -> None:
    """Kill a process that holds another bed.

    All that it held must go, and what stood here before must stay.
    """
    before = marked(mark)
    mounts = Path("/proc/self/mounts").read_text()
    holder = subprocess.Popen(
        [sys.executable, "-c", f"{program}; print('up', flush=True); time.sleep(600)"],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "up\n"
    assert len(marked(mark) - before) > 6
    holder.kill()
    holder.communicate()
    wait_until(lambda: marked(mark) == before, 10, "all processes are gone")
    assert Path("/proc/self/mounts").read_text() == mounts


def test_no_host_is_left_when_the_process_that_holds_them_is_killed(mark: str, hosts: NetworkHosts) -> None:
    hold_and_kill("import time; from network_hosts import *; bed = NetworkHosts()", mark)
    assert hosts.run("a", ["true"]).returncode == 0


def test_no_cluster_is_left_when_the_process_that_holds_it_is_killed(
    mark: str, slurm: SlurmCluster, tmp_path: Path
) -> None:
    make = f"bed = SlurmCluster(Path({str(tmp_path)!r})); bed.start(['srun', '-N4', 'sleep', '600'])"
    hold_and_kill(f"import time; from slurm_cluster import *; {make}", mark)
    assert slurm.run(["srun", "true"]).returncode == 0


def test_a_closed_cluster_leaves_nothing(mark: str, slurm: SlurmCluster) -> None:
    slurm.run(["sbatch", "-N4", "-o", os.devnull, "--wrap", "srun sleep 600"], check=True)
    wait_until(lambda: slurm.jobs() == [Job("1", "RUNNING", "n[1-4]")], 20, "it runs")
    assert marked(mark)
    begin = time.monotonic()
    slurm.close()
    assert time.monotonic() - begin < 5
    assert not marked(mark)
