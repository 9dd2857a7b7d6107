"""What a run is built from: model, optimizer, precision, gradient averaging."""

import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from moco.cluster.machine import Machine
from moco.config import Pretrain
from moco.cores import cores
from moco.dictionary.momentum_encoder import MomentumEncoder
from moco.encoders.build import build_encoder
from moco.encoders.frozen import EncoderSpec
from moco.encoders.heads import prediction_head, projection_head
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.encoders.split_batch_norm import norms_in_groups
from moco.errors import MocoError
from moco.images.exact_reads import ExactReads, cache_for
from moco.images.index import ShardSet
from moco.images.plan import EpochPlan
from moco.images.stream import TarStreams
from moco.images.stream_plan import StreamPlan, plan_of
from moco.images.tar_source import LIST
from moco.momentum_contrast import Encoder, MoCo
from moco.optimizers import AnOptimizer
from moco.processes import Processes
from moco.training.schedules import learning_rate, momentum

DVC, ADDRESSES = "dvc", "tars.json"
"""What `shards_from` calls the default DVC remote; a run's file with the tars' addresses."""
COMPILING_PAYS = 2000
"""Steps from which on `compile: auto` spends the minutes that compiling takes."""


def images_in_order(
    settings: Pretrain, images: ShardSet, machine: Machine, folder: Path
) -> tuple[EpochPlan | StreamPlan, TarStreams | ExactReads | None]:
    """Which images make up which step, and what reads them where the tars are elsewhere.

    Args:
        settings: the pretrain section.
        images: those to train on.
        machine: says where the tars are.
        folder: of the run, which has the tars' addresses where DVC's remote holds them.

    Raises:
        MocoError: a part of a set is to be streamed, or there are too few images for it.
    """
    if settings.stream is not None and images.chosen is not None:
        raise MocoError(
            f"pretrain.images = {settings.images}, pretrain.images_fraction = {settings.images_fraction}: streams read whole tars;"
            " set pretrain.stream to null"
        )
    location = f"{LIST}{folder / ADDRESSES}" if machine.shards_from == DVC else machine.shards_from
    plan = plan_of(settings, images)
    if isinstance(plan, StreamPlan):
        return plan, TarStreams(images, plan, location)
    if location is None:
        return plan, None
    return plan, ExactReads(images, plan, location, cache_for(images, folder.parent, machine.shards_cache_gb))


def remedy_for_waiting(machine: Machine, compiled: bool, streaming: bool) -> str:
    """Say what to change where training waits for its images."""
    workers, share = machine.workers(), cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if workers < share:
        return f"raise num_workers in machine.yaml (now {workers}; there are {share} cores for each training process)"
    if streaming:
        return "see whether the network or the disk of shards_from is busy, or raise num_workers in machine.yaml"
    if not compiled:
        return 'build the compiled views (README, "The compiled part"), or store smaller images (shard.max_side)'
    return "store smaller images (shard.max_side), or give each training process more cores"


