"""The diagnosis of a machine: driver and GPUs, versions against the supported ones, which engines run here and why not.

The GPU part is what every GPU run checks at its start (`backend.devices.gpu_problems`).
"""

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any, Literal

from rapids_pipeline.backend.devices import (
    VERSION,
    Driver,
    DriverMissingError,
    Found,
    Problem,
    found_packages,
    gpu_problems,
    installed_version,
    package_problems,
    processor_count,
    read_driver,
)
from rapids_pipeline.backend.errors import PerturbError

CPU_PACKAGES = "numpy scipy pandas pyarrow scikit-learn numba rdkit torch transformers anndata".split()

State = Literal["ok", "missing", "unsupported"]
STYLES = {"ok": "green", "missing": "dim", "unsupported": "red"}
"""How the table shows a state."""


@dataclass(frozen=True)
class PackageLine:
    """A package: the version found ("" where there is none), the supported ones ("" for any), and how that stands."""

    name: str
    found: str
    supported: str
    state: State


@dataclass(frozen=True)
class Part:
    """A part of the program that is chosen by name: what it is for, where it runs, and why it cannot ("" if it can)."""

    kind: str
    name: str
    device: str
    obstacle: str


@dataclass(frozen=True)
class Diagnosis:
    """Everything that `doctor` shows."""

    machine: dict[str, Any]
    driver: Driver | None
    packages: list[PackageLine]
    parts: list[Part]
    problems: list[Problem]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "machine": self.machine,
            "driver": None if self.driver is None else asdict(self.driver),
            "packages": [asdict(line) for line in self.packages],
            "parts": [asdict(part) | {"available": not part.obstacle} for part in self.parts],
            "gpu_run": {"possible": not self.problems, "problems": [asdict(one) for one in self.problems]},
        }


def diagnose() -> Diagnosis:
    """Look at this machine and return what was found."""
    problems, here = gpu_problems(), found_packages()
    try:
        driver = read_driver()
    except DriverMissingError:
        driver = None
    return Diagnosis(_machine(), driver, _package_lines(here), list(_parts(problems)), problems)


def _machine() -> dict[str, Any]:
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # the system does not tell
        memory = None
    return {
        "rapids-perturb": VERSION,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": processor_count(),
        "memory_bytes": memory,
    }


def _package_lines(here: list[Found]) -> list[PackageLine]:
    lines = []
    for found in here:
        wrong = {problem.what for problem in package_problems([found])}
        versions = ", ".join(f"{version} ({name})" for name, version in found.installed)
        state: State = "missing" if not found.installed else "unsupported" if wrong else "ok"
        lines.append(PackageLine(found.package.name, versions, str(found.package.versions), state))
    for name in CPU_PACKAGES:
        version = installed_version(name)
        lines.append(PackageLine(name, version or "", "", "ok" if version else "missing"))
    return lines


def _parts(problems: list[Problem]) -> Iterator[Part]:
    """Yield every part that is chosen by name; a part for the GPU lacks what a GPU run lacks, then what it needs."""
    from rapids_pipeline.boosting import engines as boosting
    from rapids_pipeline.svr import engines as svr

    gpu = problems[0].what if problems else ""
    yield Part("tables", "pandas", "cpu", "")
    yield Part("tables", "cudf", "cuda", gpu)
    for name, engine in svr.ENGINES.items():
        device = "cuda" if name == "cuml" else "cpu, cuda" if "cupy" in engine.takes else "cpu"
        yield Part("SVR", name, device, (gpu if device == "cuda" else "") or _obstacle(engine.require))
    for name, booster in boosting.ENGINES.items():
        device = ", ".join(booster.devices)
        yield Part("boosting", name, device, (gpu if device == "cuda" else "") or _obstacle(booster.require))
    yield Part("nets", "torch", "cpu, cuda", _lacking("nets", "torch"))
    for name in ("morgan", "descriptors"):
        yield Part("molecules", name, "cpu", _lacking("chem", "rdkit"))
    yield Part("molecules", "chemberta", "cpu, cuda", _lacking("chemberta", "rdkit", "torch", "transformers"))
    yield Part("files", ".h5ad", "cpu", _lacking("h5ad", "anndata"))


def _obstacle(require: Callable[[], None]) -> str:
    try:
        require()
    except PerturbError as error:
        return error.lines[0]
    return ""


def _lacking(extra: str, *modules: str) -> str:
    missing = " and ".join(module for module in modules if find_spec(module) is None)
    return f"{missing} not installed: pip install '.[{extra}]'" if missing else ""


def print_diagnosis(found: Diagnosis) -> None:
    """Print the diagnosis as tables."""
    from rich.table import Table
    from rich.text import Text

    from rapids_pipeline.reports.page import PlainConsole

    console = PlainConsole()
    machine, memory = found.machine, found.machine["memory_bytes"]
    console.print(
        f"rapids-perturb {machine['rapids-perturb']}, Python {machine['python']}, {machine['system']}, "
        f"{machine['processors']} processors" + (f", {memory / 2**30:.0f} GiB of memory" if memory else "")
    )
    packages = Table("package", "found", "supported", "state", title="Packages", title_justify="left")
    for line in found.packages:
        packages.add_row(line.name, line.found, line.supported, Text(line.state, STYLES[line.state]))
    parts = Table("for", "name", "runs on", "available", title="Parts chosen by name", title_justify="left")
    for part in found.parts:
        parts.add_row(part.kind, part.name, part.device, part.obstacle or Text("yes", "green"))
    console.print(packages)
    console.print(parts)
    if found.driver:
        for gpu in found.driver.gpus:
            capability = ".".join(map(str, gpu.compute_capability))
            size = f"{gpu.memory_bytes / 2**30:.0f} GiB"
            console.print(f"GPU: {gpu.name}, compute capability {capability}, {size}")
        cuda = ".".join(map(str, found.driver.cuda))
        console.print(f"driver: {found.driver.version}, CUDA up to {cuda}")
    console.print("a GPU run cannot start:" if found.problems else "a GPU run can start")
    for problem in found.problems:
        console.print(f"  {problem}", soft_wrap=True)
