"""SVRs of all genes: on one table of features that all genes share, or with columns of each gene's own.

svr               ŷ = K(x, support) β + b, one kernel and one Gram matrix for all genes
own_target_svr    a kernel for each gene, of shared columns and that gene's own statistics
                  (`rapids_pipeline.svr.own_target`)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import model_validator

from features.feature_sets import FEATURE_SETS, FeatureTable
from features.rows import Rows
from rapids_pipeline.backend.arrays import Array, Float32, Indices, to_device, to_host
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.settings import bounded, named
from rapids_pipeline.backend.state import State, StateReader
from rapids_pipeline.data.untested import has_gaps
from rapids_pipeline.stack.members.member import Features, Fits, TrainingSet, WithFeatures
from rapids_pipeline.svr.dual import GramTable, Kernel, kernel_between
from rapids_pipeline.svr.engines import TableFit, choose_engine, fit_on_table

if TYPE_CHECKING:
    from rapids_pipeline.svr.own_target.estimator import OwnTargetSVR

GENES_AT_ONCE = 4096
"""Genes whose coefficients are turned into float64 at once."""
FAR = "far beyond, all models are alike"
NO_TUBE = "engine = 'ridge' has squared errors, which have no tube: epsilon must be 0, or take another engine"


class AnySvrMember(WithFeatures):
    """What both kinds of SVR have (published: RBF, C=1, epsilon=0.1, gamma="scale")."""

    C: Annotated[float, bounded(1e-8, 1e8, FAR)] = 1.0
    epsilon: Annotated[float, bounded(0.0, 1e9, "a tube wider than all responses learns nothing")] = 0.1
    gamma: Annotated[float | Literal["scale"], bounded(1e-9, 1e9, FAR, words=["scale"])] = "scale"
    tol: Annotated[float, bounded(1e-12, 1.0, "it is a share of what a solution may be off")] = 1e-3
    max_iter: Annotated[int | None, bounded(1, 1_000_000_000, optional=True)] = None
    engine: Annotated[str, named()] = "auto"


class SvrMember(AnySvrMember):
    """One SVR a gene on a table of features that all genes share."""

    kind: Literal["svr"] = "svr"
    kernel: Literal["rbf", "linear"] = "rbf"
    features: Features = FEATURE_SETS["svr_shared"]

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.features.own_target:
            raise ValueError(
                f"{self.features.name} gives every gene columns of its own: take kind = 'own_target_svr'"
            )
        if self.engine == "ridge" and self.epsilon:
            raise ValueError(NO_TUBE)
        return self

    def engine_choice(self, Y: Float32, device: DeviceName) -> str:
        """Return which engine solves it, and why."""
        choice = choose_engine(self.engine, to_device(Y[:1], device))
        return f"{choice.engine.name} ({choice.reason})"

    def prepare(self, data: TrainingSet) -> "SharedFits":
        """Return its fits, which share features and Gram matrix where neither depends on targets or predictions."""
        return SharedFits(self, data)

    def model_from_state(self, reader: StateReader) -> "SharedSVR":
        """Make a fitted model of its state."""
        kernel = reader.text("kernel")
        if kernel not in ("rbf", "linear"):
            raise reader.fault(f"kernel is {kernel!r}")
        support = reader.array("support", np.float32, (None, None))
        dual_coef = reader.array("dual_coef", np.float32, (len(support), None))
        intercept = reader.array("intercept", np.float32, (dual_coef.shape[1],))
        gamma = reader.number("gamma")
        table = FeatureTable.from_state(self.features, reader.part("table"))
        return SharedSVR(table, support, kernel, gamma, dual_coef, intercept)  # type: ignore[arg-type]


class OwnTargetSvrMember(AnySvrMember):
    """One SVR a gene, each with columns of its own: the blocks of its feature set that say `own_target`."""

    kind: Literal["own_target_svr"] = "own_target_svr"
    features: Features = FEATURE_SETS["svr_per_target"]

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if not self.features.own_target:
            raise ValueError(f"{self.features.name} has no columns of each gene's own: take kind = 'svr'")
        return self

    def engine_choice(self, Y: Float32, device: DeviceName) -> str:
        """Return which engine solves it, and why."""
        choice = choose_engine(self.engine, to_device(Y[:1], device), own_target=True)
        return f"{choice.engine.name} ({choice.reason})"

    def prepare(self, data: TrainingSet) -> "OwnTargetFits":
        """Return its fits; each makes its statistics from its own training rows."""
        return OwnTargetFits(self, data)

    def model_from_state(self, reader: StateReader) -> "OwnTargetSVR":
        """Make a fitted model of its state."""
        from rapids_pipeline.svr.own_target.estimator import OwnTargetSVR

        return OwnTargetSVR.from_state(self.features, reader)


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
    support: Float32
    kernel: Kernel
    gamma: float
    dual_coef: Float32
    intercept: Float32

    def predict(self, rows: Rows) -> Float32:
        """Return the predictions of rows, (m, t) float32; a row's do not depend on the others, to rounding."""
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


