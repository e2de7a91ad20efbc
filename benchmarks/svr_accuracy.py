"""How near the SVR engines come to scikit-learn: the accuracy table of docs/svr.md.

    python benchmarks/svr_accuracy.py

50 genes of the demo data, 491 training and 123 held-out rows; scikit-learn's SVR at tol 1e-6 on the same Gram matrix
is the reference. Prints Markdown and writes benchmarks/results/svr_accuracy.json.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.svm import SVR

from features.feature_sets import FeatureTable, feature_set
from features.molecules.morgan import MorganEncoder
from features.rows import Rows
from rapids_pipeline.backend.versions import installed_versions
from rapids_pipeline.data.demo import simulate
from rapids_pipeline.svr.engines import ENGINES
from rapids_pipeline.svr.gram import GramTable

RESULTS = Path(__file__).parent / "results" / "svr_accuracy.json"
BOUNDS = (0.01, 1.0, 100.0)
EPSILON = 0.1
METHODS = ("douglas-rachford", "smo")
Matrix = NDArray[np.float64]


def main() -> None:
    """Measure, print and write."""
    K, K_new, Y = problem()
    rows = {}
    for label, tol, rounded in (
        ("tol 1e-3", 1e-3, False),
        ("tol 1e-6", 1e-6, False),
        ("tol 1e-6, K rounded to float32", 1e-6, True),
    ):
        for method in METHODS:
            grams = tuple(x.astype(np.float32).astype(np.float64) if rounded else x for x in (K, K_new))
            rows[f"{method}, {label}"] = {str(C): compared(method, *grams, Y, C, tol) for C in BOUNDS}
    report = {"date": datetime.now(UTC).date().isoformat(), "versions": installed_versions(), "rows": rows}
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(
        "| largest difference of a held-out prediction | " + " | ".join(f"C = {C:g}" for C in BOUNDS) + " |"
    )
    print("|---|" + "---|" * len(BOUNDS))
    for name, by_bound in rows.items():
        print(f"| {name} | " + " | ".join(f"{cell['prediction']:.0e}" for cell in by_bound.values()) + " |")
    for quantity in ("relative objective gap", "sum of β over C"):
        for name, by_bound in rows.items():
            print(f"{quantity}, {name}: {max(cell[quantity] for cell in by_bound.values()):.0e}")


def problem() -> tuple[Matrix, Matrix, Matrix]:
    """Return the Gram matrices (491, 491) and (123, 491) and 50 genes of the training rows."""
    data = simulate().de_train
    genes = data.columns[5:][np.linspace(0, data.shape[1] - 6, 50).astype(int)]
    Y = data[genes].to_numpy(np.float32)
    rows = Rows(data, {"morgan": MorganEncoder().fit_transform(data["SMILES"])})
    table = GramTable(FeatureTable(feature_set("svr_shared").with_molecules("morgan")).fit_transform(rows, Y))
    shuffled = np.random.default_rng(0).permutation(len(data))
    training, held_out = np.sort(shuffled[:491]), np.sort(shuffled[491:])
    gamma = table.gamma_of(training)
    return (
        table.gram(training, training, gamma),
        table.gram(held_out, training, gamma),
        Y[training].astype(np.float64),
    )


def compared(method: str, K: Matrix, K_new: Matrix, Y: Matrix, C: float, tol: float) -> dict[str, Any]:
    """Return how far one engine is from scikit-learn: predictions, dual objective, feasibility."""
    engine = ENGINES[method]
    found = engine.solve(K, Y, C=C, epsilon=EPSILON, tol=tol, max_iter=engine.max_iter)
    beta = np.asarray(found.dual_coef, dtype=np.float64)
    ours = K_new @ beta + np.asarray(found.intercept, dtype=np.float64)
    theirs = np.empty_like(ours)
    reference = np.zeros_like(beta)
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


def objective(K: Matrix, Y: Matrix, beta: Matrix) -> Matrix:
    """Return ½ βᵀKβ − yᵀβ + ε‖β‖₁ of every target."""
    return (0.5 * beta * (K @ beta) - Y * beta + EPSILON * np.abs(beta)).sum(axis=0)


if __name__ == "__main__":
    main()
