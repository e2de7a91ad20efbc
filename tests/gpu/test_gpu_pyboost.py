"""Py-Boost trains, and what is saved of it predicts the same on a CPU. Stand-in: its kernels compiled for the host."""

import contextlib
import shutil
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest

from rapids_pipeline.backend.state import StateReader
from rapids_pipeline.boosting import MultiOutputBooster, pyboost
from rapids_pipeline.boosting.trees import TreeEnsemble
from tests.boosting import cupy_on_cpu
from tests.boosting.naive_trees import problem
from tests.boosting.test_pyboost import kept_by
from tests.gpu.requirements import on_gpu


@pytest.fixture(params=["cpu", on_gpu])
def trained(request, monkeypatch):
    """The Py-Boost models that were trained, in turn."""
    models = []
    place = contextlib.nullcontext()
    if request.param == "cpu":
        if find_spec("py_boost") is None or shutil.which("g++") is None:
            pytest.skip("the stand-in needs py-boost (pip install --no-deps py-boost==0.5.2) and g++")
        place = cupy_on_cpu.installed()
    elif (obstacle := pyboost.why_unavailable()) is not None:
        pytest.skip(obstacle)
    with place:
        kept_by(monkeypatch, models)
        yield models


@pytest.fixture
def large(request):
    """Whether there is a GPU to work on."""
    return "cuda" in request.node.callspec.id


rows = partial(problem, p=20, n_outputs=12, missing=0.05)


def booster(engine, **changed):
    usual = {"n_estimators": 60, "learning_rate": 0.1, "max_depth": 5, "colsample": 0.5, "subsample": 0.8}
    device = "cuda" if engine == "pyboost" else "cpu"
    return MultiOutputBooster(engine=engine, device=device, **usual | changed)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_saved_model_predicts_what_py_boost_does(trained, large, weighted):
    n = 1500 if large else 200
    X, Y = rows(n + 500)
    weights = np.exp(np.random.default_rng(1).normal(size=n)) if weighted else None
    changed = {} if large else {"n_estimators": 6}
    model = booster("pyboost", **changed).fit(X[:n], Y[:n], weights)
    loaded = TreeEnsemble.from_state(StateReader(model.model_.state(), "the model"))
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    np.testing.assert_allclose(loaded.predict(X), np.asarray(trained[0].predict(X)), atol=1e-5)
    assert np.mean((loaded.predict(X[n:]) - Y[n:]) ** 2) < 0.9 * Y[n:].var()


def test_it_learns_as_well_as_exact(trained, large):
    n = 1500 if large else 200
    X, Y = rows(n + 500)
    changed = {} if large else {"n_estimators": 6}
    there, here = (
        booster(engine, **changed).fit(X[:n], Y[:n], eval_set=(X[n:], Y[n:]))
        for engine in ("pyboost", "exact")
    )
    assert there.validation_scores_[-1] == pytest.approx(here.validation_scores_[-1], rel=0.05)
    error = np.sqrt(np.mean((there.predict(X[n:]) - Y[n:]) ** 2))
    assert there.validation_scores_[-1] == pytest.approx(error, rel=1e-4)


def test_it_stops_early(trained):
    X, Y = rows(160)
    noise = np.random.default_rng(0).normal(size=Y.shape)
    stopping = booster("pyboost", n_estimators=50, early_stopping_rounds=3, learning_rate=0.5)
    model = stopping.fit(X[:80], noise[:80], eval_set=(X[80:], noise[80:]))
    assert model.best_iteration_ == model.model_.n_trees < len(model.validation_scores_) < 50


def test_a_second_fit_after_it_finds_its_memory_free(trained):
    """Its memory pool is its own and ends with the fit."""
    X, Y = rows(100)
    predicted = [booster("pyboost", n_estimators=3).fit(X, Y).predict(X) for _ in range(2)]
    np.testing.assert_allclose(*predicted, atol=1e-4)
