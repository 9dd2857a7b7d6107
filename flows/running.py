"""Run a graph's stages as tasks, under one MLflow run, and leave no process behind."""

import contextlib
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from prefect.futures import PrefectFuture
from pydantic import Field

from flows import children, graph
from flows.stages import Slots, run_stage
from moco import tracking
from moco.cluster.machine import load_machine
from moco.cores import cores
from moco.devices import gpus, visible

MOST_SIDE_BY_SIDE = 8
MOST_RETRIES = 10
SideBySide = Annotated[
    int | None,
    Field(
        ge=1,
        description="What runs at once, each with its share of GPUs or cores. Empty: one a GPU, or one a core"
        f" ({MOST_SIDE_BY_SIDE} at most).",
    ),
]
Retries = Annotated[
    int, Field(ge=0, le=MOST_RETRIES, description="Further tries of a stage that crashed or was killed.")
]


def run_stages(
    folder: Path,
    env: dict[str, str],
    retries: int,
    pipeline: str = "dvc.yaml",
    side_by_side: int | None = None,
    until: str | None = None,
) -> list[str]:
    """Run a whole graph; stages that do not need a failed one still finish.

    Args:
        folder: where dvc.yaml is.
        env: of the stages.
        retries: further tries of a stage that crashed.
        pipeline: the file of the graph.
        side_by_side: how many stages of a pipeline below the root share the machine; None: as many
            as it has GPUs, or cores. Stages of dvc.yaml itself have all of it.
        until: the stage that is wanted, with what it needs; None: every stage.

    Returns:
        The stages, in an order in which they can be run.
    """
    remote, slots = graph.has_remote(folder), shares(side_by_side)
    futures: dict[str, PrefectFuture[None]] = {}
    stages = graph.stages_in_order(folder, pipeline)
    for stage, needed in (graph.up_to(until, stages) if until else stages).items():
        futures[stage] = run_stage.with_options(retries=retries).submit(
            stage,
            folder,
            env,
            remote,
            slots if stage.startswith(f"{pipeline}:") else None,
            wait_for=[futures[name] for name in needed],
            return_state=False,
        )
    for future in futures.values():
        future.wait()
    for future in futures.values():
        if future.state.is_failed() or future.state.is_crashed():
            future.result()
    return list(futures)


def shares(side_by_side: int | None, at_most: int | None = None) -> Slots:
    """Divide the machine into equal parts, each as variables that confine a process to it.

    Args:
        side_by_side: how many; None: as many as there are GPUs, or cores.
        at_most: how many there is work for; None: for all of them.
    """
    count_of_gpus = gpus(load_machine().device)
    count = side_by_side or min(MOST_SIDE_BY_SIDE, count_of_gpus or cores())
    count = count if at_most is None else max(1, min(count, at_most))
    slots: Slots = queue.SimpleQueue()
    for slot in range(count):
        part = str(max(1, cores() // count))
        share = {"OMP_NUM_THREADS": part, "MOCO_CORES": part}
        if count_of_gpus:
            share["CUDA_VISIBLE_DEVICES"] = visible(range(slot % count_of_gpus, count_of_gpus, count))
        slots.put(share)
    return slots


@contextlib.contextmanager
def no_child_left() -> Iterator[None]:
    """End every process of the run, on every way out of it."""
    # In the flow's body because a signal raises here, in the main thread, while the tasks' threads
    # wait for children: those must be ended before Prefect waits for the threads.
    children.reset()
    try:
        yield
    except BaseException:
        children.stop_all()
        raise


@contextlib.contextmanager
def tracked(
    name: str, run_id: str, parent: str | None = None, key: tuple[str, str] | None = None, kind: str = "pipeline"
) -> Iterator[str | None]:
    """Open the MLflow run that others hang under; arguments as of `tracking.start_pipeline_run`."""
    pipeline_run = tracking.start_pipeline_run(name, flow_run=run_id, parent=parent, key=key, kind=kind)
    status = "KILLED"
    try:
        yield pipeline_run
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        tracking.end_pipeline_run(pipeline_run, status)
