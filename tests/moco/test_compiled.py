"""Functions are compiled where nothing can be kept too."""

import numba
from numba.core import caching

from moco.compiled import cached


def test_a_package_that_cannot_be_written_compiles_without_a_cache(monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    assert cached(numba.njit, nogil=True)(lambda x: x + 1)(1) == 2
    assert cached(numba.vectorize, ["int64(int64)"])(lambda x: x + 1)(1) == 2
