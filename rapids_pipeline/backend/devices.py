"""Which device a run uses, decided once at its start and written down with the reason."""

import os
from dataclasses import dataclass
from typing import Literal

from rapids_pipeline.backend.errors import InputError, UnavailableError

DeviceName = Literal["cpu", "cuda"]
DEVICE_OPTIONS = ("auto", "cpu", "cuda")
CUDA_PACKAGES = ("cupy", "cudf")
CUDA_REMEDY = (
    "install the GPU packages (pip install 'rapids-perturb[gpu-cu13]') on a machine with an NVIDIA driver, "
    "or use --device cpu"
)


@dataclass(frozen=True)
class Device:
    """The chosen device (`name`: "cpu" or "cuda") and, in words, why it was chosen."""

    name: DeviceName
    reason: str


def processor_count() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def why_no_cuda() -> str | None:
    """Return None where the CUDA path can run, otherwise one clause that says what is missing.

    Looks for the packages the CUDA path imports (cupy, cudf) and then for a device that the driver shows.
    """
    for package in CUDA_PACKAGES:
        try:
            __import__(package)
        except Exception as error:  # a broken CUDA installation fails in many ways, never only ImportError
            return f"{package} cannot be imported ({type(error).__name__}: {error})"
    import cupy

    try:
        count = int(cupy.cuda.runtime.getDeviceCount())
    except Exception as error:
        return f"no CUDA device can be reached ({error})"
    return None if count > 0 else "the driver shows no CUDA device"


def resolve_device(requested: str) -> Device:
    """Turn `--device auto|cpu|cuda` into a device.

    Parameters
    ----------
    requested : str
        "cpu" and "cuda" are taken at their word; "auto" takes CUDA where it can run and the CPU otherwise.

    Raises
    ------
    InputError
        `requested` is none of the three.
    UnavailableError
        "cuda" was asked for and cannot run here. Nothing falls back in silence.
    """
    if requested not in DEVICE_OPTIONS:
        raise InputError(f"--device {requested}: choose one of {', '.join(DEVICE_OPTIONS)}")
    if requested == "cpu":
        return Device("cpu", "asked for")
    obstacle = why_no_cuda()
    if obstacle is None:
        return Device("cuda", "asked for" if requested == "cuda" else "auto: a CUDA device is there")
    if requested == "cuda":
        raise UnavailableError(f"--device cuda: {obstacle}; {CUDA_REMEDY}")
    return Device("cpu", f"auto: {obstacle}")
