"""Pretraining, top to bottom."""

import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from moco.cluster.machine import Machine
from moco.cluster.process_group import Processes, average_running_statistics
from moco.cluster.shuffle_bn import positions_of_slots
from moco.config import Pretrain
from moco.encoders import IMAGENET_MEAN, IMAGENET_STD, EncoderSpec, ResNet, projection_head
from moco.errors import Interrupted, MocoError
from moco.images.index import ShardSet
from moco.images.loader import TwoViewBatches, steps
from moco.images.plan import EpochPlan
from moco.momentum_contrast import MoCo
from moco.progress import Progress
from moco.training import checkpoints
from moco.training.curves import Curve
from moco.training.monitor import KnnMonitor
from moco.training.schedules import learning_rate

CURVES = ["step", "epoch", "loss", "chance", "top1", "top5", "queue_fill", "learning_rate", "feature_std"]
SPEED = ["step", "images_per_second", "waiting_share"]

Report = Callable[[int, dict[str, float]], None]
"""Takes a step and what was measured there; MLflow, or nothing."""


@dataclass(frozen=True)
class Run:
    """What one training run works on.

    Attributes:
        settings: everything that decides the result.
        images: training images.
        monitor: reads kNN on the validation split.
        folder: untracked; holds checkpoints and curves, and names the run (it belongs to these settings and data).
        training_hash: names settings and data, for the encoder's file.
        machine: workers and checkpoint intervals.
        processes: this process and its peers.
        report: called on the first process.
    """

    settings: Pretrain
    images: ShardSet
    monitor: KnnMonitor
    folder: Path
    training_hash: str
    machine: Machine
    processes: Processes
    report: Report


