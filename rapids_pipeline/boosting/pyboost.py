r"""The `pyboost` engine: Py-Boost 0.5.2 on an NVIDIA GPU, its trees converted into ours.

The same gain and leaf as every engine's, Σ over outputs of G²/(n + λ) and learning_rate · T/(n + λ), by histograms.

`parameters` says what each parameter is called there. Where it differs from `exact`:

- Bins are the same. NaN has a bin below all numbers, but goes left or right, whichever gains more; left where equal or
  where a node has none.
- With weights it takes the rows of a leaf to be its share of the weight, so min_samples_leaf above 1 is refused there
  and 1 is given as 0.
- Gains are float32 sums from histograms, some of them differences of histograms. So a split is the best to within
  rounding, a node of equal rows may be split on rounding errors, and equal gains go to the first column, lowest border.
- Atomic additions in any order: the same seed draws the same columns and rows, but bits can differ from run to run.
- Targets are not scaled: gains of values above about 1e18 overflow. Rows are counted in float32: at most 2^24.
- A tree grows level by level: histograms of 4 bytes · nodes · columns · bins · (outputs + 1), several of them at once.

`py_boost/__init__` imports treelite < 4 and onnxruntime for prediction; cuML needs treelite 4. So Py-Boost is installed
without its dependencies, and its GPU part is imported without running that file. Needed are tqdm and ujson.
The import sets numba's threading layer to "threadsafe" for the process.

Its trained trees become ours exactly and without a GPU:

    prediction(x) = base_score + Σ_steps values[leaf that x reaches]         float32, in order

The nodes of a step are rows of four float32, `test_format`:

    ±(feature + 1), threshold, left, right         left, right: a node c ≥ 0, or leaf −1 − c where c < 0

x goes right if x > threshold. NaN goes right where the first number is positive and left where it is negative (so the
kernel, `comp_float`, and `Tree.reformat`; the docstring of `Tree` has it the other way round). A tree without splits
is a node whose children are both leaf 0. Leaf values include the learning rate. One group of outputs has one tree; the
default `target_splitter="Single"` makes one group.

Source: Py-Boost 0.5.2, `py_boost/gpu/tree.py` (`Tree`, `Tree.reformat`) and `py_boost/gpu/utils.py`
(`generic_tree_prediction_leaves_kernel`, `tree_prediction_values_kernel`).
"""

import logging
import sys
from dataclasses import replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, module_from_spec
from typing import Any

import numpy as np

from rapids_pipeline.backend.arrays import Float32, Float64
from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.boosting.engines import (
    Settings,
    Trained,
    Watch,
    in_units_of_the_largest,
    rescaled,
    weighted_mean,
)
from rapids_pipeline.boosting.trees import Tree, TreeEnsemble

VERSION = "0.5.2"
REMEDY = (
    f"engine 'pyboost' needs an NVIDIA GPU with its driver, cupy (pip install '.[gpu-cu13]'), "
    f"and pip install --no-deps py-boost=={VERSION} treelite_runtime==3.9.1 (docs/guide/install.md)"
)
DEEPEST, MOST_ROWS = 16, 1 << 24


