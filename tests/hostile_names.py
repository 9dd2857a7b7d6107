"""Names of classes and files that are code elsewhere, and what would run of a page."""

from html.parser import HTMLParser

HOSTILE = (
    "p <img src=x onerror=alert(1) x>\n---\nq",
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "![x](http://example.org/x.png)",
    "{{7*7}} {% raw %} ${x}",
    "# heading\n\n## other",
    "a | b\n| - | - |",
    "1. one",
    "- item",
    "    code",
    "&lt;b&gt; &amp; <b>",
    "`x` *y* _z_ ~~w~~ $m$",
    "=1+1",
    "==\n",
    '"onmouseover=alert(1) x="',
    "a\x1b[31mb\x00",
)
"""Names that would be something else than text in a page that is careless."""


class Attributes(HTMLParser):
    """Collects the elements and the attributes of a page that could run something."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "iframe", "object", "embed"):
            self.running.append(tag)
        self.running += [
            f"{tag} {name}"
            for name, value in attrs
            if name.startswith("on") or (name in ("href", "src") and "javascript:" in (value or ""))
        ]


def running(html: str) -> list[str]:
    """What would run in a browser."""
    found = Attributes()
    found.feed(html)
    return found.running
