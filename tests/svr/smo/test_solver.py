"""SMO on one Gram matrix for many targets: against a naive loop, scikit-learn, and the optimality conditions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.svr.smo import pairs, solver
from rapids_pipeline.svr.smo.solver import PRODUCT_ROUNDING, WarmStart, in_chunks, solve
from tests.svr.duals import naive_gap, naive_intercept, predicted, problem, scikit_learn


def naive_smo(K, y, C, epsilon, tol):
    """First-order SMO that stops every step at zeros: slow, short and independent of the solver."""
    beta = np.zeros(len(y))
    for _ in range(100_000):
        f = y - K @ beta
        up = np.where(beta < C, f - np.where(beta >= 0, epsilon, -epsilon), -np.inf)
        down = np.where(beta > -C, f - np.where(beta > 0, epsilon, -epsilon), np.inf)
        i, j = int(np.argmax(up)), int(np.argmin(down))
        if up[i] - down[j] <= tol:
            break
        room_i = -beta[i] if beta[i] < 0 else C - beta[i]
        room_j = beta[j] if beta[j] > 0 else C + beta[j]
        step = min((up[i] - down[j]) / max(K[i, i] + K[j, j] - 2 * K[i, j], 1e-12), room_i, room_j)
        beta[i], beta[j] = beta[i] + step, beta[j] - step
    return beta


def assert_feasible_and_optimal(K, Y, solution, C, epsilon, tol):
    """Check every target in float64; gap and intercept as reported may be off by a rounding far below tol."""
    C = np.broadcast_to(C, Y.shape)
    for t, beta in enumerate(solution.dual_coef.T):
        cap = C[:, t]
        assert abs(beta.sum()) <= 1e-10 * max(1, cap.max())
        assert (np.abs(beta) <= cap).all()
        gap = naive_gap(K, Y[:, t], beta, cap, epsilon)
        scale = 1 + np.abs(Y[:, t]).max() + np.abs(beta).sum() * np.abs(K).max()
        assert gap <= tol + 1e-12 * scale
        bound = PRODUCT_ROUNDING * (np.ptp(Y[:, t]) + cap.max() * np.abs(K).max())
        # the solver judges in float32 where the largest distance from its centre (half the range or more) allows it
        allowed = bound - PRODUCT_ROUNDING * np.ptp(Y[:, t]) / 2
        within = bound / 4 if allowed < tol else 1e-12 * scale
        np.testing.assert_allclose(solution.gap[t], gap, atol=within)
        b = naive_intercept(K, Y[:, t], beta, cap, epsilon)
        np.testing.assert_allclose(solution.intercept[t], b, atol=within)
    assert solution.converged.all()


def test_equals_a_naive_loop():
    K, K_test, Y = problem(n=25)
    solution = solve(K, Y, tol=1e-7)
    for t in range(3):
        beta = naive_smo(K, Y[:, t], 1.0, 0.1, 1e-8)
        expected = K_test @ beta + naive_intercept(K, Y[:, t], beta, np.ones(25), 0.1)
        np.testing.assert_allclose(predicted(solution, K_test)[:, t], expected, atol=2e-7)


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("gamma", [0.001, 0.1, 10.0])
def test_equals_scikit_learn_over_the_whole_range(C, epsilon, gamma):
    K, K_test, Y = problem(targets=4, n=70, gamma=gamma, seed=5)
    # rounded to float32, as libsvm stores K: at C = 100 that alone moves its predictions by 1e-4
    K = K.astype(np.float32).astype(float)
    for tol, within in ((1e-3, 1e-3), (1e-6, 1e-5)):
        solution = solve(K, Y, C=C, epsilon=epsilon, tol=tol)
        assert_feasible_and_optimal(K, Y, solution, C, epsilon, tol)
        for t in range(4):
            expected = scikit_learn(K, K_test, Y[:, t], C, epsilon, tol=1e-7)
            np.testing.assert_allclose(predicted(solution, K_test)[:, t], expected, atol=within)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 40),
    rank=st.integers(1, 6),
    C=st.floats(0.01, 100),
    epsilon=st.floats(0, 1),
    gamma=st.floats(0.001, 10),
    scale=st.sampled_from([0.01, 1.0, 100.0]),
    shift=st.sampled_from([0.0, 1000.0]),
    tol=st.sampled_from([1e-3, 1e-6]),
    seed=st.integers(0, 10_000),
)
def test_any_problem_meets_the_optimality_conditions(n, rank, C, epsilon, gamma, scale, shift, tol, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, rank))[rng.integers(0, n, n)]  # rows repeat
    K = np.exp(-gamma * ((X[:, None] - X[None]) ** 2).sum(-1))
    Y = scale * rng.standard_t(4, size=(n, 2)) + shift
    Y[:, 1] = Y[0, 1]  # a constant target
    solution = solve(K, Y, C=C, epsilon=epsilon, tol=tol)
    assert_feasible_and_optimal(K, Y, solution, C, epsilon, tol)
    np.testing.assert_array_equal(solution.dual_coef[:, 1], 0.0)
    np.testing.assert_allclose(solution.intercept[1], Y[0, 1], rtol=1e-12)


@pytest.mark.parametrize("size", [0.0, 1e-6, 100.0])
def test_linear_kernels_of_any_size(size):
    rng = np.random.default_rng(4)
    X, Y = rng.normal(size=(50, 5)), rng.standard_t(4, size=(50, 2))
    K = size * (X @ X.T)
    assert_feasible_and_optimal(K, Y, solve(K, Y), 1.0, 0.1, 1e-3)


def test_order_of_rows_does_not_matter():
    K, K_test, Y = problem(n=60)
    order = np.random.default_rng(1).permutation(60)
    solution, permuted = solve(K, Y, tol=1e-8), solve(K[np.ix_(order, order)], Y[order], tol=1e-8)
    np.testing.assert_allclose(predicted(permuted, K_test[:, order]), predicted(solution, K_test), atol=1e-7)


def test_rows_repeated_k_times_equal_a_box_k_times_as_wide():
    K, K_test, Y = problem(n=30)
    once = predicted(solve(K, Y, C=3.0, tol=1e-8), K_test)
    thrice = predicted(solve(np.tile(K, (3, 3)), np.tile(Y, (3, 1)), tol=1e-8), np.tile(K_test, (1, 3)))
    np.testing.assert_allclose(thrice, once, atol=1e-7)


def test_two_rows_have_the_closed_form():
    K, Y = np.array([[1.0, 0.5], [0.5, 1.0]]), np.array([[3.0], [-1.0]])
    free = solve(K, Y, C=10.0, epsilon=0.1)
    np.testing.assert_allclose(free.dual_coef[:, 0], [3.8, -3.8], rtol=1e-6)  # (4 − 2ε) / (2 − 2·0.5)
    bound = solve(K, Y, C=1.0, epsilon=0.1)
    np.testing.assert_array_equal(bound.dual_coef[:, 0], [1.0, -1.0])
    np.testing.assert_allclose(bound.intercept, 1.0)


def test_a_box_for_each_row_and_target():
    K, K_test, Y = problem(targets=2, n=50)
    weight, C = np.random.default_rng(2).uniform(0.2, 2, 50), np.array([0.5, 4.0])
    box = C[None] * weight[:, None]
    solution = solve(K, Y, C=box, tol=1e-7)
    assert_feasible_and_optimal(K, Y, solution, box, 0.1, 1e-7)
    for t in range(2):
        expected = scikit_learn(K, K_test, Y[:, t], C[t], 0.1, weight=weight)
        np.testing.assert_allclose(predicted(solution, K_test)[:, t], expected, atol=1e-5)
    K, _, Y = problem(130, 90)
    box = np.random.default_rng(1).uniform(0.05, 3, Y.shape)
    assert_feasible_and_optimal(K, Y, solve(K, Y, C=box), box, 0.1, 1e-3)


def test_a_target_that_runs_out_of_iterations_is_marked():
    K, _, Y = problem(n=60)
    Y[:, 1] = 2.0
    solution = solve(K, Y, max_iter=5)
    np.testing.assert_array_equal(solution.converged, [False, True, False])
    np.testing.assert_array_equal(solution.n_iter, [5, 0, 5])
    gap = naive_gap(K, Y[:, 0], solution.dual_coef[:, 0], np.ones(60), 0.1)
    np.testing.assert_allclose(solution.gap[0], gap, rtol=1e-5)


# --- the start, the check and the targets that go on by themselves -------------------------------------------


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 2.0])
@pytest.mark.parametrize("tol", [1e-3, 1e-6])
def test_the_start_changes_the_iterations_and_not_the_optimum(monkeypatch, C, epsilon, tol):
    K, _, Y = problem(130, 90)
    assert WarmStart.build(K, Y.shape[1]) is not None
    warm = solve(K, Y, C=C, epsilon=epsilon, tol=tol)
    monkeypatch.setattr(solver, "ROWS_PER_TARGET", 0)
    assert WarmStart.build(K, Y.shape[1]) is None
    cold = solve(K, Y, C=C, epsilon=epsilon, tol=tol)
    for solution in (warm, cold):
        assert_feasible_and_optimal(K, Y, solution, C, epsilon, tol)
    assert np.abs(predicted(warm, K) - predicted(cold, K)).max() <= 2 * tol
    if C == 1.0:
        assert warm.n_iter.sum() <= cold.n_iter.sum()


@pytest.mark.parametrize("value", [0.0, 1.0, np.ones((40, 40)), np.zeros((40, 40)), -np.eye(40)])
def test_no_start_is_made_from_a_matrix_without_a_scale(value):
    K = np.eye(40) * value if np.ndim(value) == 0 else value
    start = WarmStart.build(K, 1000)
    assert start is None or np.isfinite(start.R).all()


def test_what_the_check_finds_not_done_goes_on_in_float64(monkeypatch):
    K, _, Y = problem(130, 90)
    asked, original = [], solver.solve_part

    def recorded(*arguments):
        left = original(*arguments)
        asked.extend(left)
        return left

    monkeypatch.setattr(solver, "solve_part", recorded)
    solution = solve(K, Y, tol=1e-9)
    assert asked  # float32 cannot reach it
    assert_feasible_and_optimal(K, Y, solution, 1.0, 0.1, 1e-9)


@pytest.mark.parametrize("tol", [1e-3, 1e-8])
def test_one_target_by_itself_reaches_the_same_optimum_from_any_feasible_start(tol):
    K, _, Y = problem(n=60)
    expected, half, beta = solve(K, Y[:, :1], tol=tol), 0.5 * np.diagonal(K), np.zeros(60)
    beta[:2] = 0.7, -0.7
    works = [pairs.work_on(pairs.table_of(K, dtype), half) for dtype in (np.float32, np.float64)]
    made, gap, b = pairs.solve_alone(Y[:, 0].copy(), beta, np.ones(60), 0.1, tol, 10_000, *works)
    assert gap <= tol and 0 < made < 10_000
    np.testing.assert_allclose(naive_gap(K, Y[:, 0], beta, np.ones(60), 0.1), gap, atol=1e-12)
    np.testing.assert_allclose(K @ beta + b, predicted(expected, K)[:, 0], atol=2 * tol)
    again, _, _ = pairs.solve_alone(Y[:, 0].copy(), beta, np.ones(60), 0.1, tol, 10_000, *works)
    assert again == 0


def test_iterations_are_counted_over_both_passes_and_never_more_than_allowed():
    K, _, Y = problem(130, 90)
    for limit in (1, 7, 40):
        solution = solve(K, Y, tol=1e-9, max_iter=limit)
        assert (solution.n_iter <= limit).all() and not solution.converged.all()
        beta = solution.dual_coef
        assert np.abs(beta).max() <= 1 and np.abs(beta.sum(axis=0)).max() < 1e-10


@pytest.mark.parametrize("tol", [1e-3, 1e-9])
def test_threads_change_nothing_and_neighbours_nothing_beyond_the_tolerance(tol):
    K, _, Y = problem(600 if tol > 1e-6 else 300, 60)
    one, two = (solve(K, Y, tol=tol, n_threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one.dual_coef, two.dual_coef)
    some = solve(K, Y[:, 100:], tol=tol)
    np.testing.assert_allclose(predicted(some, K), predicted(one, K)[:, 100:], atol=max(tol, 1e-8))


def test_chunks_are_run_in_order_and_counted():
    class Counter(Progress):
        total = steps = 0

        def start(self, total):
            self.total = total

        def advance(self, steps=1):
            self.steps += steps

    for threads in (1, 3):
        counter = Counter()
        assert in_chunks(lambda part: (part.start, part.stop), 10, 4, threads, counter) == [
            (0, 4),
            (4, 8),
            (8, 10),
        ]
        assert counter.total == counter.steps == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"K": np.ones((40, 39))}, "K must be square"),
        ({"Y": np.zeros((39, 2))}, "K must be square and Y"),
        ({"Y": np.zeros(40)}, "K must be square and Y"),
        ({"Y": np.full((40, 3), np.nan)}, "not finite"),
        ({"K": np.full((40, 40), np.inf)}, "not finite"),
    ],
)
def test_what_cannot_be_used_is_refused(change, message):
    K, _, Y = problem()
    with pytest.raises(InputError, match=message):
        solve(**{"K": K, "Y": Y, **change})
