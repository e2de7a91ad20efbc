"""Douglas–Rachford on a stack of Gram matrices: against scikit-learn gene by gene, naive loops, smo, and the duals."""

import array_api_strict
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.svm import SVR

from rapids_pipeline.backend.arrays import to_host
from rapids_pipeline.svr.own_target import douglas_rachford
from rapids_pipeline.svr.own_target.douglas_rachford import (
    Stack,
    float32_suffices,
    gram,
    inverse,
    predicted,
    resolvents,
    solve,
    targets_at_once,
)
from tests.svr.duals import naive_gap, objective


def naive_gram(D, rows, columns, gamma):
    """The kernel of one target, entry by entry; statistics are (n_statistics, rows)."""
    K, rows, columns = np.empty(D.shape), rows.astype(float), columns.astype(float)
    for i in range(D.shape[0]):
        for j in range(D.shape[1]):
            distance = D[i, j] + sum(
                (one - two) ** 2 for one, two in zip(rows[:, i], columns[:, j], strict=True)
            )
            K[i, j] = np.exp(-gamma * distance)
    return K


def problem(n=40, t=6, m=9, seed=0, width=5):
    """D (n, n), D of others (m, n), S (t, 3, n), S of others, gamma, Y (n, t); some rows twice."""
    rng = np.random.default_rng(seed)
    X, S = rng.normal(size=(n + m, width)), rng.normal(size=(t, 3, n + m)).astype(np.float32)
    twice = n // 4
    X[twice : 2 * twice], S[:, :, twice : 2 * twice] = X[:twice], S[:, :, :twice]
    D = ((X[:, None] - X[None, :n]) ** 2).sum(-1)
    Y = rng.standard_t(4, size=(n, t)) + S[:, 0, :n].T
    return D[:n], D[n:], S[:, :, :n], S[:, :, n:], rng.uniform(0.03, 0.3, t), Y


def solved(D, S, gamma, Y, C=1.0, epsilon=0.1, tol=1e-3, max_iter=2000, library=np):
    box = np.broadcast_to(np.asarray(C, float), (len(Y), np.shape(C)[1] if np.ndim(C) == 2 else 1)).copy()
    given = [library.asarray(np.array(x)) for x in (D, S, gamma, Y, box)]
    suited = float32_suffices(*given[1:], tol)
    return solve(*given, suited, epsilon=epsilon, tol=tol, max_iter=max_iter), suited


# --- parts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "within"), [(np.float32, 2e-6), (np.float64, 1e-15)])
def test_gram_matrices_equal_the_formula(dtype, within):
    D, to_others, S, others, gamma, _ = problem()
    between, inside = gram(to_others, others, S, gamma, dtype), gram(D, S, S, gamma, dtype)
    assert between.shape == (6, 9, 40) and between.dtype == dtype
    for t in range(6):
        assert np.abs(between[t] - naive_gram(to_others, others[t], S[t], gamma[t])).max() <= within
        assert np.abs(inside[t] - naive_gram(D, S[t], S[t], gamma[t])).max() <= within


@pytest.mark.parametrize("n", [1, 2, 3, 63, 64, 65, 200])
def test_the_inverse_by_halves_is_the_inverse(n):
    rng = np.random.default_rng(n)
    A, rho = rng.normal(size=(3, n, n)), np.array([0.01, 1.0, 30.0])
    A = A @ A.transpose(0, 2, 1) / n
    found = inverse(A, rho[:, None, None])
    for matrix, step, inverted in zip(A, rho, found, strict=True):
        np.testing.assert_allclose(inverted, np.linalg.inv(matrix + step * np.eye(n)), atol=1e-8 / step)


