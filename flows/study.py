"""The flow of studies/: the paper's comparisons on one's own images, each run a DVC experiment.

`python -m flows.study mechanisms` runs one here and now, without a server.
"""

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from pydantic import Field

from flows.card import unwrapped
from flows.running import (
    MOST_RETRIES,
    RETRIES,
    SIDE_BY_SIDE,
    Retries,
    SideBySide,
    alone,
    examine_first,
    no_child_left,
    shares,
    tracked,
)
from flows.server import served
from flows.stages import environment
from flows.study_plan import Plan, Site, plan
from flows.study_run import run_point
from moco import tracking
from moco.config import load_params, settings_hash
from moco.errors import Interrupted, MocoError
from moco.locks import exclusive
from moco.report.page import escape
from moco.report.study import FIGURE, PAGE_FILE, TABLE, Outcome, shortened, write_study
from moco.study.definition import SCALES, SECTIONS, Scale, Study, Variant, load_study, names, slug, variants
from moco.study.record import read
from pipelines.stage import as_process, whole

ALL = "all"
if TYPE_CHECKING:
    Name = str
else:
    Name = Literal[(ALL, *names())]

Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None


@flow(name="study", persist_result=False)
def study(
    study: Name = Field(ALL, description="A file of studies/, or all of them, one after the other."),
    scale: Scale = Field("laptop", description="Which of the file's two grids."),
    seeds: Seeds = Field(None, description="Each point is run with each. Empty: those of the study's file."),
    side_by_side: SideBySide = SIDE_BY_SIDE,
    retries: Retries = RETRIES,
) -> None:
    """Run the paper's comparisons again on the images of `params.yaml`.

    `studies/NAME.yaml` says what is compared; what it does not set is as in `params.yaml`. Every
    run is a task here, works in a folder of its own, and becomes a DVC experiment that `dvc exp
    show` lists. A table and a figure are made of them in `runs/studies/NAME-SCALE`, and shown here
    as the artifact `study-NAME-SCALE`.

    **Runs that were done before** with the same parameters, code and images are not run again. A
    run that was interrupted resumes from its last checkpoint.
    **If a run fails**, the others still finish, and the message names it and says what to correct.
    **Cancelling** ends all processes, which save first, within 25 seconds at most.
    """
    with alone(workspace := Path.cwd()):
        _run(workspace, _asked(study, scale, seeds), side_by_side, retries)


def _run(workspace: Path, asked: list["Asked"], side_by_side: int | None, retries: int) -> None:
    for one in asked:
        for run in one.runs:
            run.params(workspace / "params.yaml")  # mistakes, before anything runs
    run_id = str(flow_run.get_id())
    failures: list[str] = []
    with no_child_left():
        site = Site.of(workspace, environment(workspace, run_id, None))
        for one in asked:
            try:
                with _of_one(site, one):
                    _run_study(site, one, side_by_side, retries)
            except Interrupted:
                raise
            except MocoError as error:
                failures.append(str(error))
        if site.remote and (said := site.remote.outcome()):
            get_run_logger().warning(said)
    if failures:
        raise MocoError("; ".join(failures))


@dataclass(frozen=True)
class Asked:
    """A study with the runs that were asked for."""

    name: str
    study: Study
    scale: Scale
    seeds: list[int] | None

    @property
    def runs(self) -> list[Variant]:
        """All of them, done or not."""
        return variants(self.name, self.study, self.scale, self.seeds)

    @property
    def command(self) -> str:
        """What a person types for the same."""
        seeds = f" --seeds {' '.join(map(str, self.seeds))}" if self.seeds else ""
        return f"python -m flows.study {self.name} --scale {self.scale}{seeds}"


def _asked(name: str, scale: Scale, seeds: list[int] | None) -> list[Asked]:
    """Load the studies of that name; for `all`, those that have the scale."""
    found = {one: load_study(one) for one in (names() if name == ALL else [name])}
    return [Asked(one, study, scale, seeds) for one, study in found.items() if name != ALL or scale in study.scales]


@contextlib.contextmanager
def _of_one(site: Site, asked: Asked) -> Iterator[None]:
    """Two starts of one study would replace each other's worktrees."""
    folder = site.folder(asked.name, asked.scale)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(folder.with_name(f"{folder.name}.lock"), folder, patience=0, what="runs this study"):
        yield


