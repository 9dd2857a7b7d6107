"""YAML files under a schema: unknown keys and values out of range are one clear line each."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from moco.errors import MocoError

Section = TypeVar("Section", bound="Settings")


class Settings(BaseModel):
    """Base of all sections: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class _Loader(yaml.SafeLoader):
    """YAML 1.2's whole numbers: in 1.1, which PyYAML reads, `nnodes: 1:2` is the sexagesimal 62."""


_INT = "tag:yaml.org,2002:int"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _INT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_INT, re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$"), list("-+0123456789"))


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file, unvalidated."""
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise MocoError(
            f"{path}: no such file; run from the project's folder, or write one with `moco preset small`"
        ) from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f":{where.line + 1}" if where else ""
        raise MocoError(
            f"{path}{line}: not valid YAML ({getattr(error, 'problem', None) or error}); mend that line"
        ) from None
    if not isinstance(values, dict):
        raise MocoError(
            f"{path}: holds {type(values).__name__}, expected sections; write a fresh one with `moco preset small`"
        )
    return values


def validate(values: dict[str, Any], origin: str, schema: type[Section], overrides: Sequence[str] = ()) -> Section:
    """Validate a mapping against a schema after applying overrides; errors as in `load_params`."""
    for text in overrides:
        _override(values, text, list(schema.model_fields))
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise MocoError(f"{origin}: " + "; ".join(describe(item) for item in error.errors())) from None


def describe(item: Any) -> str:
    """One pydantic error in words: key, value, what is allowed."""
    key = ".".join(str(part) for part in item["loc"]) or "values"
    if item["type"] == "extra_forbidden":
        return f"{key} is no known key; remove it or mend its spelling"
    if item["type"] == "missing":
        return f"{key} is missing; add it, or write a complete file with `moco preset small`"
    if item["type"] == "value_error":
        return f"{key}: {item['ctx']['error']}"
    return f"{key} = {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"


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
