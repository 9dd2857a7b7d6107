"""A run's state between processes and disks: who writes, and that all begin at the same step."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from moco.cluster.process_group import Processes, set_running_statistics
from moco.config import Pretrain
from moco.errors import MocoError
from moco.momentum_contrast import MoCo
from moco.training import checkpoints
from moco.training.run_folder import exclusive

LOADER = {"order": "index", "views": "opencv-numba"}
"""The loader path: another one may draw other pixels from the same numbers."""

CURVES = ("curves.csv", "knn.csv", "speed.csv")
LOCK_SECONDS = 60.0
"""How long a writer waits for one before it, which may be saving its last checkpoint."""
_CHUNK = 1 << 25  # bytes a message: none may outlast the time-out of the group


@contextmanager
def writing(folder: Path, processes: Processes) -> Iterator[bool]:
    """Decide whether this process writes the run's files, and let nobody else write them meanwhile.

    The first process of each file system writes. Hosts may share a disk or not, and the first process of
    all may be on another host after every restart, so each host without a common disk keeps a full set of
    files of its own.

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
    # A name nobody has looked for before: network file systems remember for a while what was not there.
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


def state_of(
    model: MoCo,
    optimizer: torch.optim.Optimizer,
    step: int,
    settings: Pretrain,
    images: int,
    statistics: Tensor,
) -> dict[str, Any]:
    """Everything that is not a function of the settings and the step, and where in the plan the run stands.

    Args:
        model: with averaged running statistics.
        optimizer: of the query encoder.
        step: steps done.
        settings: of the run.
        images: training images.
        statistics: every process's own running statistics, world_size x n.
    """
    epoch, position = divmod(step, images // settings.global_batch)
    return {
        "step": step,
        "epoch": epoch,
        "position": position * settings.global_batch,
        "loader": LOADER,
        "model": model.state_dict(),
        "running_statistics": statistics,
        "optimizer": optimizer.state_dict(),
        "settings": settings.model_dump(mode="json"),
    }


def resume(
    folder: Path, model: MoCo, optimizer: torch.optim.Optimizer, processes: Processes, writer: bool
) -> int:
    """Load the newest checkpoint that any host can read; hosts without it receive it, and the curves so far.

    Args:
        folder: the run's, on this host.
        writer: whether this process writes there.

    Returns:
        Steps done; 0 where no host has a checkpoint.
    """
    found = checkpoints.load_newest(folder, say=writer)
    steps = processes.gather_objects(int(found["step"]) if found else -1)
    newest = max(steps)
    if newest < 0:
        return 0
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
            raise MocoError(
                f"{folder / name}: could not be received from process {source}; look at this host's disk"
            )
    assert found is not None
    model.load_state_dict(found["model"])
    if len(found["running_statistics"]) == processes.world_size:
        set_running_statistics(model, found["running_statistics"][processes.rank])
    optimizer.load_state_dict(found["optimizer"])
    if writer and found["loader"] != LOADER:
        print(f"pretrain: the checkpoint was made with the loader {found['loader']}, this is {LOADER}; views may differ in single pixels", flush=True)  # fmt: skip
    return newest


def _spread(path: Path, source: int, processes: Processes) -> bytes:
    """A small or large file of one process, on all."""
    content = path.read_bytes() if processes.rank == source and path.exists() else b""
    size = processes.gather_objects(len(content))[source]
    data = torch.empty(size, dtype=torch.uint8)
    if processes.rank == source and size:
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    for chunk in data.split(_CHUNK) if size else ():
        dist.broadcast(chunk, source, group=processes.on_host)
    return data.numpy().tobytes()
