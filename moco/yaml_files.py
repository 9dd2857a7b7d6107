"""YAML as it is meant: the plain values of version 1.2, each key once, and errors of one line.

PyYAML reads version 1.1, in which `off` is false, `1:2` is 62, `1e-3` is text, and of two equal
keys the last one counts in silence.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from moco.errors import MocoError
from moco.text import one_line, shown

MOST_VALUES = 100_000
"""Values that a file may have; aliases of aliases, a few lines long, can stand for billions."""
_DIGITS = 40
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Plain values of YAML 1.2; a key that is there twice, or what reads as a date, is an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # As it is written: building a mapping moves the keys that it merges (<<) into it.
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == f"{_TAG}merge":
                continue
            name = key.tag, key.value
            if name in lines:
                twice = f"the key {shown(key.value, quoted=False)} is there twice, first in line {lines[name] + 1}"
                raise _refused(f"{twice}; remove one", key)
            lines[name] = key.start_mark.line
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        # Each key once, as it will count: merges of merges would double it each time.
        last = {
            (key.tag, key.value if isinstance(key, yaml.ScalarNode) else id(key)): (key, v) for key, v in node.value
        }
        node.value = list(last.values())

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            if isinstance(error, yaml.YAMLError):
                raise
            raise _refused(f"{shown(node.value)} is no {node.tag.removeprefix(_TAG)}; correct it", node) from None


def _refused(text: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)


def _date(loader: _Loader, node: yaml.ScalarNode) -> Any:
    raise _refused(f"{shown(node.value, quoted=False)} reads as a date; put it in quotes", node)


def _tagged(loader: _Loader, node: yaml.Node) -> Any:
    raise _refused(f"{shown(node.tag, quoted=False)} is no tag of plain values; remove it", node)


def _whole(loader: _Loader, node: yaml.ScalarNode) -> Any:
    if len(node.value) > _DIGITS:
        raise _refused(
            f"a number of {len(node.value)} characters ({shown(node.value, quoted=False)}); shorten it", node
        )
    return loader.construct_yaml_int(node)


_PLAIN = {
    "int": (r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$", "-+0123456789"),
    "float": (
        r"([-+]?(\.[0-9]+|[0-9][0-9_]*\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$",
        "-+0123456789.",
    ),
    "bool": (r"(true|True|TRUE|false|False|FALSE)$", "tTfF"),
}


def _resolvers() -> dict[Any, Any]:
    """Give PyYAML's own table with the plain values of version 1.2."""
    kept = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.removeprefix(_TAG) not in _PLAIN]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for name, (pattern, firsts) in _PLAIN.items():
        for first in firsts:
            kept.setdefault(first, []).append((_TAG + name, re.compile(pattern)))
    return kept


class _Dumper(yaml.SafeDumper):
    """Quotes the text that `_Loader` would take for something else."""


_Loader.yaml_implicit_resolvers = _Dumper.yaml_implicit_resolvers = _resolvers()
_Loader.add_constructor(f"{_TAG}timestamp", _date)
_Loader.add_constructor(f"{_TAG}int", _whole)
_Loader.add_constructor(None, _tagged)


def read_yaml(path: Path | str, may_be_empty: bool = False) -> dict[str, Any]:
    """Read the mapping in a YAML file, unvalidated.

    Args:
        path: the file.
        may_be_empty: whether a file without values is an empty mapping.

    Raises:
        MocoError: the file is missing, not UTF-8, not YAML, or holds no mapping; one line.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise MocoError(f"{path}: no such file; run from the project's folder") from None
    except OSError as error:
        raise MocoError(f"{path}: cannot be read ({error.strerror}); correct that, or name another file") from None
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise MocoError(f"{path}:{line}: is not UTF-8 ({error.reason}); save the file as UTF-8") from None
    values = parse(text, str(path))
    if values is None and may_be_empty:
        return {}
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"{_KINDS.get(type(values), 'no mapping')} ({shown(values)})"
        raise MocoError(f"{path}: holds {found}, expected lines of KEY: VALUE; write them, or restore the file")
    return values


_KINDS = {list: "a list", str: "text", int: "a number", float: "a number", bool: "a truth value"}


def parse(text: str, origin: str, remedy: str = "correct that line") -> Any:
    """Read YAML text.

    Args:
        text: of a file, or of one value.
        origin: what the message begins with; the line number follows it.
        remedy: what to do about text that is no YAML.

    Raises:
        MocoError: it is not YAML, or not plain values, each key once; one line.
    """
    try:
        values = yaml.load(text, _Loader)
        _count(values)
        return values
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise MocoError(
            f"{origin}:{line}: not valid YAML (the character {error.character:#06x} is not allowed); remove it"
        ) from None
    except yaml.constructor.ConstructorError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise MocoError(f"{origin}:{line}: {one_line(str(error.problem))}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or error
        raise MocoError(
            f"{origin}:{mark.line + 1 if mark else 1}: not valid YAML ({one_line(str(problem))}); {remedy}"
        ) from None
    except RecursionError:
        raise MocoError(f"{origin}: brackets within brackets, hundreds deep; remove them") from None


def dump_yaml(values: Any) -> str:
    """Write plain values so that `read_yaml` gives the same back; keys in alphabetical order."""
    return yaml.dump(values, Dumper=_Dumper)


def _count(values: Any) -> None:
    """Refuse what stands for more values than a person writes.

    Raises:
        yaml.YAMLError: `MOST_VALUES` are passed.
    """
    left, seen = [values], 0
    while left:
        value = left.pop()
        seen += 1
        if seen > MOST_VALUES:
            raise yaml.YAMLError(f"aliases (&, *) that stand for more than {MOST_VALUES:,} values, or for themselves")
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list | tuple | set):
            left += value
