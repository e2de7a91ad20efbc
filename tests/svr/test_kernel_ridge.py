"""Kernel ridge: against the bordered linear system, scikit-learn's KernelRidge, and its optimality conditions."""

import array_api_strict
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.kernel_ridge import KernelRidge

from rapids_pipeline.backend.arrays import to_host
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.svr import kernel_ridge
from rapids_pipeline.svr.engines import ENGINES, choose_engine, solve_duals
from rapids_pipeline.svr.estimator import MultiTargetSVR


def problem(n=20, t=6, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    K = np.exp(-0.3 * ((X[:, None] - X[None]) ** 2).sum(-1))
    return X, K, rng.normal(size=(n, t)) * 3 + 1, rng


def bordered(K, y, penalty, noise):
    """Solve [K + λH, 1; 1ᵀ, 0] (β, b) = (y, 0)."""
    n = len(y)
    A = np.zeros((n + 1, n + 1))
    A[:n, :n] = K + penalty * np.diag(noise)
    A[:n, n] = A[n, :n] = 1
    found = np.linalg.solve(A, np.append(y, 0))
    return found[:n], found[n]


@pytest.fixture(params=["factorisation", "conjugate gradients"])
def method(request, monkeypatch):
    """Solve few rows by either method."""
    if request.param == "conjugate gradients":
        monkeypatch.setattr(kernel_ridge, "ITERATES_FROM", 1)
    return request.param


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 25), st.integers(1, 5), st.integers(0, 1000), st.floats(-3, 3))
def test_every_target_solves_its_bordered_system(method, n, t, seed, size):
    _, K, Y, rng = problem(n, t, seed)
    C = 10.0 ** (rng.normal(size=t) + size)
    weight = rng.uniform(0.1, 2, size=n)
    found = kernel_ridge.solve(K, Y, C=C[None, :] * weight[:, None], epsilon=0.0)
    assert to_host(found.converged).all()
    assert method == "conjugate gradients" or (found.n_iter == 1).all()
    for j in range(t):
        beta, b = bordered(K, Y[:, j], 1 / C[j], 1 / weight)
        # Iterations end at a residual r of y, and a residual moves β by up to ‖(K + λH)⁻¹‖₂ ‖r‖₂.
        residual = kernel_ridge.ENOUGH * np.abs(Y[:, j] - Y[:, j].mean()).max()
        moved = np.sqrt(n) * residual / np.linalg.eigvalsh(K + np.diag(1 / weight) / C[j])[0]
        allowed = 1e-9 * np.abs(beta).max() + 1e-12 + (moved if method == "conjugate gradients" else 0)
        np.testing.assert_allclose(found.dual_coef[:, j], beta, rtol=0, atol=allowed)
        np.testing.assert_allclose(
            K @ found.dual_coef[:, j], K @ beta, atol=1e-6 * (1 + np.abs(Y[:, j]).max())
        )
        assert found.intercept[j] == pytest.approx(b, abs=1e-6 * (1 + abs(b)))
    np.testing.assert_allclose(
        found.dual_coef.sum(axis=0), 0, atol=1e-6 * np.abs(found.dual_coef).max() + 1e-12
    )


def test_without_an_intercept_to_find_it_is_scikit_learns(method):
    """The kernel centred and the targets, too: then KernelRidge, which has no intercept, is the same."""
    _, K, Y, _ = problem()
    H = np.eye(len(K)) - 1 / len(K)
    Kc, Yc = H @ K @ H, Y - Y.mean(axis=0)
    model = KernelRidge(alpha=0.5, kernel="precomputed").fit(Kc, Yc)
    found = kernel_ridge.solve(Kc, Yc, C=2.0, epsilon=0.0)
    predicted = Kc @ found.dual_coef + found.intercept
    np.testing.assert_allclose(predicted, model.predict(Kc), atol=1e-9 if method == "factorisation" else 1e-5)


