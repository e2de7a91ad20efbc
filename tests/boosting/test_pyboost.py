"""The pyboost engine: parameters, refusals, conversion of trees, and Py-Boost's own code on a CPU (GPU: tests/gpu).

On a CPU it needs py-boost and g++ (`cupy_on_cpu`); the tests of the conversion of random trees need neither.
"""

import shutil
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.boosting import pyboost
from rapids_pipeline.boosting.engines import Watch
from rapids_pipeline.boosting.exact import engine as exact
from tests.boosting import cupy_on_cpu
from tests.boosting.naive_trees import DEFAULTS, problem


def settings(**changed):
    return replace(DEFAULTS, **{"n_estimators": 8, "device": "cuda", **changed})


# --- parameters, refusals and what is told ----------------------------------------------------------------------------


@given(st.floats(0.001, 1.0), st.integers(1, 3000))
def test_columns_and_rows_are_drawn_as_many_as_elsewhere(share, count):
    given_share = pyboost._share(share, count)
    assert type(given_share) is float  # Py-Boost asks for the exact type
    drawn = count if given_share == 1.0 else max(1, int(count * given_share))  # BaseSampler.before_train
    assert drawn == max(1, round(share * count))


@pytest.mark.parametrize(
    ("found", "words"), [(None, "py-boost is not installed"), ("0.5.1", "py-boost 0.5.1 is installed")]
)
def test_require_names_the_package(monkeypatch, found, words):
    def version(name):
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(pyboost, "version", version)
    with pytest.raises(UnavailableError, match=words) as caught:
        pyboost.require()
    message = str(caught.value)
    assert "py-boost==0.5.2" in message and "cupy" in message and "driver" in message
    assert "\n" not in message


def test_require_names_cupy(monkeypatch):
    monkeypatch.setattr(pyboost, "version", lambda name: "0.5.2")
    monkeypatch.setattr(pyboost, "find_spec", lambda name: None if name in ("cupy", "ujson") else name)
    with pytest.raises(UnavailableError, match=r"^cupy and ujson not installed; .*NVIDIA"):
        pyboost.require()


@pytest.mark.parametrize("count", [0, RuntimeError("CUDA driver\nversion is insufficient")])
def test_require_names_the_gpu(monkeypatch, count):
    def devices():
        if isinstance(count, Exception):
            raise count
        return count

    fake = cupy_on_cpu.module()
    fake.cuda.runtime.getDeviceCount = devices
    monkeypatch.setattr(pyboost, "version", lambda name: "0.5.2")
    monkeypatch.setattr(pyboost, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    with pytest.raises(UnavailableError, match=r"driver (shows no|version is insufficient)"):
        pyboost.require()


class Stub:
    """A `GradientBoosting` that takes its parameters and does what `does` does."""

    def __init__(self, does):
        self.does, self.params = does, {}

    def GradientBoosting(self, **given):
        self.given = given
        return self

    def fit(self, X, y, sample_weight, eval_sets):
        self.does(self, X, y, eval_sets)


def stubbed(monkeypatch, does):
    stub = Stub(does)
    monkeypatch.setattr(pyboost, "require", lambda: None)
    monkeypatch.setattr(pyboost, "library", lambda module: stub)
    return stub


class OutOfMemoryError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OutOfMemoryError("Out of memory\nallocating 3 bytes"),
            "more memory than the GPU has: lower max_depth",
        ),
        (AssertionError("Max bins\nshould be"), "^Py-Boost stopped: AssertionError: Max bins should be$"),
    ],
)
def test_errors_of_the_library_become_one_line(monkeypatch, error, words):
    def fail(*_):
        raise error

    stubbed(monkeypatch, fail)
    with pytest.raises(UnavailableError, match=words) as caught:
        pyboost.fit(*problem(), settings(), Watch())
    assert "\n" not in str(caught.value) and caught.value.__cause__ is error


