"""Checkpoints: written whole or not at all, the last few kept, a damaged one passed over."""

import os
import re
from pathlib import Path
from typing import Any

import torch

from moco.errors import MocoError

_NAME = re.compile(r"step-(\d{9})\.pt")


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write step-NNNNNNNNN.pt and delete all but the newest `keep`.

    The bytes go to a temporary name, reach the disk, and only then take the final name, so that a crash or
    a full disk leaves the earlier checkpoints as they were.

    Args:
        folder: made if missing.
        step: steps done.
        state: tensors and plain types only, so that it loads without running code.
        keep: at least 1.

    Raises:
        MocoError: the disk is full or not writable.
    """
    path = folder / f"step-{step:09d}.pt"
    part = path.with_suffix(".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(folder)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        part.unlink(missing_ok=True)
        reason = str(error).splitlines()[0]
        raise MocoError(
            f"{path}: the checkpoint could not be written ({reason}); free some space, the run goes on from the one before"
        ) from None
    for old in _newest_first(folder)[keep:]:
        old.unlink()
    return path


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, or None; one that cannot is named and passed over."""
    for path in _newest_first(folder):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a truncated file raises one of many kinds
            print(
                f"pretrain: {path.name} cannot be read ({str(error).splitlines()[0]}); trying the one before",
                flush=True,
            )
    return None


def _newest_first(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
