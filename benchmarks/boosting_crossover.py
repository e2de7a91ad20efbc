"""From how many rows on histograms are cheaper than exact search: CPU time per tree of the two engines of our own.

    python benchmarks/boosting_crossover.py [--quick]

Simulated data, 100 columns, one thread; exact, hist and hist with a random projection to 5 outputs, one after the
other in each cell. A time is the median over trees of the process CPU time from one tree to the next, so binning and
sorting before the first tree do not count. A tree that is expected, by the cell with fewer rows, to take more than
4 s is left out ("–"). "hist from" is the fewest rows from which on hist is cheaper than exact in every cell that was
measured. About five minutes; prints Markdown and writes benchmarks/results/boosting_crossover.json.
"""

# ruff: noqa: E402 (the thread counts must be set before numpy is imported)

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from machine import processor
from rapids_pipeline.boosting.sketch import Sketch
from rapids_pipeline.boosting.training import Settings, Watch

from rapids_pipeline.backend.versions import installed_versions
from rapids_pipeline.boosting import exact, histogram

RESULTS = Path(__file__).parent / "results" / "boosting_crossover.json"
ROWS, COLUMNS = (300, 1_000, 3_000, 10_000, 30_000, 100_000), 100
OUTPUTS, DEPTHS, BINS = (1, 10, 45, 200), (6, 10), (64, 256)
QUICK_ROWS, QUICK_OUTPUTS = (300, 3_000, 30_000), (1, 45)
TREE_SECONDS, CELL_SECONDS, MOST_TREES = 4.0, 0.6, 20
SKETCH_OUTPUTS = 5
SETTINGS = Settings(
    n_estimators=1,
    learning_rate=0.1,
    max_depth=6,
    min_samples_leaf=1,
    colsample=1.0,
    subsample=1.0,
    reg_lambda=1.0,
    max_bins=256,
    early_stopping_rounds=None,
    seed=0,
    device="cpu",
    n_jobs=1,
)
Engine = Callable[..., Any]
ENGINES: dict[str, Engine] = {
    "exact": exact.fit,
    "hist": histogram.fit,
    "sketched": partial(histogram.fit, sketch=Sketch("random_projection", SKETCH_OUTPUTS)),
}


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer cells; writes nothing")
    quick = parser.parse_args().quick
    began = time.perf_counter()
    rows, outputs = (QUICK_ROWS, QUICK_OUTPUTS) if quick else (ROWS, OUTPUTS)
    warm_up(outputs)
    cells = measured(rows, outputs)
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"processor": processor(), "cores": len(os.sched_getaffinity(0))},
        "versions": installed_versions(),
        "columns": COLUMNS,
        "sketch_outputs": SKETCH_OUTPUTS,
        "small_node_rows": histogram.SMALL_NODE,
        "seconds": round(time.perf_counter() - began),
        "milliseconds_per_tree": cells,
        "hist_from_rows": crossovers(cells, outputs),
    }
    if not quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(table(report))


def simulated(n: int, d: int) -> tuple[Any, Any]:
    """Return normal features and targets that depend on 20 of them, in waves and steps, plus noise."""
    rng = np.random.default_rng(d)
    X = rng.normal(size=(n, COLUMNS)).astype(np.float32)
    signal = np.sin(X[:, :10]) @ rng.normal(size=(10, d)) + np.sign(X[:, 10:20]) @ rng.normal(size=(10, d))
    return X, (signal + 3 * rng.normal(size=(n, d))).astype(np.float32)


def warm_up(outputs: tuple[int, ...]) -> None:
    """Compile everything."""
    for d, engine in product(outputs, ENGINES.values()):
        engine(*simulated(5_000, d), SETTINGS, Watch())


def measured(rows: tuple[int, ...], outputs: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return one record a cell: rows, outputs, depth, bins and milliseconds a tree of every engine."""
    cells: list[dict[str, Any]] = []
    expected: dict[tuple[Any, ...], float] = {}
    for n, d in product(rows, outputs):
        X, Y = simulated(n, d)
        for depth, bins in product(DEPTHS, BINS):
            cell: dict[str, Any] = {"rows": n, "outputs": d, "depth": depth, "bins": bins}
            for name, engine in ENGINES.items():
                if name == "sketched" and d <= SKETCH_OUTPUTS:
                    continue
                seconds_a_row = expected.get((name, d, depth, bins), 1e-6)
                if seconds_a_row * n > TREE_SECONDS:
                    continue
                seconds = seconds_a_tree(engine, X, Y, depth, bins, seconds_a_row * n)
                expected[name, d, depth, bins] = seconds / n
                cell[name] = round(1000 * seconds, 3)
            cells.append(cell)
    return cells


def seconds_a_tree(engine: Engine, X: Any, Y: Any, depth: int, bins: int, expected: float) -> float:
    """Return the median CPU time from one tree to the next."""
    trees = int(np.clip(CELL_SECONDS / expected, 2, MOST_TREES))
    ends: list[float] = []
    watch = Watch(listener=lambda *_: ends.append(time.process_time()))
    changes = {"n_estimators": trees + 1, "max_depth": depth, "max_bins": bins}
    engine(X, Y, Settings(**vars(SETTINGS) | changes), watch)
    return float(np.median(np.diff(ends)))


def crossovers(cells: list[dict[str, Any]], outputs: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return, for outputs, depth and bins, the fewest rows from which on hist is always cheaper, or None."""
    found = []
    for d, depth, bins in product(outputs, DEPTHS, BINS):
        here = [c for c in cells if (c["outputs"], c["depth"], c["bins"]) == (d, depth, bins)]
        first = None
        for cell in reversed(here):
            if "exact" in cell and "hist" in cell:
                if cell["hist"] > cell["exact"]:
                    break
                first = cell["rows"]
        found.append({"outputs": d, "depth": depth, "bins": bins, "rows": first})
    return found


def table(report: dict[str, Any]) -> str:
    """Return the report as Markdown: milliseconds a tree, exact / hist / hist with a sketch."""
    cells = report["milliseconds_per_tree"]
    rows = sorted({cell["rows"] for cell in cells})
    lines = [
        f"{report['date']}, {report['machine']['processor']}, one thread, {COLUMNS} columns; CPU milliseconds a tree, "
        f"exact / hist / hist with a sketch of {SKETCH_OUTPUTS} outputs",
        "",
        "| outputs | depth | bins | " + " | ".join(f"{n:,} rows" for n in rows) + " | hist from |",
        "|---" * (len(rows) + 4) + "|",
    ]
    for found in report["hist_from_rows"]:
        key = {name: found[name] for name in ("outputs", "depth", "bins")}
        here = {c["rows"]: c for c in cells if all(c[name] == value for name, value in key.items())}
        times = [" / ".join(shown(here[n].get(name)) for name in ENGINES) for n in rows]
        first = "–" if found["rows"] is None else f"{found['rows']:,}"
        lines.append("| " + " | ".join([*map(str, key.values()), *times, first]) + " |")
    return "\n".join(lines)


def shown(milliseconds: float | None) -> str:
    """Return three digits of a time, or a dash."""
    if milliseconds is None:
        return "–"
    return f"{milliseconds:.3g}" if milliseconds < 100 else f"{milliseconds:,.0f}"


if __name__ == "__main__":
    main()
