"""The machine: its packages' versions, its GPUs, what a run on one lacks, and which device a run uses.

What a GPU run needs is checked in this order: the driver, the newest CUDA it can run, the GPUs' compute capability, the
packages' versions, and, once all that is right, whether CuPy and cuDF can be imported and a first kernel compiles and
runs. Each thing that is missing comes with its remedy.

    packages for   driver      CUDA of the driver   compute capability
    CUDA 13        580 or newer    13.0                 7.5 (Turing)
    CUDA 12        535 or newer    12.2                 7.0 (Volta)

The driver is asked through NVML, which is part of it: in a container it is there when that was started with a GPU.

Source: RAPIDS platform support, release 26.10 (https://docs.nvidia.com/datascience/platform-support/). The versions of
the packages are those of the extras gpu-cu13 and gpu-cu12 in pyproject.toml; a test compares the two.
"""

import hashlib
import os
import platform
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from packaging.specifiers import SpecifierSet

from rapids_pipeline.backend.errors import InputError, ProblemsError, meant

VERSION = "0.3.0"
"""Of this package; pyproject.toml says the same."""
DeviceName = Literal["cpu", "cuda"]
DEVICE_OPTIONS = ("auto", "cpu", "cuda")

RECORDED_PACKAGES = (
    "numpy scipy pandas pyarrow narwhals scikit-learn numba xgboost xgboost-cpu py-boost safetensors rdkit torch "
    "transformers anndata optuna himalaya cupy-cuda12x cupy-cuda13x cudf-cu12 cudf-cu13 cuml-cu12 cuml-cu13"
).split()
"""Packages that can change numbers."""
INSTALL = "pip install '.[gpu-cu{cuda}]' (docs/guide/install.md)"

Version = tuple[int, int]


@dataclass(frozen=True)
class Gpu:
    """One device: its name, compute capability (major, minor) and memory in bytes."""

    name: str
    compute_capability: Version
    memory_bytes: int


@dataclass(frozen=True)
class Driver:
    """The driver: the newest CUDA it can run (major, minor), its own version, and the devices a program sees."""

    cuda: Version
    version: str
    gpus: tuple[Gpu, ...]


class DriverMissingError(Exception):
    """There is no driver that can be used; the message says what was tried and what it answered."""


@dataclass(frozen=True)
class Platform:
    """What packages built for one major version of CUDA need of the machine."""

    driver: str
    cuda: Version
    compute_capability: Version


PLATFORMS = {12: Platform("535", (12, 2), (7, 0)), 13: Platform("580", (13, 0), (7, 5))}


@dataclass(frozen=True)
class Package:
    """A package of the GPU path.

    Attributes
    ----------
    name : str
        Of the Python module or project.
    distributions : tuple of str
        The names it is installed under: for CUDA 13, for CUDA 12, from conda.
    versions : SpecifierSet
        The supported ones.
    needed : bool
        Whether every GPU run needs it; the others are engines, chosen by name.
    """

    name: str
    distributions: tuple[str, ...]
    versions: SpecifierSet
    needed: bool


PACKAGES = (
    Package("cupy", ("cupy-cuda13x", "cupy-cuda12x", "cupy"), SpecifierSet(">=14.1.1"), True),
    Package("cudf", ("cudf-cu13", "cudf-cu12", "cudf"), SpecifierSet("==26.10.*"), True),
    Package("cuml", ("cuml-cu13", "cuml-cu12", "cuml"), SpecifierSet("==26.10.*"), False),
    Package("py-boost", ("py-boost",), SpecifierSet("==0.5.2"), False),
)


@dataclass(frozen=True)
class Found:
    """A package as it is installed here: its distributions' names and versions, none where it is not."""

    package: Package
    installed: tuple[tuple[str, str], ...]

    @property
    def cuda_majors(self) -> set[int]:
        """Return the major versions of CUDA that the installed distributions are built for, as their names say."""
        found = (re.search(r"cu(?:da)?(\d\d)x?$", name) for name, _ in self.installed)
        return {int(match[1]) for match in found if match}


