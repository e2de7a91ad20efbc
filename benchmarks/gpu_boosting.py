"""The boosting engines on a GPU beside those of the CPU: milliseconds a tree over rows, outputs, bins and depth.

    python benchmarks/gpu_boosting.py [--device cuda|cpu] [--small | --full] [--out FILE]

Simulated data. A cell is the median time between the ends of successive trees of one fit, the device waited for after
each, so binning and the first tree, which compiles, are not in it. Engines take turns within a cell. Beside the times:
the RMSE of held-out rows after the same number of trees at the same rate. A cell expected to take longer than a limit,
by the smaller cells before it, is skipped; one that runs out of memory says so. Prints Markdown and writes JSON. With
`--device cpu` the program runs without a GPU, to be tested. Exit code 3: something it needs is not here.
"""

import argparse
import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import numpy as np
from boosting import simulated
from gpu_clock import median, synchronise
from gpu_report import ended_by_what_is_missing, require, written

from rapids_pipeline.backend.errors import UnavailableError
from rapids_pipeline.boosting import MultiOutputBooster

RESULTS = Path(__file__).parent / "results" / "gpu_boosting.json"
USUAL_CELL = {"rows": 700, "outputs": 45, "bins": 256, "depth": 6}
FIRST_CELL = {"rows": 60, "outputs": 2, "bins": 16, "depth": 2}
RATE, HELD_OUT = 0.1, 300
MEMORY_WORDS = ("memory", "alloc")


@dataclass(frozen=True)
class Size:
    """What is measured: columns, the values of each axis, trees a cell, trees of the errors, seconds a cell at most."""

    columns: int
    rows: tuple[int, ...]
    outputs: tuple[int, ...]
    bins: tuple[int, ...]
    depths: tuple[int, ...]
    trees: int
    error_trees: int
    limit_s: float


SMALL = Size(12, (60, 120), (1, 3), (16,), (2, 3), 3, 3, 5.0)
USUAL = Size(300, (300, 3_000, 30_000), (1, 45, 200), (32, 256), (6, 10), 6, 10, 2.0)
FULL = Size(
    300,
    (300, 700, 3_000, 10_000, 30_000, 100_000),
    (1, 10, 45, 200, 1_000),
    (16, 32, 64, 256),
    (2, 4, 6, 8, 10),
    6,
    10,
    60.0,
)


@dataclass(frozen=True)
class Engine:
    """An engine on a device."""

    name: str
    device: str

    @property
    def title(self) -> str:
        """Return the name that the tables have."""
        return f"{self.name}, {self.device}"


def engines(device: str) -> tuple[list[Engine], dict[str, str]]:
    """Return the engines that can run, each after a first small fit, and why the others cannot."""
    found, left_out = [], {}
    wanted = [
        Engine("pyboost", "cuda"),
        Engine("xgboost", device),
        Engine("exact", "cpu"),
    ]
    for engine in wanted:
        if engine.device == "cuda" and device != "cuda":
            left_out[engine.title] = "needs --device cuda"
            continue
        try:
            fitted(engine, *simulated(60, 12, 2), 2, FIRST_CELL)  # compiles and loads
            found.append(engine)
        except UnavailableError as error:
            left_out[engine.title] = str(error)
    return found, left_out


def fitted(
    engine: Engine, X: np.ndarray, Y: np.ndarray, trees: int, cell: dict[str, int], listener: Any = None
) -> Any:
    """Return a booster of some trees."""
    model = MultiOutputBooster(
        engine=engine.name,
        device=engine.device,
        n_estimators=trees,
        learning_rate=RATE,
        max_depth=cell["depth"],
        max_bins=cell["bins"],
        colsample=1.0,
    )
    return model.fit(X, Y, listener=listener)


def ms_a_tree(engine: Engine, X: np.ndarray, Y: np.ndarray, trees: int, cell: dict[str, int]) -> float:
    """Return the median time from the end of one tree to the end of the next."""
    moments: list[float] = []

    def listener(*_: Any) -> None:
        synchronise(engine.device)
        moments.append(time.perf_counter())

    fitted(engine, X, Y, trees, cell, listener)
    return 1e3 * median(list(np.diff(moments)))


