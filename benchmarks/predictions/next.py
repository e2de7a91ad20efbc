"""Does measuring the pairs that `rapids-perturb next` names lower the error of the others more than random pairs do?

    python -m benchmarks.predictions.next [--data FOLDER] [--out FILE]

Real responses, two tasks in which two cell types have 20 training rows each and the other rows are held out:

    test rows        lincs_lung's own test rows, of 1HAE and NL20
    training lines   WI38 and IMR90 in their place, of the training rows alone; what was chosen of the method (the
                     slope of the transform at 0, not at the prediction: no difference) was chosen on these lines

The held-out rows are halved at random, 12 times. One half can be measured: pairs of it are named by a model of the
training rows, without its responses, and join these. The other half is predicted anew by the composite kernels of
`best`, fitted to both; its pairs are the pairs of interest. Who names them:

    next                 `rapids_pipeline.predictions.design`
    largest variance     the largest predictive variance of the pair itself
    strongest response   the largest predicted response
    random               any

The MRRMSE is the mean over halvings. Differences from random are by rows: of each row its mean over the halvings in
which it is predicted, and the interval resamples compounds.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks import harness
from features.molecules.morgan import MorganEncoder
from features.rows import Rows, numbered
from rapids_pipeline import PerturbationModel
from rapids_pipeline.backend.devices import installed_versions
from rapids_pipeline.data.tables import read_responses
from rapids_pipeline.evaluation.uncertainty import replicate_weights
from rapids_pipeline.predictions.design import design
from rapids_pipeline.predictions.predict import predictor_of
from rapids_pipeline.stack.members.member import TrainingSet
from rapids_pipeline.stack.named_recipes import COMPOSITE, RECIPES

HALVINGS, SIZES, SPARSE, KEPT = 12, (10, 20, 40, 80), ("WI38", "IMR90"), 20
PAIR = ["cell_type", "sm_name", "SMILES"]
NAMED = ("next", "largest variance", "strongest response", "random")


class Task(NamedTuple):
    """Rows with responses, the first of them by name; which are trained on, and which are held out."""

    obs: pd.DataFrame
    Y: Any
    genes: list[str]
    training: Any
    held: Any


def main() -> None:
    """Run, print and write."""
    chosen = harness.options_of(__doc__, results="next.json", data=harness.DATA).parse_args()
    lung = chosen.data / "lincs_lung"
    files = {name: read_responses(lung / f"{name}.parquet") for name in ("de_train", "de_test")}
    found = {name: curve(task) for name, task in tasks(files).items()}
    harness.written(chosen.out, tables, installed_versions(), halvings=HALVINGS, tasks=found)


def tasks(files: Mapping[str, Any]) -> dict[str, Task]:
    """Return both tasks."""
    train, test = files["de_train"], files["de_test"]
    obs, n = train.obs[PAIR].reset_index(drop=True), len(train.Y)
    both = pd.concat([obs, test.obs[PAIR]], ignore_index=True)
    genes = list(train.genes)
    rng, cells = np.random.default_rng(0), obs["cell_type"].to_numpy(str)
    kept = [rng.choice(np.flatnonzero(cells == cell), KEPT, replace=False) for cell in SPARSE]
    held = np.setdiff1d(np.flatnonzero(np.isin(cells, SPARSE)), np.concatenate(kept))
    return {
        "test rows": Task(
            both, np.concatenate([train.Y, test.Y]), genes, np.arange(n), np.arange(n, len(both))
        ),
        "training lines": Task(obs, train.Y, genes, np.setdiff1d(np.arange(n), held), held),
    }


def curve(task: Task) -> dict[str, Any]:
    """Return the error of the rows that are predicted, by who names the measured ones and how many these are."""
    table = task.obs.join(pd.DataFrame(task.Y, columns=task.genes))
    recipe = RECIPES["best"].updated(members=(COMPOSITE,))
    model = PerturbationModel(recipe, molecules="morgan").fit(table.iloc[task.training])
    molecules = {"morgan": MorganEncoder().fit_transform(list(task.obs["SMILES"]))}
    data = TrainingSet(Rows(task.obs, molecules), task.Y, None, (), 0, "cpu")
    fits = COMPOSITE.with_molecules("morgan").prepare(data)

    def errors(measured: Any, predicted: Any) -> Any:
        """Return the root mean square error of every predicted row."""
        [P] = fits.fit_predict(np.concatenate([task.training, measured]), [predicted])
        return np.sqrt(((P - task.Y[predicted]) ** 2).mean(axis=1))

    keys = [("", 0), *((name, size) for name in NAMED for size in SIZES), ("all of the half", 0)]
    by_row = {key: np.full((HALVINGS, len(task.Y)), np.nan) for key in keys}
    for number in range(HALVINGS):
        drawn = np.random.default_rng(number).permutation(task.held)
        half, predicted = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
        named = orders(model, task, half, predicted)
        for name, size in keys:
            measured = named[name][:size] if size else half[: len(half) if name else 0]
            by_row[name, size][number, predicted] = errors(measured, predicted)
    return summary(by_row, task)


def orders(model: PerturbationModel, task: Task, half: Any, predicted: Any) -> dict[str, Any]:
    """Return the rows that can be measured in the order in which each names them."""
    ours, others = (
        predictor_of(model.model_, task.obs.iloc[rows], "the model") for rows in (half, predicted)
    )
    table = design(others, ours, len(half)).table
    row = dict(zip(map(tuple, task.obs.iloc[half][PAIR[:2]].to_numpy()), half, strict=True))
    first = np.array([row[pair] for pair in map(tuple, table[PAIR[:2]].to_numpy())])
    size = np.sqrt((model.predict(task.obs.iloc[half]).to_numpy() ** 2).mean(axis=1))
    ways = first, first[np.argsort(-table["sd"])], half[np.argsort(-size)], half  # which is in random order
    return dict(zip(NAMED, ways, strict=True))


def summary(by_row: Mapping[tuple[str, int], Any], task: Task) -> dict[str, Any]:
    """Return the MRRMSE of all, and differences from random pairs with their intervals."""
    units = numbered(task.obs["sm_name"].to_numpy(str)[task.held])[1]
    weights = replicate_weights(np.zeros((1, len(units)), dtype=np.intp), units)
    found: dict[str, Any] = {"rows": len(task.held), "training_rows": len(task.training), "methods": []}
    for (name, size), errors in by_row.items():
        one = {"named_by": name, "pairs": size, "mrrmse": float(np.nanmean(np.nanmean(errors, axis=1)))}
        if size and name != "random":
            halvings = np.nanmean(errors - by_row["random", size], axis=1)
            rows = np.nanmean((errors - by_row["random", size])[:, task.held], axis=0)
            low, high = np.quantile(weights @ rows / weights.sum(axis=1), (0.025, 0.975))
            one |= {"from_random": float(rows.mean()), "low": float(low), "high": float(high)}
            one["better_halvings"] = int((halvings < 0).sum())
        found["methods"].append(one)
    return found


def tables(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    lines: list[str] = []
    for name, task in report["tasks"].items():
        found = {(one["named_by"], one["pairs"]): one for one in task["methods"]}
        without, whole = (found[key]["mrrmse"] for key in (("", 0), ("all of the half", 0)))
        rows = [(who, *(f"{found[who, size]['mrrmse']:.4f}" for size in SIZES)) for who in NAMED]
        lines += [
            f"{name}: {task['training_rows']} training rows, {task['rows']} held-out rows, half of them predicted",
            f"MRRMSE without further rows {without:.4f}, with all of the other half {whole:.4f}\n",
            *harness.table(("MRRMSE, measured pairs named by", *(f"{size} pairs" for size in SIZES)), rows),
            "",
        ]
        rows = [(who, *(differs(found[who, size]) for size in SIZES)) for who in NAMED[:-1]]
        heading = (
            "less that of random pairs; halvings in which it is lower",
            *(f"{size} pairs" for size in SIZES),
        )
        lines += [*harness.table(heading, rows), ""]
    return "\n".join(lines).rstrip()


def differs(one: Mapping[str, Any]) -> str:
    """Return a difference with its interval, and in how many halvings it is one for the better."""
    shown = "{from_random:+.4f} ({low:+.4f} to {high:+.4f}); {better_halvings}".format(**one)
    return f"{shown} of {HALVINGS}".replace("-", "−")


if __name__ == "__main__":
    main()
