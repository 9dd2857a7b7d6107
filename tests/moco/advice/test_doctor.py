"""The doctor names what will not work, and what to do, and leaves nothing behind."""

import fcntl
import os
import resource
import shutil
import socket
import subprocess

import pytest

from moco.advice import doctor
from moco.advice.doctor import examine


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(doctor.__file__.rpartition("/moco/")[0] + "/params.yaml", tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / ".dvc").mkdir()
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", *words], check=True)
    return tmp_path


def said(kind, folder="."):
    return [finding.text for finding in examine(folder) if finding.kind == kind]


def test_a_sound_project_has_no_problem_and_stays_as_it_is(project):
    before = sorted(project.rglob("*"))
    assert said("problem") == []
    assert "params.yaml: valid" in said("ok")
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("params.yaml", "fetch: {sauce: folder}\n", "params.yaml"),
        ("machine.yaml", "processes: -1\n", "machine.yaml: processes = -1"),
        ("machine.yaml", "device: cuda\n", "machine.yaml: device = cuda"),
    ],
)
def test_wrong_settings_are_problems(project, file, content, expected):
    (project / file).write_text(content)
    assert any(expected in text for text in said("problem"))


def test_files_without_locks_and_links_are_noted(project, monkeypatch):
    def refused(*_):
        raise OSError(37, "No locks available")

    def no_link(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(fcntl, "flock", refused)
    monkeypatch.setattr(os, "link", no_link)
    notes = said("note")
    assert any("cannot be locked" in text for text in notes)
    assert any("DVC copies" in text for text in notes)


def test_little_room_few_open_files_and_ranks_of_others_are_noted(project, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 10**9))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    notes = said("note")
    assert any("1.0 GB free; free some space" in text for text in notes)
    assert any("`ulimit -n 4096`" in text for text in notes)
    assert any("WORLD_SIZE of another program" in text for text in notes)


@pytest.mark.parametrize(
    ("launcher", "kind"), [("", "note"), ("{kind: torchrun, nnodes: 2, rendezvous: 'a:1'}", "problem")]
)
def test_an_unknown_host_name_stops_several_hosts_alone(project, monkeypatch, launcher, kind):
    def unknown(*_):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    if launcher:
        (project / "machine.yaml").write_text(f"launcher: {launcher}\n")
    assert any("does not know its own name" in text for text in said(kind))


def test_a_project_without_dvc_is_a_problem_without_git_a_note(project):
    (project / ".dvc").rmdir()
    assert any("`dvc init`" in text for text in said("problem"))
    shutil.rmtree(project / ".git")
    assert any("`git init`" in text for text in said("note"))


def test_a_clock_of_another_machine_is_noted(project, monkeypatch):
    monkeypatch.setattr(doctor, "CLOCKS_APART", -1.0)
    assert any("s apart; set them by NTP" in text for text in said("note"))


def test_gpus_of_slurms_nodes_are_not_looked_for_here(project):
    (project / "machine.yaml").write_text("launcher: {kind: slurm, minutes: 60, gpus_per_node: 4, cpus_per_node: 16}\n")
    assert said("problem") == []


def test_one_mistake_is_one_problem(project):
    (project / "machine.yaml").write_text("processes: 0\n")
    assert len(said("problem")) == 1


def test_a_folder_that_cannot_be_written_is_noted_and_the_others_are_looked_at(project, monkeypatch):
    whole = doctor.tempfile.NamedTemporaryFile

    def refused(dir=None, **options):
        if dir.name == "data":
            raise PermissionError(13, "Permission denied", str(dir))
        return whole(dir=dir, **options)

    (project / "data").mkdir()
    monkeypatch.setattr(doctor.tempfile, "NamedTemporaryFile", refused)
    assert any("data: nothing can be written there" in text for text in said("note"))
    assert any("can be written" in text for text in said("ok"))
