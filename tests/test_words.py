"""The rule of words finds what it is made for, and nothing else."""

from pathlib import Path

import pytest
import words


@pytest.mark.parametrize(
    ("name", "text", "line", "said"),
    [
        ("page.md", "A run that was\ngone\non with.", 2, "gone on"),
        ("code.py", "x = 1\n# It stands in the\n# place of another.", 2, "in the # place of"),
        ("code.py", 'raise ValueError("mend it")', 1, "mend"),
        ("page.md", "m is .99.", 1, ".99"),
        ("page.md", "one\n" + 20 * "words " + "end", 2, "column 123"),
        ("code.py", f'"""{97 * "x"}"""', 1, "column 103"),
        ("values.yaml", f"# {99 * 'x'}", 1, "column 101"),
    ],
)
def test_a_place_is_named_with_its_line(tmp_path: Path, name: str, text: str, line: int, said: str) -> None:
    (tmp_path / name).write_text(text)
    [(number, problem)] = words.problems(tmp_path / name)
    assert number == line and said in problem


def test_code_tables_and_links_may_be_long(tmp_path: Path) -> None:
    long = 40 * "word "
    page = f"| {long} |\n[{long}](link)\n```\n{long}\n```\n"
    (tmp_path / "page.md").write_text(page)
    (tmp_path / "code.py").write_text(f"x = '{long}'  # 0.99, v1.2, {{x:.3f}}, 12.5, ...\n")
    assert [*words.problems(tmp_path / "page.md"), *words.problems(tmp_path / "code.py")] == []
