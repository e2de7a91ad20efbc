"""`MultiOutputBooster`: a thin scikit-learn estimator over the boosting engines."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.boosting.registry import engine


class MultiOutputBooster(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Gradient boosting of trees with a vector in every leaf, squared error, all outputs at once.

    Each round grows one tree for all d outputs; a split's gain is the sum over outputs of the usual
    second-order gain G²/(n + λ), and a leaf holds −lr · ΣG/(n + λ).

    Parameters
    ----------
    n_estimators : int
        Trees.
    learning_rate : float
        lr, in (0, 1].
    max_depth : int
    colsample : float
        Share of the columns each tree may split on.
    reg_lambda : float
        λ, added to the row count of a node.
    max_bins : int
        Quantile bins a column is cut into.
    engine : str
        A name in `rapids_pipeline.boosting.registry.ENGINES`.
    random_state : int
        Seed of the column sampling.
    device : {"cpu", "cuda"}
    n_jobs : int
        Threads of one fit on a CPU.

    Attributes
    ----------
    model_ : object
        The engine's own model.
    n_features_in_ : int
    """

    model_: Any

    def __init__(
        self,
        *,
        n_estimators: int = 100,
        learning_rate: float = 0.1,
        max_depth: int = 4,
        colsample: float = 0.4,
        reg_lambda: float = 1.0,
        max_bins: int = 32,
        engine: str = "xgboost",
        random_state: int = 0,
        device: DeviceName = "cpu",
        n_jobs: int = 1,
    ) -> None:
        self.n_estimators = n_estimators
        self.learning_rate = learning_rate
        self.max_depth = max_depth
        self.colsample = colsample
        self.reg_lambda = reg_lambda
        self.max_bins = max_bins
        self.engine = engine
        self.random_state = random_state
        self.device = device
        self.n_jobs = n_jobs

    def fit(self, X: ArrayLike, Y: ArrayLike) -> Self:
        """Train on `X` (n_samples, n_features) and `Y` (n_samples, n_outputs)."""
        validated: Any = validate_data(self, X, Y, multi_output=True, dtype=np.float32)
        self.model_ = engine(self.engine).fit(
            validated[0],
            np.asarray(validated[1], dtype=np.float32),
            n_estimators=self.n_estimators,
            learning_rate=self.learning_rate,
            max_depth=self.max_depth,
            colsample=self.colsample,
            reg_lambda=self.reg_lambda,
            max_bins=self.max_bins,
            seed=self.random_state,
            device=self.device,
            n_jobs=self.n_jobs,
        )
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float32]:
        """Return (n_samples, n_outputs) float32 predictions."""
        check_is_fitted(self)
        validated: Any = validate_data(self, X, dtype=np.float32, reset=False)
        return np.asarray(engine(self.engine).predict(self.model_, validated))
