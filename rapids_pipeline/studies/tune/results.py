"""Results of a tuning: the best trial of every model beside the recipe's, with intervals, and all trials.

An interval is of the change of the error from the recipe's model to the best trial's, by the same held-out rows,
compounds resampled together in all lots at once (`rapids_pipeline.evaluation.uncertainty`). It knows the luck of the
rows, not that the best of many trials was taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rapids_pipeline.backend.arrays import Float64, Indices
from rapids_pipeline.evaluation.splits import SPLITS
from rapids_pipeline.evaluation.uncertainty import LEVEL, replicate_weights
from rapids_pipeline.stack.members.composite import CompositeMember
from rapids_pipeline.stack.members.member import Member
from rapids_pipeline.stack.recipe import Recipe
from rapids_pipeline.studies.tune.objective import HOPELESS, mean_loss

if TYPE_CHECKING:
    from rapids_pipeline.studies.tune.study import ModelStudy, Trial

RECIPE_NAME = "tuned"
ENOUGH_TRIALS = 20
"""Complete trials from which on importances are told."""


@dataclass(frozen=True)
class Course:
    """How a search goes.

    Attributes
    ----------
    trials, earlier : int
        Finished trials of all models, and those of them that earlier sessions finished.
    limit : int or None
        The number of trials at which the search ends.
    spent, minutes : float
        Minutes of this session, and their limit.
    best : dict of model to float
        The lowest score, a logarithm of a ratio of errors.
    last : (model, number) or None
        A trial that was just finished and is the best of its model.
    begins : bool
        Whether the search is about to begin.
    """

    trials: int
    earlier: int
    limit: int | None
    spent: float
    minutes: float
    best: dict[str, float]
    last: tuple[str, int] | None = None
    begins: bool = False


@dataclass(frozen=True)
class Change:
    """A relative change of the error, below 0 is better, and its interval."""

    value: float
    low: float
    high: float

    @property
    def in_doubt(self) -> bool:
        """Whether the interval includes 0."""
        return self.low <= 0 <= self.high

    @classmethod
    def of(cls, observed: float, replicates: Float64) -> "Change":
        """Make it of logarithms of a ratio of errors: the observed one, and that of every replicate."""
        tails = (1 - LEVEL) / 2, (1 + LEVEL) / 2
        low, high = np.quantile(replicates[np.isfinite(replicates)], tails)
        return cls(*(float(np.expm1(x)) for x in (observed, low, high)))


@dataclass(frozen=True)
class LotResult:
    """MRRMSE on a lot's held-out rows by the recipe's model and by the tuned one."""

    split: str
    split_in_words: str
    rows: int
    fits: int
    start: float
    tuned: float
    change: Change


@dataclass(frozen=True)
class TunedParameter:
    """A setting of the recipe and of the best trial; `importance` is its share of what decides, None if unknown."""

    name: str
    start: float | str
    tuned: float | str
    importance: float | None
    at_edge: bool

    @property
    def moved(self) -> float:
        """How far it moved: the logarithm of the ratio where there is one; a change of name counts as 1."""
        if self.start == self.tuned:
            return 0.0
        if isinstance(self.start, str) or isinstance(self.tuned, str):
            return 1.0
        if self.start > 0 and self.tuned > 0:
            return abs(float(np.log(self.tuned / self.start)))
        return abs(self.tuned - self.start)


@dataclass(frozen=True)
class TrialRow:
    """A finished trial: number from 1, change of the score from the recipe, MRRMSE by lot, settings."""

    trial: int
    pruned: bool
    change: float
    scores: dict[str, float]
    parameters: dict[str, float | str]
    seconds: float
    unconverged_fits: int


@dataclass(frozen=True)
class TunedModel:
    """What was found for one model; `best` is the number of the best trial, 1 where it is the recipe's."""

    model: str
    share: float
    change: Change
    lots: list[LotResult]
    parameters: list[TunedParameter]
    trials: list[TrialRow]
    best: int

    @property
    def improved(self) -> bool:
        """Whether a trial is better than the recipe's model."""
        return self.best > 1


@dataclass(frozen=True)
class Tuned:
    """A finished tuning.

    Attributes
    ----------
    models : list of TunedModel
    change : Change
        Of the models together, weighted by their shares of the pairs.
    tuned_on : list of str
        What was tuned on what, and why.
    settings, provenance : dict
    """

    models: list[TunedModel]
    change: Change
    tuned_on: list[str]
    settings: dict[str, Any]
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def n_trials(self) -> int:
        """All finished trials."""
        return sum(len(model.trials) for model in self.models)


