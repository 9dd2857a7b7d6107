"""What a finished run shows: the metrics as tables, and where the report lies."""

from pathlib import Path
from typing import Any

from dvc.repo import Repo

from moco import tracking
from moco.report.page import escape
from moco.tracking import flat
from pipelines.stage import SHARDS

REPORT = Path("outputs/report")


def markdown(folder: Path, workspace: Path, report: Path, experiment: str | None) -> str:
    """Write a page with the pipeline's metrics.

    Args:
        folder: where the stages ran.
        workspace: the project's folder.
        report: the report's folder inside the workspace; not mentioned if it is not there.
        experiment: the DVC experiment that holds the result, or None for a run in the workspace
            itself.
    """
    parts = ["# Result"]
    if data := tracking.dvc_digest(str(SHARDS), folder / "dvc.lock"):
        parts.append(f"Data: `{SHARDS}` {data}")
    with Repo(str(folder)) as repo:
        files = repo.metrics.show().get("", {}).get("data", {})
    for path, content in sorted(files.items()):
        if content.get("data"):  # else of a pipeline that was not run
            parts.append(f"## {escape(path)}\n\n{_table(content['data'])}")
    pages = sorted((workspace / report).glob("*.html")) or sorted((workspace / report).glob("*.md"))
    if pages:
        parts.append(f"Report: `{pages[0].relative_to(workspace)}`")
    if experiment:
        parts.append(f"Bring it into the workspace: `dvc exp apply {experiment}`. Compare: `dvc exp show`.")
    return "\n\n".join(parts) + "\n"


def _table(values: dict[str, Any]) -> str:
    """Things measured in the same way stand side by side, everything else below one another."""
    if values and all(isinstance(value, dict) for value in values.values()):
        columns = list(dict.fromkeys(name for value in values.values() for name in value))
        rows = [[name, *(value.get(column) for column in columns)] for name, value in values.items()]
        return _rows(["", *columns], rows)
    return _rows(["metric", "value"], [[name, value] for name, value in flat(values).items()])


def _rows(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return escape(str(value)).replace(r"\_", "_")  # in a log it is read as it is