def build(
    settings: Pretrain, images: int, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> MoCo:
    """Make the model with weights and keys that depend on the seed alone.

    Args:
        settings: of the run.
        images: number of training images, for a memory bank.
        mean: per-channel mean of values in [0, 1].
        std: per-channel deviation of values in [0, 1].
    """
    group, dictionary = settings.bn_group_size, settings.dictionary
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        backbone = build_encoder(settings.encoder, bn_group_size=group, image_size=settings.image_size)
        head = projection_head(settings.head, backbone.feature_dim, settings.dim, group)
        predictor = prediction_head(settings.dim, backbone.feature_dim, group) if dictionary.about.predictor else None
        encoder, generator = Encoder(backbone, head, None, mean, std), torch.Generator().manual_seed(settings.seed)
        keys = dictionary.build(encoder, settings.dim, images, settings.seed, generator)
        encoder_q = Encoder(backbone, head, predictor, mean, std) if predictor else encoder
        return MoCo(encoder_q, keys, settings.temperature, symmetric=settings.symmetric)


def norms_said(model: MoCo, settings: Pretrain) -> str:
    """Say how many of the query encoder's batch norms work in groups, and what that means."""
    grouped, norms = norms_in_groups(model.encoder_q)
    if norms:
        return f"{settings.encoder.label}: {grouped} of {norms} batch norms work in groups of {settings.bn_group_size} images"
    nothing = ", so that shuffle_bn has nothing to do" if settings.shuffle_bn else ""
    return f"{settings.encoder.label} has no batch norm{nothing}"


def optimizer_of(model: MoCo, settings: Pretrain) -> Optimizer:
    """Make the optimizer of the query encoder; `set_rates` sets its rate at each step."""
    chosen: AnOptimizer = settings.optimizer
    return chosen.build(model.encoder_q.parameters(), next(model.parameters()).is_cuda)


def set_rates(model: MoCo, optimizer: Optimizer, settings: Pretrain, step: int, total: int) -> float:
    """Set what changes from step to step: the learning rate, and the key encoder's momentum.

    On a GPU both are tensors there, so that a captured or compiled step reads them.

    Returns:
        The learning rate.
    """
    rate, on_gpu = learning_rate(settings, step, total), next(model.parameters()).is_cuda
    for group in optimizer.param_groups:
        group["lr"] = _into(group["lr"], rate, model) if on_gpu and settings.optimizer.rate_on_gpu else rate
    if isinstance(model.dictionary, MomentumEncoder):
        m = momentum(settings.dictionary, step, total)
        model.dictionary.momentum = _into(model.dictionary.momentum, m, model) if on_gpu else m
    return rate


def _into(before: float | Tensor, value: float, model: MoCo) -> Tensor:
    """Write a number into the scalar that is there, or into a new one on the model's device."""
    device = next(model.parameters()).device
    scalar = before if isinstance(before, Tensor) and before.device == device else torch.empty((), device=device)
    return scalar.fill_(value)


def compile_encoders(model: MoCo, machine: Machine, processes: Processes, total: int) -> bool:
    """Let torch compile what encodes, if machine.yaml says so; results change by rounding alone.

    Returns:
        Whether it is compiled.

    Raises:
        MocoError: it is asked for and this host lacks what it takes.
    """
    here = find_spec("triton") is not None if processes.device.type == "cuda" else shutil.which("g++") is not None
    if machine.compile == "on" and not here:
        needs = "the package triton" if processes.device.type == "cuda" else "g++"
        raise MocoError(
            f"machine.yaml: compile = on needs {needs}, which is not there; install it, or set compile: off"
        )
    pays = processes.device.type == "cuda" and here and total >= COMPILING_PAYS
    if machine.compile == "off" or (machine.compile == "auto" and not pays):
        return False
    model.encoder_q.compile()
    if isinstance(model.dictionary, MomentumEncoder):
        model.dictionary.encoder_k.compile()
    return True


def specification(settings: Pretrain, model: MoCo, training_hash: str) -> EncoderSpec:
    """Describe the encoder as its file does."""
    return EncoderSpec(
        network=settings.encoder,
        image_size=settings.image_size,
        eval_crop_ratio=settings.eval_crop_ratio,
        mean=model.encoder_q.mean,
        std=model.encoder_q.std,
        feature_dim=model.encoder_q.backbone.feature_dim,  # type: ignore[arg-type]
        training_hash=training_hash,
    )


def average_gradients(
    encoder_q: nn.Module, settings: Pretrain, processes: Processes, autocast: torch.autocast, in_bf16: bool = False
) -> Callable[[Tensor], Tensor]:
    """Wrap the query encoder so that its gradients are averaged over processes.

    Neither the key encoder nor the queue is wrapped: they follow from what all processes know
    already, and are never sent.

    Args:
        encoder_q: the query encoder.
        settings: of the run.
        processes: this process and its peers.
        autocast: the precision of the encoders.
        in_bf16: whether gradients travel in bfloat16, at half the traffic.
    """
    if processes.world_size == 1:
        return encoder_q
    on_gpu = [processes.device] if processes.device.type == "cuda" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.15 renames the option; 2.11 knows this name only
        wrapped = DistributedDataParallel(
            encoder_q,
            device_ids=on_gpu,
            process_group=processes.in_step,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )
    if in_bf16:
        wrapped.register_comm_hook(None, bf16_compress_hook)
    # DDP orders its gradient buckets again after the first backward pass, and sums in another order
    # from then on. One pass that is thrown away puts fresh and resumed runs in the same state, so
    # that they agree to the bit.
    before = {name: value.clone() for name, value in encoder_q.state_dict().items()}
    size = settings.image_size
    with autocast:  # as in training, for which the GPU's kernels are then chosen
        images = torch.zeros(settings.bn_group_size, 3, size, size, device=processes.device)
        wrapped(images.contiguous(memory_format=torch.channels_last)).sum().backward()
    encoder_q.load_state_dict(before)
    encoder_q.zero_grad()
    return wrapped


def about(
    done: int, settings: Pretrain, model: MoCo, plan: EpochPlan | StreamPlan, backend: str, precision: str
) -> dict[str, Any]:
    """Give what a checkpoint needs beside the model's state: where the run stands, how it computes.

    Args:
        done: steps done.
        settings: of the run.
        model: of the run, which knows what its images are normalized by.
        plan: of the run.
        backend: of the views, from `view_backend`.
        precision: of the encoders, which `precision: auto` leaves to the processor.
    """
    epoch, position = divmod(done, plan.steps_per_epoch)
    return {
        "epoch": epoch,
        "position": position * settings.global_batch,
        "loader": {"order": "stream" if settings.stream else "index", "views": backend},
        "precision": precision,
        "mean": list(model.encoder_q.mean),
        "std": list(model.encoder_q.std),
        "settings": settings.model_dump(mode="json"),
    }
