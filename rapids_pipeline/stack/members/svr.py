"""The first level: members that predict every gene by a kernel machine, fitted, nested and saved.

`SharedSVR` has one table of features for all genes, so one Gram matrix; `rapids_pipeline.svr.own_target` has columns
of each gene's own; `rapids_pipeline.stack.members.composite` has a composite kernel. All are made by `fit_member` and
predict rows that need not be known to them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from features.feature_sets import FeatureSet, FeatureTable
from features.rows import Pairs, Rows
from rapids_pipeline.backend.arrays import to_device, to_host
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.backend.state import State, StateReader
from rapids_pipeline.stack.members.composite import CompositeModel, fit_and_predict, fit_composite
from rapids_pipeline.stack.nested import Indices, Matrix, NestedPredictions, n_fits, nested_predictions
from rapids_pipeline.stack.recipe import KernelConfig, SvrConfig
from rapids_pipeline.svr.engines import Choice, TableFit, choose_engine, fit_on_table
from rapids_pipeline.svr.gram import GramTable, Kernel, kernel_between
from rapids_pipeline.svr.own_target.estimator import OwnTargetSVR
from rapids_pipeline.svr.own_target.estimator import fit_predict as own_target_predictions

GENES_AT_ONCE = 4096
"""Genes whose coefficients are turned into float64 at once."""


class FirstLevelModel(Protocol):
    """A fitted member of the first level."""

    def predict(self, rows: Rows) -> Matrix:
        """Return the predictions of rows, (m, t) float32."""

    def state(self) -> State:
        """Return what it has learnt."""


@dataclass(frozen=True, eq=False)
class SharedSVR:
    """SVRs of all genes on one table of features: prediction K(x, support) β + b, computed in float64.

    Attributes
    ----------
    table : FeatureTable
        Fitted on the training rows.
    support : ndarray of float32, (n, p)
        Features of the training rows.
    kernel : str
    gamma : float
    dual_coef : ndarray of float32, (n, t)
        β, in the unit of the targets.
    intercept : ndarray of float32, (t,)
    """

    table: FeatureTable
    support: Matrix
    kernel: Kernel
    gamma: float
    dual_coef: Matrix
    intercept: Matrix

    def predict(self, rows: Rows) -> Matrix:
        """Return the predictions of rows, (m, t) float32."""
        X = self.table.transform(rows).astype(np.float64)
        K = kernel_between(X, self.support.astype(np.float64), self.kernel, self.gamma)
        predicted = np.empty((len(X), len(self.intercept)), dtype=np.float32)
        for start in range(0, len(self.intercept), GENES_AT_ONCE):
            genes = slice(start, start + GENES_AT_ONCE)
            predicted[:, genes] = K @ self.dual_coef[:, genes].astype(np.float64) + self.intercept[genes]
        return predicted

    def state(self) -> State:
        """Return what it has learnt."""
        return {
            "table": self.table.state(),
            "support": self.support,
            "kernel": self.kernel,
            "gamma": float(self.gamma),
            "dual_coef": self.dual_coef,
            "intercept": self.intercept,
        }

    @classmethod
    def from_state(cls, recipe: FeatureSet, reader: StateReader) -> "SharedSVR":
        """Make it of its state; InputError where that is damaged."""
        kernel = reader.text("kernel")
        if kernel not in ("rbf", "linear"):
            raise reader.fault(f"kernel is {kernel!r}")
        support = reader.array("support", np.float32, (None, None))
        dual_coef = reader.array("dual_coef", np.float32, (len(support), None))
        intercept = reader.array("intercept", np.float32, (dual_coef.shape[1],))
        gamma = reader.number("gamma")
        table = FeatureTable.from_state(recipe, reader.part("table"))
        return cls(table, support, kernel, gamma, dual_coef, intercept)  # type: ignore[arg-type]


@dataclass(frozen=True)
class FittedMember:
    """A member of the first level: the model of all training rows, and its nested predictions."""

    model: FirstLevelModel
    predictions: NestedPredictions


def member_engine(Y: Matrix, config: SvrConfig | KernelConfig, device: DeviceName) -> Choice:
    """Return the engine that `fit_member` will use, of two machines that of `known`, and why."""
    if isinstance(config, KernelConfig):
        known, _ = (choose_engine(machine.engine, to_device(Y[:1], device)) for machine in config.machines)
        return known
    return choose_engine(config.engine, to_device(Y[:1], device), own_target=config.features.own_target)


def fit_member(
    train: Rows,
    test: Rows,
    Y: Matrix,
    folds: NDArray[np.intp],
    config: SvrConfig | KernelConfig,
    seed: int,
    device: DeviceName,
    progress: Progress | None = None,
) -> FittedMember:
    """Fit a member on all rows, and nested over the outer folds.

    Parameters
    ----------
    train, test : Rows
        n training rows, m test rows.
    Y : ndarray of float32, (n, t)
    folds : ndarray of int, (n,)
    config : SvrConfig or KernelConfig
    seed : int
        Seed of the inner folds of cross-fitted features.
    device : str
    progress : Progress, optional
        Advances once a fit.
    """
    progress = progress or Progress()
    progress.start(n_fits(int(folds.max()) + 1) + 1)
    if isinstance(config, KernelConfig):
        model, fit_predict = _composite_member(train, test, Y, config, device)
    elif config.features.own_target:
        model, fit_predict = _own_target_member(train, test, Y, config, seed)
    else:
        model, fit_predict = _shared_member(train, test, Y, config, seed, device)
    progress.advance()
    return FittedMember(model, nested_predictions(fit_predict, model.predict(test), folds, progress))


def model_from_state(config: SvrConfig | KernelConfig, reader: StateReader) -> FirstLevelModel:
    """Make a fitted model of its state; InputError where that is damaged."""
    if isinstance(config, KernelConfig):
        return CompositeModel.from_state(config, reader)
    kind = OwnTargetSVR if config.features.own_target else SharedSVR
    return kind.from_state(config.features, reader)


def features_of_all(
    table: FeatureTable, train: Rows, test: Rows, Y: NDArray[np.float32], training: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Fit a table on some training rows; return the features of all of them, then those of the test rows.

    Rows of `training` have the cross-fitted features they are trained on, all others what new rows get.
    """
    inside = table.fit_transform(train.take(training), Y[training])
    X = np.empty((len(Y) + len(test.obs), inside.shape[1]), dtype=np.float32)
    X[training] = inside
    left = np.setdiff1d(np.arange(len(Y)), training)
    if len(left):
        X[left] = table.transform(train.take(left))
    X[len(Y) :] = table.transform(test)
    return X


