"""Pretraining, top to bottom."""

import os
from contextlib import AbstractContextManager, closing, nullcontext
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from moco.cluster import here
from moco.devices import compute_in
from moco.dictionary.info_nce import Contrast
from moco.dictionary.protocol import Batch, Encode
from moco.dictionary.shuffle_bn import Shuffle, positions_of_slots
from moco.encoders.batch_norm import averaged_running_statistics, micro_batches
from moco.images import fused_views
from moco.momentum_contrast import MoCo
from moco.processes import Processes, keep_freed_memory
from moco.runs import state
from moco.runs.steps import Steps
from moco.training import checks, feed, setup
from moco.training.beginning import begin
from moco.training.leak import LeakProbe
from moco.training.log import Log
from moco.training.memory import shortage_named
from moco.training.run import Run

KEYS_FIRST = ("cpu",)
"""Devices on which keys are encoded before queries: their caches hold less at once, 3 % of a step.
Elsewhere the first queries are encoded while key images travel."""


def pretrain(run: Run, processes: Processes) -> None:
    """Train from the newest checkpoint in the run's folder, or from the start, to the last epoch.

    The last checkpoint is the result; its running statistics are averaged over the processes.

    Raises:
        MocoError: too few images, a process that cannot hold whole batch-norm groups, a loss that
            is not finite.
        Interrupted: SIGINT or SIGTERM came; a checkpoint was written.
        RuntimeError: a peer is gone or silent.
    """
    checks.check(run.settings, len(run.images), processes.world_size)
    checks.check_memory(run.settings, processes.world_size, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    state.same_run(run.name, processes)
    with state.writing(run.folder, processes) as writer:
        _pretrain(run, processes, writer)


def _pretrain(run: Run, processes: Processes, writer: bool) -> None:
    settings, machine, total, device = run.settings, run.machine, run.total, processes.device
    keep_freed_memory()
    torch.backends.cudnn.benchmark = True  # every step has the same shapes
    plan, streams = setup.images_in_order(settings, run.images, machine, run.folder)
    run.monitor.require_tars(settings.knn_every_epochs)
    size = checks.micro_batch_size(settings, processes.world_size, machine.max_batch_per_process)

    precision = compute_in(settings.precision, device)
    model = run.model().to(device)
    model.to(memory_format=torch.channels_last)
    optimizer = setup.optimizer_of(model, settings)
    begins = begin(model, optimizer, settings, run.beginning)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    compiled = setup.compile_encoders(model, machine, processes, total)
    in_bf16 = machine.gradients == "bf16"
    encode_queries = setup.average_gradients(model.encoder_q, settings, processes, autocast, in_bf16)
    found = state.resume(run.folder, model, optimizer, processes, writer)
    first = int(found["step"]) if found else 0
    painted = fused_views.available()
    views = run.view_batches(plan, processes, streams, painted)
    rates = cache(partial(feed.measure, views, first, machine.workers(), model.encoder_q, size, autocast))
    before = str(found["loader"]["views"]) if found else None
    backend = feed.view_backend(before, machine.views, processes, lambda: rates().gpu_pays)
    if processes.first:
        print(f"pretrain: {setup.norms_said(model, settings)}", flush=True)
        if begins and not first:
            print(f"pretrain: {begins}", flush=True)
        print(
            f"pretrain: step {first} of {total}, {settings.epochs} epochs of {plan.steps_per_epoch} steps"
            f" on {processes.world_size} process(es), views {backend}, in {run.folder.name}",
            flush=True,
        )
        if device.type == "cuda":
            print(f"pretrain: {rates()}", flush=True)
    groups = settings.global_batch // settings.bn_group_size
    work = f"the {groups} groups of pretrain.bn_group_size = {settings.bn_group_size} images"
    here.say("pretrain", machine, processes, precision, work, compiled)

    views.compiled = painted = painted and backend != feed.PLAIN
    probe = LeakProbe.of(settings, run.monitor.val, painted)
    log = Log(run, plan, first, processes, writer, setup.remedy_for_waiting(machine, painted, streams is not None))
    about = partial(setup.about, settings=settings, model=model, plan=plan, backend=backend, precision=precision)

    def save(done: int) -> None:
        log.check(done, model.encoder_q)
        state.save(run.folder, done, model, optimizer, processes, writer, machine.keep_checkpoints, about(done))

    def shuffle_of(step: int) -> Shuffle:
        positions = np.arange(settings.global_batch)
        if settings.shuffle_bn:
            positions = positions_of_slots(settings.seed, step, settings.global_batch)
        return Shuffle.of(positions, processes)

    batches = feed.batches(backend, views, first, total, machine.workers(), device)
    cadence = machine.checkpoint_every_steps, machine.checkpoint_every_minutes
    with Steps("pretrain", total, processes, save, *cadence) as driver, closing(batches):
        shuffle = shuffle_of(first)
        for step, images in driver.run(batches, first, total):
            rate = setup.set_rates(model, optimizer, settings, step, total)
            optimizer.zero_grad()
            batch = Batch(images, partial(plan.batch, step), shuffle, step, processes, size)
            with shortage_named(model.encoder_q, settings, size, processes.world_size, autocast):
                contrast, queries = accumulate(model, batch, encode_queries, autocast)
            optimizer.step()
            shuffle = shuffle_of(step + 1)  # while the GPU computes
            log.step(step + 1, contrast, queries, rate, driver.pace)
            epoch, rest = divmod(step + 1, plan.steps_per_epoch)
            if rest == 0 and run.monitor.due(epoch, settings):
                with driver.pace.pause():
                    backbone = model.encoder_q.backbone
                    with averaged_running_statistics(backbone, processes):
                        reading = run.monitor.read(
                            backbone, setup.specification(settings, model, run.name), processes, machine.workers()
                        )
                    leak = probe(model, autocast) if processes.first else None
                    log.reading(epoch, reading, processes.gather_objects(leak)[0])


def accumulate(model: MoCo, batch: Batch, encode_queries: Encode, autocast: torch.autocast) -> tuple[Contrast, Tensor]:
    """Take a step up to the loss's gradient, which is left in `encoder_q`.

    The dictionary then holds its keys.

    Parts that are encoded one after the other (`batch.micro_batch_size`) add up to the gradient of
    the whole.

    Args:
        model: query encoder and dictionary.
        batch: this process's part of the step.
        encode_queries: `encoder_q`, or what wraps it for gradient averaging.
        autocast: the precision of the encoders.

    Returns:
        The contrast of all N queries (2N if symmetric), its loss without graph, and the queries
        likewise.
    """
    keys, traveling = None, model.send(batch)
    if batch.processes.device.type in KEYS_FIRST:
        with autocast:
            keys = model.keys(batch, traveling, encode_queries)
    queries, losses, ranks = [], [], []
    for way, (of_query, _) in enumerate(model.ways):
        for part in micro_batches(model.encoder_q, batch.count, batch.micro_batch_size):
            last = part.stop == batch.count and way == len(model.ways) - 1
            with nullcontext() if last else _gradients_stay_here(encode_queries):
                with autocast:
                    q = encode_queries(batch.views[of_query][part])  # n x C
                    if keys is None:  # the key images have traveled beside the first queries
                        keys = model.keys(batch, traveling, encode_queries)
                found = model.loss(q, keys, way, batch.first + part.start)
                loss = found.loss * (len(q) / batch.count / len(model.ways))
                loss.backward()
            queries.append(q.detach())
            losses.append(loss.detach())
            ranks.append(found.rank_of_positive)
    assert keys is not None
    model.enqueue(batch, keys, torch.cat(queries))
    return Contrast(torch.stack(losses).sum(), torch.cat(ranks)), torch.cat(queries)


def _gradients_stay_here(encode: Encode) -> AbstractContextManager[None]:
    """Give a context in which gradients add up here, to be averaged with the last part's."""
    return encode.no_sync() if isinstance(encode, DistributedDataParallel) else nullcontext()
