"""How the default recipe grows with rows and genes, and what its kernel ridge costs beside other people's.

    python -m benchmarks.scale [--parts runs,solvers] [--rows 500,1000,2000,4300] [--genes 978] [--wide 500:1000,4000]

runs      `run` with --molecules morgan on simulated data of many rows (`rapids-perturb demo --training-pairs …`, 146
          compounds and as many cell types as it takes), and of many genes at one number of rows: seconds,
          core-seconds, peak memory, its error on the test rows beside the best baseline's, and how the seconds grow
          from the size before (n^k)
solvers   kernel ridge of all components on one composite kernel of so many rows: ours by iterations and by the
          factorisation, scikit-learn's KernelRidge and himalaya's, and landmarks; seconds, and the largest difference
          of a fitted value from the factorisation's in units of its target's standard deviation

Rows and genes are lists. Prints tables and writes benchmarks/results/scale.json and scale.md.
"""

import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import harness
from benchmarks.pipeline import files_of, measured, scored
from features.molecules.encoders import encode_molecules
from features.rows import Pairs, Rows
from rapids_pipeline.data.demo import Size, simulate
from rapids_pipeline.kernels.composite import LearntKernel
from rapids_pipeline.stack.members.kernel_model import learn_space
from rapids_pipeline.stack.named_recipes import COMPOSITE
from rapids_pipeline.svr import kernel_ridge, nystroem

COMPOUNDS = 146
FILLED = 0.5
"""Share of all pairs of a cell type and a compound that are training rows."""
ITERATED, FACTORISED, SKLEARN = (
    "ours, by iterations",
    "ours, by the factorisation",
    "scikit-learn, one penalty",
)


def cell_types_of(rows: int) -> int:
    """Return how many cell types data of so many training rows have."""
    return max(6, math.ceil(rows / (FILLED * COMPOUNDS)))


def runs(sizes: list[tuple[int, int]], place: Path) -> dict[str, Any]:
    """Return what `run` takes and scores on data of (rows, genes)."""
    found: dict[str, Any] = {}
    for rows, genes in sizes:
        folder, cells = place / f"{rows} {genes}", cell_types_of(rows)
        size = ["--training-pairs", str(rows), "--cell-types", str(cells), "--genes", str(genes)]
        harness.command("demo", "--data-only", *size, "--out", str(folder / "demo"))
        data, out = folder / "demo" / "data", folder / "run"
        one = measured(["run", "--molecules", "morgan", *files_of(data), "--out", str(out)], out)
        test = scored(out / "submission.csv", data / "de_test.parquet")
        found[f"{rows} × {genes}"] = one | {"rows": rows, "genes": genes, "cell_types": cells, "test": test}
        print(f"{rows} × {genes}: {one['seconds']} s, {one['peak_memory_gib']} GiB", flush=True)
    return found


# --- solvers -----------------------------------------------------------------------------------------------------


def problem(rows: int) -> tuple[LearntKernel, Any, Any, Any]:
    """Return a learnt kernel of so many rows, the targets (n, q), penalties (q,) and row weights (n,)."""
    data = simulate(0, 978, Size(rows, cell_types_of(rows), COMPOUNDS)).de_train
    obs, Y = data.iloc[:, :5], np.ascontiguousarray(data.iloc[:, 5:], np.float32)
    columns = encode_molecules(COMPOSITE.encoders, list(obs["SMILES"])).training
    config = COMPOSITE.known_compounds
    space, _, scores = learn_space(config, Y)
    learnt = config.kernel.learn(Pairs.of(Rows(obs, columns), COMPOSITE.encoders), scores.astype(np.float64))
    singular = space.singular_values
    penalty = config.penalty * (singular[0] / singular) ** config.penalty_growth
    weight = np.random.default_rng(0).uniform(0.5, 1.0, rows)
    return learnt, scores.astype(np.float64) / (singular / np.sqrt(rows)), penalty, weight


def rivals_of(learnt: LearntKernel, Y: Any, penalty: Any, weight: Any) -> dict[str, Callable[[], Any]]:
    """Return what finds the fitted values (n, q) of a problem, by name.

    Other libraries know no intercept and no row weights: with one penalty, all get centred targets.
    """
    K = learnt.gram(Y)
    single, C, root = K.astype(np.float32), weight[:, None] / penalty[None, :], np.sqrt(weight)
    centred, alone = Y - Y.mean(axis=0), float(np.median(penalty))

    def iterated(targets: Any, bound: Any) -> Any:
        made = kernel_ridge.solve(single, targets, C=bound, epsilon=0.0)
        return K @ made.dual_coef + made.intercept

    def factorised() -> Any:
        gamma, intercept, _ = kernel_ridge._factorised(K, root, Y, penalty)
        return K @ (root[:, None] * gamma) + intercept

    def on_landmarks() -> Any:
        made = nystroem.solve(lambda some: single[:, some], np.diag(K), Y, penalty=penalty, weight=weight)
        return K[:, made.landmarks] @ made.coef + made.intercept

    def sklearn() -> Any:
        from sklearn.kernel_ridge import KernelRidge

        return KernelRidge(alpha=alone, kernel="precomputed").fit(K, centred).predict(K)

    def himalaya() -> Any:
        from himalaya.kernel_ridge import KernelRidge

        return KernelRidge(alpha=alone, kernel="precomputed").fit(K, centred).predict(K)

    return {
        ITERATED: lambda: iterated(Y, C),
        FACTORISED: factorised,
        "ours, on landmarks": on_landmarks,
        f"{ITERATED}, one penalty": lambda: iterated(centred, np.full((1, Y.shape[1]), 1 / alone)),
        SKLEARN: sklearn,
        "himalaya, one penalty": himalaya,
    }


