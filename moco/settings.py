"""YAML files under a schema: unknown keys and values out of range are one clear line each."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from moco.errors import MocoError

Section = TypeVar("Section", bound="Settings")


class Settings(BaseModel):
    """Base of all sections: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    moved: ClassVar[dict[str, str]] = {}
    """Keys of earlier versions -> where they are now, relative to this section."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2's whole numbers: in 1.1, which PyYAML reads, `nnodes: 1:2` is the sexagesimal 62."""


_INT = "tag:yaml.org,2002:int"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _INT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_INT, re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$"), list("-+0123456789"))


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read the mapping in a YAML file, unvalidated."""
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise MocoError(f"{path}: no such file; run from the project's folder") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f":{where.line + 1}" if where else ""
        raise MocoError(
            f"{path}{line}: not valid YAML ({getattr(error, 'problem', None) or error}); correct that line"
        ) from None
    if not isinstance(values, dict):
        raise MocoError(f"{path}: holds {type(values).__name__}, expected sections; restore it with git")
    return values


def validate(values: dict[str, Any], origin: str, schema: type[Section], overrides: Sequence[str] = ()) -> Section:
    """Validate a mapping against a schema after applying overrides.

    Raises:
        MocoError: one line that names every key that is unknown, missing or out of range; or, for a
            file of an earlier version, only the keys that have moved and where they are now.
    """
    for text in overrides:
        _override(values, text, list(schema.model_fields))
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        if moved := moved_keys(values, schema):
            raise MocoError(
                f"{origin}: these keys have moved: {', '.join(moved)}; CHANGELOG.md shows the new form"
            ) from None
        raise MocoError(f"{origin}: {describe(error, values)}") from None


def moved_keys(values: dict[str, Any], schema: type["Settings"], before: str = "") -> list[str]:
    """List the keys that an earlier version wrote, as `old -> new`, by the schema's `moved`."""
    found = []
    for key, value in values.items():
        if key in schema.moved and not (key in schema.model_fields and isinstance(value, dict)):
            found.append(f"{before}{key} -> {before}{schema.moved[key]}")
        field = schema.model_fields.get(key)
        if (
            field
            and isinstance(field.annotation, type)
            and issubclass(field.annotation, Settings)
            and isinstance(value, dict)
        ):
            found += moved_keys(value, field.annotation, f"{before}{key}.")
    return found


def describe(error: ValidationError, values: Any) -> str:
    """Say in one line what is wrong with the values of a file."""
    return "; ".join(_describe(item, values) for item in error.errors())


def _describe(item: Any, values: Any) -> str:
    """One pydantic error in words: key, value, what is allowed."""
    key = key_in_file(item["loc"], values) or "values"
    if item["type"] == "extra_forbidden":
        return f"{key} is no known key; remove it or correct its spelling"
    if item["type"] == "missing":
        return f"{key} is missing; add it, or restore the file with git"
    if item["type"] == "value_error":
        return f"{key}: {item['ctx']['error']}"
    if item["type"] == "union_tag_not_found":
        return f"{key}.{item['ctx']['discriminator'].strip(chr(39))} is missing; add it"
    if item["type"] == "union_tag_invalid":
        tag, known = item["ctx"]["tag"], item["ctx"]["expected_tags"].replace("'", "")
        return f"{key}.{item['ctx']['discriminator'].strip(chr(39))} = {tag}: choose one of {known}"
    return f"{key} = {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"


def key_in_file(loc: tuple[Any, ...], values: Any) -> str:
    """Give the dotted key as the file has it, without the tags of unions that pydantic inserts."""
    key = []
    for part in loc:
        if (
            isinstance(values, dict)
            and part not in values
            and part in [v for v in values.values() if isinstance(v, str)]
        ):
            continue
        key.append(str(part))
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            values = None
    return ".".join(key)


def _override(values: dict[str, Any], text: str, known: list[str]) -> None:
    key, equals, value = text.partition("=")
    *sections, last = key.strip().split(".")
    if not equals or not sections:
        raise MocoError(f"--set {text!r}: expected SECTION.KEY=VALUE, for example pretrain.epochs=3")
    target: Any = values
    for section in sections:
        target = target.get(section) if isinstance(target, dict) else None
    if not isinstance(target, dict):
        raise MocoError(
            f"--set {text!r}: there is no section {'.'.join(sections)!r}; the sections are {', '.join(known)}"
        )
    try:
        target[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise MocoError(f"--set {text!r}: {value!r} is not a YAML value; quote it") from None
