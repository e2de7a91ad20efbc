"""What is fitted to a candidate's columns: every gene's SVR, its ridge regression, or one booster of all genes."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

from features.feature_sets import FeatureSet
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.boosting import MultiOutputBooster
from rapids_pipeline.stack.recipe import BoostingConfig, SvrConfig
from rapids_pipeline.stack.target_space import TargetSpace
from rapids_pipeline.studies.screen.fold_features import FoldFeatures
from rapids_pipeline.svr.engines import fit_on_table
from rapids_pipeline.svr.own_target import estimator as own_target

Matrix = NDArray[np.float32]
ModelName = Literal["svr", "ridge", "boosting"]
Model = Callable[[FoldFeatures, FeatureSet, int], Matrix]

SVR, BOOSTING = SvrConfig(), BoostingConfig()
SVR_ENGINE = "smo"
"""A screen has many fits of few genes: SMO's start is paid once, where "auto" judges single fits."""
PENALTIES = np.logspace(-1, 5, 13)
GENES_AT_ONCE = 2048


def sigma_of(model: ModelName) -> float:
    """Return the noise of leave-one-out encodings that a model is trained with."""
    return BOOSTING.encoder_sigma if model == "boosting" else 0.0


def require_usable(recipe: FeatureSet, model: ModelName, n_genes: int) -> None:
    """Raise InputError where a model cannot take a feature set.

    A table for all genes has no room for columns of each gene's own; only the SVR of several genes can do without one.
    """
    if recipe.own_target and n_genes > 1 and model != "svr":
        raise InputError(
            f"feature set {recipe.name} gives every gene columns of its own: screen it with --model svr, or one gene"
        )
    if recipe.own_target and n_genes > 1:
        own_target.require_usable(recipe)


def svr(features: FoldFeatures, recipe: FeatureSet, number: int) -> Matrix:
    """The SVR of a run's first level: RBF, C = 1, ε = 0.1, gamma="scale"."""
    split, Y = features.splits[number], features.Y
    how: dict[str, Any] = {"C": SVR.C, "epsilon": SVR.epsilon, "tol": SVR.tol, "max_iter": SVR.max_iter}
    if recipe.own_target and Y.shape[1] > 1:
        rows = features.rows.take(split.training), features.rows.take(split.held_out)
        return own_target.fit_predict(recipe, rows[0], Y[split.training], rows[1], seed=features.seed, **how)
    gram = features.gram(recipe, number)
    training = np.arange(len(split.training))
    held_out = np.arange(len(training), len(training) + len(split.held_out))
    fit = fit_on_table(gram, Y[split.training], training, [held_out], engine_name=SVR_ENGINE, **how)
    return np.asarray(fit.predictions[0], dtype=np.float32)


def ridge(features: FoldFeatures, recipe: FeatureSet, number: int) -> Matrix:
    """Ridge regression on standardised columns; every gene's penalty by its own leave-one-out error."""
    split = features.splits[number]
    X, X_held_out = features.columns(recipe, number)
    scaler = StandardScaler().fit(X)
    X, X_held_out = scaler.transform(X), scaler.transform(X_held_out)
    predicted = np.empty((len(X_held_out), features.Y.shape[1]), dtype=np.float32)
    for start in range(0, predicted.shape[1], GENES_AT_ONCE):
        genes = slice(start, start + GENES_AT_ONCE)
        fitted = RidgeCV(PENALTIES, alpha_per_target=True).fit(X, features.Y[split.training, genes])
        predicted[:, genes] = fitted.predict(X_held_out).reshape(len(X_held_out), -1)
    return predicted


def boosting(features: FoldFeatures, recipe: FeatureSet, number: int) -> Matrix:
    """The booster of a run's second level, in the 45 leading components of the genes."""
    split = features.splits[number]
    X, X_held_out = features.columns(recipe, number)
    space = TargetSpace(BOOSTING.n_components)
    scores = space.components_for(features.Y[split.training])
    settings = BOOSTING.model_dump(
        include={
            "n_estimators",
            "learning_rate",
            "max_depth",
            "min_samples_leaf",
            "colsample",
            "subsample",
            "reg_lambda",
            "max_bins",
        }
    )
    booster = MultiOutputBooster(**settings, random_state=features.seed, device="cpu").fit(X, scores)
    return np.asarray(space.inverse_transform(booster.predict(X_held_out)))


MODELS: dict[str, Model] = {"svr": svr, "ridge": ridge, "boosting": boosting}
