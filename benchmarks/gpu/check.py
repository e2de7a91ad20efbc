"""What can only be seen on a GPU, in about five minutes: what this machine has, the GPU tests, the GPU benchmarks.

    python -m benchmarks.gpu.check [--only WORD ...] [--full] [--out FILE]

It is `pytest -m gpu tests/gpu` with a report, which docs/guide/gpu.md explains. Prints a table and writes
benchmarks/results/gpu-check-DEVICE.json. Exit codes: 0 everything that could run passed, 1 something failed, 2 usage,
3 there is no usable GPU or nothing could run, 130 interrupted.
"""

import os
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks import harness
from rapids_pipeline.backend.devices import cuda_of, driver_problems, found_packages, read_driver

TESTS = harness.REPOSITORY / "tests" / "gpu"
TEST_LIMIT_S = 120.0
KEPT_MIB = 64
"""Device memory in use after the check, above what was before, that is let pass."""


@dataclass
class Part:
    """A file of tests and what came of it; `results` has what its programs found, by the name of the test."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    reasons: list[str] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)

    def fail(self, reason: str) -> None:
        """Count a failure."""
        self.failed += 1
        self.reasons.insert(0, shortened(reason))

    @property
    def status(self) -> str:
        """Return "failed", "passed" or "not run"."""
        return "failed" if self.failed else "passed" if self.passed else "not run"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data, each reason once."""
        counts = Counter(self.reasons)
        reasons = [reason if count == 1 else f"{count} times: {reason}" for reason, count in counts.items()]
        return asdict(self) | {"status": self.status, "seconds": round(self.seconds, 1), "reasons": reasons}


class Recorder:
    """A plugin of pytest that makes a part of every file of tests."""

    def __init__(self) -> None:
        self.parts: dict[str, Part] = {}

    def _part(self, nodeid: str) -> Part:
        name = Path(nodeid.split("::")[0]).stem.removeprefix("test_gpu_").replace("_", " ")
        return self.parts.setdefault(name, Part(name))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test: its call, or what went wrong before or after it."""
        part, name = self._part(report.nodeid), report.nodeid.split("::")[-1]
        part.seconds += report.duration
        if report.passed:
            part.passed += report.when == "call"
        else:
            self._count(part, report, name)
        if report.when == "call" and report.user_properties:
            part.results[name] = dict(report.user_properties)
        part.reasons += [str(value) for key, value in report.user_properties if key == "missing"]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Count a file that cannot be imported, or that skips itself."""
        if not report.passed:
            self._count(self._part(report.nodeid), report, Path(report.nodeid).name)

    @staticmethod
    def _count(part: Part, report: pytest.TestReport | pytest.CollectReport, name: str) -> None:
        if report.skipped and isinstance(report.longrepr, tuple):
            part.skipped += 1
            part.reasons.append(report.longrepr[2].removeprefix("Skipped: "))
        else:
            crash = getattr(report.longrepr, "reprcrash", None)
            part.fail(f"{name}: {crash.message if crash else report.longreprtext}")


def run_tests(folder: Path, only: Sequence[str] = (), limit_s: float = TEST_LIMIT_S) -> list[Part]:
    """Run the GPU tests of a folder, each within a time limit; return a part for each file with a test to run."""
    recorder = Recorder()
    options = "-q -m gpu -n 1 -p no:cacheprovider --continue-on-collection-errors".split()
    options += [f"--timeout={limit_s}", "--timeout-method=thread", "-k", " or ".join(only)]
    root = harness.REPOSITORY if folder.is_relative_to(harness.REPOSITORY) else folder
    project = ["-c", str(harness.REPOSITORY / "pyproject.toml"), f"--rootdir={root}"]
    code = pytest.main([*options, *project, str(folder)], plugins=[recorder])
    if code == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    parts = [recorder.parts[name] for name in sorted(recorder.parts)]
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) and not any(
        p.failed for p in parts
    ):
        parts.append(Part("pytest"))
        parts[-1].fail(f"ended with exit code {int(code)}")
    return parts


def shortened(text: str, size: int = 400) -> str:
    """Return a text on one line, the beginning and the end of a long one."""
    line = " ".join(text.split())
    return line if len(line) <= size else f"{line[: size // 2]} … {line[-size // 2 :]}"


def used_mib() -> int:
    """Return the MiB of the first GPU's memory that are in use, by all programs."""
    import pynvml

    pynvml.nvmlInit()
    first = os.environ["CUDA_VISIBLE_DEVICES"]
    handle = pynvml.nvmlDeviceGetHandleByIndex(int(first) if first.isdigit() else 0)
    used = int(pynvml.nvmlDeviceGetMemoryInfo(handle).used) >> 20
    pynvml.nvmlShutdown()
    return used


def verdict(parts: Sequence[Part]) -> str:
    """Return "failed" where a part failed, "passed" where one passed, otherwise "nothing could run"."""
    seen = {part.status for part in parts}
    return "failed" if "failed" in seen else "passed" if "passed" in seen else "nothing could run"


def markdown(report: dict[str, Any]) -> str:
    """Return the report as a table."""
    rows = []
    for part in report["parts"]:
        why = "; ".join(part["reasons"]).replace("|", "\\|")
        rows.append((*(part[of] for of in ("name", "status", "passed", "failed", "skipped", "seconds")), why))
    lines = harness.table(("part", "result", "passed", "failed", "skipped", "seconds", "why"), rows)
    memory = report["memory_mib"]
    lines += ["", f"device memory in use: {memory['before']} MiB before, {memory['after']} MiB after"]
    return "\n".join([*lines, f"{report['seconds']} s: {report['verdict']}"])


def file_for(card: dict[str, Any] | None) -> Path:
    """Return where the report of a GPU goes unless told otherwise."""
    slug = re.sub(r"[^a-z0-9]+", "-", card["name"].lower() if card else "unknown").strip("-")
    return harness.RESULTS / f"gpu-check-{slug}.json"


def check(folder: Path, only: Sequence[str], out: Path | None) -> int:
    """Run the tests, print and write the report; return the exit code."""
    before, began = used_mib(), time.perf_counter()
    parts = run_tests(folder, only)
    after = used_mib()
    if after - before > KEPT_MIB:
        parts.append(Part("device memory"))
        parts[-1].fail(f"{after - before} MiB were not given back (or another program took them)")
    report = {
        "verdict": verdict(parts),
        "seconds": round(time.perf_counter() - began, 1),
        "memory_mib": {"before": before, "after": after},
        "parts": [part.to_json() for part in parts],
    }
    harness.written(out or file_for(harness.gpu()), markdown, **report)
    return {"passed": 0, "failed": 1, "nothing could run": 3}[report["verdict"]]


def main() -> int:
    """Read the options and run."""
    parser = harness.options_of(__doc__)
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="only tests whose names hold one"
    )
    parser.add_argument("--full", action="store_true", help="the benchmarks' complete tables (long)")
    parser.add_argument("--out", type=Path, help="where the report goes")
    options = parser.parse_args()
    obstacles = driver_problems(read_driver, cuda_of(found_packages()))
    if obstacles:
        print("\n".join(f"error: nothing was run: {obstacle}" for obstacle in obstacles), file=sys.stderr)
        return 3
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    os.environ |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": seen}
    os.environ["GPU_CHECK_SIZE"] = "--full" if options.full else ""
    try:
        return check(TESTS, options.only, options.out)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
