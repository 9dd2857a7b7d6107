"""What a run says as it trains: curves on disk, a progress line, and when to stop for good."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from moco.alarms import Watch
from moco.config import Pretrain
from moco.dictionary.info_nce import Contrast
from moco.errors import MocoError
from moco.features.intervals import percent
from moco.images.plan import EpochPlan
from moco.images.stream_plan import StreamPlan
from moco.processes import Processes
from moco.progress import Progress
from moco.runs.curves import Curve, numbers, read_rows
from moco.runs.finite import weights_are_finite
from moco.runs.steps import Pace
from moco.training.monitor import Reading
from moco.training.run import Run
from moco.verdicts import Verdict

CURVES = ["step", "epoch", "loss", "chance", "top1", "top5", "queue_fill", "learning_rate", "feature_std"]
SPEED = ["step", "images_per_second", "waiting_share"]
READINGS = ["epoch", "knn_top1", "spread", "effective_rank", "leak"]
WAITING = 0.05
"""Share of the time spent waiting for images above which the run says what to change."""


class Log:
    """Gather the figures of an interval of steps, average them over the processes and write them.

    Args:
        run: the run.
        plan: of the run; gives its length.
        first: steps done before; later rows are dropped, they will come again.
        processes: this process and its peers.
        writer: whether this process writes into the run's folder.
        remedy: what to change if training waits for images.
    """

    def __init__(
        self, run: Run, plan: EpochPlan | StreamPlan, first: int, processes: Processes, writer: bool, remedy: str
    ) -> None:
        self.remedy, self._intervals = remedy, 0
        self.settings, self.plan, self.processes, self.total = run.settings, plan, processes, run.total
        self.progress = Progress("pretrain", self.total)
        self.watch = Watch(run.settings, run.monitor.validation(run.settings.bn_group_size))
        self.curves: tuple[Curve, Curve, Curve] | None = None
        if writer:
            self.curves = (
                Curve(run.folder / "curves.csv", CURVES, upto=first),
                Curve(run.folder / "speed.csv", SPEED, upto=first),
                Curve(run.folder / "readings.csv", READINGS, upto=first // plan.steps_per_epoch),
            )
            before = ([numbers(row) for row in read_rows(curve.path)] for curve in self.curves[::2])
            self.watch.replay(*before)  # what was said before is not said again
        self._steps: list[Tensor] = []  # per step: loss, top-1, top-5

    def step(self, done: int, contrast: Contrast, queries: Tensor, rate: float, pace: Pace) -> None:
        """Add a step; at the end of an interval, write it.

        Raises:
            MocoError: a loss was not finite.
        """
        rank = contrast.rank_of_positive
        self._steps.append(torch.stack([contrast.loss, (rank < 1).float().mean(), (rank < 5).float().mean()]))
        if done % self.settings.log_every_steps and done != self.total:
            return
        moments = torch.cat([queries.mean(dim=0), queries.square().mean(dim=0)])
        waited = moments.new_tensor([pace.waited])
        figures = torch.cat([torch.stack(self._steps).flatten(), moments, waited])
        together = self.processes.mean_(figures, self.processes.in_step).cpu().double().numpy()
        steps, moments_of_all, waited_by_all = np.split(together, [3 * len(self._steps), len(together) - 1])
        rows = steps.reshape(-1, 3)
        mean, square = np.split(moments_of_all, 2)  # of the last global batch, each dimension
        feature_std = float(np.sqrt(np.maximum(square - mean**2, 0)).mean() * len(mean) ** 0.5)
        refuse_non_finite(rows[:, 0], done, self.settings)
        loss, top1, top5 = rows.mean(axis=0)
        fill = queue_fill(self.settings, self.plan.images, done)
        chance = chance_of(self.settings, fill)
        row: dict[str, float | int] = {
            "step": done,
            "epoch": done / self.plan.steps_per_epoch,
            "loss": loss,
            "chance": chance,
            "top1": top1,
            "top5": top5,
            "queue_fill": fill,
            "learning_rate": rate,
            "feature_std": feature_std,
        }
        seconds = pace.seconds
        speed, waiting = len(self._steps) * self.settings.global_batch / seconds, float(waited_by_all[0]) / seconds
        if self.curves:
            self.curves[0].add(row)
            self.curves[1].add({"step": done, "images_per_second": speed, "waiting_share": waiting})
        if self.processes.first:
            self.progress.update(
                done, f"step {done}/{self.total} · loss {loss:.3f} (chance {chance:.2f}) · {speed:.0f} images/s"
            )
            self._intervals += 1
            if waiting > WAITING and self.remedy and self._intervals > 1:  # the first one starts the workers
                print(f"pretrain: {waiting:.0%} of the time is spent waiting for images; {self.remedy}", flush=True)
                self.remedy = ""  # once is enough
            _say(self.watch.step(row))
        self._steps = []
        pace.restart()

    def check(self, done: int, encoder_q: nn.Module) -> None:
        """Refuse to save after a loss, or with weights, that are not finite; all processes ask.

        Raises:
            MocoError: names the step and what to change.
        """
        if self._steps:
            losses = torch.stack([step[0] for step in self._steps])
            everyones = self.processes.mean_(losses, self.processes.in_step).cpu().double().numpy()
            refuse_non_finite(everyones, done, self.settings)
        if not weights_are_finite(encoder_q, self.processes):
            raise not_finite(f"the encoder's weights are not finite after step {done}", self.settings)

    def reading(self, epoch: int, found: Reading, leak: float | None) -> None:
        """Add a reading after an epoch; what was not measured leaves its cell empty.

        Raises:
            MocoError: the features are not finite.
        """
        if math.isnan(found.spread):
            raise not_finite(f"the features of validation images are not finite after epoch {epoch}", self.settings)
        values = {
            "knn_top1": found.knn_top1,
            "spread": found.spread,
            "effective_rank": found.effective_rank,
            "leak": leak,
        }
        row = {"epoch": epoch, **{name: value for name, value in values.items() if value is not None}}
        if self.curves:
            self.curves[2].add(row)
        if self.processes.first:
            images = self.watch.history.validation.classified
            knn = f"kNN on validation {percent(found.knn_top1, images)}, " if found.knn_top1 is not None else ""
            by_norm = f", BN leak {100 * leak:+.1f} points" if leak is not None else ""
            shape = f"spread {found.spread:.2f}, effective rank {found.effective_rank:.1f}"
            print(f"pretrain: epoch {epoch}: {knn}{shape}{by_norm}", flush=True)
            _say(self.watch.reading({name: row.get(name, math.nan) for name in READINGS}))


def _say(alarms: list[Verdict]) -> None:
    for alarm in alarms:
        print(f"pretrain: warning: {alarm}", flush=True)


def queue_fill(settings: Pretrain, images: int, done: int) -> float:
    """Compute the share of the dictionary's keys that are real after some steps, not random."""
    if settings.dictionary.about.fills is None:
        return 1.0
    size = images if settings.dictionary.about.fills == "images" else settings.negatives
    return min(1.0, done * settings.global_batch * (1 + settings.symmetric) / size)


def chance_of(settings: Pretrain, fill: float) -> float:
    """Compute the loss of a blind guess: ln(1+K), or with the real keys that there are for K."""
    real_alone = getattr(settings.dictionary, "start", "random") == "keys"
    return float(np.log1p(settings.negatives * (fill if real_alone else 1.0)))


def refuse_non_finite(losses: np.ndarray, done: int, settings: Pretrain) -> None:
    """Stop at the first loss that is infinite or not a number; every process sees the same losses.

    Raises:
        MocoError: names the step and what to change.
    """
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        step = done - len(losses) + int(bad[0]) + 1
        raise not_finite(f"the loss is {losses[bad[0]]} at step {step}", settings)


def not_finite(what: str, settings: Pretrain) -> MocoError:
    """Make the error of a run that has diverged."""
    return MocoError(
        f"pretrain: {what}, the last checkpoint is kept; lower pretrain.lr_per_256 (now {settings.lr_per_256}),"
        f" raise pretrain.temperature (now {settings.temperature}), or set pretrain.precision: fp32"
    )
