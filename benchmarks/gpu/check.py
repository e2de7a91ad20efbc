"""What can only be seen on a GPU, in about five minutes: what this machine has, the GPU tests, the GPU benchmarks.

    python -m benchmarks.gpu.check [--only NAME ...] [--list] [--full] [--out FILE]

The tests are `pytest -m gpu tests/gpu`, in a worker of pytest-xdist. A test that crashes or takes longer than
pytest-timeout lets it ends that worker, and the tests after it run in a new one. Every benchmark is a process of its
own. Prints a table and writes benchmarks/results/gpu-check-DEVICE.json with the device, the driver, the versions of all
packages, and for each part its result, its seconds and the reasons.

    passed     at least one test passed and none failed; a program ended well
    failed     a test failed, crashed or took too long; a program ended badly; nothing ran where something should
    not run    every test was skipped, or the program says (exit code 3) that something it needs is not here

Exit codes: 0 every part that could run passed, 1 one failed, 2 usage, 3 there is no usable GPU or no part could run,
130 interrupted. See docs/guide/gpu.md.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks import harness
from rapids_pipeline.backend.gpu import cuda_of, driver_problems, found_packages, read_driver

TESTS = harness.REPOSITORY / "tests" / "gpu"
TEST_LIMIT_S, PROGRAM_LIMIT_S, FULL_LIMIT_S = 120.0, 100.0, 3600.0
BENCHMARKS = {
    "svr": ("-m", "benchmarks.svr.gpu"),
    "boosting": ("-m", "benchmarks.boosting.gpu"),
    "pipeline": ("-m", "benchmarks.gpu.pipeline"),
}
DOCTOR = (
    "import json, sys, pathlib; from rapids_pipeline.commands.doctor import diagnose; "
    "pathlib.Path(sys.argv[-1]).write_text(json.dumps(diagnose().to_json()))"
)
"""`rapids-perturb doctor --json`, into a file: packages may print what they like beside it."""
KEPT_MIB = 64
"""Device memory in use after the check, above what was before, that is let pass."""


@dataclass
class Part:
    """A part of the check and what came of it; a program that ended well counts as one test passed."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    reasons: list[str] = field(default_factory=list)
    result: Any = None

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

    def __init__(self, files: Sequence[Path]) -> None:
        self.parts = {file.name: Part(part_name(file)) for file in files}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test: its call, or what went wrong before or after it."""
        part = self.parts[Path(report.nodeid.split("::")[0]).name]
        part.seconds += report.duration
        if report.passed:
            part.passed += report.when == "call"
        else:
            self._count(part, report, report.nodeid.split("::")[-1])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Count a file that cannot be imported, or that skips itself."""
        name = Path(report.nodeid).name
        if not report.passed and name in self.parts:
            self._count(self.parts[name], report, name)

    @staticmethod
    def _count(part: Part, report: pytest.TestReport | pytest.CollectReport, name: str) -> None:
        if report.skipped and isinstance(report.longrepr, tuple):
            part.skipped += 1
            part.reasons.append(report.longrepr[2].removeprefix("Skipped: "))
        else:
            crash = getattr(report.longrepr, "reprcrash", None)
            part.fail(f"{name}: {crash.message if crash else report.longreprtext}")


def part_name(file: Path) -> str:
    """Return what the part of a file of tests is called."""
    return f"tests: {file.stem.removeprefix('test_gpu_').replace('_', ' ')}"


def run_tests(files: Sequence[Path], limit_s: float = TEST_LIMIT_S) -> list[Part]:
    """Run the GPU tests of some files, each test within a time limit; return a part for each file."""
    if not files:
        return []
    recorder = Recorder(files)
    options = "-q -m gpu -n 1 -p no:cacheprovider --continue-on-collection-errors".split()
    options += [f"--timeout={limit_s}", "--timeout-method=thread"]
    root = harness.REPOSITORY if files[0].is_relative_to(harness.REPOSITORY) else files[0].parent
    project = ["-c", str(harness.REPOSITORY / "pyproject.toml"), f"--rootdir={root}"]
    code = pytest.main([*options, *project, *map(str, files)], plugins=[recorder])
    if code == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    for part in recorder.parts.values():
        if not (part.passed or part.failed or part.skipped):
            part.fail(f"no test ran (pytest's exit code {int(code)})")
    return list(recorder.parts.values())


