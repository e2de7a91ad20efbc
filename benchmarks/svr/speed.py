"""The multi-target SVR engines against the loops they replace: time, error and memory on the demo data.

    python -m benchmarks.svr.speed [--out FILE]

All rivals run by turns in one process on one core with one BLAS thread, on the same folds; a time is the median over
rounds of the CPU time of fitting a fold and predicting its held-out rows, over the number of targets. Loops over one
library SVR a target run on a stated sample of targets and are extrapolated. Runs at full size (18,211 genes × 5 folds)
have a process of their own each, whose CPU time and peak memory are what is reported. Prints Markdown and writes JSON.
"""

import itertools
import multiprocessing
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from statistics import median
from typing import Any

import numpy as np
from sklearn.svm import SVR

from benchmarks import harness
from benchmarks.svr.problem import N_FOLDS, N_GENES, OWN_STATISTICS, Problem
from features.feature_sets import FeatureTable
from rapids_pipeline.svr import MultiTargetSVR
from rapids_pipeline.svr.dual import GramTable, kernel_between, scale_gamma
from rapids_pipeline.svr.engines import fit_on_table
from rapids_pipeline.svr.own_target.estimator import fit_predict

WIDE_BITS = 2048
GROWTH_ROWS, GROWTH_TARGETS = (300, 614, 2_000, 5_000), (1_000, 4_000, 18_211)
GROWTH_SECONDS = 40.0
"""A cell of the growth table expected to take longer, by the cells before it, is skipped."""
OURS = {"douglas-rachford": "Douglas–Rachford, shared", "smo": "SMO, shared", "own": "SMO, own statistics"}
PRECOMPUTED, SPELT_OUT = "scikit-learn, precomputed Gram", "scikit-learn, own statistics spelt out"
Rival = Callable[[int, np.ndarray, float], np.ndarray]
"""Fold, targets and tol → predictions of the held-out rows."""


def ours(problem: Problem, kind: str) -> Rival:
    """Return an engine on shared features or, "own", the SVRs on each target's own statistics."""

    def solve(k: int, targets: np.ndarray, tol: float) -> np.ndarray:
        inside, outside = problem.split(k)
        Y = np.ascontiguousarray(problem.Y[inside, targets[0] : targets[-1] + 1])
        if kind == "own":
            parts = problem.rows.take(inside), problem.rows.take(outside)
            return fit_predict(OWN_STATISTICS, parts[0], Y, parts[1], tol=tol)
        model = MultiTargetSVR(engine=kind, tol=tol).fit(problem.X[inside], Y)
        return np.asarray(model.predict(problem.X[outside]))

    return solve


def loop(problem: Problem, kind: str) -> Rival:
    """Return a loop over one scikit-learn SVR a target: on a "precomputed" Gram, on columns "spelt out", or "raw"."""

    def solve(k: int, targets: np.ndarray, tol: float) -> np.ndarray:
        inside, outside = problem.split(k)
        X, X_new, kernel = problem.X[inside], problem.X[outside], "rbf"
        if kind == "precomputed":
            gamma, kernel = scale_gamma(X), "precomputed"
            X, X_new = (kernel_between(part, problem.X[inside], "rbf", gamma) for part in (X, X_new))
        predicted = []
        for t in targets:
            y = problem.Y[inside, t]
            if kind == "spelt out":
                table = FeatureTable(OWN_STATISTICS, seed=0)
                X = table.fit_transform(problem.rows.take(inside), y[:, None])
                X_new = table.transform(problem.rows.take(outside))
            predicted.append(SVR(kernel=kernel, tol=tol).fit(X, y).predict(X_new))
        return np.stack(predicted, axis=1)

    return solve


