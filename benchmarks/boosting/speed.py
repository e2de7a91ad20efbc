"""The exact boosting engine against libraries: CPU time per tree, error beside it, and how the cost grows.

    python -m benchmarks.boosting.speed [--data FOLDER] [--out FILE]

All rivals run by turns in one process on one core with one thread each. A time is the median over rounds of the process
CPU time of a fit, binning included, over its number of trees; the exact engine grows 100 trees a round, the rivals one.
The error is the RMSE of held-out rows after the same number of trees at the same rate. The growth table counts the
trees alone. Libraries that are not installed are left out (pip install '.[bench]'). Takes about 30 minutes, nearly all
of it in the rivals. Prints Markdown and writes JSON.
"""

import itertools
import resource
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.boosting.problem import COLUMNS, HELD_OUT, OUTPUTS, RATE, ROWS, lung_folds, simulated
from rapids_pipeline.boosting import MultiOutputBooster

DEPTHS, ERROR_TREES, ROUNDS = (6, 10), 10, 3
ERROR_SECONDS = 150.0
"""An error that would take a rival longer than this, by its time per tree, is left out."""
RIVAL_SECONDS = 60.0
"""A rival that has taken as long at a depth takes no further turn there; the file says how many it had."""
MOST_MEMORY_GB = 16
"""The process may not take more; a rival that wants more fails, and its cell says so."""
GROWTH_ROWS, GROWTH_OUTPUTS = (300, 700, 3_000, 10_000, 30_000, 100_000), (1, 10, 45, 200, 1_000)
GROWTH_BINS, GROWTH_DEPTHS = (16, 32, 64, 256), (2, 4, 6, 8, 10)
GROWTH_SECONDS, FEW_TREES_FROM = 60.0, 5.0
"""A tree of the growth table that is expected to take longer, by the cell before it, is skipped; one of 2 trees."""
DRAWS = 4
"""Draws of the folds that errors on real data are means of: with one, which engine is ahead is up to the draw."""
PUBLISHED = {"max_depth": 10, "colsample": 0.2, "learning_rate": 0.01, "n_estimators": 1000}
OURS = "exact, 256 bins"

Predict = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, np.ndarray, int, int], Predict]


def rivals() -> dict[str, tuple[Fit, int]]:
    """Return name → (fit, trees a round)."""
    found: dict[str, tuple[Fit, int]] = {OURS: (ours("exact", 256), 100)}
    for library, name, fit in (
        ("xgboost", "XGBoost vector leaves, 256 bins", ours("xgboost", 256)),
        ("xgboost", "XGBoost vector leaves, 32 bins", ours("xgboost", 32)),
        ("catboost", "CatBoost MultiRMSE", catboost),
        ("lightgbm", "LightGBM per output", lightgbm),
    ):
        if find_spec(library):
            found[name] = fit, 1
    return found


def ours(engine: str, bins: int) -> Fit:
    """Return `MultiOutputBooster` as a rival."""

    def fit(X: np.ndarray, Y: np.ndarray, depth: int, trees: int) -> Predict:
        options = {"learning_rate": RATE, "max_depth": depth, "max_bins": bins, "colsample": 1.0}
        return MultiOutputBooster(engine=engine, n_estimators=trees, **options).fit(X, Y).predict

    return fit


def catboost(X: np.ndarray, Y: np.ndarray, depth: int, trees: int) -> Predict:
    """CatBoost: one symmetric tree a round for all outputs."""
    from catboost import CatBoostRegressor

    size = {"iterations": trees, "depth": depth, "learning_rate": RATE}
    plain = {"boosting_type": "Plain", "bootstrap_type": "No", "random_strength": 0, "random_seed": 0}
    plain |= {"border_count": 254, "l2_leaf_reg": 1.0}
    quiet = {"thread_count": 1, "verbose": False, "allow_writing_files": False}
    return CatBoostRegressor(loss_function="MultiRMSE", **size, **plain, **quiet).fit(X, Y).predict


def lightgbm(X: np.ndarray, Y: np.ndarray, depth: int, trees: int) -> Predict:
    """LightGBM: one model an output, on bins made once."""
    import lightgbm as library

    size = {"learning_rate": RATE, "num_leaves": 2**depth, "max_depth": depth, "max_bin": 255}
    free = {"lambda_l2": 1.0, "min_data_in_leaf": 1, "min_sum_hessian_in_leaf": 0.0, "min_data_in_bin": 1}
    quiet = {"num_threads": 1, "verbosity": -1, "force_col_wise": True, "feature_pre_filter": False}
    options = {"objective": "regression", **size, **free, **quiet}
    data = library.Dataset(X, label=Y[:, 0], params=options, free_raw_data=False).construct()
    models = [library.train(options, data.set_label(y), trees) for y in np.ascontiguousarray(Y.T)]
    return lambda new: np.stack([model.predict(new, num_threads=1) for model in models], axis=1)


