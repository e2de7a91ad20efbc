"""cuML's SVR reaches scikit-learn's optima on the shared Gram matrix. Stand-in: scikit-learn under cuML's names."""

import inspect
import sys
import types

import numpy as np
import pytest
from sklearn.svm import SVR

from rapids_pipeline.backend.arrays import is_on_cuda, to_device, to_host
from rapids_pipeline.svr import MultiTargetSVR, engines
from rapids_pipeline.svr.engines import ENGINES
from tests.gpu.requirements import need, on_gpu
from tests.gpu.test_gpu_douglas_rachford import objective


class StandIn:
    """`cuml.svm.SVR` by scikit-learn: the arguments, methods and attributes that are used of it, and no others."""

    def __init__(self, *, kernel="rbf", C=1, tol=1e-3, epsilon=0.1, max_iter=-1):
        self.model = SVR(kernel=kernel, C=C, epsilon=epsilon, tol=tol, max_iter=max_iter)

    def fit(self, X, y, sample_weight=None):
        self.model.fit(X, y, sample_weight=sample_weight)
        self.support_, self.dual_coef_ = self.model.support_, self.model.dual_coef_
        self.intercept_, self.n_iter_ = self.model.intercept_, 3  # cuML counts its outer iterations
        return self


@pytest.fixture(params=["cpu", on_gpu])
def send(request, monkeypatch):
    """Copy an array to where cuML works; a function of the arrays, with cuML or its stand-in in place."""
    if request.param == "cuda":
        need("cuml", "cupy")
    else:
        package = types.ModuleType("cuml")
        package.svm = types.ModuleType("cuml.svm")
        package.svm.SVR = StandIn
        monkeypatch.setitem(sys.modules, "cuml", package)
        monkeypatch.setitem(sys.modules, "cuml.svm", package.svm)
    remembered = engines._has_precomputed
    remembered.cache_clear()
    yield lambda x: to_device(x, request.param)
    remembered.cache_clear()


def problem(n=200, targets=12):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 8))
    K = np.exp(-0.1 * ((X[:, None] - X[None]) ** 2).sum(-1))
    return X, K, rng.standard_t(4, size=(n, targets))


@pytest.mark.parametrize("kernel", ["precomputed", "linear"])
@pytest.mark.parametrize("weights", ["one C", "a C for every row and target"])
def test_equals_scikit_learn(send, monkeypatch, kernel, weights):
    _, K, Y = problem()
    monkeypatch.setattr(engines, "_has_precomputed", lambda regressor: kernel == "precomputed")
    C = 1.0 if weights == "one C" else np.linspace(0.2, 2, 200)[:, None] * np.linspace(0.5, 2, 12)
    given = C if isinstance(C, float) else send(C)
    there = ENGINES["cuml"].solve(send(K), send(Y), C=given, epsilon=0.1, tol=1e-3, max_iter=10**6)
    here = ENGINES["sklearn"].solve(K, Y, C=C, epsilon=0.1, tol=1e-3, max_iter=10**6)
    beta, intercept = to_host(there.dual_coef), to_host(there.intercept)
    assert is_on_cuda(there.dual_coef) == is_on_cuda(send(K))
    assert to_host(there.converged).all() and (np.abs(beta) <= C).all() and np.abs(beta.sum(0)).max() < 1e-4
    np.testing.assert_allclose(K @ beta + intercept, K @ here.dual_coef + here.intercept, atol=3e-3)
    best = objective(K, Y, here.dual_coef, 0.1)
    np.testing.assert_allclose(objective(K, Y, beta, 0.1), best, rtol=1e-5)


def test_the_precomputed_kernel_is_found(send):
    assert engines._has_precomputed(engines.cuml_regressor())


def test_the_estimator(send):
    X, _, Y = problem()
    there = MultiTargetSVR(engine="cuml").fit(send(X), send(Y)).predict(send(X[:50]))
    here = MultiTargetSVR(engine="sklearn").fit(X, Y).predict(X[:50])
    np.testing.assert_allclose(to_host(there), here, atol=3e-3)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_targets_that_it_left_unsolved_are_counted(send):
    """cuML says nothing of them: the gap does."""
    _, K, Y = problem()
    there = ENGINES["cuml"].solve(send(K), send(100 * Y), C=50.0, epsilon=0.1, tol=1e-3, max_iter=30)
    assert not to_host(there.converged).any() and to_host(there.gap).min() > 1e-3


def test_cuml_has_what_is_used_of_it():
    """Also without a GPU: the names of the arguments."""
    svm = pytest.importorskip("cuml.svm", exc_type=ImportError)
    names = set(inspect.signature(StandIn).parameters)
    assert names <= set(inspect.signature(svm.SVR).parameters)
    assert set(inspect.signature(StandIn.fit).parameters) <= set(inspect.signature(svm.SVR.fit).parameters)
