"""The flow: the graph of dvc.yaml, driven by Prefect.

`python -m flows.pretrain_and_evaluate` runs it here and now, without a server.
"""

import argparse
import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from flows import result, worktree
from flows.running import MOST_RETRIES, Retries, no_child_left, run_stages, tracked
from flows.stages import environment, fetch_first_weights, save_experiment
from moco.config import Params, load_params
from moco.errors import MocoError
from pipelines.stage import errors_in_one_line, whole

# The defaults are read on import: a mistake in params.yaml is one line there too.
with errors_in_one_line() if __name__ == "__main__" else contextlib.nullcontext():
    from flows.parameters import Fetch, Linear, Pretrain, Report, Shard, overrides, unchanged


@flow(name="pretrain-and-evaluate", persist_result=False)
def pretrain_and_evaluate(
    fetch: Fetch = unchanged(Fetch),  # noqa: B008 - frozen
    shard: Shard = unchanged(Shard),  # noqa: B008
    pretrain: Pretrain = unchanged(Pretrain),  # noqa: B008
    linear: Linear = unchanged(Linear),  # noqa: B008
    report: Report = unchanged(Report),  # noqa: B008
    retries: Retries = 1,
) -> None:
    """Turn a folder of images into a MoCo encoder and the evidence that its features transfer.

    Runs the stages of `dvc.yaml` (fetch → shard → pretrain → linear → report) in the graph's order,
    siblings side by side. A stage whose inputs did not change is skipped.

    **Parameters** are those of `params.yaml`. Leave them as they are to run in the project's
    folder. Change some, and the run gets a folder of its own and becomes a DVC experiment with the
    name of this flow run: `dvc exp show` lists it, `dvc exp apply NAME` brings it into the project.

    **While it runs**, every line of a stage is in the logs, and a bar under *Artifacts* shows how
    far it is.
    **After it**, the artifact `result` holds the metrics and says where the report is.
    **If a stage fails**, the run's message is the line that says what to correct. Run it again
    then: finished stages are skipped and pretraining resumes from its last checkpoint.
    **Cancelling** ends all processes, which save first, within 25 seconds at most.
    """
    workspace = Path.cwd()
    here = locals()
    given = {section: here[section] for section in Params.model_fields}
    changes = overrides(given, load_params(workspace / "params.yaml"))
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", flow_run.get_name() or "run").strip("-")
    run_id = str(flow_run.get_id())
    with _place(workspace, name, changes) as folder, tracked(name, run_id) as pipeline_run, no_child_left():
        env = environment(workspace, run_id, pipeline_run)
        fetch_first_weights(folder, env)
        stages = run_stages(folder, env, retries)
        if changes:
            save_experiment(name, stages, folder, env | worktree.identity(folder))
        _show_result(workspace, folder, name if changes else None)


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
        shutil.rmtree(workspace / kept, ignore_errors=True)
        shutil.copytree(folder / report, workspace / kept)
        report = kept
    page = result.markdown(folder, workspace, report, experiment)
    create_markdown_artifact(markdown=page, key="result", description="Metrics of the pipeline")
    get_run_logger().info("result:\n%s", page)


def main() -> None:
    """Run the flow here and now."""
    parser = argparse.ArgumentParser(prog="python -m flows.pretrain_and_evaluate", description=__doc__)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one value")
    parser.add_argument(
        "--retries", type=whole(0, MOST_RETRIES), default=1, help="further tries of a stage that crashed (1)"
    )
    arguments = parser.parse_args()
    params = load_params(overrides=arguments.set)
    forms = (Fetch, Shard, Pretrain, Linear, Report)
    given = {name: form(**values.model_dump()) for form, (name, values) in zip(forms, params, strict=True)}
    pretrain_and_evaluate(**given, retries=arguments.retries)


if __name__ == "__main__":
    with errors_in_one_line():
        main()
