"""The registry: all engines solve the same problem, "auto" says why, and a missing engine says what to install."""

import sys
import types

import numpy as np
import pandas as pd
import pytest
from sklearn.svm import SVR

from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.svr import MultiTargetSVR, engines, library_loops
from rapids_pipeline.svr.engines import ENGINES, choose_engine
from rapids_pipeline.svr.gram import kernel_between, scale_gamma


def problem(n=60, targets=5, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6))
    K = np.exp(-0.1 * ((X[:, None] - X[None]) ** 2).sum(-1))
    return K, rng.standard_t(4, size=(n, targets))


def objective(K, Y, beta, epsilon):
    return 0.5 * np.einsum("it,ij,jt->t", beta, K, beta) - (Y * beta).sum(0) + epsilon * np.abs(beta).sum(0)


class StandInRegressor:
    """What the engine uses of cuml.svm.SVR, by scikit-learn; `older` versions know no precomputed kernel."""

    older = False
    kernels: tuple = ()

    def __init__(self, kernel, C=1.0, epsilon=0.1, tol=1e-3, max_iter=-1):
        if kernel == "precomputed" and self.older:
            raise KeyError(kernel)
        StandInRegressor.kernels += (kernel,)
        self.model = SVR(kernel=kernel, C=C, epsilon=epsilon, tol=tol, max_iter=max_iter)

    def fit(self, X, y, sample_weight=None):
        self.model.fit(X, y, sample_weight=sample_weight)
        for name in ("support_", "dual_coef_", "intercept_"):
            setattr(self, name, getattr(self.model, name))


@pytest.fixture(params=[False, True], ids=["with precomputed", "without precomputed"])
def stand_in_cuml(request, monkeypatch):
    """A package that stands in for cuML, whose own code runs only on a GPU."""
    monkeypatch.setattr(StandInRegressor, "older", request.param)
    monkeypatch.setattr(StandInRegressor, "kernels", ())
    package = types.ModuleType("cuml")
    package.svm = types.ModuleType("cuml.svm")
    package.svm.SVR = StandInRegressor
    monkeypatch.setitem(sys.modules, "cuml", package)
    monkeypatch.setitem(sys.modules, "cuml.svm", package.svm)
    library_loops._has_precomputed.cache_clear()
    yield "linear" if request.param else "precomputed"
    library_loops._has_precomputed.cache_clear()


@pytest.mark.parametrize("per_target", [False, True])
def test_all_engines_agree(stand_in_cuml, per_target):
    K, Y = problem()
    C = np.array([[0.05, 0.5, 1.0, 2.0, 5.0]]) if per_target else 1.0
    epsilon = np.array([[0.0, 0.1, 0.2, 0.5, 1.0]]) if per_target else 0.1
    solved = {
        name: engine.solve(K, Y, C=C, epsilon=epsilon, tol=1e-6, max_iter=engine.max_iter)
        for name, engine in ENGINES.items()
        if name != "ridge"  # squared errors: tests/svr/test_kernel_ridge.py
    }
    expected = solved.pop("sklearn")
    for name, solution in solved.items():
        assert solution.converged.all(), name
        assert (np.abs(solution.dual_coef) <= C).all() and (
            np.abs(solution.dual_coef.sum(axis=0)) < 1e-5
        ).all()
        predicted, wanted = (K @ s.dual_coef + s.intercept for s in (solution, expected))
        np.testing.assert_allclose(predicted, wanted, atol=1e-5, err_msg=name)
        best = objective(K, Y, expected.dual_coef, epsilon)
        assert (objective(K, Y, solution.dual_coef, epsilon) - best <= 1e-6 * np.abs(best)).all(), name
    assert StandInRegressor.kernels[-1] == stand_in_cuml


