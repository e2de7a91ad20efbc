"""What can only be seen on a GPU, in under five minutes: what this machine has, the GPU tests, the benchmarks.

    python benchmarks/gpu_check.py [--only NAME ...] [--list] [--full] [--out FILE]

Every part is a process of its own. Prints a table and writes benchmarks/results/gpu-check-DEVICE.json with the device,
the driver, the versions of all packages, and for each part its result, its seconds and its peak of device memory.
Exit codes: 0 every part that could run passed, 1 one failed, 2 usage, 3 there is no usable GPU or no part could run,
130 interrupted. See docs/gpu.md.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import machine
from gpu_memory import chosen_gpu
from gpu_parts import RESULT, Outcome, Part, run_part
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rapids_pipeline.backend.gpu import cuda_of, driver_problems, found_packages, read_driver

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
TESTS = REPOSITORY / "tests" / "gpu"
TEST_LIMIT_S, BENCHMARK_LIMIT_S, FULL_LIMIT_S = 120.0, 100.0, 3600.0
BENCHMARKS = {
    "svr": ("-m", "benchmarks.svr.gpu"),
    "boosting": (str(REPOSITORY / "benchmarks" / "gpu_boosting.py"),),
    "pipeline": (str(REPOSITORY / "benchmarks" / "gpu_pipeline.py"),),
}
COLOURS = {"passed": "green", "failed": "red", "not run": "yellow"}


def parts(full: bool = False) -> list[Part]:
    """Return the parts: doctor, a part for each file of tests/gpu, the benchmarks."""
    python = sys.executable
    found = [Part("doctor", "program", (python, "-c", DOCTOR, RESULT), TEST_LIMIT_S)]
    pytest = (python, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-p", "no:xdist")
    for file in sorted(TESTS.glob("test_gpu_*.py")):
        name = f"tests: {file.stem.removeprefix('test_gpu_').replace('_', ' ')}"
        found.append(Part(name, "tests", (*pytest, str(file), f"--junitxml={RESULT}"), TEST_LIMIT_S))
    for name, program in BENCHMARKS.items():
        command = (python, *program, "--device", "cuda", "--out", RESULT, *(["--full"] if full else []))
        limit = FULL_LIMIT_S if full else BENCHMARK_LIMIT_S
        found.append(Part(f"benchmark: {name}", "program", command, limit))
    return found


DOCTOR = (
    "import json, sys, pathlib; from rapids_pipeline.commands.doctor import diagnose; "
    "pathlib.Path(sys.argv[1]).write_text(json.dumps(diagnose().to_json()))"
)
"""`rapids-perturb doctor --json`, into a file: packages may print what they like beside it."""


def why_no_gpu() -> list[str]:
    """Return what keeps anything from running on a GPU here: the driver or the device, never a missing package."""
    return [str(problem) for problem in driver_problems(read_driver, cuda_of(found_packages()))]


def judge_doctor(outcome: Outcome) -> None:
    """Fail the doctor's part where it finds a fault; what is only not installed is told, and not run later."""
    if outcome.status != "passed":
        return
    for problem in outcome.result["gpu_run"]["problems"]:
        if problem["what"].endswith("is not installed"):
            outcome.reasons.append(problem["what"])
        else:
            outcome.fail(f"{problem['what']}; {problem['remedy']}")


def report_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the report: machine, versions, verdict, parts."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": verdict(outcomes),
        "machine": machine.described(),
        "versions": machine.all_versions(),
        "seconds": round(sum(outcome.seconds for outcome in outcomes), 1),
        "parts": [asdict(outcome) for outcome in outcomes],
    }


def verdict(outcomes: Sequence[Outcome]) -> str:
    """Return "failed" where a part failed, "passed" where one passed, otherwise "nothing could run"."""
    seen = {outcome.status for outcome in outcomes if outcome.name != "doctor" or outcome.status == "failed"}
    return "failed" if "failed" in seen else "passed" if "passed" in seen else "nothing could run"


def table_of(outcomes: Sequence[Outcome]) -> Table:
    """Return the table that is printed."""
    table = Table("part", "result", "tests passed", "seconds", "peak, MiB", "why")
    for outcome in outcomes:
        tests, colour = outcome.tests, COLOURS[outcome.status]
        peak = outcome.memory_mib.get("peak")
        table.add_row(
            escape(outcome.name),
            f"[{colour}]{outcome.status}[/]",
            "" if tests is None else f"{tests['passed']} of {sum(tests.values())}",
            f"{outcome.seconds:.1f}",
            "unknown" if peak is None else str(peak),
            escape("\n".join(outcome.reasons)),
        )
    return table


def file_for(report: dict[str, Any]) -> Path:
    """Return where the report of a device goes unless told otherwise."""
    card = report["machine"]["gpu"]
    slug = re.sub(r"[^a-z0-9]+", "-", card["name"].lower() if card else "unknown").strip("-")
    return RESULTS / f"gpu-check-{slug}.json"


def check(wanted: Sequence[Part], out: Path | None, console: Console) -> int:
    """Run the parts, print and write the report; return the exit code."""
    gpu, outcomes = chosen_gpu(), []
    for part in wanted:
        console.print(f"{escape(part.name)} …", highlight=False)
        outcome = run_part(part, gpu, REPOSITORY)
        if part.name == "doctor":
            judge_doctor(outcome)
        outcomes.append(outcome)
    report = report_of(outcomes)
    out = out or file_for(report)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    console.print(table_of(outcomes))
    console.print(f"{machine.named(report['machine'])}; {report['seconds']} s", highlight=False)
    console.print(f"{report['verdict']}; written: {out}", highlight=False, soft_wrap=True)
    return {"passed": 0, "failed": 1, "nothing could run": 3}[report["verdict"]]


def main() -> int:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only parts whose names hold one of these")
    parser.add_argument("--list", action="store_true", help="print the parts and end")
    parser.add_argument("--full", action="store_true", help="the benchmarks' complete tables (long)")
    parser.add_argument("--out", type=Path, help="where the report goes")
    options = parser.parse_args()
    wanted = [part for part in parts(options.full) if any(word in part.name for word in options.only or [""])]
    if not wanted:
        parser.error(f"no part's name holds {' or '.join(options.only)}; see --list")
    if options.list:
        print("\n".join(part.name for part in wanted))
        return 0
    obstacles = why_no_gpu()
    if obstacles:
        print("\n".join(f"error: nothing was run: {obstacle}" for obstacle in obstacles), file=sys.stderr)
        return 3
    try:
        return check(wanted, options.out, Console(width=None if sys.stdout.isatty() else 160))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