def rmse(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return the root mean square error of all entries."""
    return float(np.sqrt(np.mean((predicted - truth) ** 2)))


def by_depth() -> dict[str, dict[str, Any]]:
    """Time all rivals at both depths, by turns; milliseconds a tree and the error after the same trees."""
    X, Y = simulated(ROWS + HELD_OUT)
    contestants, found = rivals(), {}
    for fit, _ in contestants.values():
        fit(X[:100], Y[:100], 2, 1)  # compiles and loads
    for depth in DEPTHS:
        cells: dict[str, dict[str, Any]] = {name: {"cpu_ms_by_round": []} for name in contestants}
        for _ in range(ROUNDS):
            for name, (fit, trees) in contestants.items():
                take_turn(cells[name], lambda f=fit, t=trees, d=depth: f(X[:ROWS], Y[:ROWS], d, t), trees)
        for name, cell in cells.items():
            found[f"depth {depth}, {name}"] = cell
            if "failed" in cell:
                continue
            cell["cpu_ms_a_tree"] = median(cell["cpu_ms_by_round"])
            expected = cell["cpu_ms_a_tree"] * ERROR_TREES / 1e3
            if expected > ERROR_SECONDS:
                cell["rmse"] = f"skipped (about {expected:.0f} s)"
            else:
                predict = contestants[name][0](X[:ROWS], Y[:ROWS], depth, ERROR_TREES)
                cell["rmse"] = rmse(predict(X[ROWS:]), Y[ROWS:])
    return found


def take_turn(cell: dict[str, Any], fit: harness.Work, trees: int) -> None:
    """Add the milliseconds a tree of one fit to a rival's cell, unless it has had its time or too little memory."""
    times = cell["cpu_ms_by_round"]
    if "failed" in cell or sum(times) * trees > 1e3 * RIVAL_SECONDS:
        return
    try:
        times.append(1e3 * harness.seconds(fit, clock=time.process_time) / trees)
    except Exception as error:  # each library's lack of memory has a class of its own
        if "alloc" not in str(error):
            raise
        cell["failed"] = f"needs more than {MOST_MEMORY_GB} GB"


def totals() -> dict[str, float]:
    """Return core-seconds of 1,000 trees, binning and all."""
    X, Y = simulated(ROWS)
    usual = {"n_estimators": 1000, "learning_rate": 0.05, "colsample": 1.0}
    cases = {f"depth {depth}": usual | {"max_depth": depth} for depth in DEPTHS}
    cases["as published: depth 10, colsample 0.2, rate 0.01"] = PUBLISHED
    models = {name: MultiOutputBooster(**options) for name, options in cases.items()}
    work = {name: lambda model=model: model.fit(X, Y) for name, model in models.items()}
    new, (*_, published) = simulated(255, seed=1)[0], models.values()
    work["prediction of 255 rows by the published model"] = lambda: published.predict(new)
    return {name: harness.seconds(each, clock=time.process_time) for name, each in work.items()}


def ms_a_tree(X: np.ndarray, Y: np.ndarray, weights: np.ndarray | None = None, **options: Any) -> float:
    """Return the median CPU time of the exact engine's trees but the first, without what comes before them."""
    moments: list[float] = []
    usual = {"n_estimators": 4, "max_depth": 6, "colsample": 1.0, "engine": "exact"}
    model = MultiOutputBooster(**usual | options)
    model.fit(X, Y, weights, listener=lambda *_: moments.append(time.process_time()))
    return 1e3 * median(list(np.diff(moments)))


def weighted() -> dict[str, float]:
    """Time the exact engine without and with weights, by turns; the median of the rounds."""
    X, Y = simulated(ROWS)
    given = {"without": None, "with": np.random.default_rng(0).exponential(size=ROWS)}
    turns = [{name: ms_a_tree(X, Y, w, n_estimators=20) for name, w in given.items()} for _ in range(ROUNDS)]
    return {name: median([turn[name] for turn in turns]) for name in given}


def growth() -> dict[str, list[dict[str, Any]]]:
    """Time the exact engine over rows × outputs and over bins × depth."""
    sizes: list[dict[str, Any]] = []
    for d in GROWTH_OUTPUTS:
        rate = 0.0
        for n in GROWTH_ROWS:
            cell: dict[str, Any] = {"outputs": d, "rows": n}
            sizes.append(cell)
            if rate * n > 1e3 * GROWTH_SECONDS:
                cell["skipped"] = f"about {rate * n / 1e3:.0f} s a tree expected"
                continue
            trees = 2 if rate * n > 1e3 * FEW_TREES_FROM else 4
            cell["cpu_ms_a_tree"] = ms_a_tree(*simulated(n, d=d), n_estimators=trees)
            rate = 1.3 * cell["cpu_ms_a_tree"] / n
    X, Y = simulated(ROWS)
    shapes = [{"bins": bins, "depth": depth} for bins in GROWTH_BINS for depth in GROWTH_DEPTHS]
    for shape in shapes:
        options = {"max_bins": shape["bins"], "max_depth": shape["depth"]}
        shape["cpu_ms_a_tree"] = ms_a_tree(X, Y, n_estimators=20, **options)
    return {"rows_and_outputs": sizes, "bins_and_depth": shapes}


def quality(folder: Path) -> dict[str, Any]:
    """Return the 5-fold RMSE in the space of 45 components on lincs_lung, the same trees, depth and rate."""
    if not (folder / "lincs_lung").exists():
        return {"skipped": f"no lincs_lung in {folder}"}
    options = {"n_estimators": 50, "max_depth": 6, "learning_rate": RATE, "colsample": 1.0}
    found: dict[str, Any] = {"settings": options}
    for bins, engine in itertools.product((32, 256), ("exact", "xgboost")):
        began, by_draw = time.process_time(), []
        for seed in range(DRAWS):
            squares = []
            for X, Y, X_test, Y_test in lung_folds(folder, seed):
                model = MultiOutputBooster(engine=engine, max_bins=bins, **options).fit(X, Y)
                squares.append(rmse(model.predict(X_test), Y_test) ** 2)
            by_draw.append(float(np.sqrt(np.mean(squares))))
        cpu = (time.process_time() - began) / len(by_draw)
        cell = {"rmse": float(np.mean(by_draw)), "rmse_by_draw": by_draw, "cpu_s": cpu}
        found[f"{engine}, {bins} bins"] = cell
    return found


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    cells, rows = report["trees"], []
    for name, cell in cells.items():
        depth, rival = name.removeprefix("depth ").split(", ", 1)
        if "failed" in cell:
            rows.append((depth, rival, cell["failed"], "–", "–"))
            continue
        times = cell["cpu_ms_a_tree"] / cells[f"depth {depth}, {OURS}"]["cpu_ms_a_tree"]
        error = cell["rmse"] if isinstance(cell["rmse"], str) else f"{cell['rmse']:.3f}"
        rows.append((depth, rival, shown(cell), f"{times:,.0f}", error))
    real = report["quality"]
    errors = []
    for name in [name for name in real if name not in ("settings", "skipped")]:
        cell = real[name]
        draws = ", ".join(f"{one:.3f}" for one in cell["rmse_by_draw"])
        errors.append((name, f"{cell['rmse']:.3f}", draws, f"{cell['cpu_s']:.1f}"))
    seconds = [(name, f"{taken:.2f}") for name, taken in report["totals_core_s"].items()]
    weights = [(f"{name} weights", f"{ms:.3g}") for name, ms in report["weights"].items()]
    lines = [
        f"One core, one thread; {ROWS} rows × {COLUMNS} columns × {OUTPUTS} outputs, rate {RATE}; RMSE of {HELD_OUT} "
        f"held-out rows after {ERROR_TREES} trees.",
        *("", *harness.table(("depth", "engine", "CPU ms a tree", "times exact", "RMSE"), rows)),
        *("", *harness.table(("1,000 trees of the exact engine", "core-s"), seconds)),
        *("", *harness.table((f"CPU ms a tree, {ROWS} × {COLUMNS} × {OUTPUTS}, depth 6", ""), weights)),
        *("", f"lincs_lung, 5 folds, 45 components: {real.get('settings', real)}"),
        *("", *harness.table(("engine", "RMSE", "by draw of the folds", "CPU s a draw"), errors)),
    ]
    for part, row, column, word in (
        ("rows_and_outputs", "outputs", "rows", "{} rows"),
        ("bins_and_depth", "bins", "depth", "depth {}"),
    ):
        grid = report["growth"][part]
        columns = list(dict.fromkeys(cell[column] for cell in grid))
        head = ("CPU ms a tree of the exact engine", *(word.format(f"{n:,}") for n in columns))
        by_row = {key: [shown(cell) for cell in grid if cell[row] == key] for key in (c[row] for c in grid)}
        lines += ["", *harness.table(head, [(f"{key:,} {row}", *found) for key, found in by_row.items()])]
    return "\n".join(lines)


def shown(cell: dict[str, Any]) -> str:
    """Return a cell of a growth table as text."""
    if "skipped" in cell:
        return f"skipped ({cell['skipped']})"
    ms = cell["cpu_ms_a_tree"]
    return f"{ms:,.0f}" if ms >= 1000 else f"{ms:.3g}"


def main() -> None:
    """Run, print and write."""
    options = harness.options_of(__doc__, results="boosting.json", data=harness.DATA).parse_args()
    harness.on_one_core()
    most = MOST_MEMORY_GB << 30
    resource.setrlimit(resource.RLIMIT_AS, (most, most))  # a rival that wants more fails, not the machine
    parts = {"trees": by_depth(), "totals_core_s": totals(), "weights": weighted()}
    harness.written(options.out, markdown, **parts, quality=quality(options.data), growth=growth())


if __name__ == "__main__":
    main()
