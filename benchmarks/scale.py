"""How the default recipe grows with rows and genes, and what its kernel ridge costs beside other people's.

    python -m benchmarks.scale [--parts runs,solvers] [--rows 500,1000,2000,4300,14000] [--wide 1000,4000]
    python -m benchmarks.scale --parts large [--large 14000:13000:50:336,14000:13000:1:14700,57000:978:781:146:3]
    python -m benchmarks.scale --parts fits [--fitted 14000,28000,57000]

runs      `run` with --molecules morgan on simulated data of many rows (`rapids-perturb demo --training-pairs …`, 146
          compounds and as many cell types as it takes), and of many genes at one number of rows: seconds,
          core-seconds, peak memory, its error on the test rows beside the best baseline's, and how the seconds grow
          from the size before (n^k)
large     the same at training rows : genes : cell types : compounds : folds, in this order; only where it is asked for,
          since it takes long. Of a single cell type the compounds to predict are new
fits      one fit of the model of known compounds to so many rows, 978 genes: seconds and the peak memory so far; a run
          has as much of it as nine, since five fits are of 80 % of the rows, ten of 60 %, and one is of `new_compounds`
solvers   kernel ridge of all components on one composite kernel of so many rows, with an intercept: ours, KernelRidge
          of scikit-learn and of himalaya, and the solver of GPyTorch. Seconds, and the largest difference of a fitted
          value from the reference's in units of its target's standard deviation. Other people's solvers have no
          intercept: a right side of ones beside the targets gives it. In our setting every component has a penalty and
          every row a weight. scikit-learn needs a Cholesky factorisation of n³/3 operations for each component then:
          some components are measured, and the seconds of all follow. One penalty for all without weights suits it

Lists of numbers are separated by commas. Prints tables and writes benchmarks/results/scale.json and scale.md after each
size; what was measured before stays there, with its date.
"""

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable
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
from rapids_pipeline.stack.named_recipes import COMPOSITE, recipe
from rapids_pipeline.svr import kernel_ridge, nystroem

BEST = recipe("best")
COMPOUNDS, GENES = 146, 978
FILLED = 0.5
"""Share of all pairs of a cell type and a compound that are training rows."""
SOLVED_UP_TO, SOME = 2000, 4
"""Rows up to which scikit-learn solves every component with a penalty each, and how many components of more rows."""
FACTORISED_UP_TO = 5000
"""Rows up to which all eigenvalues of K are found, which takes 9 n³ operations: ours, himalaya's, and landmarks."""
EACH, ONE = "scikit-learn", "scikit-learn, one penalty"
"""The references of the two settings."""
TOLERANCE, STEPS = 1e-4, 1000
"""Of the conjugate gradients of other people, on float32."""


class Shape(NamedTuple):
    """Training rows, genes, cell types and compounds of a data set, and the folds of a run on it."""

    rows: int
    genes: int
    cell_types: int
    compounds: int = COMPOUNDS
    folds: int = BEST.n_folds

    @classmethod
    def usual(cls, rows: int, genes: int) -> "Shape":
        """Return one of 146 compounds and as many cell types as it takes."""
        return cls(rows, genes, max(6, math.ceil(rows / (FILLED * COMPOUNDS))))


def run(shape: Shape) -> dict[str, Any]:
    """Return what `run` takes and scores on data of a shape."""
    with tempfile.TemporaryDirectory() as folder:
        demo, out = Path(folder, "demo"), Path(folder, "run")
        size = ["--training-pairs", str(shape.rows), "--genes", str(shape.genes)]
        size += ["--cell-types", str(shape.cell_types), "--compounds", str(shape.compounds)]
        harness.command("demo", "--data-only", *size, "--out", str(demo))
        options = ["--molecules", "morgan", "--folds", str(shape.folds), *files_of(demo / "data")]
        found = measured(["run", *options, "--out", str(out)], out)
        found["test"] = scored(out / "submission.csv", demo / "data" / "de_test.parquet")
    return found | shape._asdict()


def fit(rows: int) -> dict[str, Any]:
    """Return what one fit of the model of known compounds takes; it has all cores."""
    config, pairs, Y = COMPOSITE.known_compounds, *rows_of(rows)
    used, began = harness.core_seconds(), time.perf_counter()
    with threadpool_limits(1, "blas"):  # as in a run; products have threads of their own
        fit_kernel_model(config, pairs, Y, "cpu")
    taken = {"seconds": time.perf_counter() - began, "core_seconds": harness.core_seconds() - used}
    return {"rows": rows, "genes": Y.shape[1], **taken, "peak_memory_gib": harness.peak_memory() / 2**30}


# --- solvers -----------------------------------------------------------------------------------------------------


def rows_of(rows: int) -> tuple[Pairs, Any]:
    """Return the pairs of simulated training rows and their targets, 978 genes."""
    data = simulate(0, GENES, Size(rows, Shape.usual(rows, GENES).cell_types, COMPOUNDS)).de_train
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


def fitted_by(K: Any, dual: Any, ones: Any) -> Any:
    """Return fitted values with an intercept of solutions without, of targets (n, q) and of right sides of ones."""
    b = dual.sum(axis=0, dtype=np.float64) / ones.sum(axis=0, dtype=np.float64)
    return K @ (dual - b * ones) + b


