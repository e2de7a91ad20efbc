"""The `xgboost` engine: one tree structure a round with a vector in every leaf (`multi_output_tree`).

Its trees become a `TreeEnsemble`: XGBoost sends x < c left, which for float32 is x ≤ (the float32 below c), and NaN by
a direction of each node's own. It has no smallest leaf for vector leaves (`min_child_weight` there only sets the leaf
to zero), so `min_samples_leaf` above 1 is refused.

Bins are XGBoost's own quantile sketch, in which rows count by their weight. It is exact for a column of at most
8 · `max_bins` different values. There a row of weight 2 gives the trees of the row twice, to the rounding of float32.
Columns of more values are summarised, and the borders of their bins depend on the number of rows as well.

On a GPU vector leaves need XGBoost 3.2. Where there is none, XGBoost warns and trains on the CPU; here that is refused.

Source: XGBoost documentation, "Multiple outputs", https://xgboost.readthedocs.io/en/stable/tutorials/multioutput.html
"""

import json
import warnings
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from rapids_pipeline.backend.arrays import Float32, Float64
from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.boosting.engines import Settings, Trained, Watch, in_units_of_the_largest, rescaled
from rapids_pipeline.boosting.trees import Tree, TreeEnsemble

REMEDY = "this engine needs XGBoost: pip install '.[cpu]'"
CUDA_REMEDY = (
    "pip install 'xgboost>=3.2' in place of xgboost-cpu, on a machine with an NVIDIA driver, "
    "or use device='cpu'"
)
FIRST_ON_CUDA = (3, 2)
"""The first version that grows trees with vector leaves on a GPU (its release notes)."""


def require() -> None:
    """Raise UnavailableError where XGBoost is not installed."""
    if find_spec("xgboost") is None:
        raise UnavailableError(REMEDY)


def fit(
    X: Float32,
    Y: Float32,
    settings: Settings,
    watch: Watch,
    validation: tuple[Float32, Float32] | None = None,
    weights: Float64 | None = None,
) -> Trained:
    """Grow trees on `X` (n, p), NaN allowed, and `Y` (n, d), both float32, of `weights` (n,) above 0.

    Raises
    ------
    UnavailableError
        XGBoost is not installed, or cannot use the GPU that was asked for.
    InputError
        `min_samples_leaf` is above 1.
    """
    require()
    import xgboost

    if settings.min_samples_leaf > 1:
        raise InputError(
            "engine 'xgboost' has no min_samples_leaf for vector leaves; use engine='exact', or 1"
        )

    weights, settings, exponent = in_units_of_the_largest(weights, settings)
    options = {"max_bin": settings.max_bins, "nthread": settings.n_jobs}
    data = xgboost.QuantileDMatrix(X, Y, weight=weights, **options)
    if settings.device == "cuda":
        require_cuda(parameters(settings), data)
    held_out = (
        []
        if validation is None
        else [(xgboost.QuantileDMatrix(*validation, ref=data, **options), "validation")]
    )
    booster = xgboost.train(
        parameters(settings),
        data,
        num_boost_round=settings.n_estimators,
        evals=held_out,
        callbacks=[_listener(watch)],
        verbose_eval=False,
    )
    trees = converted(booster, X.shape[1], Y.shape[1])
    return watch.trained(replace(trees, gain=rescaled(trees.gain, exponent)))


def require_cuda(parameters: dict[str, Any], data: Any) -> None:
    """Raise UnavailableError where XGBoost would train on the CPU instead, or has no vector leaves on a GPU."""
    import xgboost

    found = tuple(int(part) for part in xgboost.__version__.split(".")[:2])
    if found < FIRST_ON_CUDA:
        raise UnavailableError(f"XGBoost {xgboost.__version__} has no vector leaves on a GPU; {CUDA_REMEDY}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "Device is changed from GPU to CPU": refused instead
        booster = xgboost.Booster(parameters, [data])
        device = json.loads(booster.save_config())["learner"]["generic_param"]["device"]
    if not device.startswith("cuda"):
        why = "finds no CUDA device" if xgboost.build_info().get("USE_CUDA") else "is built without CUDA"
        raise UnavailableError(f"this XGBoost {why}; {CUDA_REMEDY}")


def _listener(watch: Watch) -> Any:
    """Return the callback that tells the `Watch` of every tree and stops when it says so."""
    import xgboost

    class Listener(xgboost.callback.TrainingCallback):
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            scores = evals_log.get("validation", {}).get("rmse")
            return watch.stops_after(float(scores[-1]) if scores else None)

    return Listener()


def parameters(settings: Settings) -> dict[str, Any]:
    """Return XGBoost's parameters of a fit."""
    return {
        "tree_method": "hist",
        "multi_strategy": "multi_output_tree",
        "objective": "reg:squarederror",
        "learning_rate": settings.learning_rate,
        "max_depth": settings.max_depth,
        "max_bin": settings.max_bins,
        "colsample_bytree": settings.colsample,
        "subsample": settings.subsample,
        "reg_lambda": settings.reg_lambda,
        "min_child_weight": 0,
        "seed": settings.seed,
        "device": settings.device,
        "nthread": settings.n_jobs,
    }


def converted(booster: Any, n_features: int, n_outputs: int) -> TreeEnsemble:
    """Return the trees of an XGBoost model with vector leaves (or one output) as ours."""
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    base = np.atleast_1d(np.array(json.loads(learner["learner_model_param"]["base_score"]), dtype=np.float32))
    base = np.broadcast_to(base, n_outputs).copy()
    trees = [_tree(tree, n_outputs) for tree in learner["gradient_booster"]["model"]["trees"]]
    return TreeEnsemble.of(trees, base, n_features)


def _tree(tree: dict[str, Any], n_outputs: int) -> Tree:
    """Read a tree of XGBoost's JSON model: of one output (leaves among the conditions), or with vector leaves."""
    left, right = (np.array(tree[f"{side}_children"], dtype=np.int64) for side in ("left", "right"))
    conditions = np.array(tree["split_conditions"], dtype=np.float32)
    if (
        "leaf_weights" in tree
    ):  # a leaf has no left child, and in place of its right child its row of the weights
        leaves, row = np.array(tree["leaf_weights"], dtype=np.float32).reshape(-1, n_outputs), right
    else:
        leaves, row = conditions[:, None], np.arange(len(left))
    named = np.where(left >= 0, np.arange(len(left)), -1 - row)
    return Tree.ordered(
        int(named[0]),
        named[np.stack([left, right], axis=1)],
        tree["split_indices"],
        np.nextafter(conditions, np.float32(-np.inf)),
        np.array(tree["default_left"], dtype=np.bool_),
        np.array(tree["loss_changes"], dtype=np.float32),
        leaves,
    )
