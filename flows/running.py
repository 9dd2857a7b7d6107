"""Run a graph's stages as tasks, under one MLflow run, and leave no process behind."""

import contextlib
import logging
import math
import queue
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import prefect
from prefect import get_run_logger
from prefect.artifacts import create_link_artifact
from prefect.futures import PrefectFuture
from prefect.runtime import deployment, flow_run
from pydantic import Field

from flows import children, graph, remotes, server
from flows.reclaim import reclaimed
from flows.stages import Slots, end_with_remote, run_stage
from moco import tracking
from moco.advice.doctor import examine
from moco.cluster.machine import load_machine
from moco.cores import cores
from moco.devices import gpus, visible
from moco.errors import MocoError
from moco.locks import exclusive

MOST_SIDE_BY_SIDE = 8
MOST_RETRIES = 10
LEAVE_SECONDS = 5.0
"""For what is still sent to Prefect and MLflow after a run was stopped."""
PREFECT = Path(prefect.__file__).parent
SideBySide = Annotated[int, Field(ge=1)] | None
Retries = Annotated[int, Field(ge=0, le=MOST_RETRIES)]
# Prefect's form takes a description from the default alone.
SIDE_BY_SIDE: Any = Field(
    None,
    description="What runs at once, each with its share of GPUs or cores. Empty: one a GPU, or one a core"
    f" ({MOST_SIDE_BY_SIDE} at most).",
)
RETRIES: Any = Field(1, description=f"Further tries of a stage that crashed or was killed, 0 to {MOST_RETRIES}.")


@contextlib.contextmanager
def alone(workspace: Path) -> Iterator[None]:
    """Let one flow run at a time work in a project, whichever deployment or command started it.

    Another one waits, and names the one that works. The lock is the operating system's and not
    Prefect's: it ends with its process, also without a server, and a server that is away for a
    while cannot end it.

    Args:
        workspace: the project's folder.
    """
    lock = workspace / "runs" / "flow.lock"
    lock.parent.mkdir(exist_ok=True)
    what, who = "runs a flow here", f"flow run {flow_run.get_name()} of {flow_run.get_flow_name()}"
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(exclusive(lock, workspace, 0, what, who))
        except MocoError as error:
            get_run_logger().info("waiting: %s", error)
            held.enter_context(exclusive(lock, workspace, math.inf, what, who))
        with reclaimed():
            yield


def examine_first(folder: Path) -> None:
    """Do what `moco doctor` does: notes go to the log, a problem ends the run before any stage.

    Raises:
        MocoError: the first problem.
    """
    for finding in examine(folder):
        if finding.kind == "problem":
            raise MocoError(finding.text)
        if finding.kind == "note":
            get_run_logger().info("doctor: %s", finding.text)


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
    remote, slots = remotes.look(folder, env), shares(side_by_side)
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
    end_with_remote(remote, list(futures), folder, env)
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
    except BaseException as error:
        by_hand = not isinstance(error, Exception) and server.of_this_process()
        if by_hand:
            for handler in logging.getLogger().handlers:  # the console's; Prefect's record has all
                handler.addFilter(_not_of_prefect)
        children.stop_all()
        if by_hand:
            children.leave_after(LEAVE_SECONDS)
        raise


def _not_of_prefect(record: logging.LogRecord) -> bool:
    """Tell what a stage says from what Prefect says of each task that was stopped or not begun."""
    return PREFECT not in Path(record.pathname).parents


def name_for_mlflow() -> str:
    """Name this flow run for a table of many: what ran, on which day, and Prefect's name of it."""
    return f"{deployment.name or flow_run.get_flow_name()} {date.today()} {flow_run.get_name()}"


@contextlib.contextmanager
def tracked(
    name: str, run_id: str, parent: str | None = None, key: tuple[str, str] | None = None, kind: str = "pipeline"
) -> Iterator[str | None]:
    """Open the MLflow run that others hang under; arguments as of `tracking.start_pipeline_run`."""
    pipeline_run = tracking.start_pipeline_run(name, flow_run=run_id, parent=parent, key=key, kind=kind)
    if (page := tracking.page_of(pipeline_run)) and parent is None:
        create_link_artifact(page, key="mlflow", link_text="this run in MLflow", description="Figures, curves, models")
    status = "KILLED"
    try:
        yield pipeline_run
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        tracking.end_pipeline_run(pipeline_run, status)
