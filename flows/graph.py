"""The order of the stages, read from dvc.yaml through DVC itself."""

import os
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from dvc.dependency import ParamsDependency
from dvc.exceptions import DvcException
from dvc.repo import Repo

from moco.errors import MocoError
from moco.files import hash_of_files


def stages_in_order(folder: Path, pipeline: str = "dvc.yaml") -> dict[str, list[str]]:
    """Every stage of a pipeline with the stages it waits for, in an order that can be run.

    Args:
        folder: a DVC repository.
        pipeline: its file, from the repository's root; stages of other files that it builds on
            belong to it.

    Returns:
        stage (as `dvc repro` names it; matrix and foreach stages one by one) -> its direct
        predecessors.

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
        raise MocoError(f"{pipeline}: {' - '.join(' '.join(reason.split()) for reason in reasons)}") from None
    wanted, found = [stage for stage in needs if _file_of(stage) == pipeline], set[str]()
    if not wanted:
        raise MocoError(f"{folder}: {pipeline} has no stages; run from the project's folder")
    while wanted:
        stage = wanted.pop()
        wanted += [needed for needed in needs[stage] if needed not in found]
        found.add(stage)
    return {stage: needs[stage] for stage in TopologicalSorter(needs).static_order() if stage in found}


def up_to(wanted: str, stages: dict[str, list[str]]) -> dict[str, list[str]]:
    """Give the part of a graph that one stage needs, itself included, in the same order.

    Raises:
        MocoError: there is no such stage.
    """
    if wanted not in stages:
        raise MocoError(f"dvc.yaml has no stage {wanted}; it has {', '.join(stages)}")
    needed, left = {wanted}, [wanted]
    while left:
        left += (new := set(stages[left.pop()]) - needed)
        needed |= new
    return {stage: needs for stage, needs in stages.items() if stage in needed}


def code_hash(folder: Path, stages: Iterable[str], data: str) -> str:
    """Hash of the files that some stages depend on, except what other stages made.

    Args:
        folder: a DVC repository.
        stages: of its dvc.yaml.
        data: a dependency that is data and no code (`fetch.path`).

    Returns:
        16 hex digits.
    """
    with Repo(str(folder)) as repo:
        outs = [Path(out.fs_path) for out in repo.index.outs]
        paths = {
            Path(dep.fs_path)
            for stage in repo.index.stages
            if _address(stage) in set(stages)
            for dep in stage.deps
            if not isinstance(dep, ParamsDependency)
        }
    code = (
        path
        for path in paths - {Path(os.path.normpath(folder / data))}
        if not any(path.is_relative_to(out) or out.is_relative_to(path) for out in outs)
    )
    return hash_of_files(code, folder)


def _address(stage: Any) -> str:
    """How `dvc repro` names the stage in the repository's root, wherever this process is."""
    if stage.is_data_source:
        return str(stage.path_in_repo)
    return stage.name if stage.path_in_repo == "dvc.yaml" else f"{stage.path_in_repo}:{stage.name}"


def _file_of(address: str) -> str:
    return address.partition(":")[0] if ":" in address else "dvc.yaml"
