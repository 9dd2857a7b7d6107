"""Check the words of every tracked text: plain phrases, 0.99 for .99, prose that ends by column 100.

`python tests/words.py` prints each place and fails if there is one. Spelling is codespell's part.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

COLUMN = 100
SUFFIXES = (".py", ".md", ".yaml", ".toml", ".jinja", ".cpp", ".h")
ARCHAIC = """
mend|mends|mended|mending, anew, in the place of, in place of, so many, so often, are had, is had, go on, goes on,
went on, going on, gone on, find out of, such a, such an, of which, of whom, whom, in peace, told of, by heart,
amid, at hand, for ever, in the midst, without a word, but for,
in other company
"""
GAP = r"[\s#*]+"  # a phrase may run over the end of a line, in a comment too
PHRASE = re.compile(
    "|".join(rf"\b(?:{words})\b".replace(" ", GAP) for words in re.split(r",\s+", ARCHAIC.strip())), re.I
)
FIGURE = re.compile(r"(?<![\w.:/+)\]}%*\\-])\.\d+(?!\w|\.\d)")


def problems(path: Path) -> Iterator[tuple[int, str]]:
    """Line and problem of each place in a file."""
    text = path.read_text(encoding="utf-8")
    for rule, what in ((PHRASE, "write it plainly"), (FIGURE, "write the 0 before the point")):
        for match in rule.finditer(text):
            yield text.count("\n", 0, match.start()) + 1, f"{' '.join(match[0].split())!r}: {what}"
    lines = text.splitlines()
    for number in sorted(prose(path, text, lines)):
        if len(lines[number - 1]) > COLUMN:
            yield number, f"prose ends at column {len(lines[number - 1])}, not by {COLUMN}"


def prose(path: Path, text: str, lines: list[str]) -> set[int]:
    """Numbers of the lines that are prose: docstrings, comments, Markdown without tables, code and links."""
    found: set[int] = set()
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                found |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    if path.suffix in (".py", ".yaml", ".toml"):
        return found | {n for n, line in enumerate(lines, 1) if line.lstrip().startswith("#")}
    if path.suffix == ".md":
        code = False
        for number, line in enumerate(lines, 1):
            code ^= line.startswith("```")
            if not code and not line.startswith(("|", "<")) and "](" not in line:
                found.add(number)
    return found


def main() -> None:
    """Print what is wrong in the files that git tracks."""
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.split()
    paths = (Path(name) for name in listed if name.endswith(SUFFIXES) and not name.endswith("words.py"))
    found = [f"{path}:{line}: {what}" for path in paths if path.exists() for line, what in problems(path)]
    print("\n".join(found), end="\n" if found else "")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
