"""YAML is read as it is meant, and what is wrong with a file is one line."""

import pytest

from moco.errors import MocoError
from moco.yaml_files import dump_yaml, parse, read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(9 * [f'*{before}'])}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"a: 1\nb: 2\na: 3", "f.yaml:3: the key a is there twice, first in line 1; remove one"),
        (b"{a: 1, a: 2}", "f.yaml:1: the key a is there twice"),
        (b"x:\n  b: 1\n  b: 1", "f.yaml:3: the key b is there twice"),
        ("a: 1\n# café".encode("latin-1"), "f.yaml:2: is not UTF-8"),
        ("a: 1".encode("utf-16"), "f.yaml:1: is not UTF-8"),
        (b"b: 1\na: 2026-02-30", "f.yaml:2: 2026-02-30 reads as a date; put it in quotes"),
        (b"a: 2026-02-28", "f.yaml:1: 2026-02-28 reads as a date; put it in quotes"),
        (b"a: !!int abc", "f.yaml:1: 'abc' is no int"),
        (b"a: !!bool maybe", "f.yaml:1: 'maybe' is no bool"),
        (b"a: " + b"9" * 5000, "f.yaml:1: a number of 5000 characters"),
        (b"a: " + b"[" * 5000 + b"]" * 5000, "f.yaml: brackets within brackets"),
        (b"a: !!python/object/apply:os.system ['touch x']", "os.system is no tag of plain values; remove it"),
        (b"a: !mine b", "!mine is no tag of plain values; remove it"),
        (BOMB.encode(), "stand for more than 100,000 values"),
        (b"a: &a [*a]", "stand for more than 100,000 values, or for themselves"),
        (b"a: \x01", "the character 0x0001 is not allowed"),
        (b"a: [1,\nb: 2", "f.yaml:2: not valid YAML"),
        (b"- 1\n- 2", "holds a list ([1, 2]), expected lines of KEY: VALUE"),
        (b"", "holds nothing, expected lines of KEY: VALUE"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path, text, told):
    (tmp_path / "f.yaml").write_bytes(text)
    with pytest.raises(MocoError) as error:
        read_yaml(tmp_path / "f.yaml")
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    assert [path.name for path in tmp_path.iterdir()] == ["f.yaml"]


def test_a_folder_in_place_of_a_file_is_one_line(tmp_path):
    with pytest.raises(MocoError, match="cannot be read"):
        read_yaml(tmp_path)


def test_plain_values_are_those_of_yaml_1_2():
    text = "[off, 1:2, 1e-3, 1e3, 017, yes, true, 5., 0x1F, .inf, null, 1.5e400]"
    inf = float("inf")
    assert parse(text, "x") == ["off", "1:2", 0.001, 1000.0, "017", "yes", True, 5.0, 31, inf, None, inf]


def test_what_is_written_is_read_back_the_same():
    values = {"a": ["1e5", "off", "yes", "1:2", "2026-02-28", "0x1", "3", "true", 1e-9, True, None, 5]}
    assert parse(dump_yaml(values), "x") == values


def test_a_merged_section_may_be_changed():
    assert parse("base: &b {x: 1, y: 2}\nother: {<<: *b, x: 3}", "x")["other"] == {"x": 3, "y": 2}


def test_a_section_that_merges_another_may_itself_be_merged():
    text = "b: &B {k: 1}\ndeep:\n  a: &A {<<: *B, k: 2}\nc: {<<: *A, q: 3}\nd: {<<: *A, k: 4}"
    values = parse(text, "x")
    assert (values["deep"]["a"], values["c"], values["d"]) == ({"k": 2}, {"k": 2, "q": 3}, {"k": 4})
    with pytest.raises(MocoError, match="the key k is there twice"):
        parse(text.replace("k: 2", "k: 2, k: 5"), "x")


def test_merges_of_merges_do_not_multiply():
    levels = "".join(f"a{n}: &a{n} {{<<: [{', '.join(9 * [f'*a{n - 1}'])}]}}\n" for n in range(1, 12))
    assert parse(f"a0: &a0 {{x: 1}}\n{levels}", "x")["a11"] == {"x": 1}
