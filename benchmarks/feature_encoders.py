"""Target encoding of all genes at once against the loops it replaces: time, difference and memory on the demo data.

    python benchmarks/feature_encoders.py [--quick]

The task: statistics of every gene per cell type and per compound, each row's from the rows outside its fold, and
those of all rows for new ones; 614 rows × 18,211 genes, 5 folds. All rivals run interleaved in one process on one
core, each on the same rows and folds; a time is the median over rounds of the process CPU time. Ours runs on all
genes. The loops run on a stated sample of genes, other ones in each round, and are extrapolated. Where a rival has
fewer statistics the table says so. The peak memory of ours is that of a process of its own.
Prints Markdown and writes benchmarks/results/feature_encoders.json.
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
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import category_encoders
import numpy as np
import pandas as pd
from machine import processor
from sklearn.preprocessing import TargetEncoder as SklearnTargetEncoder

from features.targets.encoders import LeaveOneOutEncoder, TargetEncoder
from rapids_pipeline.backend.versions import installed_versions
from rapids_pipeline.data.demo import simulate
from rapids_pipeline.evaluation.splits import random_folds

RESULTS = Path(__file__).parent / "results" / "feature_encoders.json"
N_GENES, N_FOLDS = 18_211, 5
SIX = ("mean", "min", "max", "median", "first", "quantile_0.4")
"""The statistics of the published pipeline."""
FIVE = ("min", "quantile_0.4", "median", "max", "mean")
"""Those of them that category_encoders has; it has no first."""
ROUNDS, QUICK_ROUNDS = 5, 2
OURS, THEIRS = "ours, six statistics, columns", "category_encoders loop, mean"
GOALS = {
    "six statistics, columns, CPU s": 10,
    "our six statistics vs. the mean only of category_encoders": 50,
    "leave-one-out vs. category_encoders": 50,
}


@dataclass(frozen=True)
class Problem:
    """The demo data's 614 training rows: their groups, targets and folds."""

    obs: pd.DataFrame
    Y: np.ndarray
    folds: np.ndarray

    @classmethod
    def load(cls) -> "Problem":
        """Simulate the data."""
        frame = simulate(n_genes=N_GENES).de_train
        obs = frame[["cell_type", "sm_name"]].astype(object)
        return cls(obs, frame.iloc[:, 5:].to_numpy(np.float32), random_folds(len(obs), N_FOLDS, 0))


Solve = Callable[[np.ndarray], Any]


@dataclass(frozen=True)
class Rival:
    """A way to do the task for some targets.

    Attributes
    ----------
    solve : callable
        Targets → columns of the training rows, (n, 2, n_statistics, n_targets).
    statistics : tuple of str
    count : int
        Targets a round.
    """

    solve: Solve
    statistics: tuple[str, ...]
    count: int


def rivals(problem: Problem, quick: bool) -> dict[str, Rival]:
    """Return all rivals by name."""
    obs, folds = problem.obs, problem.folds
    few, many = (2, 32) if quick else (6, 128)

    def ours(statistics: tuple[str, ...]) -> Solve:
        return lambda targets: (
            TargetEncoder(statistics)
            .cross_fit(obs, part(problem, targets), folds)
            .reshape(len(obs), 2, len(statistics), -1)
        )

    def leave_one_out(targets: np.ndarray) -> np.ndarray:
        Y = part(problem, targets)
        return np.stack([LeaveOneOutEncoder().fit_transform(obs[column], Y) for column in obs], axis=1)[
            :, :, None
        ]

    def their_leave_one_out(targets: np.ndarray) -> np.ndarray:
        found = [
            category_encoders.LeaveOneOutEncoder().fit_transform(obs, problem.Y[:, t].astype(np.float64))
            for t in targets
        ]
        return np.stack([columns.to_numpy() for columns in found], axis=-1)[:, :, None]

    mean = ("mean",)
    return {
        OURS: Rival(ours(SIX), SIX, N_GENES),
        "ours, mean, columns": Rival(ours(mean), mean, N_GENES),
        "pandas, groupby of many genes": Rival(lambda targets: with_pandas(problem, targets), SIX, many),
        "pandas loop, one gene a groupby.agg": Rival(lambda t: pandas_loop(problem, t), SIX, few),
        THEIRS: Rival(loop(problem, lambda: [category_encoders.MEstimateEncoder(m=0)]), mean, few),
        "category_encoders loop, all but first": Rival(
            loop(
                problem,
                lambda: [
                    category_encoders.SummaryEncoder(quantiles=(0, 0.4, 0.5, 1), m=0),
                    category_encoders.MEstimateEncoder(m=0),
                ],
            ),
            FIVE,
            few,
        ),
        "scikit-learn loop, mean": Rival(
            loop(problem, lambda: [SklearnTargetEncoder(target_type="continuous", smooth=0.0)]), mean, few
        ),
        "ours, leave-one-out": Rival(leave_one_out, ("leave-one-out",), N_GENES),
        "category_encoders loop, leave-one-out": Rival(their_leave_one_out, ("leave-one-out",), few),
    }


