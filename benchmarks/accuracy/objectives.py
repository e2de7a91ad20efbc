"""What `--objective` costs and gains: MRRMSE against discrimination on the test rows of lincs_lung.

    python -m benchmarks.accuracy.objectives [--data FOLDER] [--out FILE.json]

The recipe `best` with Morgan fingerprints is fitted to de_train.parquet once for each objective, and predicts the pairs
of id_map.csv. Everything is chosen on training rows. Beside the objectives stand the baselines and three simple ways to
make predictions differ, each a curve:

    amplitude             m_c + a (p − m_c)
    compound's deviation  p + w d_s
    towards its mean      (1 − w) p + w (mean of the compound)

and the choices that no other one beats on the training rows that judge (`contrast`). m_c and d_s are those of
`rapids_pipeline.stack.contrast`. Scores are MRRMSE and the discriminations of
`rapids_pipeline.evaluation.perturbation_metrics` among the rows of a cell type. Differences from the compound's mean
have the 95 % interval of a bootstrap that draws compounds with all their rows.

Last, `contrast` is compared with each simple curve: how much less either discrimination is on the line through the
points of `contrast`, at the MRRMSE of every point of the curve. Where the line would rise, it stays as low as it was.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.accuracy.compare import TEST_ROWS, named_recipe, test_task
from benchmarks.accuracy.jobs import MOLECULES, SEED, Task, versions
from features.molecules.encoders import encode_molecules
from features.rows import Rows
from rapids_pipeline.backend.arrays import Float32, Float64
from rapids_pipeline.evaluation.baselines import ALL_BASELINES
from rapids_pipeline.evaluation.metrics import rowwise_rmse
from rapids_pipeline.evaluation.splits import bootstrap_units, context_folds
from rapids_pipeline.evaluation.uncertainty import paired_intervals, replicate_weights
from rapids_pipeline.stack.contrast import Choice
from rapids_pipeline.stack.fit import FittedStack, fit_stack
from rapids_pipeline.stack.objective import Tuned, contrast_of, shares

RECIPE, REFERENCE = "best", "mean_across_compounds"
SCORES = ("mrrmse", "cosine", "l2")
AMPLITUDES = (1.25, 1.5, 2.0, 3.0)
WEIGHTS = (0.2, 0.4, 0.6, 0.8, 1.0)
POINTS = 20
"""Of the curve `contrast`."""
Curve = dict[str, Float32]


@harness.ends_in_one_line
def main() -> None:
    """Fit, score, print and write."""
    chosen = harness.options_of(__doc__, "accuracy_objectives.json", harness.DATA / "lincs_lung").parse_args()
    task = test_task(TEST_ROWS, chosen.data)
    stacks = fitted(task)
    curves = predictions(task, stacks)
    tuned = {name: stack.tuned for name, stack in stacks.items() if stack.tuned is not None}
    report = {name: one.document(name) for name, one in tuned.items()}
    for document in report.values():
        del document["curves"]  # of training rows; those of the test rows are below
    harness.written(chosen.out, markdown, versions(), objectives=report, **scored(task, curves))


def fitted(task: Task) -> dict[str, FittedStack]:
    """Return the stack of every objective; what they share is fitted once."""
    recipe = named_recipe(RECIPE).with_molecules(MOLECULES)
    obs, pairs = task.data.obs, task.pairs
    columns = encode_molecules(recipe.encoders, list(obs["SMILES"]), list(pairs["SMILES"]))
    rows = Rows(obs, columns.training), Rows(pairs, columns.others)
    folds, found = context_folds(obs, recipe.n_folds, SEED), {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("mrrmse", "balanced", "discrimination"):
            asked = recipe.updated(blend=recipe.blend.updated(objective=name))
            given = *rows, task.data.Y, folds, asked, SEED, "cpu"
            found[name] = fit_stack(*given, folder=Path(folder))  # type: ignore[arg-type]
    return found


def predictions(task: Task, stacks: Mapping[str, FittedStack]) -> dict[str, Curve]:
    """Return predictions of the test rows, by curve and by point."""
    found: dict[str, Curve] = {"objective": {name: stack.test for name, stack in stacks.items()}}
    found["baseline"] = {name: made(task.data, task.pairs) for name, made in ALL_BASELINES.items()}
    plain, model, tuned = stacks["mrrmse"].test, stacks["balanced"].model, stacks["balanced"].tuned
    if model.contrast is None or tuned is None:
        raise AssertionError("balanced has a contrast")
    effects, mean = model.contrast.effects, found["baseline"][REFERENCE]

    def mapped(choice: Choice) -> Float32:
        contrast = contrast_of(choice, tuned.judges, effects)
        blended = replace(model, contrast=None).blend(stacks["balanced"].test_members, Rows(task.pairs, {}))
        return np.clip(contrast.apply(blended, task.pairs), model.low, model.high)

    found["amplitude"] = {f"a = {a:g}": mapped(Choice(a)) for a in AMPLITUDES}
    found["compound's deviation"] = {f"w = {w:g}": mapped(Choice(1.0, w)) for w in WEIGHTS}
    found["towards its mean"] = {
        f"w = {w:g}": np.asarray((1 - w) * plain + w * mean, np.float32) for w in WEIGHTS
    }
    found["contrast"] = {in_words(one): mapped(one) for one in some(tuned)}
    return found


def some(tuned: Tuned) -> list[Choice]:
    """Return choices of the curve, by equal ratios of their discrimination on the rows that judge."""
    curve = tuned.curves["chosen from"]
    found = np.array([scores.discrimination for scores in curve.values()])
    places = {int(np.argmin(abs(found - at))) for at in np.geomspace(found[0], found[-1], POINTS)}
    return [list(curve)[place] for place in sorted(places)]


def in_words(choice: Choice) -> str:
    """Return the numbers of a choice."""
    return " ".join(f"{name}={value:g}" for name, value in zip("awγα", choice, strict=True))


def scored(task: Task, curves: Mapping[str, Curve]) -> dict[str, Any]:
    """Return the scores of every point with intervals, and how `contrast` compares with the simple curves."""
    truth, cells = task.truth(), task.pairs["cell_type"].to_numpy(str)
    flat = {(curve, point): p for curve, points in curves.items() for point, p in points.items()}
    rows = np.stack([of_rows(truth, predicted, cells) for predicted in flat.values()])
    names, reference = list(flat), list(flat).index(("baseline", REFERENCE))
    weights = replicate_weights(
        np.zeros((1, len(truth)), dtype=np.intp), bootstrap_units("compound", task.pairs)
    )
    found: dict[str, dict[str, Any]] = {curve: {} for curve in curves}
    for number, score in enumerate(SCORES):
        ends = paired_intervals(rows[:, number], reference, weights, one_gene=False)
        for place, (curve, point) in enumerate(names):
            found[curve].setdefault(point, {})[score] = {
                "value": float(rows[place, number].mean()),
                "interval": [float(ends.score_low[place]), float(ends.score_high[place])],
                "difference": float(ends.difference[place]),
                "difference_interval": [
                    float(ends.difference_low[place]),
                    float(ends.difference_high[place]),
                ],
            }
    return {"rows": len(truth), "curves": found, "below": below(found)}


def of_rows(truth: Float32, predicted: Float32, cells: Any) -> Float64:
    """Return the error and both discriminations of every row, (3, n)."""
    found = np.empty((3, len(truth)))
    found[0] = rowwise_rmse(truth, predicted)
    y, p = truth.astype(np.float64), predicted.astype(np.float64)
    for cell in np.unique(cells):
        here = np.flatnonzero(cells == cell)
        found[1:, here] = shares(p[here] @ y[here].T, np.einsum("ij,ij->i", y[here], y[here]))
    return found


def below(curves: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return, for the points of each simple curve, its discriminations minus those of `contrast` at the same MRRMSE."""
    line = [*curves["contrast"].values(), curves["objective"]["mrrmse"]]
    errors = np.array([one["mrrmse"]["value"] for one in line])
    order = np.argsort(errors)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for curve in ("amplitude", "compound's deviation", "towards its mean"):
        for score in SCORES[1:]:
            least = np.minimum.accumulate(np.array([one[score]["value"] for one in line])[order])
            found.setdefault(curve, {})[score] = {
                point: one[score]["value"] - float(np.interp(one["mrrmse"]["value"], errors[order], least))
                for point, one in curves[curve].items()
            }
    return found