def test_the_gap_that_a_library_leaves_is_measured():
    K, Y = problem()
    solution = ENGINES["sklearn"].solve(K, Y, C=1.0, epsilon=0.1, tol=1e-3, max_iter=10_000)
    assert (solution.gap <= 1.01e-3).all() and (solution.gap > 1e-6).any()
    weights = np.linspace(0.1, 2, 60)[:, None]
    solution = ENGINES["sklearn"].solve(K, Y, C=weights, epsilon=0.1, tol=1e-3, max_iter=10_000)
    assert (solution.gap <= 1.01e-3).all() and (np.abs(solution.dual_coef) <= weights).all()
    stopped = ENGINES["sklearn"].solve(K, Y, C=1.0, epsilon=0.1, tol=1e-3, max_iter=3)
    assert not stopped.converged.any() and (stopped.gap > 1e-3).all()


def test_auto_says_what_it_chose_and_why(monkeypatch):
    torch = pytest.importorskip("torch")
    few, many = np.zeros((2, 3)), np.zeros((2, 600))

    def chosen(*arguments, **options):
        choice = choose_engine(*arguments, **options)
        return choice.engine.name, choice.reason

    assert chosen("auto", few) == ("douglas-rachford", "auto: fewer than 500 targets")
    assert chosen("auto", many) == ("smo", "auto: numpy arrays and at least 500 targets")
    assert chosen("auto", torch.asarray(many)) == ("douglas-rachford", "auto: the arrays are not numpy's")
    per_target = ("smo", "auto: every target has a kernel of its own")
    assert chosen("auto", few, target_specific=True) == per_target
    assert chosen("smo", few) == ("smo", "asked for")
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert chosen("auto", many) == ("douglas-rachford", "auto: numba, which smo needs, is not installed")
    model = MultiTargetSVR().fit(np.arange(8.0)[:, None], np.arange(8.0))
    assert (model.engine_, model.engine_reason_) == ("douglas-rachford", "auto: fewer than 500 targets")


def test_cuml_is_refused_where_it_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuml.svm", None)
    with pytest.raises(UnavailableError, match=r"pip install 'rapids-perturb\[gpu-cu13\]'"):
        MultiTargetSVR(engine="cuml").fit(np.eye(3), np.arange(3.0))


def test_smo_is_refused_where_numba_is_not_installed(monkeypatch):
    monkeypatch.setattr("rapids_pipeline.svr.smo.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"pip install 'rapids-perturb\[cpu\]'"):
        choose_engine("smo", np.zeros((2, 1)))


def test_an_unknown_engine_and_one_that_cannot_do_it_are_refused():
    with pytest.raises(InputError, match="choose one of auto, douglas-rachford, smo, sklearn, cuml"):
        choose_engine("liblinear", np.zeros((2, 1)))
    with pytest.raises(InputError, match="target_features needs 'smo'"):
        choose_engine("sklearn", np.zeros((2, 1)), target_specific=True)


def test_smo_equals_scikit_learn_on_50_genes_of_real_data(shared_data):
    frame = pd.read_parquet(shared_data / "lincs_lung" / "de_train.parquet")
    X = pd.get_dummies(frame[["cell_type", "sm_name"]]).to_numpy(float)
    Y = frame.iloc[:, 5:].to_numpy(float)[:, ::19][:, :50]
    inside = np.arange(len(X)) % 5 != 0
    gamma = scale_gamma(X[inside])
    K, K_test = (kernel_between(rows, X[inside], "rbf", gamma) for rows in (X[inside], X[~inside]))
    expected = ENGINES["sklearn"].solve(K, Y[inside], C=1.0, epsilon=0.1, tol=1e-6, max_iter=10**7)
    best = objective(K, Y[inside], expected.dual_coef, 0.1)
    for tol, within in ((1e-3, 1e-3), (1e-6, 1e-5)):
        solution = ENGINES["smo"].solve(K, Y[inside], C=1.0, epsilon=0.1, tol=tol, max_iter=10**6)
        predicted, wanted = (K_test @ s.dual_coef + s.intercept for s in (solution, expected))
        assert solution.converged.all() and np.abs(predicted - wanted).max() <= within
        assert (objective(K, Y[inside], solution.dual_coef, 0.1) - best <= 1e-6 * np.abs(best)).all()
        assert np.abs(solution.dual_coef).max() <= 1 and np.abs(solution.dual_coef.sum(axis=0)).max() <= 1e-5
