"""What the boosting benchmarks solve: simulated rows of any size, and the folds of lincs_lung."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from features.molecules.morgan import MorganEncoder
from features.reduction import TruncatedSVD
from features.target_encoders import LeaveOneOutEncoder
from rapids_pipeline.backend.arrays import Float32
from rapids_pipeline.evaluation.splits import random_folds
from rapids_pipeline.stack.target_space import TargetSpace

ROWS, COLUMNS, OUTPUTS, HELD_OUT = 700, 300, 45, 300
RATE, N_FOLDS = 0.1, 5


def simulated(n: int, p: int = COLUMNS, d: int = OUTPUTS, seed: int = 0) -> tuple[Float32, Float32]:
    """Return normal features and targets that depend on 40 of them, in lines and steps, plus noise."""
    rng, weights = np.random.default_rng(seed), np.random.default_rng(1000 + d)
    X = rng.normal(size=(n, p)).astype(np.float32)
    lines, steps = X[:, : min(20, p)], np.sign(X[:, min(20, p - 1) : 40])
    signal = lines @ weights.normal(size=(lines.shape[1], d))
    signal += steps @ weights.normal(size=(steps.shape[1], d))
    return X, (signal + 3 * rng.normal(size=(n, d))).astype(np.float32)


def lung_folds(folder: Path, seed: int) -> Iterator[tuple[Float32, Float32, Float32, Float32]]:
    """Leave-one-out encodings and Morgan components of lincs_lung: training and held-out features and scores."""
    frame = pd.read_parquet(folder / "lincs_lung" / "de_train.parquet")
    Y, folds = frame.iloc[:, 5:].to_numpy(np.float32), random_folds(len(frame), N_FOLDS, seed)
    bits = MorganEncoder().transform(frame["SMILES"])
    for k in range(N_FOLDS):
        inside, outside = np.flatnonzero(folds != k), np.flatnonzero(folds == k)
        space, molecules = TargetSpace(OUTPUTS), TruncatedSVD(OUTPUTS).fit(bits[inside])
        scores = space.components_for(Y[inside])
        encoders = {name: LeaveOneOutEncoder() for name in ("cell_type", "sm_name")}
        training = [e.fit_transform(frame[name].iloc[inside], scores) for name, e in encoders.items()]
        held_out = [e.transform(frame[name].iloc[outside]) for name, e in encoders.items()]
        yield (
            np.hstack([*training, molecules.transform(bits[inside])]),
            scores,
            np.hstack([*held_out, molecules.transform(bits[outside])]),
            space.transform(Y[outside]),
        )