def test_the_step_is_the_one_of_the_shared_solver():
    """R = ρ (M − M11ᵀM / 1ᵀM1) with M = (K + ρI)⁻¹, of every target."""
    D, _, S, _, gamma, Y = problem(n=20)
    K, rho = gram(D, S, S, gamma, np.float64), np.geomspace(0.01, 50, 6)[None]
    x = Y - Y.mean(axis=0)
    found = resolvents(K, rho) @ (rho * x)
    for t in range(6):
        M = np.linalg.inv(K[t] + rho[0, t] * np.eye(20))
        R = rho[0, t] * (M - np.outer(M.sum(1), M.sum(0)) / M.sum())
        np.testing.assert_allclose(found[:, t], R @ Y[:, t], atol=1e-10)


def test_each_matrix_of_a_stack_multiplies_its_own_column():
    matrices, Z = np.random.default_rng(0).normal(size=(3, 4, 5)), np.arange(15.0).reshape(5, 3)
    expected = np.stack([matrices[t] @ Z[:, t] for t in range(3)], axis=1)
    np.testing.assert_allclose(Stack(matrices) @ Z, expected)
    np.testing.assert_allclose(Stack(matrices).take(np.array([2, 0])) @ Z[:, [2, 0]], expected[:, [2, 0]])


def test_a_stack_is_as_large_as_the_memory_allows(monkeypatch):
    like = np.zeros(1)
    assert targets_at_once(like, 614, np.float32) * 8 * 4 * 614**2 <= douglas_rachford.HOST_BYTES
    assert targets_at_once(like, 100_000, np.float64) == 1
    monkeypatch.setattr(douglas_rachford, "is_on_cuda", lambda _: True)
    monkeypatch.setattr(douglas_rachford, "available_bytes", lambda _: 8 * 10**9)
    assert targets_at_once(like, 500, np.float32) == 4 * 10**9 // (8 * 4 * 500**2)


# --- optima ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tol", "within"), [(1e-3, 2e-3), (1e-6, 5e-6)])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"epsilon": 0.0},
        {"C": 0.05},
        {"C": 100.0},
        {"C": np.linspace(0.1, 2, 40)[:, None]},
        {"C": np.linspace(0, 2, 40)[:, None] * np.linspace(0.5, 3, 6)},
    ],
    ids=["plain", "no tube", "small C", "large C", "box a row", "box a row and target"],
)
def test_equals_scikit_learn_gene_by_gene(how, tol, within):
    D, to_others, S, others, gamma, Y = problem()
    epsilon = how.get("epsilon", 0.1)
    C = np.broadcast_to(how.get("C", 1.0), Y.shape)
    solution, suited = solved(D, S, gamma, Y, tol=tol, **how)
    found = predicted(to_others, others, S, gamma, solution, suited)
    assert solution.converged.all() and suited.all() == (tol == 1e-3 and C.max() < 10)
    for t in range(Y.shape[1]):
        K, beta, kept = naive_gram(D, S[t], S[t], gamma[t]), solution.dual_coef[:, t], C[:, t] > 0
        assert abs(beta.sum()) <= 1e-5 * C.max() and (np.abs(beta) <= C[:, t] * (1 + 1e-6)).all()
        svr = SVR(kernel="precomputed", C=C[:, t].max(), epsilon=epsilon, tol=1e-7)
        svr.fit(K[np.ix_(kept, kept)], Y[kept, t], sample_weight=C[kept, t] / C[:, t].max())
        expected = svr.predict(naive_gram(to_others, others[t], S[t], gamma[t])[:, kept])
        np.testing.assert_allclose(found[:, t], expected, atol=within * max(1, C.max() / 10))
        best = np.zeros(len(Y))
        best[np.flatnonzero(kept)[svr.support_]] = svr.dual_coef_.ravel()
        ours, theirs = (objective(K, Y[:, [t]], x[:, None], epsilon)[0] for x in (beta, best))
        assert ours - theirs <= 1e-6 * np.abs(theirs) + tol * np.abs(beta - best).sum()


