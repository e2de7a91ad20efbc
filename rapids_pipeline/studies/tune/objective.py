"""The errors of a model on held-out rows, and the score that a search lowers.

    score = mean over lots of log(MRRMSE / MRRMSE of the recipe's model)

Every prediction is that of a whole fit to a split's training rows alone, and nothing is approximated. Trials share what
no parameter changes. For kernels these are the levels of all rows with the kernels between them, and, kept in bounded
memory, the components that a transform gives of a split's training targets. For a member that stacks on others, they
are the predictions of those: of a split's training rows out of fold, of its held-out rows by a fit to all of the
training rows. So no held-out response reaches them.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from hashlib import sha256
from typing import Any

import numpy as np

from features.rows import Pairs
from rapids_pipeline.backend.arrays import Array, Float32, Float64
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.errors import DivergedError
from rapids_pipeline.backend.parallel import THREADS, Executor, Shared, Unit, in_order
from rapids_pipeline.backend.progress import Stages
from rapids_pipeline.backend.store import Kept, Recent, Store
from rapids_pipeline.data.untested import Imputed
from rapids_pipeline.evaluation.metrics import rowwise_rmse
from rapids_pipeline.evaluation.splits import Split, context_folds
from rapids_pipeline.evaluation.uncertainty import row_losses
from rapids_pipeline.stack.compact import Compact, kept
from rapids_pipeline.stack.members.booster import BoosterMember
from rapids_pipeline.stack.members.kernel_model import (
    KernelModelConfig,
    Learnt,
    fit_kernel_model,
    learn_space,
)
from rapids_pipeline.stack.members.member import Member, TrainingSet
from rapids_pipeline.stack.members.net import NetMember
from rapids_pipeline.stack.nested import Group, PreparedMember, Task, fitted
from rapids_pipeline.stack.target_space import TargetSpace
from rapids_pipeline.studies.tune.task import Lot
from rapids_pipeline.svr.engines import NotConvergedWarning

KEPT_BYTES = 384 * 2**20
"""Memory for components of earlier trials."""
HOPELESS = 5.0
"""Score that no model is worse than."""
OVERFLOWN = 1e30
"""Error of a row whose prediction is not finite."""


class TrialFits(ABC):
    """Fits of the models of trials to the training rows of splits."""

    side_by_side: bool = False
    """Whether fits run side by side on a CPU."""
    targets: Float32
    """The targets of all rows, (n, t), NaN where a gene was not tested."""

    @abstractmethod
    def predicted(self, model: Any, split: Split) -> Float32:
        """Return the predictions of a split's held-out rows, (m, t), by a fit to its training rows."""

    @cached_property
    def _shared(self) -> Shared:
        return Shared(lambda: self, keep=True)

    def shared(self, split: Split) -> Shared:
        """Return what the fits of all trials to a split share."""
        return self._shared


@dataclass(frozen=True, eq=False)
class KernelFits(TrialFits):
    """Fits of kernel models.

    Attributes
    ----------
    rows : Pairs
        All n rows.
    targets : ndarray of float32, (n, t)
        NaN where a gene was not tested.
    device : str
    encoder : str
        For rbf(molecules).
    kept : Recent
        Of `kept_components`.
    weight : ndarray of float64, (n,), optional
        What each row counts in fits.
    """

    rows: Pairs
    targets: Float32
    device: DeviceName
    encoder: str
    kept: Recent
    weight: Float64 | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process without what was learnt."""
        kept = kept_components(self.kept.limit)
        return type(self), (self.rows, self.targets, self.device, self.encoder, kept, self.weight)

    @cached_property
    def measured(self) -> Imputed:
        """The targets, untested ones imputed from a split's training rows."""
        return Imputed(self.targets, self.rows.cell_type)

    def predicted(self, model: KernelModelConfig, split: Split) -> Float32:
        """Return the predictions of a split's held-out rows, (m, t), by a fit to its training rows."""
        model = model.with_molecules(self.encoder)
        learn = partial(learnt, self.kept, sha256(split.training.tobytes()).digest())
        with np.errstate(over="ignore", invalid="ignore"):
            training = self.rows.take(split.training)
            weight = None if self.weight is None else self.weight[split.training]
            Y = self.measured.of(split.training)
            found = fit_kernel_model(model, training, Y, self.device, weight, learn)
            return found.predict(self.rows.take(split.held_out))


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


Below = Mapping[bytes, Sequence[tuple[Compact, Compact]]]
"""By split what each member that one stacks on predicts: of all n rows (NaN where they have no part) and no others."""


@dataclass(frozen=True, eq=False)
class MemberFits(TrialFits):
    """Fits of a booster or a net, without pseudo-labels.

    Attributes
    ----------
    data : TrainingSet
        All n rows, and no test rows.
    encoder : str
        For its blocks of molecules.
    below : dict, optional
        Of `predictions_below`, where the member stacks on others.
    side_by_side : bool
    """

    data: TrainingSet
    encoder: str
    below: Below = field(default_factory=dict)
    side_by_side: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process without the predictions that it stacks on: each split's are sent by themselves."""
        return type(self), (self.data, self.encoder, {}, self.side_by_side)

    @cached_property
    def targets(self) -> Float32:  # type: ignore[override]
        """The targets of all rows, (n, t), NaN where a gene was not tested."""
        return self.data.Y

    @cached_property
    def _by_split(self) -> dict[bytes, Shared]:
        return {
            key: Shared(partial(self.below.__getitem__, key), keep=True, of=self._shared, vary=stacking)
            for key in self.below
        }

    def shared(self, split: Split) -> Shared:
        """Return what the fits of all trials to a split share: the predictions that the member stacks on."""
        return self._by_split[_key(split)] if self.below else self._shared

    def predicted(self, model: BoosterMember | NetMember, split: Split) -> Float32:
        """Return the predictions of a split's held-out rows, (m, t), NaN where a net's loss was not finite."""
        fits = model.with_molecules(self.encoder).prepare(self.data)
        try:
            return fits.fit_predict(split.training, [split.held_out])[0]
        except DivergedError:
            return np.full((len(split.held_out), self.targets.shape[1]), np.nan, dtype=np.float32)


