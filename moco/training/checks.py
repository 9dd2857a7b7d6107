"""What cannot work together: settings, images, processes and memory, before time is spent on it."""

from moco.cluster.machine import Machine
from moco.config import Pretrain
from moco.cores import memory
from moco.errors import MocoError
from moco.files import readable

BATCHES = 3
"""Batches of views that a process's loader holds at least."""


def check(settings: Pretrain, images: int, world_size: int) -> None:
    """Name what cannot work before any time is spent on it.

    Raises:
        MocoError: fewer images than a batch, or processes that cannot hold whole batch-norm groups.
    """
    check_images(settings, images)
    check_processes(settings, world_size)


def check_images(settings: Pretrain, images: int) -> None:
    """Refuse settings for which there are too few training images.

    Raises:
        MocoError: fewer than a batch, or than a memory bank's draws.
    """
    if images < settings.global_batch:
        raise MocoError(
            f"pretrain.global_batch = {settings.global_batch} is more than the {images} training images; lower it"
        )
    if settings.dictionary.about.fills == "images" and images < settings.negatives + settings.global_batch:
        raise MocoError(
            f"pretrain.dictionary.num_keys = {settings.negatives} negatives cannot be drawn from a {settings.dictionary.about.name} of"
            f" {images} images, less the {settings.global_batch} of a step; lower it to"
            f" {images - settings.global_batch} at most"
        )


def check_processes(settings: Pretrain, world_size: int) -> None:
    """Refuse a number of processes that a step cannot be shared out among.

    Raises:
        MocoError: they cannot hold whole batch-norm groups, or the same number of lanes.
    """
    if settings.global_batch % (world_size * settings.bn_group_size):
        raise MocoError(
            f"pretrain.global_batch = {settings.global_batch} over {world_size} processes leaves no whole groups of"
            f" pretrain.bn_group_size = {settings.bn_group_size} on each; use a number of processes that divides"
            f" {settings.global_batch // settings.bn_group_size}"
        )
    if settings.stream is not None and settings.stream.lanes % world_size:
        raise MocoError(
            f"pretrain.stream.lanes = {settings.stream.lanes} do not divide among {world_size} processes; use a multiple"
            f" of {world_size}, or a number of processes that divides {settings.stream.lanes}"
        )


def processes_per_host(settings: Pretrain, machine: Machine) -> int:
    """Count the training processes on each host."""
    return machine.training_processes(settings.global_batch // settings.bn_group_size)


def check_machine(settings: Pretrain, machine: Machine) -> None:
    """Name what cannot work on any number of hosts that may train together.

    Raises:
        MocoError: processes that a step cannot be shared out among, a share of it that cannot be
            divided, or keys and views that this machine, if it trains, has no memory for.
    """
    here, (fewest, most) = processes_per_host(settings, machine), machine.launcher.hosts()
    for hosts in range(fewest, most + 1):
        check_processes(settings, hosts * here)
        micro_batch_size(settings, hosts * here, machine.max_batch_per_process)
    if most == 1 and machine.launcher.kind != "slurm":
        check_memory(settings, here, here)


def check_memory(settings: Pretrain, world_size: int, processes_here: int) -> None:
    """Refuse a run that cannot fit into this machine's memory, whatever its network.

    Counted are each process's keys and the views that its loader holds; these alone decide where a
    number has a few digits too many.

    Args:
        settings: of the run.
        world_size: processes of the run.
        processes_here: those that share this machine's memory.

    Raises:
        MocoError: names the numbers that make it so large.
    """
    local, side = settings.global_batch // world_size, settings.image_size
    keys = 0 if settings.dictionary.about.in_batch else settings.negatives
    needs = {
        f"pretrain.dictionary.num_keys = {keys} keys of pretrain.dim = {settings.dim} numbers": 4 * keys * settings.dim,
        f"{BATCHES} batches of {local} images of {side} x {side} pixels": BATCHES * 2 * 3 * local * side**2,
    }
    most, there = max(needs, key=lambda what: needs[what]), memory()
    if there and processes_here * sum(needs.values()) > there:
        raise MocoError(
            f"pretrain: needs {readable(processes_here * sum(needs.values()))} at least, and this machine has"
            f" {readable(there)} of memory; {most} take {readable(processes_here * needs[most])}: lower them"
        )


def micro_batch_size(settings: Pretrain, world_size: int, max_batch: int | None) -> int:
    """Count the images that one process encodes together: its share, or what it can hold.

    Args:
        settings: global batch and group size.
        world_size: number of processes.
        max_batch: most images that fit into the device's memory; None: all.

    Raises:
        MocoError: not even one group fits.
    """
    local = settings.global_batch // world_size
    if max_batch is None or max_batch >= local:
        return local
    if not settings.dictionary.about.divisible:
        raise MocoError(
            f"machine.yaml: max_batch_per_process = {max_batch} would divide a step of pretrain.dictionary.kind ="
            f" {settings.dictionary.kind}, whose keys all take gradient at once; lower pretrain.global_batch to {max_batch * world_size}, or raise it"
        )
    if max_batch < settings.bn_group_size:
        raise MocoError(
            f"machine.yaml: max_batch_per_process = {max_batch} holds no group of pretrain.bn_group_size ="
            f" {settings.bn_group_size} images; raise it to at least that"
        )
    return max_batch // settings.bn_group_size * settings.bn_group_size