def test_an_error_of_the_listener_stays_what_it_is(monkeypatch):
    def listener(trees, score):
        raise ZeroDivisionError("mine")

    def train(stub, *_):
        stub.given["callbacks"][0].after_iteration({"data": {"valid": {"target": [], "ensemble": []}}})

    stubbed(monkeypatch, train)
    with pytest.raises(ZeroDivisionError, match="mine"):
        pyboost.fit(*problem(), settings(), Watch(listener=listener))


def test_what_it_cannot_do_is_refused(monkeypatch):
    stubbed(monkeypatch, None)
    with pytest.raises(InputError, match="max_depth of at most 16, not 17"):
        pyboost.fit(*problem(), settings(max_depth=17), Watch())
    with pytest.raises(
        InputError, match="'pyboost' does not count the rows of a leaf where rows have weights"
    ):
        pyboost.fit(*problem(), settings(min_samples_leaf=2), Watch(), weights=np.ones(200))
    monkeypatch.setattr(pyboost, "MOST_ROWS", 100)
    with pytest.raises(InputError, match="at most 100 rows, not 200"):
        pyboost.fit(*problem(), settings(), Watch())


# --- the conversion of its trees --------------------------------------------------------------------------------------


def random_step(rng, p, d, max_depth):
    """Return arrays in the layout of `Tree.reformat`: level by level, thresholds of every kind."""
    nodes, leaves, waiting = [], 0, [0]
    while waiting:  # the depths of the nodes that have numbers but are not written yet
        depth, links = waiting.pop(0), []
        for _ in range(2):
            if depth + 1 < max_depth and rng.random() < 0.7:
                waiting.append(depth + 1)
                links.append(len(nodes) + len(waiting))
            else:
                leaves += 1
                links.append(-leaves)
        threshold = rng.choice([-np.inf, np.inf, *np.arange(-3, 4)], p=[0.05, 0.05, *[0.9 / 7] * 7])
        nodes.append([rng.choice([-1, 1]) * rng.integers(1, p + 1), threshold, *links])
    feats = np.zeros((1, len(nodes)), int)
    if rng.random() < 0.1:  # a tree without splits
        nodes, feats = [[1, 0, -1, -1]], np.full((1, 1), -1)
    return SimpleNamespace(
        test_format=np.array(nodes, dtype=np.float32).reshape(-1),
        values=rng.normal(size=(leaves, d)).astype(np.float32),
        gains=rng.random((1, feats.shape[1])).astype(np.float32),
        feats=feats,
        feature_importance_split=np.zeros(p, np.float32),
    )


def by_the_kernels(steps, base, X):
    """Predict row by row (`generic_tree_prediction_leaves_kernel`, `tree_prediction_values_kernel`)."""
    predicted = np.repeat(base[None], len(X), axis=0)
    for step in steps:
        nodes = step.test_format.reshape(-1, 4)
        for row, x in enumerate(X):
            node = 0
            while node >= 0:
                feature, threshold, left, right = nodes[node]
                value = x[abs(int(feature)) - 1]
                goes_right = feature > 0 if np.isnan(value) else value > threshold
                node = int(right if goes_right else left)
            predicted[row] += step.values[-node - 1]
    return predicted


@hypothesis.settings(deadline=None)  # the first prediction compiles
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4), st.integers(1, 6))
def test_random_trees_predict_what_the_kernels_would(seed, p, d, max_depth):
    rng = np.random.default_rng(seed)
    steps = [random_step(rng, p, d, max_depth) for _ in range(4)]
    base = rng.normal(size=d).astype(np.float32)
    X = np.concatenate([rng.integers(-4, 5, size=(15, p)), rng.normal(size=(5, p))]).astype(np.float32)
    X[rng.random(X.shape) < 0.2] = np.nan
    ours = pyboost.converted(SimpleNamespace(models=steps, base_score=base, to_cpu=lambda: None))
    np.testing.assert_array_equal(ours.predict(X), by_the_kernels(steps, base, X))


