"""A background thread that makes calls in order: a slow or dead server costs training nothing."""

import threading
import time
from collections import deque
from collections.abc import Callable

Call = Callable[[], None]


class Sender:
    """Makes the calls given to `put`, in that order, in a thread.

    A call that fails for a passing reason is repeated every `retry_seconds` before the next one;
    one that fails for good is dropped. No error reaches the caller.

    Args:
        passing: whether an error may pass (no connection, server overloaded).
        failed: called with every error and the answer of `passing`; runs in the thread.
        tick: a call to make regularly, or None.
        tick_seconds: time between two of them.
        retry_seconds: time between two attempts at a call that failed for a passing reason.
    """

    def __init__(
        self,
        passing: Callable[[Exception], bool],
        failed: Callable[[Exception, bool], None],
        tick: Call | None = None,
        tick_seconds: float = 10.0,
        retry_seconds: float = 60.0,
    ) -> None:
        self.passing, self.failed, self.tick = passing, failed, tick
        self.tick_seconds, self.retry_seconds = tick_seconds, retry_seconds
        self.tried = threading.Event()
        """Set as soon as the first call has succeeded or failed."""
        self._calls: deque[Call] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def put(self, call: Call) -> None:
        """Have a call made; returns at once."""
        with self._changed:
            self._calls.append(call)
            self._changed.notify()

    def pause(self, seconds: float) -> None:
        """Sleep inside the thread, but not past `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing, seconds)

    def close(self, seconds: float) -> int:
        """Make the waiting calls, each failing one at most once more, within some seconds.

        Returns:
            How many were not made.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)
        return len(self._calls)

    def _run(self) -> None:
        next_tick = time.monotonic() + self.tick_seconds
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: bool(self._calls) or self._closing, max(0.0, next_tick - time.monotonic())
                )
                if self.tick and time.monotonic() >= next_tick:
                    next_tick = time.monotonic() + self.tick_seconds
                    self._calls.append(self.tick)
                if not self._calls:
                    if self._closing:
                        return
                    continue
                call = self._calls[0]
            try:
                call()
            except Exception as error:  # no error may touch training
                passing = self.passing(error)
                self.failed(error, passing)
                self.tried.set()
                if passing:
                    if self._closing:
                        return
                    self.pause(self.retry_seconds)
                    continue
            self.tried.set()
            self._calls.popleft()
