"""Pretraining, top to bottom."""

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from moco.alarms import Watch
from moco.cluster.machine import Machine
from moco.config import Pretrain
from moco.dictionary import Batch
from moco.dictionary.momentum_encoder import MomentumEncoder
from moco.dictionary.shuffle_bn import positions_of_slots
from moco.encoders.batch_norm import averaged_running_statistics
from moco.encoders.resnet import ResNet
from moco.errors import Interrupted
from moco.images.batches import ViewBatches
from moco.images.index import ShardSet
from moco.images.loader import steps
from moco.processes import Processes
from moco.runs import checkpoints
from moco.runs.agreement import Agreement, stop_requests
from moco.runs.state import COMPILED, painter_of, resume, same_run, state_of, writing
from moco.training.leak import LeakProbe
from moco.training.log import Record
from moco.training.monitor import Monitor
from moco.training.schedules import learning_rate, momentum
from moco.training.setup import (
    at_once,
    average_gradients,
    build,
    check,
    images_in_order,
    keep_freed_memory,
    remedy_for_waiting,
    sgd,
    specification,
    use_bf16,
)


@dataclass(frozen=True)
class Run:
    """What one training run works on.

    Attributes:
        settings: everything that decides the result.
        images: training images.
        monitor: reads the features on the validation split.
        folder: untracked; holds checkpoints and curves, and names the run (it belongs to these settings and data).
        name: hash of settings and data; every process must have the same.
        machine: workers, memory and checkpoint intervals.
        processes: this process and its peers.
    """

    settings: Pretrain
    images: ShardSet
    monitor: Monitor
    folder: Path
    name: str
    machine: Machine
    processes: Processes


def pretrain(run: Run) -> None:
    """Train from the newest checkpoint in the run's folder, or from the start, to the last epoch.

    The last checkpoint is the result; its running statistics are averaged over the processes.

    Raises:
        MocoError: too few images, a process that cannot hold whole batch-norm groups, a loss that is not finite.
        Interrupted: SIGINT or SIGTERM came; a checkpoint was written.
        RuntimeError: a peer is gone or silent.
    """
    check(run.settings, len(run.images), run.processes.world_size)
    same_run(run.name, run.processes)
    with writing(run.folder, run.processes) as writer:
        _pretrain(run, writer)


def _pretrain(run: Run, writer: bool) -> None:
    settings, processes, machine = run.settings, run.processes, run.machine
    together = at_once(settings, processes.world_size, machine.max_batch_per_process)
    every = processes.gather_objects(machine.checkpoint_every_steps)[0]
    keep_freed_memory()
    torch.backends.cudnn.benchmark = True  # every step has the same shapes
    plan, streams = images_in_order(settings, run.images, machine, processes.world_size)
    run.monitor.require_tars(settings.knn_every_epochs)
    total = plan.steps_per_epoch * settings.epochs
    model = build(settings, len(run.images)).to(processes.device)
    model.to(memory_format=torch.channels_last)
    spec = specification(settings, model, run.name)
    optimizer = sgd(model, settings)
    bf16 = use_bf16(settings, processes.device)
    autocast = torch.autocast(processes.device.type, torch.bfloat16, enabled=bf16)
    encode_queries = average_gradients(model.encoder_q, settings, processes)
    first, painter = resume(run.folder, model, optimizer, processes, writer)
    painter = painter_of(painter, processes)
    processes.barrier()  # nobody touches the curves before everyone has read the checkpoint
    if processes.first:
        print(
            f"pretrain: step {first} of {total}, {settings.epochs} epochs of {plan.steps_per_epoch} steps"
            f" on {processes.world_size} process(es), views {painter}, in {run.folder.name}",
            flush=True,
        )
    remedy = remedy_for_waiting(machine, painter == COMPILED, streams is not None)
    watch = Watch(settings, run.monitor.validation(settings.bn_group_size))
    record = Record(settings, plan, run.folder, first, processes, writer, remedy, watch)
    probe = LeakProbe(
        run.monitor.val, settings.views, settings.image_size, settings.bn_group_size, settings.seed, painter == COMPILED
    )
    views = ViewBatches(
        run.images,
        plan,
        settings.views,
        settings.image_size,
        processes.rank,
        processes.world_size,
        streams,
        painter == COMPILED,
        settings.views_per_image,
    )

    def save(done: int) -> None:
        with averaged_running_statistics(model, processes) as statistics:
            if writer:
                state = state_of(model, optimizer, done, plan, settings, statistics, painter, bf16)
                checkpoints.save(run.folder, done, state, machine.keep_checkpoints)
        processes.barrier()  # a slow disk is waited for here, not within a step

    batches = steps(views, first, total, machine.workers(), processes.device)
    with stop_requests() as stop, closing(batches) as data:
        agreement = Agreement(processes)
        saved = time.monotonic()
        for step in range(first, total):
            asked = time.monotonic()
            images = next(data)
            record.waiting += time.monotonic() - asked
            if step == first:
                processes.barrier()  # the first batch may take a while
            rate = learning_rate(settings, step, total)
            optimizer.param_groups[0]["lr"] = rate
            positions = np.arange(settings.global_batch)
            if settings.shuffle_bn:
                positions = positions_of_slots(settings.seed, step, settings.global_batch)
            batch = Batch(images, plan.batch(step), positions, step, processes, together)
            if isinstance(model.dictionary, MomentumEncoder):
                model.dictionary.momentum = momentum(settings, step, total)
            optimizer.zero_grad()
            contrast, queries = model.contrast(batch, encode_queries, autocast)
            optimizer.step()

            done = step + 1
            record.step(done, contrast, queries, rate)
            due = processes.first and time.monotonic() - saved > 60 * machine.checkpoint_every_minutes
            stopping, saving = agreement.exchange(stop(), due)

            epoch, rest = divmod(done, plan.steps_per_epoch)
            read = settings.knn_every_epochs and (epoch % settings.knn_every_epochs == 0 or done == total)
            if rest == 0 and read and run.monitor.possible:
                paused = time.monotonic()
                backbone: ResNet = model.encoder_q.backbone  # type: ignore[assignment]
                with averaged_running_statistics(backbone, processes):
                    reading = run.monitor.read(backbone, spec, processes, machine.workers())
                leak = probe(model, autocast) if processes.first else None
                record.reading(epoch, reading, processes.gather_objects(leak)[0])
                record.paused(time.monotonic() - paused)

            if stopping or saving or done == total or (every and done % every == 0):
                paused = time.monotonic()
                save(done)
                saved = time.monotonic()
                record.paused(saved - paused)
            if stopping and done < total:
                agreement.settle()
                raise Interrupted(
                    f"pretrain: stopped at step {done} of {total}, a checkpoint is saved; the same command goes on from there"
                )
        agreement.settle()