Columns = tuple[FeatureTable, Float32, GramTable]
"""A fitted table, the features of all rows by it, and the kernel between them."""


class SharedFits(Fits[SvrMember]):
    """Fits on shared features; columns that neither targets nor predictions enter are made once, others by each fit.

    All genes share the rows and their weights, so untested targets are imputed here.
    """

    def __init__(self, member: SvrMember, data: TrainingSet) -> None:
        super().__init__(member, data)
        self._Y, self._complete = to_device(data.Y, data.device), not has_gaps(data.Y)
        features = member.features
        anew = features.uses_targets or features.needs_predictions
        self._once = None if anew else self._columns(np.arange(len(data.Y)))

    def fit(self, training: Indices) -> SharedSVR:
        """Fit to some rows."""
        table, X, gram = self._once or self._columns(training)
        fit = self._solved(gram, training, ())
        dual_coef, intercept = (
            np.asarray(to_host(x), dtype=np.float32) for x in (fit.solution.dual_coef, fit.solution.intercept)
        )
        return SharedSVR(table, X[training], self.member.kernel, float(fit.gamma), dual_coef, intercept)

    def fit_predict(self, training: Indices, groups: Sequence[Indices]) -> list[Float32]:
        """Return the predictions of groups of rows by a fit to some others.

        A row that is fitted to, too, is predicted from the features of new rows, as the model would.
        """
        if self._once is None and np.isin(np.concatenate(groups), training).any():
            return super().fit_predict(training, groups)
        gram = (self._once or self._columns(training))[2]
        return [to_host(predicted) for predicted in self._solved(gram, training, groups).predictions]

    def _targets(self, training: Indices) -> Array:
        """Return all targets, those of the training rows without NaN."""
        if self._complete:
            return self._Y
        Y = self.data.Y.copy()
        Y[training] = self.data.targets(training)
        return to_device(Y, self.data.device)

    def _columns(self, training: Indices) -> Columns:
        table = FeatureTable(self.member.features, seed=self.data.seed)
        X = features_of_all(table, self.data, training)
        return table, X, GramTable(to_device(X, self.data.device), self.member.kernel, self.member.gamma)

    def _solved(self, gram: GramTable, training: Indices, groups: Sequence[Indices]) -> TableFit:
        weight, member = self.data.weight, self.member
        return fit_on_table(
            gram,
            self._targets(training),
            training,
            groups,
            C=member.C,
            epsilon=member.epsilon,
            tol=member.tol,
            max_iter=member.max_iter,
            engine_name=member.engine,
            sample_weight=None if weight is None else weight[training],
        )


def features_of_all(table: FeatureTable, data: TrainingSet, training: Indices) -> Float32:
    """Fit a table on some training rows; return the features of all rows, (n + m, p).

    Rows of `training` have the cross-fitted features they are trained on, all others what new rows get.
    """
    inside = table.fit_transform(data.take(training), data.targets(training))
    X = np.empty((len(data.rows.obs), inside.shape[1]), dtype=np.float32)
    X[training] = inside
    left = np.setdiff1d(np.arange(len(X)), training)
    if len(left):
        X[left] = table.transform(data.take(left))
    return X


class OwnTargetFits(Fits[OwnTargetSvrMember]):
    """Fits on columns of each gene's own.

    A gene's fit leaves out the rows where it was not tested; its statistics are of imputed targets and count all rows
    alike.
    """

    def _how(self, training: Indices) -> dict[str, Any]:
        names = ("C", "epsilon", "gamma", "tol", "max_iter", "engine")
        weight = self.data.weight
        return {name: getattr(self.member, name) for name in names} | {
            "device": self.data.device,
            "seed": self.data.seed,
            "tested": self.data.tested(training),
            "sample_weight": None if weight is None else weight[training],
        }

    def fit(self, training: Indices) -> "OwnTargetSVR":
        """Fit to some rows."""
        from rapids_pipeline.svr.own_target.estimator import OwnTargetSVR

        return OwnTargetSVR.fit(
            self.member.features,
            self.data.take(training),
            self.data.targets(training),
            **self._how(training),
        )

    def fit_predict(self, training: Indices, groups: Sequence[Indices]) -> list[Float32]:
        """Return the predictions of groups of rows by a fit to some others."""
        from rapids_pipeline.svr.own_target import estimator

        rows, others = self.data.take(training), self.data.take(np.concatenate(groups))
        predicted = estimator.fit_predict(
            self.member.features,
            rows,
            self.data.targets(training),
            others,
            **self._how(training),
        )
        return np.split(predicted, np.cumsum([len(group) for group in groups])[:-1])
