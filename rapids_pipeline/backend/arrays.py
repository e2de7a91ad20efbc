"""Arrays of any library that follows the Python array API standard (numpy, cupy, torch, ...).

Numerical code takes its namespace from its input, `xp = namespace(x)`, and calls only what the standard
has (https://data-apis.org/array-api), so that CPU and GPU run the same lines. Moves between host and
device happen only in `to_device` and `to_host`.

Importing cuDF or cuML makes CuPy and numba take their memory from RMM, whose usual resource asks the driver for every
array (cudaMalloc) and gives it back at once (cudaFree, which waits for the device). Solvers that make many short-lived
arrays would spend their time there. RMM's asynchronous resource is the driver's own pool: it keeps what it has, and all
libraries share it (`share_pool`).

Source: RMM, Python user guide, "Using different memory resources"; CUDA Runtime API, stream ordered memory allocator.
"""

import functools
import os
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rapids_pipeline.backend.devices import DeviceName, processor_count
from rapids_pipeline.backend.errors import InputError

Array = Any
"""An array of any library that `array_api_compat` knows. The standard has no static type yet."""

Float32 = NDArray[np.float32]
"""A numpy array of targets, features or predictions."""
Float64 = NDArray[np.float64]
"""A numpy array that is computed in double precision."""
Floats = NDArray[np.floating[Any]]
"""A numpy array of float32 or float64."""
Indices = NDArray[np.intp]
"""A numpy array of places: rows to take, the level of each row."""
Codes = NDArray[np.int32]
"""A numpy array of the numbers of levels, as they are saved."""
Bins = NDArray[np.uint8]
"""A numpy array of the numbers of quantile bins."""
Mask = NDArray[np.bool_]
"""A numpy array of yes and no."""
Labels = NDArray[np.object_]
"""A numpy array of names."""

ROWS_AT_ONCE = 1024
"""Rows of a large matrix that are worked on at a time, where another matrix of its size would be too much."""

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


class RowSource(ABC):
    """A matrix whose rows are made when they are asked for, since all of them would take much memory."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    @abstractmethod
    def __getitem__(self, rows: slice | Indices) -> Float32:
        """Return some rows, all different, as a matrix."""

    @abstractmethod
    def take(self, which: Indices) -> "RowSource":
        """Return the matrix of some rows, all different, not made yet."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return all rows, for `numpy.asarray`."""
        return np.asarray(self[slice(None)], dtype)


def row_blocks(n: int, step: int = ROWS_AT_ONCE) -> list[slice]:
    """Return n rows as blocks of `step` rows, the last of which may be smaller."""
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def namespace(*arrays: Array) -> Any:
    """Return the array API namespace that all `arrays` share (TypeError where they do not)."""
    from array_api_compat import array_namespace

    return array_namespace(*arrays)


def to_device(x: NDArray[Any], device: DeviceName) -> Array:
    """Copy a host array to `device`: the same array on "cpu", a cupy array on "cuda", in the shared pool of memory."""
    if device == "cpu":
        return x
    import cupy

    share_pool()
    return cupy.asarray(x)


def to_host(x: Array) -> NDArray[Any]:
    """Copy an array of any library to a numpy array; a numpy array is returned as it is."""
    if isinstance(x, np.ndarray):
        return x
    from array_api_compat import is_cupy_array, is_torch_array

    if is_cupy_array(x):
        return np.asarray(x.get())
    if is_torch_array(x):
        return np.asarray(x.detach().cpu().numpy())
    return np.asarray(x)


def multiplied(A: Array, B: Array, dtype: Any, step: int = ROWS_AT_ONCE) -> Array:
    """Return A B, (n, m) times (m, k), in a dtype that A is brought to a block of `step` rows at a time.

    For NumPy the blocks are products of one thread each, on as many processors as there are: where BLAS is limited to
    one thread, no bit depends on their number.
    """
    xp, n = namespace(A, B), A.shape[0]
    blocks = row_blocks(n, step)

    def product(rows: slice) -> Array:
        return xp.astype(A[rows, :], dtype, copy=False) @ B

    if len(blocks) <= 1:
        return product(slice(0, n))
    if not isinstance(A, np.ndarray):
        return xp.concat([product(rows) for rows in blocks])
    found = np.empty((n, B.shape[1]), dtype)

    def place(rows: slice) -> None:
        found[rows] = product(rows)

    with ThreadPoolExecutor(processor_count()) as pool:
        list(pool.map(place, blocks))
    return found


def aligned(shape: tuple[int, ...], dtype: DTypeLike, fill: float = 0.0) -> NDArray[Any]:
    """Return a filled array that starts on a cache line (64 bytes), as passes of vector instructions like it."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(count + 64, np.uint8)
    start = -memory.ctypes.data % 64
    array = memory[start : start + count].view(dtype).reshape(shape)
    array[...] = fill
    return array


def checked_weights(given: Any, n_rows: int) -> Float64:
    """Return the sample weights of `n_rows` rows on the host; InputError where they are none, or all 0."""
    try:
        weights = np.array(to_host(given), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("sample_weight must be numbers, one for every row") from error
    if weights.shape != (n_rows,):
        raise InputError(f"sample_weight must be ({n_rows},), one number for every row, not {weights.shape}")
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        raise InputError(
            f"sample_weight must be finite and at least 0, not {weights[bad[0]]} (row {bad[0]}, from 0)"
        )
    if not weights.any():
        raise InputError("sample_weight is zero for every row: there is nothing to learn from")
    return weights


def is_on_cuda(x: Array) -> bool:
    """Say whether an array lives on an NVIDIA GPU."""
    from array_api_compat import is_cupy_array, is_torch_array

    return is_cupy_array(x) or (is_torch_array(x) and bool(x.is_cuda))


def available_bytes(like: Any) -> int:
    """Return the bytes that are free where `like` lives: its CUDA device, or else this machine."""
    from array_api_compat import is_cupy_array, is_torch_array

    if is_cupy_array(like):
        import cupy

        pool = cupy.get_default_memory_pool()
        return int(cupy.cuda.runtime.memGetInfo()[0]) + int(pool.free_bytes())
    if is_torch_array(like) and like.is_cuda:
        import torch

        return int(torch.cuda.mem_get_info(like.device)[0])
    return host_bytes()


def host_bytes() -> int:
    """Return what the machine can still give: free memory and caches, within the container's limit if there is one.

    Where the system does not say what is available, the size of its memory.
    """
    room = _control_group_room()
    for line in MEMINFO.read_text().splitlines() if MEMINFO.exists() else ():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
            return free if room is None else min(free, room)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def gigabytes(size: float) -> str:
    """Return a number of bytes as text, "1.6 GB"."""
    return f"{size / 1e9:.1f} GB"


def _control_group_room() -> int | None:
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        return None if limit == "max" else int(limit) - int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return None


@functools.cache
def share_pool() -> bool:
    """Make RMM hand out memory of the driver's pool, unless another resource was chosen before; say whether it does.

    Without RMM nothing is done: CuPy then has a pool of its own. Nor where the driver has no such pool, as on some
    virtual GPUs: results are the same, and slower.
    """
    if find_spec("rmm") is None:
        return False
    mr = import_module("rmm.mr")
    if type(mr.get_current_device_resource()) is not mr.CudaMemoryResource:
        return False
    try:
        pool = mr.CudaAsyncMemoryResource()
    except (RuntimeError, MemoryError):
        return False
    mr.set_current_device_resource(pool)
    return True
