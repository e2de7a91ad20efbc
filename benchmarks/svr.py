"""The multi-target SVR engines against the loops they replace: time, error and memory on the demo data.

    python benchmarks/svr.py [--quick]

All rivals run interleaved in one process on one core with one BLAS thread, on the same folds; a time is the median
over rounds of the process CPU time of fitting a fold and predicting its held-out rows, over the number of targets.
Loops over one library SVR a target run on a stated sample of targets and are extrapolated. Runs at full size
(18,211 genes × 5 folds) have a process of their own each, whose CPU time and peak memory are what is reported.
Prints Markdown and writes benchmarks/results/svr.json.
"""

# ruff: noqa: E402 (the thread counts must be set before numpy is imported)

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from machine import processor
from rapids_pipeline.svr.cross_validation import cross_val_predict
from rapids_pipeline.svr.target_features import STATISTICS, TargetFeatures, group_statistics
from sklearn.preprocessing import OneHotEncoder
from sklearn.svm import SVR

from features.molecules.morgan import MorganEncoder
from rapids_pipeline.backend.versions import installed_versions
from rapids_pipeline.data.demo import simulate
from rapids_pipeline.evaluation.splits import random_folds
from rapids_pipeline.svr import MultiTargetSVR
from rapids_pipeline.svr.engines import ENGINES
from rapids_pipeline.svr.gram import kernel_between, scale_gamma

RESULTS = Path(__file__).parent / "results" / "svr.json"
N_GENES, N_FOLDS = 18_211, 5
MORGAN_BITS = 384
"""As wide as the ChemBERTa embedding of the published pipeline, so that the raw loop has as much to read."""
WIDE_BITS = 2048
ROUNDS, QUICK_ROUNDS = 5, 2
GROWTH_ROWS, GROWTH_TARGETS = (300, 614, 2_000, 5_000), (1_000, 4_000, 18_211)
GROWTH_SECONDS = 40.0
"""A cell of the growth table expected to take longer, by the cells before it, is skipped."""
GOALS = {
    "shared vs. raw loop": 400,
    "shared vs. precomputed loop": 70,
    "shared, all, core-s": 12,
    "target-specific vs. raw loop": 100,
    "target-specific, all, core-s": 40,
    "peak memory, GB": 2,
}


@dataclass(frozen=True)
class Problem:
    """The demo data: features, levels (compound, cell type), targets and folds of the 614 training rows."""

    X: np.ndarray
    wide: np.ndarray
    levels: np.ndarray
    of_compounds: np.ndarray
    of_cell_types: np.ndarray
    Y: np.ndarray
    folds: np.ndarray

    @classmethod
    def load(cls, n_genes: int = N_GENES) -> "Problem":
        """Simulate the data and make the features."""
        frame = simulate(n_genes=n_genes).de_train
        obs, Y = frame.iloc[:, :5], frame.iloc[:, 5:].to_numpy(np.float32)
        one_hot = OneHotEncoder(sparse_output=False).fit_transform(obs[["cell_type", "sm_name"]])
        bits = {n: MorganEncoder(n_bits=n).transform(obs["SMILES"]) for n in (MORGAN_BITS, WIDE_BITS)}
        levels = np.stack([obs["sm_name"].factorize()[0], obs["cell_type"].factorize()[0]], axis=1)
        first = np.unique(levels[:, 0], return_index=True)[1]
        compounds = np.hstack([np.eye(len(first)), bits[MORGAN_BITS][first]])
        return cls(
            np.hstack([one_hot, bits[MORGAN_BITS]]).astype(np.float64),
            np.hstack([one_hot, bits[WIDE_BITS]]).astype(np.float64),
            levels,
            compounds,
            np.eye(levels[:, 1].max() + 1),
            Y,
            random_folds(len(obs), N_FOLDS, 0),
        )

    def svr(self, kind: str, tol: float = 1e-3) -> MultiTargetSVR:
        """Return the estimator of a kind: an engine's name, or "target-specific"."""
        if kind == "target-specific":
            return MultiTargetSVR(
                tol=tol, target_features=TargetFeatures(self.of_compounds, self.of_cell_types)
            )
        return MultiTargetSVR(tol=tol, engine=kind)

    def concatenated(self, rows: np.ndarray, training: np.ndarray, t: int) -> np.ndarray:
        """Return the features of target t with its statistics, a matrix, as a loop over targets needs it."""
        tables = [
            group_statistics(self.Y[training, t : t + 1], self.levels[training, side], size)[0]
            for side, size in ((0, len(self.of_compounds)), (1, len(self.of_cell_types)))
        ]
        parts = []
        for side, table in enumerate(tables):
            usual = table[self.levels[training, side]].mean(axis=0)
            parts.append(np.where(np.isnan(table), usual, table)[self.levels[rows, side]])
        return np.hstack([self.X[rows], *parts])


