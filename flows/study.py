"""The flow of studies/: the paper's comparisons on one's own images, each run a DVC experiment.

`python -m flows.study mechanisms` runs one here and now, without a server.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from pydantic import Field

from flows.running import Retries, SideBySide, no_child_left, shares, tracked
from flows.stages import environment
from flows.study_plan import Plan, Site, plan
from flows.study_run import run_point
from moco import tracking
from moco.config import load_params, settings_hash
from moco.errors import MocoError
from moco.report.study import FIGURE, PAGE_FILE, TABLE, Outcome, shortened, write_study
from moco.study.definition import SECTIONS, Run, Scale, Study, load_study, names, runs_of, slug
from moco.study.record import read
from moco.study.table import points_of
from pipelines.stage import errors_in_one_line

ALL = "all"
if TYPE_CHECKING:
    Name = str
else:
    Name = Literal[(ALL, *names())]

Seeds = Annotated[
    list[Annotated[int, Field(ge=0)]] | None,
    Field(min_length=1, description="Each point is run with each. Empty: those of the study's file."),
]


@flow(name="study", persist_result=False)
def study(
    study: Annotated[
        Name, Field(description="A file of studies/, or all of them, one after the other.")
    ] = ALL,
    scale: Annotated[Scale, Field(description="Which of the file's two grids.")] = "laptop",
    seeds: Seeds = None,
    side_by_side: SideBySide = None,
    retries: Retries = 1,
) -> None:
    """The paper's comparisons, run again on the images of `params.yaml`.

    `studies/NAME.yaml` says what is compared; what it does not set is as in `params.yaml`. Every run is a task here, works
    in a folder of its own, and becomes a DVC experiment that `dvc exp show` lists. A table and a figure are made
    of them in `runs/studies/NAME-SCALE`, and shown here as the artifact `study-NAME-SCALE`.

    **Runs that were done before** with the same parameters, code and images are not run again. A run that was interrupted
    goes on from its last checkpoint.
    **If a run fails**, the others still finish, and the message names it and says what to mend.
    **Cancelling** ends all processes within ten seconds.
    """
    workspace = Path.cwd()
    chosen = {name: load_study(name) for name in (names() if study == ALL else [study])}
    runs = {
        name: runs_of(name, one, scale, seeds) for name, one in chosen.items()
    }  # mistakes, before anything runs
    run_id = str(flow_run.get_id())
    failures: list[str] = []
    with no_child_left():
        site = Site.of(workspace, environment(workspace, run_id, None))
        for name, one in chosen.items():
            failures += _run_study(site, name, one, runs[name], side_by_side, retries)
    if failures:
        raise MocoError("; ".join(failures))


def _run_study(
    site: Site, name: str, study: Study, runs: list[Run], side_by_side: int | None, retries: int
) -> list[str]:
    """Run what is not done of a study and write its results; gives the failures, a line each."""
    log, scale = get_run_logger(), runs[0].scale
    planned = plan(site, study, runs, retries)
    for reason in dict.fromkeys(planned.left_out.values()):
        which = [run for run, why in planned.left_out.items() if why == reason]
        log.warning("left out: %s (%s)", reason, shortened(which))
    done = [one for one in planned.runs if one.record]
    log.info("study %s: %d runs, %d of them done before", name, len(planned.runs), len(done))
    base = load_params(site.workspace / "params.yaml")
    digests = sorted({one.data.digest for one in planned.runs})
    key = settings_hash({part: getattr(base, part).model_dump() for part in SECTIONS}, site.code, digests)
    label = f"study {name}, {scale}"
    with tracked(
        label, str(flow_run.get_id()), key=("study", f"{name} {scale} {key}"), kind="study"
    ) as parent:
        slots = shares(side_by_side)
        futures: list[PrefectFuture[None]] = [
            run_point.with_options(retries=retries).submit(one, site, parent, slots, return_state=False)
            for one in planned.runs
            if not one.record
        ]
        for future in futures:
            future.wait()
        failures = []
        for future in futures:
            try:
                future.result()
            except MocoError as error:
                failures.append(str(error))
        command = f"python -m flows.study {name} --scale {scale}"
        if [run.seed for run in runs] != [run.seed for run in runs_of(name, study, scale)]:
            command += f" --seeds {' '.join(map(str, dict.fromkeys(run.seed for run in runs)))}"
        _show(site, name, study, scale, command, planned, failures, parent)
    return failures


def _show(
    site: Site, name: str, study: Study, scale: Scale, command: str, planned: Plan, failures: list[str], parent: str | None
) -> None:  # fmt: skip
    """Table and figure of the runs that are done."""
    folder, log = site.folder(name, scale), get_run_logger()
    found = [(one.fingerprint, read(folder / f"{one.run.name}.json")) for one in planned.runs]
    records = [record for mark, record in found if record and record.fingerprint == mark]
    if not records:
        log.warning("study %s: no run is done, so there is nothing to show", name)
        return
    page = write_study(folder, Outcome(name, study, scale, command, records, planned.left_out, failures))
    create_markdown_artifact(
        markdown=page, key=slug(f"study-{name}-{scale}").replace(".", "-").lower(), description=study.title
    )
    figures = {
        f"{slug(point.series)}/{slug(point.x)}": point.mean for point in points_of(study, records, scale)
    }
    tracking.add_to_run(
        parent, figures, [folder / file for file in (TABLE, FIGURE, PAGE_FILE)], {"command": command}
    )
    log.info("the table and the figure: %s", folder / PAGE_FILE)


def main() -> None:
    """Run the flow here and now."""
    parser = argparse.ArgumentParser(prog="python -m flows.study", description=__doc__)
    parser.add_argument(
        "study", nargs="?", default=ALL, help=f"{ALL} (default), or one of: {', '.join(names())}"
    )
    parser.add_argument("--scale", default="laptop", help="laptop (default) or paper")
    parser.add_argument("--seeds", type=int, nargs="+", help="in the place of the study's own")
    parser.add_argument("--side-by-side", type=int, help="runs at once (one a GPU, or one a core)")
    parser.add_argument("--retries", type=int, default=1, help="further tries of a run that crashed (1)")
    given = parser.parse_args()
    if given.study != ALL:
        load_study(given.study)  # an unknown name is one line
    study(given.study, given.scale, given.seeds, given.side_by_side, given.retries)


if __name__ == "__main__":
    with errors_in_one_line():
        main()
