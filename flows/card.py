"""Pages that stages write, on the flow's page: the data card and the report, with pictures."""

import base64
import io
import re
from pathlib import Path

from PIL import Image
from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact

CARD = Path("outputs/check/card/card.md")
REPORT = Path("outputs/report/report.md")
WIDEST, COLORS = 800, 64
"""Pixels and colors of a picture there: Prefect keeps the page of every run in its database."""
WRAPPED = re.compile(r"(?<=[^\n|])\n(?=[^\n\s|#>*+!-])(?!\d+[.)] )")
"""A line's end inside a paragraph: no table, list, heading or picture begins after it."""
PICTURE = re.compile(r"!\[([^\]]*)\]\(([\w.-]+\.png)\)")


def show_card(folder: Path) -> None:
    """Show what stage check wrote of the images that a run trains on, or may not train on.

    Args:
        folder: where the stages run.
    """
    _show(folder / CARD, "data-card", "What the images are, and their checks")


def show_report(folder: Path) -> None:
    """Show what stage report wrote: curves, accuracies, neighbors, the map.

    Args:
        folder: where the stages ran.
    """
    _show(folder / REPORT, "report", "Whether the features are good, with the evidence")


def _show(path: Path, key: str, description: str) -> None:
    try:
        page = with_pictures(path)
    except OSError:  # a pipeline whose stage of that name writes none
        return
    create_markdown_artifact(markdown=unwrapped(page), key=key, description=description)
    get_run_logger().info("%s: %s", key.replace("-", " "), path.with_suffix(".html"))


def unwrapped(page: str) -> str:
    """Give each paragraph of a Markdown page one line, for Prefect shows a line's end as one."""
    return WRAPPED.sub(" ", page)


def with_pictures(path: Path) -> str:
    """Read a Markdown page, and write the pictures beside it into the text."""

    def embedded(found: re.Match[str]) -> str:
        data = base64.b64encode(_small(path.parent / found[2])).decode()
        return f"![{found[1]}](data:image/png;base64,{data})"

    return PICTURE.sub(embedded, path.read_text(encoding="utf-8"))


def _small(path: Path) -> bytes:
    """Read a picture, and write it as a smaller PNG of few colors."""
    file = io.BytesIO()
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((WIDEST, 10 * WIDEST))
    picture.quantize(COLORS, Image.Quantize.MEDIANCUT).save(file, "PNG", optimize=True)
    return file.getvalue()