def run_program(name: str, arguments: Sequence[str], limit_s: float) -> Part:
    """Run a program that writes JSON to the file that is its last argument; its children end with it."""
    part, began = Part(name), time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        written, log = Path(scratch, "result"), Path(scratch, "log")
        with log.open("w") as output:
            child = subprocess.Popen(
                [sys.executable, *arguments, str(written)],
                cwd=harness.REPOSITORY,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            code: int | None = None
            try:
                with suppress(subprocess.TimeoutExpired):
                    code = child.wait(limit_s)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if code is None:
            part.fail(f"took longer than {limit_s:g} s and was stopped")
        elif code == 3:
            part.reasons += said[-1:]
        elif code or not written.exists():
            ending = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            part.fail(f"{ending}, wrote no result: {' / '.join(said[-15:]) or 'nothing printed'}")
        else:
            part.passed, part.result = 1, json.loads(written.read_text())
    part.seconds = time.perf_counter() - began
    return part


def doctor() -> Part:
    """Return the doctor's part: a fault fails it, and what is only not installed is told and not run later."""
    part = run_program("doctor", ["-c", DOCTOR], TEST_LIMIT_S)
    for problem in part.result["gpu_run"]["problems"] if part.result else ():
        if problem["what"].endswith("is not installed"):
            part.reasons.append(problem["what"])
        else:
            part.fail(f"{problem['what']}; {problem['remedy']}")
    return part


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
    """Return "failed" where a part failed, "passed" where one but the doctor passed, else "nothing could run"."""
    seen = {part.status for part in parts if part.name != "doctor" or part.failed}
    return "failed" if "failed" in seen else "passed" if "passed" in seen else "nothing could run"


def markdown(report: dict[str, Any]) -> str:
    """Return the report as a table."""
    lines = ["| part | result | passed | failed | skipped | seconds | why |", "|---|---|---|---|---|---|---|"]
    for part in report["parts"]:
        counts = " | ".join(str(part[count]) for count in ("passed", "failed", "skipped"))
        why = "; ".join(part["reasons"]).replace("|", "\\|")
        lines.append(f"| {part['name']} | {part['status']} | {counts} | {part['seconds']} | {why} |")
    memory = report["memory_mib"]
    lines += ["", f"device memory in use: {memory['before']} MiB before, {memory['after']} MiB after"]
    return "\n".join([*lines, f"{report['seconds']} s: {report['verdict']}"])


def file_for(card: dict[str, Any] | None) -> Path:
    """Return where the report of a GPU goes unless told otherwise."""
    slug = re.sub(r"[^a-z0-9]+", "-", card["name"].lower() if card else "unknown").strip("-")
    return harness.RESULTS / f"gpu-check-{slug}.json"


def check(wanted: Sequence[str], full: bool, out: Path | None) -> int:
    """Run the wanted parts, print and write the report; return the exit code."""
    before, began = used_mib(), time.perf_counter()
    parts = [doctor()] if "doctor" in wanted else []
    parts += run_tests([file for file in test_files() if part_name(file) in wanted])
    for name, program in BENCHMARKS.items():
        if f"benchmark: {name}" in wanted:
            arguments = [*program, "--device", "cuda", *(["--full"] if full else []), "--out"]
            limit = FULL_LIMIT_S if full else PROGRAM_LIMIT_S
            parts.append(run_program(f"benchmark: {name}", arguments, limit))
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


def test_files() -> list[Path]:
    """Return the files of GPU tests."""
    return sorted(TESTS.glob("test_gpu_*.py"))


def main() -> int:
    """Read the options and run."""
    parser = harness.options_of(__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only parts whose names hold one of these")
    parser.add_argument("--list", action="store_true", help="print the parts and end")
    parser.add_argument("--full", action="store_true", help="the benchmarks' complete tables (long)")
    parser.add_argument("--out", type=Path, help="where the report goes")
    options = parser.parse_args()
    every = ["doctor", *map(part_name, test_files()), *(f"benchmark: {name}" for name in BENCHMARKS)]
    wanted = [name for name in every if any(word in name for word in options.only or [""])]
    if not wanted:
        parser.error(f"no part's name holds {' or '.join(options.only)}; see --list")
    if options.list:
        print("\n".join(wanted))
        return 0
    obstacles = driver_problems(read_driver, cuda_of(found_packages()))
    if obstacles:
        print("\n".join(f"error: nothing was run: {obstacle}" for obstacle in obstacles), file=sys.stderr)
        return 3
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    os.environ |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": seen}
    try:
        return check(wanted, options.full, options.out)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
