"""The objective of a tuning: errors of held-out rows, predicted by fits to the training rows of their splits alone.

    score = mean over lots of log(MRRMSE / MRRMSE of the recipe's model)

Every prediction is that of `rapids_pipeline.stack.members.composite.fit_kernel_model` on a split's training rows, and
nothing is approximated. Trials share what no parameter changes: the levels of all rows with the kernels between them,
and, kept in bounded memory, the components that a transform gives of a split's training targets.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

import numpy as np

from features.rows import Pairs
from rapids_pipeline.backend.arrays import Array, Float32, Float64
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.evaluation.metrics import rowwise_rmse
from rapids_pipeline.evaluation.splits import Split
from rapids_pipeline.evaluation.uncertainty import row_losses
from rapids_pipeline.stack.members.composite import (
    KernelModelConfig,
    Learnt,
    fit_kernel_model,
    learn_space,
)
from rapids_pipeline.stack.target_space import TargetSpace
from rapids_pipeline.studies.tune.task import Lot
from rapids_pipeline.svr.engines import NotConvergedWarning

_Kept = tuple[TargetSpace, Array]

KEPT_BYTES = 384 * 2**20
"""Memory for components of earlier trials."""
HOPELESS = 5.0
"""Score that no model is worse than."""
OVERFLOWN = 1e30
"""Error of a row whose prediction is not finite."""


class KeptComponents:
    """The components of training targets, the latest used ones in bounded memory."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._limit, self._bytes = limit, 0
        self._kept: OrderedDict[tuple[object, ...], _Kept] = OrderedDict()

    def learn(self, rows: bytes, config: KernelModelConfig, Y: Array) -> Learnt:
        """Return what `learn_space(config, Y)` does, Y the targets of the training rows that `rows` tells apart.

        Centred targets are as large as the targets, so they are not kept: made again where genes are solved, and
        otherwise, as nobody reads them, Y in their place.
        """
        scale = config.transform_scale if config.transform == "asinh" else None
        key = (rows, config.transform, scale, config.n_components)
        if key in self._kept:
            self._kept.move_to_end(key)
            space, scores = self._kept[key]
            return space, space.centred(Y) if config.targets == "genes" else Y, scores
        space, centred, scores = learn_space(config, Y)
        self._kept[key] = space, scores
        self._bytes += _bytes_of(self._kept[key])
        while self._bytes > self._limit and len(self._kept) > 1:
            self._bytes -= _bytes_of(self._kept.popitem(last=False)[1])
        return space, centred, scores


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
    kept : KeptComponents
    """

    lots: tuple[Lot, ...]
    rows: Pairs
    Y: Float32
    device: DeviceName
    encoder: str
    kept: KeptComponents

    def losses(
        self, model: KernelModelConfig, lot: Lot, checkpoint: Callable[[], None] = lambda: None
    ) -> Float64:
        """Return the RMSE of every row, the mean over repeats, (n,); NaN for rows that are not held out.

        `checkpoint` is called before every fit; what it raises ends the work.
        """
        errors = np.full((len(lot.repeats), len(self.Y)), np.nan)
        for repeat, splits in enumerate(lot.repeats):
            for split in splits:
                checkpoint()
                predicted = self.predicted(model, split)
                errors[repeat, split.held_out] = _errors(self.Y[split.held_out], predicted)
        return row_losses(errors, one_gene=True)

    def predicted(self, model: KernelModelConfig, split: Split) -> Float32:
        """Return the predictions of a split's held-out rows, (m, t), by a fit to its training rows."""
        model = model.with_molecules(self.encoder)
        learn = partial(self.kept.learn, sha256(split.training.tobytes()).digest())
        with np.errstate(over="ignore", invalid="ignore"):
            training = self.rows.take(split.training)
            fitted = fit_kernel_model(model, training, self.Y[split.training], self.device, learn=learn)
            return fitted.predict(self.rows.take(split.held_out))

    def by_lot(
        self, model: KernelModelConfig, checkpoint: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[str, Float64, int]]:
        """Yield of every lot, those of few fits first: name, losses, and how many fits did not converge."""
        for lot in sorted(self.lots, key=lambda lot: len(lot.splits)):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", NotConvergedWarning)
                losses = self.losses(model, lot, checkpoint)
            others = [one for one in caught if not issubclass(one.category, NotConvergedWarning)]
            for one in others:
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
            yield lot.name, losses, len(caught) - len(others)


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


def _bytes_of(kept: _Kept) -> int:
    space, scores = kept
    components = [] if space.svd_ is None else [space.svd_.components_]
    arrays = space.unit_, space.mean_, *components, space.singular_values, scores
    return sum(array.nbytes for array in arrays if array is not None)
