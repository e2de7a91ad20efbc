"""The exact boosting engine against libraries: CPU time per tree, error beside it, and how the cost grows.

    python benchmarks/boosting.py [--quick] [--data FOLDER] [--only PART ...]

All rivals run interleaved in one process on one core with one thread each. A time is the median over rounds of the
process CPU time of a fit, binning included, over its number of trees; the exact engine grows 100 trees a round, the
rivals one. The error is the RMSE of held-out rows after the same number of trees at the same rate. The growth
table counts the trees alone. Libraries that are not installed are left out (pip install 'rapids-perturb[bench]').
Takes about 45 minutes, nearly all of it in the rivals. Prints Markdown and writes benchmarks/results/boosting.json;
with --only, the parts named are measured and the others kept as they stand there.
"""

# ruff: noqa: E402 (the thread counts must be set before numpy is imported)

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from machine import processor

from features.molecules.morgan import MorganEncoder
from features.reduction import TruncatedSVD
from features.targets.encoders import LeaveOneOutEncoder
from rapids_pipeline.backend.versions import installed_versions
from rapids_pipeline.boosting import MultiOutputBooster
from rapids_pipeline.evaluation.splits import random_folds
from rapids_pipeline.stack.target_space import TargetSpace

RESULTS = Path(__file__).parent / "results" / "boosting.json"
ROWS, COLUMNS, OUTPUTS, HELD_OUT = 700, 300, 45, 300
DEPTHS = (6, 10)
RATE, ERROR_TREES = 0.1, 10
ERROR_SECONDS = 150.0
"""An error that would take a rival longer than this, by its time per tree, is left out."""
ROUNDS, QUICK_ROUNDS = 3, 1
RIVAL_SECONDS = 60.0
"""A rival that has taken as long at a depth takes no further turn there; the cell says how many it had."""
MOST_MEMORY_GB = 16
"""The process may not take more; a rival that wants more fails, and its cell says so."""
GROWTH_ROWS, GROWTH_OUTPUTS = (300, 700, 3_000, 10_000, 30_000, 100_000), (1, 10, 45, 200, 1_000)
GROWTH_BINS, GROWTH_DEPTHS = (16, 32, 64, 256), (2, 4, 6, 8, 10)
GROWTH_SECONDS, FEW_TREES_FROM = 60.0, 5.0
"""A tree of the growth table that is expected to take longer, by the cell before it, is skipped; one of 2 trees."""
DRAWS = 4
"""Draws of the folds that errors on real data are means of."""
PARTS = ("trees", "totals_core_s", "weights", "quality", "growth")
WEIGHTED = {"exact": (ROWS, COLUMNS, OUTPUTS)}
"""Rows, columns and outputs that fits with and without weights are timed at."""
PUBLISHED = {"max_depth": 10, "colsample": 0.2, "learning_rate": 0.01, "n_estimators": 1000}
GOALS = {
    "depth 6, vs. XGBoost vector leaves, 256 bins": 200,
    "depth 6, vs. CatBoost MultiRMSE": 60,
    "depth 6, vs. LightGBM per output": 60,
    "depth 10, vs. XGBoost vector leaves, 256 bins": 200,
    "depth 10, vs. CatBoost MultiRMSE": 60,
    "depth 10, vs. LightGBM per output": 60,
    "1,000 trees, depth 6, core-s": 20,
    "1,000 trees, depth 10, core-s": 30,
}

Predict = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, np.ndarray, int, int], Predict]


def simulated(n: int, p: int = COLUMNS, d: int = OUTPUTS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return normal features and targets that depend on 40 of them, in lines and steps, plus noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)).astype(np.float32)
    lines, steps = X[:, : min(20, p)], np.sign(X[:, min(20, p - 1) : 40])
    weights = np.random.default_rng(1000 + d)
    signal = lines @ weights.normal(size=(lines.shape[1], d)) + steps @ weights.normal(
        size=(steps.shape[1], d)
    )
    return X, (signal + 3 * rng.normal(size=(n, d))).astype(np.float32)


