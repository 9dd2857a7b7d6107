"""Sections under a schema: unknown keys and values out of range are one clear line each."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from moco.errors import MocoError
from moco.text import one_line, shown
from moco.yaml_files import parse

Section = TypeVar("Section", bound="Settings")
MOST = 8
"""Problems that one message lists."""
Key = tuple[Any, ...]
"""Where a value is: keys, and numbers in lists."""


class Settings(BaseModel):
    """Base of all sections: unknown keys are errors, values do not change after loading.

    A number is a number: neither `true` nor quoted text is, nor is infinity.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), strict=True, allow_inf_nan=False, str_max_length=4096
    )

    @field_validator("*", mode="after", check_fields=False)
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        if isinstance(value, str) and "\0" in value:
            raise ValueError(f"{shown(value)} has a character that no name or path can have; remove it")
        return value

    moved: ClassVar[dict[str, str]] = {}
    """Keys of earlier versions -> where they are now, relative to this section."""


def validate(
    values: dict[str, Any], origin: str, schema: type[Section], overrides: Sequence[str] = (), by: str = "--set"
) -> Section:
    """Validate a mapping against a schema after applying overrides.

    Args:
        values: of the file; overrides change them.
        origin: the file, which a message begins with.
        schema: what is allowed.
        overrides: strings `section.key=value`, the value in YAML.
        by: who gave the overrides, which a message about one of them begins with.

    Raises:
        MocoError: one line that names every key that is unknown, missing or out of range; or, for a
            file of an earlier version, only the keys that have moved and where they are now.
    """
    changed = [_override(values, text, schema, by) for text in overrides]
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        if isinstance(values, dict) and (moved := moved_keys(values, schema)):
            raise MocoError(
                f"{origin}: these keys have moved: {', '.join(moved)}; CHANGELOG.md shows the new form"
            ) from None
        said: dict[str, list[str]] = {}
        for problem in _problems(error, values, schema):
            said.setdefault(_who(problem, changed, origin, by), []).append(problem.text)
        raise MocoError("; ".join(f"{who}: {_listed(texts)}" for who, texts in said.items())) from None


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
    return _listed([problem.text for problem in _problems(error, values, None)])


@dataclass(frozen=True)
class _Problem:
    """One thing that is wrong: at which key, in words, and of pydantic's types."""

    key: str
    text: str
    type: str

    @property
    def missing(self) -> bool:
        return self.type == "missing"

    @property
    def of_several(self) -> bool:
        return self.type == "value_error"

    @property
    def of_others(self) -> bool:
        """Whether it depends on other values of its section."""
        return self.of_several or self.missing or self.type == "extra_forbidden"


def _problems(error: ValidationError, values: Any, schema: type[Settings] | None) -> list[_Problem]:
    items = error.errors(include_url=False)
    meant = {}  # a misspelled key -> the key that is therefore missing
    for item in items:
        if item["type"] == "extra_forbidden" and schema:
            meant[item["loc"]] = _nearest(str(item["loc"][-1]), _keys_at(schema, item["loc"][:-1]))
    spelled = {(*loc[:-1], key) for loc, key in meant.items() if key}
    found: dict[str, _Problem] = {}
    for item in items:
        if item["type"] == "missing" and item["loc"] in spelled:
            continue
        key = key_in_file(item["loc"], values)
        if item["type"].startswith("union_tag"):
            key += f"{'.' * bool(key)}{item['ctx']['discriminator'].strip(chr(39))}"
        text = _describe(item, key or "values", meant.get(item["loc"]))
        found.setdefault(text if item["type"] == "value_error" else key, _Problem(key, text, item["type"]))
    return sorted(found.values(), key=lambda problem: problem.missing)  # what is there says more