def random_problem(rng):
    """Any small problem: few rows, equal rows, constant targets, huge and tiny ones, weights, hard and easy boxes."""
    n, t = int(rng.integers(1, 30)), int(rng.integers(1, 5))
    D, _, S, _, _, Y = problem(n, t, seed=int(rng.integers(2**31)))
    again = rng.integers(0, n, n) if rng.random() < 0.5 else np.arange(n)
    D, S, Y = D[np.ix_(again, again)], S[:, :, again], Y * rng.choice([0.01, 1, 100]) + rng.choice([0, 1e3])
    if rng.random() < 0.3:
        Y[:, 0] = Y[0, 0]
    C = 10 ** rng.uniform(-2, 2) * (rng.uniform(0.1, 1, (n, t)) if rng.random() < 0.5 else np.ones((n, t)))
    return D, S, 10 ** rng.uniform(-3, 1, t), Y, C, rng.random()


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1e-6]))
def test_what_is_called_converged_is_optimal(seed, tol):
    D, S, gamma, Y, C, epsilon = random_problem(np.random.default_rng(seed))
    solution, suited = solved(D, S, gamma, Y, C, epsilon, tol, max_iter=1000)
    for t in range(Y.shape[1]):
        K, beta, C_t = naive_gram(D, S[t], S[t], gamma[t]), solution.dual_coef[:, t], C[:, t]
        assert abs(beta.sum()) <= 2e-5 * C_t.max() and (np.abs(beta) <= C_t * (1 + 1e-6)).all()
        size = np.abs(Y[:, t] - Y[:, t].mean()).max() + C_t.max()
        slack = size * (1e-5 if suited[t] else 1e-12) + 1e-12 * np.abs(Y).max()
        if solution.converged[t]:
            assert naive_gap(K, Y[:, t], beta, C_t * (1 - 1e-6), epsilon) <= tol + slack
        else:
            assert solution.gap[t] > tol and solution.n_iter[t] == 1000


@pytest.mark.parametrize(("tol", "share"), [(1e-3, 0.99), (1e-6, 0.97)])
def test_nearly_every_problem_converges(tol, share):
    rng, converged = np.random.default_rng(1), []
    for _ in range(60):
        converged.extend(solved(*random_problem(rng), tol)[0].converged)
    assert np.mean(converged) >= share


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_rows(n):
    D, _, S, _, gamma, Y = problem(n, 4)
    solution, _ = solved(D, S, gamma, Y, C=100.0, tol=1e-6)
    assert solution.converged.all()
    for t in range(4):
        fitted = naive_gram(D, S[t], S[t], gamma[t]) @ solution.dual_coef[:, t] + solution.intercept[t]
        assert np.abs(fitted - Y[:, t]).max() <= 0.1 + 1e-5  # a box this large lets every row into the tube


def test_constant_targets_and_equal_rows():
    D, to_others, S, others, gamma, Y = problem()
    Y[:, 1] = 2.5
    S[3], gamma[3], S[4], gamma[4] = S[3] * 0, 1e-12, S[4] * 0, 1e9
    solution, suited = solved(D, S, gamma, Y)
    assert solution.converged.all() and not solution.dual_coef[:, 1].any()
    found = predicted(to_others, others, S, gamma, solution, suited)
    np.testing.assert_allclose(found[:, 1], 2.5, atol=1e-6)
    assert np.ptp(found[:, 3]) <= 1e-6  # a kernel of ones
    np.testing.assert_allclose(found[:, 4], solution.intercept[4], atol=1e-6)  # a kernel of zeros
    everywhere = np.ones((len(Y), 6))
    everywhere[1:, 2] = 0  # one row alone has a weight
    alone, _ = solved(D, S, gamma, Y, C=everywhere)
    assert not alone.dual_coef[:, 2].any() and alone.intercept[2] == pytest.approx(Y[0, 2], abs=0.1)


# --- passes, chunks, libraries --------------------------------------------------------------------------------


