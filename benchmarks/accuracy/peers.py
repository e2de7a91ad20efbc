"""The rivals of `make bench-accuracy`: libraries as a competent user takes them, (training, pairs) → predictions.

They all see one-hot cell type, one-hot compound and Morgan fingerprint (1,024 bits), the bits as they are
(`bits = "raw"`) or scaled to length 1 in each row (`"unit"`), whichever served the peer better. What no pair shares
with the training rows is left out, and folds for choosing penalties are dealt as the pairs are new (`folds_like`). The
settings in `PEERS` were set on training rows of lincs_lung, never on test rows.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.preprocessing import OneHotEncoder

from benchmarks.harness import cores
from features.molecules.morgan import MorganEncoder
from features.reduction import TruncatedSVD
from features.target_encoders import LeaveOneOutEncoder
from rapids_pipeline.backend.arrays import Float32, Float64, Indices
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.evaluation.splits import group_folds, random_folds, same_compound

Fit = Callable[[PerturbationData, pd.DataFrame, dict[str, Any]], Float32]

LEVELS = ("cell_type", "sm_name")
FOLDS = 5


@dataclass(frozen=True)
class Peer:
    """A rival: what it is, the module it needs, its settings, and the function that is given them."""

    fit: Fit
    needs: str
    settings: dict[str, Any]


def threads() -> int:
    """Return how many threads a peer may use: OMP_NUM_THREADS, by default one a core."""
    return int(os.environ.get("OMP_NUM_THREADS") or cores())


def shared_levels(training: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """Return which of cell type and compound at least one pair has in common with training rows."""
    return [
        level for level in LEVELS if pairs[level].astype(str).isin(set(training[level].astype(str))).any()
    ]


def folds_like(training: pd.DataFrame, pairs: pd.DataFrame) -> Indices:
    """Return folds of the training rows that hold out what is new about the pairs, (n,).

    Compounds where no pair's compound is known, cell types where no pair's cell type is, otherwise random rows.
    """
    known = shared_levels(training, pairs)
    if "sm_name" not in known:
        compounds = same_compound(training["sm_name"].to_numpy(str), training["SMILES"].to_numpy(str))
        return group_folds(compounds, FOLDS, 0, "compounds")
    if "cell_type" not in known:
        return np.unique(training["cell_type"].to_numpy(str), return_inverse=True)[1]
    return random_folds(len(training), FOLDS, 0)


def blocks(training: pd.DataFrame, pairs: pd.DataFrame, bits: str) -> tuple[list[Float64], list[Float64]]:
    """Return the blocks of columns of training rows and of pairs: known levels, then the fingerprint, raw or unit.

    An unseen level's row is 0.
    """
    inside, outside = [], []
    for level in shared_levels(training, pairs):
        encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(training[[level]])
        inside.append(encoder.transform(training[[level]]))
        outside.append(encoder.transform(pairs[[level]]))
    for rows, found in ((training, inside), (pairs, outside)):
        B = MorganEncoder().transform(list(rows["SMILES"])).astype(np.float64)
        length = np.linalg.norm(B, axis=1, keepdims=True) if bits == "unit" else 1.0
        found.append(B / np.maximum(length, 1e-12))
    return inside, outside


def kernel_ridge(training: PerturbationData, pairs: pd.DataFrame, settings: dict[str, Any]) -> Float32:
    """himalaya's `KernelRidgeCV`: one kernel of all columns, a penalty for each gene by cross-validation."""
    from himalaya.kernel_ridge import KernelRidgeCV
    from sklearn.model_selection import PredefinedSplit

    X, new = (np.hstack(found) for found in blocks(training.obs, pairs, settings["bits"]))
    model = KernelRidgeCV(
        alphas=np.logspace(*settings["log10_alphas"]),
        kernel=settings["kernel"],
        kernel_params={"gamma": settings["gamma"]} if settings["kernel"] == "rbf" else None,
        solver_params={"n_targets_batch": settings["genes_at_once"]},
        cv=PredefinedSplit(folds_like(training.obs, pairs)),
        fit_intercept=True,
        warn=False,
    )
    return np.asarray(model.fit(X, training.Y.astype(np.float64)).predict(new), dtype=np.float32)


