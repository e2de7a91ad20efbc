"""The SVR engines on a GPU: seconds for all genes and folds of the demo data, errors beside them.

    python -m benchmarks.svr.gpu [--device cuda|cpu] [--small | --full] [--out FILE]

Rivals take turns in one process, each after a warm-up; the clock is read when the device is done; medians of rounds.
Loops over one library SVR a gene, and the engine of the CPU, run on a stated sample of genes and are extrapolated.
The error is the largest difference of a held-out prediction from SMO on the CPU at tol 1e-6. Prints Markdown and writes
JSON. Exit code 3: something it needs is not here.
"""

from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.svr.problem import N_FOLDS, N_GENES, Problem
from rapids_pipeline.backend.arrays import to_device, to_host
from rapids_pipeline.backend.errors import UnavailableError
from rapids_pipeline.svr.dual import GramTable
from rapids_pipeline.svr.engines import ENGINES, fit_on_table

SHARED, LOOP, HOST = "Douglas–Rachford", "cuML's loop", "CPU: SMO"
SMALL, USUAL, FULL = (40, 20, 2, 1), (N_GENES, 1024, 12, 3), (N_GENES, N_GENES, 60, 5)
"""Genes of the data, of the sample of the CPU's engine and of the loop; rounds."""


@dataclass(frozen=True)
class Rival:
    """An engine on a device, and on how many genes it is timed."""

    engine: str
    device: str
    genes: int

    def predictions(self, problem: Problem, genes: Any, tol: float = 1e-3, folds: int = N_FOLDS) -> Any:
        """Predict the held-out rows of the first folds; transfers to the device and back are part of it."""
        table = GramTable(to_device(problem.X, self.device))
        Y = to_device(np.ascontiguousarray(problem.Y[:, genes]), self.device)
        how = {"C": 1.0, "epsilon": 0.1, "tol": tol, "max_iter": None, "engine_name": self.engine}
        found, missed = [], 0
        for k in range(folds):
            training, held_out = problem.split(k)
            fit = fit_on_table(table, Y, training, [held_out], **how)
            found.append(to_host(fit.predictions[0]))
            missed += int((~to_host(fit.solution.converged)).sum())
        return found, missed


def measure(problem: Problem, size: tuple[int, int, int, int], device: str) -> dict[str, Any]:
    """Warm up, time by turns, compare."""
    n_genes, n_sample, n_loop, rounds = size
    rivals = {SHARED: Rival("douglas-rachford", device, n_genes), HOST: Rival("smo", "cpu", n_sample)}
    left_out = {}
    try:
        if device != "cuda":
            raise UnavailableError("needs --device cuda")
        ENGINES["cuml"].require()
        rivals[LOOP] = Rival("cuml", "cuda", n_loop)
    except UnavailableError as error:
        left_out[LOOP] = str(error)
    sample = np.random.default_rng(0).permutation(n_genes)
    few = sample[: min(48, n_genes)]
    truth = rivals[HOST].predictions(problem, few, 1e-6, 1)[0][0]
    rows: dict[str, Any] = {}
    for name, rival in rivals.items():  # the first fits compile and load, too
        errors = {
            f"tol_{tol:.0e}": float(np.abs(rival.predictions(problem, few, tol, 1)[0][0] - truth).max())
            for tol in (1e-3, 1e-6)
        }
        rows[name] = {"genes_timed": rival.genes, "largest_difference": errors}

    def work(rival: Rival) -> harness.Work:
        return lambda: rival.predictions(problem, sample[: rival.genes])

    works = {name: work(rival) for name, rival in rivals.items()}
    peak = harness.peak_mib(works[SHARED], device)
    for name, taken in harness.by_turns(works, rounds, device).items():
        seconds = median(taken)
        rows[name] |= {
            "seconds_by_round": taken,
            "all_genes_seconds": seconds * n_genes / rivals[name].genes,
            "peak_mib": peak if name == SHARED else None,
        }
    missed = rivals[SHARED].predictions(problem, np.arange(n_genes))[1]
    return {"rivals": rows, "not_converged": missed, "left_out": left_out}


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    shape = report["problem"]
    rows = []
    for name, row in report["rivals"].items():
        errors = [f"{error:.0e}" for error in row["largest_difference"].values()]
        pool = "–" if row["peak_mib"] is None else f"{row['peak_mib']:,.0f}"
        rows.append((name, f"{row['genes_timed']:,}", f"{row['all_genes_seconds']:,.3g}", pool, *errors))
    head = (
        "method | genes timed | all genes and folds, s | device memory, MiB | max difference, tol 1e-3 | 1e-6"
    )
    lines = [
        f"{shape['rows']} rows × {shape['genes']:,} simulated genes × {shape['folds']} folds; "
        f"device {report['device']}.",
        "",
        *harness.table(head, rows),
    ]
    return "\n".join(lines + harness.explained(report["left_out"]))


@harness.ends_in_one_line
def main() -> None:
    """Run, print and write."""
    options = harness.sized(harness.options_of(__doc__, results="gpu_svr.json"), SMALL, USUAL, FULL)
    harness.require(options.device, "cupy")
    problem = Problem.load(options.size[0])
    found = measure(problem, options.size, options.device)
    harness.written(options.out, markdown, device=options.device, problem=problem.shape(), **found)


if __name__ == "__main__":
    main()
