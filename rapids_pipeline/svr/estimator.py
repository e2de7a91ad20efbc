"""`MultiTargetSVR`: a thin scikit-learn estimator over the engines, and the checks of what it is given."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, validate_data

from rapids_pipeline.backend.arrays import Array, namespace, to_host
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.svr.dual import Gamma, GramTable, Kernel, kernel_between, require_room
from rapids_pipeline.svr.engines import choose_engine, solve_duals

HARD, NO_LIMIT = 1e6, 2**31 - 1
"""What stands for no bound on |β_i|, in units of the largest |y|, and for no limit of iterations."""


class MultiTargetSVR(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Epsilon-SVR of every target, all targets at once from one Gram matrix.

    For each target the optimum of scikit-learn's `SVR` with the same parameters (see
    `rapids_pipeline.svr.douglas_rachford` for the problem).

    Parameters
    ----------
    C : float or array, (n_targets,)
        Bound on |β_i|, in the unit of the target; infinity stands for `HARD` times the target's largest size.
    epsilon : float or array, (n_targets,)
        Half-width of the tube in which errors cost nothing, in the unit of the target.
    kernel : {"rbf", "linear", "precomputed"}
        With "precomputed" the X of `fit` is the Gram matrix of the training rows (n_samples, n_samples), and the X of
        `predict` the kernel between new rows and those (n_new, n_samples), as in scikit-learn.
    gamma : float, "scale" or "auto"
        For "rbf"; "scale" is 1 / (n_features · Var(X)) over the training rows, "auto" 1 / n_features.
    tol : float
        Bound on libsvm's U − L, in the unit of the target.
    max_iter : int, optional
        Iterations a target may take; by default the limit of the engine, −1 for no limit.
    engine : str
        "auto" or a name in `rapids_pipeline.svr.engines.ENGINES`.

    Attributes
    ----------
    dual_coef_ : array, (n_samples, n_targets)
        β, zero rows included, float64. Arrays are of the library that X and Y were.
    intercept_, n_iter_, gap_, converged_ : array, (n_targets,)
        b, the iterations, U − L, and whether that is at most `tol`.
    gamma_ : float
        γ in numbers.
    engine_ : str
        The engine that solved it, and `engine_reason_` why it was chosen.
    coef_ : array, (n_targets, n_features), or (n_features,) after a fit on a 1-D target
        Of a linear kernel: βᵀ X.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of str
        Where X was a data frame.

    Examples
    --------
    >>> import numpy as np
    >>> from rapids_pipeline.svr import MultiTargetSVR
    >>> x = np.linspace(0, 1, 20)
    >>> Y = np.column_stack([np.sin(6 * x), x**2])  # two targets
    >>> model = MultiTargetSVR(C=10.0, epsilon=0.01).fit(x[:, None], Y)
    >>> model.predict([[0.5]]).round(1)
    array([[0.1, 0.3]])
    >>> model.converged_
    array([ True,  True])
    """

    def __init__(
        self,
        *,
        C: Array | float = 1.0,
        epsilon: Array | float = 0.1,
        kernel: Kernel = "rbf",
        gamma: Gamma = "scale",
        tol: float = 1e-3,
        max_iter: int | None = None,
        engine: str = "auto",
    ) -> None:
        self.C = C
        self.epsilon = epsilon
        self.kernel = kernel
        self.gamma = gamma
        self.tol = tol
        self.max_iter = max_iter
        self.engine = engine

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, progress: Progress | None = None) -> Self:
        """Solve every column of `y` (n_samples, n_targets) or (n_samples,) on `X` (n_samples, n_features).

        Parameters
        ----------
        X, y : array or data frame
            numpy, cupy or torch arrays, both of one library, or whatever scikit-learn takes; dask arrays are computed.
        sample_weight : array, (n_samples,), optional
            Multiplies C row by row, as in scikit-learn's SVR; 0 leaves a row out.
        progress : Progress, optional
            Is told how many targets are done.

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
        X, Y, self._one_target, names = checked_training(self, computed(X), computed(y))
        choice = choose_engine(self.engine, Y)
        n = X.shape[0]
        require_room(X, n, n, choice.engine.work_bytes)
        table, rows = GramTable(X, self.kernel, self.gamma), np.arange(n)
        gamma = table.gamma_of(rows)
        solution = solve_duals(
            table.gram(rows, rows, gamma),
            Y,
            C=self._bounds(Y),
            epsilon=self.epsilon,
            tol=self.tol,
            max_iter=NO_LIMIT if self.max_iter == -1 else self.max_iter,
            engine_name=self.engine,
            sample_weight=sample_weight,
            target_names=names,
            progress=progress,
        )
        self.engine_, self.engine_reason_ = choice.engine.name, choice.reason
        self.gamma_, self.X_fit_, self._dtype = gamma, X, Y.dtype
        xp = namespace(Y)
        self.dual_coef_, self.intercept_ = (
            xp.astype(x, xp.float64, copy=False) for x in (solution.dual_coef, solution.intercept)
        )
        self.n_iter_, self.gap_, self.converged_ = solution.n_iter, solution.gap, solution.converged
        return self

    def predict(self, X: Any) -> Array:
        """Return K(X, X_fit) β + b, (n_samples, n_targets), or (n_samples,) after a fit on a 1-D target.

        In the floating dtype of the Y of the fit; computed in float64.
        """
        check_is_fitted(self)
        X = checked_features(self, computed(X), self.dual_coef_)
        K = kernel_between(X, self.X_fit_, self.kernel, self.gamma_)
        predicted = K @ self.dual_coef_ + self.intercept_[None, :]
        predicted = namespace(predicted).astype(predicted, self._dtype, copy=False)
        return predicted[:, 0] if self._one_target else predicted

    @property
    def coef_(self) -> Array:
        """The coefficients of the features; AttributeError where the kernel is not linear."""
        if self.kernel != "linear":
            raise AttributeError(f"coef_ is of a linear kernel, and this one is {self.kernel}")
        check_is_fitted(self, "dual_coef_")
        xp = namespace(self.dual_coef_)
        found = xp.matrix_transpose(self.dual_coef_) @ self.X_fit_
        return found[0, :] if self._one_target else found

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R², the mean over targets as scikit-learn takes it; computed on the host for every library."""
        weight = None if sample_weight is None else to_host(sample_weight)
        truth = to_host(y) if hasattr(y, "__array_namespace__") or hasattr(y, "cpu") else y
        return float(r2_score(truth, to_host(self.predict(X)), sample_weight=weight))

    def _bounds(self, Y: Array) -> Any:
        """Return C, infinite ones replaced by bounds that no β_i reaches; rounding decides beyond them."""
        C = np.asarray(to_host(self.C))
        if not np.isposinf(C).any():
            return self.C
        xp = namespace(Y)
        largest = np.asarray(to_host(xp.max(xp.abs(Y), axis=0)), dtype=np.float64)
        return np.where(np.isposinf(C), HARD * np.where(largest > 0, largest, 1.0), C)

    def __sklearn_tags__(self) -> Any:
        """Say that a precomputed X is made of pairs of rows."""
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = self.kernel == "precomputed"
        return tags