def measured(
    engine: Engine, size: Size, cell: dict[str, int], before: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return a cell of the table: its milliseconds, or why there are none."""
    row: dict[str, Any] = {"engine": engine.title, **cell}
    expected = expected_ms(row, before) * size.trees / 1e3
    if expected > size.limit_s:
        return row | {"skipped": f"about {expected:.0f} s expected"}
    try:
        X, Y = simulated(cell["rows"], size.columns, cell["outputs"])
        return row | {"ms_a_tree": ms_a_tree(engine, X, Y, size.trees, cell)}
    except Exception as error:  # each library's lack of memory has a class of its own
        if not any(word in str(error).lower() for word in MEMORY_WORDS):
            raise
        return row | {"failed": "needs more memory than there is"}


def expected_ms(row: dict[str, Any], before: list[dict[str, Any]]) -> float:
    """Return what a cell takes if time grows in proportion to rows and outputs; inf after one that was not measured."""
    alike = [
        cell["ms_a_tree"] * row["rows"] * row["outputs"] / (cell["rows"] * cell["outputs"])
        for cell in before
        if "ms_a_tree" in cell
        and (cell["engine"], cell["bins"], cell["depth"]) == (row["engine"], row["bins"], row["depth"])
        and cell["rows"] <= row["rows"]
        and cell["outputs"] <= row["outputs"]
    ]
    over = [
        cell
        for cell in before
        if "ms_a_tree" not in cell
        and cell["engine"] == row["engine"]
        and all(cell[axis] <= row[axis] for axis in USUAL_CELL)
    ]
    return float("inf") if over else min(alike, default=0.0)


def cells(size: Size) -> list[dict[str, int]]:
    """Return the cells: rows × outputs at the usual bins and depth, then bins × depth at the usual size."""
    bins, depth = max(size.bins), min(size.depths, key=lambda d: abs(d - USUAL_CELL["depth"]))
    rows = min(size.rows, key=lambda n: abs(n - USUAL_CELL["rows"]))
    outputs = min(size.outputs, key=lambda d: abs(d - USUAL_CELL["outputs"]))
    grid = [(r, o, bins, depth) for r, o in itertools.product(size.rows, size.outputs)]
    grid += [(rows, outputs, b, d) for b, d in itertools.product(size.bins, size.depths)]
    return [dict(zip(USUAL_CELL, values, strict=True)) for values in dict.fromkeys(grid)]


def errors(found: list[Engine], size: Size) -> dict[str, float]:
    """Return the RMSE of held-out rows by each engine after the same trees, at the usual cell."""
    cell = USUAL_CELL if size is not SMALL else dict(zip(USUAL_CELL, (120, 3, 16, 3), strict=True))
    X, Y = simulated(cell["rows"] + HELD_OUT, size.columns, cell["outputs"])
    inside = slice(cell["rows"])
    outside = slice(cell["rows"], None)
    return {
        engine.title: float(
            np.sqrt(
                np.mean(
                    (
                        fitted(engine, X[inside], Y[inside], size.error_trees, cell).predict(X[outside])
                        - Y[outside]
                    )
                    ** 2
                )
            )
        )
        for engine in found
    }


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    titles = report["engines"]
    lines = [
        f"{report['date']}, {machine.named(report['machine'])}; {report['columns']} columns, rate {RATE}; "
        "milliseconds a tree.",
        "",
        f"| rows | outputs | bins | depth | {' | '.join(titles)} |",
        "|---|---|---|---|" + "---|" * len(titles),
    ]
    for key, group in itertools.groupby(
        report["cells"], key=lambda cell: tuple(cell[axis] for axis in USUAL_CELL)
    ):
        by_engine = {cell["engine"]: cell for cell in group}
        lines.append(
            f"| {' | '.join(f'{v:,}' for v in key)} | {' | '.join(shown(by_engine[t]) for t in titles)} |"
        )
    lines += ["", f"| RMSE of {HELD_OUT} held-out rows after {report['error_trees']} trees | |", "|---|---|"]
    lines += [f"| {title} | {error:.4f} |" for title, error in report["rmse"].items()]
    lines += [f"\nLeft out: {name} ({why})" for name, why in report["left_out"].items()]
    return "\n".join(lines)


def shown(cell: dict[str, Any]) -> str:
    """Return a cell as text."""
    return (
        f"{cell['ms_a_tree']:.3g}"
        if "ms_a_tree" in cell
        else cell.get("failed") or f"skipped ({cell['skipped']})"
    )


@ended_by_what_is_missing
def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--small", dest="size", action="store_const", const=SMALL, default=USUAL)
    sizes.add_argument("--full", dest="size", action="store_const", const=FULL)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    require(options.device, "cupy")
    found, left_out = engines(options.device)
    table: list[dict[str, Any]] = []
    for cell in cells(options.size):
        for engine in found:
            table.append(measured(engine, options.size, cell, table))
    report = {
        "columns": options.size.columns,
        "engines": [engine.title for engine in found],
        "left_out": left_out,
        "cells": table,
        "error_trees": options.size.error_trees,
        "rmse": errors(found, options.size),
    }
    written(report, options, markdown)


if __name__ == "__main__":
    main()