def rivals() -> dict[str, tuple[Fit, int]]:
    """Return name → (fit, trees a round)."""
    found: dict[str, tuple[Fit, int]] = {"exact, 256 bins": (ours("exact", 256), 100)}
    if find_spec("xgboost"):
        found["XGBoost vector leaves, 256 bins"] = ours("xgboost", 256), 1
        found["XGBoost vector leaves, 32 bins"] = ours("xgboost", 32), 1
    if find_spec("catboost"):
        found["CatBoost MultiRMSE"] = catboost, 1
    if find_spec("lightgbm"):
        found["LightGBM per output"] = lightgbm, 1
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

    model = CatBoostRegressor(
        loss_function="MultiRMSE",
        iterations=trees,
        depth=depth,
        learning_rate=RATE,
        border_count=254,
        l2_leaf_reg=1.0,
        thread_count=1,
        verbose=False,
        allow_writing_files=False,
        random_seed=0,
        boosting_type="Plain",
        bootstrap_type="No",
        random_strength=0,
    )
    return model.fit(X, Y).predict


def lightgbm(X: np.ndarray, Y: np.ndarray, depth: int, trees: int) -> Predict:
    """LightGBM: one model an output, on bins made once."""
    import lightgbm as library

    options = {
        "objective": "regression",
        "learning_rate": RATE,
        "num_leaves": 2**depth,
        "max_depth": depth,
        "max_bin": 255,
        "min_data_in_leaf": 1,
        "min_sum_hessian_in_leaf": 0.0,
        "min_data_in_bin": 1,
        "lambda_l2": 1.0,
        "num_threads": 1,
        "verbosity": -1,
        "force_col_wise": True,
        "feature_pre_filter": False,
    }
    data = library.Dataset(X, label=Y[:, 0], params=options, free_raw_data=False).construct()
    models = [library.train(options, data.set_label(y), trees) for y in np.ascontiguousarray(Y.T)]
    return lambda new: np.stack([model.predict(new, num_threads=1) for model in models], axis=1)


def timed(rounds: int) -> dict[str, dict[str, Any]]:
    """Time all rivals at both depths, interleaved; milliseconds a tree and the error after the same trees."""
    X, Y = simulated(ROWS + HELD_OUT)
    training, held_out = (X[:ROWS], Y[:ROWS]), (X[ROWS:], Y[ROWS:])
    contestants = rivals()
    found: dict[str, dict[str, Any]] = {}
    for fit, _ in contestants.values():
        fit(training[0][:100], training[1][:100], 2, 1)  # compiles and loads
    for depth in DEPTHS:
        cpu: dict[str, list[float]] = {name: [] for name in contestants}
        failed: set[str] = set()
        for _ in range(rounds):
            for name, (fit, trees) in contestants.items():
                if name in failed or sum(cpu[name]) * trees > 1e3 * RIVAL_SECONDS:
                    continue
                began = time.process_time()
                try:
                    fit(*training, depth, trees)
                except Exception as error:
                    if "alloc" not in str(error):
                        raise
                    failed.add(name)
                    continue
                cpu[name].append(1e3 * (time.process_time() - began) / trees)
        for name, (fit, trees) in contestants.items():
            cell = found[f"depth {depth}, {name}"] = {"trees_a_round": trees, "cpu_ms_by_round": cpu[name]}
            if name in failed:
                cell["failed"] = f"needs more than {MOST_MEMORY_GB} GB"
                continue
            cell["cpu_ms_a_tree"] = float(np.median(cpu[name]))
            expected = cell["cpu_ms_a_tree"] * ERROR_TREES / 1e3
            if expected > ERROR_SECONDS:
                cell["rmse"] = f"skipped (about {expected:.0f} s)"
            else:
                predicted = fit(*training, depth, ERROR_TREES)(held_out[0])
                cell["rmse"] = float(np.sqrt(np.mean((predicted - held_out[1]) ** 2)))
    return found