def markdown(report: dict[str, Any]) -> str:
    """Return the scores as one table, and the comparison of curves as sentences."""
    rows = []
    for curve, points in report["curves"].items():
        for point, one in points.items():
            cells = (
                f"{one[s]['value']:.4f} ({one[s]['interval'][0]:.4f} to {one[s]['interval'][1]:.4f})"
                for s in SCORES
            )
            away = (
                f"{one[s]['difference']:+.4f} ({one[s]['difference_interval'][0]:+.4f} to "
                f"{one[s]['difference_interval'][1]:+.4f})"
                for s in SCORES
            )
            rows.append((curve, f"`{point}`", *cells, *away))
    heads = ("MRRMSE", "discrimination, cosine", "discrimination, l2")
    table = harness.table(
        (
            "curve",
            "point",
            *(f"{head} (95 % interval)" for head in heads),
            *(f"{h} minus `{REFERENCE}`" for h in heads),
        ),
        rows,
    )
    lines = [
        f"{report['rows']} test rows; less is better; `{RECIPE}` is the objective `mrrmse`",
        "",
        *table,
        "",
    ]
    for name, one in report["objectives"].items():
        numbers = ", ".join(f"{key} {value:g}" for key, value in one["choice"].items())
        before, after = (
            ", ".join(f"{value:.4f}" for value in one[which].values()) for which in ("plain", "nested")
        )
        lines.append(
            f"- `{name}`: {numbers}; on {one['rows']} training rows of {one['splits']} {one['split']} splits "
            f"MRRMSE, cosine, l2 {before} → {after} (chosen by the other splits)"
        )
    for curve, scores in report["below"].items():
        by_score = [
            f"{score} {min(points.values()):+.4f} to {max(points.values()):+.4f}"
            for score, points in scores.items()
        ]
        lines.append(f"- `{curve}` minus the line of `contrast` at the same MRRMSE: {', '.join(by_score)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
