"""What stands where an export is to be written: only one of the same kind is replaced."""

import json
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import torch

EMPTY = "an empty folder"
CARD = ("README.md", "encoder.json", "encoder.safetensors")


def kind_of_file(path: Path) -> str | None:
    """Name the target that wrote a file or folder, or what else it is; None: nothing is there."""
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        if not names:
            return EMPTY
        return "hub" if set(names) == set(CARD) else f"a folder with {names[0]} in it"
    if not path.exists():
        return None
    if not path.is_file():
        return "no plain file"
    with path.open("rb") as file:
        head = file.read(64)
    if head[8:9] == b"{" and path.suffix == ".safetensors":
        return _of_safetensors(path)
    if head[:4] == b"PK\x03\x04":
        return _of_archive(path)
    if head[:1] == b"\x80" and b"matching_heuristics" in path.read_bytes():
        return "detectron2"
    if path.suffix == ".onnx" and head[:1] == b"\x08":  # field 1 of a model: its version
        return "onnx"
    return "an empty file" if not head else "another kind of file"


def _of_archive(path: Path) -> str:
    try:
        with ZipFile(path) as archive:
            names = archive.namelist()
    except BadZipFile:
        return "a damaged archive"
    if any("/models/" in name for name in names):
        return "pt2"
    if not any(name.endswith("/data.pkl") for name in names):
        return "an archive"
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # of any program, in any state
        return "a file of torch.save that holds more than weights"
    if not isinstance(loaded, Mapping):
        return "a file of torch.save that is no state dict"
    if {"state_dict", "arch"} <= loaded.keys():
        return "official"
    if {"model", "settings"} <= loaded.keys():
        return "a run's checkpoint"
    tensors = all(isinstance(value, torch.Tensor) for value in loaded.values())
    return "torchvision" if tensors else "a file of torch.save that holds more than weights"


def _of_safetensors(path: Path) -> str:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            metadata = json.loads(file.read(min(length, 1 << 26))).get("__metadata__", {})
        except ValueError:
            return "a damaged file of safetensors"
    if path.with_name("encoder.json").exists():
        return "a part of an encoder's folder"
    return "safetensors" if "encoder" in metadata else "a file of safetensors without our description"
