"""Checkpoints: written whole or not at all, the last few kept, a damaged one passed over."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from moco.errors import MocoError, first_line
from moco.files import whole_file

_NAME = re.compile(r"step-(\d{9})\.pt")


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write step-NNNNNNNNN.pt and delete all but the newest `keep`.

    The bytes go to a temporary name, reach the disk, and only then take the final name, so that a
    crash or a full disk leaves the earlier checkpoints as they were.

    Args:
        folder: made if missing.
        step: steps done.
        state: tensors and plain types only, so that it loads without running code.
        keep: at least 1.

    Raises:
        MocoError: the disk is full or not writable.
    """
    path = folder / name_of(step)
    _write(path, lambda file: torch.save(state, file))
    for old in _newest_first(folder)[keep:]:
        old.unlink(missing_ok=True)
    return path


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file received from another host, whole or not at all; errors as in `save`."""
    _write(path, lambda file: file.write(content))


def forget(folder: Path) -> None:
    """Remove every checkpoint of a run that nobody will resume."""
    for path in _newest_first(folder):
        path.unlink(missing_ok=True)


def name_of(step: int) -> str:
    """File name of the checkpoint after this many steps."""
    return f"step-{step:09d}.pt"


def newest_step(folder: Path) -> int:
    """Count the steps done at the newest checkpoint, readable or not; 0 without one."""
    return next((int(_NAME.fullmatch(path.name)[1]) for path in _newest_first(folder)), 0)  # type: ignore[index]


def load_newest(folder: Path, say: bool = True) -> dict[str, Any] | None:
    """Load the newest checkpoint that can be read, or None.

    One that cannot is named and passed over.

    Args:
        say: whether to name them; one of several processes is enough.
    """
    for path in _newest_first(folder):
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(found, dict) and isinstance(found.get("step"), int):
                return found
            raise ValueError("it is no checkpoint of a run")
        except Exception as error:  # a truncated file raises one of many kinds
            if say:
                print(f"pretrain: {path.name} cannot be read ({first_line(error)}); trying the one before", flush=True)
    return None


def _write(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    file = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part, _File(part) as file:
            write(file)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) or file is None else file.error or error
        reason = getattr(cause, "strerror", None) or first_line(cause)
        raise MocoError(
            f"{path}: could not be written ({reason}); free some space, the run resumes from the checkpoint before"
        ) from None


class _File(io.FileIO):
    """A file to write that keeps the reason for a failure, which torch does not name."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w")
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            written = 0
            with memoryview(data).cast("B") as rest:
                while written < len(rest):  # a full disk takes a part before it refuses
                    written += super().write(rest[written:])
            return written
        except OSError as error:
            self.error = error
            raise


def _newest_first(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)
