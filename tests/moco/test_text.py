"""Values and names in messages are one short line."""

import pytest

from moco.text import one_line, printable, shown, utf8


def test_a_value_in_a_message_is_one_short_line():
    for value in ("x" * 100_000, list(range(10_000)), {"a": {"b": {"c": {"d": 1}}}}, "a\nb", 10**400):
        assert len(shown(value)) < 200
        assert "\n" not in shown(value)
    assert shown("a\n\x1b[31mb", quoted=False) == "a [31mb"


def test_a_name_is_one_line_whatever_characters_it_has():
    assert one_line("a\r\n\tb\x00c\x1b]0;x\x07") == "a b c ]0;x"
    assert one_line("x" * 300) == "x" * 200 + "…"


@pytest.mark.parametrize("write", [utf8, one_line, printable])
def test_a_name_that_is_no_utf_8_is_written_in_one_way(write):
    assert write("gr\udcfcn \udc80.jpg") == r"gr\xfcn \x80.jpg"
    assert write("half \ud83d") == r"half \ud83d"
    assert write("grün") == "grün"


def test_so_is_one_that_a_message_quotes():
    name = "gr\udcfcn"
    assert printable(f"{name!r}: no image") == r"'gr\xfcn': no image"
