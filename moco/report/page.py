"""The page: a Markdown text with its tables, and the same as one HTML file with its pictures."""

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markdown_it import MarkdownIt
from markdown_it.token import Token

from moco.text import one_line

_WIDE = ("views", "neighbors", "predictions", "images", "odd", "duplicates")
"""First words of the names of pictures that scroll sideways on a phone."""


def render_markdown(context: dict[str, Any], template: str = "report.md.jinja") -> str:
    """Fill a template of this folder."""
    text = _environment().get_template(template).render(context)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def markdown_table(align: str, caller: Callable[[], str]) -> str:
    """Make a Markdown table with an aligned source; templates call this around `cell | cell` lines.

    Args:
        align: "l", "c" or "r" for each column.
        caller: gives the lines, the header first.
    """
    rows = [[cell.strip() for cell in line.split(" |")] for line in caller().splitlines() if line.strip()]
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(align))]
    pads = {"l": str.ljust, "c": str.center, "r": str.rjust}
    rules = {"l": "{}-", "c": ":{}:", "r": "{}:"}

    def line(row: list[str]) -> str:
        return "| " + " | ".join(pads[a](cell, width) for cell, width, a in zip(row, widths, align, strict=True)) + " |"

    rule = [rules[a].format("-" * (width - len(rules[a]) + 2)) for width, a in zip(widths, align, strict=True)]
    return "\n".join([line(rows[0]), "| " + " | ".join(rule) + " |", *map(line, rows[1:])]) + "\n"


def escape(name: str) -> str:
    """Escape a name so that Markdown shows it as one line of plain text, whatever is in it."""
    return re.sub(r"[\\`*_{}\[\]<>|#$~&!]|^(?:[-+=:]|\d+(?=[.)]))", _escaped, one_line(name, len(name)))


def _escaped(found: re.Match[str]) -> str:
    text = found[0]
    return f"{text}\\" if text.isdigit() else f"\\{text}"  # 1. begins a list, and so does -


def render_html(markdown: str, folder: Path) -> str:
    """Make one self-contained HTML file of a Markdown page.

    Args:
        markdown: from `render_markdown`.
        folder: where its pictures are.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    sections: list[tuple[str, str]] = []
    title = ""
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            heading = _plain(tokens[number + 1])
            if token.tag == "h1":
                title = heading
            else:
                anchor = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")
                token.attrSet("id", anchor)
                if token.tag == "h2":
                    sections.append((anchor, heading))
        elif token.type == "inline" and token.children:
            _embed(token.children, tokens[number - 1], folder)
    body = parser.renderer.render(tokens, parser.options, {})
    body = re.sub(r"(\d) %", r"\1&nbsp;%", body)
    for mark, kind in (("✓", "good"), ("⚠", "bad"), ("–", "none")):
        body = body.replace(f"<li>{mark} ", f'<li><span class="{kind}">{mark}</span>')
    headline = body.find("<table>") < body.find("<h2") and "<table>" in body
    body = body.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    if headline:
        body = body.replace('<div class="scroll">', '<div class="headline">', 1)
    return _environment().get_template("page.html.jinja").render(title=title, sections=sections, body=body)


def _plain(heading: Token) -> str:
    """Give a heading's text without its marks."""
    return "".join(part.content if part.type != "softbreak" else " " for part in heading.children or ())


def _embed(children: list[Token], paragraph: Token, folder: Path) -> None:
    pictures = [child for child in children if child.type == "image"]
    for picture in pictures:
        name = str(picture.attrs["src"])
        data = base64.b64encode((folder / name).read_bytes()).decode()
        picture.attrs["src"] = f"data:image/png;base64,{data}"
        if name.startswith(_WIDE):
            paragraph.attrSet("class", "pictures wide")
    if pictures and not paragraph.attrGet("class"):
        paragraph.attrSet("class", "pictures pair" if len(pictures) > 1 else "pictures")


def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent)
    pages = select_autoescape(enabled_extensions=("html.jinja",))
    environment = Environment(
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=pages
    )
    environment.filters["plain"] = lambda value: escape(str(value))
    environment.globals["table"] = markdown_table
    environment.filters["percent"] = lambda share, digits=1: f"{100 * share:.{digits}f} %"
    environment.filters["points"] = lambda share: f"{100 * share:+.1f}".replace("-", "−")
    environment.filters["count"] = lambda number: f"{number:,}"
    return environment