def part(problem: Problem, targets: np.ndarray) -> np.ndarray:
    """Return some targets; all of them without a copy."""
    return problem.Y if len(targets) == problem.Y.shape[1] else problem.Y[:, targets]


def loop(problem: Problem, make: Callable[[], list[Any]]) -> Solve:
    """Return a loop over targets of encoders of one target: fit outside each fold, transform it, fit on all."""

    def encoded(fits: list[Any], rows: pd.DataFrame) -> np.ndarray:
        """Return (n_rows, 2, n_statistics): an encoder's columns are by group, then by statistic."""
        return np.concatenate(
            [np.asarray(fit.transform(rows)).reshape(len(rows), 2, -1) for fit in fits], axis=2
        )

    def solve(targets: np.ndarray) -> np.ndarray:
        found = []
        for t in targets:
            y, columns = problem.Y[:, t].astype(np.float64), {}
            for fold in range(N_FOLDS):
                outside = problem.folds != fold
                fits = [encoder.fit(problem.obs[outside], y[outside]) for encoder in make()]
                columns |= zip(np.flatnonzero(~outside), encoded(fits, problem.obs[~outside]), strict=True)
            for encoder in make():
                encoder.fit(problem.obs, y)
            found.append([columns[row] for row in range(len(problem.obs))])
        return np.moveaxis(np.array(found), 0, -1)

    return solve


def with_pandas(problem: Problem, targets: np.ndarray) -> np.ndarray:
    """Do the task with pandas for all targets of a call at once."""
    Y = pd.DataFrame(problem.Y[:, targets])
    found = np.empty((len(Y), 2, len(SIX), len(targets)))
    for fold in range(-1, N_FOLDS):
        inside, outside = problem.folds == fold, problem.folds != fold
        everyone = np.zeros(outside.sum())
        overall = [pandas_statistic(Y[outside].groupby(everyone), name).iloc[0] for name in SIX]
        for c, column in enumerate(problem.obs):
            grouped = Y[outside].groupby(problem.obs[column][outside])
            for s, name in enumerate(SIX):
                table = pandas_statistic(grouped, name)
                found[inside, c, s] = table.reindex(problem.obs[column][inside]).fillna(overall[s])
    return found


def pandas_statistic(grouped: Any, name: str) -> pd.DataFrame:
    """Return one statistic of each group."""
    return grouped.quantile(0.4) if name == "quantile_0.4" else getattr(grouped, name)()


def pandas_loop(problem: Problem, targets: np.ndarray) -> np.ndarray:
    """Do the task with one groupby.agg a target, fold and column of groups."""

    def forty(values: pd.Series) -> float:
        return values.quantile(0.4)

    wanted = [forty if name == "quantile_0.4" else name for name in SIX]
    found = np.empty((len(problem.obs), 2, len(SIX), len(targets)))
    for position, t in enumerate(targets):
        y = pd.Series(problem.Y[:, t])
        for fold in range(-1, N_FOLDS):
            inside, outside = problem.folds == fold, problem.folds != fold
            overall = y[outside].groupby(np.zeros(outside.sum())).agg(wanted).iloc[0]
            for c, column in enumerate(problem.obs):
                table = y[outside].groupby(problem.obs[column][outside]).agg(wanted)
                rows = table.reindex(problem.obs[column][inside]).fillna(overall)
                found[inside, c, :, position] = rows.to_numpy()
    return found


def timed(problem: Problem, rounds: int, quick: bool) -> dict[str, dict[str, Any]]:
    """Time all rivals, interleaved; return seconds for all genes."""
    contestants = rivals(problem, quick)
    spread = np.random.default_rng(0).permutation(N_GENES)
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for rival in contestants.values():
        rival.solve(spread[:2])
    for turn in range(rounds):
        for name, rival in contestants.items():
            targets = spread[(turn * rival.count) % N_GENES :][: rival.count]
            began = time.process_time(), time.perf_counter()
            rival.solve(targets)
            took[name].append((time.process_time() - began[0], time.perf_counter() - began[1]))
    result = {}
    for name, rival in contestants.items():
        cpu, wall = np.median(took[name], axis=0) * N_GENES / rival.count
        result[name] = {
            "statistics": list(rival.statistics),
            "targets_a_round": rival.count,
            "extrapolated": rival.count < N_GENES,
            "all_genes_cpu_s": float(cpu),
            "all_genes_wall_s": float(wall),
        }
    return result


