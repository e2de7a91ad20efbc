"""How the default recipe grows with rows and genes, and what its kernel ridge costs beside other people's.

    python -m benchmarks.scale [--parts runs,solvers] [--rows 500,1000,2000,4300] [--genes 978] [--wide 1000,4000]
    python -m benchmarks.scale --parts large [--large 14000:13000:50:336,14000:13000:1:14700,57000:978:781:146]

runs      `run` with --molecules morgan on simulated data of many rows (`rapids-perturb demo --training-pairs …`, 146
          compounds and as many cell types as it takes), and of many genes at one number of rows: seconds,
          core-seconds, peak memory, its error on the test rows beside the best baseline's, and how the seconds grow
          from the size before (n^k)
large     the same at training rows : genes : cell types : compounds, in this order; only where it is asked for, since
          it takes hours. Of a single cell type the compounds to predict are new
fits      one fit of the model of known compounds to so many rows, 978 genes: seconds and the peak memory so far; a run
          has as much of it as nine, since five fits are of 80 % of the rows, ten of 60 %, and one is of `new_compounds`
solvers   kernel ridge of all components on one composite kernel of so many rows: ours by iterations, by the
          factorisation and by Cholesky factors, scikit-learn's KernelRidge and himalaya's, and landmarks; seconds, and
          the largest difference of a fitted value from the reference's in units of its target's standard deviation.
          In our setting every component has a penalty, there are row weights and an intercept. scikit-learn needs a
          Cholesky factorisation of n³/3 for each component then, with a column of ones beside it: some components are
          measured, and the seconds of all follow. One penalty for all, without weights and intercept, suits it

Lists of numbers are separated by commas. Prints tables and writes benchmarks/results/scale.json and scale.md; what was
measured before stays there, with its date, where a part is not asked for.
"""

import json
import math
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import harness
from benchmarks.pipeline import files_of, measured, scored
from features.molecules.encoders import encode_molecules
from features.rows import Pairs, Rows
from rapids_pipeline.data.demo import Size, simulate
from rapids_pipeline.kernels.composite import LearntKernel
from rapids_pipeline.stack.members.kernel_model import fit_kernel_model, learn_space
from rapids_pipeline.stack.named_recipes import COMPOSITE
from rapids_pipeline.svr import kernel_ridge, nystroem

COMPOUNDS = 146
FILLED = 0.5
"""Share of all pairs of a cell type and a compound that are training rows."""
FACTORISED_UP_TO = 5000
"""Rows up to which all eigenvalues of K are found, which takes 9 n³ operations: ours, himalaya's, and landmarks."""
SOME = 4
"""Components that scikit-learn solves with a penalty each where there are more than `FACTORISED_UP_TO` rows."""
ITERATED, FACTORISED, SKLEARN, EACH = (
    "ours, by iterations",
    "ours, by the factorisation",
    "scikit-learn, one penalty",
    "scikit-learn, a penalty each",
)


class Shape(NamedTuple):
    """Training rows, genes, cell types and compounds of a data set."""

    rows: int
    genes: int
    cell_types: int
    compounds: int = COMPOUNDS

    @classmethod
    def usual(cls, rows: int, genes: int) -> "Shape":
        """Return one of 146 compounds and as many cell types as it takes."""
        return cls(rows, genes, max(6, math.ceil(rows / (FILLED * COMPOUNDS))))


