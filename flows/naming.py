"""Name what a run made: one name in git, MLflow and Prefect."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from pydantic import Field

from flows import worktree
from flows.stages import require_up_to_date
from flows.worktree import change_values
from moco import tracking
from moco.errors import MocoError
from moco.files import write_bytes
from moco.report.page import escape
from pipelines.stage import ENCODER
from pipelines.versions import Version, commit, edited, name_version

NAME_VERSION: Any = Field(
    False,
    description="At the end commit dvc.lock, and nothing else of yours, and name the state `version-DATE` in git,"
    " MLflow and Prefect. A changed `pretrain.init` is written into params.yaml first; runs with"
    " other changed parameters are experiments and get no version.",
)


START = "pretrain.init"
PARAMS = "params.yaml"


def keep_start(folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Write what a run shall begin with into params.yaml and commit that, for a run with a version.

    A version holds all that made it, and whoever brings it back finds the setting there. Other
    changes make an experiment, which a person looks at before the project takes them over.

    Args:
        folder: the project's.
        changes: parameters that differ from params.yaml.

    Returns:
        The changes that are left: none; or all of them where others are among them, for then the
        run is an experiment.

    Raises:
        MocoError: params.yaml has edits that are not committed, or git refuses.
    """
    log = get_run_logger()
    if others := sorted(key for key in changes if not key.startswith(START)):
        log.warning("no version: %s changed, which makes the run an experiment", ", ".join(others))
        return changes
    if not changes:
        return {}
    if edited(folder, [PARAMS]):
        raise MocoError(
            f"{folder / PARAMS}: not committed, and what this run begins with ({START}) has to be committed there; commit it"
        )
    title = f"{PARAMS}: {', '.join(f'{key} = {json.dumps(value)}' for key, value in changes.items())}"
    before = (folder / PARAMS).read_bytes()
    try:
        change_values(folder / PARAMS, changes)
        commit(folder, dict(os.environ) | worktree.identity(folder), title, [PARAMS])
    except BaseException:
        write_bytes(folder / PARAMS, before)
        raise
    log.info("%s; committed, for the version holds it", title)
    return {}


def name_run(
    folder: Path, stages: list[str], env: Mapping[str, str], before: set[str], pipeline_run: str | None
) -> Version | None:
    """Make a version of the project as the run left it; say so, or why there is none.

    Args:
        folder: the project's.
        stages: of the run.
        env: of the stages.
        before: paths that differed from the commit as the run began.
        pipeline_run: MLflow's id of the run.
    """
    log = get_run_logger()
    try:
        require_up_to_date(folder, stages, env)
        author = dict(env) | worktree.identity(folder)
        version, new = name_version(folder, author, before, flow_run=flow_run.get_name(), mlflow_run=pipeline_run)
    except MocoError as error:  # the run's results are there all the same
        log.warning("no version: %s", error)
        _show(f"**No version was made**: {escape(str(error))}")
        return None
    if not new:
        log.info("no new version: %s has the same data, settings, code and results", version.name)
        return version
    tracking.name_runs(version.name, pipeline_run, folder / ENCODER / "encoder.safetensors")
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(flow_run.get_id()), tags=[*(flow_run.get_tags() or []), version.name])
    _show(
        f"# {version.name}\n\n{escape(version.title)}\n\nBring it back: `git checkout {version.name} && dvc checkout`."
        f" What is new in it: `moco versions OLDER {version.name}`."
    )
    log.info("%s; bring it back with `git checkout %s && dvc checkout`", version.title, version.name)
    return version


def _show(text: str) -> None:
    create_markdown_artifact(markdown=text, key="version", description="The version that this run made")