def multiple_kernel_ridge(
    training: PerturbationData, pairs: pd.DataFrame, settings: dict[str, Any]
) -> Float32:
    """himalaya's `MultipleKernelRidgeCV`: weights of the kernels and a penalty for each gene by random search.

    The kernels: same cell type, same compound, an RBF of the fingerprint, and an RBF of all columns together.
    """
    from himalaya.kernel_ridge import MultipleKernelRidgeCV
    from sklearn.model_selection import PredefinedSplit

    inside, outside = blocks(training.obs, pairs, settings["bits"])
    inside.append(np.hstack(inside))
    outside.append(np.hstack(outside))
    model = MultipleKernelRidgeCV(
        kernels="precomputed",
        solver="random_search",
        solver_params={
            "n_iter": settings["draws"],
            "alphas": np.logspace(*settings["log10_alphas"]),
            "n_targets_batch": settings["genes_at_once"],
            "progress_bar": False,
        },
        cv=PredefinedSplit(folds_like(training.obs, pairs)),
        fit_intercept=True,
        random_state=0,
    )
    model.fit(kernels(inside, inside, settings["gamma"]), training.Y.astype(np.float64))
    return np.asarray(model.predict(kernels(outside, inside, settings["gamma"])), dtype=np.float32)


def kernels(rows: list[Float64], others: list[Float64], gamma: float) -> Float64:
    """Return the Gram matrices of blocks, (n_blocks, n, m): levels linear, the last two (with fingerprints) RBF."""
    from sklearn.metrics.pairwise import rbf_kernel

    levels = [A @ B.T for A, B in zip(rows[:-2], others[:-2], strict=True)]
    return np.stack(
        [*levels, *(rbf_kernel(A, B, gamma) for A, B in zip(rows[-2:], others[-2:], strict=True))]
    )


def svr_loop(training: PerturbationData, pairs: pd.DataFrame, settings: dict[str, Any]) -> Float32:
    """scikit-learn's `SVR`, one a gene; the Gram matrix, which is the same for all genes, is computed once."""
    from sklearn.metrics.pairwise import rbf_kernel
    from sklearn.svm import SVR

    X, new = (np.hstack(found) for found in blocks(training.obs, pairs, settings["bits"]))
    gamma = 1 / (X.shape[1] * X.var())  # what gamma="scale" is
    gram, between = rbf_kernel(X, gamma=gamma), rbf_kernel(new, X, gamma=gamma)
    predicted = np.empty((len(pairs), training.Y.shape[1]), dtype=np.float32)
    for gene, y in enumerate(training.Y.T.astype(np.float64)):
        model = SVR(kernel="precomputed", C=settings["C"], epsilon=settings["epsilon"])
        predicted[:, gene] = model.fit(gram, y).predict(between)
    return predicted


def tree_columns(
    training: PerturbationData, pairs: pd.DataFrame, Z: Float32, settings: dict[str, Any]
) -> tuple[Float32, Float32]:
    """Return the boosters' columns: one-hot, leave-one-out encodings of the targets `Z`, SVD of the fingerprint.

    A training row's encoding is made of the other rows of its level, with multiplicative noise (as the published
    pipeline's; without it, trees read a row's own target off its level's members).
    """
    inside, outside = blocks(training.obs, pairs, settings["bits"])
    reduction = TruncatedSVD(settings["fingerprint_components"]).fit(inside[-1])
    inside[-1], outside[-1] = reduction.transform(inside[-1]), reduction.transform(outside[-1])
    for level in shared_levels(training.obs, pairs):
        encoder = LeaveOneOutEncoder(sigma=settings["encoder_sigma"])
        inside.append(encoder.fit_transform(training.obs[level].astype(str), Z))
        outside.append(encoder.transform(pairs[level].astype(str)))
    return tuple(np.hstack(found).astype(np.float32) for found in (inside, outside))


