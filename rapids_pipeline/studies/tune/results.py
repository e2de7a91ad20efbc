"""What a tuning found: the best trial of every machine beside the recipe's, with intervals, and all trials.

An interval is of the change of the error from the recipe's machine to the best trial's, by the same held-out rows,
compounds resampled together in all lots at once (`rapids_pipeline.evaluation.bootstrap`). It knows the luck of the
rows, not that the best of many trials was taken.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from rapids_pipeline.evaluation.bootstrap import LEVEL, replicate_weights
from rapids_pipeline.evaluation.splits import SPLITS
from rapids_pipeline.stack.members.composite import CompositeMember
from rapids_pipeline.stack.recipe import Recipe
from rapids_pipeline.studies.tune.objective import HOPELESS, mean_loss
from rapids_pipeline.studies.tune.study import MachineStudy

Floats = NDArray[np.float64]

RECIPE_NAME = "tuned"
ENOUGH_TRIALS = 20
"""Complete trials from which on importances are told."""


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
    def of(cls, observed: float, replicates: Floats) -> "Change":
        """Make it of logarithms of a ratio of errors: the observed one, and that of every replicate."""
        tails = (1 - LEVEL) / 2, (1 + LEVEL) / 2
        low, high = np.quantile(replicates[np.isfinite(replicates)], tails)
        return cls(*(float(np.expm1(x)) for x in (observed, low, high)))


@dataclass(frozen=True)
class LotResult:
    """MRRMSE on a lot's held-out rows by the recipe's machine and by the tuned one."""

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
    """A finished trial: its number, the change of its score from the recipe's, MRRMSE by lot, and its settings."""

    trial: int
    pruned: bool
    change: float
    scores: dict[str, float]
    parameters: dict[str, float | str]
    seconds: float
    unconverged_fits: int


@dataclass(frozen=True)
class TunedMachine:
    """What was found for one machine; `best` is the position of the best trial, 0 where it is the recipe's."""

    machine: str
    share: float
    change: Change
    lots: list[LotResult]
    parameters: list[TunedParameter]
    trials: list[TrialRow]
    best: int


@dataclass(frozen=True)
class Tuned:
    """A finished tuning.

    Attributes
    ----------
    machines : list of TunedMachine
    change : Change
        Of the machines together, weighted by their shares of the pairs.
    tuned_on : list of str
        What was tuned on what, and why.
    settings, provenance : dict
    """

    machines: list[TunedMachine]
    change: Change
    tuned_on: list[str]
    settings: dict[str, Any]
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def n_trials(self) -> int:
        """All finished trials."""
        return sum(len(machine.trials) for machine in self.machines)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a dict that `json.dumps` takes."""
        return asdict(self)


def results_of(
    studies: Sequence[MachineStudy], compounds: NDArray[np.intp], seed: int
) -> tuple[list[TunedMachine], Change]:
    """Return what the studies found, machine by machine and together.

    Both machines that are compared are fitted once more, for the errors of single rows.

    Parameters
    ----------
    studies : sequence of MachineStudy
    compounds : ndarray of int, (n,)
        One number a compound of every training row.
    seed : int
        Of the bootstrap.
    """
    weights = replicate_weights(np.zeros((1, len(compounds)), dtype=np.intp), compounds, seed=seed)
    machines, observed, replicates = [], 0.0, np.zeros(len(weights))
    for study in studies:
        lots, logs = _lots(study, weights)
        mean = float(np.mean([np.log(lot.tuned / lot.start) for lot in lots]))
        machines.append(_machine(study, lots, Change.of(mean, logs)))
        observed += study.duty.share * mean
        replicates = replicates + study.duty.share * logs
    return machines, Change.of(observed, replicates)


def tuned_recipe(recipe: Recipe, studies: Sequence[MachineStudy], source: str) -> Recipe:
    """Return the recipe with the best trials' settings in its first composite member."""
    first = next(member for member in recipe.members if isinstance(member, CompositeMember))
    settings: dict[str, Any] = {name: getattr(first, name) for name in CompositeMember.model_fields}
    for study in studies:
        settings[study.duty.machine] = study.space.machine_of(study.best.params)
    how = " and ".join(
        f"{study.duty.machine} by {len(study.trials)} trials on "
        f"{' and '.join(lot.name for lot in study.duty.lots)}"
        for study in studies
    )
    changed = {
        "name": RECIPE_NAME,
        "description": f"{recipe.name} with its kernels tuned: {how}; data: {source}",
        "members": tuple(CompositeMember(**settings) if m is first else m for m in recipe.members),
    }
    return Recipe(**{name: getattr(recipe, name) for name in Recipe.model_fields} | changed)


def _machine(study: MachineStudy, lots: list[LotResult], change: Change) -> TunedMachine:
    trials, best = study.trials, study.best
    rows = [_row(study, number, trial) for number, trial in enumerate(trials)]
    importances, edge = _importances(study), study.space.at_edge(best.params)
    start, tuned = (study.space.values(raw) for raw in (study.space.start, best.params))
    parameters = [
        TunedParameter(name, start[name], tuned[name], importances.get(name), name in edge) for name in start
    ]
    position = [trial.number for trial in trials].index(best.number)
    return TunedMachine(study.duty.machine, study.duty.share, change, lots, parameters, rows, position)


def _row(study: MachineStudy, number: int, trial: FrozenTrial) -> TrialRow:
    attributes = trial.user_attrs
    return TrialRow(
        trial=number,
        pruned=trial.state == TrialState.PRUNED,
        change=float(np.expm1(HOPELESS if trial.value is None else trial.value)),
        scores=dict(attributes["scores"]),
        parameters=study.space.values(trial.params),
        seconds=attributes["seconds"],
        unconverged_fits=attributes["unconverged_fits"],
    )


def _lots(study: MachineStudy, weights: Floats) -> tuple[list[LotResult], Floats]:
    """Return the result of every lot, and the mean over lots of log(tuned / start) in every replicate."""
    machines = study.space.machine, study.space.machine_of(study.best.params)
    results, logs = [], np.zeros(len(weights))
    for lot in study.duty.lots:
        losses = [study.objective.losses(machine, lot)[lot.rows] for machine in machines]
        drawn = weights[:, lot.rows]
        with np.errstate(divide="ignore", invalid="ignore"):  # a replicate may draw none of a lot's compounds
            log = np.log((drawn @ losses[1]) / (drawn @ losses[0]))
        start, tuned = (mean_loss(one) for one in losses)
        change = Change.of(float(np.log(tuned / start)), log)
        results.append(
            LotResult(lot.name, SPLITS[lot.name], len(lot.rows), len(lot.splits), start, tuned, change)
        )
        logs = logs + log / len(study.duty.lots)
    return results, logs


def _importances(study: MachineStudy) -> dict[str, float]:
    """Return the share of every parameter in what decides the ranks of the trials (functional ANOVA); {} for a few."""
    trials = study.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
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
