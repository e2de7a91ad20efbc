"""The boosting engines on a GPU beside those of the CPU: milliseconds a tree over rows, outputs, bins and depth.

    python -m benchmarks.boosting.gpu [--device cuda|cpu] [--small | --full] [--out FILE]

Simulated data. A cell is the median time between the ends of successive trees of one fit, the device waited for after
each, so binning and the first tree, which compiles, are not in it. Beside the times: the RMSE of held-out rows after
the same number of trees at the same rate. Prints Markdown and writes JSON. Exit code 3: something it needs is not here.
"""

import itertools
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.boosting.problem import COLUMNS, HELD_OUT, RATE, simulated
from rapids_pipeline.backend.errors import UnavailableError
from rapids_pipeline.boosting import MultiOutputBooster

AXES = ("rows", "outputs", "bins", "depth")
Cell = tuple[int, int, int, int]
FIRST: Cell = (60, 2, 16, 2)
MEMORY_WORDS = ("memory", "alloc")


@dataclass(frozen=True)
class Size:
    """What is measured: columns, the values of each axis, the usual cell, seconds a cell at most; trees, of errors."""

    columns: int
    rows: tuple[int, ...]
    outputs: tuple[int, ...]
    bins: tuple[int, ...]
    depths: tuple[int, ...]
    usual: Cell
    limit_s: float
    trees: int = 6
    error_trees: int = 10

    def cells(self) -> list[Cell]:
        """Return rows × outputs at the usual bins and depth, then bins × depth at the usual rows and outputs."""
        rows, outputs, bins, depth = self.usual
        grid = [(r, o, bins, depth) for r, o in itertools.product(self.rows, self.outputs)]
        grid += [(rows, outputs, b, d) for b, d in itertools.product(self.bins, self.depths)]
        return list(dict.fromkeys(grid))


SMALL = Size(12, (60, 120), (1, 3), (16,), (2, 3), (120, 3, 16, 3), 5.0, trees=3, error_trees=3)
USUAL = Size(COLUMNS, (300, 3_000, 30_000), (1, 45, 200), (32, 256), (6, 10), (700, 45, 256, 6), 2.0)
MANY_ROWS, MANY_OUTPUTS = (300, 700, 3_000, 10_000, 30_000, 100_000), (1, 10, 45, 200, 1_000)
FULL = Size(COLUMNS, MANY_ROWS, MANY_OUTPUTS, (16, 32, 64, 256), (2, 4, 6, 8, 10), (700, 45, 256, 6), 60.0)


@dataclass(frozen=True)
class Engine:
    """An engine on a device."""

    name: str
    device: str

    @property
    def title(self) -> str:
        """Return the name that the tables have."""
        return f"{self.name}, {self.device}"

    def fitted(self, X: np.ndarray, Y: np.ndarray, trees: int, cell: Cell, listener: Any = None) -> Any:
        """Return a booster of some trees."""
        options = {"learning_rate": RATE, "max_bins": cell[2], "max_depth": cell[3], "colsample": 1.0}
        model = MultiOutputBooster(engine=self.name, device=self.device, n_estimators=trees, **options)
        return model.fit(X, Y, listener=listener)

    def ms_a_tree(self, X: np.ndarray, Y: np.ndarray, trees: int, cell: Cell) -> float:
        """Return the median time from the end of one tree to the end of the next."""
        moments: list[float] = []

        def listener(*_: Any) -> None:
            harness.synchronise(self.device)
            moments.append(time.perf_counter())

        self.fitted(X, Y, trees, cell, listener)
        return 1e3 * median(list(np.diff(moments)))


def engines(device: str) -> tuple[list[Engine], dict[str, str]]:
    """Return the engines that can run, each after a first small fit, and why the others cannot."""
    found, left_out = [], {}
    for engine in (Engine("pyboost", "cuda"), Engine("xgboost", device), Engine("exact", "cpu")):
        try:
            if engine.device == "cuda" and device != "cuda":
                raise UnavailableError("needs --device cuda")
            engine.fitted(*simulated(60, 12, 2), 2, FIRST)  # compiles and loads
            found.append(engine)
        except UnavailableError as error:
            left_out[engine.title] = str(error)
    return found, left_out


