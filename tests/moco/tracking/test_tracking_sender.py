"""The thread between a stage and the tracking server."""

import threading
import time

import pytest

from moco.tracking.sender import Sender


@pytest.fixture
def told():
    return []


def sender(told, **options):
    return Sender(lambda error: isinstance(error, ConnectionError), lambda *news: told.append(news), **options)


def test_calls_are_made_in_the_order_they_were_given(told):
    made = []
    thread = sender(told)
    for number in range(100):
        thread.put(lambda number=number: made.append(number))
    thread.close(10)
    assert made == list(range(100))


def test_a_slow_call_does_not_hold_the_caller_up(told):
    thread = sender(told)
    began = time.monotonic()
    thread.put(lambda: time.sleep(0.5))
    for _ in range(1000):
        thread.put(lambda: None)
    assert time.monotonic() - began < 0.3
    thread.close(10)


def test_a_call_that_fails_for_a_passing_reason_is_made_again_before_the_next(told):
    made, attempts = [], []

    def first():
        attempts.append(1)
        if len(attempts) < 3:
            raise ConnectionError("away")
        made.append("first")

    thread = sender(told, retry_seconds=0.05)
    thread.put(first)
    thread.put(lambda: made.append("second"))
    while len(made) < 2:
        time.sleep(0.01)
    thread.close(10)
    assert made == ["first", "second"]
    assert [passing for _, passing in told] == [True, True]


def test_a_call_that_is_refused_is_dropped(told):
    made = []

    def refused():
        raise ValueError("no such thing")

    thread = sender(told)
    thread.put(refused)
    thread.put(lambda: made.append("next"))
    thread.close(10)
    assert made == ["next"]
    assert [passing for _, passing in told] == [False]


def test_closing_waits_no_longer_than_asked_for_a_call_that_hangs(told):
    release = threading.Event()
    thread = sender(told)
    thread.put(release.wait)
    began = time.monotonic()
    thread.put(lambda: None)
    assert thread.close(0.3) == 2  # were not made
    assert 0.2 < time.monotonic() - began < 2
    release.set()


def test_closing_ends_a_long_wait_for_the_server_with_one_more_attempt(told):
    def away():
        raise ConnectionError("away")

    thread = sender(told, retry_seconds=600)
    thread.put(away)
    assert thread.tried.wait(5)
    began = time.monotonic()
    thread.close(10)
    assert time.monotonic() - began < 2
    assert len(told) == 2


def test_the_tick_comes_even_when_calls_never_cease(told):
    ticks, stop = [], threading.Event()
    thread = sender(told, tick=lambda: ticks.append(1), tick_seconds=0.05)

    def again():
        time.sleep(0.01)
        if not stop.is_set():
            thread.put(again)

    thread.put(again)
    time.sleep(0.6)
    stop.set()
    thread.close(10)
    assert len(ticks) >= 3
