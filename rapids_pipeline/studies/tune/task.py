"""The task that a model is tuned on: held-out rows most like the pairs that it will serve, and its errors on them.

    score = mean over lots of log(MRRMSE / MRRMSE of the recipe's model)

A pair whose compound was measured in another cell type is served by the model `known_compounds`, any other pair by
`new_compounds` (`rapids_pipeline.stack.members.composite`). The pairs to predict are told apart so, and each part asks
for the split that is most like it (`recommended_split`). Scarce cell types have few rows to hold out, so
`made_scarce`, the same task made of other cell types, stands beside `scarce`. A model that no pair needs stays as it
is. The share of the pairs that a model serves is its share of the trials and its weight in the overall score.

Every prediction is that of `fit_kernel_model` on a split's training rows alone, and nothing is approximated. Trials
share what no parameter changes: the levels of all rows with the kernels between them, and, kept in bounded memory, the
components that a transform gives of a split's training targets.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import sha256
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd

from features.rows import Pairs, Rows
from rapids_pipeline.backend.arrays import Array, Float32, Float64, Indices, Mask
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.parallel import THREADS, Executor, Shared, Unit
from rapids_pipeline.backend.store import Kept, Recent
from rapids_pipeline.data.untested import Imputed
from rapids_pipeline.evaluation.audit import recommended_split
from rapids_pipeline.evaluation.metrics import rowwise_rmse
from rapids_pipeline.evaluation.splits import SPLITS, Split, named_splits
from rapids_pipeline.evaluation.uncertainty import row_losses
from rapids_pipeline.kernels.response_profiles import ResponseProfiles
from rapids_pipeline.stack.members.kernel_model import (
    KernelModelConfig,
    Learnt,
    fit_kernel_model,
    learn_space,
)
from rapids_pipeline.stack.target_space import TargetSpace
from rapids_pipeline.svr.engines import NotConvergedWarning

ModelName = Literal["known_compounds", "new_compounds"]
MODELS: tuple[ModelName, ...] = get_args(ModelName)
SERVES = {
    "known_compounds": "compounds measured in another cell type",
    "new_compounds": "compounds without a response profile",
}
"""The pairs that a model predicts, in words."""

AUTO = "auto"
FOLDS = 5
"""Folds of a split; fewer where there is not enough to hold out."""
REPEATS = {"scarce": 2}
"""How often folds are dealt anew, where it is not once."""
LEAST_ROWS = 10
"""Held-out rows below which a model is not tuned: it would be tuned to noise."""
KEPT_BYTES = 384 * 2**20
"""Memory for components of earlier trials."""
HOPELESS = 5.0
"""Score that no model is worse than."""
OVERFLOWN = 1e30
"""Error of a row whose prediction is not finite."""


@dataclass(frozen=True, eq=False)
class Lot:
    """The parts of a named split, repeat after repeat; of the rows held out only those that the model serves."""

    name: str
    repeats: tuple[tuple[Split, ...], ...]

    @property
    def splits(self) -> list[Split]:
        """All parts."""
        return [split for splits in self.repeats for split in splits]

    @property
    def rows(self) -> Indices:
        """The rows held out at least once, sorted."""
        return np.unique(np.concatenate([split.held_out for split in self.splits]))


@dataclass(frozen=True, eq=False)
class Duty:
    """A model, the share of the pairs that it serves, and what it is tuned on."""

    model: ModelName
    share: float
    lots: tuple[Lot, ...]

    @property
    def fewest_rows(self) -> int:
        """The smallest number of rows that a fit has."""
        return min(len(split.training) for lot in self.lots for split in lot.splits)


class Wanted(NamedTuple):
    """What one model asks for: its share, names of splits, and why."""

    share: float
    names: tuple[str, ...]
    reason: str


def is_known(training: Pairs, pairs: Pairs) -> Mask:
    """Say of which pairs some training rows have the compound in another context, (m,): see `LearntKernel.is_known`."""
    profiles = ResponseProfiles.learn(training, np.zeros((len(training), 1)), 0.0)
    differ = len(training.levels.doses) > 1 or len(training.levels.times) > 1
    return profiles.measured_elsewhere(pairs) if differ else profiles.of(pairs)[1]


def plan(
    obs: pd.DataFrame,
    Y: Float32,
    rows: Pairs,
    pairs: pd.DataFrame | None,
    split: str = AUTO,
    seed: int = 0,
) -> tuple[list[Duty], list[str]]:
    """Return what is tuned, and in words on what and why.

    Parameters
    ----------
    obs : DataFrame, (n,)
        `cell_type`, `sm_name` and `SMILES` of the training rows.
    Y : ndarray of float32, (n, t)
        For the split `cluster`.
    rows : Pairs
        The same rows.
    pairs : DataFrame, optional
        Those of the pairs to predict.
    split : str
        One of `SPLITS` for both models, or "auto".
    seed : int
        Of the splits.

    Raises
    ------
    InputError
        Unknown split, too few rows for it, or no model has rows to be tuned on.
    """
    make = partial(_lot, obs, Y, rows, pairs, seed)
    of_pairs = split == AUTO and pairs is not None
    if split == AUTO and pairs is not None:
        wanted = _like_the_pairs(obs, rows, pairs)
    else:
        name = "random" if split == AUTO else split
        reason = "no pairs to predict were given (--test)" if split == AUTO else f"--split {split}"
        wanted = {model: Wanted(1.0, (name,), reason) for model in MODELS}
    duties, sentences = [], []
    for model in MODELS:
        lots = _lots(model, wanted[model].names, make) if model in wanted else []
        if not lots:
            why = "too few rows are held out that it serves" if model in wanted else "no pair needs it"
            sentences.append(f"{model} (for {SERVES[model]}) stays as it is: {why}")
            continue
        part = wanted[model].share if of_pairs else sum(len(lot.rows) for lot in lots)
        duties.append(Duty(model, part, tuple(lots)))
        sentences.append(_in_words(duties[-1], wanted[model].reason, of_pairs))
    if not duties:
        raise InputError(
            f"--split {split}: fewer than {LEAST_ROWS} rows are held out for either model: take another"
        )
    total = sum(duty.share for duty in duties)
    return [replace(duty, share=duty.share / total) for duty in duties], sentences


def _like_the_pairs(obs: pd.DataFrame, rows: Pairs, pairs: pd.DataFrame) -> dict[ModelName, Wanted]:
    """Return what each model asks for that some pairs need."""
    known = is_known(rows, Pairs.of(Rows(pairs, {}), ()))
    found: dict[ModelName, Wanted] = {}
    for model, mine in zip(MODELS, (known, ~known), strict=True):
        if not mine.any():
            continue
        name, reason = recommended_split(obs, pairs[mine])
        if model == "new_compounds" and name not in ("compound", "joint"):
            name, reason = "compound", "no other cell type has these pairs' compounds"
        names = ("scarce", "made_scarce") if name == "scarce" else (name,)
        found[model] = Wanted(float(mine.mean()), names, reason)
    return found


def _lots(model: ModelName, names: Sequence[str], make: Callable[[str, ModelName], Lot]) -> list[Lot]:
    """Return the lots with enough rows; of several names those that can be made, of one that one or its error."""
    lots = []
    for name in names:
        try:
            lots.append(make(name, model))
        except InputError:
            if name == names[-1] and not lots:
                raise
    return [lot for lot in lots if lot.repeats and len(lot.rows) >= LEAST_ROWS]


def _lot(
    obs: pd.DataFrame,
    Y: Float32,
    rows: Pairs,
    pairs: pd.DataFrame | None,
    seed: int,
    name: str,
    model: ModelName,
) -> Lot:
    """Make a named split and keep of the rows held out those that a model serves."""
    for n_folds in range(FOLDS, 1, -1):
        try:
            repeats = named_splits(
                name, obs, n_folds=n_folds, repeats=REPEATS.get(name, 1), seed=seed, pairs=pairs, Y=Y
            )
            break
        except InputError:
            if n_folds == 2:
                raise

    def served(split: Split) -> Split:
        known = is_known(rows.take(split.training), rows.take(split.held_out))
        return replace(split, held_out=split.held_out[known == (model == "known_compounds")])

    kept = (tuple(part for part in map(served, splits) if len(part.held_out)) for splits in repeats)
    return Lot(name, tuple(splits for splits in kept if splits))


def _in_words(duty: Duty, reason: str, of_pairs: bool) -> str:
    serves = SERVES[duty.model]
    who = f"{serves}, {_share(duty.share)} of your pairs" if of_pairs else serves
    lots = [
        f"{lot.name}: {SPLITS[lot.name]} ({len(lot.rows)} rows, {len(lot.splits)} fits)" for lot in duty.lots
    ]
    many = "; each split counts alike, however many rows it has, since few are scarce" * (len(lots) > 1)
    return f"{duty.model} (for {who}) is tuned on {' and '.join(lots)}{many}; {reason}"


def _share(share: float) -> str:
    if share == 1:
        return "all"
    return f"{share:.1%}" if share < 0.9995 else "over 99.9%"


# --- errors of held-out rows ------------------------------------------------------------------------------


def kept_components(limit: int = KEPT_BYTES) -> Recent:
    """Return a memory of spaces of targets with the components of training targets in them."""
    return Recent(limit, _bytes_of_components)


def _bytes_of_components(kept: tuple[TargetSpace, Array]) -> int:
    space, scores = kept
    components = None if space.svd_ is None else space.svd_.components_
    arrays = space.unit_, space.mean_, components, space.singular_values, scores
    return sum(array.nbytes for array in arrays if array is not None)


def learnt(kept: Recent, rows: bytes, config: KernelModelConfig, Y: Array) -> Learnt:
    """Return what `learn_space(config, Y)` does, Y the targets of the training rows that `rows` tells apart.

    Centred targets are as large as the targets, so they are not kept: made again where genes are solved, and
    otherwise, as nobody reads them, Y in their place.
    """
    scale = config.transform_scale if config.transform == "asinh" else None
    key = (rows, config.transform, scale, config.n_components)
    space, scores = kept.once(key, lambda: learn_space(config, Y)[::2])
    return space, space.centred(Y) if config.targets == "genes" else Y, scores


@dataclass(frozen=True, eq=False)
class Objective:
    """Errors of a model on the held-out rows of some lots.

    Attributes
    ----------
    lots : tuple of Lot
    rows : Pairs
        All n rows.
    Y : ndarray of float32, (n, t)
    device : str
    encoder : str
        For rbf(molecules).
    kept : Recent
        Of `kept_components`.
    weight : ndarray of float64, (n,), optional
        What each row counts in fits.
    executor : Executor
        Runs the fits of a lot.
    """

    lots: tuple[Lot, ...]
    rows: Pairs
    Y: Float32
    device: DeviceName
    encoder: str
    kept: Recent
    weight: Float64 | None = None
    executor: Executor = THREADS

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process without what was learnt and the executor."""
        kept = kept_components(self.kept.limit)
        return type(self), (self.lots, self.rows, self.Y, self.device, self.encoder, kept, self.weight)

    @cached_property
    def shared(self) -> Shared:
        """The objective, as the fits of all trials share it."""
        return Shared(lambda: self, keep=True)

    @cached_property
    def measured(self) -> Imputed:
        """The targets, untested ones imputed from a split's training rows."""
        return Imputed(self.Y, self.rows.cell_type)

    def losses(
        self, model: KernelModelConfig, lot: Lot, checkpoint: Callable[[], None] = lambda: None
    ) -> tuple[Float64, int]:
        """Return the RMSE of every row, the mean over repeats, (n,), and how many fits did not converge.

        Rows that are not held out have NaN. `checkpoint` is called between fits; what it raises ends the work.
        """
        units: list[Unit] = []
        places = []
        for repeat, splits in enumerate(lot.repeats):
            for split in splits:
                units.append(Unit(f"{lot.name} {len(units) + 1}", self.shared, (model, split)))
                places.append((repeat, split.held_out))
        errors, missed = np.full((len(lot.repeats), len(self.Y)), np.nan), 0
        checkpoint()
        for number, fit in self.executor.results(held_out_errors, units, side_by_side=False):
            errors[places[number]] = fit.arrays["errors"]
            missed += fit.facts
            checkpoint()
        return row_losses(errors, one_gene=True), missed

    def predicted(self, model: KernelModelConfig, split: Split) -> Float32:
        """Return the predictions of a split's held-out rows, (m, t), by a fit to its training rows."""
        model = model.with_molecules(self.encoder)
        learn = partial(learnt, self.kept, sha256(split.training.tobytes()).digest())
        with np.errstate(over="ignore", invalid="ignore"):
            training = self.rows.take(split.training)
            weight = None if self.weight is None else self.weight[split.training]
            Y = self.measured.of(split.training)
            fitted = fit_kernel_model(model, training, Y, self.device, weight, learn)
            return fitted.predict(self.rows.take(split.held_out))

    def by_lot(
        self, model: KernelModelConfig, checkpoint: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[str, Float64, int]]:
        """Yield of every lot, those of few fits first: name, losses, and how many fits did not converge."""
        for lot in sorted(self.lots, key=lambda lot: len(lot.splits)):
            yield lot.name, *self.losses(model, lot, checkpoint)