@dataclass(frozen=True)
class Problem:
    """Something a GPU run lacks (`what`, one clause) and what to do about it (`remedy`)."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


def read_driver() -> Driver:
    """Return the driver of this machine and the GPUs that CUDA_VISIBLE_DEVICES lets a program see.

    Raises
    ------
    DriverMissingError
        Its library NVML is not there, or does not answer.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            cuda = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
            gpus = tuple(_gpu(pynvml, handle) for handle in _visible(pynvml))
            return Driver((cuda // 1000, cuda % 1000 // 10), str(pynvml.nvmlSystemGetDriverVersion()), gpus)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError_LibraryNotFound:
        raise DriverMissingError("the NVIDIA driver is missing (its library NVML is not found)") from None
    except pynvml.NVMLError as error:
        raise DriverMissingError(f"the NVIDIA driver does not start (NVML: {error})") from None


def found_packages() -> list[Found]:
    """Return what is installed here of every package of the GPU path."""
    versions = {name: installed_version(name) for package in PACKAGES for name in package.distributions}
    here = {name: version for name, version in versions.items() if version is not None}
    return [
        Found(one, tuple((name, here[name]) for name in one.distributions if name in here))
        for one in PACKAGES
    ]


def gpu_problems(
    read: Callable[[], Driver] = read_driver, look: Callable[[], list[Found]] = found_packages
) -> list[Problem]:
    """Return what a GPU run lacks on this machine; an empty list where it can start.

    Packages that only single engines need are looked at where they are installed. cuDF and CuPy are imported, and a
    kernel is run, only where everything before is right.
    """
    packages = look()
    problems = driver_problems(read, cuda_of(packages)) + package_problems(packages)
    return problems or start_problems()


def cuda_of(packages: Iterable[Found]) -> int:
    """Return the major version of CUDA that the packages are built for: the newest found, 13 where none says."""
    return max((major for found in packages for major in found.cuda_majors), default=13)


def driver_problems(read: Callable[[], Driver], cuda: int) -> list[Problem]:
    """Return what the driver and the GPUs lack for packages built for CUDA `cuda`."""
    wanted = PLATFORMS.get(cuda, PLATFORMS[max(PLATFORMS)])
    try:
        driver = read()
    except DriverMissingError as error:
        remedy = f"install driver {wanted.driver} or newer (in a container: docker run --gpus all)"
        return [Problem(str(error), remedy)]
    problems = []
    if driver.cuda < wanted.cuda:
        named = f"the NVIDIA driver {driver.version}".rstrip()
        older = " or the packages for CUDA 12" if cuda > 12 and driver.cuda >= PLATFORMS[12].cuda else ""
        problems.append(
            Problem(
                f"{named} runs CUDA up to {_dotted(driver.cuda)}, and the packages here need {_dotted(wanted.cuda)}",
                f"install driver {wanted.driver} or newer{older}",
            )
        )
    if not driver.gpus:
        problems.append(
            Problem(
                "the driver shows no CUDA device",
                "check nvidia-smi and CUDA_VISIBLE_DEVICES (in a container: docker run --gpus all)",
            )
        )
    elif driver.gpus[0].compute_capability < wanted.compute_capability:
        gpu = driver.gpus[0]
        problems.append(
            Problem(
                f"{gpu.name} has compute capability {_dotted(gpu.compute_capability)}, and RAPIDS for CUDA {cuda} "
                f"needs {_dotted(wanted.compute_capability)}",
                "use a newer GPU" + (" or the packages for CUDA 12" if cuda > 12 else ""),
            )
        )
    return problems


def package_problems(packages: Iterable[Found]) -> list[Problem]:
    """Return which packages are missing, doubly installed, of an unsupported version or for different CUDAs."""
    packages = list(packages)
    cuda = cuda_of(packages)
    problems = []
    for found in packages:
        name, here = found.package.name, found.installed
        if not here and found.package.needed:
            problems.append(Problem(f"{name} is not installed", INSTALL.format(cuda=cuda)))
        if len(here) > 1:
            both = " and ".join(distribution for distribution, _ in here)
            remedy = f"pip uninstall {' '.join(d for d, _ in here)}, then {INSTALL.format(cuda=cuda)}"
            problems.append(Problem(f"{both} are both installed and overwrite each other", remedy))
        problems += [
            Problem(
                f"{distribution} {version} is not supported (supported: {name}{found.package.versions})",
                "pip install --no-deps py-boost==0.5.2" if name == "py-boost" else INSTALL.format(cuda=cuda),
            )
            for distribution, version in here
            if not found.package.versions.contains(version, prereleases=True)
        ]
    majors = sorted({major for found in packages for major in found.cuda_majors})
    if len(majors) > 1 and all(len(found.installed) < 2 for found in packages):
        named = ", ".join(d for found in packages for d, _ in found.installed if found.cuda_majors)
        problems.append(
            Problem(
                f"the packages are for different versions of CUDA ({named})",
                f"uninstall those for CUDA {majors[0]}, then {INSTALL.format(cuda=cuda)}",
            )
        )
    return problems


def start_problems() -> list[Problem]:
    """Return what keeps CuPy and cuDF from being imported and a first kernel from running."""
    for package in ("cupy", "cudf"):
        try:
            __import__(package)
        except Exception as error:  # a broken CUDA installation fails in many ways, never only ImportError
            what = f"{package} cannot be imported ({type(error).__name__}: {_first_line(error)})"
            return [Problem(what, "install it anew: " + INSTALL.format(cuda=cuda_of(found_packages())))]
    import cupy

    try:
        total = int(cupy.arange(4, dtype=cupy.int32).sum())
    except Exception as error:
        what = f"CuPy cannot run a first kernel ({type(error).__name__}: {_first_line(error)})"
        return [Problem(what, "check that no other program holds the GPU's memory, and install CuPy anew")]
    return [] if total == 6 else [Problem(f"CuPy says that 0+1+2+3 is {total}", "check the GPU")]


@dataclass(frozen=True)
class Device:
    """The chosen device (`name`: "cpu" or "cuda") and, in words, why it was chosen."""

    name: DeviceName
    reason: str


def processor_count() -> int:
    """Return how many processors this process may use: those it is bound to, and no more than a container's quota."""
    from joblib import cpu_count

    return int(cpu_count())


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
    ProblemsError
        "cuda" was asked for and cannot run here: one line a problem, with its remedy. Nothing falls back in silence.
    """
    if requested not in DEVICE_OPTIONS:
        near = meant(requested, DEVICE_OPTIONS)
        raise InputError(f"--device {requested}{near}: choose one of {', '.join(DEVICE_OPTIONS)}")
    if requested == "cpu":
        return Device("cpu", "asked for")
    problems = gpu_problems()
    if not problems:
        return Device("cuda", "asked for" if requested == "cuda" else "auto: a GPU run can start")
    if requested == "cuda":
        raise ProblemsError([f"--device cuda: {problem}" for problem in problems])
    return Device("cpu", f"auto: {problems[0].what}")


def installed_version(name: str) -> str | None:
    """Return the version of an installed distribution, None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def installed_versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of those of `RECORDED_PACKAGES` that are installed."""
    found = {name: installed_version(name) for name in RECORDED_PACKAGES}
    here = {name: version for name, version in found.items() if version is not None}
    return {"python": platform.python_version(), "rapids-perturb": VERSION} | here


@lru_cache(1)
def code_hash() -> str:
    """Return the SHA-256 of this program's own source files, so that results of changed code are told apart."""
    found = hashlib.sha256()
    for package in ("rapids_pipeline", "features"):
        folder = Path(__file__).parents[2] / package
        for path in sorted(folder.rglob("*.py")):
            found.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return found.hexdigest()


def provenance() -> dict[str, Any]:
    """Return when, by which packages and on what machine results are made."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": installed_versions(),
        "machine": {"system": platform.platform(), "processor_count": os.cpu_count()},
    }


def _visible(nvml: Any) -> list[Any]:
    """Return NVML's handles of the devices that CUDA shows; those after a name that is none are not seen."""
    every = [nvml.nvmlDeviceGetHandleByIndex(place) for place in range(nvml.nvmlDeviceGetCount())]
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return every
    seen = []
    for word in map(str.strip, wanted.split(",")):
        if word.isdigit():
            named = every[int(word) : int(word) + 1]
        elif word.startswith("MIG-"):  # a part of a device counts as the device
            part = nvml.nvmlDeviceGetHandleByUUID(word)
            named = [nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part)]
        else:
            named = [one for one in every if word and nvml.nvmlDeviceGetUUID(one).startswith(word)]
        if len(named) != 1:
            break
        seen += named
    return seen


def _gpu(nvml: Any, handle: Any) -> Gpu:
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    memory = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    return Gpu(str(nvml.nvmlDeviceGetName(handle)), (int(major), int(minor)), memory)


def _dotted(version: Version) -> str:
    return ".".join(str(number) for number in version)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
