"""One file of weights with its description, which this project reads alone."""

from pathlib import Path

from moco.encoders.export.source import Source
from moco.encoders.export.target import Features, Target
from moco.encoders.frozen import load_encoder, weights_file
from moco.files import write_bytes


def write(source: Source, path: Path) -> None:
    """Write the same bytes as `save_encoder` does."""
    write_bytes(path, weights_file(source.encoder.backbone, source.spec))


def read(source: Source, path: Path) -> Features:
    """Read the file without any beside it."""
    return load_encoder(path).embed


def how(source: Source, path: Path) -> str:
    """Give the calls."""
    return f'moco.encoders.load_encoder("{path}"), or moco embed PHOTOS --encoder {path}'


TARGET = Target((".safetensors",), write, read, how)
