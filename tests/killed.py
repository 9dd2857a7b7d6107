"""Work that is killed, as by `kill -9`, before its n-th change of the names on the disk."""

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from moco import files
from moco.shards import worker, write
from moco.shards.tally import Tally

CHANGES = ((os, "rename"), (os, "replace"), (os, "link"), (os, "unlink"), (shutil, "rmtree"), (files, "_exchanged"))
"""What renames, adds or removes names; what a function of these does inside counts as one."""
KILLED, FAILED = 9, 1


def killed_at(number: int, work: Callable[[], object]) -> bool:
    """Do work in a process that dies before change `number`, from 0; False: it came to its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of pytest's own do not matter here
        child = os.fork()
    if child == 0:
        try:
            _die_at(number)
            work()
            os._exit(0)
        except BaseException as error:  # nothing of pytest may run in this process
            print(repr(error), flush=True)
            os._exit(FAILED)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED), f"the work failed before its change {number}"
    return code == KILLED


def _die_at(number: int) -> None:
    count, inside = [0], [False]

    def counted(change: Callable[..., object]) -> Callable[..., object]:
        def changes(*arguments: object, **options: object) -> object:
            if inside[0]:
                return change(*arguments, **options)
            if count[0] == number:
                os._exit(KILLED)
            count[0] += 1
            inside[0] = True
            try:
                return change(*arguments, **options)
            finally:
                inside[0] = False

        return changes

    for module, name in CHANGES:
        setattr(module, name, counted(getattr(module, name)))


def write_tars_here(patch: pytest.MonkeyPatch) -> None:
    """Have `write_shards` write its tars in this process, and wait for no disk: no power fails."""
    patch.setattr(files, "to_disk", lambda path: None)

    def build(job: write._Job, processes: int, pieces: list, tally: Tally) -> None:
        here = worker.Anywhere.of(job.raw, job.work, job.earlier.folder, job.manifest, job.settings)
        for planned in job._new(pieces):
            tally.add(here(planned))

    patch.setattr(write._Job, "_build_here", build)


def content(folder: Path) -> dict[str, bytes]:
    """Give the files of a folder; what a killed process left beside them included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
