"""Arrays of any library that follows the Python array API standard (numpy, cupy, torch, ...).

Numerical code takes its namespace from its input, `xp = namespace(x)`, and calls only what the standard
has (https://data-apis.org/array-api), so that CPU and GPU run the same lines. Moves between host and
device happen only in `to_device` and `to_host`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.memory import share_pool

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


def is_on_cuda(x: Array) -> bool:
    """Say whether an array lives on an NVIDIA GPU."""
    from array_api_compat import is_cupy_array, is_torch_array

    return is_cupy_array(x) or (is_torch_array(x) and bool(x.is_cuda))
