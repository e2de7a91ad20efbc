"""The SVR engines on a GPU: seconds for all genes and folds of the demo data, errors beside them.

    python benchmarks/gpu_svr.py [--device cuda|cpu] [--small | --full] [--out FILE]

Rivals take turns in one process, each after a warm-up; the clock is read when the device is done; medians of rounds.
Loops over one library SVR a gene, and the engines of the CPU, run on a stated sample of genes and are extrapolated.
The error is the largest difference of a held-out prediction from SMO on the CPU at tol 1e-6. Target-specific SVRs are
timed in two parts: their statistics, made on the host, and the solution. Prints Markdown and writes JSON. With
`--device cpu` the program runs without a GPU, to be tested. Exit code 3: something it needs is not here.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import machine
import numpy as np
from gpu_clock import by_turns, median, peak_mib
from gpu_report import ended_by_what_is_missing, require, written
from rapids_pipeline.svr.cross_validation import cross_val_predict
from rapids_pipeline.svr.target_features import LearntTargetFeatures
from svr import Problem  # after numpy, so that its thread counts come too late

from rapids_pipeline.backend.arrays import to_device, to_host
from rapids_pipeline.svr.engines import ENGINES
from rapids_pipeline.svr.gram import GramTable
from rapids_pipeline.svr.smo import SmoOptions, solve_factored

RESULTS = Path(__file__).parent / "results" / "gpu_svr.json"
GOALS = {
    "shared, all genes and folds, s": 0.2,
    "target-specific, all genes and folds, s": 1.0,
    "times cuML's loop": 500,
}
SHARED, LOOP = "Douglas–Rachford, shared", "cuML's loop, shared"
STATISTICS, SOLUTION = "target-specific: statistics (host)", "target-specific: solution"


@dataclass(frozen=True)
class Size:
    """How much is measured: genes of the data, of the sample of the CPU's engines and of the loop; rounds."""

    genes: int
    sample: int
    loop: int
    rounds: int


SMALL, USUAL, FULL = Size(40, 20, 2, 1), Size(18_211, 1024, 12, 3), Size(18_211, 18_211, 60, 5)


@dataclass(frozen=True)
class Rival:
    """Some work, on how many genes, and how a held-out prediction of fold 0 by it is had (None: not compared)."""

    work: Callable[[], Any]
    genes: int
    predict: Callable[[np.ndarray, float], np.ndarray] | None = None


class Contest:
    """The demo data and everything that is timed on it."""

    def __init__(self, size: Size, device: str) -> None:
        self.size, self.device = size, device
        self.problem = Problem.load(size.genes)
        self.sample = np.random.default_rng(0).permutation(size.genes)
        self.tables: dict[int, LearntTargetFeatures] = {}

    def shared(self, engine: str, genes: np.ndarray, tol: float = 1e-3, device: str = "cpu") -> Any:
        """Cross-validate on shared features; transfers to the device and back are part of it."""
        table = GramTable(to_device(self.problem.X, device))
        Y = to_device(np.ascontiguousarray(self.problem.Y[:, genes]), device)
        svr = self.problem.svr(engine, tol)
        result = cross_val_predict(svr, table, Y, self.problem.folds)
        return to_host(result.oof), result.converged

    def learn(self, genes: np.ndarray) -> None:
        """Make the statistics and the kernels' tables of every fold, on the host."""
        features = self.problem.svr("target-specific").target_features
        for k in range(self.problem.folds.max() + 1):
            inside = self.problem.folds != k
            Y = np.ascontiguousarray(self.problem.Y[np.ix_(inside, genes)])
            self.tables[k] = LearntTargetFeatures.learn(features, self.problem.levels[inside], Y, "scale")

    def specific(
        self, genes: np.ndarray, tol: float = 1e-3, device: str = "cpu", folds: Any = None
    ) -> np.ndarray:
        """Solve every fold on the tables learnt; return the held-out predictions of fold 0."""
        solve: Callable[..., Any] = solve_factored
        if device == "cuda":
            from rapids_pipeline.svr.smo_cuda import solve_factored_cuda

            solve = solve_factored_cuda
        first = None
        for k in self.tables if folds is None else folds:
            inside, learnt = self.problem.folds != k, self.tables[k]
            Y = np.ascontiguousarray(self.problem.Y[np.ix_(inside, genes)])
            tests = learnt.positions(self.problem.levels[~inside])
            result = solve(learnt.kernel, learnt.training, Y, SmoOptions(tol=tol), test_rows=tests)
            first = result.predicted.T if first is None else first
        return first

    def of_fold_0(self, engine: str, device: str) -> Callable[[np.ndarray, float], np.ndarray]:
        """Return how predictions of fold 0 by an engine on shared features are had."""
        return lambda genes, tol: self.shared(engine, genes, tol, device)[0][self.problem.folds == 0]

    def specific_0(self, device: str) -> Callable[[np.ndarray, float], np.ndarray]:
        """Return how predictions of fold 0 by target-specific SVRs are had."""

        def predict(genes: np.ndarray, tol: float) -> np.ndarray:
            self.learn(genes)
            return self.specific(genes, tol, device, [0])

        return predict

    def rivals(self) -> dict[str, Rival]:
        """Return what is timed; the solution takes the tables that the statistics' turn made."""
        size, all_genes = self.size, np.arange(self.size.genes)
        few, loop = self.sample[: size.sample], self.sample[: size.loop]
        device = self.device
        found = {
            SHARED: Rival(
                lambda: self.shared("douglas-rachford", all_genes, device=device),
                size.genes,
                self.of_fold_0("douglas-rachford", device),
            ),
            "CPU: SMO, shared": Rival(
                lambda: self.shared("smo", few), len(few), self.of_fold_0("smo", "cpu")
            ),
            "CPU: target-specific, with statistics": Rival(
                lambda: (self.learn(few), self.specific(few)), len(few), self.specific_0("cpu")
            ),
            STATISTICS: Rival(lambda: self.learn(all_genes), size.genes),
            SOLUTION: Rival(
                lambda: self.specific(all_genes, device=device), size.genes, self.specific_0(device)
            ),
        }
        if device == "cuda" and not missing_cuml():
            work = Rival(
                lambda: self.shared("cuml", loop, device="cuda"), len(loop), self.of_fold_0("cuml", "cuda")
            )
            found[LOOP] = work
        return found


