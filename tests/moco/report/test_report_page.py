"""Tables are aligned in the source, and the HTML page stands alone."""

import re
from html import unescape

import cv2
import numpy as np
import pytest
from hostile_names import HOSTILE, running

from moco.report.page import escape, markdown_table, render_html
from moco.text import one_line


def test_a_table_is_aligned_in_its_source():
    table = markdown_table("lr", lambda: "name | value\nx | 1,234\n longer name |\n")
    assert table.splitlines() == [
        "| name        | value |",
        "| ----------- | ----: |",
        "| x           | 1,234 |",
        "| longer name |       |",
    ]


def test_html_holds_its_pictures_and_asks_nothing_of_the_network(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((2, 2, 3), np.uint8))
    html = render_html("# Title\n\n## One part\n\n![what it shows](a.png)\n", tmp_path)
    assert re.findall(r'(?:src|href)="([^"]{0,22})', html) == ["#one-part", "data:image/png;base64,"]
    assert 'alt="what it shows"' in html and "<title>Title</title>" in html
    assert "http" not in html


def test_names_of_classes_stay_text_in_markdown_and_html(tmp_path):
    name = "<script>alert(1)</script> a_b_c *x* [y](z) `q` | \\"
    html = render_html(f"# T\n\nseen: {escape(name)}\n", tmp_path)
    text = re.search(r"<p>seen: (.*)</p>", html).group(1)
    assert text == name.replace("<", "&lt;").replace(">", "&gt;")


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize(
    "page",
    ["# T\n\n## {}\n\ntext\n", "# {}\n\ntext\n", "# T\n\nseen: {}\n", "# T\n\n- {}\n", "# T\n\n| a |\n| - |\n| {} |\n"],
)
def test_a_name_is_text_wherever_it_stands_and_runs_nothing(name, page, tmp_path):
    html = render_html(page.format(escape(name)), tmp_path)
    assert running(html) == []
    assert html.count("<h1>") == 1
    for tag in ("<img", "<h3", "<hr", "<pre", "<ol"):
        assert tag not in html
    shown = unescape(re.sub(r"<[^>]+>", " ", html.partition("<main>")[2]))
    assert one_line(name, 500) in " ".join(shown.split()).replace("\xa0", " ")


def test_names_in_the_navigation_and_the_title_are_text(tmp_path):
    html = render_html(f"# {escape('<b>t</b> & u')}\n\n## {escape('<img src=x onerror=alert(1)>')}\n", tmp_path)
    assert "<title>&lt;b&gt;t&lt;/b&gt; &amp; u</title>" in html
    assert ">&lt;img src=x onerror=alert(1)&gt;</a>" in html


def test_values_of_templates_are_no_templates(tmp_path):
    assert escape("{{7*7}}") == r"\{\{7\*7\}\}"
    assert "49" not in render_html(f"# {escape('{{7*7}}')}\n", tmp_path).partition("<main>")[2]