def himalaya_ridge(problem: Problem) -> Rival:
    """Return himalaya's kernel ridge, another loss."""
    from himalaya.kernel_ridge import KernelRidge

    def solve(k: int, targets: np.ndarray, _tol: float) -> np.ndarray:
        inside, outside = (problem.X[part] for part in problem.split(k))
        K, K_new = (kernel_between(x, inside, "rbf", scale_gamma(inside)) for x in (inside, outside))
        Y = problem.Y[problem.split(k)[0], targets[0] : targets[-1] + 1]
        model = KernelRidge(alpha=1.0, kernel="precomputed").fit(K.astype(np.float32), Y)
        return np.asarray(model.predict(K_new.astype(np.float32)))

    return solve


def rivals(problem: Problem) -> dict[str, tuple[Rival, int]]:
    """Return name → how a fold is solved, and how many targets to time."""
    wide = Problem.load(problem.Y.shape[1], WIDE_BITS)
    found = {
        "scikit-learn, raw features": (loop(problem, "raw"), 4),
        f"scikit-learn, raw features, Morgan {WIDE_BITS} bits": (loop(wide, "raw"), 2),
        PRECOMPUTED: (loop(problem, "precomputed"), 24),
        SPELT_OUT: (loop(problem, "spelt out"), 4),
    }
    many = {name: ours(problem, kind) for kind, name in OURS.items()}
    if find_spec("himalaya"):
        many["himalaya kernel ridge (another loss)"] = himalaya_ridge(problem)
    found |= {name: (rival, 8192) for name, rival in many.items()}
    return found


def timed(problem: Problem, rounds: int) -> dict[str, dict[str, Any]]:
    """Time all rivals by turns; return milliseconds per target and fold."""
    spread = np.random.default_rng(0).permutation(problem.Y.shape[1])
    contestants = rivals(replace(problem, Y=np.ascontiguousarray(problem.Y[:, spread])))

    def turns(solve: Rival, count: int) -> harness.Work:
        solve(0, np.arange(2), 1e-3)  # compiles and loads
        turn = itertools.count()

        def work() -> None:
            now = next(turn)
            solve(now % N_FOLDS, np.arange(count) + (now * count) % 8192, 1e-3)

        return work

    work = {name: turns(solve, count) for name, (solve, count) in contestants.items()}
    taken = harness.by_turns(work, rounds, clock=time.process_time)
    return {
        name: {
            "targets_timed": count * rounds,
            "cpu_ms": 1e3 * median(taken[name]) / count,
            "all_cpu_s_extrapolated": median(taken[name]) / count * N_GENES * N_FOLDS,
        }
        for name, (_, count) in contestants.items()
    }


def errors(problem: Problem, n_targets: int) -> dict[str, dict[str, float]]:
    """Return the largest prediction difference to scikit-learn at tol 1e-6, at our tol 1e-3 and 1e-6."""
    targets = np.arange(n_targets)
    found = {}
    for kind, name in OURS.items():
        reference = loop(problem, "spelt out" if kind == "own" else "precomputed")(0, targets, 1e-6)
        solve = ours(problem, kind)
        found[name] = {
            f"tol_{tol:.0e}": float(np.abs(solve(0, targets, tol) - reference).max()) for tol in (1e-3, 1e-6)
        }
    return found


