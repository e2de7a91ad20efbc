"""What `make bench-accuracy` says of predictions: scores, paired intervals, thirds of the rows, tables, a picture.

With y the truth and p a method's prediction of the m rows of a task (t genes):

    scores      MRRMSE, MAE, Pearson, Spearman, cosine: rapids_pipeline.evaluation.metrics
    difference  MRRMSE of the method − MRRMSE of the reference, with the 95 % percentile interval of a bootstrap that
                draws compounds with all their rows, the same draws for both
    amplitude   a = Σ y p / Σ p², over all rows and genes: what the predictions would have to be multiplied by for the
                least squared error. Below 1 they are too large. None where they are all 0

    thirds      MRRMSE, that divided by the root mean square of the rows' true responses (1: as good as predicting
                zeros), and Pearson, of the rows in thirds of what is known of a pair before it is measured: how strong
                a response training rows let expect (`rapids_pipeline.evaluation.uncertainty`), and for compounds that
                are not in training the Tanimoto similarity of the nearest training compound (Morgan)
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import harness
from benchmarks.accuracy.jobs import Finished, Task
from features.molecules.morgan import MorganEncoder, nearest
from rapids_pipeline.backend.arrays import Float32, Float64
from rapids_pipeline.evaluation.metrics import METRICS, rowwise_rmse, rowwise_scores
from rapids_pipeline.evaluation.splits import bootstrap_units
from rapids_pipeline.evaluation.uncertainty import paired_intervals, replicate_weights, strengths

MRRMSE = "mean_rowwise_rmse"
PERCENTILES = {"good": 10, "median": 50, "bad": 90}
"""Rows of the picture, by their place in the order of relative error."""
THIRDS = ("low", "middle", "high")
OURS, GREY = "#33718a", "#888888"


def amplitude(truth: Float32, predicted: Float32) -> float | None:
    """Return Σ y p / Σ p² over all rows and genes; None where all predictions are 0."""
    y, p = truth.astype(np.float64).ravel(), predicted.astype(np.float64).ravel()
    square = float(p @ p)
    return float(y @ p) / square if square else None


def compared(
    found: Mapping[str, Finished], truth: Float32, obs: pd.DataFrame, reference: str
) -> dict[str, dict[str, Any]]:
    """Return scores, difference from the reference, amplitude and cost of every method, the best first.

    `truth` is float32, (m, t); `obs` has the `sm_name` of the m rows; differences are taken from `reference`.
    """
    names = list(found)
    rows = [rowwise_scores(truth, found[name].predicted) for name in names]
    units = bootstrap_units("compound", obs)
    weights = replicate_weights(np.zeros((1, len(obs)), dtype=np.intp), units)
    losses = np.stack([one[MRRMSE] for one in rows])
    intervals = paired_intervals(losses, names.index(reference), weights, one_gene=False)
    ends = intervals.difference_low, intervals.difference_high
    table = {
        name: {
            "scores": {metric: float(rows[k][metric].mean()) for metric in METRICS},
            "interval": [float(intervals.score_low[k]), float(intervals.score_high[k])],
            "difference": float(intervals.difference[k]),
            "difference_interval": [float(end[k]) for end in ends],
            "amplitude": amplitude(truth, found[name].predicted),
            "cost": asdict(found[name].cost),
        }
        for k, name in enumerate(names)
    }
    return dict(sorted(table.items(), key=lambda item: item[1]["scores"][MRRMSE]))


def markdown(name: str, task: dict[str, Any]) -> str:
    """Return a task of the report as a Markdown table."""
    ours = task["reference"]
    head = f"method | MRRMSE | minus `{ours}` (95 % interval) | MAE | Pearson | Spearman | cosine | amplitude"
    head += " | seconds a fit | core-seconds a fit | peak memory"
    rows = []
    for method, one in task["methods"].items():
        cost, scores = one["cost"], list(one["scores"].values())
        shown = f"**`{method}`**" if method == ours else f"`{method}`"
        cells = [shown, f"{scores[0]:.4f}", "" if method == ours else difference(one)]
        cells += [f"{score:.4f}" for score in scores[1:]]
        cells.append("" if one["amplitude"] is None else f"{one['amplitude']:.2f}")
        cells += [f"{cost[of] / cost['fits']:.2f}" for of in ("seconds", "core_seconds")]
        rows.append((*cells, f"{cost['peak_memory_gib']:.2f} GiB"))
    fits = f"{task['fits']} fit{'s' * (task['fits'] > 1)}"
    table = harness.table(head, rows)
    return "\n".join([f"{name}: {task['rows']} rows × {task['genes']} genes, {fits}", "", *table])


def difference(one: dict[str, Any]) -> str:
    """Return a difference with its interval."""
    low, high = one["difference_interval"]
    return f"{one['difference']:+.4f} ({low:+.4f} to {high:+.4f})"


def example_rows(truth: Float32, predicted: Float32) -> dict[str, int]:
    """Return the rows at `PERCENTILES` of the error relative to the row's own root mean square."""
    order = np.argsort(rowwise_rmse(truth, predicted) / root_mean_squares(truth), kind="stable")
    return {name: int(order[round(share / 100 * (len(order) - 1))]) for name, share in PERCENTILES.items()}


