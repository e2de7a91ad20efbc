"""Quality on real responses: the exact engine beside XGBoost's vector leaves, everything else equal."""

from itertools import islice

import numpy as np
import pytest

from benchmarks.boosting.problem import lung_folds
from rapids_pipeline.boosting import MultiOutputBooster

pytest.importorskip("xgboost")


def test_exact_splits_predict_as_well_as_xgboost_with_the_same_bins_depth_trees_and_rate(shared_data):
    pytest.importorskip("rdkit")
    options = {"n_estimators": 20, "max_depth": 4, "max_bins": 32, "learning_rate": 0.15, "colsample": 1.0}
    squares = {"exact": [], "xgboost": []}
    zero = []
    for X, Y, X_test, Y_test in islice(lung_folds(shared_data, 0), 2):
        for engine, errors in squares.items():
            model = MultiOutputBooster(engine=engine, **options).fit(X, Y)
            errors.append(np.mean((model.predict(X_test) - Y_test) ** 2))
        zero.append(np.mean((Y.mean(axis=0) - Y_test) ** 2))
    exact, theirs, mean = (np.sqrt(np.mean(errors)) for errors in (*squares.values(), zero))
    assert exact <= 1.01 * theirs
    assert exact < 0.95 * mean  # and both have learnt something
