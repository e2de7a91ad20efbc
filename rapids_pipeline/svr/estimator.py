"""`MultiTargetSVR`: a thin scikit-learn estimator over the engines."""

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted

from features.molecules.encoders import encode_molecules, fitted_in_fold
from features.reduction import TruncatedSVD
from features.rows import Pairs, Rows
from rapids_pipeline.backend.arrays import Array, namespace, to_host
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.kernels.composite import CompositeKernel, LearntKernel
from rapids_pipeline.svr.duals import NotConvergedWarning, solve_duals, solve_target_specific
from rapids_pipeline.svr.engines import choose_engine
from rapids_pipeline.svr.gram import Gamma, GramTable, Kernel, kernel_between
from rapids_pipeline.svr.inputs import TrainingInput, checked_features, checked_training, is_foreign
from rapids_pipeline.svr.memory import require_room
from rapids_pipeline.svr.smo import predict_factored
from rapids_pipeline.svr.solution import DualSolution
from rapids_pipeline.svr.target_features import LearntTargetFeatures, TargetFeatures

__all__ = ["MultiTargetSVR", "NotConvergedWarning", "solve_duals"]

KERNEL_COMPONENTS = 120
"""Principal components of the targets that a composite kernel learns from."""


class MultiTargetSVR(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Epsilon-SVR of every target, all targets at once.

    For each target the optimum of scikit-learn's `SVR` with the same parameters (see
    `rapids_pipeline.svr.douglas_rachford` for the problem), from one Gram matrix for all targets, or from a
    factored kernel of each target's own where there are target-specific features.

    Parameters
    ----------
    C : float or array, (n_targets,)
        Bound on |β_i|, in the unit of the target.
    epsilon : float or array, (n_targets,)
        Half-width of the tube in which errors cost nothing, in the unit of the target.
    kernel : {"rbf", "linear", "precomputed"} or CompositeKernel
        With a `rapids_pipeline.kernels.composite.CompositeKernel`, X holds pairs of cell type and compound: `Rows`,
        or a data frame with columns cell_type, sm_name and, for structures, SMILES. It learns from the leading
        principal components of Y.
    gamma : float or "scale"
        For "rbf"; "scale" is 1 / (n_features · Var(X)) over the training rows.
    tol : float
        Bound on libsvm's U − L, in the unit of the target.
    max_iter : int, optional
        Iterations a target may take; by default the limit of the engine.
    engine : str
        "auto" or a name in `rapids_pipeline.svr.engines.ENGINES`.
    target_features : TargetFeatures, optional
        Two groupings of the rows and how to make statistics of each target in them. X then holds the levels of
        both groupings (n_samples, 2), and kernel must be "rbf".

    Attributes
    ----------
    dual_coef_ : array, (n_samples, n_targets)
        β, zero rows included, float64. Arrays are of the library that X and Y were.
    intercept_, n_iter_, gap_, converged_ : array, (n_targets,)
    gamma_ : float, or array (n_targets,) with target-specific features
    engine_ : str
        The engine that solved it, and `engine_reason_` why it was chosen.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where X was a data frame.
    """

    _learnt: LearntTargetFeatures | LearntKernel | None
    gamma_: Any

    def __init__(
        self,
        *,
        C: Array | float = 1.0,
        epsilon: Array | float = 0.1,
        kernel: Kernel | CompositeKernel = "rbf",
        gamma: Gamma = "scale",
        tol: float = 1e-3,
        max_iter: int | None = None,
        engine: str = "auto",
        target_features: TargetFeatures | None = None,
    ) -> None:
        self.C = C
        self.epsilon = epsilon
        self.kernel = kernel
        self.gamma = gamma
        self.tol = tol
        self.max_iter = max_iter
        self.engine = engine
        self.target_features = target_features

    def fit(self, X: Any, Y: Any, sample_weight: Any = None, *, progress: Progress | None = None) -> Self:
        """Solve every column of `Y` (n_samples, n_targets) or (n_samples,) on `X` (n_samples, n_features).

        Parameters
        ----------
        X, Y : array or data frame
            numpy, cupy or torch arrays, both of one library, or whatever scikit-learn takes.
        sample_weight : array, (n_samples,), optional
            Multiplies C row by row, as in scikit-learn's SVR; 0 leaves a row out.
        progress : Progress, optional

        Raises
        ------
        ValueError
            Shapes that do not fit; values that are not finite, with their place; unknown kernel or engine; a Gram
            matrix that does not fit in memory (InputError).

        Warns
        -----
        NotConvergedWarning
            With the names, or positions, of the targets that missed `tol`.
        """
        if isinstance(self.kernel, CompositeKernel):
            pairs = pairs_of(X, self.kernel)
            X = (
                namespace(Y).zeros((len(pairs), 1), device=Y.device)
                if is_foreign(Y)
                else np.zeros((len(pairs), 1))
            )
        given = checked_training(self, X, Y)
        if sample_weight is not None and not hasattr(sample_weight, "shape"):
            sample_weight = np.asarray(sample_weight, dtype=np.float64)
        self._one_target = given.one_target
        choice = choose_engine(self.engine, given.Y, target_specific=self.target_features is not None)
        self.engine_, self.engine_reason_ = choice.engine.name, choice.reason
        if self.target_features is None:
            require_room(given.X, given.X.shape[0], given.X.shape[0], choice.engine.work_bytes)
        if isinstance(self.kernel, CompositeKernel):
            self._fit_composite(self.kernel, pairs, given, sample_weight, progress)
        elif self.target_features is None:
            self._fit_shared(given, sample_weight, progress)
        else:
            self._fit_target_specific(self.target_features, given, sample_weight, progress)
        return self

    def predict(self, X: Any) -> Array:
        """Return K(X, X_fit) β + b, (n_samples, n_targets), or (n_samples,) after a fit on a 1-D target.

        In the floating dtype of the Y of the fit; computed in float64.
        """
        check_is_fitted(self)
        xp, learnt = namespace(self.dual_coef_), self._learnt
        if isinstance(learnt, LearntTargetFeatures):
            tests = learnt.positions(checked_features(self, X, self.dual_coef_))
            coefficients = to_host(self.dual_coef_).T, to_host(self.intercept_)
            host = predict_factored(learnt.kernel, learnt.training, tests, *coefficients).T
            predicted = xp.asarray(np.ascontiguousarray(host), device=self.dual_coef_.device)
        else:
            if isinstance(learnt, LearntKernel):
                K = learnt.between(pairs_of(X, learnt.kernel), self.dual_coef_)
            else:
                X = checked_features(self, X, self.dual_coef_)
                K = kernel_between(X, self.X_fit_, self.kernel, self.gamma_)  # type: ignore[arg-type]
            predicted = K @ self.dual_coef_ + self.intercept_[None, :]
        predicted = xp.astype(predicted, self._dtype, copy=False)
        return predicted[:, 0] if self._one_target else predicted

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R², the mean over targets as scikit-learn takes it; computed on the host for every library."""
        weight = None if sample_weight is None else to_host(sample_weight)
        truth = to_host(y) if hasattr(y, "__array_namespace__") or hasattr(y, "cpu") else y
        return float(r2_score(truth, to_host(self.predict(X)), sample_weight=weight))

    def __sklearn_tags__(self) -> Any:
        """Say that a precomputed X is made of pairs of rows."""
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = isinstance(self.kernel, str) and self.kernel == "precomputed"
        return tags

    def _fit_composite(
        self,
        kernel: CompositeKernel,
        pairs: Pairs,
        given: TrainingInput,
        sample_weight: Any,
        progress: Progress | None,
    ) -> None:
        if self.target_features is not None:
            raise InputError("target_features needs kernel='rbf', not a composite kernel")
        xp = namespace(given.Y)
        centred = xp.astype(given.Y, xp.float64) - xp.mean(xp.astype(given.Y, xp.float64), axis=0)
        scores = to_host(TruncatedSVD(KERNEL_COMPONENTS).fit(centred).transform(centred)).astype(np.float64)
        learnt = kernel.learn(pairs, scores)
        self.gamma_ = 1.0
        solution = self._solved(learnt.gram(centred), given, sample_weight, progress)
        self._learnt = learnt
        self._keep(given, solution, solution.dual_coef)

    def _fit_shared(self, given: TrainingInput, sample_weight: Any, progress: Progress | None) -> None:
        table = GramTable(given.X, self.kernel, self.gamma)  # type: ignore[arg-type]
        rows = np.arange(given.X.shape[0])
        self.gamma_ = table.gamma_of(rows)
        solution = self._solved(table.gram(rows, rows, self.gamma_), given, sample_weight, progress)
        self.X_fit_, self._learnt = given.X, None
        self._keep(given, solution, solution.dual_coef)

    def _solved(
        self, K: Array, given: TrainingInput, sample_weight: Any, progress: Progress | None
    ) -> DualSolution:
        return solve_duals(
            K,
            given.Y,
            C=self.C,
            epsilon=self.epsilon,
            tol=self.tol,
            max_iter=self.max_iter,
            engine_name=self.engine,
            sample_weight=sample_weight,
            target_names=given.target_names,
            progress=progress,
        )

    def _fit_target_specific(
        self, features: TargetFeatures, given: TrainingInput, sample_weight: Any, progress: Progress | None
    ) -> None:
        if self.kernel != "rbf":
            raise InputError(f"target_features needs kernel='rbf', not {self.kernel!r}")
        self._learnt = LearntTargetFeatures.learn(features, given.X, to_host(given.Y), self.gamma)
        result = solve_target_specific(
            self._learnt,
            given.Y,
            C=self.C,
            epsilon=self.epsilon,
            tol=self.tol,
            max_iter=self.max_iter,
            engine_name=self.engine,
            sample_weight=sample_weight,
            target_names=given.target_names,
            progress=progress,
        )
        self.gamma_ = self._learnt.kernel.gamma
        self._keep(given, result, result.dual_coef.T)

    def _keep(self, given: TrainingInput, solution: Any, dual_coef: Array) -> None:
        """Set the learnt attributes, in the array library of the targets."""
        xp, device = namespace(given.Y), given.Y.device
        self._dtype = given.Y.dtype
        self.dual_coef_ = xp.astype(xp.asarray(dual_coef, device=device), xp.float64, copy=False)
        self.intercept_ = xp.astype(xp.asarray(solution.intercept, device=device), xp.float64)
        self.n_iter_, self.gap_, self.converged_ = (
            xp.asarray(x, device=device) for x in (solution.n_iter, solution.gap, solution.converged)
        )


def pairs_of(X: Any, kernel: CompositeKernel) -> Pairs:
    """Return the pairs that `X`, `Rows` or a data frame, holds, with the molecule features that a kernel reads.

    Raises
    ------
    InputError
        X is neither, or a column is missing.
    """
    if isinstance(X, Rows):
        return Pairs.of(X, [name for name in kernel.encoders if not fitted_in_fold(name)])
    if not hasattr(X, "columns"):
        raise InputError("a composite kernel needs a data frame of pairs: cell_type, sm_name and SMILES")
    if kernel.encoders and "SMILES" not in X.columns:
        raise InputError(f"the pairs have no column SMILES, which {kernel.encoders[0]} reads")
    molecules = encode_molecules(kernel.encoders, list(X["SMILES"]) if kernel.encoders else []).training
    return Pairs.of(Rows(X.reset_index(drop=True), molecules), list(molecules))
