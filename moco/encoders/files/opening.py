"""From a path to what a file holds: its kind by its first bytes, and one line for what is none."""

import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moco.encoders.files.inert import PLAIN, Pickle, StandIn
from moco.errors import MocoError
from moco.files import readable

_MAGIC = 0x1950A86A20F9469CFC6C  # torch's, of files without zip


@dataclass(frozen=True)
class Opened:
    """What a file holds, unread.

    Attributes:
        path: of the file itself.
        size: bytes.
        kind: "torch", "pickle" or "safetensors".
        content: as saved; classes that are not let in are `StandIn`.
        metadata: of a safetensors file.
        left_out: names of those classes, except the plainest.
    """

    path: Path
    size: int
    kind: str
    content: Mapping[str, Any]
    metadata: dict[str, str]
    left_out: tuple[str, ...] = ()


def open_file(path: Path) -> Opened:
    """Open a file of torch.save, of pickled arrays or of safetensors; nothing in it is run.

    Args:
        path: the file, or an encoder's folder of ours.

    Raises:
        MocoError: there is none, or it is none of these; says what it is instead.
    """
    try:
        if path.is_dir():
            path = _in_folder(path)
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise MocoError(f"{path}: {error.strerror or error}; name a checkpoint file that can be read") from None
    if _is_safetensors(head):
        return _safetensors(path, size)
    if zipfile.is_zipfile(path):
        return _of_torch(path, size)
    if head.startswith(b"\x80"):
        return _of_pickle(path, size)
    raise MocoError(f"{path}: {_what_else(head, size)}")


def _in_folder(path: Path) -> Path:
    inside = sorted(entry for entry in path.iterdir() if entry.is_file())
    if path / "encoder.safetensors" in inside:
        return path / "encoder.safetensors"
    likely = [file.name for file in inside if re.search(r"\.(pt|pth|ckpt|tar|pkl|bin|safetensors|torch)$", file.name)]
    such = f", such as {likely[-1]}" if likely else ""
    raise MocoError(f"{path}: is a folder; name a file of weights in it{such}")


def _what_else(head: bytes, size: int) -> str:
    """Say what a file is that holds no weights, and what to do."""
    text = head.lstrip().lower()
    if not size:
        return "is empty; download or copy it again"
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself; `git lfs pull` fetches it"
    if text.startswith((b"<!doctype html", b"<html")):
        return "is a web page (HTML), not weights; download the file itself"
    if head.startswith(b"PK\x03\x04"):
        return f"is cut short or damaged ({readable(size)} of a file of torch.save); download or copy it again"
    if head.startswith((b"\x1f\x8b", b"\xfd7zXZ", b"BZh", b"\x28\xb5\x2f\xfd")) or head[257:262] == b"ustar":
        return "is an archive or compressed; unpack it, and name the checkpoint in it"
    if not any(byte < 9 for byte in head):
        return "is a text file, not weights; name a file of torch.save, safetensors or pickled arrays"
    return "is not a readable checkpoint: no file of torch.save, safetensors or pickled arrays, or not whole; save model.state_dict() with torch.save"


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and 0 < struct.unpack("<Q", head[:8])[0] < 10**8


def _safetensors(path: Path, size: int) -> Opened:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            return Opened(path, size, "safetensors", content, dict(file.metadata() or {}))
    except Exception as error:
        raise _damaged(path, error) from None


def _of_torch(path: Path, size: int) -> Opened:
    """Read a file of torch.save, zipped or in the form of old versions."""
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:  # ValueError: a name that is no text
            raise _damaged(path, error) from None
        if any(name.endswith("/constants.pkl") for name in names):
            raise MocoError(
                f"{path}: is a TorchScript program; load it with torch.jit.load and torch.save its state_dict()"
            )
        if not any(name.endswith("data.pkl") for name in names):
            raise MocoError(f"{path}: is a zip archive without weights of torch.save; unpack it, and name the file")
    reader = Pickle(size)
    try:
        content = torch.load(path, map_location="cpu", pickle_module=reader, weights_only=False)
        reader.check_filled()
    except Exception as error:  # damaged pickles end in errors of every kind
        raise _damaged(path, error) from None
    return Opened(path, size, "torch", _mapping(content, path), {}, tuple(sorted(reader.left_out - PLAIN)))


def _of_pickle(path: Path, size: int) -> Opened:
    reader = Pickle(size)
    try:
        with path.open("rb") as file:
            content = reader.load(file, encoding="latin1")
    except Exception as error:
        raise _damaged(path, error) from None
    if content == _MAGIC:
        return _of_torch(path, size)
    return Opened(path, size, "pickle", _mapping(content, path), {}, tuple(sorted(reader.left_out - PLAIN)))


def _mapping(content: Any, path: Path) -> Mapping[str, Any]:
    if isinstance(content, StandIn) and "_modules" in content.attributes:
        return {"model": content}  # a whole module
    if not isinstance(content, Mapping) or (isinstance(content, StandIn) and not content):
        kind = getattr(content, "made_of", None) or type(content).__name__
        raise MocoError(f"{path}: holds a {kind}, not a state dict; save model.state_dict()")
    return content


def _damaged(path: Path, error: Exception) -> MocoError:
    kind = "" if isinstance(error, (pickle.UnpicklingError, EOFError)) else f" ({type(error).__name__})"
    return MocoError(
        f"{path}: is not a readable checkpoint{kind}: cut short, damaged, or of another program; download or copy it"
        " again, or save model.state_dict() with torch.save"
    )
