"""The flow: the graph of dvc.yaml, driven by Prefect.

`python -m flows.pretrain_and_evaluate` runs it here and now, without a server.
"""

import argparse
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run
from pydantic import Field

from flows import result, worktree
from flows.naming import NAME_VERSION, keep_start, name_run
from flows.running import (
    MOST_RETRIES,
    RETRIES,
    Retries,
    alone,
    examine_first,
    name_for_mlflow,
    no_child_left,
    run_stages,
    tracked,
)
from flows.server import served
from flows.stages import check_out_data, environment, save_experiment
from moco.cluster.machine import load_machine
from moco.config import load_params
from moco.errors import MocoError
from moco.files import copy_folder, whole_folder
from pipelines import prune
from pipelines.stage import as_process, errors_in_one_line, whole
from pipelines.versions import edited

# The defaults are read on import: a mistake in params.yaml is one line there too.
with errors_in_one_line() if __name__ == "__main__" else contextlib.nullcontext():
    from flows import parameters
    from flows.parameters import Basics, Check, Fetch, Linear, Preset, Pretrain, Report, Shard, section


@flow(name="pretrain-and-evaluate", persist_result=False)
def pretrain_and_evaluate(
    preset: Preset = Field(
        parameters.AS_IT_IS,
        description="A recipe: replaces the whole section pretrain, before what is filled in below.",
    ),
    basics: Basics = parameters.EMPTY,
    name_version: bool = NAME_VERSION,
    fetch: Fetch | None = section("fetch"),
    shard: Shard | None = section("shard"),
    check: Check | None = section("check"),
    pretrain: Pretrain | None = section("pretrain"),
    linear: Linear | None = section("linear"),
    report: Report | None = section("report"),
    others: list[str] = Field(
        [], description="Any other value of params.yaml, as SECTION.KEY=VALUE; null is a value here."
    ),
    retries: Retries = RETRIES,
) -> None:
    """Turn a folder of images into a MoCo encoder and the evidence that its features transfer.

    Runs the stages of `dvc.yaml` (fetch → shard → check → pretrain → linear → report) in the
    graph's order, siblings side by side. A stage whose inputs did not change is skipped.

    **Parameters** that stay empty are those of `params.yaml`. Leave all empty to run in the
    project's folder. Fill some in, and the run gets a folder of its own and becomes a DVC
    experiment with the name of this flow run: `dvc exp show` lists it, `dvc exp apply NAME` brings
    it into the project.

    **With `name_version`** a run of the project's folder ends with a version: dvc.lock is committed
    and tagged, and runs and model have the same name in MLflow. `moco versions` lists them. What it
    begins with (`pretrain.init`) may be a parameter, as in the deployment `nightly`: it is written
    into `params.yaml` and committed first, for a version holds all that made it.

    **One run at a time** works in a project, of whichever deployment. Others wait, and say so.

    **While it runs**, every line of a stage is in the logs, and a bar under *Artifacts* shows how
    far it is. There is also a link to the run in MLflow.
    **What the images are** is in the artifact `data-card`: counts, checks, duplicates, pictures. A
    failed check ends the run before anything trains.
    **After it**, the artifact `result` holds the metrics and says where the report is; `report` is
    that page.
    **If a stage fails**, the run's message is the line that says what to correct. Run it again
    then: finished stages are skipped and pretraining resumes from its last checkpoint.
    **Cancelling** ends all processes, which save first, within 25 seconds at most.
    """
    given = parameters.by_key(locals())
    with alone(workspace := Path.cwd()):
        examine_first(workspace)
        changes = parameters.changes(load_params(workspace / "params.yaml"), preset, given, others)
        if name_version:
            changes = keep_start(workspace, changes)
        _run(workspace, changes, retries, name_version and not changes)


def _run(workspace: Path, changes: dict[str, Any], retries: int, named: bool) -> None:
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", flow_run.get_name() or "run").strip("-")
    run_id = str(flow_run.get_id())
    before = edited(workspace) if named else set()
    with (
        _place(workspace, name, changes) as folder,
        tracked(name_for_mlflow(), run_id) as pipeline_run,
        no_child_left(),
    ):
        env = environment(workspace, run_id, pipeline_run)
        if changes:
            check_out_data(folder, env)
        stages = run_stages(folder, env, retries)
        if changes:
            save_experiment(name, stages, folder, env | worktree.identity(folder))
        _show_result(workspace, folder, name if changes else None)
        if named:
            name_run(folder, stages, env, before, pipeline_run)
        _tell_disk(workspace, Path(env["MOCO_RUNS"]))


@contextlib.contextmanager
def _place(workspace: Path, name: str, changes: dict[str, Any]) -> Iterator[Path]:
    """Give the folder of the stages: the workspace, or a worktree, kept if something failed."""
    log = get_run_logger()
    if not changes:
        log.info("parameters of params.yaml; running in %s", workspace)
        yield workspace
        return
    log.info("changed: %s", ", ".join(f"{key}={value}" for key, value in changes.items()))
    folder = worktree.make(workspace, name, changes)
    log.info("running in %s", folder)
    try:
        yield folder
    except Exception as error:
        kept = f"its folder is kept for a look: {folder.relative_to(workspace)}"
        if isinstance(error, MocoError):
            raise MocoError(f"{error} ({kept})") from error
        log.error(kept)
        raise
    except BaseException:  # stopped: what is worth keeping is in the cache and in the runs folder
        worktree.remove(workspace, folder)
        raise
    worktree.remove(workspace, folder)


def _show_result(workspace: Path, folder: Path, experiment: str | None) -> None:
    report = result.REPORT
    if experiment and (folder / report).exists():  # the folder goes, its report stays
        kept = Path("runs/reports") / experiment
        with whole_folder(workspace / kept) as part:
            copy_folder(folder / report, part)
        report = kept
    page = result.markdown(folder, workspace, report, experiment)
    create_markdown_artifact(markdown=page, key="result", description="Metrics of the pipeline")
    get_run_logger().info("result:\n%s", page)


def _tell_disk(workspace: Path, runs: Path) -> None:
    try:
        get_run_logger().info(
            prune.summary(prune.pieces(workspace, runs, load_machine(workspace / "machine.yaml").keep))
        )
    except Exception as error:  # a count of bytes is not worth a run
        get_run_logger().info("disk: not counted (%s)", error)


def main() -> None:
    """Run the flow here and now."""
    parser = argparse.ArgumentParser(prog="python -m flows.pretrain_and_evaluate", description=__doc__)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one value")
    parser.add_argument(
        "--retries", type=whole(0, MOST_RETRIES), default=1, help="further tries of a stage that crashed (1)"
    )
    parser.add_argument("--name-version", action="store_true", help="commit dvc.lock at the end, and name a version")
    arguments = parser.parse_args()
    load_params(overrides=arguments.set)  # a mistake is one line, before a server starts
    with served():
        pretrain_and_evaluate(others=arguments.set, retries=arguments.retries, name_version=arguments.name_version)


if __name__ == "__main__":
    as_process(main)