def _describe(item: Any, key: str, meant: str | None) -> str:
    """One pydantic error in words: key, value, what is allowed."""
    kind, value = item["type"], item["input"]
    if kind == "extra_forbidden":
        return f"{key} is no known key; " + (f"did you mean {meant}?" if meant else "remove it or correct its spelling")
    if kind == "missing":
        return f"{key} is missing; add it"
    if kind == "value_error":
        said = one_line(str(item["ctx"]["error"]), 400)
        return f"{key}: {said}" if key != "values" else said
    if kind == "union_tag_not_found":
        return f"{key} is missing; add it"
    if kind == "union_tag_invalid":
        tag, known = item["ctx"]["tag"], item["ctx"]["expected_tags"].replace("'", "")
        near = maybe_meant(tag, known.split(", "))
        return f"{key} = {shown(tag, quoted=False)}: choose one of {known}{near}"
    said = f"{item['msg'][0].lower()}{item['msg'][1:]}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        said = "input should be a section of KEY: VALUE"
    elif kind == "invalid_key":
        return f"{key}: keys should be text; put this one in quotes, or remove it"
    elif kind == "literal_error" and isinstance(value, str):
        said += maybe_meant(value, item["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", "))
    elif kind == "bool_type" and value not in ("true", "false"):
        said += "; write true or false"
    elif kind in ("int_type", "float_type", "bool_type") and _is_a_number(value):
        said += ", without quotes"
    elif kind == "string_type" and isinstance(value, bool | int | float):
        said += "; put it in quotes"
    return f"{key} = {shown(value)}: {said}"


def _is_a_number(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?|true|false", value.strip()))


def maybe_meant(given: Any, known: Sequence[str]) -> str:
    """Ask for the known name that is nearest to a given one: "; did you mean X?", or nothing."""
    near = _nearest(str(given), known)
    return f"; did you mean {near}?" if near else ""


def _nearest(given: str, known: Sequence[str]) -> str | None:
    as_written = {name.lower(): name for name in known}
    return next(
        (as_written[name] for name in get_close_matches(given[:100].lower(), as_written, n=1, cutoff=0.7)), None
    )


def _listed(texts: list[str]) -> str:
    rest = len(texts) - MOST
    return "; ".join(texts[:MOST]) + (f"; and {rest} more" if rest > 0 else "")


def _who(problem: _Problem, changed: list[str], origin: str, by: str) -> str:
    """Say where a wrong value came from."""
    within = [key for key in changed if f"{problem.key}.".startswith(f"{key}.")]
    if within:
        return by
    section = problem.key if problem.of_several else problem.key.rpartition(".")[0]
    beside = [key for key in changed if problem.of_others and key.startswith(section)]
    named = [key for key in beside if key.rpartition(".")[2] in problem.text] or beside[:3]
    return f"{origin} with {by} {', '.join(named)}" if named else origin


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Find the sections that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:
        for inner in get_args(annotation):
            yield from models_in(inner)


def _keys_at(schema: type[BaseModel], loc: Key) -> list[str]:
    """List the keys that are known at a place, through the tags of unions that pydantic inserts."""
    models = [schema]
    for part in loc:
        inner = [
            model
            for holder in models
            if part in holder.model_fields
            for model in models_in(holder.model_fields[part].rebuild_annotation())
        ]
        tagged = [
            model
            for model in models
            if any(part in get_args(field.annotation) for field in model.model_fields.values())
        ]
        models = inner or tagged or models
    return sorted({key for model in models for key in model.model_fields})


def key_in_file(loc: Key, values: Any) -> str:
    """Give the dotted key as the file has it, without the tags of unions that pydantic inserts."""
    key = []
    for part in loc:
        if (
            isinstance(values, dict)
            and part not in values
            and part in [v for v in values.values() if isinstance(v, str)]
        ):
            continue
        key.append(shown(str(part), quoted=False))
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            values = None
    return ".".join(key)


def _not_there(by: str, told: str, section: list[str], rest: list[str], value: str) -> MocoError:
    name = ".".join(section)
    whole = "".join(f"{{{key}: " for key in rest) + value + "}" * len(rest)
    return MocoError(f"{by} {told}: the file has no {name}; set it whole: {shown(f'{name}={whole}')}")


def _override(values: dict[str, Any], text: str, schema: type[Settings], by: str) -> str:
    """Change one value; gives its key."""
    key, equals, value = text.partition("=")
    *sections, last = key.strip().split(".")
    told = shown(text)
    if not equals or not sections:
        raise MocoError(f"{by} {told}: expected SECTION.KEY=VALUE, for example pretrain.epochs=3")
    target: Any = values
    for depth, section in enumerate(sections):
        if not isinstance(target, dict) or section not in target:
            known = _keys_at(schema, tuple(sections[:depth]))
            if isinstance(target, dict) and section in known:
                raise _not_there(by, told, sections[: depth + 1], [*sections[depth + 1 :], last], value)
            near = maybe_meant(section, known) or f"; the sections are {', '.join(known)}"
            raise MocoError(f"{by} {told}: there is no section {shown('.'.join(sections[: depth + 1]))}{near}")
        target = target[section]
    if target is None:
        raise _not_there(by, told, sections, [last], value)
    if not isinstance(target, dict):
        raise MocoError(f"{by} {told}: {'.'.join(sections)} is no section, it holds {shown(target)}")
    try:
        target[last] = parse(value, by, "quote it")
    except MocoError as error:
        raise MocoError(f"{by} {told}: {str(error).removeprefix(f'{by}:1: ').removeprefix(f'{by}: ')}") from None
    return ".".join(shown(part, quoted=False) for part in [*sections, last])
