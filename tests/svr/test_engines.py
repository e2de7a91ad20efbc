"""The registry: all engines solve the same problem, "auto" says why, and a missing engine says what to install."""

import sys
import types

import numpy as np
import pandas as pd
import pytest
from sklearn.svm import SVR

from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.svr import MultiTargetSVR, NotConvergedWarning, engines
from rapids_pipeline.svr.dual import GramTable, kernel_between, scale_gamma
from rapids_pipeline.svr.engines import ENGINES, choose_engine, fit_on_table, solve_duals, solve_sklearn
from tests.svr.duals import objective, predicted, problem


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
    engines._has_precomputed.cache_clear()
    yield "linear" if request.param else "precomputed"
    engines._has_precomputed.cache_clear()


@pytest.mark.parametrize("per_target", [False, True])
def test_all_engines_agree(stand_in_cuml, per_target):
    K, _, Y = problem(5, 60)
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
        np.testing.assert_allclose(predicted(solution, K), predicted(expected, K), atol=1e-5, err_msg=name)
        best = objective(K, Y, expected.dual_coef, epsilon)
        assert (objective(K, Y, solution.dual_coef, epsilon) - best <= 1e-6 * np.abs(best)).all(), name
    assert StandInRegressor.kernels[-1] == stand_in_cuml


def test_auto_says_what_it_chose_and_why():
    torch = pytest.importorskip("torch")
    few, many = np.zeros((2, 3)), np.zeros((2, 600))

    def chosen(*arguments, **options):
        choice = choose_engine(*arguments, **options)
        return choice.engine.name, choice.reason

    assert chosen("auto", few) == ("douglas-rachford", "auto: fewer than 500 targets")
    assert chosen("auto", many) == ("smo", "auto: numpy arrays and at least 500 targets")
    assert chosen("auto", torch.asarray(many)) == ("douglas-rachford", "auto: the arrays are not numpy's")
    per_target = ("smo", "auto: numpy arrays, and every target has a kernel of its own")
    assert chosen("auto", few, own_target=True) == per_target
    assert chosen("auto", torch.asarray(few), own_target=True) == chosen("auto", torch.asarray(few))
    assert chosen("douglas-rachford", few, own_target=True) == ("douglas-rachford", "asked for")
    assert chosen("smo", few) == ("smo", "asked for")
    model = MultiTargetSVR().fit(np.arange(8.0)[:, None], np.arange(8.0))
    assert (model.engine_, model.engine_reason_) == ("douglas-rachford", "auto: fewer than 500 targets")


def test_an_unknown_engine_and_one_that_cannot_do_it_are_refused():
    with pytest.raises(InputError, match="choose one of auto, douglas-rachford, smo, sklearn, cuml"):
        choose_engine("liblinear", np.zeros((2, 1)))
    with pytest.raises(
        InputError, match="statistics of each target's own need one of auto, douglas-rachford, smo"
    ):
        choose_engine("sklearn", np.zeros((2, 1)), own_target=True)


@pytest.mark.parametrize("engine", ["smo", "douglas-rachford"])
def test_equals_scikit_learn_on_50_genes_of_real_data(shared_data, engine):
    frame = pd.read_parquet(shared_data / "lincs_lung" / "de_train.parquet")
    X = pd.get_dummies(frame[["cell_type", "sm_name"]]).to_numpy(float)
    Y = frame.iloc[:, 5:].to_numpy(float)[:, ::19][:, :50]
    inside = np.arange(len(X)) % 5 != 0
    gamma = scale_gamma(X[inside])
    K, K_test = (kernel_between(rows, X[inside], "rbf", gamma) for rows in (X[inside], X[~inside]))
    expected = ENGINES["sklearn"].solve(K, Y[inside], C=1.0, epsilon=0.1, tol=1e-6, max_iter=10**7)
    best = objective(K, Y[inside], expected.dual_coef, 0.1)
    for tol, within in ((1e-3, 1e-3), (1e-6, 1e-5)):
        solution = ENGINES[engine].solve(K, Y[inside], C=1.0, epsilon=0.1, tol=tol, max_iter=10**6)
        assert solution.converged.all()
        assert np.abs(predicted(solution, K_test) - predicted(expected, K_test)).max() <= within
        assert (objective(K, Y[inside], solution.dual_coef, 0.1) - best <= 1e-6 * np.abs(best)).all()
        sizes = np.abs(solution.dual_coef)
        assert sizes.max() <= 1
        rounded = np.finfo(np.float32).eps * sizes.sum(axis=0, dtype=float)  # each is rounded to float32
        assert (np.abs(solution.dual_coef.sum(axis=0, dtype=float)) <= rounded).all()


def test_the_gap_that_a_library_leaves_is_measured():
    K, _, Y = problem(5, 60)
    how = {"epsilon": 0.1, "tol": 1e-3, "max_iter": 10_000}
    solution = solve_sklearn(K, Y, C=1.0, **how)
    assert (solution.gap <= 1.01e-3).all() and (solution.gap > 1e-6).any()
    weights = np.linspace(0.1, 2, 60)[:, None]
    solution = solve_sklearn(K, Y, C=weights, **how)
    assert (solution.gap <= 1.01e-3).all() and (np.abs(solution.dual_coef) <= weights).all()
    stopped = solve_sklearn(K, Y, C=1.0, **{**how, "max_iter": 3})
    assert not stopped.converged.any() and (stopped.gap > 1e-3).all()