def runs(shapes: list[Shape], place: Path) -> dict[str, Any]:
    """Return what `run` takes and scores on data of some shapes."""
    found: dict[str, Any] = {}
    for shape in shapes:
        name = f"{shape.rows} × {shape.genes}, {shape.cell_types} × {shape.compounds}"
        with tempfile.TemporaryDirectory(dir=place) as folder:
            demo, out = Path(folder, "demo"), Path(folder, "run")
            size = ["--training-pairs", str(shape.rows), "--genes", str(shape.genes)]
            size += ["--cell-types", str(shape.cell_types), "--compounds", str(shape.compounds)]
            harness.command("demo", "--data-only", *size, "--out", str(demo))
            one = measured(["run", "--molecules", "morgan", *files_of(demo / "data"), "--out", str(out)], out)
            one["test"] = scored(out / "submission.csv", demo / "data" / "de_test.parquet")
        found[name] = one | shape._asdict()
        shown = {
            key: one[key] for key in ("seconds", "core_seconds", "peak_memory_gib", "stage_seconds", "test")
        }
        print(name, json.dumps(shown), flush=True)
    return found


def fits(rows: list[int]) -> list[dict[str, Any]]:
    """Return what one fit of the model of known compounds takes, by rows; all have all cores."""
    found = []
    for n in rows:
        config, pairs, Y = COMPOSITE.known_compounds, *rows_of(n)
        used, began = harness.core_seconds(), time.perf_counter()
        with threadpool_limits(1, "blas"):  # as in a run; products have threads of their own
            model = fit_kernel_model(config, pairs, Y, "cpu")
        taken = {"seconds": time.perf_counter() - began, "core_seconds": harness.core_seconds() - used}
        peak = harness.peak_memory() / 2**30
        found.append({"rows": n, "components": model.dual_coef.shape[1], **taken, "peak_memory_gib": peak})
        print(found[-1], flush=True)
    return found


# --- solvers -----------------------------------------------------------------------------------------------------


def rows_of(rows: int) -> tuple[Pairs, Any]:
    """Return the pairs of simulated training rows and their targets, 978 genes."""
    data = simulate(0, 978, Size(rows, Shape.usual(rows, 978).cell_types, COMPOUNDS)).de_train
    obs, Y = data.iloc[:, :5], np.ascontiguousarray(data.iloc[:, 5:], np.float32)
    columns = encode_molecules(COMPOSITE.encoders, list(obs["SMILES"])).training
    return Pairs.of(Rows(obs, columns), COMPOSITE.encoders), Y


def problem(rows: int) -> tuple[LearntKernel, Any, Any, Any]:
    """Return a learnt kernel of so many rows, the targets (n, q), penalties (q,) and row weights (n,)."""
    config, pairs, Y = COMPOSITE.known_compounds, *rows_of(rows)
    space, _, scores = learn_space(config, Y)
    learnt = config.kernel.learn(pairs, scores.astype(np.float64))
    singular = space.singular_values
    penalty = config.penalty * (singular[0] / singular) ** config.penalty_growth
    weight = np.random.default_rng(0).uniform(0.5, 1.0, rows)
    return learnt, scores.astype(np.float64) / (singular / np.sqrt(rows)), penalty, weight


