"""Work in numbered pieces, done by any number of processes on any number of hosts.

All of them see one folder. It holds the pieces and what came of each, so that a process needs to
know of no other: whoever does a piece finds it by its number, and what is done is not done again. A
piece may be done twice, by a process that was given up and by its successor; it must give the same
both times.
"""

import os
import pickle
import secrets
import shutil
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from moco.errors import MocoError, os_error_in_one_line
from moco.files import whole_file, write_bytes, write_text
from moco.progress import Progress

ENDING = ".pieces"
"""Of the folder's name."""
FUNCTION, ITEMS, PLACES, DONE, FAILED = "function.pickle", "items.pickle", "places.npy", "done", "failed"
IN_A_FOLDER = 1000
"""Results in a folder: looking for new ones lists few names, however many pieces there are."""


class Engine(Protocol):
    """What has pieces done."""

    def run(self, pieces: "Pieces") -> Generator[int]:
        """Have all pieces done; give the number of each, once, as it is finished.

        Closing the generator, or an error in it, ends what still works on them.

        Raises:
            MocoError: a piece failed, or nothing is there that does pieces.
        """


@dataclass(frozen=True)
class Pieces:
    """The folder of some work.

    Attributes:
        folder: absolute, on a disk that everyone who works on the pieces sees under this name.
        count: of pieces, numbered from 0.
        threaded: whether a piece uses all cores of its process by itself.
    """

    folder: Path
    count: int
    threaded: bool = False

    @property
    def name(self) -> str:
        """What the work is called, the same for each call."""
        return self.folder.name.rpartition("-")[0]

    def result(self, number: int) -> Any:
        """Read what a finished piece gave."""
        return pickle.loads(_result_file(self.folder, number).read_bytes())

    def finished(self, numbers: set[int]) -> list[int]:
        """List those of some pieces that are finished, ascending."""
        found = set[int]()
        for group in {number // IN_A_FOLDER for number in numbers}:
            folder = _result_file(self.folder, group * IN_A_FOLDER).parent
            found |= {int(path.name) for path in folder.iterdir() if path.name.isdecimal()} & numbers
        return sorted(found)

    def failure(self) -> str | None:
        """Read the reason that a piece left; None: none did."""
        failed = self.folder / FAILED
        return failed.read_text(encoding="utf-8") if failed.exists() else None


def spread(
    engine: Engine,
    stage: str,
    folder: Path,
    function: Callable[[Any], Any],
    items: Iterable[Any],
    threaded: bool = False,
) -> Generator[Any]:
    """Have a function called with each item, anywhere.

    Close the generator where it is not read to its end: that ends what still works.

    Args:
        engine: where.
        stage: first word of the progress line.
        folder: for the pieces, with a mark that no other call has; folders of earlier calls that
            did not come to their end go.
        function: can be pickled, is found by the same import everywhere, names files by absolute
            paths and looks by itself for what an earlier run has made.
        items: a piece each; can be pickled. They are written to the folder as they come.
        threaded: as in `Pieces`.

    Yields:
        The results, in the order of the items.

    Raises:
        MocoError: of the function or the engine.
    """
    for leftover in folder.parent.glob(f"{folder.name}-*{ENDING}"):
        shutil.rmtree(leftover, ignore_errors=True)
    # A process that was given up, and is none the wiser, must not write among these pieces.
    folder = folder.absolute().with_name(f"{folder.name}-{secrets.token_hex(4)}{ENDING}")
    pieces = _lay_out(folder, function, items, threaded)
    progress, finished, following = Progress(stage, pieces.count), set[int](), 0
    try:
        with closing(engine.run(pieces)) if pieces.count else nullcontext(()) as numbers:
            for done, number in enumerate(numbers, 1):
                finished.add(number)
                progress.update(done, f"{done} of {pieces.count} pieces")
                while following in finished:
                    finished.remove(following)
                    yield pieces.result(following)
                    following += 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _lay_out(folder: Path, function: Callable[[Any], Any], items: Iterable[Any], threaded: bool) -> Pieces:
    ends = [0]
    folder.mkdir(parents=True)
    write_bytes(folder / FUNCTION, pickle.dumps(function))
    with whole_file(folder / ITEMS) as part, part.open("wb") as file:
        for item in items:
            ends.append(ends[-1] + file.write(pickle.dumps(item)))
    with whole_file(folder / PLACES) as part:
        np.save(part, np.array(ends, np.int64))
    for first in range(0, len(ends) - 1, IN_A_FOLDER):
        _result_file(folder, first).parent.mkdir(parents=True)
    return Pieces(folder, len(ends) - 1, threaded)


def do(folder: Path, number: int) -> None:
    """Do a piece unless it is done.

    Raises:
        MocoError: of the function, or an error of the system in one line.
    """
    result = _result_file(folder, number)
    if result.exists():
        return
    function, places = _work(folder)
    with (folder / ITEMS).open("rb") as file:
        file.seek(int(places[number]))
        item = pickle.loads(file.read(int(places[number + 1] - places[number])))
    try:
        found = pickle.dumps(function(item))
        with whole_file(result, shared=True) as part:
            part.write_bytes(found)
    except OSError as error:
        raise MocoError(f"{os.uname().nodename}: {os_error_in_one_line(error) or error}") from None


@lru_cache(maxsize=2)
def _work(folder: Path) -> tuple[Callable[[Any], Any], NDArray[np.int64]]:
    """Read what is called, once a process, with where each item ends."""
    return pickle.loads((folder / FUNCTION).read_bytes()), np.load(folder / PLACES)


def _result_file(folder: Path, number: int) -> Path:
    return folder / DONE / f"{number // IN_A_FOLDER:06d}" / f"{number:09d}"


def share_of(variables: Mapping[str, str]) -> tuple[int, int]:
    """Read from a Slurm job's environment which of how many processes this one is."""
    job, jobs = (int(variables.get(f"SLURM_ARRAY_TASK_{name}", alone)) for name, alone in (("ID", "0"), ("COUNT", "1")))
    process, processes = int(variables.get("SLURM_PROCID", "0")), int(variables.get("SLURM_STEP_NUM_TASKS", "1"))
    return job * processes + process, jobs * processes


def main() -> None:
    """Do this process's share, every so manyth piece: `python -m moco.cluster.pieces FOLDER`."""
    folder = Path(sys.argv[1])
    rank, world_size = share_of(os.environ)
    count = len(np.load(folder / PLACES)) - 1
    for number in range(rank, count, world_size):
        try:
            do(folder, number)
        except MocoError as error:
            write_text(folder / FAILED, str(error))  # whoever follows the job says it
            sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
