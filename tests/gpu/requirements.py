"""What a GPU test needs, or the reason why it is skipped: a package, or the device, each in words of its own."""

from importlib import import_module
from importlib.util import find_spec

import pytest

from rapids_pipeline.backend.devices import DriverMissingError, read_driver


def why_no_device() -> str | None:
    """Return None where the driver shows a CUDA device, asking the driver alone."""
    try:
        gpus = read_driver().gpus
    except DriverMissingError as error:
        return f"no CUDA device: {error}"
    return None if gpus else "no CUDA device: the driver shows none"


def why_not(*packages: str) -> str | None:
    """Return None where the packages can be imported and there is a device, otherwise the first obstacle."""
    for package in packages:
        if find_spec(package) is None:
            return f"{package} is not installed"
    obstacle = why_no_device()
    if obstacle is not None:
        return obstacle
    for package in packages:
        try:
            import_module(package)
        except Exception as error:
            return " ".join(f"{package} cannot be imported ({type(error).__name__}: {error})".split())[:300]
    return None


def need(*packages: str) -> None:
    """Skip the test where one of the packages or the device is missing."""
    obstacle = why_not(*packages)
    if obstacle is not None:
        pytest.skip(obstacle)


on_gpu = pytest.param("cuda", marks=pytest.mark.gpu)
"""The parameter of a test that also runs with a stand-in on the CPU, where its other parameter is "cpu"."""
