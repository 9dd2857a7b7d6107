"""What a project knows of an encoder: its data, its recipe and what was measured."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from moco.encoders.export.source import Source
from moco.encoders.kinds import network_of
from moco.errors import MocoError
from moco.yaml_files import read_yaml

STAGES = ("fetch", "shard", "pretrain", "linear")


@dataclass(frozen=True)
class Evidence:
    """What is known; everything is empty where nothing is.

    Attributes:
        settings: `pretrain`, of the run.
        data: kind of the source, from `fetch`.
        metrics: of each stage that has some.
        lacking: what the card is without, and why; empty if nothing.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    lacking: str = ""

    @property
    def measured(self) -> bool:
        """Whether there is any figure."""
        return bool(self.metrics)


def evidence(source: Source, project: Path) -> Evidence:
    """Collect what a project's outputs/ and params.yaml say of an encoder.

    Figures of other weights say nothing of these, so all is left out unless outputs/pretrain holds
    the very same; so are settings of another network or size, from a params.yaml that was edited
    since.
    """
    settings = dict(source.checkpoint["settings"]) if source.checkpoint is not None else {}
    if not _same_weights(source, project / "outputs/pretrain/encoder/encoder.safetensors"):
        return Evidence(settings, lacking="no figures, for outputs/pretrain/encoder has other weights, or is not there")
    file, data, lacking = project / "params.yaml", "", ""
    if file.exists():
        values = read_yaml(file)
        found, spec = values.get("pretrain", {}), source.spec
        data = str(values.get("fetch", {}).get("source", ""))
        if not settings and _is_of(found, source):
            settings = found
        elif not settings:
            lacking = f"no recipe, for {file} is not of {spec.network.label} at {spec.image_size} pixels"
    metrics = {stage: found for stage in STAGES if (found := _json(project / f"outputs/{stage}/metrics.json"))}
    return Evidence(settings, data, metrics, lacking)


def _is_of(settings: Mapping[str, Any], source: Source) -> bool:
    try:
        network = network_of(settings.get("encoder", {}))
    except MocoError:
        return False
    return network == source.spec.network and settings.get("image_size") == source.spec.image_size


def _same_weights(source: Source, file: Path) -> bool:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        there = load_file(file)
    except (OSError, SafetensorError):
        return False
    own = source.weights
    return own.keys() == there.keys() and all(torch.equal(value, there[name]) for name, value in own.items())


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise MocoError(f"{path}: cannot be read ({error}); restore it with `dvc checkout`") from None
    return found if isinstance(found, dict) else {}
