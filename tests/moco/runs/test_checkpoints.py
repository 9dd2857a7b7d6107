"""Checkpoints survive what happens to disks and processes."""

import pytest
import torch

from moco.errors import MocoError
from moco.runs import checkpoints


def test_the_newest_is_loaded_and_only_the_last_few_are_kept(tmp_path):
    for step in (5, 10, 15, 20):
        checkpoints.save(tmp_path, step, {"step": step, "weights": torch.ones(3)}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000015.pt", "step-000000020.pt"]
    assert checkpoints.load_newest(tmp_path)["step"] == 20


def test_a_damaged_newest_is_named_and_the_one_before_is_used(tmp_path, capsys):
    for step in (5, 10):
        newest = checkpoints.save(tmp_path, step, {"step": step, "weights": torch.ones(1000)}, keep=3)
    newest.write_bytes(newest.read_bytes()[:700])
    assert checkpoints.load_newest(tmp_path)["step"] == 5
    assert "step-000000010.pt cannot be read" in capsys.readouterr().out


def test_nothing_is_loaded_from_an_empty_or_missing_folder(tmp_path):
    assert checkpoints.load_newest(tmp_path) is None
    assert checkpoints.load_newest(tmp_path / "missing") is None


def test_a_failed_write_leaves_the_earlier_checkpoints_and_no_scraps(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, 5, {"step": 5}, keep=3)

    def full(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(MocoError, match="No space left on device"):
        checkpoints.save(tmp_path, 10, {"step": 10}, keep=3)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000005.pt"]


def test_a_checkpoint_runs_no_code_when_loaded(tmp_path, capsys):
    class Hostile:
        def __reduce__(self):
            return (print, ("code ran",))

    torch.save({"step": Hostile()}, tmp_path / "step-000000001.pt")
    assert checkpoints.load_newest(tmp_path) is None
    assert "code ran" not in capsys.readouterr().out
