"""Hosts that meet at a rendezvous: come, go, fall silent, and train one run all the same."""

import subprocess
import time

import pytest
from cluster_training import ENVIRONMENT, PRETRAIN, losses, project_of, rows, starts, wait_for_step
from sandbox import wait_until

TWO = {
    "launcher": {"kind": "torchrun", "nnodes": 2, "rendezvous": "a:29400"},
    "processes": 1,
    "checkpoint_every_steps": 20,
}
ONE_OR_TWO = {**TWO, "launcher": TWO["launcher"] | {"nnodes": "1:2"}, "step_timeout_seconds": 8}


@pytest.fixture
def start(hosts, tmp_path):
    """Start the stage on a host, in a folder, with a log of its own."""

    def run(host, folder, *options):
        return hosts.start(host, [*PRETRAIN, *options], cwd=folder, env=ENVIRONMENT, log=tmp_path / f"{host}.log")

    return run


def test_two_hosts_without_a_common_disk_compute_what_one_computes(start, small_project, tmp_path):
    alone = project_of(tmp_path / "alone", small_project, epochs=4, processes=2)  # saves at other steps, too
    subprocess.run(PRETRAIN, cwd=alone, env=ENVIRONMENT, check=True, timeout=120, capture_output=True)
    folders = {host: project_of(tmp_path / host, small_project, epochs=4, **TWO) for host in "ab"}
    running = [start(host, folder) for host, folder in folders.items()]
    assert [process.wait(120) for process in running] == [0, 0]
    for name in ("curves.csv", "readings.csv", "metrics.json", "encoder/encoder.safetensors"):
        expected = (alone / "outputs/pretrain" / name).read_bytes()
        for folder in folders.values():
            assert (folder / "outputs/pretrain" / name).read_bytes() == expected, name


def test_a_second_host_on_the_same_disk_helps_and_leaves_the_outputs_to_the_first(start, small_project, tmp_path):
    folder = project_of(tmp_path / "shared", small_project, epochs=4, **TWO)
    first = start("a", folder)
    wait_until(lambda: any(folder.glob("runs/pretrain-*/job.yaml")), 60, "the first host drives")
    second = start("b", folder)
    assert (first.wait(120), second.wait(120)) == (0, 0)
    assert "helping it at a:29400" in (tmp_path / "b.log").read_text()
    assert starts(tmp_path / "a.log") + starts(tmp_path / "b.log") == [(0, 2)]
    assert (folder / "outputs/pretrain/encoder/encoder.safetensors").exists()


def test_a_lost_host_costs_seconds_and_a_returning_one_is_taken_back(hosts, start, small_project, tmp_path):
    unbroken = project_of(tmp_path / "unbroken", small_project, epochs=60, processes=2)
    folders = {host: project_of(tmp_path / host, small_project, epochs=60, **ONE_OR_TWO) for host in "ab"}
    first, _ = start("a", folders["a"]), start("b", folders["b"])
    wait_for_step(folders["b"], 60)
    hosts.power_off("b")
    lost, step = time.monotonic(), len(rows(folders["a"]))
    wait_for_step(folders["a"], step + 5)
    assert time.monotonic() - lost < 40
    hosts.power_on("b")
    back = start("b", folders["b"])
    wait_until(
        lambda: starts(tmp_path / "a.log")[-1][1] == 2 and len(starts(tmp_path / "a.log")) > 2, 60, "two hosts again"
    )
    assert (first.wait(240), back.wait(60)) == (0, 0)
    world_sizes = [processes for _, processes in starts(tmp_path / "a.log")]
    assert world_sizes[0] == 2 or world_sizes[:2] == [1, 2]  # the first host may have begun alone
    assert 1 in world_sizes[1:]
    assert world_sizes[-1] == 2
    # The same global batches in the same order, whoever computed them.
    subprocess.run(PRETRAIN, cwd=unbroken, env=ENVIRONMENT, check=True, timeout=240, capture_output=True)
    for host, folder in folders.items():
        assert losses(folder)[:100] == pytest.approx(losses(unbroken)[:100], rel=0.02), host


def test_a_silently_cut_link_is_noticed_and_the_rest_goes_on(hosts, start, small_project, tmp_path):
    folders = {host: project_of(tmp_path / host, small_project, epochs=400, **ONE_OR_TWO) for host in "ab"}
    for host, folder in folders.items():
        start(host, folder)
    wait_for_step(folders["b"], 30)
    hosts.cut("b")
    cut, step = time.monotonic(), len(rows(folders["a"]))
    wait_for_step(folders["a"], step + 5)
    assert time.monotonic() - cut < 60
    assert starts(tmp_path / "a.log")[-1][1] == 1


def test_hosts_with_other_settings_are_refused_in_one_line(start, small_project, tmp_path):
    folders = {host: project_of(tmp_path / host, small_project, epochs=4, **TWO) for host in "ab"}
    running = [start("a", folders["a"]), start("b", folders["b"], "--set", "pretrain.seed=1")]
    assert 1 in [process.wait(120) for process in running]
    said = (tmp_path / "a.log").read_text() + (tmp_path / "b.log").read_text()
    assert "settings or data differ; give every host the same params.yaml" in said
    assert "Traceback" not in said


def test_a_full_disk_stops_the_run_in_one_line_and_with_space_it_goes_on_exactly(hosts, small_project, tmp_path):
    machine = {"processes": 2, "checkpoint_every_steps": 4}
    unbroken = project_of(tmp_path / "unbroken", small_project, epochs=3, **machine)
    subprocess.run(PRETRAIN, cwd=unbroken, env=ENVIRONMENT, check=True, timeout=120, capture_output=True)
    size = max(path.stat().st_size for path in unbroken.glob("runs/pretrain-*/step-*.pt"))
    folder = project_of(tmp_path / "project", small_project, epochs=3, **machine)
    (folder / "runs").mkdir()
    disk = ["mount", "-t", "tmpfs", "-o", f"size={int(2.5 * size)}", "disk", folder / "runs"]
    assert hosts.run("a", disk).returncode == 0
    full = hosts.run("a", PRETRAIN, cwd=folder, env=ENVIRONMENT, timeout=120)
    assert full.returncode == 1
    assert full.stderr.count("\n") == 1
    assert full.stderr.startswith("error: ")
    assert "step-000000012.pt: could not be written" in full.stderr
    assert "(No space left on device); free some space" in full.stderr
    assert hosts.run("a", ["mount", "-o", f"remount,size={20 * size}", folder / "runs"]).returncode == 0
    again = hosts.run("a", PRETRAIN, cwd=folder, env=ENVIRONMENT, timeout=120)
    assert again.returncode == 0, again.stderr
    assert "pretrain: step 8 of 30" in again.stdout
    for name in ("curves.csv", "encoder/encoder.safetensors"):
        assert (folder / "outputs/pretrain" / name).read_bytes() == (unbroken / "outputs/pretrain" / name).read_bytes()
