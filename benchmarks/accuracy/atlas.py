"""What an atlas is worth for unseen compounds: two lines of lincs_lung as one's own data, the others as other people's.

    python -m benchmarks.accuracy.atlas [--data FOLDER] [--recipe best] [--out FILE]

1HAE and NL20 (404 rows) are the user's data, held out in five folds by compound; HFL1, WI38 and IMR90 make the atlas.
The program prints the MRRMSE of the held-out rows

    cell-type mean       of the training rows
    without an atlas     the recipe
    with the atlas       the recipe with --atlas
    absent everywhere    the same with an atlas that lacks the held-out compounds
    permuted             the same with the embeddings of the atlas permuted over its compounds

with 95 % intervals of the differences, compounds drawn in pairs, and how many times the gain over the cell-type mean is
what it is without an atlas. Below that it prints what each part of an atlas is worth, for the composite member alone.
It writes benchmarks/results/accuracy_atlas.json and .md.

The weights of the terms and the number of components were chosen on these very folds, among about twenty-five settings,
so the gain is a little optimistic. The strengths are chosen within training rows, always.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import harness
from benchmarks.accuracy.jobs import versions
from features.molecules import ATLAS
from features.molecules.atlas import Atlas
from features.molecules.table import encode_compounds
from features.rows import Rows
from rapids_pipeline.backend.arrays import Float64
from rapids_pipeline.data.compound_effects import atlas_of
from rapids_pipeline.data.tables import PerturbationData, read_training
from rapids_pipeline.evaluation.baselines import BASELINES
from rapids_pipeline.evaluation.metrics import rowwise_rmse
from rapids_pipeline.evaluation.splits import Split, bootstrap_units, named_splits
from rapids_pipeline.evaluation.uncertainty import paired_intervals, replicate_weights
from rapids_pipeline.stack.members.composite import CompositeFits, CompositeMember
from rapids_pipeline.stack.members.member import TrainingSet
from rapids_pipeline.stack.named_recipes import recipe
from rapids_pipeline.stack.recipe import PIPELINE, RunConfig
from rapids_pipeline.studies.cv import fit_split

OWN = ("1HAE", "NL20")
MEAN, WITHOUT, WITH, ABSENT, PERMUTED = (
    "cell-type mean",
    "without an atlas",
    "with the atlas",
    "absent everywhere",
    "permuted",
)
SEEDS = 10
"""Permutations that the composite member alone is tried with."""
CELL_TYPE_MEAN = "mean_across_celltypes"


def measured(folder: Path) -> PerturbationData:
    """Return all rows of lincs_lung: those of training and of test."""
    training = read_training(folder / "de_train.parquet")
    test = pd.read_parquet(folder / "de_test.parquet")
    obs = pd.concat([training.obs, test[list(training.obs.columns)]], ignore_index=True)
    Y = np.vstack([training.Y, test[list(training.genes)].to_numpy(np.float32)])
    return PerturbationData(obs, Y, training.genes)


def without_compounds(atlas: Atlas, obs: pd.DataFrame) -> Atlas:
    """Return an atlas whose embeddings of the compounds of some rows are zeros: it lacks them."""
    place = atlas.places(list(obs["sm_name"]), list(obs["SMILES"]))
    embeddings = atlas.embeddings.copy()
    embeddings[place[place >= 0]] = 0
    return replace(atlas, embeddings=embeddings)


def permuted(atlas: Atlas, seed: int) -> Atlas:
    """Return an atlas whose embeddings belong to other compounds."""
    order = np.random.default_rng(seed).permutation(len(atlas.names))
    return replace(atlas, embeddings=atlas.embeddings[order])


class Task:
    """The user's data, held out by compound."""

    def __init__(self, data: PerturbationData, config: RunConfig) -> None:
        self.data = data
        self.without, self.with_atlas = (config.with_atlas(given).resolved() for given in (False, True))
        self.splits: Sequence[Split] = named_splits("compound", data.obs)[0]
        self.molecules = encode_compounds(self.without.encoders, data.obs).training
        folds = np.full(len(data.Y), -1)
        for number, split in enumerate(self.splits):
            folds[split.held_out] = number
        self.weights = replicate_weights(folds[None, :], bootstrap_units("compound", data.obs))

    def rows(self, atlas: Atlas | None) -> Rows:
        """Return the rows with an atlas, or without."""
        if atlas is None:
            return Rows(self.data.obs, self.molecules)
        found = atlas.rows(list(self.data.obs["sm_name"]), list(self.data.obs["SMILES"]))
        return Rows(self.data.obs, {**self.molecules, ATLAS: found})

    def losses(self, atlases: Iterable[Atlas | None]) -> dict[str, Float64]:
        """Return the RMSE of every row by the recipe and the cell-type mean; an atlas, or none, a split."""
        found = {name: np.empty(len(self.data.Y)) for name in (PIPELINE, CELL_TYPE_MEAN)}
        baseline = {CELL_TYPE_MEAN: BASELINES[CELL_TYPE_MEAN]}
        for split, atlas in zip(self.splits, atlases, strict=True):
            config = self.without if atlas is None else self.with_atlas
            made = fit_split(self.rows(atlas), self.data, split, config, "cpu", baseline)
            for name, losses in found.items():
                losses[split.held_out] = made.scores[name][0]
        return found

    def of_composite(self, atlas: Atlas | None, **changed: Any) -> tuple[Float64, list[float]]:
        """Return the RMSE of every row by the composite member, with some settings changed, and the strengths."""
        config = self.without if atlas is None else self.with_atlas
        [member] = [m for m in config.recipe.members if isinstance(m, CompositeMember)]
        fits = CompositeFits(
            member.updated(**changed), TrainingSet(self.rows(atlas), self.data.Y, None, (), 0, "cpu")
        )
        losses, strengths = np.empty(len(self.data.Y)), []
        for split in self.splits:
            [predicted] = fits.fit_predict(split.training, [split.held_out])
            losses[split.held_out] = rowwise_rmse(self.data.Y[split.held_out], predicted)
            _, strength = fits.of_atlas(split.training)
            strengths += [] if strength is None else [strength.value]
        return losses, strengths


