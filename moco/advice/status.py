"""What works here now, how far it is, and what it shows so far; read from the runs' folder."""

import math
import time
from collections.abc import Iterator
from pathlib import Path

from moco.locks import locked_by_another
from moco.progress import duration
from moco.runs.curves import numbers, read_rows
from moco.runs.folder import FINISHED
from moco.runs.job import JOB, read_job

NEWEST = 3
"""Trainings that are listed where none works."""


def status(runs: Path) -> Iterator[str]:
    """Say which stages work, and how the newest trainings stand, a line each.

    Args:
        runs: the folder of untracked state.
    """
    locks = [path for path in sorted(runs.glob("*.lock")) if locked_by_another(path)]
    for path in locks:
        if not (path.with_suffix("") / JOB).exists():
            yield f"{path.stem.rpartition('-')[0] or path.stem}: works now ({path.read_text(errors='replace')})"
    trainings = sorted(
        (path for path in runs.glob("pretrain-*") if (path / JOB).exists() and ".old" not in path.name),
        key=lambda path: -max(file.stat().st_mtime for file in path.iterdir()),
    )
    working = [path for path in trainings if path.with_name(f"{path.name}.lock") in locks]
    for path in working or trainings[:NEWEST]:
        yield from _training(path, path in working)
    if not locks and not trainings:
        yield f"{runs}: nothing works here, and nothing was trained yet"


def _training(folder: Path, works: bool) -> Iterator[str]:
    settings = read_job(folder).settings
    rows = [numbers(row) for row in read_rows(folder / "curves.csv")]
    if not rows:
        yield f"{folder.name}: {'begins' if works else 'never began'}"
        return
    last = rows[-1]
    total = round(settings.epochs * last["step"] / last["epoch"]) if last["epoch"] else 0
    said = (
        "trains now" if works else "finished" if (folder / FINISHED).exists() else "stopped; the same command resumes"
    )
    speeds = [numbers(row)["images_per_second"] for row in read_rows(folder / "speed.csv")]
    left = ""
    if works and speeds:
        seconds = (total - last["step"]) * settings.global_batch / max(speeds[-1], 1e-9)
        left = f", about {duration(seconds)} left at {speeds[-1]:.0f} images/s"
    yield f"{folder.name}: {said}, step {last['step']:.0f} of {total}, epoch {last['epoch']:.1f} of {settings.epochs}{left}"
    line = f"  loss {last['loss']:.3f} (chance {last['chance']:.2f})"
    readings = [numbers(row) for row in read_rows(folder / "readings.csv")]
    if readings and not math.isnan(readings[-1].get("knn_top1", math.nan)):
        line += f", kNN {readings[-1]['knn_top1']:.1%} after epoch {readings[-1]['epoch']:.0f}"
    checkpoints = sorted(folder.glob("step-*.pt"))
    if checkpoints:
        line += f", last checkpoint {duration(max(0.0, time.time() - checkpoints[-1].stat().st_mtime))} ago"
    yield line
