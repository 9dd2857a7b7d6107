"""Numba's compilers, whose results are kept on disk wherever that is possible.

A read-only package in a container without a home leaves numba no folder for them; it then compiles
once a process.
"""

from collections.abc import Callable
from typing import Any

_not_kept: list[str] = []


def keeps_results() -> bool:
    """Tell whether numba found a folder for every function compiled so far."""
    return not _not_kept


def cached(compiler: Callable[..., Any], *arguments: Any, **options: Any) -> Callable[[Any], Any]:
    """Give a decorator: `@cached(numba.njit, nogil=True)`.

    Args:
        compiler: `numba.njit` or `numba.vectorize`.
        arguments: the compiler's.
        options: likewise, without `cache`.
    """

    def decorate(function: Any) -> Any:
        try:
            return compiler(*arguments, cache=True, **options)(function)
        except RuntimeError as error:
            if "no locator available" not in str(error):
                raise
            _not_kept.append(function.__name__)
            return compiler(*arguments, **options)(function)

    return decorate
