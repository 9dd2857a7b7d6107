"""What stage linear keeps in runs: the baselines' results, and features while a stage uses them."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moco.cluster.machine import load_machine
from moco.config import Linear, settings_hash
from moco.devices import compute_devices
from moco.evaluation.linear import Evaluation
from moco.files import file_sha256, whole_file
from moco.runs.folder import code_hash
from pipelines import stage

CLOCK_STEP = 1.0
"""Seconds by which the clock was set, not slowed or hurried, since it was last looked at."""


def kept(identity: Any, settings: Linear, data_hash: str, evaluate: Callable[[], Evaluation]) -> Evaluation:
    """Evaluate features that no training changes, once, and keep the result.

    Another processor, number of threads or version of torch may round differently, so each has its
    own result: what is read is equal to the bit to what would be computed.

    Args:
        identity: names the features, in JSON values.
        settings: of the classifier.
        data_hash: of the shard set.
        evaluate: makes the result.
    """
    devices = list(map(str, compute_devices(load_machine().device)))
    place = (torch.__version__, devices, torch.get_num_threads(), torch.get_num_interop_threads())
    code = (code_hash(), *(file_sha256(Path(__file__).with_name(f"{name}.py")) for name in ("linear", "baselines")))
    path = stage.runs_folder() / "baselines" / f"{settings_hash(identity, settings, data_hash, code, place)}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):  # none, or a damaged one: it is made again
        values = json.loads(path.read_text(encoding="utf-8"))
        return Evaluation(**{**values, "predicted": np.array(values["predicted"], dtype=np.int64)})
    found = evaluate()
    path.parent.mkdir(exist_ok=True)
    with whole_file(path, shared=True) as part:
        part.write_text(json.dumps(asdict(replace(found, predicted=found.predicted.tolist()))), encoding="utf-8")
    return found


@contextlib.contextmanager
def features_in_use(folder: Path) -> Iterator[None]:
    """While this stage runs, no other removes features that it has used.

    At its end, those that no running stage has.

    Args:
        folder: of the cached features; each file's time is that of its last use.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start, began = time.time(), time.monotonic()
    with (folder / f"{os.uname().nodename}.{os.getpid()}.user").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.utime(file.fileno(), (start, start))
        except OSError:  # a network file system without locks: nothing is removed
            yield
            return
        yield
        if abs(time.time() - start - (time.monotonic() - began)) < CLOCK_STEP:  # else times tell nothing
            _forget_before(min([start, *_starts_of_others(folder, Path(file.name))]), folder)
        Path(file.name).unlink(missing_ok=True)


def _starts_of_others(folder: Path, mine: Path) -> Iterator[float]:
    """When the other running stages began; what ended ones left behind is removed."""
    for path in folder.glob("*.user"):
        if path == mine:
            continue
        with contextlib.suppress(FileNotFoundError), path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
            except BlockingIOError:
                yield path.stat().st_mtime


def _forget_before(start: float, folder: Path) -> None:
    for path in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another stage is tidying too
            if path.suffix != ".user" and path.stat().st_mtime < start:
                path.unlink()
