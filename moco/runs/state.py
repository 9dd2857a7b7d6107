"""A run's state between processes and disks: who writes, and that all begin at the same step."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from moco.config import Pretrain
from moco.encoders.batch_norm import set_running_statistics
from moco.errors import MocoError
from moco.files import exclusive
from moco.images import fused_views
from moco.images.plan import EpochPlan
from moco.images.stream_plan import StreamPlan
from moco.momentum_contrast import MoCo
from moco.processes import Processes
from moco.runs import checkpoints

PLAIN, COMPILED = "opencv-numba", "compiled"
"""Who paints the views: the plain libraries, or `moco.images.fused_views`."""

CURVES = ("curves.csv", "readings.csv", "speed.csv")
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
    plan: EpochPlan | StreamPlan,
    settings: Pretrain,
    statistics: Tensor,
    painter: str,
    bf16: bool,
) -> dict[str, Any]:
    """Everything that is not a function of the settings and the step, and where in the plan the run stands.

    Args:
        model: with averaged running statistics.
        optimizer: of the query encoder.
        step: steps done.
        plan: of the run.
        settings: of the run.
        statistics: every process's own running statistics, world_size x n.
        painter: of the views, from `painter_of`.
        bf16: whether the encoders run in bfloat16, which `precision: auto` leaves to the processor.
    """
    epoch, position = divmod(step, plan.steps_per_epoch)
    return {
        "step": step,
        "epoch": epoch,
        "position": position * settings.global_batch,
        "loader": {"order": "stream" if settings.stream else "index", "views": painter},
        "precision": "bf16" if bf16 else "fp32",
        "model": model.state_dict(),
        "running_statistics": statistics,
        "optimizer": optimizer.state_dict(),
        "settings": settings.model_dump(mode="json"),
    }


def resume(
    folder: Path, model: MoCo, optimizer: torch.optim.Optimizer, processes: Processes, writer: bool
) -> tuple[int, str | None]:
    """Load the newest checkpoint that any host can read; hosts without it receive it, and the curves so far.

    Args:
        folder: the run's, on this host.
        writer: whether this process writes there.

    Returns:
        Steps done, and who painted the views; 0 and None where no host has a checkpoint.
    """
    found = checkpoints.load_newest(folder, say=writer)
    steps = processes.gather_objects(int(found["step"]) if found else -1)
    newest = max(steps)
    if newest < 0:
        return 0, None
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
    return newest, str(found["loader"]["views"])


def painter_of(before: str | None, processes: Processes) -> str:
    """Who paints the views, the same on every process and, if it can be had, as before the run was broken off.

    Two painters round differently, so that single pixels of their views differ by a level or two.
    """
    everywhere = all(processes.gather_objects(fused_views.available()))
    painter = before or (COMPILED if everywhere else PLAIN)
    if painter == COMPILED and not everywhere:
        painter = PLAIN
    if before not in (None, painter) and processes.first:
        print(
            f"pretrain: the checkpoint's views were {before}, which is not built on every host; from here on they are {painter}, and single pixels differ",
            flush=True,
        )
    return painter


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