def differences(problem: Problem, n_targets: int) -> dict[str, float]:
    """Return each rival's largest absolute difference to ours, in the statistics it has."""
    targets = np.random.default_rng(1).permutation(N_GENES)[:n_targets]
    contestants = rivals(problem, quick=True)
    found = {}
    for name, rival in contestants.items():
        if name.startswith("ours"):
            continue
        if rival.statistics == ("leave-one-out",):
            expected = contestants["ours, leave-one-out"].solve(targets)
        else:
            encoder = TargetEncoder(rival.statistics)
            expected = encoder.cross_fit(problem.obs, problem.Y[:, targets], problem.folds)
        theirs = rival.solve(targets)
        found[name] = float(np.abs(theirs - expected.reshape(theirs.shape)).max())
    return found


def child(name: str, folder: Path) -> None:
    """Run one rival on all genes of a stored problem, and print the memory it took."""
    arrays = [np.load(folder / f"{field}.npy", allow_pickle=True) for field in ("obs", "Y", "folds")]
    problem = Problem(pd.DataFrame(arrays[0], columns=["cell_type", "sm_name"]), *arrays[1:])
    before = peak_gb()
    result = rivals(problem, quick=True)[name].solve(np.arange(N_GENES))
    peak = peak_gb()
    print(json.dumps({"peak_gb": peak, "before_gb": before, "result_gb": result.nbytes / 2**30}))


def peak_gb() -> float:
    """Return the peak memory of this process; on Linux without what its parent had, which ru_maxrss counts."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def memory(problem: Problem, names: list[str]) -> dict[str, dict[str, float]]:
    """Return the peak memory of rivals, in a process of its own each that did not simulate the data."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for field in ("obs", "Y", "folds"):
            np.save(Path(folder) / f"{field}.npy", np.asarray(getattr(problem, field)))
        for name in names:
            command = [sys.executable, __file__, "--child", name, folder]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[name] = json.loads(printed.splitlines()[-1])
    return found


def goals(times: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return each goal with what was measured."""
    cpu = {name: row["all_genes_cpu_s"] for name, row in times.items()}
    measured = {
        "six statistics, columns, CPU s": cpu[OURS],
        "our six statistics vs. the mean only of category_encoders": cpu[THEIRS] / cpu[OURS],
        "leave-one-out vs. category_encoders": cpu["category_encoders loop, leave-one-out"]
        / cpu["ours, leave-one-out"],
    }
    return {
        name: {
            "goal": goal,
            "measured": measured[name],
            "met": measured[name] >= goal if "vs." in name else measured[name] <= goal,
        }
        for name, goal in GOALS.items()
    }


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and genes")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    warnings.simplefilter("ignore")  # of pandas, from category_encoders
    if options.child:
        child(options.child[0], Path(options.child[1]))
        return
    load = os.getloadavg()[0]
    problem = Problem.load()
    times = timed(problem, QUICK_ROUNDS if options.quick else ROUNDS, options.quick)
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"processor": processor(), "cores_used": 1, "load_before": round(load, 2)},
        "versions": installed_versions() | {"category_encoders": version("category_encoders")},
        "problem": {"rows": len(problem.obs), "genes": N_GENES, "folds": N_FOLDS},
        "encoders": times,
        "largest_difference_to_ours": differences(problem, 3 if options.quick else 20),
        "memory": memory(problem, [name for name in times if name.startswith("ours")]),
        "goals": goals(times),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    print(markdown(report))


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    problem = report["problem"]
    lines = [
        f"{report['date']}, {report['machine']['processor']}, one core; {problem['rows']} rows × "
        f"{problem['genes']:,} simulated genes × {problem['folds']} folds and all rows, by cell type and compound.",
        "",
        "| encoder | statistics | genes timed a round | all genes, CPU s | wall s | times ours "
        "| largest difference to ours | peak memory (data and libraries; result) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in report["encoders"].items():
        own = "ours, leave-one-out" if "leave-one-out" in name else OURS
        ratio = row["all_genes_cpu_s"] / report["encoders"][own]["all_genes_cpu_s"]
        error = report["largest_difference_to_ours"].get(name)
        took = report["memory"].get(name)
        lines.append(
            f"| {name} | {len(row['statistics'])} | {row['targets_a_round']:,}"
            f"{' (extrapolated)' if row['extrapolated'] else ''} | {row['all_genes_cpu_s']:,.2f} "
            f"| {row['all_genes_wall_s']:,.2f} | {ratio:,.3g} | {'–' if error is None else f'{error:.0e}'} "
            f"| {'–' if took is None else '{peak_gb:.2f} GB ({before_gb:.2f}; {result_gb:.2f})'.format(**took)} |"
        )
    lines += ["", "| goal | asked | measured | |", "|---|---|---|---|"]
    for name, goal in report["goals"].items():
        bound = "≥" if "vs." in name else "≤"
        verdict = "met" if goal["met"] else "missed"
        lines.append(f"| {name} | {bound} {goal['goal']} | {goal['measured']:.3g} | {verdict} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
