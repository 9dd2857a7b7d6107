"""Published recipes as data: each YAML file here holds every value of the pretrain section."""

from collections.abc import Mapping, MutableMapping
from io import StringIO
from pathlib import Path
from typing import Any

from moco.config import Params
from moco.errors import MocoError
from moco.files import write_text
from moco.settings import validate
from moco.yaml_files import parse, read_yaml

FOLDER = Path(__file__).parent
NAMES = ("small", "cifar", "v1", "v2", "vit")


def apply(name: str, path: Path) -> list[str]:
    """Write a preset's pretrain values into a parameter file.

    Its other values and its comments stay.

    Args:
        name: one of `NAMES`.
        path: the parameter file.

    Returns:
        One line for each key whose value is now another: `pretrain.epochs: 8 -> 200`.

    Raises:
        MocoError: no such preset or file, or the file is no YAML mapping or would break the schema.
    """
    if name not in NAMES:
        raise MocoError(f"preset {name!r} is unknown; choose one of {', '.join(NAMES)}")
    return write({"pretrain": _round_trip().load(FOLDER / f"{name}.yaml")["pretrain"]}, path)


def write(sections: Mapping[str, Any], path: Path) -> list[str]:
    """Write whole sections into a parameter file; result and errors as of `apply`.

    Args:
        sections: their values by name.
        path: the parameter file.
    """
    read_yaml(path)  # the one place that words what is wrong with a file
    yaml = _round_trip()
    values, changes = yaml.load(path), []
    for name, section in sections.items():
        if not isinstance(values.get(name), MutableMapping):
            values[name] = {}
        changes += _overwrite(values[name], section, name)
    stream = StringIO()
    yaml.dump(values, stream)
    validate(parse(stream.getvalue(), str(path)), str(path), Params)
    write_text(path, stream.getvalue())
    return changes


def _overwrite(target: Any, source: Any, prefix: str) -> list[str]:
    gone = [key for key in target if key not in source]
    changes = [f"{prefix}.{key}: removed" for key in gone]
    for key in gone:
        del target[key]
    for key, value in source.items():
        if isinstance(value, MutableMapping) and isinstance(target.get(key), MutableMapping):
            changes += _overwrite(target[key], value, f"{prefix}.{key}")
        elif key not in target or target[key] != value:
            changes.append(f"{prefix}.{key}: {target.get(key, 'missing')} -> {value}")
            target[key] = value
    return changes


def _round_trip() -> Any:
    """Make a YAML reader and writer that keeps comments, order and layout."""
    from ruamel.yaml import YAML
    from ruamel.yaml.representer import RoundTripRepresenter

    class Representer(RoundTripRepresenter):
        """Writes null as `null`, as people do, where ruamel writes nothing."""

    null = "tag:yaml.org,2002:null"
    Representer.add_representer(type(None), lambda self, _: self.represent_scalar(null, "null"))
    yaml = YAML()
    yaml.Representer = Representer
    yaml.preserve_quotes = True
    yaml.width = 4096
    return yaml