def totals() -> dict[str, float]:
    """Return core-seconds of 1,000 trees, binning and all."""
    X, Y = simulated(ROWS)
    found = {}
    for depth in DEPTHS:
        options = {"n_estimators": 1000, "learning_rate": 0.05, "max_depth": depth, "colsample": 1.0}
        found[f"depth {depth}"] = seconds_of(lambda options=options: MultiOutputBooster(**options).fit(X, Y))
    found["as published: depth 10, colsample 0.2, rate 0.01"] = seconds_of(
        lambda: MultiOutputBooster(**PUBLISHED).fit(X, Y)
    )
    model = MultiOutputBooster(**PUBLISHED).fit(X, Y)
    new = simulated(255, seed=1)[0]
    found["prediction of 255 rows by the published model"] = seconds_of(lambda: model.predict(new))
    return found


def seconds_of(work: Callable[[], Any]) -> float:
    """Return the process CPU time of some work."""
    began = time.process_time()
    work()
    return time.process_time() - began


def ms_a_tree(X: np.ndarray, Y: np.ndarray, weights: np.ndarray | None = None, **options: Any) -> float:
    """Return the median CPU time of the trees of one fit but the first, without what comes before them."""
    moments = []
    whole = {"n_estimators": 4, "max_depth": 6, "colsample": 1.0, "engine": "exact"} | options
    MultiOutputBooster(**whole).fit(X, Y, weights, listener=lambda *_: moments.append(time.process_time()))
    return 1e3 * float(np.median(np.diff(moments)))


def weighted(rounds: int) -> dict[str, dict[str, float]]:
    """Time both engines of our own without and with weights, in turns; the median of the rounds."""
    found = {}
    for engine, (n, p, d) in WEIGHTED.items():
        X, Y = simulated(n, p, d)
        weights = np.random.default_rng(0).exponential(size=n)
        cells: dict[str, list[float]] = {"without": [], "with": []}
        for _ in range(rounds):
            for name, given in (("without", None), ("with", weights)):
                trees = 20 if engine == "exact" else 4
                cells[name].append(ms_a_tree(X, Y, given, engine=engine, n_estimators=trees))
        found[engine] = {f"{name}_cpu_ms_a_tree": float(np.median(times)) for name, times in cells.items()}
    return found


def growth(quick: bool) -> dict[str, list[dict[str, Any]]]:
    """Time the exact engine over rows × outputs, the histogram engine where rows are many; exact over bins × depth."""
    most = GROWTH_SECONDS / 60 if quick else GROWTH_SECONDS
    sizes: list[dict[str, Any]] = []
    for d in GROWTH_OUTPUTS:
        rate = 0.0
        for n in GROWTH_ROWS:
            cell: dict[str, Any] = {"outputs": d, "rows": n}
            sizes.append(cell)
            if rate * n > 1e3 * most:
                cell["skipped"] = f"about {rate * n / 1e3:.0f} s a tree expected"
                continue
            X, Y = simulated(n, d=d)
            trees = 2 if rate * n > 1e3 * FEW_TREES_FROM else 4
            cell["cpu_ms_a_tree"] = ms_a_tree(X, Y, n_estimators=trees)
            rate = 1.3 * cell["cpu_ms_a_tree"] / n
    X, Y = simulated(ROWS)
    shapes = [
        {
            "bins": bins,
            "depth": depth,
            "cpu_ms_a_tree": ms_a_tree(X, Y, max_bins=bins, max_depth=depth, n_estimators=20),
        }
        for bins in GROWTH_BINS
        for depth in GROWTH_DEPTHS
    ]
    return {"rows_and_outputs": sizes, "bins_and_depth": shapes}


