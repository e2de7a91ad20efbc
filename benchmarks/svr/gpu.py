"""The SVR engines on a GPU: seconds for all genes and folds of the demo data, errors beside them.

    python -m benchmarks.svr.gpu [--device cuda|cpu] [--small | --full] [--out FILE]

Rivals take turns in one process, each after a warm-up; the clock is read when the device is done; medians of rounds.
Loops over one library SVR a gene, and the engine of the CPU, run on a stated sample of genes and are extrapolated. The
SVRs are on shared features, and on each gene's own statistics (those of the recipe `published`). The error is the
largest difference of a held-out prediction from SMO on the CPU at tol 1e-6. Prints Markdown and writes
JSON. Exit code 3: something it needs is not here.
"""

import warnings
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.svr.problem import N_FOLDS, N_GENES, OWN_STATISTICS, Problem
from rapids_pipeline.backend.arrays import to_device, to_host
from rapids_pipeline.backend.errors import UnavailableError
from rapids_pipeline.svr import NotConvergedWarning
from rapids_pipeline.svr.dual import GramTable
from rapids_pipeline.svr.engines import ENGINES, fit_on_table
from rapids_pipeline.svr.own_target.estimator import fit_predict

SHARED, LOOP, HOST = "Douglas–Rachford, shared", "cuML's loop, shared", "CPU: SMO, shared"
OWN, HOST_OWN = "Douglas–Rachford, own statistics", "CPU: SMO, own statistics"
SMALL, USUAL, FULL = (40, 20, 2, 1), (N_GENES, 1024, 12, 3), (N_GENES, N_GENES, 60, 5)
"""Genes of the data, of the sample of the CPU's engine (own statistics: a quarter) and of the loop; rounds."""


@dataclass(frozen=True)
class Rival:
    """An engine on a device, on how many genes it is timed, and whether on each gene's own statistics."""

    engine: str
    device: str
    genes: int
    own: bool = False

    def predictions(self, problem: Problem, genes: Any, tol: float = 1e-3, folds: int = N_FOLDS) -> Any:
        """Predict the held-out rows of the first folds, and count the targets that missed tol.

        Transfers to the device and back are part of it.
        """
        Y = np.ascontiguousarray(problem.Y[:, genes])
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", NotConvergedWarning)
            found = (self._on_own_statistics if self.own else self._on_shared_features)(
                problem, Y, tol, folds
            )
        missed = sum(int(str(one.message).split()[0]) for one in said if one.category is NotConvergedWarning)
        return found, missed

    def _on_shared_features(self, problem: Problem, Y: Any, tol: float, folds: int) -> list[Any]:
        table, Y = GramTable(to_device(problem.X, self.device)), to_device(Y, self.device)
        how = {"C": 1.0, "epsilon": 0.1, "tol": tol, "max_iter": None, "engine_name": self.engine}
        splits = (problem.split(k) for k in range(folds))
        fits = (fit_on_table(table, Y, training, [held_out], **how) for training, held_out in splits)
        return [to_host(fit.predictions[0]) for fit in fits]

    def _on_own_statistics(self, problem: Problem, Y: Any, tol: float, folds: int) -> list[Any]:
        how = {"tol": tol, "engine": self.engine, "device": self.device}
        found = []
        for training, held_out in (problem.split(k) for k in range(folds)):
            rows, others = problem.rows.take(training), problem.rows.take(held_out)
            found.append(fit_predict(OWN_STATISTICS, rows, Y[training], others, **how))
        return found


def measure(problem: Problem, size: tuple[int, int, int, int], device: str) -> dict[str, Any]:
    """Warm up, time by turns, compare."""
    n_genes, n_sample, n_loop, rounds = size
    rivals = {
        SHARED: Rival("douglas-rachford", device, n_genes),
        OWN: Rival("douglas-rachford", device, n_genes, own=True),
        HOST: Rival("smo", "cpu", n_sample),
        HOST_OWN: Rival("smo", "cpu", max(1, n_sample // 4), own=True),
    }
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
    truth = {
        own: rivals[name].predictions(problem, few, 1e-6, 1)[0][0]
        for own, name in enumerate((HOST, HOST_OWN))
    }
    rows: dict[str, Any] = {}
    for name, rival in rivals.items():  # the first fits compile and load, too
        errors = {}
        for tol in (1e-3, 1e-6):
            found = rival.predictions(problem, few, tol, 1)[0][0]
            errors[f"tol_{tol:.0e}"] = float(np.abs(found - truth[rival.own]).max())
        rows[name] = {"genes_timed": rival.genes, "largest_difference": errors}

    missed: dict[str, int] = {}

    def work(name: str, rival: Rival) -> harness.Work:
        def predict() -> None:
            missed[name] = rival.predictions(problem, sample[: rival.genes])[1]

        return predict

    works = {name: work(name, rival) for name, rival in rivals.items()}
    peaks = {name: harness.peak_mib(works[name], device) for name in (SHARED, OWN)}
    for name, taken in harness.by_turns(works, rounds, device).items():
        seconds = median(taken)
        rows[name] |= {
            "seconds_by_round": taken,
            "all_genes_seconds": seconds * n_genes / rivals[name].genes,
            "peak_mib": peaks.get(name),
            "not_converged": missed[name],
        }
    return {"rivals": rows, "left_out": left_out}


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
