"""What processes decide together, and what asks one of them to stop."""

import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import ProcessExitedException
from transfer_material import spawn

from moco.processes import join
from moco.runs import agreement as agreement_module
from moco.runs.agreement import SIGNALS, Agreement, stop_requests


class Peer:
    """A peer in `all_reduce` whose requests arrive when the collective is waited for."""

    def __init__(self) -> None:
        self.stop, self.save, self.waited = 0, 0, 0

    def all_reduce(self, tensor, op, group, async_op):
        assert (op, group, async_op) == (dist.ReduceOp.MAX, "on the host", True)
        theirs = torch.tensor([self.stop, self.save], dtype=tensor.dtype)

        def wait() -> None:
            self.waited += 1
            torch.maximum(tensor, theirs, out=tensor)

        return SimpleNamespace(wait=wait)


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Peer:
    peer = Peer()
    monkeypatch.setattr(dist, "all_reduce", peer.all_reduce)
    return peer


@pytest.mark.parametrize("requests", [(True, False), (False, True), (False, False)])
def test_a_process_alone_follows_its_requests_at_once(requests):
    agreement = Agreement(SimpleNamespace(world_size=1))
    assert agreement.exchange(*requests) == requests
    assert agreement.settle() == (False, False)


def test_requests_of_any_process_are_followed_one_step_later(peer):
    agreement = Agreement(SimpleNamespace(world_size=2, on_host="on the host"))
    assert agreement.exchange(False, True) == (False, False)
    peer.stop = 1
    assert agreement.exchange(False, False) == (False, True)  # its own of the step before
    peer.stop = 0
    assert agreement.exchange(False, False) == (True, False)  # the peer's
    assert agreement.settle() == (False, False)
    assert peer.waited == 3
    assert agreement.settle() == (False, False)
    assert peer.waited == 3  # nothing is under way any more


def test_settling_gives_what_is_under_way(peer):
    agreement = Agreement(SimpleNamespace(world_size=2, on_host="on the host"))
    agreement.exchange(True, False)
    assert agreement.settle() == (True, False)


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_asks_to_stop_and_the_handlers_before_come_back(number):
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with stop_requests() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


@pytest.mark.parametrize(("under_torchrun", "stopped"), [(True, True), (False, False)])
def test_a_process_stops_when_the_agent_that_started_it_has_died(monkeypatch, under_torchrun, stopped):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if under_torchrun:
        monkeypatch.setenv("WORLD_SIZE", "2")
    with stop_requests() as stop:
        assert not stop()
        monkeypatch.setattr(os, "getppid", lambda: 1)
        assert stop() == stopped


def hang_beside_a_lost_peer() -> None:
    """Exchange wishes with a peer that dies; then hang, as in the full queue of a GPU."""
    processes = join("cpu")
    agreement = Agreement(processes)
    agreement.exchange(False, False)
    agreement.settle()
    if not processes.first:
        os._exit(0)
    agreement_module.LEAVE_SECONDS = 0.5
    agreement.exchange(False, False)
    time.sleep(60)


def test_a_process_that_hangs_beside_a_lost_peer_ends():
    with pytest.raises(ProcessExitedException, match="process 0 terminated with exit code 1"):
        spawn(hang_beside_a_lost_peer, 2)


def test_a_lost_peer_that_is_noticed_is_an_error_and_nothing_more(monkeypatch):
    def all_reduce(tensor, op, group, async_op):
        def wait() -> None:
            raise RuntimeError("gloo: connection closed")

        return SimpleNamespace(wait=wait)

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    monkeypatch.setattr(agreement_module, "LEAVE_SECONDS", 0.2)
    agreement = Agreement(SimpleNamespace(world_size=2, on_host=None))
    agreement.exchange(False, False)
    with pytest.raises(RuntimeError, match="connection closed"):
        agreement.exchange(False, False)
    time.sleep(0.5)  # still here
