"""The order of the stages, read from dvc.yaml through DVC itself."""

from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo

from moco.errors import MocoError


def stages_in_order(folder: Path) -> dict[str, list[str]]:
    """Every stage of the pipeline with the stages it waits for, in an order that can be run.

    Args:
        folder: a DVC repository.

    Returns:
        stage (as `dvc repro` names it; matrix and foreach stages one by one) -> its direct predecessors.

    Raises:
        MocoError: DVC cannot read the pipeline; its own words in one line.
    """
    try:
        with Repo(str(folder)) as repo:
            graph = repo.index.graph  # edges point from a stage to what it needs
            needs = {
                _address(stage): sorted(
                    _address(needed) for needed in graph.successors(stage) if not needed.is_data_source
                )
                for stage in sorted(graph, key=_address)
                if not stage.is_data_source  # data under `dvc add` or `dvc import` has nothing to run
            }
    except DvcException as error:
        reasons = [str(error), *([str(error.__cause__)] if error.__cause__ else [])]
        raise MocoError(f"dvc.yaml: {' - '.join(' '.join(reason.split()) for reason in reasons)}") from None
    if not needs:
        raise MocoError(f"{folder}: dvc.yaml has no stages; run from the project's folder")
    return {stage: needs[stage] for stage in TopologicalSorter(needs).static_order()}


def has_remote(folder: Path) -> bool:
    """Whether a default DVC remote is configured."""
    with Repo(str(folder)) as repo:
        return bool(repo.config["core"].get("remote"))


def _address(stage: Any) -> str:
    """How `dvc repro` names the stage in the repository's root, wherever this process is."""
    if stage.is_data_source:
        return str(stage.path_in_repo)
    return stage.name if stage.path_in_repo == "dvc.yaml" else f"{stage.path_in_repo}:{stage.name}"