def full_sizes() -> dict[str, dict[str, Any]]:
    """Return what all genes take by each of our engines, in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes:
        return dict(zip(OURS, processes.map(full_size, OURS), strict=True))


def full_size(kind: str) -> dict[str, Any]:
    """Predict every fold of all genes, on shared features from one table; return what it took."""
    warnings.simplefilter("error", RuntimeWarning)
    problem = Problem.load()
    ours(problem, kind)(0, np.arange(64), 1e-3)  # compiles and loads
    before, began = harness.peak_memory(), (time.process_time(), time.perf_counter())
    table = None if kind == "own" else GramTable(problem.X)
    missed = 0
    for k in range(N_FOLDS):
        if table is None:
            ours(problem, kind)(k, np.arange(N_GENES), 1e-3)
            continue
        inside, outside = problem.split(k)
        how = {"C": 1.0, "epsilon": 0.1, "tol": 1e-3, "max_iter": None, "engine_name": kind}
        missed += int((~fit_on_table(table, problem.Y, inside, [outside], **how).solution.converged).sum())
    took = {"core_s": time.process_time() - began[0], "wall_s": time.perf_counter() - began[1]}
    memory = {"peak_gb": harness.peak_memory() / 2**30, "before_gb": before / 2**30}
    return {**took, **memory, "not_converged": missed}


def growth() -> list[dict[str, Any]]:
    """Time one fit of both shared engines for growing rows and targets; random features and targets."""
    rng = np.random.default_rng(0)
    cells: list[dict[str, Any]] = []
    for engine, n in itertools.product(("douglas-rachford", "smo"), GROWTH_ROWS):
        X, per_target = rng.normal(size=(n, 50)), 0.0
        for targets in GROWTH_TARGETS:
            cell: dict[str, Any] = {"engine": engine, "rows": n, "targets": targets}
            cells.append(cell)
            if per_target * targets > GROWTH_SECONDS:
                cell["skipped"] = f"about {per_target * targets:.0f} s expected"
                continue
            Y = rng.standard_t(4, size=(n, targets)).astype(np.float32)
            Y += (X[:, :5] @ rng.normal(size=(5, targets))).astype(np.float32) / 2
            model = MultiTargetSVR(engine=engine)
            cell["cpu_s"] = harness.seconds(lambda: model.fit(X, Y), clock=time.process_time)  # noqa: B023
            cell["mean_iterations"] = float(model.n_iter_.mean())
            per_target = cell["cpu_s"] / targets
    return cells


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    problem = report["problem"]
    rows = []
    for name, row in report["per_target_and_fold"].items():
        error = report["largest_difference_to_scikit_learn"].get(name, {})
        shown = [f"{error[tol]:.0e}" if tol in error else "–" for tol in ("tol_1e-03", "tol_1e-06")]
        numbers = f"{row['targets_timed']:,}", f"{row['cpu_ms']:.3g}", f"{row['all_cpu_s_extrapolated']:,.1f}"
        rows.append((name, *numbers, *shown))
    head = "method", "targets timed", "CPU ms per target and fold", "all genes and folds, CPU s"
    whole = []
    for kind, run in report["full_size"].items():
        taken = [f"{run[name]:.1f}" for name in ("core_s", "wall_s")]
        taken += [f"{run[name]:.2f} GB" for name in ("peak_gb", "before_gb")]
        whole.append((OURS[kind], *taken, run["not_converged"]))
    measured = "full size, measured", "core-s", "wall s", "peak memory", "before the fit", "not converged"
    fits = []
    for engine, targets in itertools.product(("douglas-rachford", "smo"), GROWTH_TARGETS):
        cells = [c for c in report["growth"] if (c["engine"], c["targets"]) == (engine, targets)]
        shown = [f"{c['cpu_s']:.2f}" if "cpu_s" in c else f"skipped ({c['skipped']})" for c in cells]
        fits.append((f"{engine}, {targets:,} targets", *shown))
    lines = [
        f"One core, one BLAS thread; {problem['rows']} rows × {problem['genes']:,} simulated genes × "
        f"{problem['folds']} folds, {problem['shared_features']} shared features (one-hot, Morgan fingerprints).",
        *("", *harness.table((*head, "max difference at tol 1e-3", "at tol 1e-6"), rows)),
        *("", *harness.table(measured, whole)),
        *("", *harness.table(("CPU s of one fit", *(f"{n:,} rows" for n in GROWTH_ROWS)), fits)),
    ]
    return "\n".join(lines)


def main() -> None:
    """Run, print and write."""
    options = harness.options_of(__doc__, results="svr.json").parse_args()
    harness.on_one_core()
    warnings.simplefilter("error", RuntimeWarning)
    problem = Problem.load()
    report: dict[str, Any] = {"problem": problem.shape(), "per_target_and_fold": timed(problem, rounds=5)}
    report["largest_difference_to_scikit_learn"] = errors(problem, n_targets=50)
    harness.written(options.out, markdown, **report, full_size=full_sizes(), growth=growth())


if __name__ == "__main__":
    main()
