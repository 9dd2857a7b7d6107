"""The one way out: checked, written beside its final name, loaded back, compared, then named."""

from importlib import import_module
from pathlib import Path

from moco.devices import torchs_own_precision
from moco.encoders.export.existing import EMPTY, kind_of_file
from moco.encoders.export.source import Source
from moco.encoders.export.target import Target, largest_difference
from moco.errors import MocoError
from moco.files import require_free, whole_file, whole_folder

_LIBRARIES = ("torchvision", "timm")


def target_of(name: str) -> Target:
    """Find a target by its name among `TARGETS`."""
    module = "library" if name in _LIBRARIES else {"onnx": "onnx_file", "safetensors": "single_file"}.get(name, name)
    found = getattr(import_module(f"moco.encoders.export.{module}"), name.upper() if name in _LIBRARIES else "TARGET")
    assert isinstance(found, Target)
    return found


def export(name: str, source: Source, output: Path) -> list[str]:
    """Write an encoder as another program loads it.

    Args:
        name: of `TARGETS`.
        source: what is written.
        output: a file, or for "hub" a folder; replaced only where it is an earlier export of this
            kind.

    Returns:
        Lines for a person: what was compared, and how it is loaded.

    Raises:
        MocoError: the target cannot hold this network, the output is another thing or cannot be
            written, or what was written gives other features. Nothing is left behind then.
    """
    target = target_of(name)
    _may_write(name, target, source, output)
    require_free(output, source.size, f"the file for {name}")  # torch names no full disk
    try:
        with whole_file(output) if target.suffixes else whole_folder(output) as part:
            with torchs_own_precision():
                target.write(source, part)
            features = target.read(source, part)
            if isinstance(features, str):
                compared = f"not compared with the source, for {features}"
            else:
                difference = largest_difference(source, features)
                compared = f"loaded back, largest difference of features {f'{difference:.1e}' if difference else 0}"
    except OSError as error:
        raise MocoError(f"{output}: cannot be written ({error.strerror or error}); name another place") from None
    return [f"{output}: {source.label} for {name}, {compared}", f"load it: {target.how(source, output)}"]


def _may_write(name: str, target: Target, source: Source, output: Path) -> None:
    if output.exists() and output.resolve() == source.path.resolve():
        raise MocoError(f"{output}: is what is exported; name another output")
    if target.suffixes and output.suffix not in target.suffixes:
        raise MocoError(f"{output}: a file for {name} ends in {' or '.join(target.suffixes)}; name one that does")
    if not output.absolute().parent.is_dir() and target.suffixes:
        raise MocoError(f"{output}: there is no folder {output.parent}; make it, or name another")
    same = _LIBRARIES if name in _LIBRARIES else (name,) if target.suffixes else (name, EMPTY)
    if (found := kind_of_file(output)) not in (None, *same):
        raise MocoError(f"{output}: is {found}, which is not replaced by a file for {name}; name another output")