def lung_folds(folder: Path, seed: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Leave-one-out encodings and Morgan components of lincs_lung: training and held-out features and scores."""
    frame = pd.read_parquet(folder / "lincs_lung" / "de_train.parquet")
    Y, folds = frame.iloc[:, 5:].to_numpy(np.float32), random_folds(len(frame), 5, seed)
    bits = MorganEncoder().transform(frame["SMILES"])
    for k in range(5):
        inside, outside = np.flatnonzero(folds != k), np.flatnonzero(folds == k)
        space, molecules = TargetSpace(OUTPUTS), TruncatedSVD(OUTPUTS).fit(bits[inside])
        scores = space.components_for(Y[inside])
        encoders = {name: LeaveOneOutEncoder() for name in ("cell_type", "sm_name")}
        training = [e.fit_transform(frame[name].iloc[inside], scores) for name, e in encoders.items()]
        held_out = [e.transform(frame[name].iloc[outside]) for name, e in encoders.items()]
        yield (
            np.hstack([*training, molecules.transform(bits[inside])]),
            scores,
            np.hstack([*held_out, molecules.transform(bits[outside])]),
            space.transform(Y[outside]),
        )


def quality(folder: Path, quick: bool) -> dict[str, Any]:
    """Return the 5-fold RMSE in the space of 45 components on lincs_lung, the same trees, depth and rate.

    Several draws of the folds: with one, which engine is ahead is up to the draw.
    """
    if not (folder / "lincs_lung").exists():
        return {"skipped": f"no lincs_lung in {folder}"}
    options = {"n_estimators": 10 if quick else 50, "max_depth": 6, "learning_rate": RATE, "colsample": 1.0}
    found: dict[str, Any] = {"settings": options}
    for engine, bins in (("exact", 32), ("xgboost", 32), ("exact", 256), ("xgboost", 256))[
        : 3 if quick else 4
    ]:
        began, by_draw = time.process_time(), []
        for seed in range(1 if quick else DRAWS):
            errors = []
            for X, Y, X_test, Y_test in lung_folds(folder, seed):
                model = MultiOutputBooster(engine=engine, max_bins=bins, **options).fit(X, Y)
                errors.append(np.mean((model.predict(X_test) - Y_test) ** 2))
            by_draw.append(float(np.sqrt(np.mean(errors))))
        found[f"{engine}, {bins} bins"] = {
            "rmse": float(np.mean(by_draw)),
            "rmse_by_draw": by_draw,
            "cpu_s": (time.process_time() - began) / len(by_draw),
        }
    return found


def goals(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return each goal with what was measured; those that could not be measured are left out."""
    cells, found = report["trees"], {}
    for name, goal in GOALS.items():
        depth, _, rival = name.partition(", vs. ")
        if not rival:
            measured = report["totals_core_s"][name.split(", ")[1]]
        elif "cpu_ms_a_tree" in cells.get(f"{depth}, {rival}", {}):
            rivals_ms = cells[f"{depth}, {rival}"]["cpu_ms_a_tree"]
            measured = rivals_ms / cells[f"{depth}, exact, 256 bins"]["cpu_ms_a_tree"]
        else:
            continue
        found[name] = {
            "goal": goal,
            "measured": measured,
            "met": measured >= goal if rival else measured <= goal,
        }
    return found


def versions() -> dict[str, str]:
    """Return the versions of this package, what it uses, and the rivals."""
    found = installed_versions()
    for package in ("catboost", "lightgbm"):
        if find_spec(package):
            found[package] = metadata.version(package)
    return found


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="one round, a smaller growth table; writes nothing"
    )
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS)
    )
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    resource.setrlimit(
        resource.RLIMIT_AS, (16 << 30, 16 << 30)
    )  # a rival that wants more fails, not the machine
    load = os.getloadavg()[0]
    report: dict[str, Any] = {} if len(options.only) == len(PARTS) else json.loads(RESULTS.read_text())
    today = datetime.now(UTC).date().isoformat()
    dates = report.get("dates", {part: report.get("date") for part in PARTS})
    report |= {
        "date": today,
        "dates": dates | dict.fromkeys(options.only, today),
        "machine": {"processor": processor(), "cores_used": 1, "load_before": round(load, 2)},
        "versions": report.get("versions", {}) | versions(),
        "problem": {
            "rows": ROWS,
            "columns": COLUMNS,
            "outputs": OUTPUTS,
            "error_trees": ERROR_TREES,
            "rate": RATE,
        },
    }
    measure: dict[str, Callable[[], Any]] = {
        "trees": lambda: timed(QUICK_ROUNDS if options.quick else ROUNDS),
        "totals_core_s": totals,
        "weights": lambda: weighted(QUICK_ROUNDS if options.quick else ROUNDS),
        "quality": lambda: quality(options.data, options.quick),
        "growth": lambda: growth(options.quick),
    }
    report |= {part: measure[part]() for part in options.only}
    report["goals"] = goals(report)
    if not options.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    print(markdown(report))


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    lines = [
        f"{report['date']}, {report['machine']['processor']}, one core, one thread; {ROWS} rows × {COLUMNS} columns × "
        f"{OUTPUTS} outputs, rate {RATE}; RMSE of {HELD_OUT} held-out rows after {ERROR_TREES} trees.",
        "",
        "| depth | engine | CPU ms a tree | times exact | RMSE |",
        "|---|---|---|---|---|",
    ]
    for name, cell in report["trees"].items():
        depth, rival = name.removeprefix("depth ").split(", ", 1)
        if "failed" in cell:
            lines.append(f"| {depth} | {rival} | {cell['failed']} | – | – |")
            continue
        ratio = cell["cpu_ms_a_tree"] / report["trees"][f"depth {depth}, exact, 256 bins"]["cpu_ms_a_tree"]
        rmse = cell["rmse"] if isinstance(cell["rmse"], str) else f"{cell['rmse']:.3f}"
        lines.append(f"| {depth} | {rival} | {cell['cpu_ms_a_tree']:,.3g} | {ratio:,.0f} | {rmse} |")
    lines += ["", "| 1,000 trees of the exact engine | core-s |", "|---|---|"]
    lines += [f"| {name} | {seconds:.2f} |" for name, seconds in report["totals_core_s"].items()]
    lines += ["", "| CPU ms a tree, depth 6 | without weights | with weights |", "|---|---|---|"]
    for engine, cell in report.get("weights", {}).items():
        times = (f"{cell[f'{name}_cpu_ms_a_tree']:,.3g}" for name in ("without", "with"))
        lines.append(
            f"| {engine}, {' × '.join(f'{size:,}' for size in WEIGHTED[engine])} | {' | '.join(times)} |"
        )
    quality = {name: cell for name, cell in report["quality"].items() if name not in ("settings", "skipped")}
    lines += [
        "",
        f"lincs_lung, 5 folds, 45 components: {report['quality'].get('settings', report['quality'])}",
        "",
    ]
    lines += ["| engine | RMSE | by draw of the folds | CPU s a draw |", "|---|---|---|---|"]
    for name, cell in quality.items():
        draws = ", ".join(f"{rmse:.3f}" for rmse in cell["rmse_by_draw"])
        lines.append(f"| {name} | {cell['rmse']:.3f} | {draws} | {cell['cpu_s']:.1f} |")
    lines += ["", "| goal | asked | measured | |", "|---|---|---|---|"]
    for name, goal in report["goals"].items():
        bound, verdict = "≥" if "vs." in name else "≤", "met" if goal["met"] else "missed"
        lines.append(f"| {name} | {bound} {goal['goal']} | {goal['measured']:,.3g} | {verdict} |")
    lines += [
        "",
        f"| CPU ms a tree, depth 6 | {' | '.join(f'{n:,} rows' for n in GROWTH_ROWS)} |",
    ]
    lines += ["|---" * (1 + len(GROWTH_ROWS)) + "|"]
    for d in GROWTH_OUTPUTS:
        cells = [cell for cell in report["growth"]["rows_and_outputs"] if cell["outputs"] == d]
        lines.append(f"| {d:,} outputs | {' | '.join(map(shown, cells))} |")
    lines += [
        "",
        f"| CPU ms a tree, {ROWS} × {COLUMNS} × {OUTPUTS} | {' | '.join(f'depth {k}' for k in GROWTH_DEPTHS)} |",
    ]
    lines += ["|---" * (1 + len(GROWTH_DEPTHS)) + "|"]
    for bins in GROWTH_BINS:
        cells = [cell for cell in report["growth"]["bins_and_depth"] if cell["bins"] == bins]
        lines.append(f"| {bins} bins | {' | '.join(map(shown, cells))} |")
    return "\n".join(lines)


def shown(cell: dict[str, Any]) -> str:
    """Return a cell of a growth table as text: the exact engine and, where measured, the histogram engine."""
    if "skipped" in cell:
        return f"skipped ({cell['skipped']})"
    both = [cell[name] for name in ("cpu_ms_a_tree", "hist_cpu_ms_a_tree") if name in cell]
    return " / ".join(f"{found:,.0f}" if found >= 1000 else f"{found:.3g}" for found in both)


if __name__ == "__main__":
    main()
