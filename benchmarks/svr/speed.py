"""The multi-target SVR engines against the loops they replace: time, error and memory on the demo data.

    python -m benchmarks.svr.speed [--quick] [--out FILE]

All rivals run by turns in one process on one core with one BLAS thread, on the same folds; a time is the median over
rounds of the CPU time of fitting a fold and predicting its held-out rows, over the number of targets. Loops over one
library SVR a target run on a stated sample of targets and are extrapolated. Runs at full size (18,211 genes × 5 folds)
have a process of their own each, whose CPU time and peak memory are what is reported. Prints Markdown and writes JSON.
"""

# ruff: noqa: E402 (the thread counts must be set before numpy is imported)

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import itertools
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.svm import SVR

from benchmarks import harness
from benchmarks.svr.problem import N_FOLDS, N_GENES, OWN_STATISTICS, Problem
from features.feature_sets import FeatureTable
from rapids_pipeline.backend.errors import UnavailableError
from rapids_pipeline.svr import MultiTargetSVR
from rapids_pipeline.svr.engines import ENGINES, fit_on_table
from rapids_pipeline.svr.gram import GramTable, kernel_between, scale_gamma
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


def himalaya_ridge(problem: Problem) -> dict[str, Rival]:
    """Return himalaya's kernel ridge, another loss, where it is installed."""
    try:
        from himalaya.kernel_ridge import KernelRidge
    except ImportError:
        return {}

    def solve(k: int, targets: np.ndarray, _tol: float) -> np.ndarray:
        inside, outside = (problem.X[part] for part in problem.split(k))
        K, K_new = (kernel_between(x, inside, "rbf", scale_gamma(inside)) for x in (inside, outside))
        Y = problem.Y[problem.split(k)[0], targets[0] : targets[-1] + 1]
        model = KernelRidge(alpha=1.0, kernel="precomputed").fit(K.astype(np.float32), Y)
        return np.asarray(model.predict(K_new.astype(np.float32)))

    return {"himalaya kernel ridge (another loss)": solve}


def rivals(problem: Problem, quick: bool) -> dict[str, tuple[Rival, int]]:
    """Return name → how a fold is solved, and how many targets to time."""
    wide = Problem.load(problem.Y.shape[1], WIDE_BITS)
    found = {
        "scikit-learn, raw features": (loop(problem, "raw"), 4),
        f"scikit-learn, raw features, Morgan {WIDE_BITS} bits": (loop(wide, "raw"), 2),
        PRECOMPUTED: (loop(problem, "precomputed"), 24),
        SPELT_OUT: (loop(problem, "spelt out"), 4),
    }
    many = {name: ours(problem, kind) for kind, name in OURS.items()} | himalaya_ridge(problem)
    found |= {name: (rival, 1024 if quick else 8192) for name, rival in many.items()}
    try:
        ENGINES["cuml"].require()
    except UnavailableError:
        return found
    return found | {"cuML, precomputed Gram": (ours(problem, "cuml"), 24)}


def timed(problem: Problem, rounds: int, quick: bool) -> dict[str, dict[str, Any]]:
    """Time all rivals by turns; return milliseconds per target and fold."""
    spread = np.random.default_rng(0).permutation(problem.Y.shape[1])
    contestants = rivals(replace(problem, Y=np.ascontiguousarray(problem.Y[:, spread])), quick)

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
            "cpu_ms": 1e3 * harness.median(taken[name]) / count,
            "all_cpu_s_extrapolated": harness.median(taken[name]) / count * N_GENES * N_FOLDS,
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


def full_size(kind: str) -> dict[str, Any]:
    """Predict every fold of all genes in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.svr.speed", "--child", kind]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, cwd=harness.REPOSITORY)
    return json.loads(ended.stdout.splitlines()[-1])


def child(kind: str) -> None:
    """Predict every fold of all genes, on shared features from one table, and print what it took."""
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
    print(json.dumps({**took, **memory, "not_converged": missed}))


def growth(seconds: float) -> list[dict[str, Any]]:
    """Time one fit of both shared engines for growing rows and targets; random features and targets."""
    rng = np.random.default_rng(0)
    cells: list[dict[str, Any]] = []
    for engine, n in itertools.product(("douglas-rachford", "smo"), GROWTH_ROWS):
        X, per_target = rng.normal(size=(n, 50)), 0.0
        for targets in GROWTH_TARGETS:
            cell: dict[str, Any] = {"engine": engine, "rows": n, "targets": targets}
            cells.append(cell)
            if per_target * targets > seconds:
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
    lines = [
        f"One core, one BLAS thread; {problem['rows']} rows × {problem['genes']:,} simulated genes × "
        f"{problem['folds']} folds, {problem['shared_features']} shared features (one-hot, Morgan fingerprints).",
        "",
        "| method | targets timed | CPU ms per target and fold | all genes and folds, CPU s "
        "| max difference at tol 1e-3 | at tol 1e-6 |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in report["per_target_and_fold"].items():
        error = report["largest_difference_to_scikit_learn"].get(name, {})
        shown = [f"{error[tol]:.0e}" if tol in error else "–" for tol in ("tol_1e-03", "tol_1e-06")]
        lines.append(
            f"| {name} | {row['targets_timed']:,} | {row['cpu_ms']:.3g} | {row['all_cpu_s_extrapolated']:,.1f} "
            f"| {shown[0]} | {shown[1]} |"
        )
    lines += ["", "| full size, measured | core-s | wall s | peak memory | before the fit | not converged |"]
    lines += ["|---|---|---|---|---|---|"]
    for kind, run in report["full_size"].items():
        lines.append(
            f"| {OURS[kind]} | {run['core_s']:.1f} | {run['wall_s']:.1f} | {run['peak_gb']:.2f} GB "
            f"| {run['before_gb']:.2f} GB | {run['not_converged']} |"
        )
    header = " | ".join(f"{n:,} rows" for n in GROWTH_ROWS)
    lines += ["", f"| CPU s of one fit | {header} |", "|---|" + "---|" * len(GROWTH_ROWS)]
    for engine, targets in itertools.product(("douglas-rachford", "smo"), GROWTH_TARGETS):
        cells = [c for c in report["growth"] if (c["engine"], c["targets"]) == (engine, targets)]
        shown = [f"{c['cpu_s']:.2f}" if "cpu_s" in c else f"skipped ({c['skipped']})" for c in cells]
        lines.append(f"| {engine}, {targets:,} targets | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    """Run, print and write."""
    parser = harness.options_of(__doc__, results="svr.json")
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds and targets, a smaller growth table"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    harness.on_one_core()
    warnings.simplefilter("error", RuntimeWarning)
    if options.child:
        child(options.child)
        return
    problem = Problem.load()
    harness.written(
        options.out,
        markdown,
        problem=problem.shape(),
        per_target_and_fold=timed(problem, 2 if options.quick else 5, options.quick),
        largest_difference_to_scikit_learn=errors(problem, 12 if options.quick else 50),
        full_size={kind: full_size(kind) for kind in OURS},
        growth=growth(GROWTH_SECONDS / 10 if options.quick else GROWTH_SECONDS),
    )


if __name__ == "__main__":
    main()