def _run_study(site: Site, asked: Asked, side_by_side: int | None, retries: int) -> None:
    """Run what is not done of a study and write its results.

    Raises:
        MocoError: runs failed; a part of the line for each.
    """
    log, name, scale = get_run_logger(), asked.name, asked.scale
    examine_first(site.workspace)
    planned = plan(site, asked.study, asked.runs, retries)
    for reason in dict.fromkeys(planned.left_out.values()):
        which = [run for run, why in planned.left_out.items() if why == reason]
        log.warning("left out: %s (%s)", reason, shortened(which))
    to_do = [one for one in planned.runs if not one.record]
    log.info("study %s: %d runs, %d of them done before", name, len(planned.runs), len(planned.runs) - len(to_do))
    key = ("study", f"{name} {scale} {_basis(site, planned)}")
    with tracked(f"study {name}, {scale}", str(flow_run.get_id()), key=key, kind="study") as parent:
        slots = shares(side_by_side, at_most=len(to_do))
        futures: list[PrefectFuture[None]] = [
            run_point.with_options(retries=retries).submit(one, site, parent, slots, return_state=False)
            for one in to_do
        ]
        for future in futures:
            future.wait()
        failures = []
        for one, future in zip(to_do, futures, strict=True):
            try:
                future.result()
            except MocoError as error:
                failures.append(str(error))
            except Exception as error:  # its traceback is in the log; the others' results are shown all the same
                failures.append(f"{one.run.name}: {type(error).__name__}: {error}")
        _show(site, asked, planned, failures, parent)
        if failures:
            raise MocoError("; ".join(failures))


def _basis(site: Site, planned: Plan) -> str:
    """Hash what all runs of a study share; while it is the same, MLflow's run continues."""
    base = load_params(site.workspace / "params.yaml")
    digests = sorted({one.data.digest for one in planned.runs})
    return settings_hash({part: getattr(base, part).model_dump() for part in SECTIONS}, site.code, digests)


def _show(site: Site, asked: Asked, planned: Plan, failures: list[str], parent: str | None) -> None:
    """Table and figure of the runs that are done."""
    name, study, scale = asked.name, asked.study, asked.scale
    folder, log = site.folder(name, scale), get_run_logger()
    found = [(one.fingerprint, read(folder / f"{one.run.name}.json")) for one in planned.runs]
    records = [record for mark, record in found if record and record.fingerprint == mark]
    if not records:
        log.warning("study %s: no run is done, so there is nothing to show", name)
        return
    outcome = Outcome(name, study, scale, asked.command, records, planned.left_out, failures)
    key = slug(f"study-{name}-{scale}").replace(".", "-")
    create_markdown_artifact(markdown=unwrapped(write_study(folder, outcome)), key=key, description=escape(study.title))
    means = {f"{slug(point.series)}/{slug(point.x)}": point.mean for point in outcome.points}
    files = [folder / file for file in (PAGE_FILE, TABLE, FIGURE)]
    tracking.add_to_run(parent, means, files, {"command": asked.command})
    log.info("the table and the figure: %s", folder / PAGE_FILE)


def main() -> None:
    """Run the flow here and now."""
    parser = argparse.ArgumentParser(prog="python -m flows.study", description=__doc__)
    parser.add_argument("study", nargs="?", default=ALL, help=f"{ALL} (default), or one of: {', '.join(names())}")
    parser.add_argument("--scale", default="laptop", choices=SCALES, help="which grid (laptop)")
    parser.add_argument("--seeds", type=whole(0), nargs="+", metavar="SEED", help="instead of the study's own")
    parser.add_argument("--side-by-side", type=whole(1), help="runs at once (one a GPU, or one a core)")
    parser.add_argument(
        "--retries", type=whole(0, MOST_RETRIES), default=1, help="further tries of a run that crashed (1)"
    )
    given = parser.parse_args()
    if given.study != ALL:
        load_study(given.study)  # an unknown name is one line
    with served():
        study(given.study, given.scale, given.seeds, given.side_by_side, given.retries)


if __name__ == "__main__":
    as_process(main)
