"""Bad input of every kind: 2,000 and more seeded inputs, about 6 minutes on two cores (`make fuzz`).

Every module of `MODULES` has `cases(seed)`: commands with hostile files or settings. Prints what goes wrong and a table
(kind, inputs, refused, violations), writes both to benchmarks/results/fuzz.json and fuzz.md, and ends with 1 where
anything went wrong.
"""

import importlib
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Any

from benchmarks.faults.roles import good
from benchmarks.faults.runner import LONGEST_LINE, LONGEST_S, Case, Outcome, judged
from benchmarks.harness import cores, options_of, seconds, table, written

MODULES = ("tables", "matrices", "extremes", "settings")
"""Modules of this folder with `cases(seed)`."""
COLUMNS = "kind | inputs | refused | violations | seconds | peak_mb"
RULES = (
    f"Each input is read by a command in a process of its own, which has to end with exit code 0, 2 or 3 within "
    f"{LONGEST_S:.0f} s and 1.5 GB, without a traceback and without control characters in its output. What is refused "
    f"is refused in one line of at most {LONGEST_LINE} characters, and leaves no file. `seconds` and `peak_mb` are the "
    "most of a kind; 400 MB of the peak are libraries."
)


def all_cases(seed: int, only: str = "") -> list[Case]:
    """Return the cases of all modules in whose kind `only` is."""
    found = [name for name in MODULES if find_spec(f"benchmarks.faults.{name}") is not None]
    modules = [importlib.import_module(f"benchmarks.faults.{name}") for name in found]
    cases = [Case(*case) for module in modules for case in module.cases(seed)]
    return [case for case in cases if only in case.kind]


def warming() -> list[Case]:
    """Return commands on good data, which a server runs before it forks."""
    return good()[::5]


def family(kind: str) -> str:
    """Return the words of a kind of input before its first comma or colon."""
    return kind.split(":")[0].split(",")[0]


def rows_of(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Return a row for each kind of input."""
    rows: dict[str, dict[str, Any]] = {}
    for one in outcomes:
        kind = family(one.kind)
        row = rows.setdefault(kind, {"kind": kind, **dict.fromkeys(COLUMNS.split(" | ")[1:], 0)})
        row["inputs"] += 1
        row["refused"] += one.code in (2, 3)
        row["violations"] += bool(one.violations)
        row["seconds"] = max(row["seconds"], round(one.seconds, 2))
        row["peak_mb"] = max(row["peak_mb"], round(one.peak_mb))
    return [rows[kind] for kind in sorted(rows)]


def markdown(report: dict[str, Any]) -> str:
    """Return the tables of a report."""
    rows = report["kinds"]
    total = {name: sum(row[name] for row in rows) for name in ("inputs", "refused", "violations")}
    most = {name: max((row[name] for row in rows), default=0) for name in ("seconds", "peak_mb")}
    lines = table(COLUMNS, [row.values() for row in [*rows, {"kind": "all", **total, **most}]])
    return "\n".join([RULES, "", f"Seed {report['seed']}, {report['seconds']:.0f} s.", "", *lines])


def outcomes_of(seed: int, only: str = "") -> Iterator[Outcome]:
    """Yield the outcome of all cases, or of those in whose kind `only` is."""
    for outcome in judged(all_cases(seed, only), cores(), warming()):
        if outcome.kind.startswith("good") and outcome.code:
            outcome.violations.append("good data are refused")
        yield outcome


def main() -> int:
    """Run all cases, write the report, and return the exit code."""
    parser = options_of(__doc__, "fuzz.json")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other inputs")
    parser.add_argument("--only", default="", help="the kinds that have this word")
    asked = parser.parse_args()
    outcomes = []

    def work() -> None:
        for outcome in outcomes_of(asked.seed, asked.only):
            outcomes.append(outcome)
            if outcome.violations:
                print(outcome.told(), flush=True)

    taken = seconds(work)
    wrong = [outcome.told() for outcome in outcomes if outcome.violations]
    rows = rows_of(outcomes)
    written(asked.out, markdown, seed=asked.seed, seconds=round(taken, 1), kinds=rows, violations=wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
