"""What all benchmarks share: the machine, clocks, turns of rivals, processes of their own, and the written report.

Benchmarks are run from the repository's root, `python -m benchmarks.pipeline`. A time is the median of warm rounds in
which every rival has one turn, so that whatever else the machine does falls on all of them alike.
"""

import argparse
import functools
import json
import os
import platform
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from rapids_pipeline.backend.devices import (
    DriverMissingError,
    cuda_of,
    driver_problems,
    found_packages,
    read_driver,
)
from rapids_pipeline.backend.errors import PerturbError, UnavailableError

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
DATA = REPOSITORY.parent / "shared" / "data"
"""Where real data lie, unless a program's `--data` says otherwise."""

Work = Callable[[], Any]


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


def named(machine: Mapping[str, Any]) -> str:
    """Return a machine as one line: processor, cores and GPU."""
    card = machine.get("gpu")
    shown = f"{card['name']} (driver {card['driver']}, CUDA {card['cuda']})" if card else "no GPU"
    return f"{machine['processor']}, {machine['cores']} cores; {shown}"


def all_versions() -> dict[str, str]:
    """Return the version of every installed package, by name."""
    found = {package.metadata["Name"]: package.version for package in metadata.distributions()}
    in_order = sorted(found.items(), key=lambda item: item[0].lower())
    return {"python": platform.python_version()} | dict(in_order)


def on_one_core() -> None:
    """Keep this process, and those it starts, on the last processor it may use, with one thread of every library."""
    threadpool_limits(1)
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def synchronise(device: str) -> None:
    """Wait until a device has done all it was given."""
    if device == "cuda":
        import cupy

        cupy.cuda.runtime.deviceSynchronize()


def seconds(work: Work, device: str = "cpu", clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds that some work takes until the device is done; `clock` may be `time.process_time`."""
    synchronise(device)
    began = clock()
    work()
    synchronise(device)
    return clock() - began


def by_turns(
    rivals: Mapping[str, Work],
    rounds: int,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return every rival's seconds of every round; in a round each has one turn. Warm them up before."""
    taken: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, work in rivals.items():
            taken[name].append(seconds(work, device, clock))
    return taken


def core_seconds() -> float:
    """Return the processor time of this process and of the children that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def peak_memory() -> int:
    """Return the largest resident memory of this process, in bytes.

    Linux's VmHWM begins with the program; getrusage's ru_maxrss counts what the parent held when it forked.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_mib(work: Work, device: str) -> float | None:
    """Return by how many MiB the device's memory in use rises, at most, during some work; None on a CPU."""
    if device != "cuda":
        return None
    import cupy

    def free() -> int:
        return int(cupy.cuda.runtime.memGetInfo()[0])

    synchronise(device)
    least, ended = [free()], threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            least.append(free())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    work()
    synchronise(device)
    ended.set()
    watcher.join()
    return round((least[0] - min(least)) / 2**20, 1)


def command(*arguments: str) -> dict[str, float]:
    """Run a subcommand in a process of its own; return its seconds, core-seconds and peak memory.

    SystemExit, with what it was, where it fails.
    """
    began = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "rapids_pipeline", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit(f"rapids-perturb {' '.join(arguments)} failed with status {child.returncode}")
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "core_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_memory_gib": round(usage.ru_maxrss / 2**20, 2),
    }


def ends_in_one_line(main: Callable[[], None]) -> Callable[[], None]:
    """Make a program end with one line on stderr and the error's exit code (3: something is not here)."""

    @functools.wraps(main)
    def guarded() -> None:
        try:
            main()
        except PerturbError as error:
            print(" ".join(str(error).split()), file=sys.stderr)
            sys.exit(error.exit_code)

    return guarded


def require(device: str, *packages: str) -> None:
    """Raise UnavailableError where a GPU is asked for and the driver, the device or one of the packages is missing."""
    if device != "cuda":
        return
    problems = driver_problems(read_driver, cuda_of(found_packages()))
    if problems:
        raise UnavailableError(str(problems[0]))
    for package in packages:
        if find_spec(package) is None:
            raise UnavailableError(f"{package} is not installed")


def options_of(
    document: str | None, results: str | None = None, data: Path | None = None
) -> argparse.ArgumentParser:
    """Return a program's parser, whose help is its docstring; with `--out` and `--data`, where they have a default."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawTextHelpFormatter)
    if results is not None:
        parser.add_argument("--out", type=Path, default=RESULTS / results, help="where the report goes")
    if data is not None:
        parser.add_argument("--data", type=Path, default=data, help="where the real data are")
    return parser


def sized(
    parser: argparse.ArgumentParser, small: Any, usual: Any, full: Any, device: str | None = "cuda"
) -> argparse.Namespace:
    """Return the options of a program for GPUs: `device`, and as `size` what `--small` or `--full` stands for."""
    parser.add_argument("--device", choices=("cuda", "cpu"), default=device)
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--small", dest="size", action="store_const", const=small, default=usual)
    sizes.add_argument("--full", dest="size", action="store_const", const=full)
    return parser.parse_args()


def table(head: str | Sequence[Any], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return the lines of a Markdown table; a head may be text with bars between its cells."""
    head = head.split(" | ") if isinstance(head, str) else head
    first, *others = [f"| {' | '.join(map(str, cells))} |" for cells in (head, *rows)]
    return [first, "|" + "---|" * len(head), *others]


def explained(left_out: Mapping[str, str]) -> list[str]:
    """Return a line for each rival that was left out, with the reason."""
    return [f"\nLeft out: {name} ({why})" for name, why in left_out.items()]


def written(
    path: Path,
    markdown: Callable[[dict[str, Any]], str],
    versions: Mapping[str, str] | None = None,
    /,
    **report: Any,
) -> dict[str, Any]:
    """Write a report with the date, the machine and versions as JSON and Markdown, and print it; return the report.

    `markdown` makes the tables of the whole report. The versions are by default those of all installed packages.
    """
    whole: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": described(),
        "versions": dict(all_versions() if versions is None else versions),
        **report,
    }
    shown = f"{whole['date']}, {named(whole['machine'])}\n\n{markdown(whole)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(f"{shown}\n", encoding="utf-8")
    print(shown)
    return whole