def stacking(fits: MemberFits, stacked: Sequence[tuple[Compact, Compact]]) -> MemberFits:
    """Return the fits with the predictions that they stack on."""
    return replace(fits, data=fits.data.learning_from((stacked, None)))


def _key(split: Split) -> bytes:
    return sha256(split.training.tobytes() + b"|" + split.held_out.tobytes()).digest()


def predictions_below(
    members: Sequence[Member],
    data: TrainingSet,
    splits: Sequence[Split],
    n_folds: int,
    stages: Stages,
    executor: Executor = THREADS,
    store: Store | None = None,
) -> Below:
    """Return what members that others stack on predict in each split, as a run on its training rows would.

    Parameters
    ----------
    members : sequence of Member
    data : TrainingSet
        All n rows, and no test rows.
    splits : sequence of Split
    n_folds : int
        Outer folds of the training rows: row i of fold k is predicted by a fit to the other folds.
    stages : Stages
        One a member, named like it.
    executor : Executor
    store : Store, optional
        Where finished fits are kept and looked for; made for the rows.
    """
    tasks: list[tuple[bytes, Task]] = []
    for split in splits:
        folds = context_folds(data.rows.obs.iloc[split.training], n_folds, data.seed)
        parts = [(split.training[folds != k], split.training[folds == k]) for k in range(n_folds)]
        for training, predicted in [(split.training, split.held_out), *parts]:
            tasks.append((_key(split), (training, [predicted])))
    n, t = data.Y.shape
    found: dict[bytes, list[tuple[Compact, Compact]]] = {_key(split): [] for split in splits}
    for member in members:
        shared = Shared(partial(PreparedMember, member, data))
        units = [
            Unit(f"{member.name} {number + 1}", shared, task, (member, *task))
            for number, (_, task) in enumerate(tasks)
        ]
        groups: dict[bytes, list[Group]] = {key: [] for key in found}
        with stages.stage(member.name) as progress:
            progress.start(len(units))
            beside = data.device == "cpu" and member.side_by_side(n)
            fits = executor.results(fitted, units, store=store, progress=progress, side_by_side=beside)
            for (key, (_, predicted)), fit in zip(tasks, in_order(fits), strict=True):
                assert predicted is not None
                groups[key].append((predicted[0], kept(fit)[0], 1))
        for key, of_split in found.items():
            of_split.append((Compact.placed(n, t, groups[key]), Compact(0, t, [])))
    return found if members else {}


# --- errors -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Objective:
    """Errors of a model on the held-out rows of some lots.

    Attributes
    ----------
    lots : tuple of Lot
    fits : TrialFits
    executor : Executor
        Runs the fits of a lot.
    store : Store, optional
        Where finished fits are kept, for trials so long that one may be broken off.
    """

    lots: tuple[Lot, ...]
    fits: TrialFits
    executor: Executor = THREADS
    store: Store | None = None

    def losses(
        self, model: Any, lot: Lot, checkpoint: Callable[[], None] = lambda: None
    ) -> tuple[Float64, int]:
        """Return the RMSE of every row, the mean over repeats, (n,), and how many fits did not converge.

        Rows that are not held out have NaN. `checkpoint` is called between fits; what it raises ends the work.
        """
        units: list[Unit] = []
        places = []
        for repeat, splits in enumerate(lot.repeats):
            for split in splits:
                shared, key = self.fits.shared(split), (model, split.training, split.held_out)
                units.append(Unit(f"{lot.name} {len(units) + 1}", shared, (model, split), key))
                places.append((repeat, split.held_out))
        errors, missed = np.full((len(lot.repeats), len(self.fits.targets)), np.nan), 0
        checkpoint()
        beside = self.fits.side_by_side
        for number, fit in self.executor.results(
            held_out_errors, units, store=self.store, side_by_side=beside
        ):
            errors[places[number]] = fit.arrays["errors"]
            missed += fit.facts
            checkpoint()
        return row_losses(errors, one_gene=True), missed

    def by_lot(
        self, model: Any, checkpoint: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[str, Float64, int]]:
        """Yield of every lot, those of few fits first: name, losses, and how many fits did not converge."""
        for lot in sorted(self.lots, key=lambda lot: len(lot.splits)):
            yield lot.name, *self.losses(model, lot, checkpoint)


def held_out_errors(fits: TrialFits, fit: tuple[Any, Split]) -> Kept:
    """Return the RMSE of a split's held-out rows, (m,), and whether the fit did not converge (0 or 1)."""
    model, split = fit
    missed = 0
    if fits.side_by_side:  # warnings cannot be caught in one of several threads, and these kinds have none
        predicted = fits.predicted(model, split)
    else:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", NotConvergedWarning)
            predicted = fits.predicted(model, split)
        others = [one for one in caught if not issubclass(one.category, NotConvergedWarning)]
        for one in others:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        missed = len(caught) - len(others)
    return Kept({"errors": _errors(fits.targets[split.held_out], predicted)}, missed)


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
