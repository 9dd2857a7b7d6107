"""Public data sets by torchvision, with errors in one line that names the folder."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moco.errors import MocoError


def download(name: str, folder: Path, load: Callable[[], Any]) -> Any:
    """Load a data set, which torchvision downloads if need be.

    Raises:
        MocoError: it is not complete in the folder and cannot be downloaded.
    """
    try:
        return load()
    except (OSError, RuntimeError, EOFError) as error:
        raise MocoError(
            f"{name}: not complete in {folder}, and torchvision cannot download it ({reason(error)});"
            " put its archives there, or correct fetch.path"
        ) from None


def reason(error: Exception) -> str:
    """Shorten an error of a tool or a library to part of a line."""
    if isinstance(error, FileNotFoundError):
        return f"no {error.filename}"
    said = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
    lines = [line.strip() for line in str(said).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:160]
