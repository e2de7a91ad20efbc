"""How near the SVR engines come to scikit-learn.

    python -m benchmarks.svr.accuracy [--out FILE]

50 genes of the demo data, one fold; scikit-learn's SVR at tol 1e-6 on the same Gram matrix is the reference. Prints
Markdown and writes JSON.
"""

from typing import Any

import numpy as np
from sklearn.svm import SVR

from benchmarks import harness
from benchmarks.svr.problem import Problem
from rapids_pipeline.backend.arrays import Float64
from rapids_pipeline.svr.dual import GramTable
from rapids_pipeline.svr.engines import ENGINES

BOUNDS = (0.01, 1.0, 100.0)
EPSILON = 0.1
LABELS = {
    "tol 1e-3": (1e-3, False),
    "tol 1e-6": (1e-6, False),
    "tol 1e-6, K rounded to float32": (1e-6, True),
}


def compared(method: str, K: Float64, K_new: Float64, Y: Float64, C: float, tol: float) -> dict[str, Any]:
    """Return how far one engine is from scikit-learn: predictions, dual objective, feasibility."""
    engine = ENGINES[method]
    found = engine.solve(K, Y, C=C, epsilon=EPSILON, tol=tol, max_iter=engine.max_iter)
    beta = np.asarray(found.dual_coef, dtype=np.float64)
    ours = K_new @ beta + np.asarray(found.intercept, dtype=np.float64)
    theirs, reference = np.empty_like(ours), np.zeros_like(beta)
    for t in range(Y.shape[1]):
        svr = SVR(kernel="precomputed", C=C, epsilon=EPSILON, tol=1e-6, cache_size=500).fit(K, Y[:, t])
        theirs[:, t] = svr.predict(K_new)
        reference[svr.support_, t] = svr.dual_coef_[0]
    best = objective(K, Y, reference)
    return {
        "prediction": float(np.abs(ours - theirs).max()),
        "relative objective gap": float(np.max((objective(K, Y, beta) - best) / np.abs(best))),
        "sum of β over C": float(np.abs(beta.sum(axis=0)).max() / C),
        "converged": bool(np.all(found.converged)),
    }


def objective(K: Float64, Y: Float64, beta: Float64) -> Float64:
    """Return ½ βᵀKβ − yᵀβ + ε‖β‖₁ of every target."""
    return np.asarray((0.5 * beta * (K @ beta) - Y * beta + EPSILON * np.abs(beta)).sum(axis=0))


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    rows, keys = report["rows"], ("relative objective gap", "sum of β over C")
    errors = [(name, *(f"{cells[str(C)]['prediction']:.0e}" for C in BOUNDS)) for name, cells in rows.items()]
    worst = [
        (name, *(f"{max(cell[key] for cell in cells.values()):.0e}" for key in keys))
        for name, cells in rows.items()
    ]
    bounds = [f"C = {C:g}" for C in BOUNDS]
    lines = harness.table(("largest difference of a held-out prediction", *bounds), errors)
    return "\n".join([*lines, "", *harness.table(("largest", *keys), worst)])


def main() -> None:
    """Measure, print and write."""
    options = harness.options_of(__doc__, results="svr_accuracy.json").parse_args()
    problem = Problem.load()
    genes = np.linspace(0, problem.Y.shape[1] - 1, 50).astype(int)
    training, held_out = problem.split(0)
    table, Y = GramTable(problem.X), problem.Y[np.ix_(training, genes)].astype(np.float64)
    grams = [table.gram(rows, training, table.gamma_of(training)) for rows in (training, held_out)]
    rounded = [K.astype(np.float32).astype(np.float64) for K in grams]
    rows = {
        f"{method}, {label}": {
            str(C): compared(method, *(rounded if single else grams), Y, C, tol) for C in BOUNDS
        }
        for label, (tol, single) in LABELS.items()
        for method in ("douglas-rachford", "smo")
    }
    harness.written(options.out, markdown, rows=rows)


if __name__ == "__main__":
    main()
