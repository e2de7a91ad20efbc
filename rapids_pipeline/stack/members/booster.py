"""Multi-output boosting: trees with vector leaves in a space of the targets, on encodings and predictions of others.

    ŷ = inverse of the target space ( trees (columns of the feature table) )

Whatever a fit learns from or is built on (target space, encodings, SVD of predictions, number of trees) comes from its
own training rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from pydantic import model_validator

from features.feature_sets import FEATURE_SETS, FeatureTable
from features.rows import Rows
from rapids_pipeline.backend.arrays import Float32, Indices
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.settings import bounded, named
from rapids_pipeline.backend.state import State, StateReader
from rapids_pipeline.boosting.engines import choose_engine
from rapids_pipeline.boosting.trees import TreeEnsemble
from rapids_pipeline.stack.compact import Compact, Part
from rapids_pipeline.stack.members.member import MOST_COMPONENTS, Features, Fits, TrainingSet, WithFeatures
from rapids_pipeline.stack.target_space import SCALES, TargetSpace, TransformName

if TYPE_CHECKING:
    from rapids_pipeline.boosting import MultiOutputBooster

STOPPING_FOLDS = 5
"""With early stopping, one of so many folds of a fit's own rows says how many trees to grow."""
SHARED_SETTINGS = (
    *("learning_rate", "max_depth", "min_samples_leaf", "colsample", "subsample", "reg_lambda"),
    *("max_bins", "engine"),
)
"""Settings that a member and its boosters call the same."""
SEED_STRIDE = 1000
"""Distance of the seeds of a member's boosters; a feature table draws by seeds just above its own."""


class BoosterMember(WithFeatures):
    """Boosters of all genes together, in a space of the targets.

    Chosen by the training rows of real data (lincs_lung): out-of-fold, and on a split that imitates scarce cell
    types. The published pipeline: 1,000 trees of depth 10 at rate 0.01, the same share of columns and noise.

    `n_components` leading components of the targets are boosted, after a `transform` and, with `centre`, less their
    mean; "none" boosts the genes. `n_seeds` boosters that differ in their random draws are aggregated by `aggregate`.
    With `early_stopping_rounds` each fit finds its number of trees on one fold of its own training rows first.
    """

    kind: Literal["booster"] = "booster"
    transform: TransformName = "none"
    transform_scale: Annotated[float, bounded(*SCALES, "it counts root mean squares")] = 2.0
    centre: bool = False
    n_components: Annotated[int | Literal["none"], bounded(1, MOST_COMPONENTS, words=["none"])] = 45
    n_estimators: Annotated[int, bounded(1, 100_000, "all trees are in memory")] = 500
    learning_rate: Annotated[float, bounded(1e-6, 1.0)] = 0.02
    max_depth: Annotated[int, bounded(1, 30, "a tree doubles with each level")] = 6
    min_samples_leaf: Annotated[int, bounded(1, 1_000_000_000)] = 1
    colsample: Annotated[float, bounded(1e-6, 1.0, "it is a share of the columns")] = 0.2
    subsample: Annotated[float, bounded(1e-6, 1.0, "it is a share of the rows")] = 1.0
    reg_lambda: Annotated[float, bounded(0.0, 1e9, "beyond, trees learn nothing")] = 1.0
    max_bins: Annotated[int, bounded(3, 256, "a bin is a byte")] = 256
    early_stopping_rounds: Annotated[int | None, bounded(1, 100_000, optional=True)] = None
    encoder_sigma: Annotated[float, bounded(0.0, 100.0, "it is the noise of an encoding of size 1")] = 0.21
    n_seeds: Annotated[int, bounded(1, 1000, "each is a booster of its own")] = 1
    aggregate: Literal["median", "mean"] = "median"
    engine: Annotated[str, named()] = "auto"
    features: Features = FEATURE_SETS["boosting"]

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.features.own_target:
            raise ValueError(
                f"{self.features.name} gives every gene columns of its own, and the booster has one table for all"
            )
        return self

    @property
    def default_name(self) -> str:
        """What a recipe's only booster is called."""
        return "boosting"

    @property
    def space(self) -> TargetSpace:
        """The space of the targets, not learnt yet."""
        n_components = None if self.n_components == "none" else self.n_components
        return TargetSpace(n_components, self.transform, self.transform_scale, centre=self.centre)

    def engine_choice(self, Y: Float32, device: DeviceName) -> str:
        """Return which engine grows the trees, and why."""
        choice = choose_engine(self.engine, device)
        return f"{choice.engine.name} ({choice.reason})"

    def side_by_side(self, n: int) -> bool:
        """Say that fits run side by side: a tree is grown by one thread."""
        return True

    def prepare(self, data: TrainingSet) -> "BoosterFits":
        """Return its fits."""
        return BoosterFits(self, data)

    def model_from_state(self, reader: StateReader) -> "Boosters":
        """Make fitted boosters of their state."""
        fitted = []
        for seed in (reader.part(f"seed_{number}") for number in range(self.n_seeds)):
            table = FeatureTable.from_state(self.features, seed.part("table"))
            space = self.space.restore(seed.part("space"))
            fitted.append(FittedBooster(table, space, TreeEnsemble.from_state(seed.part("trees"))))
        return Boosters(fitted, self.aggregate)

    def notes(self, model: "Boosters") -> list[str]:
        """Return how much of the targets its space keeps."""
        share = model.fitted[0].space.explained_share_
        return [f"the target space of {self.name} keeps {share:.1%} of the sum of squared targets"]


