"""`MultiOutputBooster`: a thin scikit-learn estimator over the boosting engines."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, validate_data

from rapids_pipeline.backend.arrays import Float32, Float64, checked_weights
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.boosting.engines import (
    LEAST_WEIGHT,
    MAX_BINS,
    MIN_BINS,
    Listener,
    Settings,
    Watch,
    choose_engine,
)
from rapids_pipeline.boosting.trees import TreeEnsemble


class MultiOutputBooster(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Gradient boosting of trees with a vector in every leaf, squared error, all outputs at once.

    Each round grows one tree for all d outputs, to lower Σ w_i|r_i|² over rows of weight w_i (1 if not given) and
    residuals r_i. Of a node with W = Σ w_i and T = Σ w_i r_i, a split is worth the sum over outputs of
    G_L²/(W_L + λ) + G_R²/(W_R + λ) − T²/(W + λ), and a leaf holds learning_rate · T/(W + λ). The first prediction is
    the weighted mean. Bins, `min_samples_leaf` and `subsample` count rows, whatever they weigh (in bins of engine
    "xgboost" they count by their weight).

    Parameters
    ----------
    n_estimators : int
        Trees.
    learning_rate : float
        In (0, 1].
    max_depth : int
        Most splits on the way to a leaf (engine "pyboost": at most 16).
    min_samples_leaf : int
        Fewest training rows a leaf may hold (engine "xgboost": only 1).
    colsample : float
        Share of the columns each tree may split on, drawn without replacement.
    subsample : float
        Share of the rows each tree is grown on, drawn without replacement.
    reg_lambda : float
        λ, added to the weight of a node: to its row count without weights.
    max_bins : int
        Quantile bins a column is cut into, the one for NaN included (engine "xgboost": not included); 3 … 256.
    early_stopping_rounds : int, optional
        Stop after so many trees without a lower validation RMSE, and keep the trees up to the lowest.
    engine : str
        "auto" or a name in `rapids_pipeline.boosting.engines.ENGINES`.
    random_state : int
        Seed of the column and row sampling.
    device : {"cpu", "cuda"}
        Where the trees are grown.
    n_jobs : int
        Threads of prediction, and of a fit where the engine uses them (exact never does: run fits side by side).

    Attributes
    ----------
    model_ : TreeEnsemble
        The trees, the same arrays whatever grew them.
    feature_importances_ : ndarray of float64, (n_features_in_,)
        Each column's share of the gains.
    best_iteration_ : int
        How many trees had the lowest validation RMSE; all of them without a validation set.
    validation_scores_ : list of float
        RMSE over all entries of the validation targets after 1, 2, … trees.
    engine_, engine_reason_ : str
        The engine that grew the trees, and why it was chosen.
    n_features_in_ : int
        Columns of X.

    Examples
    --------
    >>> import numpy as np
    >>> from rapids_pipeline.boosting import MultiOutputBooster
    >>> x = np.linspace(0, 1, 20)
    >>> Y = np.column_stack([x > 0.5, x < 0.2])  # two outputs
    >>> model = MultiOutputBooster(n_estimators=200, colsample=1.0).fit(x[:, None], Y)
    >>> model.predict([[0.1], [0.9]]).round(1)
    array([[0., 1.],
           [1., 0.]], dtype=float32)
    """

    model_: TreeEnsemble

    def __init__(
        self,
        *,
        n_estimators: int = 100,
        learning_rate: float = 0.1,
        max_depth: int = 4,
        min_samples_leaf: int = 1,
        colsample: float = 0.4,
        subsample: float = 1.0,
        reg_lambda: float = 1.0,
        max_bins: int = 256,
        early_stopping_rounds: int | None = None,
        engine: str = "auto",
        random_state: int = 0,
        device: DeviceName = "cpu",
        n_jobs: int | None = 1,
    ) -> None:
        self.n_estimators = n_estimators
        self.learning_rate = learning_rate
        self.max_depth = max_depth
        self.min_samples_leaf = min_samples_leaf
        self.colsample = colsample
        self.subsample = subsample
        self.reg_lambda = reg_lambda
        self.max_bins = max_bins
        self.early_stopping_rounds = early_stopping_rounds
        self.engine = engine
        self.random_state = random_state
        self.device = device
        self.n_jobs = n_jobs

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        eval_set: tuple[ArrayLike, ArrayLike] | None = None,
        listener: Listener | None = None,
    ) -> Self:
        """Train on `X` (n_samples, n_features) and `y` (n_samples, n_outputs) or (n_samples,).

        Parameters
        ----------
        sample_weight : array of float, (n_samples,), optional
            At least 0. Rows of weight 0 (or below 1e-20 of the largest) are left out, as if they were not there. 1 for
            all gives the bits of None.
        eval_set : (X, y), optional
            Rows to score after every tree, all with the same weight, and to stop by.
        listener : callable, optional
            Called after every tree with how many there are and the validation RMSE or None.

        Raises
        ------
        InputError
            Parameters out of range, infinities in X, weights that are none, an eval_set that does not fit.
        UnavailableError
            The engine cannot run here.
        """
        choice = choose_engine(self.engine, self.device)
        settings = self._settings()
        rows, Y, weights = self._training_rows(X, y, sample_weight)
        if eval_set is None and self.early_stopping_rounds is not None:
            raise InputError("early_stopping_rounds needs an eval_set to stop by")
        held_out = None if eval_set is None else self._eval_rows(*eval_set, n_outputs=Y.shape[1])
        watch = Watch(self.early_stopping_rounds, listener)
        trained = choice.engine.fit(rows, Y, settings, watch, held_out, weights=weights)
        self.model_ = trained.model
        self.validation_scores_ = trained.validation_scores
        self.best_iteration_ = watch.best
        self.engine_, self.engine_reason_ = choice.engine.name, choice.reason
        return self

    def predict(self, X: ArrayLike) -> Float32:
        """Return float32 predictions, (n_samples, n_outputs), or (n_samples,) where `y` was one-dimensional."""
        check_is_fitted(self)
        predicted = self.model_.predict(self._features(X), n_threads=self.n_jobs or 1)
        return predicted[:, 0] if self._one_output else predicted

    @property
    def feature_importances_(self) -> Float64:
        """Each column's share of the gains of all splits."""
        check_is_fitted(self)
        return self.model_.importances()

    def __sklearn_tags__(self) -> Any:
        """Say that NaN is allowed."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _settings(self) -> Settings:
        whole = ("n_estimators", "max_depth", "min_samples_leaf", "max_bins")
        shares = ("learning_rate", "colsample", "subsample")
        stopping = () if self.early_stopping_rounds is None else ("early_stopping_rounds",)
        for name in (*whole, *stopping):
            value = getattr(self, name)
            low, high = (MIN_BINS, MAX_BINS) if name == "max_bins" else (1, np.inf)
            if int(value) != value or not low <= value <= high:
                most = "" if high == np.inf else f" and at most {high}"
                raise InputError(f"{name} must be a whole number of at least {low}{most}, not {value!r}")
        for name in shares:
            if not 0.0 < getattr(self, name) <= 1.0:
                raise InputError(f"{name} must be above 0 and at most 1, not {getattr(self, name)!r}")
        if not 0.0 <= self.reg_lambda < np.inf:
            raise InputError(f"reg_lambda must be 0 or more, not {self.reg_lambda!r}")
        numbers: dict[str, Any] = {name: int(getattr(self, name)) for name in whole}
        numbers |= {name: float(getattr(self, name)) for name in (*shares, "reg_lambda")}
        return Settings(**numbers, seed=self.random_state, device=self.device, n_jobs=self.n_jobs or 1)

    def _training_rows(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None
    ) -> tuple[Any, Any, Any]:
        """Return the checked rows, targets (n, d) and weights or None, without the rows that have none."""
        if y is None:
            raise InputError(f"{type(self).__name__} requires y to be passed, but the target y is None.")
        features = validate_data(self, X, dtype=np.float32, ensure_all_finite=False)
        Y = check_array(y, dtype=np.float32, ensure_2d=False, input_name="y", estimator=self)
        if Y.ndim > 2:
            raise InputError(f"y must be (n, d) or (n,), not {Y.shape}")
        check_consistent_length(features, Y)
        self._one_output = Y.ndim == 1
        features, Y = self._without_infinities(features), Y.reshape(len(Y), -1)
        if sample_weight is None:
            return features, Y, None
        weights = checked_weights(sample_weight, len(Y))
        kept = weights > LEAST_WEIGHT * weights.max()
        return features[kept], Y[kept], weights[kept]

    def _eval_rows(self, X: ArrayLike, y: ArrayLike, n_outputs: int) -> tuple[Any, Any]:
        features = self._features(X)
        Y = check_array(y, dtype=np.float32, ensure_2d=False, input_name="y of the eval_set")
        Y = Y.reshape(len(Y), -1)
        check_consistent_length(features, Y)
        if Y.shape[1] != n_outputs:
            raise InputError(f"the eval_set has {Y.shape[1]} outputs and the training rows have {n_outputs}")
        return features, Y

    def _features(self, X: ArrayLike) -> Any:
        features = validate_data(self, X, dtype=np.float32, ensure_all_finite=False, reset=False)
        return self._without_infinities(features)

    def _without_infinities(self, features: Any) -> Any:
        infinite = np.isinf(features)
        if infinite.any():
            row, column = (int(place) for place in np.argwhere(infinite)[0])
            names = getattr(self, "feature_names_in_", None)
            shown = f"column {column}" if names is None else f"column {names[column]!r}"
            raise InputError(
                f"X holds an infinity in {shown}, row {row} (both from 0); NaN is allowed, inf is not"
            )
        return features