def results_of(
    studies: "Sequence[ModelStudy]", compounds: Indices, seed: int
) -> tuple[list[TunedModel], Change]:
    """Return what the studies found, model by model and together.

    Parameters
    ----------
    studies : sequence of ModelStudy
    compounds : ndarray of int, (n,)
        One number for each compound of the training rows.
    seed : int
        Of the bootstrap.
    """
    weights = replicate_weights(np.zeros((1, len(compounds)), dtype=np.intp), compounds, seed=seed)
    models, observed, replicates = [], 0.0, np.zeros(len(weights))
    for study in studies:
        lots, logs = _lots(study, weights)
        mean = float(np.mean([np.log(lot.tuned / lot.start) for lot in lots]))
        models.append(_model(study, lots, Change.of(mean, logs)))
        observed += study.duty.share * mean
        replicates = replicates + study.duty.share * logs
    return models, Change.of(observed, replicates)


def tuned_recipe(recipe: Recipe, member: Member, studies: "Sequence[ModelStudy]", source: str) -> Recipe:
    """Return the recipe with the best trials' settings in the member that was tuned."""
    best = {study.duty.model: study.space.model_of(study.best.raw) for study in studies}
    tuned: Any = member.updated(**best) if isinstance(member, CompositeMember) else best[member.name]
    how = " and ".join(
        f"{study.duty.model} by {len(study.trials)} trials on "
        f"{' and '.join(lot.name for lot in study.duty.lots)}"
        for study in studies
    )
    return recipe.updated(
        name=RECIPE_NAME,
        description=f"{recipe.name} with its member {member.name} tuned: {how}; data: {source}",
        members=tuple(tuned if one is member else one for one in recipe.members),
    )


def _model(study: "ModelStudy", lots: list[LotResult], change: Change) -> TunedModel:
    trials = [_row(study, trial) for trial in study.trials]
    importances, edge = _importances(study), study.space.at_edge(study.best.raw)
    start, tuned = (study.space.values(raw) for raw in (study.space.start, study.best.raw))
    parameters = [
        TunedParameter(name, start[name], tuned[name], importances.get(name), name in edge) for name in start
    ]
    duty = study.duty
    return TunedModel(duty.model, duty.share, change, lots, parameters, trials, study.best.number)


def _row(study: "ModelStudy", trial: "Trial") -> TrialRow:
    return TrialRow(
        trial=trial.number,
        pruned=trial.pruned,
        change=float(np.expm1(HOPELESS if trial.pruned else trial.score)),
        scores=trial.scores,
        parameters=study.space.values(trial.raw),
        seconds=trial.seconds,
        unconverged_fits=trial.unconverged_fits,
    )


def _lots(study: "ModelStudy", weights: Float64) -> tuple[list[LotResult], Float64]:
    """Return the result of every lot, and the mean over lots of log(tuned / start) in every replicate."""
    results, logs = [], np.zeros(len(weights))
    for lot in study.duty.lots:
        losses = [trial.losses[lot.name][lot.rows] for trial in (study.trials[0], study.best)]
        drawn = weights[:, lot.rows]
        with np.errstate(divide="ignore", invalid="ignore"):  # a replicate may draw none of a lot's compounds
            log = np.log((drawn @ losses[1]) / (drawn @ losses[0]))
        start, tuned = (mean_loss(one) for one in losses)
        change = Change.of(float(np.log(tuned / start)), log)
        rows, fits = len(lot.rows), len(lot.splits)
        results.append(LotResult(lot.name, SPLITS[lot.name], rows, fits, start, tuned, change))
        logs = logs + log / len(study.duty.lots)
    return results, logs


def _importances(study: "ModelStudy") -> dict[str, float]:
    """Return the share of every parameter in what decides the ranks of the trials (functional ANOVA); {} for a few."""
    import optuna

    trials = study.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    values = np.array([trial.value for trial in trials], dtype=np.float64)
    if len(trials) < ENOUGH_TRIALS or len(np.unique(values)) < 2:
        return {}
    ranks = dict(zip((t.number for t in trials), np.argsort(np.argsort(values)), strict=True))
    found = optuna.importance.get_param_importances(
        study.study,
        evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
        target=lambda trial: float(ranks[trial.number]),
    )
    return {name: float(value) for name, value in found.items()}
