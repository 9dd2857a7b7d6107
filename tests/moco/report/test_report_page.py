"""Tables are aligned in the source, and the HTML page stands alone."""

import re

import cv2
import numpy as np

from moco.report.page import escape, markdown_table, render_html


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