Rival = Callable[[int, np.ndarray, float], np.ndarray]


def rivals(problem: Problem, quick: bool) -> dict[str, tuple[Rival, int]]:
    """Return name → (fold and targets → predictions of the held-out rows, how many targets to time)."""
    many = 1024 if quick else 8192

    def rows(k: int) -> tuple[np.ndarray, np.ndarray]:
        return np.flatnonzero(problem.folds != k), np.flatnonzero(problem.folds == k)

    def raw(X: np.ndarray) -> Rival:
        def solve(k: int, targets: np.ndarray, tol: float) -> np.ndarray:
            inside, outside = rows(k)
            fits = (SVR(tol=tol).fit(X[inside], problem.Y[inside, t]) for t in targets)
            return np.stack([fit.predict(X[outside]) for fit in fits], axis=1)

        return solve

    def grams(k: int) -> tuple[np.ndarray, np.ndarray]:
        inside, outside = (problem.X[part] for part in rows(k))
        gamma = scale_gamma(inside)
        return tuple(kernel_between(x, inside, "rbf", gamma) for x in (inside, outside))

    def precomputed(k: int, targets: np.ndarray, tol: float) -> np.ndarray:
        K, K_test = grams(k)
        inside, _ = rows(k)
        fits = (SVR(kernel="precomputed", tol=tol).fit(K, problem.Y[inside, t]) for t in targets)
        return np.stack([fit.predict(K_test) for fit in fits], axis=1)

    def concatenated(k: int, targets: np.ndarray, tol: float) -> np.ndarray:
        inside, outside = rows(k)
        predicted = []
        for t in targets:
            X, X_test = (problem.concatenated(part, inside, t) for part in (inside, outside))
            predicted.append(SVR(tol=tol).fit(X, problem.Y[inside, t]).predict(X_test))
        return np.stack(predicted, axis=1)

    def ours(kind: str) -> Rival:
        def solve(k: int, targets: np.ndarray, tol: float) -> np.ndarray:
            inside, outside = rows(k)
            X = problem.levels if kind == "target-specific" else problem.X
            model = problem.svr(kind, tol).fit(X[inside], block(problem.Y, inside, targets))
            return model.predict(X[outside])

        return solve

    found: dict[str, tuple[Rival, int]] = {
        "scikit-learn, raw features": (raw(problem.X), 4),
        f"scikit-learn, raw features, Morgan {WIDE_BITS} bits": (raw(problem.wide), 2),
        "scikit-learn, precomputed Gram": (precomputed, 24),
        "Douglas–Rachford, shared": (ours("douglas-rachford"), many),
        "SMO, shared": (ours("smo"), many),
        "scikit-learn, concatenated raw features": (concatenated, 4),
        "SMO, target-specific": (ours("target-specific"), many),
    }
    ridge = himalaya_ridge(problem, grams, rows)
    if ridge is not None:
        found["himalaya kernel ridge (another loss)"] = (ridge, many)
    if cuml_is_there():
        found["cuML, precomputed Gram"] = (ours("cuml"), 24)
    return found