@dataclass(frozen=True, eq=False)
class FittedBooster:
    """A booster with what its rows and targets go through: inverse of `space` (`trees` (columns of `table`))."""

    table: FeatureTable
    space: TargetSpace
    trees: TreeEnsemble

    def predict(self, rows: Rows) -> Float32:
        """Return the predictions of rows, (m, t) float32; a row's do not depend on the others, to rounding."""
        return self.space.inverse_transform(self.scores(rows))

    def scores(self, rows: Rows) -> Float32:
        """Return what the trees predict, in the space, (m, k) float32."""
        return self.trees.predict(self.table.transform(rows))

    def state(self) -> State:
        """Return what it has learnt."""
        return {"table": self.table.state(), "space": self.space.state(), "trees": self.trees.state()}


@dataclass(frozen=True, eq=False)
class Boosters:
    """Boosters that differ in their random draws; their predictions are aggregated gene by gene."""

    fitted: Sequence[FittedBooster]
    aggregate: str

    def predict(self, rows: Rows) -> Float32:
        """Return the predictions of rows, (m, t) float32; a row's do not depend on the others, to rounding."""
        return self.compact(rows)[:]

    def compact(self, rows: Rows) -> Compact:
        """Return the same predictions, of a single booster as scores."""
        if len(self.fitted) > 1:
            return Compact.of(aggregated([booster.predict(rows) for booster in self.fitted], self.aggregate))
        [booster] = self.fitted
        scores = booster.scores(rows)
        part = Part(np.arange(len(scores)), scores, booster.space)
        return Compact(len(scores), len(booster.space.unit_), [part])

    def state(self) -> State:
        """Return what they have learnt, seed by seed."""
        return {f"seed_{number}": booster.state() for number, booster in enumerate(self.fitted)}


class BoosterFits(Fits[BoosterMember]):
    """Fits of one booster a seed."""

    def fit(self, training: Indices) -> Boosters:
        """Fit to some rows."""
        seeds = (self.data.seed + SEED_STRIDE * number for number in range(self.member.n_seeds))
        return Boosters([self._fitted(training, seed) for seed in seeds], self.member.aggregate)

    def fit_compact(self, training: Indices, groups: Sequence[Indices]) -> list[Compact]:
        """Return the scores that a single booster predicts; of several boosters the targets, which are aggregated."""
        boosters = self.fit(training)
        return [boosters.compact(self.data.take(group)) for group in groups]

    def _fitted(self, training: Indices, seed: int) -> FittedBooster:
        """Fit one booster; with early stopping, find the number of trees on a fold of its training rows first."""
        n_trees = self.member.n_estimators
        if self.member.early_stopping_rounds is not None:
            from rapids_pipeline.evaluation.splits import context_folds

            held_out = context_folds(self.data.rows.obs.iloc[training], STOPPING_FOLDS, seed) == 0
            n_trees = self._grown(training[~held_out], seed, n_trees, training[held_out])[2].best_iteration_
        table, space, booster = self._grown(training, seed, n_trees)
        return FittedBooster(table, space, booster.model_)

    def _grown(
        self, training: Indices, seed: int, n_trees: int, judges: Indices | None = None
    ) -> tuple[FeatureTable, TargetSpace, "MultiOutputBooster"]:
        """Return a booster with the table and the space that it learnt in; it stops early where rows judge it."""
        data, member = self.data, self.member
        table, space = FeatureTable(member.features, member.encoder_sigma, seed), member.space
        scores = space.components_for(data.targets(training))
        X = table.fit_transform(data.take(training), scores)
        patience = None if judges is None else member.early_stopping_rounds
        booster = booster_of(member, seed, data.device, n_trees, patience)
        judged = (
            None
            if judges is None
            else (table.transform(data.take(judges)), space.transform(data.targets(judges)))
        )
        weight = None if data.weight is None else data.weight[training]
        return table, space, booster.fit(X, scores, weight, eval_set=judged)


def aggregated(predictions: Sequence[Float32], how: str) -> Float32:
    """Return the median or the mean of predictions, entry by entry."""
    if len(predictions) == 1:
        return predictions[0]
    return np.asarray((np.median if how == "median" else np.mean)(np.stack(predictions), axis=0))


def booster_of(
    member: BoosterMember, seed: int, device: DeviceName, n_trees: int, patience: int | None = None
) -> "MultiOutputBooster":
    """Return the estimator with a member's settings, not fitted yet."""
    from rapids_pipeline.boosting import MultiOutputBooster

    return MultiOutputBooster(
        n_estimators=n_trees,
        early_stopping_rounds=patience,
        random_state=seed,
        device=device,
        **{name: getattr(member, name) for name in SHARED_SETTINGS},
    )
