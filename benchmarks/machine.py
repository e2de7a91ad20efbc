"""What a benchmark ran on: processor, GPU, driver and versions, for its report."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from rapids_pipeline.backend.nvidia_driver import DriverMissingError, read_driver


def processor() -> str:
    """Return the processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu() -> dict[str, Any] | None:
    """Return the first GPU's name, compute capability, memory, driver and its CUDA; None where there is none."""
    try:
        driver = read_driver()
    except DriverMissingError:
        return None
    if not driver.gpus:
        return None
    first = driver.gpus[0]
    return {
        "name": first.name,
        "compute_capability": ".".join(map(str, first.compute_capability)),
        "memory_gib": round(first.memory_bytes / 2**30, 1),
        "driver": driver.version,
        "cuda": ".".join(map(str, driver.cuda)),
    }


def described() -> dict[str, Any]:
    """Return the machine as a report names it."""
    return {
        "processor": processor(),
        "cores": cores(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "gpu": gpu(),
    }


def all_versions() -> dict[str, str]:
    """Return the version of every package that is installed, by name."""
    found = {package.metadata["Name"]: package.version for package in metadata.distributions()}
    return {"python": platform.python_version()} | dict(
        sorted(found.items(), key=lambda item: item[0].lower())
    )


def named(machine: dict[str, Any]) -> str:
    """Return the machine as one line: processor, cores and GPU."""
    card = machine["gpu"]
    shown = f"{card['name']} (driver {card['driver']}, CUDA {card['cuda']})" if card else "no GPU"
    return f"{machine['processor']}, {machine['cores']} cores; {shown}"
