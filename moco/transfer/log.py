"""The log of a fine-tuning run: curves, a progress line, an error if the loss is not finite."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from moco.errors import MocoError
from moco.processes import Processes
from moco.progress import Progress
from moco.runs.curves import Curve
from moco.runs.steps import Pace

MOST_STEPS, LEAST_ROWS = 20, 100
"""Steps of a row at most; fewer in a run too short for `LEAST_ROWS` rows."""


class Log:
    """Gather the losses of an interval of steps, average them over the processes and write them.

    Args:
        folder: holds curves.csv (step, learning_rate, loss, and each of the losses that it is the
            sum of) and speed.csv.
        total: steps of the run.
        batch_size: images a step, over all processes.
        first: steps done before; later rows are dropped, since the run writes them again.
        processes: this process and its peers.
        writer: whether this process writes into the folder.
    """

    def __init__(
        self, folder: Path, total: int, batch_size: int, first: int, processes: Processes, writer: bool
    ) -> None:
        self.folder, self.total, self.batch_size, self.first = folder, total, batch_size, first
        self.processes, self.writer = processes, writer
        self.every = max(1, min(MOST_STEPS, total // LEAST_ROWS))
        self.progress = Progress("transfer", total)
        self.curves: tuple[Curve, Curve] | None = None
        self._steps: list[Tensor] = []

    def step(self, done: int, losses: Mapping[str, Tensor], rate: float, pace: Pace) -> None:
        """Add a step; at the end of an interval, write it.

        Raises:
            MocoError: a loss was not finite.
        """
        if self.writer and self.curves is None:
            names = ["loss"] if "loss" in losses else ["loss", *losses]
            self.curves = (
                Curve(self.folder / "curves.csv", ["step", "learning_rate", *names], upto=self.first),
                Curve(self.folder / "speed.csv", ["step", "images_per_second", "waiting_share"], upto=self.first),
            )
        self._steps.append(torch.stack([loss.detach().float() for loss in losses.values()]))
        if done % self.every and done != self.total:
            return
        means = self.check(done)
        speed, waiting = len(self._steps) * self.batch_size / pace.seconds, pace.waited / pace.seconds
        if self.curves:
            parts = dict(zip(losses, means, strict=True))
            row = {"step": done, "learning_rate": rate} | {"loss": sum(means)} | parts
            self.curves[0].add(row)
            self.curves[1].add({"step": done, "images_per_second": speed, "waiting_share": waiting})
        if self.processes.first:
            self.progress.update(done, f"step {done}/{self.total} · loss {sum(means):.3f} · {speed:.1f} images/s")
        self._steps = []
        pace.restart()

    def check(self, done: int) -> list[float]:
        """Average each loss since the last row over all processes, which must all call this.

        Raises:
            MocoError: one is not finite.
        """
        if not self._steps:
            return []
        together = torch.stack(self._steps).mean(dim=0)
        means: list[float] = self.processes.mean_(together, self.processes.in_step).tolist()
        if not all(abs(mean) < float("inf") for mean in means):
            raise MocoError(
                f"transfer: the loss is not finite ({sum(means)}) within the {len(self._steps)} steps before step {done}, the last"
                " checkpoint is kept; lower training.learning_rate, or set training.precision: fp32"
            )
        return means