def test_the_solution_minimises_squared_errors_and_norm():
    _, K, Y, rng = problem(15, 1)
    found = kernel_ridge.solve(K, Y, C=3.0, epsilon=0.0)
    beta, b = found.dual_coef[:, 0], found.intercept[0]

    def primal(a, c):
        return 0.5 * a @ K @ a + 3.0 / 2 * ((K @ a + c - Y[:, 0]) ** 2).sum()

    best = primal(beta, b)
    for _ in range(50):
        assert primal(beta + 0.01 * rng.normal(size=15), b + 0.01 * rng.normal()) >= best


@pytest.mark.parametrize("library", ["torch", "array_api_strict"])
def test_all_array_libraries_solve_alike(library):
    _, K, Y, _ = problem()
    make = (lambda x: torch.asarray(x)) if library == "torch" else array_api_strict.asarray
    C = np.geomspace(0.1, 10, Y.shape[1])[None, :]
    expected = kernel_ridge.solve(K, Y, C=C, epsilon=0.0)
    found = kernel_ridge.solve(make(K), make(Y), C=make(C), epsilon=0.0)
    assert type(found.dual_coef).__module__.split(".")[0] == library
    np.testing.assert_allclose(to_host(found.dual_coef), expected.dual_coef, atol=1e-9)
    np.testing.assert_allclose(to_host(found.intercept), expected.intercept, atol=1e-9)


def test_targets_of_constant_value_and_rows_that_repeat():
    _, K, Y, _ = problem()
    Y[:, 0] = 7.0
    K, Y = np.tile(K, (2, 2)), np.tile(Y, (2, 1))
    found = kernel_ridge.solve(K, Y, C=1e3, epsilon=0.0)
    assert (
        found.converged.all()
        and found.intercept[0] == pytest.approx(7)
        and np.abs(found.dual_coef[:, 0]).max() < 1e-9
    )
    np.testing.assert_allclose(found.dual_coef[:20], found.dual_coef[20:], atol=1e-8)


def test_a_weight_of_zero_leaves_a_row_out():
    _, K, Y, _ = problem()
    how = {"C": 2.0, "epsilon": 0.0, "tol": 1e-3, "max_iter": None, "engine_name": "ridge"}
    found = solve_duals(K, Y, sample_weight=np.r_[np.ones(15), np.zeros(5)], **how)
    without = solve_duals(K[:15, :15], Y[:15], **how)
    np.testing.assert_allclose(found.dual_coef[:15], without.dual_coef, atol=1e-9)
    assert not found.dual_coef[15:].any()


def test_a_tube_or_a_box_that_is_no_product_is_refused():
    _, K, Y, rng = problem()
    with pytest.raises(InputError, match="squared errors, which have no tube: epsilon must be 0"):
        kernel_ridge.solve(K, Y, C=1.0, epsilon=0.1)
    with pytest.raises(InputError, match="one factorisation cannot serve any others"):
        kernel_ridge.solve(K, Y, C=rng.uniform(1, 2, size=Y.shape), epsilon=0.0)


def test_the_estimator_takes_it_by_name_and_auto_never_does():
    X, K, Y, _ = problem()
    model = MultiTargetSVR(engine="ridge", C=2.0, epsilon=0.0, gamma=0.3).fit(X, Y)
    expected = kernel_ridge.solve(K, Y, C=2.0, epsilon=0.0)
    np.testing.assert_allclose(model.dual_coef_, expected.dual_coef, atol=1e-8)
    with pytest.raises(InputError, match="epsilon must be 0"):
        MultiTargetSVR(engine="ridge").fit(X, Y)
    assert {choose_engine("auto", np.zeros((3, t))).engine.name for t in (1, 1000)} <= set(ENGINES) - {
        "ridge"
    }


# --- conjugate gradients ------------------------------------------------------------------------------------------


