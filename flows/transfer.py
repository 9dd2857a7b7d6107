"""The flow of transfer/graph.yaml: fine-tuning on other tasks from every initialization.

`python -m flows.transfer` runs it here and now, without a server.
"""

import argparse
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from flows.card import unwrapped
from flows.running import (
    MOST_RETRIES,
    RETRIES,
    SIDE_BY_SIDE,
    Retries,
    SideBySide,
    alone,
    examine_first,
    name_for_mlflow,
    no_child_left,
    run_stages,
    tracked,
)
from flows.server import served
from flows.stages import environment
from moco.files import write_bytes
from moco.transfer.config import load_transfer_params
from pipelines.stage import as_process, whole

GRAPH = Path("transfer/graph.yaml")
PIPELINE = "transfer/dvc.yaml"
"""A copy of `GRAPH` where DVC looks: before the first run DVC would miss each of its outputs."""
REPORT = Path("outputs/transfer/report")


@flow(name="transfer", persist_result=False)
def transfer(side_by_side: SideBySide = SIDE_BY_SIDE, retries: Retries = RETRIES) -> None:
    """Fine-tune the encoder on other tasks, beside random and supervised weights.

    Runs the stages of `transfer/graph.yaml`, and those of `dvc.yaml` that they need if these are
    out of date: every task from every initialization, side by side, then one page with the table
    and predictions beside ground truth. A stage whose inputs did not change is skipped.
    `transfer/params.yaml` says what is trained, on what and how.

    **If a stage fails**, the run's message is one line with the cause and the remedy. Then run it
    again: finished trials are not run again, the others resume from their last checkpoint.
    **Cancelling** ends all processes, which save first, within 25 seconds at most.
    """
    with alone(folder := Path.cwd()):
        _run(folder, side_by_side, retries)


def _run(folder: Path, side_by_side: int | None, retries: int) -> None:
    examine_first(folder)
    load_transfer_params()  # a mistake in it is one line, before anything runs
    show_to_dvc(folder)
    run_id = str(flow_run.get_id())
    with tracked(name_for_mlflow(), run_id) as pipeline_run, no_child_left():
        run_stages(folder, environment(folder, run_id, pipeline_run), retries, PIPELINE, side_by_side)
    page = (folder / REPORT / "report.md").read_text(encoding="utf-8")
    create_markdown_artifact(markdown=unwrapped(page), key="transfer", description="The transfer table")
    get_run_logger().info("the table: %s", REPORT / "report.html")


def show_to_dvc(folder: Path) -> None:
    """Have DVC know the graph from now on: commit transfer/dvc.yaml with its dvc.lock."""
    graph, known = (folder / GRAPH).read_bytes(), folder / PIPELINE
    if not known.exists() or known.read_bytes() != graph:
        write_bytes(known, graph)


def main() -> None:
    """Run the flow here and now."""
    parser = argparse.ArgumentParser(prog="python -m flows.transfer", description=__doc__)
    parser.add_argument("--side-by-side", type=whole(1), help="fine-tuning stages at once (one a GPU, or one a core)")
    parser.add_argument(
        "--retries", type=whole(0, MOST_RETRIES), default=1, help="further tries of a stage that crashed (1)"
    )
    arguments = parser.parse_args()
    with served():
        transfer(side_by_side=arguments.side_by_side, retries=arguments.retries)


if __name__ == "__main__":
    as_process(main)