def missing_cuml() -> str | None:
    """Return why cuML cannot be used, None where it can."""
    try:
        ENGINES["cuml"].require()
    except RuntimeError as error:
        return str(error)
    return None


def errors(contest: Contest, rivals: dict[str, Rival], n: int) -> dict[str, dict[str, float]]:
    """Return each rival's largest difference to SMO on the CPU at tol 1e-6, at its tol 1e-3 and 1e-6."""
    genes = contest.sample[:n]
    truth = {
        "shared": contest.of_fold_0("smo", "cpu")(genes, 1e-6),
        "specific": contest.specific_0("cpu")(genes, 1e-6),
    }
    found = {}
    for name, rival in rivals.items():
        if rival.predict is not None:
            reference = truth["specific" if "specific" in name else "shared"]
            found[name] = {
                f"tol_{tol:.0e}": float(np.abs(rival.predict(genes, tol) - reference).max())
                for tol in (1e-3, 1e-6)
            }
    return found


def measure(contest: Contest) -> dict[str, Any]:
    """Warm up, time by turns, compare."""
    rivals, size = contest.rivals(), contest.size
    warm = copy.copy(contest)
    warm.size = replace(size, genes=min(64, size.genes), sample=min(8, size.genes), loop=1)
    warm.tables = {}
    for rival in warm.rivals().values():
        rival.work()  # compiles and loads
    peaks = {name: peak_mib(rivals[name].work, contest.device) for name in (SHARED, STATISTICS, SOLUTION)}
    taken = by_turns({name: rival.work for name, rival in rivals.items()}, size.rounds, contest.device)
    rows = {
        name: {
            "genes_timed": rival.genes,
            "seconds_by_round": taken[name],
            "seconds": median(taken[name]),
            "all_genes_seconds": median(taken[name]) * size.genes / rival.genes,
            "peak_mib": peaks.get(name),
        }
        for name, rival in rivals.items()
    }
    _, converged = contest.shared("douglas-rachford", np.arange(size.genes), device=contest.device)
    return {
        "rivals": rows,
        "largest_difference": errors(contest, rivals, min(48, size.genes)),
        "not_converged": int((~converged).sum()),
        "left_out": {} if LOOP in rows else {LOOP: missing_cuml() or "needs --device cuda"},
    }


def goals(rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return each goal with what was measured, where it was."""
    seconds = {name: row["all_genes_seconds"] for name, row in rows.items()}
    measured = {
        "shared, all genes and folds, s": seconds[SHARED],
        "target-specific, all genes and folds, s": seconds[STATISTICS] + seconds[SOLUTION],
    }
    if LOOP in seconds:
        measured["times cuML's loop"] = seconds[LOOP] / seconds[SHARED]
    return {
        name: {
            "goal": GOALS[name],
            "measured": value,
            "met": bool(value >= GOALS[name] if "times" in name else value <= GOALS[name]),
        }
        for name, value in measured.items()
    }


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    shape = report["problem"]
    lines = [
        f"{report['date']}, {machine.named(report['machine'])}; {shape['rows']} rows × {shape['genes']:,} simulated "
        f"genes × {shape['folds']} folds; device {report['device']}.",
        "",
        "| method | genes timed | s | all genes and folds, s | device memory, MiB | max difference, tol 1e-3 | 1e-6 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in report["rivals"].items():
        error = report["largest_difference"].get(name, {})
        shown = [f"{error[tol]:.0e}" if tol in error else "–" for tol in ("tol_1e-03", "tol_1e-06")]
        pool = "–" if row["peak_mib"] is None else f"{row['peak_mib']:,.0f}"
        lines.append(
            f"| {name} | {row['genes_timed']:,} | {row['seconds']:.3g} | {row['all_genes_seconds']:,.3g} | {pool} "
            f"| {' | '.join(shown)} |"
        )
    lines += [f"\nLeft out: {name} ({why})" for name, why in report["left_out"].items()]
    lines += ["", "| goal (an H100) | asked | measured | |", "|---|---|---|---|"]
    for name, goal in report["goals"].items():
        bound, verdict = "≥" if "times" in name else "≤", "met" if goal["met"] else "missed"
        lines.append(f"| {name} | {bound} {goal['goal']:g} | {goal['measured']:.3g} | {verdict} |")
    return "\n".join(lines)


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
    require(options.device, "cupy", "numba")
    contest = Contest(options.size, options.device)
    shape = {
        "rows": len(contest.problem.X),
        "genes": options.size.genes,
        "folds": int(contest.problem.folds.max()) + 1,
    }
    found = measure(contest)
    report = {"problem": shape, **found, "goals": goals(found["rivals"])}
    written(report, options, markdown)


if __name__ == "__main__":
    main()