def why_unavailable() -> str | None:
    """Return None where the engine can run, otherwise one clause that says what is missing."""
    try:
        found = version("py-boost")
    except PackageNotFoundError:
        return "py-boost is not installed"
    if found != VERSION:
        return f"py-boost {found} is installed, and the trees of {VERSION} are the ones that can be read"
    missing = [name for name in ("cupy", "tqdm", "ujson") if find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed"
    try:
        import cupy

        count = int(cupy.cuda.runtime.getDeviceCount())
    except Exception as error:  # a broken CUDA installation fails in many ways, never only ImportError
        return f"no CUDA device can be reached ({_first_line(error)})"
    return None if count > 0 else "the driver shows no CUDA device"


def require() -> None:
    """Raise UnavailableError where Py-Boost 0.5.2, cupy or a GPU is missing."""
    obstacle = why_unavailable()
    if obstacle is not None:
        raise UnavailableError(f"{obstacle}; {REMEDY}")


def fit(
    X: Float32,
    Y: Float32,
    settings: Settings,
    watch: Watch,
    validation: tuple[Float32, Float32] | None = None,
    weights: Float64 | None = None,
) -> Trained:
    """Grow trees on `X` (n, p), NaN allowed, and `Y` (n, d), both float32 on the host, of `weights` (n,) above 0.

    Raises
    ------
    InputError
        `max_depth` or the number of rows is above what Py-Boost can do, or `min_samples_leaf` is, with weights.
    UnavailableError
        Py-Boost cannot run here, or stops with an error of its own, such as too little memory.
    """
    require()
    if settings.max_depth > DEEPEST:
        raise InputError(f"engine 'pyboost' takes a max_depth of at most {DEEPEST}, not {settings.max_depth}")
    if len(X) > MOST_ROWS:
        raise InputError(f"engine 'pyboost' takes at most {MOST_ROWS:,} rows, not {len(X):,}")
    if weights is not None and settings.min_samples_leaf > 1:
        raise InputError(
            "engine 'pyboost' does not count the rows of a leaf where rows have weights; use min_samples_leaf=1"
        )
    weights, settings, exponent = in_units_of_the_largest(weights, settings)
    follower = Follower(watch)
    given = parameters(settings, len(X), X.shape[1]) | {"callbacks": [follower]}
    model = library("boosting").GradientBoosting(**given)
    model.params["debug"] = True  # keeps the gain of every split
    if weights is not None:
        model.params |= {"loss": _loss_from(weighted_mean(Y, weights)), "min_data_in_leaf": 0}
    held_out = [] if validation is None else [dict(zip(("X", "y"), map(writable, validation), strict=True))]
    try:
        model.fit(writable(X), writable(Y), sample_weight=weights, eval_sets=held_out)
    except Exception as error:  # its assertions, cupy's and CUDA's errors have no common class
        if error is follower.error:
            raise
        raise UnavailableError(_as_one_line(error)) from error
    trees = converted(model)
    return watch.trained(replace(trees, gain=rescaled(trees.gain, exponent)))


def _loss_from(base: Float32) -> Any:
    """Return Py-Boost's squared error, which starts from `base`."""
    import cupy

    loss = library("losses").MSELoss()
    loss.base_score = lambda _: cupy.asarray(base)
    return loss


def parameters(settings: Settings, n_rows: int, n_columns: int) -> dict[str, Any]:
    """Return Py-Boost's parameters of a fit, but for the callbacks."""
    return {
        "loss": "mse",
        "ntrees": settings.n_estimators,
        "lr": settings.learning_rate,
        "max_depth": settings.max_depth,  # it keeps room for 2^(max_depth + 1) nodes a tree
        "min_data_in_leaf": settings.min_samples_leaf
        - 0.5,  # its test is "rows > min_data_in_leaf", in float32
        "colsample": _share(settings.colsample, n_columns),
        "subsample": _share(settings.subsample, n_rows),
        "lambda_l2": settings.reg_lambda,
        "min_gain_to_split": 0,
        "gd_steps": 1,
        "use_hess": False,  # each row counts 1; True gives the same trees with twice the histograms
        "quantization": "Quantile",
        "quant_sample": None,  # its own draws 2,000,000 rows
        "max_bin": settings.max_bins,
        "es": 0,  # our `Watch` scores the validation rows and says when to stop
        "seed": settings.seed,  # of cupy's global generator
        "verbose": -1,  # 0 divides by zero
    }


class Follower:
    """The callback that Py-Boost runs after every tree: scores the validation rows and asks the `Watch`."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.error: Exception | None = None

    def before_train(self, build_info: dict[str, Any]) -> None:
        """Do nothing."""

    before_iteration = after_train = before_train

    def after_iteration(self, build_info: dict[str, Any]) -> bool:
        """Say whether that was the last tree; an error of the listener is kept, so that `fit` lets it pass."""
        held_out = build_info["data"]["valid"]
        score = None
        if held_out["target"]:
            difference = held_out["ensemble"][0].astype(np.float64) - held_out["target"][0]
            score = float((difference**2).mean()) ** 0.5
        try:
            return self.watch.stops_after(score)
        except Exception as error:
            self.error = error
            raise


def converted(model: Any) -> TreeEnsemble:
    """Return the trees of a trained model of squared error; its arrays are moved to the host.

    Raises
    ------
    InputError
        Its numbers are not finite: targets so large that their squares overflow.
    """
    model.to_cpu()
    base, n_features = (
        np.array(model.base_score, dtype=np.float32),
        len(model.models[0].feature_importance_split),
    )
    found = TreeEnsemble.of([_tree(step) for step in model.models], base, n_features)
    for name in ("leaves", "base", "gain"):
        if not np.isfinite(getattr(found, name)).all():
            raise InputError(
                f"the Py-Boost model holds no usable trees: {name} has values that are not finite"
            )
    return found


def _tree(step: Any) -> Tree:
    """Return a `py_boost.gpu.tree.Tree` of one group of outputs, after its `reformat` and on the host, as ours."""
    nodes = np.asarray(step.test_format, dtype=np.float32).reshape(-1, 4)
    links, first = nodes[:, 2:].astype(np.int64), nodes[:, 0].astype(np.int64)
    gain = np.zeros(len(nodes), dtype=np.float32)
    kept = step.gains[0][step.feats[0] >= 0]
    gain[: len(kept)] = kept
    root = -1 if links[0, 0] == links[0, 1] else 0
    values = np.asarray(step.values, dtype=np.float32)
    return Tree.ordered(root, links, np.abs(first) - 1, nodes[:, 1], first < 0, gain, values)


def library(module: str) -> Any:
    """Import `py_boost.gpu.<module>` without running `py_boost/__init__` (see the module's docstring)."""
    package, wanted = "py_boost", f"py_boost.gpu.{module}"
    if wanted in sys.modules or package in sys.modules:
        return import_module(wanted)
    spec = find_spec(package)
    if spec is None:
        raise UnavailableError(REMEDY)
    bare: Any = module_from_spec(spec)
    bare._logger = logging.getLogger(package)
    sys.modules[package] = bare
    try:
        return import_module(wanted)
    except ImportError as error:
        raise UnavailableError(f"py-boost cannot be imported ({_first_line(error)}); {REMEDY}") from error
    finally:
        del sys.modules[package]


def writable(values: Float32) -> Float32:
    """Return the values as float32 by rows in an array that may be written to; its quantiser takes no other."""
    return np.require(values, np.float32, ("C", "W"))


def _share(share: float, count: int) -> float:
    """Return what makes Py-Boost, which draws int(share · count), draw round(share · count), at least one."""
    chosen = max(1, round(share * count))
    return 1.0 if chosen >= count else (chosen + 0.5) / count


def _first_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _as_one_line(error: Exception) -> str:
    if type(error).__name__ == "OutOfMemoryError":
        return (
            "Py-Boost needs more memory than the GPU has: lower max_depth, max_bins or colsample "
            f"({_first_line(error)})"
        )
    return f"Py-Boost stopped: {_first_line(error)}"