def lines_of(losses: Mapping[str, Float64], weights: Float64, reference: str) -> list[dict[str, Any]]:
    """Return a line a method: MRRMSE, and its difference from the reference's with the interval."""
    found = paired_intervals(np.stack(list(losses.values())), list(losses).index(reference), weights, False)
    numbers = zip(found.score, found.difference, found.difference_low, found.difference_high, strict=True)
    keys = "mrrmse", "difference", "low", "high"
    rows = [dict(zip(keys, (round(float(x), 4) for x in row), strict=True)) for row in numbers]
    return [{"method": name} | row for name, row in zip(losses, rows, strict=True)]


def times_of(losses: Mapping[str, Float64], weights: Float64) -> dict[str, float]:
    """Return how many times the gain over the cell-type mean is what it is without an atlas.

    And `surplus`: by how much it exceeds three times that, with its interval.
    """
    gains = np.stack([losses[MEAN] - losses[WITH], losses[MEAN] - losses[WITHOUT]])
    observed, drawn = gains.mean(axis=1), gains @ weights.T / weights.sum(axis=1)
    low, high = np.quantile(drawn[0] - 3 * drawn[1], (0.025, 0.975))
    surplus = {"surplus": observed[0] - 3 * observed[1], "low": low, "high": high}
    return {name: round(float(x), 4) for name, x in ({"times": observed[0] / observed[1]} | surplus).items()}


def of_recipe(task: Task, atlas: Atlas) -> dict[str, Any]:
    """Return the lines of the recipe, and by how many times the gain is larger."""
    n = len(task.splits)
    lacking = [without_compounds(atlas, task.data.obs.iloc[split.held_out]) for split in task.splits]
    without = task.losses([None] * n)
    losses = {MEAN: without[CELL_TYPE_MEAN], WITHOUT: without[PIPELINE]}
    for name, atlases in ((WITH, [atlas] * n), (ABSENT, lacking), (PERMUTED, [permuted(atlas, 0)] * n)):
        losses[name] = task.losses(atlases)[PIPELINE]
    gain = times_of(losses, task.weights)
    return {"lines": lines_of(losses, task.weights, WITHOUT), "gain": gain}