FitOf = tuple[Any, Callable[[Indices, list[Indices]], list[Matrix]]]


def _shared_member(
    train: Rows, test: Rows, Y: Matrix, config: SvrConfig, seed: int, device: DeviceName
) -> FitOf:
    """Fit on all rows. Columns that no target enters are made once; others by every fit, from its training rows."""
    on_device = to_device(Y, device)

    def table_for(training: Indices) -> tuple[FeatureTable, Matrix, GramTable]:
        table = FeatureTable(config.features, seed=seed)
        X = features_of_all(table, train, test, Y, training)
        return table, X, GramTable(to_device(X, device), config.kernel, config.gamma)

    whole, X, gram = table_for(np.arange(len(Y)))

    def solved(grams: GramTable, training: Indices, groups: list[Indices]) -> TableFit:
        return fit_on_table(
            grams,
            on_device,
            training,
            groups,
            C=config.C,
            epsilon=config.epsilon,
            tol=config.tol,
            max_iter=config.max_iter,
            engine_name=config.engine,
        )

    def fit_predict(training: Indices, groups: list[Indices]) -> list[Matrix]:
        own = table_for(training)[2] if config.features.uses_targets else gram
        return [to_host(predicted) for predicted in solved(own, training, groups).predictions]

    fit = solved(gram, np.arange(len(Y)), [])
    dual_coef, intercept = (
        np.asarray(to_host(x), dtype=np.float32) for x in (fit.solution.dual_coef, fit.solution.intercept)
    )
    model = SharedSVR(whole, X[: len(Y)], config.kernel, float(fit.gamma), dual_coef, intercept)
    return model, fit_predict


def _composite_member(train: Rows, test: Rows, Y: Matrix, config: KernelConfig, device: DeviceName) -> FitOf:
    """Fit on all rows; the fits share what kernels compare and no target enters (numbers, similarities)."""
    both = Pairs.of(Rows.joined(train, test), config.encoders)

    def fit_predict(training: Indices, groups: list[Indices]) -> list[Matrix]:
        return fit_and_predict(
            config, both.take(training), Y[training], [both.take(g) for g in groups], device
        )

    return fit_composite(config, both.take(np.arange(len(Y))), Y, device), fit_predict


def _own_target_member(train: Rows, test: Rows, Y: Matrix, config: SvrConfig, seed: int) -> FitOf:
    """Fit on all rows; each fit makes its statistics from its own training rows."""
    both = Rows.joined(train, test)
    how: dict[str, Any] = {
        "C": config.C,
        "epsilon": config.epsilon,
        "gamma": config.gamma,
        "tol": config.tol,
        "max_iter": config.max_iter,
        "seed": seed,
    }

    def fit_predict(training: Indices, groups: list[Indices]) -> list[Matrix]:
        others = both.take(np.concatenate(groups))
        predicted = own_target_predictions(config.features, train.take(training), Y[training], others, **how)
        return np.split(predicted, np.cumsum([len(group) for group in groups])[:-1])

    return OwnTargetSVR.fit(config.features, train, Y, **how), fit_predict
