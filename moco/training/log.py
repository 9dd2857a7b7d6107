"""What a run says of itself while it goes: curves on disk, a progress line, and when to stop for good."""

import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moco.alarms import Watch
from moco.config import Pretrain
from moco.dictionary import Contrast
from moco.errors import MocoError
from moco.images.plan import EpochPlan
from moco.images.stream_plan import StreamPlan
from moco.processes import Processes
from moco.progress import Progress
from moco.runs.curves import Curve, numbers, read_rows
from moco.training.monitor import Reading
from moco.verdicts import Verdict

CURVES = ["step", "epoch", "loss", "chance", "top1", "top5", "queue_fill", "learning_rate", "feature_std"]
SPEED = ["step", "images_per_second", "waiting_share"]
READINGS = ["epoch", "knn_top1", "spread", "effective_rank", "leak"]
WAITING = 0.05
"""Share of the time spent waiting for images above which the run says what to change."""


class Record:
    """Gathers the figures of an interval of steps, averages them over the processes and writes them.

    Args:
        settings: of the run.
        plan: of the run; gives its length.
        folder: holds curves.csv, speed.csv and readings.csv.
        first: steps done before; later rows are dropped, they will come again.
        processes: this process and its peers.
        writer: whether this process writes into the folder.
        remedy: what to change if training waits for images.
        watch: raises the alarms; it is shown the rows from before.
    """

    def __init__(
        self,
        settings: Pretrain,
        plan: EpochPlan | StreamPlan,
        folder: Path,
        first: int,
        processes: Processes,
        writer: bool,
        remedy: str,
        watch: Watch,
    ) -> None:
        self.remedy, self._intervals = remedy, 0
        self.settings, self.plan, self.processes = settings, plan, processes
        self.total = plan.steps_per_epoch * settings.epochs
        self.chance = float(np.log1p(settings.negatives))
        self.progress = Progress("pretrain", self.total)
        self.writers: tuple[Curve, Curve, Curve] | None = None
        if writer:
            self.writers = (
                Curve(folder / "curves.csv", CURVES, upto=first),
                Curve(folder / "speed.csv", SPEED, upto=first),
                Curve(folder / "readings.csv", READINGS, upto=first // plan.steps_per_epoch),
            )
            before = ([numbers(row) for row in read_rows(curve.path)] for curve in self.writers[::2])
            watch.replay(*before)  # what was said before is not said again
        self.watch = watch
        self._begin()

    def _begin(self) -> None:
        self._steps: list[Tensor] = []  # per step: loss, top-1, top-5
        self._began, self.waiting = time.monotonic(), 0.0

    def step(self, done: int, contrast: Contrast, queries: Tensor, rate: float) -> None:
        """Add a step; at the end of an interval, write it.

        Raises:
            MocoError: a loss was not finite.
        """
        rank = contrast.rank_of_positive
        self._steps.append(torch.stack([contrast.loss, (rank < 1).float().mean(), (rank < 5).float().mean()]))
        if done % self.settings.log_every_steps and done != self.total:
            return
        moments = torch.cat([queries.mean(dim=0), queries.square().mean(dim=0)])
        waited = moments.new_tensor([self.waiting])
        figures = torch.cat([torch.stack(self._steps).flatten(), moments, waited])
        together = self.processes.mean_(figures, self.processes.in_step).cpu().double().numpy()
        steps, moments_of_all, waited_by_all = np.split(together, [3 * len(self._steps), len(together) - 1])
        rows = steps.reshape(-1, 3)
        mean, square = np.split(moments_of_all, 2)  # of the last global batch, each dimension
        feature_std = float(np.sqrt(np.maximum(square - mean**2, 0)).mean() * len(mean) ** 0.5)
        refuse_non_finite(rows[:, 0], done, self.settings)
        loss, top1, top5 = rows.mean(axis=0)
        row: dict[str, float | int] = {
            "step": done,
            "epoch": done / self.plan.steps_per_epoch,
            "loss": loss,
            "chance": self.chance,
            "top1": top1,
            "top5": top5,
            "queue_fill": queue_fill(self.settings, self.plan.images, done),
            "learning_rate": rate,
            "feature_std": feature_std,
        }
        seconds = time.monotonic() - self._began
        speed, waiting = (len(self._steps) * self.settings.global_batch / seconds, float(waited_by_all[0]) / seconds)
        if self.writers:
            self.writers[0].add(row)
            self.writers[1].add({"step": done, "images_per_second": speed, "waiting_share": waiting})
        if self.processes.first:
            self.progress.update(
                done,
                f"step {done}/{self.total} · epoch {row['epoch']:.1f} · loss {loss:.3f} (chance {self.chance:.2f})"
                f" · top-1 {top1:.1%} · top-5 {top5:.1%} · queue {row['queue_fill']:.0%} · lr {rate:.3g}"
                f" · {speed:.0f} images/s · {waiting:.0%} waiting for images",
            )
            self._intervals += 1
            if waiting > WAITING and self.remedy and self._intervals > 1:  # the first one starts the workers
                print(f"pretrain: {waiting:.0%} of the time is spent waiting for images; {self.remedy}", flush=True)
                self.remedy = ""  # once is enough
            _say(self.watch.step(row))
        self._begin()

    def reading(self, epoch: int, found: Reading, leak: float | None) -> None:
        """Add a reading after an epoch; what was not measured leaves its cell empty."""
        values = {
            "knn_top1": found.knn_top1,
            "spread": found.spread,
            "effective_rank": found.effective_rank,
            "leak": leak,
        }
        row = {"epoch": epoch, **{name: value for name, value in values.items() if value is not None}}
        if self.writers:
            self.writers[2].add(row)
        if self.processes.first:
            knn = f"kNN on validation {found.knn_top1:.1%}, " if found.knn_top1 is not None else ""
            by_norm = f", BN leak {100 * leak:+.1f} points" if leak is not None else ""
            shape = f"spread {found.spread:.2f}, effective rank {found.effective_rank:.1f}"
            print(f"pretrain: epoch {epoch}: {knn}{shape}{by_norm}", flush=True)
            _say(self.watch.reading({name: row.get(name, math.nan) for name in READINGS}))

    def paused(self, seconds: float) -> None:
        """Leave time that was not training out of the speed."""
        self._began += seconds


def _say(alarms: list[Verdict]) -> None:
    for alarm in alarms:
        print(f"pretrain: warning: {alarm}", flush=True)


def queue_fill(settings: Pretrain, images: int, done: int) -> float:
    """Share of the dictionary's keys that are real ones after some steps, and not the random ones it began with."""
    if settings.mechanism in ("end-to-end", "momentum-batch"):
        return 1.0
    size = images if settings.mechanism == "memory-bank" else settings.queue_size
    return min(1.0, done * settings.global_batch * (1 + settings.symmetric) / size)


def refuse_non_finite(losses: np.ndarray, done: int, settings: Pretrain) -> None:
    """Stop at the first loss that is infinite or not a number; every process sees the same losses.

    Raises:
        MocoError: names the step and what to change.
    """
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        step = done - len(losses) + int(bad[0]) + 1
        raise MocoError(
            f"pretrain: the loss is {losses[bad[0]]} at step {step}, the last checkpoint is kept; lower pretrain.lr_per_256 (now {settings.lr_per_256}),"
            f" raise pretrain.temperature (now {settings.temperature}), or set pretrain.precision: fp32"
        )
