"""Arrays written to .npy files row by row.

Plain writing, for a memory map of a file that the disk has no room for ends the process (SIGBUS)
where a write gives an error. Reading damaged files gives None, never a traceback.
"""

import stat
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def begin(file: IO[bytes], dtype: DTypeLike, shape: tuple[int, ...]) -> None:
    """Write the header at the file's start; rows follow as bytes, in order."""
    file.seek(0)
    about = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)


def mapped(path: Path, writable_copy: bool = False) -> NDArray[Any] | None:
    """Map a file's array without reading it; None: it is no whole .npy file of plain numbers.

    Args:
        path: the file.
        writable_copy: whether writing to the array is allowed, which changes no file.

    Raises:
        FileNotFoundError: there is none.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        found: NDArray[Any] = np.load(path, mmap_mode="c" if writable_copy else "r", allow_pickle=False)
        return found if isinstance(found, np.ndarray) else None
    except FileNotFoundError:
        raise
    except Exception:  # numpy raises one of many kinds, tokenize's and the parser's among them
        return None
