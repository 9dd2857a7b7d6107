"""Engines for tests: pieces done in this process, and a Dask cluster whose worker is killed."""

from collections.abc import Callable, Generator, Iterable

from moco.cluster.pieces import Engine, Pieces, do


class Here:
    """Does pieces in this process, in some order.

    Attributes:
        order: numbers of the pieces; None: all of them.
        stop_after: pieces after which the driver is killed, or so it seems.
        done: pieces that were done.
        closed: whether the work was ended.
    """

    def __init__(self, order: Iterable[int] | None = None, stop_after: int | None = None) -> None:
        self.order, self.stop_after = order, stop_after
        self.done, self.closed = 0, False

    def run(self, pieces: Pieces) -> Generator[int]:
        try:
            for number in range(pieces.count) if self.order is None else self.order:
                if self.done == self.stop_after:
                    raise KeyboardInterrupt
                do(pieces.folder, number)
                self.done += 1
                yield number
        finally:
            self.closed = True


class Killing:
    """An engine one of whose workers is killed when the first piece is finished."""

    def __init__(self, engine: Engine, kill: Callable[[], None]) -> None:
        self.engine, self.kill, self.killed = engine, kill, False

    def run(self, pieces: Pieces) -> Generator[int]:
        for number in self.engine.run(pieces):
            if not self.killed:
                self.kill()
                self.killed = True
            yield number