def pretrain(run: Run) -> tuple[ResNet, EncoderSpec]:
    """Train from the newest checkpoint in the run's folder, or from the start, to the last epoch.

    Returns:
        The query encoder's backbone with averaged running statistics, and its description.

    Raises:
        MocoError: too few images, a process that cannot hold whole batch-norm groups, a loss that is not finite.
        Interrupted: SIGINT or SIGTERM came; a checkpoint of the last step was written.
    """
    settings, processes = run.settings, run.processes
    check(settings, len(run.images), processes.world_size)
    plan = EpochPlan(len(run.images), settings.global_batch, settings.seed)
    total = plan.steps_per_epoch * settings.epochs
    model = build(settings).to(processes.device)
    model.to(memory_format=torch.channels_last)
    spec = specification(settings, model, run.training_hash)
    optimizer = torch.optim.SGD(
        model.encoder_q.parameters(),
        lr=0.0,
        momentum=settings.sgd_momentum,
        weight_decay=settings.weight_decay,
    )
    autocast = torch.autocast(
        processes.device.type, torch.bfloat16, enabled=use_bf16(settings, processes.device)
    )
    encode_queries = average_gradients(model.encoder_q, settings, processes)

    first = resume(run.folder, model, optimizer)
    run.folder.mkdir(parents=True, exist_ok=True)
    processes.barrier()  # nobody touches the curves before everyone has read the checkpoint
    if processes.first:
        print(
            f"pretrain: step {first} of {total}, {settings.epochs} epochs of {plan.steps_per_epoch} steps, in {run.folder.name}",
            flush=True,
        )
        curves = Curve(run.folder / "curves.csv", CURVES, upto=first)
        speeds = Curve(run.folder / "speed.csv", SPEED, upto=first)
        readings = Curve(run.folder / "knn.csv", ["epoch", "knn_top1"], upto=first // plan.steps_per_epoch)
    progress = Progress("pretrain", total)
    chance = float(np.log1p(settings.queue_size))
    views = TwoViewBatches(
        run.images, plan, settings.views, settings.image_size, processes.rank, processes.world_size
    )

    with stop_requests() as stop:
        data = steps(views, first, total, run.machine.workers(), processes.device.type == "cuda")
        interval: list[Tensor] = []  # per step: loss, top-1, top-5
        began = saved = time.monotonic()
        waiting, saved_at = 0.0, first
        for step in range(first, total):
            asked = time.monotonic()
            images = next(data).to(processes.device, non_blocking=True)
            waiting += time.monotonic() - asked
            rate = learning_rate(settings, step, total)
            optimizer.param_groups[0]["lr"] = rate
            positions = (
                positions_of_slots(settings.seed, step, settings.global_batch)
                if settings.shuffle_bn
                else np.arange(settings.global_batch)
            )
            contrast, queries, keys = model.contrast(images, positions, processes, encode_queries, autocast)
            optimizer.zero_grad()
            contrast.loss.backward()
            optimizer.step()
            model.dictionary.enqueue(keys)
            rank = contrast.rank_of_positive
            interval.append(
                torch.stack([contrast.loss.detach(), (rank < 1).float().mean(), (rank < 5).float().mean()])
            )

            done = step + 1
            boundary = done % settings.log_every_steps == 0 or done == total
            if boundary:
                seconds = time.monotonic() - began
                spread = queries.detach().std(dim=0).mean() * settings.dim**0.5
                flags = torch.tensor(
                    [float(stop.is_set()), time.monotonic() - saved], device=processes.device
                )
                together = processes.mean_(
                    torch.cat([torch.stack(interval).flatten(), spread[None], flags])
                ).tolist()
                table = np.array(together[:-3]).reshape(-1, 3)
                refuse_non_finite(table[:, 0], done, settings, processes)
                means = table.mean(axis=0)
                stopping, since_saved = together[-2] > 0, together[-1]
                images_per_second = len(interval) * settings.global_batch / seconds
                row: dict[str, float | int] = {
                    "step": done, "epoch": done / plan.steps_per_epoch, "loss": means[0], "chance": chance, "top1": means[1],
                    "top5": means[2], "queue_fill": min(1.0, done * settings.global_batch / settings.queue_size),
                    "learning_rate": rate, "feature_std": together[-3],
                }  # fmt: skip
                if processes.first:
                    curves.add(row)
                    speed = {"images_per_second": images_per_second, "waiting_share": waiting / seconds}
                    speeds.add({"step": done, **speed})
                    run.report(
                        done, {name: float(value) for name, value in (row | speed).items() if name != "step"}
                    )
                    progress.update(
                        done,
                        f"step {done}/{total} · epoch {row['epoch']:.1f} · loss {means[0]:.3f} (chance {chance:.2f})"
                        f" · top-1 {means[1]:.1%} · top-5 {means[2]:.1%} · queue {row['queue_fill']:.0%} · lr {rate:.3g}"
                        f" · {images_per_second:.0f} images/s · {waiting / seconds:.0%} waiting for data",
                    )
                interval, waiting, began = [], 0.0, time.monotonic()

            epoch, rest = divmod(done, plan.steps_per_epoch)
            due = settings.knn_every_epochs and (epoch % settings.knn_every_epochs == 0 or done == total)
            if rest == 0 and due and run.monitor.possible:
                paused = time.monotonic()
                average_running_statistics(model.encoder_q, processes)
                top1 = run.monitor.top1(model.encoder_q.backbone, spec, processes, run.machine.workers())  # type: ignore[arg-type]
                if processes.first:
                    readings.add({"epoch": epoch, "knn_top1": top1})
                    run.report(done, {"knn_top1": top1})
                    print(f"pretrain: epoch {epoch}: kNN on validation {top1:.1%}", flush=True)
                began += time.monotonic() - paused

            every = run.machine.checkpoint_every_steps
            if boundary and (
                stopping
                or done == total
                or since_saved > 60 * run.machine.checkpoint_every_minutes
                or (every and done - saved_at >= every)
            ):
                average_running_statistics(model, processes)
                if processes.first:
                    checkpoints.save(
                        run.folder,
                        done,
                        state_of(model, optimizer, done, settings),
                        run.machine.keep_checkpoints,
                    )
                saved, saved_at = time.monotonic(), done
                if stopping and done < total:
                    processes.barrier()
                    raise Interrupted(
                        f"pretrain: stopped at step {done} of {total}, a checkpoint is saved; the same command goes on from there"
                    )
    average_running_statistics(model, processes)
    return model.encoder_q.backbone, spec  # type: ignore[return-value]


def check(settings: Pretrain, images: int, world_size: int) -> None:
    """Name what cannot work before any time is spent on it."""
    if images < settings.global_batch:
        raise MocoError(
            f"pretrain.global_batch = {settings.global_batch} is more than the {images} training images; lower it"
        )
    if settings.global_batch % (world_size * settings.bn_group_size):
        raise MocoError(
            f"pretrain.global_batch = {settings.global_batch} over {world_size} processes leaves no whole groups of"
            f" pretrain.bn_group_size = {settings.bn_group_size} on each; use a number of processes that divides"
            f" {settings.global_batch // settings.bn_group_size}"
        )


def build(settings: Pretrain) -> MoCo:
    """The model with its first weights and keys, which depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        backbone = ResNet(settings.encoder, settings.stem, settings.bn_group_size)
        head = projection_head(settings.head, backbone.feature_dim, settings.dim)
        generator = torch.Generator().manual_seed(settings.seed)
        return MoCo(
            backbone,
            head,
            settings.dim,
            settings.queue_size,
            settings.momentum,
            settings.temperature,
            generator,
        )


def specification(settings: Pretrain, model: MoCo, training_hash: str) -> EncoderSpec:
    """What the encoder's file says of it."""
    return EncoderSpec(
        architecture=settings.encoder, stem=settings.stem, image_size=settings.image_size,
        eval_crop_ratio=settings.eval_crop_ratio, mean=IMAGENET_MEAN, std=IMAGENET_STD,
        feature_dim=model.encoder_q.backbone.feature_dim, training_hash=training_hash,  # type: ignore[arg-type]
    )  # fmt: skip


def use_bf16(settings: Pretrain, device: torch.device) -> bool:
    """Whether to run the encoders in bfloat16: as asked, or where the processor has it in hardware."""
    if settings.precision != "auto":
        return settings.precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def average_gradients(
    encoder_q: nn.Module, settings: Pretrain, processes: Processes
) -> Callable[[Tensor], Tensor]:
    """The query encoder, wrapped so that its gradients are averaged over processes."""
    if processes.world_size == 1:
        return encoder_q
    on_gpu = [processes.device] if processes.device.type == "cuda" else None
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # torch 2.15 renames the option; 2.11 knows this name only
        wrapped = DistributedDataParallel(
            encoder_q, device_ids=on_gpu, broadcast_buffers=False, gradient_as_bucket_view=True
        )
    # DDP orders its gradient buckets anew after the first backward pass, and sums in another order from then on. One
    # pass that is thrown away puts fresh and resumed runs in the same state, so that they agree to the bit.
    before = {name: value.clone() for name, value in encoder_q.state_dict().items()}
    size = settings.image_size
    wrapped(torch.zeros(settings.bn_group_size, 3, size, size, device=processes.device)).sum().backward()
    encoder_q.load_state_dict(before)
    encoder_q.zero_grad()
    return wrapped


def state_of(model: MoCo, optimizer: torch.optim.Optimizer, step: int, settings: Pretrain) -> dict[str, Any]:
    """Everything that is not a function of the settings and the step."""
    return {
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "settings": settings.model_dump(mode="json"),
    }


def resume(folder: Path, model: MoCo, optimizer: torch.optim.Optimizer) -> int:
    """Load the newest readable checkpoint, if any; the number of steps done."""
    state = checkpoints.load_newest(folder)
    if state is None:
        return 0
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def refuse_non_finite(losses: np.ndarray, done: int, settings: Pretrain, processes: Processes) -> None:
    """Stop at the first loss that is infinite or not a number."""
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        if not processes.first:
            raise SystemExit(MocoError.exit_code)  # all see it; one says it
        step = done - len(losses) + int(bad[0]) + 1
        raise MocoError(
            f"pretrain: the loss is {losses[bad[0]]} at step {step}, the last checkpoint is kept; lower pretrain.lr_per_256 (now {settings.lr_per_256}),"
            f" raise pretrain.temperature (now {settings.temperature}), or set pretrain.precision: fp32"
        )


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set."""
    stop = threading.Event()
    previous = {
        number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
