"""When to expect which error: a method's rows in thirds of what is known of a pair before it is measured.

    strength    how strong a response training rows let expect (`rapids_pipeline.evaluation.expectation`)
    similarity  Tanimoto similarity of the nearest training compound (Morgan), for compounds that are not in training

Every third has its mean row-wise RMSE (MRRMSE), that divided by the root mean square of the rows' true responses (1: as
good as predicting zeros), and the mean row-wise Pearson correlation.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from accuracy_jobs import Matrix, Task
from numpy.typing import NDArray

from features.molecules.morgan import MorganEncoder, nearest
from rapids_pipeline.evaluation.expectation import strengths
from rapids_pipeline.evaluation.metrics import rowwise_scores

THIRDS = ("low", "middle", "high")

Floats = NDArray[np.float64]


def known_beforehand(task: Task) -> dict[str, Floats]:
    """Return what is known of every predicted row, (m,): strength, and similarity where no compound is in training."""
    strength, similarity = [], []
    for fit in range(task.n_fits):
        training, pairs = task.problem(fit)
        strength.append(strengths(training.obs, training.Y, pairs))
        bits = [MorganEncoder().transform(list(obs["SMILES"])) for obs in (pairs, training.obs)]
        similarity.append(nearest(*bits)[1].astype(np.float64))
        known = pairs["sm_name"].isin(training.obs["sm_name"]).any()
    found = {"strength": np.concatenate(strength)}
    return found if known else found | {"similarity": np.concatenate(similarity)}


def in_thirds(values: Floats, truth: Matrix, predicted: Matrix) -> dict[str, dict[str, float]]:
    """Return the scores of the rows in each third of `values`, (m,), lowest first."""
    scores, size = rowwise_scores(truth, predicted), np.sqrt((truth.astype(np.float64) ** 2).mean(axis=1))
    parts = np.array_split(np.argsort(values, kind="stable"), len(THIRDS))
    return {
        name: {
            "rows": len(rows),
            "from": float(values[rows].min()),
            "to": float(values[rows].max()),
            "mean_rowwise_rmse": float(scores["mean_rowwise_rmse"][rows].mean()),
            "relative": float(scores["mean_rowwise_rmse"][rows].mean() / size[rows].mean()),
            "mean_rowwise_pearson": float(scores["mean_rowwise_pearson"][rows].mean()),
        }
        for name, rows in zip(THIRDS, parts, strict=True)
    }


def strata(task: Task, truth: Matrix, predicted: Matrix) -> dict[str, Any]:
    """Return the thirds of everything that is known beforehand."""
    return {name: in_thirds(values, truth, predicted) for name, values in known_beforehand(task).items()}


def strata_markdown(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a Markdown table with a row a third."""
    lines = [
        "| task | known beforehand | third | rows | MRRMSE | share of the rows' size | Pearson |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, report in tasks.items():
        for what, thirds in report["strata"].items():
            for name, one in thirds.items():
                lines.append(
                    f"| {task} | {what} | {name} ({one['from']:.2f} to {one['to']:.2f}) | {one['rows']} "
                    f"| {one['mean_rowwise_rmse']:.4f} | {one['relative']:.0%} | {one['mean_rowwise_pearson']:.3f} |"
                )
    return "\n".join(lines)
