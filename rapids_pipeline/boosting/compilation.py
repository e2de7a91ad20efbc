"""How the loops of boosting are compiled, and kept on disk."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

SOURCES = (
    "compilation.py",
    "row_weights.py",
    "exact_vectors.py",
    "exact_search.py",
    "exact_small.py",
    "exact_kernels.py",
    "histogram_vectors.py",
    "histogram_search.py",
    "histogram_kernels.py",
)
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba; it becomes part of the functions that are cached on disk."""
    return njit(**OPTIONS)(function)  # type: ignore[no-any-return]


def compiled_reductions(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba, sums in the order that suits vectors."""
    options = OPTIONS | {"fastmath": OPTIONS["fastmath"] | {"reassoc"}}
    return njit(**options)(function)  # type: ignore[no-any-return]


def compiled_and_cached(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba, cached beside this file or in the user's cache folder, where one can be written."""
    try:
        return njit(cache=True, **OPTIONS)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # numba: "cannot cache function ...: no locator available"
        return compiled(function)


def source_stamp() -> int:
    """Return a checksum of everything the engines of our own are compiled from (0 where the sources are not there)."""
    try:
        return zlib.crc32(b"".join((Path(__file__).parent / name).read_bytes() for name in SOURCES))
    except OSError:
        return 0