def computed(x: Any) -> Any:
    """Return a dask array or frame as what it computes to; anything else as it is."""
    return x.compute() if hasattr(x, "__dask_graph__") else x


def checked_training(estimator: Any, X: Any, Y: Any) -> tuple[Array, Array, bool, list[str] | None]:
    """Return X (n, p) float64, Y (n, n_targets), whether Y had one dimension, and the names of the targets if any.

    Sets `n_features_in_` and, for data frames, `feature_names_in_`. Arrays of libraries other than numpy stay what they
    are. Everything else that scikit-learn takes (lists, data frames) becomes numpy.

    Raises
    ------
    ValueError
        Shapes that do not fit, values that are not finite (with the row and column), no Y.
    TypeError
        Sparse matrices; X and Y of different array libraries.
    """
    if Y is None:
        raise InputError(f"{type(estimator).__name__} requires y to be passed, but the target y is None.")
    names, features = _names_of(Y), _names_of(X)
    if is_foreign(X) or is_foreign(Y):
        xp = namespace(X, Y)
        if X.ndim != 2 or Y.ndim not in (1, 2) or Y.shape[0] != X.shape[0] or not X.shape[0]:
            raise InputError(f"X must be (n, p) and Y (n, t) or (n,), not {tuple(X.shape)}, {tuple(Y.shape)}")
        X = xp.astype(X, xp.float64)
        Y = Y if xp.isdtype(Y.dtype, "real floating") else xp.astype(Y, xp.float64)
        estimator.n_features_in_ = X.shape[1]
        if hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
    else:
        X = validate_data(estimator, X, dtype=np.float64, ensure_all_finite=False)
        kinds = (np.float64, np.float32)
        Y = check_array(Y, dtype=kinds, ensure_2d=False, ensure_all_finite=False, input_name="Y")
        if Y.ndim > 2:
            raise InputError(f"Y must be (n, t) or (n,), not {Y.shape}")
        check_consistent_length(X, Y)
    require_finite("X", X, features)
    require_finite("Y", Y, names)
    return X, Y[:, None] if Y.ndim == 1 else Y, Y.ndim == 1, names


def checked_features(estimator: Any, X: Any, like: Array) -> Array:
    """Return features to predict from, float64, in the library of the fit (`like` is an array of it)."""
    if is_foreign(X) or is_foreign(like):
        try:
            xp = namespace(X, like)
        except TypeError as error:
            raise TypeError(
                f"the fit was on {type(like).__module__} arrays and X is a {type(X).__module__}.{type(X).__name__}: "
                "convert one of them"
            ) from error
        if X.ndim != 2 or X.shape[1] != estimator.n_features_in_:
            raise InputError(f"X must be (n, {estimator.n_features_in_}), not {tuple(X.shape)}")
        X = xp.astype(X, xp.float64)
        require_finite("X", X)
        return X
    plain = check_array(X, dtype=np.float64, ensure_all_finite=False, estimator=estimator)
    require_finite("X", plain, _names_of(X))  # before the width: a NaN is the likelier mistake
    return validate_data(estimator, X, reset=False, dtype=np.float64)


def is_foreign(x: Any) -> bool:
    """Say whether `x` is an array of a library that is not numpy."""
    from array_api_compat import is_array_api_obj

    return is_array_api_obj(x) and not isinstance(x, np.ndarray)


def _names_of(table: Any) -> list[str] | None:
    """Return the names of a data frame's columns or of a series, None where there are none."""
    if hasattr(table, "columns"):
        return [str(name) for name in table.columns]
    name = getattr(table, "name", None)
    return None if name is None or is_foreign(table) else [str(name)]


def require_finite(what: str, values: Array, names: Sequence[str] | None = None) -> None:
    """Raise InputError that names the first place where `values` (1-D or 2-D) is NaN or inf."""
    xp = namespace(values)
    if bool(xp.all(xp.isfinite(values))):
        return
    host = to_host(values)
    place = np.argwhere(~np.isfinite(host))[0]
    value = "NaN" if np.isnan(host[tuple(place)]) else "inf"
    column = int(place[1]) if len(place) > 1 else 0
    where = f", column {repr(names[column]) if names else column}" if len(place) > 1 or names else ""
    raise InputError(f"{what} contains {value} at row {place[0]}{where}")
