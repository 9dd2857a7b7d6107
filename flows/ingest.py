"""The flow of `moco ingest`: new images come in on a machine of CPUs, and others train on them."""

import sys
from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from flows import children
from flows.reporter import Reporter
from flows.running import alone, no_child_left
from flows.stages import environment
from moco.errors import MocoError

PATHS: Any = Field(
    description="Folders of images, lists (CSV, Parquet) or tars, as this run's worker finds them: absolute, or from"
    " the project's folder."
)


@flow(name="ingest", persist_result=False)
def ingest(paths: Annotated[list[str], Field(min_length=1)] = PATHS) -> None:
    """Take new images in: list what is new at some paths, shard it, and tell DVC and its remote.

    What is in the set already, by content, is left out. Nothing that is there is written again, and
    the folders may be emptied afterwards. `params.yaml` says how images are split and stored.

    **One run at a time** works in a project, of whichever deployment: while a training runs in the
    same folder this one waits, and says so.

    **After it**, the event `moco.data.ingested` starts the deployment `nightly`.
    **If it fails**, the run's message is one line with the cause and the remedy. Run it again then,
    with the same paths: it continues where it was.
    """
    with alone(folder := Path.cwd()), no_child_left():
        env = environment(folder, str(flow_run.get_id()), None)
        command = [sys.executable, "-m", "pipelines.ingest", "--", *paths]
        result = children.run(command, folder, env, Reporter("ingest").line)
        if result.code:
            raise MocoError(f"ingest: {result.error or ' | '.join(result.tail[-3:]) or f'it ended with {result.code}'}")
