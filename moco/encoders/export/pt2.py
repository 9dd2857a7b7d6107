"""One program of torch.export: runs where torch is, without this project."""

import io
import json
from pathlib import Path

import torch
from torch import Tensor

from moco.devices import full_precision
from moco.encoders.export.deployed import traced
from moco.encoders.export.source import Source
from moco.encoders.export.target import Features, Target, description

METADATA = "encoder.json"
"""Name of the description among the program's extra files."""


def write(source: Source, path: Path) -> None:
    """Write the program and its description."""
    text = json.dumps(description(source.spec) | source.spec.values(), indent=2)
    made = io.BytesIO()  # torch does not name a full disk
    torch.export.save(traced(source), made, extra_files={METADATA: text})
    path.write_bytes(made.getbuffer())


def read(source: Source, path: Path) -> Features:
    """Load the program alone."""
    module = torch.export.load(path).module()

    def features(images: Tensor) -> Tensor:
        with full_precision(), torch.no_grad():
            found: Tensor = module(images)
        return found

    return features


def how(source: Source, path: Path) -> str:
    """Give the call."""
    size = source.spec.image_size
    return f'torch.export.load("{path}").module()(images), images uint8 N x 3 x {size} x {size}, RGB'


TARGET = Target((".pt2",), write, read, how)
