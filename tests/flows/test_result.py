"""What a flow shows of its metrics runs nothing in a browser."""

import pytest
from hostile_names import HOSTILE, running
from markdown_it import MarkdownIt

from flows import result


@pytest.mark.parametrize("name", HOSTILE)
def test_a_value_in_the_table_is_text(name: str) -> None:
    table = result._table({"kind": {"linear_top1": 0.5, "note": name}})
    assert len(table.splitlines()) == 3
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(table)
    assert running(html) == []
    assert html.count("<td") == 3
    assert "| kind | 0.5 |" in table
    assert "linear_top1" in table
