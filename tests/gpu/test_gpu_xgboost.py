"""XGBoost grows trees with vector leaves on the GPU, never on the CPU in its place. Stand-in: XGBoost on the CPU."""

from functools import partial

import numpy as np
import pytest

from rapids_pipeline.backend.errors import UnavailableError
from rapids_pipeline.backend.state import StateReader
from rapids_pipeline.boosting import MultiOutputBooster
from rapids_pipeline.boosting.trees import TreeEnsemble
from tests.boosting.naive_trees import problem
from tests.gpu.requirements import need, on_gpu, why_no_device

xgboost = pytest.importorskip("xgboost")


@pytest.fixture(params=["cpu", on_gpu])
def device(request):
    if request.param == "cuda":
        need("xgboost")
    return request.param


@pytest.fixture
def boosters(monkeypatch):
    """The XGBoost models that were trained, in turn."""
    kept, train = [], xgboost.train
    monkeypatch.setattr(xgboost, "train", lambda *a, **k: kept.append(train(*a, **k)) or kept[-1])
    return kept


rows = partial(problem, p=15, n_outputs=6, missing=0.05)


def booster(device, **changed):
    usual = {"n_estimators": 30, "max_depth": 4, "colsample": 1.0, "max_bins": 64}
    return MultiOutputBooster(engine="xgboost", device=device, **usual | changed)


def test_it_learns_as_well_as_on_the_cpu(device):
    X, Y = rows(900)
    there, here = (
        booster(where).fit(X[:600], Y[:600], eval_set=(X[600:], Y[600:])) for where in (device, "cpu")
    )
    assert there.validation_scores_[-1] == pytest.approx(here.validation_scores_[-1], rel=0.02)
    apart = np.abs(there.predict(X[600:]) - here.predict(X[600:])).mean()
    assert apart < 0.05 * Y.std()  # trees part ways where two splits gain the same


@pytest.mark.parametrize("changed", [{}, {"colsample": 0.4, "subsample": 0.7}], ids=["all", "drawn"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_saved_model_predicts_what_xgboost_does(device, boosters, changed, weighted):
    X, Y = rows(900)
    weights = np.linspace(0.1, 2, len(X)) if weighted else None
    model = booster(device, **changed).fit(X, Y, weights)
    predicted = TreeEnsemble.from_state(StateReader(model.model_.state(), "the model")).predict(X)
    np.testing.assert_allclose(predicted, boosters[0].predict(xgboost.DMatrix(X)), atol=1e-5)
    config = boosters[0].save_config()
    assert ('"device":"cuda' in config) == (device == "cuda")


def test_it_stops_early(device):
    X, Y = rows(200)
    noise = np.random.default_rng(0).normal(size=Y.shape)
    stopping = booster(device, n_estimators=50, early_stopping_rounds=3, learning_rate=0.5)
    model = stopping.fit(X[:100], noise[:100], eval_set=(X[100:], noise[100:]))
    assert model.best_iteration_ == model.model_.n_trees < len(model.validation_scores_) < 50


def test_without_a_gpu_it_is_refused():
    """XGBoost itself only warns, and trains on the CPU."""
    if why_no_device() is None:
        pytest.skip("there is a GPU")
    with pytest.raises(
        UnavailableError, match=r"this XGBoost (finds no CUDA device|is built without CUDA); pip"
    ):
        booster("cuda").fit(*rows(50))


def test_a_version_without_vector_leaves_on_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(xgboost, "__version__", "3.1.2")
    with pytest.raises(UnavailableError, match=r"XGBoost 3\.1\.2 has no vector leaves on a GPU"):
        booster("cuda").fit(*rows(50))
