"""The settings of each mechanism, made small."""

from typing import Any

from pydantic import TypeAdapter

from moco.dictionary.kinds import AnyKind, Kind

SMALL: dict[str, dict[str, Any]] = {
    "momentum-queue": {"num_keys": 100, "momentum": 0.99, "momentum_schedule": "constant", "symmetric": False},
    "memory-bank": {"num_keys": 100, "momentum": 0.99},
    "end-to-end": {},
    "momentum-batch": {"momentum": 0.99, "momentum_schedule": "constant", "symmetric": False},
}


def dictionary(kind: str, **values: Any) -> Kind:
    return TypeAdapter(AnyKind).validate_python({"kind": kind, **SMALL[kind], **values})