def rivals_of(learnt: LearntKernel, Y: Any, penalty: Any, weight: Any) -> dict[str, Callable[[], Any]]:
    """Return what finds the fitted values (n, q) of a problem, by name; scikit-learn's, a penalty each, of some.

    In the setting that suits other libraries all get centred targets, one penalty and no weights.
    """
    K = learnt.gram(Y)
    single, C, root = K.astype(np.float32), weight[:, None] / penalty[None, :], np.sqrt(weight)
    centred, alone = Y - Y.mean(axis=0), float(np.median(penalty))

    def ours(targets: Any, bound: Any) -> Any:
        made = kernel_ridge.solve(single, targets, C=bound, epsilon=0.0)
        return K @ made.dual_coef + made.intercept

    def factorised() -> Any:
        gamma, intercept, _ = kernel_ridge._factorised(K, root, Y, penalty)
        return K @ (root[:, None] * gamma) + intercept

    def on_landmarks() -> Any:
        made = nystroem.solve(lambda some: single[:, some], np.diag(K), Y, penalty=penalty, weight=weight)
        return K[:, made.landmarks] @ made.coef + made.intercept

    def each() -> Any:
        from sklearn.kernel_ridge import KernelRidge

        columns = []
        for j in some_of(len(Y), Y.shape[1]):
            model = KernelRidge(alpha=penalty[j], kernel="precomputed")
            dual = model.fit(K, np.column_stack([Y[:, j], np.ones(len(Y))]), sample_weight=weight).dual_coef_
            b = dual[:, 0].sum() / dual[:, 1].sum()
            columns.append(K @ (dual[:, 0] - b * dual[:, 1]) + b)
        return np.column_stack(columns)

    def sklearn() -> Any:
        from sklearn.kernel_ridge import KernelRidge

        return KernelRidge(alpha=alone, kernel="precomputed").fit(K, centred).predict(K)

    def himalaya() -> Any:
        from himalaya.kernel_ridge import KernelRidge

        return KernelRidge(alpha=alone, kernel="precomputed").fit(K, centred).predict(K)

    one_penalty = np.full((1, Y.shape[1]), 1 / alone)
    few = {FACTORISED: factorised, "ours, on landmarks": on_landmarks}
    found = {ITERATED: lambda: ours(Y, C), EACH: each}
    found |= few if len(Y) <= FACTORISED_UP_TO else {}
    found |= {"ours, by Cholesky factors, one penalty": lambda: ours(centred, one_penalty), SKLEARN: sklearn}
    return found | ({"himalaya, one penalty": himalaya} if len(Y) <= FACTORISED_UP_TO else {})


def some_of(rows: int, targets: int) -> Any:
    """Return the components that scikit-learn solves with a penalty each."""
    return np.arange(targets) if rows <= FACTORISED_UP_TO else np.linspace(0, targets - 1, SOME).astype(int)


def solvers(rows: int) -> dict[str, Any]:
    """Return seconds and differences of solvers of one problem; all have all cores."""
    learnt, Y, penalty, weight = problem(rows)
    spread, solved = Y.std(axis=0), some_of(rows, Y.shape[1])
    found: dict[str, Any] = {}
    fitted, left_out = {}, {}
    for name, work in rivals_of(learnt, Y, penalty, weight).items():
        # Ours has threads of its own, but for the factorisation.
        threads = 1 if name.startswith(("ours, by iter", "ours, by Chol")) else harness.cores()
        try:
            began = time.perf_counter()
            with threadpool_limits(threads, "blas"):
                fitted[name] = work()
            found[name] = {"seconds": time.perf_counter() - began}
            print(rows, name, found[name], flush=True)
        except ImportError as error:
            left_out[name] = str(error)
    found[EACH]["seconds"] *= Y.shape[1] / len(solved)
    for name, one in found.items():
        one["of"] = SKLEARN if "one penalty" in name else EACH
        columns = solved if one["of"] == EACH and name != EACH else slice(None)
        scale = spread[solved] if one["of"] == EACH else spread
        off = np.abs(fitted[name][:, columns] - fitted[one["of"]]) / scale
        one |= {"largest_difference": float(off.max()), "rms": float(np.sqrt((off**2).mean()))}
    measured_of = f"{EACH}: {len(solved)} of {Y.shape[1]} components were measured"
    left_out |= {measured_of: "the seconds of all follow"} if len(solved) < Y.shape[1] else {}
    return {"rows": rows, "targets": Y.shape[1], "solvers": found, "left_out": left_out}


# --- the report --------------------------------------------------------------------------------------------------


def growth(before: list[dict[str, Any]], now: dict[str, Any], what: str) -> str:
    """Return k of seconds ∝ n^k from the next smaller size, of those that differ in `what` alone."""
    other = {"rows": "genes", "genes": "rows"}[what]
    smaller = [run for run in before if run[other] == now[other] and run[what] < now[what]]
    smaller = [run for run in smaller if run["compounds"] == now["compounds"]]
    if not smaller:
        return ""
    run = max(smaller, key=lambda one: one[what])
    return f"{math.log(now['seconds'] / run['seconds']) / math.log(now[what] / run[what]):.2f}"