@pytest.mark.parametrize(("name", "shown"), [("values", "leaves"), ("gains", "gain")])
def test_only_finite_trees_are_converted(name, shown):
    step = random_step(np.random.default_rng(0), 3, 2, 4)
    setattr(step, name, np.full_like(getattr(step, name), np.nan))
    with pytest.raises(
        InputError, match=f"the Py-Boost model holds no usable trees: {shown} has values that"
    ):
        pyboost.converted(SimpleNamespace(models=[step], base_score=np.zeros(2), to_cpu=lambda: None))


# --- Py-Boost itself, on a CPU ----------------------------------------------------------------------------------------


@pytest.fixture
def on_a_cpu(monkeypatch):
    """Let the engine run here and keep the Py-Boost models it trained."""
    if pyboost.find_spec("py_boost") is None:
        pytest.skip(
            f"py-boost is not installed: pip install --no-deps py-boost=={pyboost.VERSION} tqdm ujson"
        )
    if shutil.which("g++") is None:
        pytest.skip("Py-Boost's kernels are compiled for a CPU by g++, which is not installed")
    trained = []
    with cupy_on_cpu.installed():
        kept_by(monkeypatch, trained)
        yield trained


def kept_by(monkeypatch, models):
    """Let `models` have the Py-Boost models that will be made, in turn."""
    boosting = pyboost.library("boosting")
    made = boosting.GradientBoosting
    monkeypatch.setattr(
        boosting, "GradientBoosting", lambda **given: models.append(made(**given)) or models[-1]
    )


@pytest.mark.parametrize(
    "changed", [{}, {"colsample": 0.5, "subsample": 0.7, "max_bins": 16}, {"max_depth": 6}]
)
def test_a_fit_predicts_bit_for_bit_what_py_boost_does(on_a_cpu, changed):
    X, Y = problem(missing=0.1)
    ours = pyboost.fit(X[:150], Y[:150], settings(**changed), Watch()).model
    assert ours.n_trees == 8 and not ours.nan_left.all()
    assert np.mean((ours.predict(X[150:]) - Y[150:]) ** 2) < 0.6 * Y.var()
    rng = np.random.default_rng(1)
    for row in range(150):  # rows exactly at thresholds, and a float32 beside them
        at = rng.integers(len(ours.feature))
        beside = np.nextafter(ours.threshold[at], np.float32(rng.choice([-np.inf, np.inf])))
        X[row, ours.feature[at]] = beside if row % 2 else ours.threshold[at]
    X[~np.isfinite(X)] = np.nan
    assert np.isin(ours.threshold, X).sum() > 10
    np.testing.assert_array_equal(ours.predict(X), np.asarray(on_a_cpu[0].predict(X)))
    by_gain = sum(tree.feature_importance_gain.astype(float) for tree in on_a_cpu[0].models)
    np.testing.assert_allclose(ours.importances(), by_gain / by_gain.sum(), rtol=1e-5)
    splits = sum(tree.feature_importance_split for tree in on_a_cpu[0].models)
    np.testing.assert_array_equal(np.bincount(ours.feature, minlength=8), splits)


@pytest.mark.parametrize("least", [1, 7])
@pytest.mark.parametrize("reg_lambda", [0.0, 1.0])
def test_the_parameters_mean_what_they_mean_in_exact(on_a_cpu, least, reg_lambda):
    """With every column and row there is nothing to draw: the same splits, but for borders with no row between them."""
    X, Y = problem(n=300)
    same = settings(max_depth=3, min_samples_leaf=least, reg_lambda=reg_lambda, max_bins=32)
    theirs = pyboost.fit(X, Y, same, Watch(), (X[:50], Y[:50]))
    ours = exact.fit(X, Y, same, Watch(), (X[:50], Y[:50]))
    np.testing.assert_array_equal(theirs.model.feature, ours.model.feature)
    np.testing.assert_array_equal(theirs.model.children, ours.model.children)
    np.testing.assert_allclose(theirs.model.predict(X), ours.model.predict(X), atol=1e-4)
    assert np.mean(theirs.model.threshold == ours.model.threshold) > 0.9
    np.testing.assert_allclose(theirs.model.leaves, ours.model.leaves, atol=1e-5)
    np.testing.assert_allclose(theirs.model.gain, ours.model.gain, rtol=1e-2)
    np.testing.assert_allclose(theirs.validation_scores, ours.validation_scores, rtol=1e-5)


