"""The `xgboost` engine: one tree structure a round with a vector in every leaf (`multi_output_tree`).

Source: XGBoost documentation, "Multiple outputs", https://xgboost.readthedocs.io/en/stable/tutorials/multioutput.html
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.errors import UnavailableError


def fit(
    X: NDArray[np.float32],
    Y: NDArray[np.float32],
    *,
    n_estimators: int,
    learning_rate: float,
    max_depth: int,
    colsample: float,
    reg_lambda: float,
    max_bins: int,
    seed: int,
    device: DeviceName,
    n_jobs: int,
) -> Any:
    """Train `n_estimators` trees on `X` (n, p) and `Y` (n, d) and return XGBoost's Booster.

    Raises
    ------
    UnavailableError
        XGBoost is not installed.
    """
    try:
        import xgboost
    except ImportError as error:
        raise UnavailableError("boosting needs XGBoost: pip install 'rapids-perturb[cpu]'") from error
    parameters = {
        "tree_method": "hist",
        "multi_strategy": "multi_output_tree",
        "objective": "reg:squarederror",
        "learning_rate": learning_rate,
        "max_depth": max_depth,
        "max_bin": max_bins,
        "colsample_bytree": colsample,
        "reg_lambda": reg_lambda,
        "min_child_weight": 1,
        "seed": seed,
        "device": device,
        "nthread": n_jobs,
    }
    data = xgboost.QuantileDMatrix(X, Y, max_bin=max_bins, nthread=n_jobs)
    return xgboost.train(parameters, data, num_boost_round=n_estimators)


def predict(model: Any, X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the model's predictions for `X` (n, p), float32 (n, d)."""
    predicted = np.asarray(model.inplace_predict(X), dtype=np.float32)
    return predicted.reshape(len(X), -1)
