"""The flow's parameters: the schema of params.yaml, with the values of params.yaml as defaults.

What a caller leaves out keeps the value in params.yaml, at any depth: `{"epochs": 1}` is a whole
`pretrain`.
"""

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, create_model
from pydantic.fields import FieldInfo

from moco.config import Params, load_params
from moco.settings import Settings

Section = TypeVar("Section", bound=Settings)


def with_defaults(section: type[Settings], values: Settings) -> Any:
    """Make a subclass of a section whose fields default to `values`, inner sections included."""
    fields: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        value = getattr(values, name)
        kind: Any = field.rebuild_annotation()
        if isinstance(value, Settings):
            inner = with_defaults(type(value), value)
            others = [other for other in get_args(kind) if other is type(None) or other is not type(value)]
            kind = reduce(or_, others, inner)  # the other kinds of a union, or none, may be chosen instead
            value = inner()
        fields[name] = (kind, FieldInfo(default=value, description=field.description))
    return create_model(section.__name__, __base__=section, __doc__=section.__doc__, **fields)


if TYPE_CHECKING:
    from moco.config import Fetch, Linear, Pretrain, Report, Shard
else:
    Fetch, Shard, Pretrain, Linear, Report = (with_defaults(type(values), values) for _, values in load_params())


def unchanged(section: type[Section]) -> Section:
    """Give a section with every value as in params.yaml."""
    return section()


def overrides(given: dict[str, Settings], workspace: Params) -> dict[str, Any]:
    """Give what was given and differs from the workspace's params.yaml.

    Only values that a caller set count, so a process that runs for days follows params.yaml as it
    is now.

    Returns:
        `section.key` (deeper: `section.key.key`) -> plain value.
    """
    found: dict[str, Any] = {}
    for section, values in given.items():
        _differences(values, getattr(workspace, section), section, found)
    return found


def _differences(given: BaseModel, present: BaseModel, key: str, found: dict[str, Any]) -> None:
    for name in sorted(given.model_fields_set):
        new, old = getattr(given, name), getattr(present, name)
        if isinstance(new, Settings) and isinstance(new, type(old)):
            _differences(new, old, f"{key}.{name}", found)
        elif new != old:
            found[f"{key}.{name}"] = new.model_dump(mode="json") if isinstance(new, Settings) else new
