"""The flow of transfer/dvc.yaml: fine-tuning on other tasks from every initialization.

`python -m flows.transfer` runs it here and now, without a server.
"""

import argparse
import re
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from flows.running import MOST_RETRIES, Retries, SideBySide, no_child_left, run_stages, tracked
from flows.stages import environment
from moco.transfer.config import load_transfer_params
from pipelines.stage import errors_in_one_line, whole

PIPELINE = "transfer/dvc.yaml"
REPORT = Path("outputs/transfer/report")


@flow(name="transfer", persist_result=False)
def transfer(side_by_side: SideBySide = None, retries: Retries = 1) -> None:
    """Fine-tune the encoder on other tasks, beside random and supervised weights.

    Runs the stages of `transfer/dvc.yaml`, and those of `dvc.yaml` that they need if these are out
    of date: every task from every initialization, side by side, then one page with the table and
    predictions beside ground truth. A stage whose inputs did not change is skipped.
    `transfer/params.yaml` says what is trained, on what and how.

    **If a stage fails**, the run's message is one line with the cause and the remedy. Then run it
    again: finished trials are not run again, the others resume from their last checkpoint.
    **Cancelling** ends all processes, which save first, within 25 seconds at most.
    """
    folder = Path.cwd()
    load_transfer_params()  # a mistake in it is one line, before anything runs
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", flow_run.get_name() or "run").strip("-")
    run_id = str(flow_run.get_id())
    with tracked(name, run_id) as pipeline_run, no_child_left():
        run_stages(folder, environment(folder, run_id, pipeline_run), retries, PIPELINE, side_by_side)
    page = (folder / REPORT / "report.md").read_text(encoding="utf-8")
    create_markdown_artifact(markdown=page, key="transfer", description="The transfer table")
    get_run_logger().info("the table: %s", REPORT / "report.html")


def main() -> None:
    """Run the flow here and now."""
    parser = argparse.ArgumentParser(prog="python -m flows.transfer", description=__doc__)
    parser.add_argument("--side-by-side", type=whole(1), help="fine-tuning stages at once (one a GPU, or one a core)")
    parser.add_argument(
        "--retries", type=whole(0, MOST_RETRIES), default=1, help="further tries of a stage that crashed (1)"
    )
    arguments = parser.parse_args()
    transfer(side_by_side=arguments.side_by_side, retries=arguments.retries)


if __name__ == "__main__":
    with errors_in_one_line():
        main()
