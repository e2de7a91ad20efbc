"""The NVIDIA driver and its GPUs, asked for through the driver's own libraries, so that no package need be installed.

Source: CUDA Driver API (cuInit, cuDriverGetVersion, cuDeviceGet…) and NVML (nvmlSystemGetDriverVersion), both part of
the driver: libcuda.so.1 and libnvidia-ml.so.1. In a container they are there when it was started with a GPU.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LIBRARY, MANAGEMENT_LIBRARY = "libcuda.so.1", "libnvidia-ml.so.1"
NO_DEVICE = 100
MAJOR, MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""

Version = tuple[int, int]


@dataclass(frozen=True)
class Gpu:
    """One device: its name, compute capability (major, minor) and memory in bytes."""

    name: str
    compute_capability: Version
    memory_bytes: int


@dataclass(frozen=True)
class Driver:
    """The driver: the newest CUDA it can run (major, minor), its own version ("" where unknown), its devices."""

    cuda: Version
    version: str
    gpus: tuple[Gpu, ...]


class DriverMissingError(Exception):
    """There is no driver that can be used; the message says what was tried and what it answered."""


def read_driver(load: Callable[[str], Any] = ctypes.CDLL) -> Driver:
    """Return the driver of this machine; `load` opens a shared library by its name.

    Raises
    ------
    DriverMissingError
        libcuda.so.1 is not there, or does not start for another reason than that it finds no device.
    """
    try:
        cuda = load(LIBRARY)
    except OSError:
        raise DriverMissingError(f"the NVIDIA driver is missing ({LIBRARY} cannot be loaded)") from None
    newest = ctypes.c_int()
    _check(cuda, cuda.cuDriverGetVersion(ctypes.byref(newest)))
    status = cuda.cuInit(0)
    if status != NO_DEVICE:
        _check(cuda, status)
    gpus = () if status == NO_DEVICE else _gpus(cuda)
    return Driver((newest.value // 1000, newest.value % 1000 // 10), _driver_version(load), gpus)


def _gpus(cuda: Any) -> tuple[Gpu, ...]:
    count = ctypes.c_int()
    _check(cuda, cuda.cuDeviceGetCount(ctypes.byref(count)))
    return tuple(_gpu(cuda, place) for place in range(count.value))


def _gpu(cuda: Any, place: int) -> Gpu:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    _check(cuda, cuda.cuDeviceGet(ctypes.byref(device), place))
    _check(cuda, cuda.cuDeviceGetName(name, len(name), device))
    _check(cuda, cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device))
    capability = [ctypes.c_int(), ctypes.c_int()]
    for found, attribute in zip(capability, (MAJOR, MINOR), strict=True):
        _check(cuda, cuda.cuDeviceGetAttribute(ctypes.byref(found), attribute, device))
    return Gpu(name.value.decode(errors="replace"), (capability[0].value, capability[1].value), memory.value)


def _check(cuda: Any, status: int) -> None:
    if status:
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(status, ctypes.byref(text))
        said = text.value.decode(errors="replace") if text.value else "no explanation"
        raise DriverMissingError(f"the NVIDIA driver does not start (CUDA error {status}: {said})")


def _driver_version(load: Callable[[str], Any]) -> str:
    """Return the driver's own version, such as "580.65.06"; "" where its management library is not there."""
    try:
        management = load(MANAGEMENT_LIBRARY)
    except OSError:
        return ""
    if management.nvmlInit_v2():
        return ""
    text = ctypes.create_string_buffer(96)
    failed = management.nvmlSystemGetDriverVersion(text, len(text))
    management.nvmlShutdown()
    return "" if failed else text.value.decode(errors="replace")
