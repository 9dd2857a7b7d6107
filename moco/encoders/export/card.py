"""The card of an encoder: of a folder that is published, and of a version in the registry."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moco.encoders.export.evidence import Evidence
from moco.encoders.frozen import EncoderSpec
from moco.encoders.kinds import Network

_FIGURES = {"linear_top1": "linear top-1", "linear_top5": "linear top-5", "knn_top1": "kNN top-1"}
_FRONT = """\
---
library_name: moco-pipeline
pipeline_tag: image-feature-extraction
tags: [self-supervised-learning, momentum-contrast]
---
"""
_FEATURES = {"moco": "this encoder", "random": "the same network, untrained", "pixels": "raw pixels"}


def card(spec: EncoderSpec, label: str, known: Evidence) -> str:
    """Write README.md of a folder that is published.

    Args:
        spec: of the encoder.
        label: its network, for a person.
        known: what its project measured.
    """
    return f"{_FRONT}\n# {label}, pretrained by Momentum Contrast\n\n{_text(spec, _use(spec), known)}"


def registered(spec: EncoderSpec, uri: str, known: Evidence) -> str:
    """Write the description of a version in the registry; arguments as of `card`.

    Args:
        uri: models:/NAME/VERSION.
    """
    use = f"""\
```python
import mlflow, pathlib
files = [{{"image": pathlib.Path("photo.jpg").read_bytes()}}]
features = mlflow.pyfunc.load_model("{uri}").predict(files)  # float32, N x {spec.feature_dim}
```"""
    return _text(spec, use, known)


def _text(spec: EncoderSpec, use: str, known: Evidence) -> str:
    parts = [_head(spec), f"## Use\n\n{use}", _data(known), _figures(known), _recipe(known), _limits(spec, known)]
    return "\n\n".join(parts) + "\n"


def _head(spec: EncoderSpec) -> str:
    return f"""\
An image encoder that was trained without labels (He et al., 2019): images to {spec.feature_dim}
features. Training hash: `{spec.training_hash}`."""


def _use(spec: EncoderSpec) -> str:
    size, short = spec.image_size, round(spec.image_size / spec.eval_crop_ratio)
    return f"""\
```python
from moco.encoders import load_encoder
encoder = load_encoder(".")  # this folder
features = encoder.embed(images)  # uint8 N x 3 x {size} x {size}, RGB, to float32 N x {spec.feature_dim}
```

Bring an image to this size by a resize of its short side to {short} pixels and the {size} x {size} center.
The encoder normalizes by mean {_numbers(spec.mean)} and deviation {_numbers(spec.std)} of values in [0, 1].{_needs(spec.network)}"""


def _needs(network: Network) -> str:
    """Say what must be there beside this project."""
    if network.kind == "module":
        file = network.name.partition(":")[0].replace(".", "/")
        return f"\n\nThe network is a function of the project's own: {file}.py must be where it is loaded."
    return (
        f"\n\nThe network is of the library {network.kind}, which must be installed." if network.kind == "timm" else ""
    )


def _data(known: Evidence) -> str:
    splits = [(name, part) for name, part in known.metrics.get("fetch", {}).items() if isinstance(part, Mapping)]
    if not splits:
        return "## Data\n\nNot recorded. Say here which images it was trained on."
    rows = [(name, part.get("images", ""), part.get("labelled", "")) for name, part in splits]
    kind = f"Source: {known.data}. " if known.data else ""
    duplicates = known.metrics["fetch"].get("duplicates_of_test")
    removed = "" if duplicates is None else f" Images of the test split found again in training: {duplicates}."
    return f"## Data\n\n{kind}Labels were not used for training.{removed}\n\n" + _table(
        ("split", "images", "labelled"), rows
    )


def _recipe(known: Evidence) -> str:
    if not known.settings:
        return "## Recipe\n\nNot recorded."
    return "## Recipe\n\n" + _table(("`pretrain`", "value"), _flat(known.settings))


def _figures(known: Evidence) -> str:
    scores, training = known.metrics.get("linear", {}), known.metrics.get("pretrain", {})
    rows = []
    for name, words in _FEATURES.items():
        values = [(scores.get(name) or {}).get(figure) for figure in _FIGURES]
        if all(isinstance(value, float | int) for value in values):
            rows.append([words, *(_with_interval(scores[name], figure) for figure in _FIGURES)])
    tables = []
    if rows:
        tables.append(
            "Of the frozen features, on the test split, with 95 % intervals:\n\n"
            + _table(("features", *_FIGURES.values()), rows)
        )
    if training:
        tables.append("At the end of training:\n\n" + _table(("reading", "value"), _flat(training)))
    return "## Figures\n\n" + ("\n\n".join(tables) or "None were measured of these weights.")


def _with_interval(scores: Mapping[str, Any], figure: str) -> str:
    low, high = scores.get(f"{figure}_low"), scores.get(f"{figure}_high")
    return f"{scores[figure]:.1%}" + (f" ({low:.1%} to {high:.1%})" if low is not None and high is not None else "")


def _limits(spec: EncoderSpec, known: Evidence) -> str:
    size = spec.image_size
    measured = "on this data alone; measure them on yours" if known.measured else "nowhere; measure them on your images"
    return f"""\
## Limits

- The features show what the training images and their augmentations taught. They were measured
  {measured}.
- It was trained at {size} pixels; other sizes give other features.
- It has no classifier and no knowledge of classes. Biases of the images are in the features.
- The license of the weights is not stated. It may depend on that of the images."""


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        elif value is not None:
            yield f"{before}{name}", f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(head: Sequence[str], rows: Any) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