def root_mean_squares(truth: Float32) -> Float64:
    """Return the size of every row's response, (m,), never 0."""
    return np.maximum(np.sqrt((truth.astype(np.float64) ** 2).mean(axis=1)), 1e-12)


def picture(path: Path, truth: Float32, predicted: Float32, obs: pd.DataFrame) -> None:
    """Draw predicted against true responses of all genes for a good, a median and a bad row, to a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    scores = rowwise_scores(truth, predicted)
    rows, size = example_rows(truth, predicted), root_mean_squares(truth)
    chosen = list(rows.values())
    limit = 1.05 * max(np.abs(truth[chosen]).max(), np.abs(predicted[chosen]).max())
    figure, panels = plt.subplots(1, 3, figsize=(11, 4.2), sharex=True, sharey=True, layout="constrained")
    for axes, (name, row) in zip(panels, rows.items(), strict=True):
        axes.axline((0, 0), slope=1, color=GREY, linewidth=1, linestyle="--", zorder=1)
        axes.scatter(truth[row], predicted[row], s=9, color=OURS, alpha=0.45, linewidths=0, zorder=2)
        pair = obs.iloc[row]
        axes.set_title(
            f"{name} row ({PERCENTILES[name]}th percentile): {pair['cell_type']}, {pair['sm_name']}\n"
            f"RMSE {scores[MRRMSE][row]:.2f} ({scores[MRRMSE][row] / size[row]:.0%} of the row's RMS), "
            f"Pearson {scores['mean_rowwise_pearson'][row]:.2f}",
            loc="left",
            fontsize=9.5,
        )
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xlabel="true response")
        axes.locator_params(nbins=5)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("predicted response")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def known_beforehand(task: Task) -> dict[str, Float64]:
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


def in_thirds(values: Float64, truth: Float32, predicted: Float32) -> dict[str, dict[str, float]]:
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


def strata(task: Task, truth: Float32, predicted: Float32) -> dict[str, Any]:
    """Return the thirds of everything that is known beforehand."""
    return {name: in_thirds(values, truth, predicted) for name, values in known_beforehand(task).items()}


def strata_markdown(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a Markdown table with a row a third."""
    head = "task", "known beforehand", "third", "rows", "MRRMSE", "share of the rows' size", "Pearson"
    rows = []
    for task, report in tasks.items():
        for what, thirds in report["strata"].items():
            for name, one in thirds.items():
                third = f"{name} ({one['from']:.2f} to {one['to']:.2f})"
                errors = f"{one['mean_rowwise_rmse']:.4f}", f"{one['relative']:.0%}"
                rows.append((task, what, third, one["rows"], *errors, f"{one['mean_rowwise_pearson']:.3f}"))
    return "\n".join(harness.table(head, rows))