def block(Y: np.ndarray, rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return Y[rows, targets]; neighbouring targets are copied row by row, as a fit of all targets has them."""
    first, last = targets[0], targets[-1] + 1
    return (
        Y[rows, first:last] if np.array_equal(targets, np.arange(first, last)) else Y[np.ix_(rows, targets)]
    )


def himalaya_ridge(problem: Problem, grams: Callable[..., Any], rows: Callable[..., Any]) -> Rival | None:
    """Return himalaya's kernel ridge as a rival, or None where it is not installed."""
    try:
        from himalaya.kernel_ridge import KernelRidge
    except ImportError:
        return None

    def solve(k: int, targets: np.ndarray, _tol: float) -> np.ndarray:
        K, K_test = (x.astype(np.float32) for x in grams(k))
        model = KernelRidge(alpha=1.0, kernel="precomputed").fit(K, block(problem.Y, rows(k)[0], targets))
        return np.asarray(model.predict(K_test))

    return solve


def cuml_is_there() -> bool:
    """Say whether cuML can be used here."""
    try:
        ENGINES["cuml"].require()
    except RuntimeError:
        return False
    return True


def timed(problem: Problem, rounds: int, quick: bool) -> dict[str, dict[str, Any]]:
    """Time all rivals, interleaved; return milliseconds per target and fold."""
    spread = np.random.default_rng(0).permutation(problem.Y.shape[1])
    contestants = rivals(replace(problem, Y=np.ascontiguousarray(problem.Y[:, spread])), quick)
    cpu: dict[str, list[float]] = {name: [] for name in contestants}
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    for solve, _ in contestants.values():
        solve(0, np.arange(2), 1e-3)  # compiles and loads
    for turn in range(rounds):
        for name, (solve, count) in contestants.items():
            targets = np.arange(count) + (turn * count) % 8192
            began = time.process_time(), time.perf_counter()
            solve(turn % N_FOLDS, targets, 1e-3)
            cpu[name].append(1e3 * (time.process_time() - began[0]) / count)
            wall[name].append(1e3 * (time.perf_counter() - began[1]) / count)
    return {
        name: {
            "targets_timed": count * rounds,
            "cpu_ms": float(np.median(cpu[name])),
            "wall_ms": float(np.median(wall[name])),
            "all_cpu_s_extrapolated": float(np.median(cpu[name])) * N_GENES * N_FOLDS / 1e3,
        }
        for name, (_, count) in contestants.items()
    }


def errors(problem: Problem, n_targets: int) -> dict[str, dict[str, float]]:
    """Return the largest prediction difference to scikit-learn at tol 1e-6, at our tol 1e-3 and 1e-6."""
    contestants = rivals(problem, quick=True)
    targets = np.random.default_rng(1).permutation(problem.Y.shape[1])[:n_targets]
    truth = {
        "shared": contestants["scikit-learn, precomputed Gram"][0](0, targets, 1e-6),
        "specific": contestants["scikit-learn, concatenated raw features"][0](0, targets, 1e-6),
    }
    found = {}
    for name, (solve, _) in contestants.items():
        if "himalaya" in name or "Morgan" in name:
            continue
        reference = truth["specific" if "specific" in name or "concatenated" in name else "shared"]
        found[name] = {
            f"tol_{tol:.0e}": float(np.abs(solve(0, targets, tol) - reference).max()) for tol in (1e-3, 1e-6)
        }
    return found


def full_size(kind: str) -> dict[str, Any]:
    """Run all genes and folds in a process of its own."""
    command = [sys.executable, __file__, "--child", kind]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(printed.splitlines()[-1])


def child(kind: str) -> None:
    """Cross-validate all genes and print what it took."""
    problem = Problem.load()
    X = problem.levels if kind == "target-specific" else problem.X
    cross_val_predict(problem.svr(kind), X, problem.Y[:, :64], problem.folds)  # compiles and loads
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time(), time.perf_counter()
    result = cross_val_predict(problem.svr(kind), X, problem.Y, problem.folds)
    took = {"core_s": time.process_time() - began[0], "wall_s": time.perf_counter() - began[1]}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    took |= {
        "peak_gb": peak / 2**20,
        "before_gb": before / 2**20,
        "not_converged": int((~result.converged).sum()),
    }
    print(json.dumps(took))


def growth(quick: bool) -> list[dict[str, Any]]:
    """Time one fit of both shared engines for growing rows and targets; random features and targets."""
    rng = np.random.default_rng(0)
    cells: list[dict[str, Any]] = []
    for engine in ("douglas-rachford", "smo"):
        for n in GROWTH_ROWS:
            X = rng.normal(size=(n, 50))
            per_target = None
            for targets in GROWTH_TARGETS:
                expected = None if per_target is None else per_target * targets
                cell: dict[str, Any] = {"engine": engine, "rows": n, "targets": targets}
                cells.append(cell)
                if expected is not None and expected > (GROWTH_SECONDS / 10 if quick else GROWTH_SECONDS):
                    cell["skipped"] = f"about {expected:.0f} s expected"
                    continue
                Y = rng.standard_t(4, size=(n, targets)).astype(np.float32)
                Y += (X[:, :5] @ rng.normal(size=(5, targets))).astype(np.float32) / 2
                began = time.process_time()
                model = MultiTargetSVR(engine=engine).fit(X, Y)
                cell["cpu_s"] = time.process_time() - began
                cell["mean_iterations"] = float(model.n_iter_.mean())
                per_target = cell["cpu_s"] / targets
    return cells


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds and targets, a smaller growth table"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    warnings.simplefilter("error", RuntimeWarning)
    if options.child:
        child(options.child)
        return
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    load = os.getloadavg()[0]
    problem = Problem.load()
    times = timed(problem, rounds, options.quick)
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"processor": processor(), "cores_used": 1, "load_before": round(load, 2)},
        "versions": installed_versions(),
        "problem": {
            "rows": len(problem.X),
            "genes": problem.Y.shape[1],
            "folds": N_FOLDS,
            "shared_features": problem.X.shape[1],
            "statistics": list(STATISTICS),
        },
        "per_target_and_fold": times,
        "largest_difference_to_scikit_learn": errors(problem, 12 if options.quick else 50),
        "full_size": {kind: full_size(kind) for kind in ("smo", "douglas-rachford", "target-specific")},
        "growth": growth(options.quick),
    }
    report["goals"] = goals(report)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    print(markdown(report))


