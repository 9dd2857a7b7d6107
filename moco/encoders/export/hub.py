"""A folder to publish: the encoder, and a model card that says what is known of it."""

from pathlib import Path

from moco.encoders.export.card import card
from moco.encoders.export.evidence import evidence
from moco.encoders.export.source import Source
from moco.encoders.export.target import Features, Target
from moco.encoders.frozen import load_encoder, save_encoder
from moco.files import write_text


def write(source: Source, path: Path) -> None:
    """Write encoder.safetensors, encoder.json and README.md.

    What the project in the working folder has measured is told if it was of these very weights.
    """
    save_encoder(path, source.encoder.backbone, source.spec)
    write_text(path / "README.md", card(source.spec, source.label, evidence(source, Path())))


def read(source: Source, path: Path) -> Features:
    """Read the folder as the card says."""
    return load_encoder(path).embed


def how(source: Source, path: Path) -> str:
    """Give the call, and what a person has to add."""
    lacking = evidence(source, Path()).lacking
    without = f"; it has {lacking}" if lacking else ""
    return f'moco.encoders.load_encoder("{path}"); add a license to {path / "README.md"}{without}'


TARGET = Target((), write, read, how)