@pytest.mark.parametrize("reg_lambda", [0.0, 1.0])
def test_weights_mean_what_they_mean_in_exact(on_a_cpu, reg_lambda):
    X, Y = problem(n=300)
    weights = np.exp(np.random.default_rng(1).normal(size=300))
    same = settings(max_depth=3, reg_lambda=reg_lambda, max_bins=32)
    theirs = pyboost.fit(X, Y, same, Watch(), (X[:50], Y[:50]), weights=weights)
    ours = exact.fit(X, Y, same, Watch(), (X[:50], Y[:50]), weights=weights)
    np.testing.assert_array_equal(theirs.model.base, ours.model.base)
    np.testing.assert_array_equal(theirs.model.feature, ours.model.feature)
    np.testing.assert_allclose(theirs.model.predict(X), ours.model.predict(X), atol=1e-4)
    np.testing.assert_allclose(theirs.validation_scores, ours.validation_scores, rtol=1e-5)
    np.testing.assert_array_equal(theirs.model.predict(X), np.asarray(on_a_cpu[0].predict(X)))


def test_bins_are_the_same(on_a_cpu):
    pyboost.library("boosting")
    quantisers = sys.modules["py_boost.quantization.base"]
    X, _ = problem(n=700, missing=0.1)
    X[:, 1], X[:, 2], X[:, 3] = np.round(X[:, 1]), 3, np.nan
    for max_bins in (3, 5, 32, 256):
        quantiser, bins = quantisers.QuantileQuantizer(None, max_bins), exact.QuantileBins.fit(X, max_bins)
        np.testing.assert_array_equal(quantiser.fit_transform(X).T, bins.codes(X))
        for feature, borders in enumerate(quantiser.get_borders()):
            np.testing.assert_array_equal(borders[1:-1], bins.of(feature))


def test_stops_early_and_keeps_the_best_trees(on_a_cpu):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(80, 5)).astype(np.float32), rng.normal(size=(80, 3)).astype(np.float32)
    heard = []
    watch = Watch(3, lambda trees, score: heard.append((trees, score)))
    noise = settings(n_estimators=50, max_depth=6)
    trained = pyboost.fit(X[:50], Y[:50], noise, watch, (X[50:], Y[50:]))
    assert trained.model.n_trees == watch.best < len(trained.validation_scores) == watch.best + 3 < 50
    assert heard == list(enumerate(trained.validation_scores, 1))
    error = trained.model.predict(X[50:]) - Y[50:]
    assert trained.validation_scores[watch.best - 1] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-5)


def test_read_only_rows_one_output_and_nothing_to_split(on_a_cpu):
    X, Y = problem()
    X.flags.writeable = Y.flags.writeable = False
    one = pyboost.fit(X, Y[:, :1], settings(), Watch()).model
    assert one.n_outputs == 1 and len(one.feature)
    flat = pyboost.fit(X, np.full_like(Y, 3), settings(), Watch()).model
    assert len(flat.feature) == 0 and flat.n_trees == 8
    np.testing.assert_allclose(flat.predict(X), 3, rtol=1e-6)


def test_the_package_itself_is_left_alone(on_a_cpu):
    pyboost.library("boosting")
    assert "py_boost" not in sys.modules and "treelite" not in sys.modules
    assert pyboost.library("boosting") is sys.modules["py_boost.gpu.boosting"]