def goals(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return each goal with what was measured."""
    times = {name: row["cpu_ms"] for name, row in report["per_target_and_fold"].items()}
    shared = min(times["SMO, shared"], times["Douglas–Rachford, shared"])
    full = report["full_size"]
    measured = {
        "shared vs. raw loop": times["scikit-learn, raw features"] / shared,
        "shared vs. precomputed loop": times["scikit-learn, precomputed Gram"] / shared,
        "shared, all, core-s": min(full["smo"]["core_s"], full["douglas-rachford"]["core_s"]),
        "target-specific vs. raw loop": times["scikit-learn, concatenated raw features"]
        / times["SMO, target-specific"],
        "target-specific, all, core-s": full["target-specific"]["core_s"],
        "peak memory, GB": max(run["peak_gb"] for run in full.values()),
    }
    return {
        name: {
            "goal": goal,
            "measured": measured[name],
            "met": measured[name] >= goal if "vs." in name else measured[name] <= goal,
        }
        for name, goal in GOALS.items()
    }


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    problem, machine = report["problem"], report["machine"]
    lines = [
        f"{report['date']}, {machine['processor']}, one core, one BLAS thread; {problem['rows']} rows × "
        f"{problem['genes']:,} simulated genes × {problem['folds']} folds, {problem['shared_features']} shared "
        "features (one-hot, Morgan fingerprints).",
        "",
        "| method | targets timed | CPU ms per target and fold | wall ms | all genes and folds, CPU s "
        "| max difference at tol 1e-3 | at tol 1e-6 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in report["per_target_and_fold"].items():
        error = report["largest_difference_to_scikit_learn"].get(name, {})
        shown = [f"{error[tol]:.0e}" if tol in error else "–" for tol in ("tol_1e-03", "tol_1e-06")]
        lines.append(
            f"| {name} | {row['targets_timed']:,} | {row['cpu_ms']:.3g} | {row['wall_ms']:.3g} "
            f"| {row['all_cpu_s_extrapolated']:,.1f} | {shown[0]} | {shown[1]} |"
        )
    lines += [
        "",
        "| full size, measured | core-s | wall s | peak memory | of which before the fit | not converged |",
    ]
    lines += ["|---|---|---|---|---|---|"]
    for kind, run in report["full_size"].items():
        lines.append(
            f"| {kind} | {run['core_s']:.1f} | {run['wall_s']:.1f} | {run['peak_gb']:.2f} GB "
            f"| {run['before_gb']:.2f} GB | {run['not_converged']} |"
        )
    lines += ["", "| goal | asked | measured | |", "|---|---|---|---|"]
    for name, goal in report["goals"].items():
        bound = "≥" if "vs." in name else "≤"
        verdict = "met" if goal["met"] else "missed"
        lines.append(f"| {name} | {bound} {goal['goal']} | {goal['measured']:.3g} | {verdict} |")
    header = " | ".join(f"{n:,} rows" for n in GROWTH_ROWS)
    lines += ["", f"| CPU s of one fit | {header} |", "|---|" + "---|" * len(GROWTH_ROWS)]
    for engine in ("douglas-rachford", "smo"):
        for targets in GROWTH_TARGETS:
            cells = [c for c in report["growth"] if (c["engine"], c["targets"]) == (engine, targets)]
            shown = [f"{c['cpu_s']:.2f}" if "cpu_s" in c else f"skipped ({c['skipped']})" for c in cells]
            lines.append(f"| {engine}, {targets:,} targets | {' | '.join(shown)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