def with_a_penalty_each(K: Any, Y: Any, penalty: Any, weight: Any) -> dict[str, Callable[[], Any]]:
    """Return what finds the fitted values (n, q) of a problem, by name; scikit-learn's are of some of them."""
    from sklearn.kernel_ridge import KernelRidge

    single, root, (n, q) = K.astype(np.float32), np.sqrt(weight)[:, None], Y.shape

    def iterated() -> Any:
        made = kernel_ridge.solve(single, Y, C=weight[:, None] / penalty[None, :], epsilon=0.0)
        return K @ made.dual_coef + made.intercept

    def factorised() -> Any:
        gamma, intercept, _ = kernel_ridge._factorised(K, root[:, 0], Y, penalty)
        return K @ (root * gamma) + intercept

    def on_landmarks() -> Any:
        made = nystroem.solve(lambda some: single[:, some], np.diag(K), Y, penalty=penalty, weight=weight)
        return K[:, made.landmarks] @ made.coef + made.intercept

    def sklearn() -> Any:
        columns = []
        for j in some_of(n, q):
            model = KernelRidge(alpha=penalty[j], kernel="precomputed")
            dual = model.fit(K, np.column_stack([Y[:, j], np.ones(n)]), sample_weight=weight).dual_coef_
            columns.append(fitted_by(K, dual[:, :1], dual[:, 1:]))
        return np.hstack(columns)

    def himalaya() -> Any:
        from himalaya.kernel_ridge import KernelRidge

        right = np.hstack([root * Y, np.repeat(root, q, axis=1)]).astype(np.float32)
        alpha, asked = np.tile(penalty, 2).astype(np.float32), {"max_iter": STEPS, "tol": TOLERANCE}
        model = KernelRidge(alpha, kernel="precomputed", solver="conjugate_gradient", solver_params=asked)
        dual = root * model.fit(single * root.T * root, right).dual_coef_
        return fitted_by(K, dual[:, :q], dual[:, q:])

    few = {"ours, by the factorisation": factorised, "ours, on landmarks": on_landmarks}
    ours = {"ours, by iterations": iterated} | (few if n <= FACTORISED_UP_TO else {})
    return {EACH: sklearn, **ours, "himalaya, conjugate gradients": himalaya}


def with_one_penalty(K: Any, Y: Any, penalty: float) -> dict[str, Callable[[], Any]]:
    """Return what finds the fitted values (n, q) with one penalty and without weights, by name."""
    from sklearn.kernel_ridge import KernelRidge

    single, right = K.astype(np.float32), np.column_stack([Y, np.ones(len(Y))])
    asked = {"alpha": penalty, "kernel": "precomputed"}

    def ours() -> Any:
        made = kernel_ridge.solve(single, Y, C=np.full((1, Y.shape[1]), 1 / penalty), epsilon=0.0)
        return K @ made.dual_coef + made.intercept

    def fitted(model: Any, gram: Any) -> Any:
        dual = model.fit(gram, right.astype(gram.dtype)).dual_coef_
        return fitted_by(K, dual[:, :-1], dual[:, -1:])

    def himalaya(gram: Any, **how: Any) -> Any:
        from himalaya.kernel_ridge import KernelRidge

        return fitted(KernelRidge(**asked, **how), gram)

    def iterated() -> Any:
        how = {"max_iter": STEPS, "tol": TOLERANCE}
        return himalaya(single, solver="conjugate_gradient", solver_params=how)

    def gpytorch() -> Any:
        import torch
        from linear_operator import settings, to_linear_operator

        operator = to_linear_operator(torch.from_numpy(single)).add_jitter(penalty)
        with torch.no_grad(), settings.cg_tolerance(TOLERANCE), settings.max_cg_iterations(STEPS):
            dual = operator.solve(torch.from_numpy(right.astype(np.float32))).numpy()
        return fitted_by(K, dual[:, :-1], dual[:, -1:])

    found = {ONE: lambda: fitted(KernelRidge(**asked), K), "ours, by Cholesky factors, one penalty": ours}
    found |= {"himalaya, conjugate gradients, one penalty": iterated, "GPyTorch, one penalty": gpytorch}
    factorised = {"himalaya, by the factorisation, one penalty": lambda: himalaya(K)}
    return found | (factorised if len(Y) <= FACTORISED_UP_TO else {})


def some_of(rows: int, targets: int) -> Any:
    """Return the components that scikit-learn solves with a penalty each."""
    return np.arange(targets) if rows <= SOLVED_UP_TO else np.linspace(0, targets - 1, SOME).astype(int)


