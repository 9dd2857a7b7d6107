"""Joining the processes of a run, and leaving them."""

import pytest

from moco import processes


@pytest.fixture
def left(monkeypatch):
    """What is done to leave: nothing waits for peers after an error."""
    calls: list[str] = []
    monkeypatch.setattr(processes.Processes, "barrier", lambda self: calls.append("wait for all"))
    monkeypatch.setattr(processes, "leave", lambda: calls.append("leave"))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_processes_leave_together_at_the_end(left):
    with processes.joined("cpu") as joined:
        assert (joined.rank, joined.world_size, joined.device.type) == (0, 1, "cpu")
        assert left == []
    assert left == ["wait for all", "leave"]


def test_an_error_is_told_before_anything_that_waits_for_peers(left):
    with pytest.raises(ValueError, match="a reason"), processes.joined("cpu"):
        raise ValueError("a reason")
    assert left == []
