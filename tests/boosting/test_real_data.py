"""Quality on real responses: the exact engine beside XGBoost's vector leaves, everything else equal."""

import numpy as np
import pandas as pd
import pytest

from features.molecules.morgan import MorganEncoder
from features.reduction import TruncatedSVD
from features.targets.encoders import LeaveOneOutEncoder
from rapids_pipeline.boosting import MultiOutputBooster
from rapids_pipeline.evaluation.splits import random_folds
from rapids_pipeline.stack.target_space import TargetSpace

pytest.importorskip("xgboost")

N_FOLDS = 5


def folds_of(frame):
    """Training and held-out features and component scores of each fold; nothing fitted sees the held-out rows."""
    Y, folds = frame.iloc[:, 5:].to_numpy(np.float32), random_folds(len(frame), N_FOLDS, 0)
    bits = MorganEncoder().transform(frame["SMILES"])
    for k in range(N_FOLDS):
        inside, outside = np.flatnonzero(folds != k), np.flatnonzero(folds == k)
        space = TargetSpace(45)
        scores = space.components_for(Y[inside])
        molecules = TruncatedSVD(45).fit(bits[inside])
        encoders = {name: LeaveOneOutEncoder() for name in ("cell_type", "sm_name")}
        training = [e.fit_transform(frame[name].iloc[inside], scores) for name, e in encoders.items()]
        held_out = [e.transform(frame[name].iloc[outside]) for name, e in encoders.items()]
        yield (
            np.hstack([*training, molecules.transform(bits[inside])]),
            scores,
            np.hstack([*held_out, molecules.transform(bits[outside])]),
            space.transform(Y[outside]),
        )


def test_exact_splits_predict_as_well_as_xgboost_with_the_same_bins_depth_trees_and_rate(shared_data):
    pytest.importorskip("rdkit")
    frame = pd.read_parquet(shared_data / "lincs_lung" / "de_train.parquet")
    options = {"n_estimators": 20, "max_depth": 4, "max_bins": 32, "learning_rate": 0.15, "colsample": 1.0}
    squares = {"exact": [], "xgboost": []}
    zero = []
    for X, Y, X_test, Y_test in folds_of(frame):
        for engine, errors in squares.items():
            model = MultiOutputBooster(engine=engine, **options).fit(X, Y)
            errors.append(np.mean((model.predict(X_test) - Y_test) ** 2))
        zero.append(np.mean((Y.mean(axis=0) - Y_test) ** 2))
    exact, theirs, mean = (np.sqrt(np.mean(errors)) for errors in (*squares.values(), zero))
    assert exact <= 1.01 * theirs
    assert exact < 0.95 * mean  # and both have learnt something
