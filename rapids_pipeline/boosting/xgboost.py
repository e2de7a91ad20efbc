"""The `xgboost` engine: one tree structure a round with a vector in every leaf (`multi_output_tree`).

Its trees become a `TreeEnsemble`: XGBoost sends x < c left, which for float32 is x ≤ (the float32 below c), and NaN by
a direction of each node's own. Bins are XGBoost's own quantile sketch. It has no smallest leaf for vector leaves
(`min_child_weight` there only sets the leaf to zero), so `min_samples_leaf` above 1 is refused.

On a GPU vector leaves need XGBoost 3.2. Where there is none, XGBoost warns and trains on the CPU; here that is refused.

Source: XGBoost documentation, "Multiple outputs", https://xgboost.readthedocs.io/en/stable/tutorials/multioutput.html
"""

import json
import warnings
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.boosting.training import (
    Floats,
    Settings,
    Trained,
    Watch,
    Weights,
    in_units_of_the_largest,
    rescaled,
)
from rapids_pipeline.boosting.trees import TreeEnsemble, placed

REMEDY = "this engine needs XGBoost: pip install 'rapids-perturb[cpu]'"
CUDA_REMEDY = (
    "pip install 'xgboost>=3.2' in place of xgboost-cpu, on a machine with an NVIDIA driver, "
    "or use device='cpu'"
)
FIRST_ON_CUDA = (3, 2)
"""The first version that grows trees with vector leaves on a GPU (its release notes)."""


def require_xgboost() -> None:
    """Raise UnavailableError where XGBoost is not installed."""
    if find_spec("xgboost") is None:
        raise UnavailableError(REMEDY)


def fit(
    X: Floats,
    Y: Floats,
    settings: Settings,
    watch: Watch,
    validation: tuple[Floats, Floats] | None = None,
    weights: Weights | None = None,
) -> Trained:
    """Grow trees on `X` (n, p), NaN allowed, and `Y` (n, d), both float32, of `weights` (n,) above 0.

    Raises
    ------
    UnavailableError
        XGBoost is not installed, or cannot use the GPU that was asked for.
    InputError
        `min_samples_leaf` is above 1.
    """
    require_xgboost()
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
    trees = [_Tree.read(tree, n_outputs) for tree in learner["gradient_booster"]["model"]["trees"]]
    children, node_offset, leaf_offset = placed([tree.children for tree in trees])
    condition = np.concatenate([tree.condition for tree in trees])
    return TreeEnsemble(
        feature=np.concatenate([tree.feature for tree in trees]),
        threshold=np.nextafter(condition, np.float32(-np.inf)),
        nan_left=np.concatenate([tree.nan_left for tree in trees]),
        children=children,
        gain=np.concatenate([tree.gain for tree in trees]),
        node_offset=node_offset,
        leaf_offset=leaf_offset,
        leaves=np.concatenate([tree.leaves for tree in trees]),
        base=base,
        n_features=n_features,
    )


@dataclass(frozen=True)
class _Tree:
    """One tree, its inner nodes in preorder, so that a child stands after its parent."""

    feature: NDArray[np.int32]
    condition: Floats
    nan_left: NDArray[np.bool_]
    children: NDArray[np.int32]
    gain: Floats
    leaves: Floats

    @classmethod
    def read(cls, tree: dict[str, Any], n_outputs: int) -> "_Tree":
        """Read a tree of XGBoost's JSON model: of one output (leaves among the conditions), or with vector leaves."""
        left, right = (np.array(tree[f"{side}_children"], dtype=np.int64) for side in ("left", "right"))
        inner: list[int] = []
        ends: list[int] = []
        waiting = [0]
        while waiting:
            node = waiting.pop()
            (ends if left[node] < 0 else inner).append(node)
            waiting += [int(right[node]), int(left[node])] if left[node] >= 0 else []
        place = np.zeros(len(left), dtype=np.int64)
        place[inner] = np.arange(len(inner))
        place[ends] = -1 - np.arange(len(ends))
        children = np.stack([place[left[inner]], place[right[inner]]], axis=1)
        conditions = np.array(tree["split_conditions"], dtype=np.float32)
        if "leaf_weights" in tree:
            leaves = np.array(tree["leaf_weights"], dtype=np.float32).reshape(-1, n_outputs)[right[ends]]
        else:
            leaves = conditions[ends][:, None]
        return cls(
            np.array(tree["split_indices"], dtype=np.int32)[inner],
            conditions[inner],
            np.array(tree["default_left"], dtype=np.bool_)[inner],
            children.astype(np.int32).reshape(-1, 2),
            np.array(tree["loss_changes"], dtype=np.float32)[inner],
            leaves,
        )