def awkward(kind, n=300, t=12, seed=0):
    """A Gram matrix of one kind, targets that it explains in part, and row noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    if kind == "rows that repeat":
        X = X[rng.integers(0, n // 6, n)]
    squares = ((X[:, None] - X[None]) ** 2).sum(-1)
    K = {
        "ill-conditioned": np.exp(-0.01 * squares),
        "of low rank": X @ X.T,
        "with a large constant": 100 + np.exp(-squares),
        "diagonal": np.eye(n),
    }.get(kind, np.exp(-squares))
    Y = K @ rng.normal(size=(n, t)) / 10 + rng.normal(size=(n, t))
    return K, Y, rng.uniform(0.05, 1, size=n)


@pytest.mark.parametrize(
    "kind",
    ["ill-conditioned", "of low rank", "with a large constant", "diagonal", "rows that repeat", "rbf"],
)
@pytest.mark.parametrize("rows", ["alike", "of unlike noise"])
@pytest.mark.parametrize("few", [False, True])
def test_conjugate_gradients_find_what_the_factorisation_does(monkeypatch, kind, rows, few):
    """Penalties from 1e-6 to 1e6, a preconditioner of few or many columns: fitted values within 1e-5 of the spread."""
    K, Y, weight = awkward(kind)
    C = np.geomspace(1e-6, 1e6, Y.shape[1])[None, :]
    C = C * weight[:, None] if rows != "alike" else C
    expected = kernel_ridge.solve(K, Y, C=C, epsilon=0.0)
    monkeypatch.setattr(kernel_ridge, "ITERATES_FROM", 1)
    if few:
        monkeypatch.setattr(kernel_ridge, "LEAST_RANK", 8)
    found = kernel_ridge.solve(K, Y, C=C, epsilon=0.0)
    assert found.converged.all()
    difference = K @ (found.dual_coef - expected.dual_coef) + found.intercept - expected.intercept
    assert (np.abs(difference).max(axis=0) <= 1e-5 * Y.std(axis=0)).all()
    size = np.abs(found.dual_coef).max(axis=0)
    assert (np.abs(found.dual_coef.sum(axis=0)) <= 1e-7 * size * len(Y) + 1e-12).all()


def test_a_tiny_penalty_is_left_to_the_factorisation_and_the_others_are_not(monkeypatch):
    K, Y, _ = awkward("ill-conditioned")
    factorised = []
    real = kernel_ridge._factorised

    def counted(K, d, Y, penalty):
        factorised.append(np.sort(1 / to_host(penalty)).tolist())
        return real(K, d, Y, penalty)

    monkeypatch.setattr(kernel_ridge, "ITERATES_FROM", 1)
    monkeypatch.setattr(kernel_ridge, "_factorised", counted)
    C = np.r_[np.full(6, 1.0), np.full(6, 1e5)]
    found = kernel_ridge.solve(K, Y, C=C[None, :], epsilon=0.0)
    assert factorised == [pytest.approx([1e5] * 6)]
    assert found.converged.all()


@pytest.mark.parametrize("library", ["torch", "array_api_strict"])
def test_all_array_libraries_iterate_alike(monkeypatch, library):
    K, Y, weight = awkward("rbf", n=120)
    make = (lambda x: torch.asarray(x)) if library == "torch" else array_api_strict.asarray
    C = np.geomspace(1e-2, 1e2, Y.shape[1])[None, :] * weight[:, None]
    expected = kernel_ridge.solve(K, Y, C=C, epsilon=0.0)
    monkeypatch.setattr(kernel_ridge, "ITERATES_FROM", 1)
    found = kernel_ridge.solve(make(K), make(Y), C=make(C), epsilon=0.0)
    assert type(found.dual_coef).__module__.split(".")[0] == library
    fitted = [K @ to_host(one.dual_coef) + to_host(one.intercept) for one in (found, expected)]
    np.testing.assert_allclose(*fitted, atol=1e-5 * Y.std())