def test_cuml_is_refused_where_it_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuml.svm", None)
    with pytest.raises(UnavailableError, match=r"pip install '\.\[gpu-cu13\]'"):
        MultiTargetSVR(engine="cuml").fit(np.eye(3), np.arange(3.0))


# --- fits on some rows of a table ----------------------------------------------------------------------------

HOW = {"C": 1.0, "epsilon": 0.1, "tol": 1e-3, "max_iter": None, "engine_name": "auto"}
INSIDE, OUTSIDE, NEW = np.arange(60) % 4 != 1, np.arange(60) % 4 == 1, np.arange(60, 67)
TRAINING, HELD_OUT = np.flatnonzero(INSIDE), np.flatnonzero(OUTSIDE)


def rows(targets=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(67, 4)) * np.linspace(0.2, 3, 67)[:, None]  # parts differ in variance, so in gamma
    return X, rng.standard_t(4, size=(60, targets))


@pytest.mark.parametrize("engine", ["douglas-rachford", "smo", "sklearn"])
def test_a_fit_on_a_table_equals_a_naive_loop_over_scikit_learn(engine):
    X, Y = rows()
    C, epsilon = np.array([0.5, 1.0, 2.0]), np.array([0.0, 0.1, 0.3])
    how = {**HOW, "C": C, "epsilon": epsilon, "tol": 1e-6, "engine_name": engine}
    for weight in (None, np.linspace(0, 2, 45)):
        fit = fit_on_table(GramTable(X), Y, TRAINING, [HELD_OUT, NEW], sample_weight=weight, **how)
        assert fit.solution.converged.all()
        for t in range(3):
            model = SVR(C=C[t], epsilon=epsilon[t], tol=1e-6).fit(X[TRAINING], Y[TRAINING, t], weight)
            np.testing.assert_allclose(fit.gamma, model._gamma, rtol=1e-12)
            for group, found in zip((HELD_OUT, NEW), fit.predictions, strict=True):
                np.testing.assert_allclose(found[:, t], model.predict(X[group]), atol=2e-5)


def test_targets_and_features_of_a_held_out_row_change_no_other_prediction():
    X, Y = rows()
    before = fit_on_table(GramTable(X), Y, TRAINING, [HELD_OUT, TRAINING], **HOW)
    X, Y = X.copy(), Y.copy()
    Y[HELD_OUT] = 1000.0
    X[HELD_OUT[0]] *= 50
    after = fit_on_table(GramTable(X), Y, TRAINING, [HELD_OUT, TRAINING], **HOW)
    np.testing.assert_allclose(after.predictions[0][1:], before.predictions[0][1:], atol=1e-9)
    np.testing.assert_allclose(after.predictions[1], before.predictions[1], atol=1e-9)
    np.testing.assert_allclose(after.gamma, before.gamma, rtol=1e-12)
    assert np.abs(after.predictions[0][0] - before.predictions[0][0]).max() > 1e-3
    Y[TRAINING[0]] = 1000.0
    moved = fit_on_table(GramTable(X), Y, TRAINING, [HELD_OUT], **HOW)
    assert np.abs(moved.predictions[0] - after.predictions[0]).max() > 1e-3


def test_predictions_are_in_the_library_and_the_dtype_of_the_targets():
    torch = pytest.importorskip("torch")
    X, Y = rows()
    expected = fit_on_table(GramTable(X), Y.astype(np.float32), TRAINING, [HELD_OUT], **HOW).predictions[0]
    assert expected.dtype == np.float32
    there = GramTable(torch.asarray(X)), torch.asarray(Y.astype(np.float32))
    found = fit_on_table(*there, TRAINING, [HELD_OUT], **HOW).predictions[0]
    assert isinstance(found, torch.Tensor) and found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
    assert fit_on_table(GramTable(X), Y, TRAINING, [], **HOW).predictions == []


def test_a_precomputed_table_equals_the_kernel_it_was_made_of():
    X, Y = rows()
    K = GramTable(X).gram(np.arange(67), np.arange(67), 0.1)
    found = fit_on_table(GramTable(K, "precomputed"), Y, TRAINING, [HELD_OUT], **HOW)
    expected = fit_on_table(GramTable(X, gamma=0.1), Y, TRAINING, [HELD_OUT], **HOW)
    np.testing.assert_allclose(found.predictions[0], expected.predictions[0], atol=1e-9)


def test_targets_that_miss_the_tolerance_are_named():
    K, _, Y = problem()
    Y[:, 1] = 1.0  # constant: done at the first check
    with pytest.warns(NotConvergedWarning, match="2 of 3 SVR targets .* targets A1BG, AAK1: raise") as caught:
        solution = solve_duals(K, Y, **{**HOW, "max_iter": 1}, target_names=["A1BG", "A1CF", "AAK1"])
    assert len(caught) == 1 and solution.converged.tolist() == [False, True, False]
