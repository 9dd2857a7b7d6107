"""The flow's form: what differs from params.yaml, and nothing else.

Every field may stay empty, and an empty one keeps the value that params.yaml has when the run
starts. So a form that is older than the file brings no old value back.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, create_model
from pydantic.fields import FieldInfo
from pydantic.json_schema import SkipJsonSchema

from moco import presets
from moco.config import Params, load_params
from moco.errors import MocoError
from moco.settings import Settings, validate
from moco.text import shown
from moco.yaml_files import read_yaml

PARAMS = "params.yaml"


def _nothing() -> None:
    return None


class Form(Settings):
    """A section that may come in part: the checks that need every value come later."""


def form_of(section: type[Settings], values: Settings) -> type[Form]:
    """Make the form of a section; inner sections are forms too."""
    fields: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        value = getattr(values, name)
        kind: Any = field.rebuild_annotation()
        said = field.description or ""
        if isinstance(value, Settings):
            inner = form_of(type(value), value)
            others = [other for other in get_args(kind) if other is not type(None) and other is not type(value)]
            kind = reduce(or_, others, inner)  # the other kinds of a union may be chosen instead
        else:
            said = f"{said} Now: {json.dumps(value)}.".strip()
        # Prefect shows an input for what has one kind, and posts nothing of it while it is empty:
        # only a switch is posted as off although nobody touched it.
        if isinstance(value, Settings | bool):
            fields[name] = (kind | None, FieldInfo(default=None, description=said))
        else:
            fields[name] = (
                kind | Annotated[None, SkipJsonSchema()],
                FieldInfo(default_factory=_nothing, description=said),
            )
    return create_model(section.__name__, __base__=Form, __doc__=section.__doc__, **fields)


BASICS = ("epochs", "image_size", "global_batch", "lr_per_256", "temperature", "seed")
"""What people change most, of the section pretrain: the form begins with it."""
AS_IT_IS = "as in params.yaml"

if TYPE_CHECKING:
    from moco.config import Check, Fetch, Linear, Pretrain, Report, Shard

    Preset = str
    Basics = Form
else:
    Fetch, Shard, Check, Pretrain, Linear, Report = (form_of(type(values), values) for _, values in load_params())
    Preset = Literal[(AS_IT_IS, *presets.NAMES)]
    Basics = create_model(
        "Basics",
        __base__=Form,
        **{name: (Pretrain.model_fields[name].rebuild_annotation(), Pretrain.model_fields[name]) for name in BASICS},
    )


EMPTY: Any = Field({}, description="What people change most of the section pretrain. Empty: as it is.")
"""The default of the basics."""


def section(name: str) -> Any:
    """Give the empty field of a whole section."""
    return Field(
        None, description=f"{str(Params.model_fields[name].annotation.__doc__).splitlines()[0]} All its values."
    )


def by_key(given: Mapping[str, Any]) -> dict[str, Any]:
    """Leave the fields of the form that stand for values of params.yaml, by their keys there."""
    basics = {f"pretrain.{name}": getattr(given["basics"], name) for name in BASICS}
    return basics | {name: given[name] for name in Params.model_fields}


def changes(workspace: Params, preset: str, given: Mapping[str, Any], others: Sequence[str]) -> dict[str, Any]:
    """Say what a form changes in the workspace's params.yaml.

    Args:
        workspace: the file as it is now.
        preset: a recipe whose values the section `pretrain` gets first, or `AS_IT_IS`.
        given: `section.key`, or a section -> a value or a filled form; None: as it is.
        others: further values, as of `--set`.

    Returns:
        `section.key` (deeper: `section.key.key`) -> plain value that is another than the file's.

    Raises:
        MocoError: together they are not allowed; one line.
    """
    values = workspace.model_dump(mode="json")
    if preset != AS_IT_IS:
        values["pretrain"] = read_yaml(presets.FOLDER / f"{preset}.yaml")["pretrain"]
    filled: dict[str, Any] = {}
    for name, form in given.items():
        for key, value in _filled(name, form):
            if filled.setdefault(key, value) != value:
                raise MocoError(f"the form has {key} twice, as {shown(filled[key])} and as {shown(value)}; empty one")
    texts = [f"{key}={json.dumps(value)}" for key, value in filled.items()]
    origin = PARAMS if preset == AS_IT_IS else f"{PARAMS} with preset {preset}"
    found: dict[str, Any] = {}
    wanted = validate(values, origin, Params, [*texts, *others], by="the form's")
    for section in Params.model_fields:
        _differences(getattr(wanted, section), getattr(workspace, section), section, found)
    return found


def _filled(key: str, given: Any) -> Iterator[tuple[str, Any]]:
    """List what was filled in, down to the fields of the forms."""
    if isinstance(given, Form):
        for name in type(given).model_fields:
            yield from _filled(f"{key}.{name}", getattr(given, name))
    elif given is not None:
        yield key, given.model_dump(mode="json") if isinstance(given, BaseModel) else given


def _differences(new: Any, old: Any, key: str, found: dict[str, Any]) -> None:
    if isinstance(new, Settings) and type(new) is type(old):
        for name in type(new).model_fields:
            _differences(getattr(new, name), getattr(old, name), f"{key}.{name}", found)
    elif new != old:
        found[key] = new.model_dump(mode="json") if isinstance(new, BaseModel) else new