def measured(engine: Engine, size: Size, cell: Cell, before: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a cell of the table: its milliseconds, or why there are none."""
    row: dict[str, Any] = {"engine": engine.title, **dict(zip(AXES, cell, strict=True))}
    expected = expected_ms(row, before) * size.trees / 1e3
    if expected > size.limit_s:
        return row | {"skipped": f"about {expected:.0f} s expected"}
    try:
        X, Y = simulated(cell[0], size.columns, cell[1])
        return row | {"ms_a_tree": engine.ms_a_tree(X, Y, size.trees, cell)}
    except Exception as error:  # each library's lack of memory has a class of its own
        if not any(word in str(error).lower() for word in MEMORY_WORDS):
            raise
        return row | {"failed": "needs more memory than there is"}


def expected_ms(row: dict[str, Any], before: list[dict[str, Any]]) -> float:
    """Return what a cell takes if time grows in proportion to rows and outputs; inf after one that was not measured."""
    ours = [cell for cell in before if cell["engine"] == row["engine"]]
    smaller = [cell for cell in ours if all(cell[axis] <= row[axis] for axis in AXES)]
    if any("ms_a_tree" not in cell for cell in smaller):
        return float("inf")
    alike = [cell for cell in smaller if (cell["bins"], cell["depth"]) == (row["bins"], row["depth"])]
    size = row["rows"] * row["outputs"]
    return min((c["ms_a_tree"] * size / (c["rows"] * c["outputs"]) for c in alike), default=0.0)


def errors(found: list[Engine], size: Size) -> dict[str, float]:
    """Return the RMSE of held-out rows by each engine after the same trees, at the usual cell."""
    rows, outputs, *_ = size.usual
    X, Y = simulated(rows + HELD_OUT, size.columns, outputs)
    rmse = {}
    for engine in found:
        model = engine.fitted(X[:rows], Y[:rows], size.error_trees, size.usual)
        rmse[engine.title] = float(np.sqrt(np.mean((model.predict(X[rows:]) - Y[rows:]) ** 2)))
    return rmse


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    titles, rows = report["engines"], []
    for key, group in itertools.groupby(report["cells"], key=lambda cell: [cell[axis] for axis in AXES]):
        cells = {cell["engine"]: shown(cell) for cell in group}
        rows.append((*(f"{v:,}" for v in key), *(cells[title] for title in titles)))
    head = f"RMSE of {HELD_OUT} held-out rows after {report['error_trees']} trees", ""
    lines = [
        f"{report['columns']} columns, rate {RATE}; milliseconds a tree.",
        "",
        *harness.table((*AXES, *titles), rows),
        "",
        *harness.table(head, [(title, f"{error:.4f}") for title, error in report["rmse"].items()]),
    ]
    return "\n".join(lines + harness.explained(report["left_out"]))


def shown(cell: dict[str, Any]) -> str:
    """Return a cell of the table as text."""
    if "ms_a_tree" in cell:
        return f"{cell['ms_a_tree']:.3g}"
    return str(cell.get("failed") or f"skipped ({cell['skipped']})")


@harness.ends_in_one_line
def main() -> None:
    """Run, print and write."""
    options = harness.sized(harness.options_of(__doc__, results="gpu_boosting.json"), SMALL, USUAL, FULL)
    harness.require(options.device, "cupy")
    found, left_out = engines(options.device)
    table: list[dict[str, Any]] = []
    for cell, engine in itertools.product(options.size.cells(), found):
        table.append(measured(engine, options.size, cell, table))
    size, titles = options.size, [engine.title for engine in found]
    asked = {"device": options.device, "columns": size.columns, "engines": titles, "left_out": left_out}
    rmse = errors(found, size)
    harness.written(options.out, markdown, **asked, cells=table, error_trees=size.error_trees, rmse=rmse)


if __name__ == "__main__":
    main()
