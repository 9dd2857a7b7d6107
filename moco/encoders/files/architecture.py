"""Which ResNet a state dict is of: names and shapes alone decide."""

from collections.abc import Mapping

from moco.encoders.build import shapes_of
from moco.encoders.files.keys import Value
from moco.encoders.resnet import ARCHITECTURES

COUNTER = "num_batches_tracked"
Shape = tuple[int, ...]


def architecture_of(shapes: Mapping[str, Shape]) -> tuple[str | None, str]:
    """Find the architecture whose names and shapes are exactly these.

    Args:
        shapes: of a network with torchvision's names, the counters of its batch norms included or
            not.

    Returns:
        Key of `ARCHITECTURES` and ""; or None and the first difference from the nearest one.
    """
    found = {name: shape for name, shape in shapes.items() if not name.endswith(COUNTER)}
    kernel = shapes["conv1.weight"][2:]

    def unlike(architecture: str) -> int:
        return len(_expected(architecture, kernel).items() ^ found.items())

    nearest = min(ARCHITECTURES, key=unlike)
    if unlike(nearest) == 0:
        return nearest, ""
    wanted = _expected(nearest, kernel)
    name = next(name for name in (*wanted, *found) if wanted.get(name) != found.get(name))
    if name not in found:
        problem = f"{name} is missing"
    elif name not in wanted:
        problem = f"{name} is unexpected"
    else:
        problem = f"{name} is {sizes(found[name])} and not {sizes(wanted[name])}"
    return None, f"in the nearest, {nearest}, {problem}"


def shapes_of_weights(weights: Mapping[str, Value]) -> dict[str, Shape]:
    """Give shapes, those of split batch norms as if they were whole."""
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    for name, shape in shapes.items():
        norm, _, last = name.rpartition(".")
        scale = shapes.get(f"{norm}.weight", ())
        one_row = len(shape) == len(scale) == 1 and scale[0] > 0
        if last in ("running_mean", "running_var") and one_row and shape[0] % scale[0] == 0:
            shapes[name] = scale
    return shapes


def _expected(architecture: str, kernel: Shape) -> dict[str, Shape]:
    shapes = shapes_of(architecture)
    wanted = {name: shape for name, shape in shapes.items() if not name.endswith(COUNTER)}
    return wanted | {"conv1.weight": (*wanted["conv1.weight"][:2], *kernel)}


def sizes(shape: Shape) -> str:
    """Write a shape for people."""
    return " x ".join(map(str, shape)) or "a single number"