def solvers(rows: int) -> dict[str, Any]:
    """Return seconds and differences of solvers of one problem; all have all cores."""
    learnt, Y, penalty, weight = problem(rows)
    spread = Y.std(axis=0)
    found: dict[str, Any] = {}
    fitted, left_out = {}, {}
    for name, work in rivals_of(learnt, Y, penalty, weight).items():
        threads = 1 if name.startswith("ours, by iter") else harness.cores()  # it has threads of its own
        try:
            began = time.perf_counter()
            with threadpool_limits(threads, "blas"):
                fitted[name] = work()
            found[name] = {"seconds": time.perf_counter() - began}
        except ImportError as error:
            left_out[name] = str(error)
    for name, one in found.items():
        one["of"] = SKLEARN if "one penalty" in name else FACTORISED
        off = np.abs(fitted[name] - fitted[one["of"]]) / spread
        one |= {"largest_difference": float(off.max()), "rms": float(np.sqrt((off**2).mean()))}
    return {"rows": rows, "targets": Y.shape[1], "solvers": found, "left_out": left_out}


# --- the report --------------------------------------------------------------------------------------------------


def growth(before: dict[str, Any] | None, now: dict[str, Any], what: str) -> str:
    """Return k of seconds ∝ n^k from the size before, where that one differs in `what` alone."""
    other = {"rows": "genes", "genes": "rows"}[what]
    if before is None or before[other] != now[other] or before[what] >= now[what]:
        return ""
    return f"{math.log(now['seconds'] / before['seconds']) / math.log(now[what] / before[what]):.2f}"


def markdown(report: dict[str, Any]) -> str:
    """Return the tables."""
    lines, rows, before = [], [], None
    head = "rows | cell types | genes | seconds | core-seconds | peak memory | n^k in rows | n^k in genes"
    for run in report.get("runs", {}).values():
        ours, *others = run["test"].items()
        cost = f"{run['seconds']:.1f}", f"{run['core_seconds']:.1f}", f"{run['peak_memory_gib']:.2f} GiB"
        grown = growth(before, run, "rows"), growth(before, run, "genes")
        name, best = min(others, key=lambda item: item[1])
        shown = f"{run['rows']:,}", run["cell_types"], f"{run['genes']:,}", *cost, *grown
        rows.append((*shown, f"{ours[1]:.4f}", f"{name} {best:.4f}"))
        before = run
    if rows:
        lines += [*harness.table(f"{head} | MRRMSE on test rows | best baseline", rows), ""]
    for part in report.get("solvers", []):
        lines += [f"kernel ridge, {part['rows']:,} rows × {part['targets']} components", ""]
        body = [
            (
                name,
                f"{one['seconds']:.1f}",
                f"{one['largest_difference']:.1e}",
                f"{one['rms']:.1e}",
                one["of"],
            )
            for name, one in part["solvers"].items()
        ]
        lines += harness.table("solver | seconds | largest difference | rms | from", body)
        lines += [*harness.explained(part["left_out"]), ""]
    return "\n".join(lines)


def numbers(text: str) -> list[int]:
    """Return a list of whole numbers."""
    return [int(word) for word in text.split(",") if word]


@harness.ends_in_one_line
def main() -> None:
    """Measure, print and write."""
    parser = harness.options_of(__doc__, "scale.json")
    parser.add_argument("--parts", default="runs,solvers")
    parser.add_argument("--rows", type=numbers, default=[500, 1000, 2000, 4300, 14000])
    parser.add_argument("--genes", type=int, default=978)
    parser.add_argument("--wide", type=numbers, default=[1000, 4000, 18211], help="genes, at 614 rows")
    parser.add_argument("--solved", type=numbers, default=[2000, 4300], help="rows of the solvers")
    asked, found = parser.parse_args(), {}
    if "runs" in asked.parts:
        sizes = [(rows, asked.genes) for rows in asked.rows] + [(614, genes) for genes in asked.wide]
        with tempfile.TemporaryDirectory() as folder:
            found["runs"] = runs(sizes, Path(folder))
    if "solvers" in asked.parts:
        found["solvers"] = [solvers(rows) for rows in asked.solved]
    harness.written(asked.out, markdown, **found)


if __name__ == "__main__":
    main()
