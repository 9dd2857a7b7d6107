"""Fine-tuning, top to bottom: one loop for every task (paper, section 4.2)."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from moco.cluster import here
from moco.cluster.machine import Machine
from moco.config import settings_hash
from moco.devices import compute_in
from moco.encoders.batch_norm import averaged_running_statistics, set_running_statistics
from moco.encoders.start import Start
from moco.errors import MocoError
from moco.files import write_text
from moco.images.plan import EpochPlan
from moco.permutation import key_of
from moco.processes import Processes, keep_freed_memory
from moco.runs import state
from moco.runs.finite import weights_are_finite
from moco.runs.steps import Steps
from moco.transfer.config import Training
from moco.transfer.data.loader import Share, steps
from moco.transfer.log import Log
from moco.transfer.networks.batch_norm import reestimate, set_batch_norm
from moco.transfer.schedules import BoxSizes, schedule_of, timetable
from moco.transfer.sets import TrainingSet, hash_of
from moco.transfer.tasks import Objective, Task, optimizer_of, task_of

NAME = "run"
"""File in a run's folder that names the run."""


@dataclass(frozen=True)
class FineTune:
    """What one fine-tuning run works on.

    Attributes:
        settings: everything that decides the result, except the following.
        start: the weights it starts from.
        training: an `AnnotatedSet`; labelled images of a shard set for classification.
        seed: of this trial: new layers, order of images, views, sampled proposals.
        folder: untracked; holds checkpoints and curves of this run alone.
        machine: workers and checkpoint intervals.
        processes: this process and its peers.
    """

    settings: Training
    start: Start
    training: TrainingSet
    seed: int
    folder: Path
    machine: Machine
    processes: Processes

    def name(self) -> str:
        """Give 16 hexadecimal digits that change with anything that decides this trial's result."""
        settings = self.settings.model_dump(mode="json", exclude={"trials", "seed"})
        start = self.start  # the same weights are another network with another stem
        began = start.fingerprint, start.kind, start.mean, start.std
        return settings_hash(settings, self.seed, *began, hash_of(self.training))


def finetune(run: FineTune) -> nn.Module:
    """Train from the newest checkpoint in the run's folder to the end of the schedule.

    The last checkpoint is the result. A run that has it is not trained again.

    Returns:
        The model in evaluation mode, on the device of this process, the same on all.

    Raises:
        MocoError: the data do not fit the task, fewer images than a batch, a batch that the
            processes cannot share, a folder of another run, a loss that is not finite.
        Interrupted: SIGINT or SIGTERM came; a checkpoint was written.
        RuntimeError: a peer is gone or silent.
    """
    settings, processes = run.settings, run.processes
    task = task_of(settings, run.training, run.start, run.seed, processes)
    if len(task.among) < settings.batch_size:
        raise MocoError(
            f"training.batch_size = {settings.batch_size} is more than the {len(task.among)} images that can be trained on; lower it"
        )
    if settings.batch_size % processes.world_size:
        raise MocoError(
            f"training.batch_size = {settings.batch_size} cannot be shared by {processes.world_size} processes; use a number"
            " of processes that divides it"
        )
    name = run.name()
    state.same_run(name, processes)
    with state.writing(run.folder, processes) as writer:
        if writer:
            claim(run.folder, name)
        return _finetune(run, task, writer)


def claim(folder: Path, name: str) -> None:
    """Write down which run a folder belongs to.

    Raises:
        MocoError: it belongs to another run.
    """
    path = folder / NAME
    if not path.exists():
        write_text(path, name + "\n")
    held = path.read_text().strip()
    if held != name:
        raise MocoError(
            f"{folder}: holds the run {held}, and this one is {name}: settings, data, seed or weights differ; name another"
            " folder, or delete it"
        )


def _finetune(run: FineTune, task: Task, writer: bool) -> nn.Module:
    settings, processes, machine, device = run.settings, run.processes, run.machine, run.processes.device
    keep_freed_memory()
    schedule, plan = schedule_of(settings), EpochPlan(len(task.among), settings.batch_size, run.seed)
    times = timetable(schedule, settings.batch_size, plan.images, settings.iterations, settings.learning_rate)
    total = times.iterations
    # a detector's batches each have a shape of their own
    torch.backends.cudnn.benchmark = not isinstance(schedule.sizes, BoxSizes)
    model = set_batch_norm(task.model(), settings.batch_norm, processes).to(device)
    model.to(memory_format=torch.channels_last).train()
    optimizer = optimizer_of(model, settings)
    found = state.resume(run.folder, model, optimizer, processes, writer)
    first = int(found["step"]) if found else 0
    if first > total:
        return model.eval()
    objective = Objective(model, task.losses)
    losses_of = average_gradients(objective, processes)
    precision = compute_in(settings.precision, device)
    autocast = partial(torch.autocast, device.type, torch.bfloat16, precision == "bf16")
    if processes.first:
        print(
            f"transfer: step {first} of {total}, {len(task.among)} images, {settings.batch_size} a step on"
            f" {processes.world_size} process(es), in {run.folder.name}",
            flush=True,
        )
    here.say("transfer", machine, processes, precision, f"training.batch_size = {settings.batch_size}")
    log = Log(run.folder, total, settings.batch_size, first, processes, writer)
    share = Share(task.among, plan, processes.rank, processes.world_size)
    last = total if settings.batch_norm == "frozen" else total + settings.precise_bn_batches
    batches = steps(task.batches(share), first, last, machine.workers(), device)
    about = {"settings": settings.model_dump(mode="json")}

    def save(done: int) -> None:
        log.check(done)
        if not weights_are_finite(model, processes):
            raise MocoError(
                f"transfer: the network's weights are not finite after step {done}, the last checkpoint is kept; lower"
                " training.learning_rate, or set training.precision: fp32"
            )
        state.save(run.folder, done, model, optimizer, processes, writer, machine.keep_checkpoints, about)

    cadence = machine.checkpoint_every_steps, machine.checkpoint_every_minutes
    with Steps("transfer", total, processes, save, *cadence) as driver, closing(batches):
        for step, (images, targets) in driver.run(batches, first, total):
            seed_generators(run, step)
            rate = times.rate(step)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            optimizer.zero_grad()
            with autocast():
                losses = losses_of(images, targets)
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
            log.step(step + 1, losses, rate, driver.pace)
        if last > total:
            with autocast():
                reestimate(model, _passes(run, objective, driver.run(batches, total, last)), processes)
    with averaged_running_statistics(model, processes) as statistics:
        pass
    set_running_statistics(model, statistics.mean(dim=0))
    save(total + 1)  # one step further: nothing is left to train
    return model.eval()


def _passes(run: FineTune, objective: nn.Module, batches: Iterator[tuple[int, Any]]) -> Iterator[Callable[[], Any]]:
    """Forward passes over the batches that are left, for the statistics of batch norm."""
    for step, (images, targets) in batches:
        seed_generators(run, step)
        yield partial(objective, images, targets)


def seed_generators(run: FineTune, step: int) -> None:
    """Make torchvision's draws of proposals a function of seed, step and process."""
    torch.manual_seed(int(key_of(run.seed, step, run.processes.rank)) >> 1)  # below 2^63


def average_gradients(objective: Objective, processes: Processes) -> Callable[[Any, Any], dict[str, torch.Tensor]]:
    """Wrap the objective so that its gradients are averaged over the processes."""
    if processes.world_size == 1:
        return objective
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.15 renames an option; 2.11 knows this name only
        return DistributedDataParallel(
            objective,
            device_ids=[processes.device] if processes.device.type == "cuda" else None,
            process_group=processes.in_step,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )
