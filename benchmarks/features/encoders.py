"""Target encoding of all genes at once against the loops it replaces: time and difference on the demo data.

    python -m benchmarks.features.encoders [--out FILE]

The task: statistics of every gene per cell type and per compound, each row's from the rows outside its fold, and
those of all rows for new ones; 614 rows × 18,211 genes, 5 folds. All rivals run interleaved in one process on one
core, each on the same rows and folds; a time is the median over rounds of the process CPU time. Ours runs on all
genes. The loops run on a stated sample of genes, other ones in each round, and are extrapolated. Where a rival has
fewer statistics the table says so.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from statistics import median
from typing import Any

import category_encoders
import numpy as np
import pandas as pd
from sklearn.preprocessing import TargetEncoder as SklearnTargetEncoder

from benchmarks.harness import by_turns, on_one_core, options_of, table, written
from features.target_encoders import LeaveOneOutEncoder, TargetEncoder
from rapids_pipeline.data.demo import simulate
from rapids_pipeline.evaluation.splits import random_folds

N_GENES, N_FOLDS = 18_211, 5
SIX = ("mean", "min", "max", "median", "first", "quantile_0.4")
"""The statistics of the published pipeline."""
FIVE = ("min", "quantile_0.4", "median", "max", "mean")
"""Those of them that category_encoders has; it has no first."""
LEAVE_ONE_OUT = ("leave-one-out",)
ROUNDS = 5

Solve = Callable[[np.ndarray], Any]


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

    def of(self, targets: np.ndarray) -> np.ndarray:
        """Return some targets; all of them without a copy."""
        return self.Y if len(targets) == self.Y.shape[1] else self.Y[:, targets]


@dataclass(frozen=True)
class Rival:
    """A way to do the task for some targets, its statistics, and how many targets it does a round.

    `solve` makes columns of the training rows, (n, 2, n_statistics, n_targets); ours in two arrays, one a group.
    """

    solve: Solve
    statistics: tuple[str, ...]
    count: int


def rivals(problem: Problem) -> dict[str, Rival]:
    """Return all rivals by name."""
    few, many, mean, ce = 6, 128, ("mean",), category_encoders

    def five() -> list[Any]:
        return [ce.SummaryEncoder(quantiles=(0, 0.4, 0.5, 1), m=0), ce.MEstimateEncoder(m=0)]

    return {
        "ours, six statistics": Rival(ours(problem, SIX), SIX, N_GENES),
        "ours, mean": Rival(ours(problem, mean), mean, N_GENES),
        "pandas, groupby of many genes": Rival(with_pandas(problem), SIX, many),
        "category_encoders loop, mean": Rival(loop(problem, lambda: [ce.MEstimateEncoder(m=0)]), mean, few),
        "category_encoders loop, all but first": Rival(loop(problem, five), FIVE, few),
        "scikit-learn loop, mean": Rival(
            loop(problem, lambda: [SklearnTargetEncoder(target_type="continuous", smooth=0.0)]), mean, few
        ),
        "ours, leave-one-out": Rival(leave_one_out(problem), LEAVE_ONE_OUT, N_GENES),
        "category_encoders loop, leave-one-out": Rival(their_leave_one_out(problem), LEAVE_ONE_OUT, few),
    }


def ours(problem: Problem, statistics: tuple[str, ...]) -> Solve:
    """Return our cross-fitted statistics of all targets at once."""

    def solve(targets: np.ndarray) -> list[np.ndarray]:
        Y, obs = problem.of(targets), problem.obs
        found = [TargetEncoder(statistics).cross_fit(obs[column], Y, problem.folds) for column in obs]
        return [columns.reshape(len(obs), len(statistics), -1) for columns in found]

    return solve


def leave_one_out(problem: Problem) -> Solve:
    """Return our leave-one-out means of all targets at once."""

    def solve(targets: np.ndarray) -> list[np.ndarray]:
        Y, obs = problem.of(targets), problem.obs
        return [LeaveOneOutEncoder().fit_transform(obs[column], Y)[:, None] for column in obs]

    return solve


def their_leave_one_out(problem: Problem) -> Solve:
    """Return a loop over targets of category_encoders' leave-one-out means."""

    def solve(targets: np.ndarray) -> np.ndarray:
        Y = problem.Y[:, targets].astype(np.float64)
        found = [category_encoders.LeaveOneOutEncoder().fit_transform(problem.obs, y) for y in Y.T]
        return np.stack([columns.to_numpy() for columns in found], axis=-1)[:, :, None]

    return solve


def loop(problem: Problem, make: Callable[[], list[Any]]) -> Solve:
    """Return a loop over targets of encoders of one target: fit outside each fold, transform it, fit on all."""

    def encoded(fits: list[Any], rows: pd.DataFrame) -> np.ndarray:
        """Return (n_rows, 2, n_statistics): an encoder's columns are by group, then by statistic."""
        columns = [np.asarray(fit.transform(rows)).reshape(len(rows), 2, -1) for fit in fits]
        return np.concatenate(columns, axis=2)

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


def with_pandas(problem: Problem) -> Solve:
    """Return pandas' groupby of all targets of a call at once."""

    def statistic(grouped: Any, name: str) -> pd.DataFrame:
        return grouped.quantile(0.4) if name == "quantile_0.4" else getattr(grouped, name)()

    def solve(targets: np.ndarray) -> np.ndarray:
        Y = pd.DataFrame(problem.Y[:, targets])
        found = np.empty((len(Y), 2, len(SIX), len(targets)))
        for fold in range(-1, N_FOLDS):
            inside, outside = problem.folds == fold, problem.folds != fold
            everyone = np.zeros(outside.sum())
            overall = [statistic(Y[outside].groupby(everyone), name).iloc[0] for name in SIX]
            for c, column in enumerate(problem.obs):
                grouped = Y[outside].groupby(problem.obs[column][outside])
                for s, name in enumerate(SIX):
                    table = statistic(grouped, name)
                    found[inside, c, s] = table.reindex(problem.obs[column][inside]).fillna(overall[s])
        return found

    return solve


def timed(problem: Problem) -> dict[str, dict[str, Any]]:
    """Time all rivals, interleaved; return CPU seconds for all genes."""
    contestants = rivals(problem)
    spread = np.random.default_rng(0).permutation(N_GENES)

    def turn_of(rival: Rival) -> Callable[[], object]:
        rival.solve(spread[:2])
        parts = cycle([spread[k * rival.count :][: rival.count] for k in range(ROUNDS)])
        return lambda: rival.solve(spread if rival.count == N_GENES else next(parts))

    turns = {name: turn_of(rival) for name, rival in contestants.items()}
    taken = by_turns(turns, ROUNDS, clock=time.process_time)
    return {
        name: {
            "statistics": list(rival.statistics),
            "targets_a_round": rival.count,
            "all_genes_cpu_s": median(taken[name]) * N_GENES / rival.count,
        }
        for name, rival in contestants.items()
    }


def differences(problem: Problem, n_targets: int) -> dict[str, float]:
    """Return each rival's largest absolute difference to ours, in the statistics it has."""
    targets = np.random.default_rng(1).permutation(N_GENES)[:n_targets]
    found = {}
    for name, rival in rivals(problem).items():
        if not name.startswith("ours"):
            alone = rival.statistics == LEAVE_ONE_OUT
            own = leave_one_out(problem) if alone else ours(problem, rival.statistics)
            found[name] = float(np.abs(rival.solve(targets) - np.stack(own(targets), axis=1)).max())
    return found


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    problem = report["problem"]
    rows = []
    for name, row in report["encoders"].items():
        own = "ours, leave-one-out" if "leave-one-out" in name else "ours, six statistics"
        ratio = row["all_genes_cpu_s"] / report["encoders"][own]["all_genes_cpu_s"]
        error, count = report["largest_difference_to_ours"].get(name), row["targets_a_round"]
        genes = f"{count:,}{' (extrapolated)' if count < problem['genes'] else ''}"
        shown = f"{row['all_genes_cpu_s']:,.2f}", f"{ratio:,.3g}", "–" if error is None else f"{error:.0e}"
        rows.append((name, len(row["statistics"]), genes, *shown))
    head = "encoder | statistics | genes timed a round | all genes, CPU s | times ours | largest difference to ours"
    first = (
        f"One core; {problem['rows']} rows × {problem['genes']:,} simulated genes × {problem['folds']} folds and all "
        "rows, by cell type and compound."
    )
    return "\n".join([first, "", *table(head, rows)])


def main() -> None:
    """Run, print and write."""
    options = options_of(__doc__, results="features_encoders.json").parse_args()
    on_one_core()
    warnings.simplefilter("ignore")  # of pandas, from category_encoders
    problem = Problem.load()
    shape, encoders = {"rows": len(problem.obs), "genes": N_GENES, "folds": N_FOLDS}, timed(problem)
    off = differences(problem, n_targets=20)
    written(options.out, markdown, problem=shape, encoders=encoders, largest_difference_to_ours=off)


if __name__ == "__main__":
    main()