def solvers(rows: int) -> dict[str, Any]:
    """Return seconds and differences of solvers of one problem; all have all cores."""
    learnt, Y, penalty, weight = problem(rows)
    K, spread, solved = learnt.gram(Y), Y.std(axis=0), some_of(rows, Y.shape[1])
    found: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for reference, works in (
        (EACH, with_a_penalty_each(K, Y, penalty, weight)),
        (ONE, with_one_penalty(K, Y, float(np.median(penalty)))),
    ):
        for name, work in works.items():
            # Ours has threads of its own, but for the factorisation.
            threads = 1 if name.startswith(("ours, by iter", "ours, by Chol")) else harness.cores()
            try:
                began = time.perf_counter()
                with threadpool_limits(threads, "blas"):
                    fitted = work()
                taken = time.perf_counter() - began
            except ImportError as error:
                left_out[name] = str(error)
                continue
            if name == reference:
                truth = fitted
            columns = solved if reference == EACH else np.arange(Y.shape[1])
            scale = len(spread) / len(solved) if name == EACH else 1
            off = np.abs((fitted if name == reference else fitted[:, columns]) - truth) / spread[columns]
            found[name] = {"seconds": taken * scale, "of": reference, "largest_difference": float(off.max())}
            found[name]["rms"] = float(np.sqrt((off**2).mean()))
            print(rows, name, found[name], flush=True)
    if len(solved) < Y.shape[1]:
        measured_of = f"{EACH}: {len(solved)} of {Y.shape[1]} components were measured"
        left_out[measured_of] = "the seconds of all follow"
    return {"rows": rows, "targets": Y.shape[1], "solvers": found, "left_out": left_out}


# --- the report --------------------------------------------------------------------------------------------------

MEASURED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "runs": run,
    "large": run,
    "fits": fit,
    "solvers": solvers,
}


def growth(found: dict[str, Any], all_of_them: Iterable[dict[str, Any]], what: str) -> str:
    """Return k of seconds ∝ n^k from the next smaller size, of those that differ in `what` alone."""
    same = [name for name in ("rows", "genes", "compounds", "folds") if name in found and name != what]
    smaller = [
        one
        for one in all_of_them
        if one[what] < found[what] and all(one[name] == found[name] for name in same)
    ]
    if not smaller:
        return ""
    before = max(smaller, key=lambda one: one[what])
    return f"{math.log(found['seconds'] / before['seconds']) / math.log(found[what] / before[what]):.2f}"


def cost(found: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of seconds, core-seconds and peak memory."""
    return (
        f"{found['seconds']:.1f}",
        f"{found['core_seconds']:.1f}",
        f"{found['peak_memory_gib']:.2f} GiB",
    )


def table_of_runs(runs: list[dict[str, Any]]) -> list[str]:
    """Return the table of runs."""
    rows = []
    for found in runs:
        (_, ours), *others = found["test"].items()
        name, best = min(others, key=lambda item: item[1])
        sizes = (f"{found[what]:,}" for what in Shape._fields)
        grown = (growth(found, runs, what) for what in ("rows", "genes"))
        rows.append((*sizes, *cost(found), *grown, f"{ours:.4f}", f"{name} {best:.4f}", found["date"]))
    head = (
        "rows | genes | cell types | compounds | folds | seconds | core-seconds | peak memory | n^k in rows"
    )
    return harness.table(f"{head} | n^k in genes | MRRMSE on test rows | best baseline | date", rows)


def markdown(report: dict[str, Any]) -> str:
    """Return the tables."""
    lines = ["Runs of `best`", "", *table_of_runs([*report["runs"].values(), *report["large"].values()]), ""]
    fits = report["fits"].values()
    body = [(f"{one['rows']:,}", *cost(one), growth(one, fits, "rows"), one["date"]) for one in fits]
    head = "rows | seconds | core-seconds | peak memory | n^k in rows | date"
    lines += ["One fit of `known_compounds`, 978 genes", "", *harness.table(head, body), ""]
    for part in report["solvers"].values():
        lines += [f"Kernel ridge, {part['rows']:,} rows × {part['targets']} components, {part['date']}", ""]
        body = [
            (name, f"{x['seconds']:.1f}", f"{x['largest_difference']:.1e}", f"{x['rms']:.1e}", x["of"])
            for name, x in part["solvers"].items()
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
    parser.add_argument("--wide", type=numbers, default=[1000, 4000, 18211], help="genes, at 614 rows")
    parser.add_argument("--solved", type=numbers, default=[4300, 14000], help="rows of the solvers")
    parser.add_argument("--fitted", type=numbers, default=[14000, 28000, 57000], help="rows of fits, rising")
    large = "14000:13000:50:336,14000:13000:1:14700,57000:978:781:146:3"
    parser.add_argument("--large", type=shapes, default=shapes(large))
    asked = parser.parse_args()
    usual = [Shape.usual(rows, GENES) for rows in asked.rows] + [Shape.usual(614, t) for t in asked.wide]
    sizes = {"runs": usual, "large": asked.large, "fits": asked.fitted, "solvers": asked.solved}
    for part in asked.parts.split(","):
        for size in sizes[part]:
            found = MEASURED[part](size) | {"date": datetime.now(UTC).date().isoformat()}
            before = json.loads(asked.out.read_text()) if asked.out.exists() else {}
            report = {name: before.get(name, {}) for name in MEASURED}
            report[part][":".join(map(str, size)) if isinstance(size, Shape) else str(size)] = found
            harness.written(asked.out, markdown, **report)


if __name__ == "__main__":
    main()
