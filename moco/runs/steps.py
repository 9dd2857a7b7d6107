"""The one driver of a run's steps: it hands out batches, stops, saves, and measures the pace."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import NoReturn, Self, TypeVar

from moco.errors import Interrupted
from moco.processes import Processes
from moco.runs.agreement import Agreement, WaitedInVainError, stop_requests

Batch = TypeVar("Batch")


class Pace:
    """How fast an interval of steps went, and how much of it was spent waiting for batches."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin an interval."""
        self._began, self.waited = time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        """Seconds of training since the interval began."""
        return time.monotonic() - self._began

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the block as waiting."""
        began = time.monotonic()
        yield
        self.waited += time.monotonic() - began

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave the block, which is no training, out of the interval."""
        began = time.monotonic()
        yield
        self._began += time.monotonic() - began


class Steps:
    """Drive a run's steps; a context that catches the signals which ask to stop.

    Args:
        stage: the first word of messages.
        total: steps of the run.
        processes: this process and its peers, which stop and save at the same steps.
        save: writes a checkpoint after this many steps; all processes call it.
        every_steps: steps between checkpoints; None: by time only. The first process decides for
            all.
        every_minutes: minutes between checkpoints.

    Attributes:
        pace: of the interval since it was last restarted.
    """

    def __init__(
        self,
        stage: str,
        total: int,
        processes: Processes,
        save: Callable[[int], None],
        every_steps: int | None,
        every_minutes: float,
    ) -> None:
        self.stage, self.total, self.processes, self.save = stage, total, processes, save
        self.every_steps = processes.gather_objects(every_steps)[0]
        self.every_minutes = every_minutes
        self.pace = Pace()
        self._agreement = Agreement(processes)
        self._context = ExitStack()

    def __enter__(self) -> Self:
        self._stop = self._context.enter_context(stop_requests())
        self._saved = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        self._context.close()

    def run(self, batches: Generator[Batch], first: int, last: int) -> Iterator[tuple[int, Batch]]:
        """Yield (step, batch) for steps first to last - 1.

        What the loop's body did counts when it comes back.

        Steps from `total` on are passes that train nothing: they stop when asked, and save nothing.

        Raises:
            Interrupted: SIGINT or SIGTERM came to a process, or its time ends; a checkpoint is
                saved, unless one of several processes waits for a batch that does not come: the
                line then says how many steps are lost.
            RuntimeError: a peer is gone or silent.
        """
        self._newest = first
        for step in range(first, last):
            try:
                with self.pace.waiting(), self._stop.waiting():
                    batch = next(batches)
            except WaitedInVainError:
                self._leave(step)
            if step == first:
                self.processes.barrier()  # the first batch may take a while
            yield step, batch
            done = step + 1
            due = self.processes.first and time.monotonic() - self._saved > 60 * self.every_minutes
            stopping, saving = self._agreement.exchange(self._stop(), due)
            on_schedule = self.every_steps and done % self.every_steps == 0
            if done <= self.total and (stopping or saving or done == self.total or on_schedule):
                with self.pace.pause():
                    self.save(done)
                self._saved, self._newest = time.monotonic(), done
            if stopping and done != self.total:
                self._agreement.settle()
                raise Interrupted(
                    f"{self.stage}: stopped at step {min(done, self.total)} of {self.total}, a checkpoint is saved;"
                    " the same command resumes from there"
                )
        self._agreement.settle()

    def _leave(self, done: int) -> NoReturn:
        """End while a batch does not come.

        Several processes save nothing: one with its batch is within the step, whose forward pass
        has changed its running statistics.
        """
        done = min(done, self.total)
        if self.processes.world_size == 1 and self._newest < done:
            self.save(done)
            self._newest = done
        lost = done - self._newest
        kept = (
            f"; {lost} step(s) since the last checkpoint are lost" if lost else "; a checkpoint is saved" * bool(done)
        )
        raise Interrupted(
            f"{self.stage}: stopped at step {done} of {self.total}, waiting for images{kept};"
            f" the same command resumes from step {self._newest}"
        ) from None
