"""Every mistake that one value of a settings file can hold, made by walking the schemas.

`python tests/mistakes.py` prints how many there are, and how many get the one line they should.
"""

import copy
import math
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import checkout_first  # noqa: F401
from pydantic import TypeAdapter

from moco.cluster.machine import Machine
from moco.config import Params
from moco.errors import MocoError
from moco.settings import Settings, validate
from moco.text import shown
from moco.transfer.config import TransferParams
from moco.yaml_files import read_yaml

ROOT = Path(__file__).parents[1]
WRONG = (True, 7, 1.5, "3", "word", [1], {"a": 1}, None)
VAST = (math.inf, -math.inf, math.nan, 1e30, -1e30, 10**30, -(10**30))
"""Beyond every bound."""
OTHERS = {
    "params.yaml": (
        {},
        {"pretrain.encoder": {"kind": "timm", "name": "x", "options": {"a": 1}, "freeze": ["b"]}},
        {"pretrain.encoder": {"kind": "torchvision", "name": "x", "options": {}, "freeze": []}},
        {"pretrain.encoder": {"kind": "module", "name": "a:b", "freeze": []}},
        {"pretrain.init": {"kind": "file", "path": "x", "parts": "all"}},
        {"pretrain.init": {"kind": "model", "uri": "models:/x/1"}},
        {"pretrain.dictionary": {"kind": "memory-bank", "num_keys": 256, "momentum": 0.5}},
        {"pretrain.dictionary": {"kind": "momentum-batch", "momentum": 0.5, "momentum_schedule": "cosine", "symmetric": True}},
        {"pretrain.optimizer": {"kind": "adamw", "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1}},
        {"pretrain.optimizer": {"kind": "lars", "momentum": 0.9, "trust_coefficient": 0.001, "weight_decay": 0.1}},
        {"pretrain.stream": {"lanes": 16, "window": 1024}, "shard.max_side": 64, "pretrain.milestones": [0.5]},
    ),
    "transfer/params.yaml": (
        {},
        {"supervised": {"kind": "file", "source": "x"}, "moco.stem": "small"},
        {
            "semantic.data": {"format": "cityscapes", "path": "x", "train": "a", "test": "b", "max_bad_fraction": 0.1},
            "detection.data": {"format": "coco", "path": "x", "train": "a", "test": "b", "max_bad_fraction": 0.1},
        },
    ),
    "machine.yaml": (
        {},
        {"processes": 2, "num_workers": 1, "checkpoint_every_steps": 9, "max_batch_per_process": 8, "shards_from": "x", "shards_cache_gb": 1.0, "keep": {"versions": 3, "days": 7.0}},
        {"engine": {"kind": "dask", "scheduler": "tcp://host:8786"}},
        {"engine": {"kind": "slurm", "tasks": 8, "minutes": 60, "partition": "x", "options": {"a": 1}, "setup": ["b"]}},
        {"launcher": {"kind": "torchrun", "nnodes": "1:2", "rendezvous": "host:29400"}},
        {"launcher": {"kind": "slurm", "minutes": 60, "cpus_per_node": 2, "partition": "x", "options": {"a": 1}, "setup": ["b"]}},
        {
            "kubernetes": {
                "image": "a",
                "nodes": 1,
                "gpus_per_node": 1,
                "cpus_per_node": 1,
                "memory_per_node": "1Gi",
                "volume_claim": "x",
            }
        },
    ),
}  # fmt: skip
"""Changes of each file by which every kind of section is there once."""
SCHEMAS: dict[str, type[Settings]] = {
    "params.yaml": Params,
    "transfer/params.yaml": TransferParams,
    "machine.yaml": Machine,
}


@dataclass(frozen=True)
class Mistake:
    """One wrong value or key.

    Attributes:
        file: that holds it.
        values: of the whole file.
        key: that a message names.
        given: what a message shows; None: nothing but the key.
        kind: wrong type, out of range, misspelled key, unknown key or missing key.
        hint: a further text that the message has.
    """

    file: str
    values: dict[str, Any]
    key: str
    given: Any
    kind: str
    hint: str = ""

    def fault(self) -> str | None:
        """Say what is wrong with the answer; None: it is one line with key, value and file."""
        try:
            validate(copy.deepcopy(self.values), self.file, SCHEMAS[self.file])
        except MocoError as error:
            line = str(error)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        else:
            return "accepted"
        if "have moved" in line and self.key in line:
            return None
        if "\n" in line or len(line) > 600 or not line.startswith(f"{self.file}: "):
            return f"not one line of the file: {line}"
        told = [
            self.key,
            self.hint,
            "" if self.given is None or (self.given == [] and self.hint) else shown(self.given).strip("'"),
        ]
        lacking = [text for text in told if text not in line]
        return f"lacks {lacking}: {line}" if lacking else None


def files() -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the values of valid files, one for each of `OTHERS`."""
    for file, changes in OTHERS.items():
        for change in changes:
            values = read_yaml(ROOT / file) if (ROOT / file).exists() else {}
            for key, value in change.items():
                put(values, key, value)
            yield file, values


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key."""
    holder, _, last = key.rpartition(".")
    _at(values, holder)[last] = value


def fields(section: Settings, values: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """List the fields that are written in a file: dotted key, and what JSON Schema says of it."""
    for name, field in type(section).model_fields.items():
        if name not in values:
            continue
        value = getattr(section, name)
        kind = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        yield f"{before}{name}", {"section": True} if isinstance(value, Settings) else TypeAdapter(kind).json_schema()
        if isinstance(value, Settings):
            yield from fields(value, values[name], f"{before}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], Settings):
            yield from fields(value[0], values[name][0], f"{before}{name}.0.")


def mistakes() -> Iterator[Mistake]:
    """Make every mistake of every field once."""
    seen: set[tuple[str, str, str]] = set()
    for file, values in files():
        section = validate(copy.deepcopy(values), file, SCHEMAS[file])
        for key, schema in fields(section, values):
            holder = key.rpartition(".")[0]
            kind = str(_at(values, holder).get("kind", _at(values, holder).get("format", "")))
            if (file, key, kind) in seen:
                continue
            seen.add((file, key, kind))
            for given, what, hint in _wrong(schema, _at(values, key)):
                if isinstance(given, _First):
                    changed = _with(values, key, [given.value, *_at(values, key)[1:]])
                    yield Mistake(file, changed, f"{key}.0", given.value, what)
                else:
                    yield Mistake(file, _with(values, key, given), key, given, what, hint)
            yield from _of_the_key(file, values, key, SCHEMAS[file])


@dataclass(frozen=True)
class _First:
    """Stands for the first value of a list."""

    value: Any


def _wrong(schema: dict[str, Any], value: Any) -> Iterator[tuple[Any, str, str]]:
    if schema.get("section"):
        yield from ((given, "wrong type", "") for given in (True, 7, "word", [1]))
        return
    allowed = schema.get("anyOf", [schema])
    names = {one.get("type", "string") for one in allowed}
    wanted = {"boolean": (bool,), "integer": (int,), "number": (int, float), "array": (list,), "object": (dict,), "null": (type(None),)}  # fmt: skip
    if any("$ref" in one for one in allowed):
        names.add("object")
    good = tuple(kind for name in names for kind in wanted.get(name, (str,)))
    for given in WRONG:
        fits = isinstance(given, good) and (not isinstance(given, bool) or bool in good)
        if not fits and not (isinstance(given, int) and "pattern" in allowed[0]):  # nnodes: 2
            yield given, "wrong type", ""
    for one in allowed:
        if one.get("type") in ("integer", "number"):
            yield from ((given, "out of range", "") for given in VAST)
            for bound, step in (("minimum", -1), ("maximum", 1)):
                if bound in one:
                    yield one[bound] + step, "out of range", ""
            for bound in ("exclusiveMinimum", "exclusiveMaximum"):
                if bound in one:
                    yield one[bound], "out of range", ""
        elif "enum" in one:
            yield "nope", "out of range", ""
            yield f"{value}e", "out of range", "did you mean"
        elif one.get("type", "string") == "string" and "const" not in one:
            yield "x" * 100_000, "out of range", ""
            if one.get("minLength") or "pattern" in one:
                yield "", "out of range", ""
        elif one.get("type") == "array":
            if one.get("minItems"):
                yield [], "out of range", "is missing; add it" if "prefixItems" in one else ""
            items = one.get("items") or one["prefixItems"][0]
            for given, what, _ in _wrong(items, "a"):
                yield _First(given), what, ""


def _of_the_key(file: str, values: dict[str, Any], key: str, schema: type[Settings]) -> Iterator[Mistake]:
    holder, _, name = key.rpartition(".")
    before = f"{holder}." * bool(holder)
    misspelled = copy.deepcopy(values)
    section = _at(misspelled, holder)
    section[f"{name}x"] = section.pop(name)
    required = _refused(misspelled, schema)
    if name not in ("kind", "format"):
        yield Mistake(file, misspelled, f"{before}{name}x", None, "misspelled key", f"did you mean {name}?")
    yield Mistake(file, _with(values, f"{before}qqq", 1), f"{before}qqq", None, "unknown key", "is no known key")
    missing = copy.deepcopy(values)
    del _at(missing, holder)[name]
    if required and _refused(missing, schema):
        yield Mistake(file, missing, key, None, "missing key", "")


def _refused(values: dict[str, Any], schema: type[Settings]) -> bool:
    try:
        validate(copy.deepcopy(values), "", schema)
    except MocoError:
        return True
    return False


def _at(values: Any, key: str) -> Any:
    for part in key.split(".") if key else ():
        values = values[int(part) if isinstance(values, list) else part]
    return values


def _with(values: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(values)
    put(changed, key, value)
    return changed


if __name__ == "__main__":
    made = list(mistakes())
    faults = [(one, fault) for one in made if (fault := one.fault())]
    for one, fault in faults:
        print(f"{one.file} {one.key} = {shown(one.given)} ({one.kind}): {fault[:300]}")
    fields_of = {(one.file, one.key) for one in made if one.kind != "unknown key"}
    print(f"{len(fields_of)} keys, {len(made)} mistakes: {len(made) - len(faults)} get the one line")
    print(", ".join(f"{kind} {count}" for kind, count in Counter(one.kind for one in made).items()))
    sys.exit(bool(faults))