def held_out_errors(objective: Objective, fit: tuple[KernelModelConfig, Split]) -> Kept:
    """Return the RMSE of a split's held-out rows, (m,), and whether the fit did not converge (0 or 1)."""
    model, split = fit
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NotConvergedWarning)
        predicted = objective.predicted(model, split)
    others = [one for one in caught if not issubclass(one.category, NotConvergedWarning)]
    for one in others:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return Kept({"errors": _errors(objective.Y[split.held_out], predicted)}, len(caught) - len(others))


def mean_loss(losses: Float64) -> float:
    """Return the mean over rows that were held out: the MRRMSE."""
    return float(losses[~np.isnan(losses)].mean())


def score(scores: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """Return the mean over lots of log(MRRMSE / the recipe's), at most `HOPELESS`."""
    ratios = [np.log(scores[name] / reference[name]) for name in scores]
    return float(min(np.mean(ratios), HOPELESS))


def _errors(truth: Float32, predicted: Float32) -> Float64:
    """Return the RMSE of rows, `OVERFLOWN` where a prediction is not finite."""
    finite = np.isfinite(predicted).all(axis=1)
    errors = np.full(len(truth), OVERFLOWN)
    if finite.any():
        errors[finite] = rowwise_rmse(truth[finite], predicted[finite])
    return errors