def of_parts(task: Task, others: PerturbationData, atlas: Atlas) -> dict[str, Any]:
    """Return what parts of an atlas are worth for the composite member, and what permuted identities lose."""
    lines = {
        name: others.take(np.flatnonzero(others.obs["cell_type"] == name))
        for name in others.obs["cell_type"].unique()
    }
    all_lines = [("others", "others", others)]
    weights = next(m for m in task.without.recipe.members if isinstance(m, CompositeMember)).atlas_weights
    linear, rbf = (
        {name: w for name, w in weights.items() if kind in name} for kind in ("atlas_linear", "atlas_rbf")
    )
    plain = {name.removeprefix("correlation * "): weight for name, weight in weights.items()}
    made: dict[str, tuple[Float64, list[float]]] = {
        WITH: task.of_composite(atlas),
        WITHOUT: task.of_composite(None),
        "without atlas_rbf": task.of_composite(atlas, atlas_weights=linear),
        "without atlas_linear": task.of_composite(atlas, atlas_weights=rbf),
        "alike in all cell types (no correlation)": task.of_composite(atlas, atlas_weights=plain),
        "16 components": task.of_composite(atlas_of(all_lines, 16)),
        "128 components": task.of_composite(atlas_of(all_lines, 128)),
        "each line a data set of its own": task.of_composite(atlas_of([(k, k, v) for k, v in lines.items()])),
        **{f"{name} alone": task.of_composite(atlas_of([(name, name, one)])) for name, one in lines.items()},
    }
    found = lines_of({name: losses for name, (losses, _) in made.items()}, task.weights, WITH)
    for line, (_, strengths) in zip(found, made.values(), strict=True):
        line["strengths"] = strengths
    lost = []
    for seed in range(SEEDS):
        losses, strengths = task.of_composite(permuted(atlas, seed))
        lost.append({"lost": round(float((losses - made[WITHOUT][0]).mean()), 5), "strengths": strengths})
    return {"lines": found, "permutations": lost}


def markdown(report: dict[str, Any]) -> str:
    """Return the two tables in words."""

    def table(lines: list[dict[str, Any]], reference: str, strengths: bool) -> list[str]:
        head = f"method | MRRMSE | difference from {reference}" + " | strengths" * strengths
        rows = []
        for one in lines:
            told = f"{one['difference']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f})"
            row = one["method"], f"{one['mrrmse']:.4f}", "" if one["method"] == reference else told
            rows.append((*row, " ".join(f"{x:g}" for x in one["strengths"])) if strengths else row)
        return harness.table(head, rows)

    gain, lost = report["recipe"]["gain"], [one["lost"] for one in report["parts"]["permutations"]]
    return "\n".join(
        [
            f"Recipe {report['named']}: unseen compounds of {' and '.join(OWN)}, five folds.",
            "The atlas is of the other three lines.",
            "",
            *table(report["recipe"]["lines"], WITHOUT, False),
            "",
            f"The gain over the cell-type mean is {gain['times']:.1f} times what it is without an atlas.",
            f"It exceeds three times that by {gain['surplus']:.4f} ({gain['low']:.4f} to {gain['high']:.4f}).",
            "",
            "The composite member alone:",
            "",
            *table(report["parts"]["lines"], WITH, True),
            "",
            f"{len(lost)} permutations of the atlas lose {max(lost):.5f} at most, {np.mean(lost):.5f} on average.",
            "",
        ]
    )


@harness.ends_in_one_line
def main() -> None:
    """Print the tables and write the report."""
    parser = harness.options_of(__doc__, "accuracy_atlas.json", harness.DATA / "lincs_lung")
    parser.add_argument("--recipe", default="best")
    options = parser.parse_args()
    data = measured(options.data)
    own = data.obs["cell_type"].isin(OWN).to_numpy()
    task = Task(data.take(np.flatnonzero(own)), RunConfig(recipe=recipe(options.recipe), molecules="morgan"))
    others = data.take(np.flatnonzero(~own))
    atlas = atlas_of([("others", "others", others)])
    parts = of_parts(task, others, atlas)
    found = of_recipe(task, atlas)
    shape = {
        "rows": len(task.data.Y),
        "compounds": task.data.obs["sm_name"].nunique(),
        "of the atlas": len(atlas.names),
    }
    harness.written(
        options.out, markdown, versions(), named=options.recipe, shape=shape, recipe=found, parts=parts
    )


if __name__ == "__main__":
    main()
