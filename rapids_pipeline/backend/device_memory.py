"""One pool of device memory for all libraries of a process.

Importing cuDF or cuML makes CuPy and numba take their memory from RMM, whose usual resource asks the driver for every
array (cudaMalloc) and gives it back at once (cudaFree, which waits for the device). Solvers that make many short-lived
arrays would spend their time there. RMM's asynchronous resource is the driver's own pool: it keeps what it has, and all
libraries share it.

Source: RMM, Python user guide, "Using different memory resources"; CUDA Runtime API, stream ordered memory allocator.
"""

import functools
from importlib import import_module
from importlib.util import find_spec


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