def test_targets_too_large_for_float32_are_solved_in_float64():
    D, _, S, _, gamma, Y = problem(t=4)
    Y[:, 1] *= 1e3
    S[2] *= 100
    gamma[2] = 1.0
    solution, suited = solved(D, S, gamma, Y + np.array([0, 0, 0, 1e6]))
    assert suited.tolist() == [True, False, False, True]
    alone = [solved(D, S[[t]], gamma[[t]], Y[:, [t]], tol=1e-7)[0] for t in range(4)]
    assert solution.converged.all() and all(one.converged.all() for one in alone)
    for t, one in enumerate(alone):
        K, Y_t = naive_gram(D, S[t], S[t], gamma[t]), Y[:, [t]]
        best, ours = (objective(K, Y_t, x, 0.1)[0] for x in (one.dual_coef, solution.dual_coef[:, [t]]))
        assert ours - best <= 1e-5 * abs(best)
    assert solution.intercept[3] - alone[3].intercept[0] == pytest.approx(1e6, abs=2e-3)


def test_a_target_that_its_first_step_does_not_suit_gets_another(monkeypatch):
    D, _, S, _, gamma, Y = problem()
    Y[:, 2] *= 30
    made = []
    invert = douglas_rachford.resolvents
    monkeypatch.setattr(douglas_rachford, "resolvents", lambda K, rho: made.append(len(K)) or invert(K, rho))
    solution, _ = solved(D, S, gamma, Y, C=0.05)
    assert solution.converged.all() and sum(made) > 6
    monkeypatch.setattr(douglas_rachford, "ADAPT_EVERY", 10**9)
    assert not solved(D, S, gamma, Y, C=0.05, max_iter=200)[0].converged.all()


def test_the_limit_of_iterations_holds_and_the_gap_is_told():
    D, _, S, _, gamma, Y = problem()
    for limit in (1, 7, 250):
        solution, _ = solved(D, S, gamma, Y, tol=1e-9, max_iter=limit)
        assert solution.n_iter.max() <= limit
    stopped, _ = solved(D, S, gamma, Y, max_iter=3)
    assert not stopped.converged.any() and (stopped.n_iter == 3).all() and (stopped.gap > 1e-3).all()


@pytest.mark.parametrize("tol", [1e-3, 1e-6])
def test_targets_neither_meet_nor_depend_on_the_stack(monkeypatch, tol):
    D, _, S, _, gamma, Y = problem(t=9)
    whole, _ = solved(D, S, gamma, Y, tol=tol)
    monkeypatch.setattr(douglas_rachford, "HOST_BYTES", 4 * 40**2 * 4 * 8)
    order = np.array([3, 0, 8, 5, 1, 2, 7, 4, 6])
    parts, _ = solved(D, S[order], gamma[order], Y[:, order], tol=tol)
    np.testing.assert_allclose(parts.dual_coef, whole.dual_coef[:, order], atol=10 * tol)
    np.testing.assert_allclose(parts.intercept, whole.intercept[order], atol=2 * tol)


@pytest.fixture(params=["array_api_strict", "torch"])
def library(request):
    return array_api_strict if request.param == "array_api_strict" else pytest.importorskip("torch")


@pytest.mark.parametrize("tol", [1e-3, 1e-6])
def test_other_array_libraries_equal_numpy(library, tol):
    D, to_others, S, others, gamma, Y = problem(n=70)
    Y[:, 3] *= 100  # too large for float32
    here, suited = solved(D, S, gamma, Y, tol=tol)
    there, _ = solved(D, S, gamma, Y, tol=tol, library=library)
    assert type(there.dual_coef) is type(library.asarray(D)) and to_host(there.converged).all()
    given = [library.asarray(np.array(x)) for x in (to_others, others, S, gamma)]
    found, expected = predicted(*given, there, suited), predicted(to_others, others, S, gamma, here, suited)
    moved = to_host(there.intercept) - to_host(here.intercept)
    moved[np.arange(6) != 3] = 0  # no support vector of gene 3 is free, so every b of an interval is optimal
    np.testing.assert_allclose(to_host(found) - moved, expected, atol=2 * tol)
