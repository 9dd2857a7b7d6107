"""A run's state between processes and disks: who writes, and that all begin at the same step."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from moco.encoders.batch_norm import averaged_running_statistics, set_running_statistics
from moco.errors import MocoError
from moco.locks import exclusive
from moco.processes import Processes
from moco.runs import checkpoints

CURVES = ("curves.csv", "readings.csv", "speed.csv")
LOCK_SECONDS = 60.0
"""How long a writer waits for one before it, which may be saving its last checkpoint."""
_CHUNK = 1 << 25  # bytes a message: none may outlast the time-out of the group


@contextmanager
def writing(folder: Path, processes: Processes) -> Iterator[bool]:
    """Decide whether this process writes the run's files, and let nobody else write them meanwhile.

    The first process of each file system writes. Hosts may share a disk or not, and the first
    process of all may be on another host after every restart, so each host without a common disk
    keeps a full set of files of its own.

    Raises:
        MocoError: another run's process holds the folder, and did not let go within a minute.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not _first_of_file_system(folder, processes):
        yield False
        return
    with exclusive(folder / "writer.lock", folder, LOCK_SECONDS):
        yield True


def _first_of_file_system(folder: Path, processes: Processes) -> bool:
    if processes.world_size == 1:
        return True
    # A name nobody has looked for before: network file systems remember for a while what was not
    # there.
    token = f".seen-{processes.gather_objects(uuid.uuid4().hex)[0]}"
    (folder / f"{token}-{processes.rank}").touch()
    processes.barrier()
    earlier = any((folder / f"{token}-{rank}").exists() for rank in range(processes.rank))
    processes.barrier()
    (folder / f"{token}-{processes.rank}").unlink()
    return not earlier


def same_run(name: str, processes: Processes) -> None:
    """Refuse peers that train something else.

    Raises:
        MocoError: settings, data or seed differ between the hosts.
    """
    for rank, theirs in enumerate(processes.gather_objects(name)):
        if theirs != name:
            raise MocoError(
                f"process {rank} trains {theirs} and this one {name}: settings or data differ; give every host the"
                " same params.yaml and the same shards (`moco verify` checks them)"
            )


def save(
    folder: Path,
    done: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    processes: Processes,
    writer: bool,
    keep: int,
    about: dict[str, Any],
) -> None:
    """Write a checkpoint with running statistics averaged over the processes.

    All of them must call this.

    Args:
        folder: the run's, on this host.
        done: steps done.
        model: everything that is trained or kept.
        optimizer: of the model.
        processes: this process and its peers.
        writer: whether this process writes there.
        keep: newest checkpoints that are kept.
        about: plain values beside the state: settings, place in the plan, …

    Raises:
        MocoError: the disk is full or not writable.
    """
    with averaged_running_statistics(model, processes) as statistics:
        if writer:
            state = {"model": model.state_dict(), "running_statistics": statistics, "optimizer": optimizer.state_dict()}
            checkpoints.save(folder, done, {"step": done, **about, **state}, keep)
    processes.barrier()  # a slow disk is waited for here, not within a step


def resume(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, processes: Processes, writer: bool
) -> dict[str, Any] | None:
    """Load the newest checkpoint that any host can read.

    Hosts without it receive it, and the curves so far.

    Args:
        folder: the run's, on this host.
        model: receives its state.
        optimizer: receives its state.
        processes: this process and its peers; all of them call this.
        writer: whether this process writes there.

    Returns:
        The checkpoint; None where no host has one.

    Raises:
        MocoError: a host could not receive the checkpoint.
    """
    found = checkpoints.load_newest(folder, say=writer)
    steps = processes.gather_objects(int(found["step"]) if found else -1)
    newest = max(steps)
    if newest < 0:
        return None
    if min(steps) < newest:
        source = steps.index(newest)
        name = checkpoints.name_of(newest)
        for file in (name, *CURVES):
            content = _spread(folder / file, source, processes)
            if writer and steps[processes.rank] < newest and content:
                checkpoints.write_bytes(folder / file, content)
        processes.barrier()
        found = checkpoints.load_newest(folder, say=writer)
        if found is None or found["step"] != newest:
            raise MocoError(f"{folder / name}: could not be received from process {source}; look at this host's disk")
    assert found is not None
    model.load_state_dict(found["model"])
    if len(found["running_statistics"]) == processes.world_size:
        set_running_statistics(model, found["running_statistics"][processes.rank])
    optimizer.load_state_dict(found["optimizer"])
    processes.barrier()  # nobody touches the curves before everyone has read the checkpoint
    return found


def _spread(path: Path, source: int, processes: Processes) -> bytes:
    """Send a file of one process, small or large, to all."""
    content = path.read_bytes() if processes.rank == source and path.exists() else b""
    size = processes.gather_objects(len(content))[source]
    data = torch.empty(size, dtype=torch.uint8)
    if processes.rank == source and size:
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    for chunk in data.split(_CHUNK) if size else ():
        dist.broadcast(chunk, source, group=processes.on_host)
    return data.numpy().tobytes()
