"""What every launcher is: it finds, runs and stops the processes of a run, on one host or many."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from moco.settings import Settings


@dataclass(frozen=True)
class Work:
    """What a launcher starts.

    Attributes:
        folder: of the run, with its job in it, on a disk that all hosts share or each has.
        processes: on each host.
        train: trains the run in this process.
        done: says whether the run has reached its end.
    """

    folder: Path
    processes: int
    train: Callable[[], None]
    done: Callable[[], bool]


@dataclass(frozen=True)
class Found:
    """What trains a run already.

    Attributes:
        id: by which the launcher knows it.
        what: it is, for people.
        end: the command that ends it.
    """

    id: str
    what: str
    end: str


class Launcher(Settings):
    """How the processes of a run are started; a launcher overrides what differs from one host."""

    outlives_driver: ClassVar[bool] = False
    """Whether the processes continue without the one that started them, for the next to follow."""

    def hosts(self) -> tuple[int, int]:
        """Give the fewest and the most hosts that train together."""
        return 1, 1

    def processes(self) -> int | None:
        """Give the processes on each host where the launcher decides them."""
        return None

    def gpus(self) -> int | None:
        """Give the GPUs of each host where the launcher decides them."""
        return None

    @staticmethod
    def find(folder: Path) -> Found | None:
        """Find what trains a run's folder already, outside of the processes that hold its lock."""
        return None

    def help(self, work: Work, held: Callable[[], bool]) -> bool:
        """Train for a driver on another host that holds the run.

        False where this launcher cannot.
        """
        return False

    def run(self, work: Work, found: Found | None) -> None:
        """Start the processes, or follow what was found, and return at the end of the run.

        Raises:
            MocoError: the processes ended before the run did, or cannot be started as asked.
            Interrupted: told to stop; the processes have stopped, and the last checkpoint is saved.
        """
        raise NotImplementedError

    def stop(self, folder: Path, found: Found) -> None:
        """End what trains a run elsewhere, after it has saved its state.

        Processes here end with their signals.
        """

    def line(self, folder: Path, processes: int) -> str:
        """Give the shell line that starts a host's share where there is torch alone.

        Raises:
            MocoError: this launcher has no such line.
        """
        raise NotImplementedError
