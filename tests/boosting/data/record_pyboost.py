"""Record `pyboost.npz`: models that Py-Boost 0.5.2 itself trained, as arrays, with its own predictions.

Made on a CPU, 2026-11-23: Py-Boost's Python code and its kernels, word for word, ran on `cupy_on_cpu` (g++, numpy 2.4,
numba 0.68).

    pip install --no-deps py-boost==0.5.2 tqdm ujson numba
    python tests/boosting/data/record_pyboost.py

For every model: the rows X (some exactly at thresholds, some a float32 beside them, some NaN), `predicted`, and what
its `Tree` objects hold after `reformat(debug=True)`.
"""

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))

from rapids_pipeline.boosting.pyboost import library  # noqa: E402
from tests.boosting import cupy_on_cpu  # noqa: E402

ARRAYS = """test_format test_format_offsets values group_index feature_importance_gain feature_importance_split
gains feats val_splits split nans leaves""".split()
COMMON = {"lr": 0.3, "quant_sample": None, "use_hess": False, "es": 0, "verbose": -1, "seed": 3}


def problem(n=150, p=5, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)).astype(np.float32)
    X[:, 1] = np.round(X[:, 1])
    X[rng.random(X.shape) < 0.15] = np.nan
    known = np.nan_to_num(X)
    Y = np.stack([known[:, 0] > 0, known[:, 1] * known[:, 2], np.isnan(X[:, 3]), known[:, 4]], axis=1)
    return X, (Y + 0.1 * rng.normal(size=Y.shape)).astype(np.float32)


def rows_near(models, p, rng):
    """Return random rows with NaN, and rows at and beside the thresholds of the models' nodes."""
    X = rng.normal(size=(200, p)).astype(np.float32)
    thresholds = [(t.feats[t.feats >= 0], t.val_splits[t.feats >= 0]) for t in models]
    feature, border = (np.concatenate(part) for part in zip(*thresholds, strict=True))
    for row in range(120 if len(feature) else 0):
        at = rng.integers(len(feature))
        direction = np.float32(rng.choice([-np.inf, np.inf]))
        beside = np.nextafter(border[at], direction) if row % 2 else border[at]
        X[row, feature[at]] = beside if np.isfinite(beside) else 0
    X[rng.random(X.shape) < 0.1] = np.nan
    return X


def models():
    X, Y = problem()
    with cupy_on_cpu.installed():
        boosting = library("boosting").GradientBoosting
        options = {"max_depth": 6, "min_data_in_leaf": 0.5, "debug": True, **COMMON}
        yield "plain", boosting("mse", ntrees=6, colsample=0.7, subsample=0.8, **options).fit(X, Y)
        yield "stumps", boosting("mse", ntrees=2, **options).fit(X, Y * 0 + 2)


def main():
    recorded = {}
    for name, model in models():
        X = rows_near(model.models, model.nfeats, np.random.default_rng(1))
        recorded |= {f"{name}/X": X, f"{name}/predicted": np.asarray(model.predict(X))}
        model.to_cpu()
        recorded[f"{name}/base_score"] = np.asarray(model.base_score)
        for step, tree in enumerate(model.models):
            recorded |= {f"{name}/{step}/{array}": np.asarray(getattr(tree, array)) for array in ARRAYS}
    np.savez_compressed(HERE / "pyboost.npz", **recorded)


if __name__ == "__main__":
    main()