def table_of(runs: dict[str, Any], before: list[dict[str, Any]]) -> list[str]:
    """Return the table of some runs; `before` has those that were made before, to which these are added."""
    head = "rows | cell types | compounds | genes | seconds | core-seconds | peak memory | n^k in rows | n^k in genes"
    rows = []
    for run in runs.values():
        ours, *others = run["test"].items()
        cost = f"{run['seconds']:.1f}", f"{run['core_seconds']:.1f}", f"{run['peak_memory_gib']:.2f} GiB"
        grown = growth(before, run, "rows"), growth(before, run, "genes")
        name, best = min(others, key=lambda item: item[1])
        shown = (
            f"{run['rows']:,}",
            run["cell_types"],
            f"{run['compounds']:,}",
            f"{run['genes']:,}",
            *cost,
            *grown,
        )
        rows.append((*shown, f"{ours[1]:.4f}", f"{name} {best:.4f}"))
        before.append(run)
    return harness.table(f"{head} | MRRMSE on test rows | best baseline", rows)


def markdown(report: dict[str, Any]) -> str:
    """Return the tables."""
    lines, before = list[str](), list[dict[str, Any]]()
    for name in ("runs", "large"):
        if name in report:
            lines += [f"{name}, {report['dates'][name]}", "", *table_of(report[name], before), ""]
    if "fits" in report:
        body = [
            (f"{x['rows']:,}", *(f"{x[name]:.1f}" for name in ("seconds", "core_seconds", "peak_memory_gib")))
            for x in report["fits"]
        ]
        lines += [f"one fit of known_compounds, {report['dates']['fits']}", ""]
        lines += [*harness.table("rows | seconds | core-seconds | peak memory, GiB", body), ""]
    for part in report.get("solvers", []):
        lines += [f"kernel ridge, {part['rows']:,} rows × {part['targets']} components"]
        lines += [f"{report['dates']['solvers']}", ""]
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


def shapes(text: str) -> list[Shape]:
    """Return a list of shapes."""
    return [Shape(*map(int, word.split(":"))) for word in text.split(",") if word]


@harness.ends_in_one_line
def main() -> None:
    """Measure, print and write."""
    parser = harness.options_of(__doc__, "scale.json")
    parser.add_argument("--parts", default="runs,solvers")
    parser.add_argument("--rows", type=numbers, default=[500, 1000, 2000, 4300, 14000])
    parser.add_argument("--genes", type=int, default=978)
    parser.add_argument("--wide", type=numbers, default=[1000, 4000, 18211], help="genes, at 614 rows")
    parser.add_argument("--solved", type=numbers, default=[4300, 14000], help="rows of the solvers")
    large = "14000:13000:50:336,14000:13000:1:14700,57000:978:781:146"
    parser.add_argument(
        "--fitted", type=numbers, default=[14000, 28000, 57000], help="rows of the fits, rising"
    )
    parser.add_argument("--large", type=shapes, default=shapes(large))
    asked, found = parser.parse_args(), dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        if "runs" in asked.parts:
            usual = [(rows, asked.genes) for rows in asked.rows] + [(614, genes) for genes in asked.wide]
            found["runs"] = runs([Shape.usual(*size) for size in usual], Path(folder))
        if "large" in asked.parts:
            found["large"] = runs(asked.large, Path(folder))
    if "fits" in asked.parts:
        found["fits"] = fits(asked.fitted)
    if "solvers" in asked.parts:
        found["solvers"] = [solvers(rows) for rows in asked.solved]
    before = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    kept = {
        name: before[name]
        for name in ("runs", "large", "fits", "solvers")
        if name in before and "dates" in before
    }
    dates = before.get("dates", {}) | dict.fromkeys(found, datetime.now(UTC).date().isoformat())
    harness.written(asked.out, markdown, dates=dates, **kept | found)


if __name__ == "__main__":
    main()
