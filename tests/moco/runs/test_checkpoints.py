"""Checkpoints survive what happens to disks and processes."""

import os
import resource

import pytest
import torch

from moco.errors import MocoError
from moco.runs import checkpoints


def test_the_newest_is_loaded_and_only_the_last_few_are_kept(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    for step in (5, 10, 15, 20):
        checkpoints.save(tmp_path, step, {"step": step, "weights": torch.ones(3)}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000015.pt", "step-000000020.pt"]
    assert checkpoints.load_newest(tmp_path)["step"] == checkpoints.newest_step(tmp_path) == 20
    assert len(synced) == 4 * 2  # the bytes, then the name


def test_a_damaged_newest_is_named_and_the_one_before_is_used(tmp_path, capsys):
    for step in (5, 10):
        newest = checkpoints.save(tmp_path, step, {"step": step, "weights": torch.ones(1000)}, keep=3)
    newest.write_bytes(newest.read_bytes()[:700])
    assert checkpoints.load_newest(tmp_path)["step"] == 5
    assert "step-000000010.pt cannot be read" in capsys.readouterr().out
    assert checkpoints.load_newest(tmp_path, say=False)["step"] == 5
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"half", {"x": 1}, [1], {"step": "1"}])
def test_an_empty_or_strange_checkpoint_is_named_and_passed_over(tmp_path, capsys, content):
    checkpoints.save(tmp_path, 5, {"step": 5}, keep=3)
    newest = tmp_path / checkpoints.name_of(10)
    if isinstance(content, bytes):
        newest.write_bytes(content)
    else:
        torch.save(content, newest)
    assert checkpoints.load_newest(tmp_path)["step"] == 5
    assert "step-000000010.pt cannot be read (" in capsys.readouterr().out


def test_nothing_is_loaded_from_an_empty_or_missing_folder(tmp_path):
    assert checkpoints.load_newest(tmp_path) is None
    assert checkpoints.load_newest(tmp_path / "missing") is None
    assert checkpoints.newest_step(tmp_path) == 0


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OSError(28, "No space left on device"), "No space left on device"), (RuntimeError("one\ntwo\nthree"), "one")],
)
def test_a_failed_write_leaves_the_earlier_checkpoints_and_no_scraps(tmp_path, monkeypatch, error, reason):
    checkpoints.save(tmp_path, 5, {"step": 5}, keep=3)

    def full(state, file):
        assert file.write(b"half") == 4
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(MocoError, match=rf"step-000000010.pt: could not be written \({reason}\); free some space"):
        checkpoints.save(tmp_path, 10, {"step": 10}, keep=3)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000005.pt"]


def test_a_disk_that_takes_only_a_part_is_named_as_the_reason(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(MocoError, match=r"could not be written \(File too large\)"):
            checkpoints.save(tmp_path, 10, {"weights": torch.ones(10_000)}, keep=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_files_of_other_hosts_are_written_and_a_run_that_is_over_forgets_its_checkpoints(tmp_path):
    checkpoints.write_bytes(tmp_path / "new/run" / checkpoints.name_of(7), b"content")
    (tmp_path / "new/run/curves.csv").touch()
    assert (tmp_path / "new/run/step-000000007.pt").read_bytes() == b"content"
    checkpoints.forget(tmp_path / "new/run")
    assert [path.name for path in (tmp_path / "new/run").iterdir()] == ["curves.csv"]


def test_a_checkpoint_runs_no_code_when_loaded(tmp_path, capsys):
    class Hostile:
        def __reduce__(self):
            return (print, ("code ran",))

    torch.save({"step": Hostile()}, tmp_path / "step-000000001.pt")
    assert checkpoints.load_newest(tmp_path) is None
    said = capsys.readouterr().out
    assert "step-000000001.pt cannot be read (Weights only load failed" in said
    assert "code ran" not in said