def in_reduced_space(grow: Callable[[Float32, Float32, Float32, dict[str, Any]], Any]) -> Fit:
    """Return a peer that boosts a TruncatedSVD of the targets: `grow` is (X, Z, new X, settings) → new Z."""

    def fit(training: PerturbationData, pairs: pd.DataFrame, settings: dict[str, Any]) -> Float32:
        space = TruncatedSVD(settings["components"]).fit(training.Y)
        Z = np.asarray(space.transform(training.Y))
        X, new = tree_columns(training, pairs, Z, settings)
        found = np.asarray(grow(X, Z, new, settings), dtype=np.float32)
        return np.asarray(space.inverse_transform(found), dtype=np.float32)

    return fit


def xgboost(X: Float32, Z: Float32, new: Float32, settings: dict[str, Any]) -> Any:
    """XGBoost, one tree a round with a vector in every leaf."""
    from xgboost import XGBRegressor

    model = XGBRegressor(
        tree_method="hist", multi_strategy="multi_output_tree", n_jobs=threads(), **settings["parameters"]
    )
    return model.fit(X, Z).predict(new)


def catboost(X: Float32, Z: Float32, new: Float32, settings: dict[str, Any]) -> Any:
    """CatBoost's MultiRMSE: one symmetric tree a round for all outputs."""
    from catboost import CatBoostRegressor

    quiet = {"thread_count": threads(), "verbose": False, "allow_writing_files": False}
    model = CatBoostRegressor(loss_function="MultiRMSE", **quiet, **settings["parameters"])
    return model.fit(X, Z).predict(new)


def predicted(name: str, training: PerturbationData, pairs: pd.DataFrame) -> Float32:
    """Return what a peer predicts, float32, (n_pairs, n_genes)."""
    peer = PEERS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peer.fit(training, pairs, peer.settings)


_XGBOOST = {"n_estimators": 500, "learning_rate": 0.05, "max_depth": 4, "max_bin": 16} | (
    {"colsample_bytree": 0.3, "reg_lambda": 1.0, "random_state": 0}
)
_CATBOOST = {"iterations": 1000, "learning_rate": 0.05, "depth": 6, "border_count": 32} | (
    {"rsm": 0.3, "l2_leaf_reg": 3.0, "random_seed": 0}
)
_COLUMNS = {"bits": "unit", "components": 45, "fingerprint_components": 45, "encoder_sigma": 0.21}

_RIDGE = {"log10_alphas": (-2, 3, 16), "genes_at_once": 500}
_RBF, _RANDOM_SEARCH = (
    {"bits": "raw", "kernel": "rbf", "gamma": 0.03},
    {"bits": "raw", "gamma": 0.03, "draws": 30},
)
_SVR = {"bits": "raw", "C": 1.0, "epsilon": 0.1, "gamma": "scale"}

PEERS: dict[str, Peer] = {
    "himalaya KernelRidgeCV, linear": Peer(
        kernel_ridge, "himalaya", {"bits": "unit", "kernel": "linear", **_RIDGE}
    ),
    "himalaya KernelRidgeCV, RBF": Peer(kernel_ridge, "himalaya", {**_RBF, **_RIDGE}),
    "himalaya MultipleKernelRidgeCV": Peer(
        multiple_kernel_ridge, "himalaya", {**_RANDOM_SEARCH, **_RIDGE, "log10_alphas": (-2, 3, 11)}
    ),
    "scikit-learn SVR loop": Peer(svr_loop, "sklearn", _SVR),
    "XGBoost": Peer(in_reduced_space(xgboost), "xgboost", {**_COLUMNS, "parameters": _XGBOOST}),
    "CatBoost": Peer(in_reduced_space(catboost), "catboost", {**_COLUMNS, "parameters": _CATBOOST}),
}
"""The peers by name."""
