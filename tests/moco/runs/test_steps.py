"""The driver of steps: when it saves, when it stops, and what its pace counts."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import count
from types import SimpleNamespace

import pytest
import torch

from moco.errors import Interrupted
from moco.processes import Processes
from moco.runs import agreement, steps
from moco.runs.steps import Steps

ALONE = Processes(0, 1, torch.device("cpu"))


class Clock:
    """A clock that only the test moves."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(steps, "time", clock)
    return clock


class Drive:
    """Runs a driver of 10 steps; `saved` and `seen` hold what it did before it ended or raised."""

    def __init__(self, total: int = 10, processes=ALONE, every_steps: int | None = None) -> None:
        self.saved: list[int] = []
        self.seen: list[tuple[int, str]] = []
        self.driver = Steps("pretrain", total, processes, self.save, every_steps, 1.0)
        self.on_save: Callable[[], None] = lambda: None

    def save(self, done: int) -> None:
        self.on_save()
        self.saved.append(done)

    def __call__(self, body: Callable[[int], None] = lambda step: None, first: int = 0, last: int = 10) -> "Drive":
        with self.driver:
            for step, batch in self.driver.run((f"batch {number}" for number in count(first)), first, last):
                self.seen.append((step, batch))
                body(step)
        return self


def stop_at(step: int) -> Callable[[int], None]:
    return lambda now: os.kill(os.getpid(), signal.SIGTERM) if now == step else None


@pytest.mark.parametrize("first", [0, 7])
def test_steps_come_in_order_each_with_its_batch_and_the_last_is_saved(first):
    drive = Drive()(first=first)
    assert drive.seen == [(step, f"batch {step}") for step in range(first, 10)]
    assert drive.saved == [10]


@pytest.mark.parametrize(("first", "saved"), [(0, [4, 8, 10]), (3, [4, 8, 10]), (4, [8, 10])])
def test_it_saves_every_so_many_steps_of_the_run_not_of_the_start(first, saved):
    assert Drive(every_steps=4)(first=first).saved == saved


@pytest.mark.parametrize(("seconds", "saved"), [(31, [2, 4, 6, 8, 10]), (30, [3, 6, 9, 10]), (61, [*range(1, 11)])])
def test_it_saves_when_more_than_a_minute_has_passed_since_the_last_checkpoint(clock, seconds, saved):
    def body(step: int) -> None:
        clock.now += seconds

    assert Drive()(body).saved == saved


def test_time_spent_saving_and_saves_by_steps_count_for_the_next_minute(clock):
    drive = Drive(every_steps=5)

    def slow() -> None:
        clock.now += 50

    def body(step: int) -> None:
        clock.now += 25

    drive.on_save = slow
    assert drive(body).saved == [3, 5, 8, 10]  # 75 s, by steps, 75 s again, the end


def test_the_first_process_alone_decides_by_time_and_its_cadence_holds_for_all(clock):
    barriers = []
    second = SimpleNamespace(
        first=False,
        world_size=1,
        gather_objects=lambda value: [3, value],
        barrier=lambda: barriers.append(len(drive.seen)),
    )
    drive = Drive(processes=second, every_steps=7)

    def body(step: int) -> None:
        clock.now += 100

    assert drive(body).saved == [3, 6, 9, 10]
    assert barriers == [0]  # once, between the first batch and the first step


def test_a_stop_is_saved_and_raised_at_its_step():
    drive = Drive()
    with pytest.raises(Interrupted, match="pretrain: stopped at step 5 of 10, a checkpoint is saved; the same command"):
        drive(stop_at(4))
    assert drive.saved == [5]
    assert len(drive.seen) == 5


@pytest.mark.parametrize(
    ("first", "world_size", "saved", "said"),
    [
        (0, 1, [3], "a checkpoint is saved; the same command resumes from step 3"),
        (3, 1, [], "a checkpoint is saved; the same command resumes from step 3"),
        (1, 2, [], r"2 step\(s\) since the last checkpoint are lost; the same command resumes from step 1"),
    ],
)
def test_a_stop_while_a_batch_does_not_come_ends_the_wait_and_says_what_is_lost(
    monkeypatch, first, world_size, saved, said
):
    monkeypatch.setattr(agreement, "WAIT_SECONDS", 0.2)
    drive = Drive()
    monkeypatch.setattr(drive.driver, "_agreement", SimpleNamespace(exchange=lambda *_: (False, False)))
    drive.driver.processes = SimpleNamespace(world_size=world_size, first=True, barrier=lambda: None)

    def batches() -> Iterator[str]:
        for number in range(first, 3):
            yield f"batch {number}"
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)

    begin = time.monotonic()
    with pytest.raises(Interrupted, match=f"stopped at step 3 of 10, waiting for images; {said}$"), drive.driver:
        for step, _ in drive.driver.run(batches(), first, 10):
            assert step < 3
    assert time.monotonic() - begin < 5
    assert drive.saved == saved


def test_a_batch_that_comes_soon_after_a_request_is_trained_and_saved():
    def batches() -> Iterator[str]:
        yield "batch 0"
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # as a terminal and an agent both do
        yield "batch 1"

    drive = Drive()
    with pytest.raises(Interrupted, match="stopped at step 2 of 10, a checkpoint is saved"), drive.driver:
        for step, batch in drive.driver.run(batches(), 0, 10):
            drive.seen.append((step, batch))
    assert len(drive.seen) == 2 and drive.saved == [2]


def test_a_stop_at_the_last_step_lets_the_run_end():
    assert Drive()(stop_at(9)).saved == [10]


def test_passes_after_the_last_step_save_nothing_and_stop_when_asked(clock):
    drive = Drive(total=4, every_steps=1)

    def body(step: int) -> None:
        clock.now += 100
        stop_at(5)(step)

    with pytest.raises(Interrupted, match="stopped at step 4 of 4"):
        drive(body, first=4, last=8)
    assert drive.saved == []
    assert [step for step, _ in drive.seen] == [4, 5]
    assert Drive(total=4, every_steps=1)(first=4, last=8).saved == []


@pytest.mark.parametrize("stopped", [False, True])
def test_requests_under_way_are_settled_before_the_driver_ends(monkeypatch, stopped):
    settled = []

    class Recorded(steps.Agreement):
        def settle(self) -> tuple[bool, bool]:
            settled.append(True)
            return super().settle()

    monkeypatch.setattr(steps, "Agreement", Recorded)
    drive = Drive()
    if stopped:
        with pytest.raises(Interrupted):
            drive(stop_at(2))
    else:
        drive()
    assert settled == [True]


def test_signals_are_caught_only_while_the_driver_is_open():
    before = signal.getsignal(signal.SIGTERM)
    with Steps("pretrain", 1, ALONE, lambda done: None, None, 1.0):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_pace_counts_waiting_for_batches_and_no_pauses(clock):
    def batches() -> Iterator[int]:
        for number in count():
            clock.now += 3
            yield number

    def slow(done: int) -> None:
        clock.now += 1000

    seen = []
    with Steps("pretrain", 4, ALONE, slow, 2, 60.0) as driver:
        for step, _ in driver.run(batches(), 0, 4):
            clock.now += 10
            with driver.pace.pause():
                clock.now += 100
            seen.append((driver.pace.seconds, driver.pace.waited))
            if step == 2:
                driver.pace.restart()
    assert seen == [(13, 3), (26, 6), (39, 9), (13, 3)]
