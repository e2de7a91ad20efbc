"""SMO on factored and dense kernels: against a naive loop, scikit-learn, and the optimality conditions."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.svm import SVR

from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.svr import smo
from rapids_pipeline.svr.douglas_rachford import FLOAT32_ROUNDING as PRODUCT_ROUNDING
from rapids_pipeline.svr.smo import FactoredKernel, Grouping, SmoOptions, solve_dense, solve_factored

pytest.importorskip("numba")

OPTIONS = SmoOptions(n_threads=1)


def problem(targets=3, levels=(9, 4), n=40, tests=12, statistics=(6, 2), gamma=None, seed=0):
    """Random levels, shared features and statistics; returns the kernel, rows, test rows, Y and naive features."""
    rng = np.random.default_rng(seed)
    shared = [rng.normal(size=(g, 3)) for g in levels]
    stats = [rng.normal(size=(targets, g, s)) for g, s in zip(levels, statistics, strict=True)]
    squared = [((x[:, None] - x[None]) ** 2).sum(-1) for x in shared]
    gamma = np.full(targets, 0.1) if gamma is None else np.broadcast_to(gamma, (targets,)).astype(float)
    kernel = FactoredKernel(Grouping(squared[0], stats[0]), Grouping(squared[1], stats[1]), gamma)
    rows, test_rows = (np.stack([rng.integers(0, g, size) for g in levels]) for size in (n, tests))
    Y = rng.standard_t(4, size=(n, targets))
    return kernel, rows, test_rows, Y, (shared, stats)


def features(parts, rows, target):
    """The feature matrix of one target, built row by row as nobody should."""
    shared, stats = parts
    return np.array(
        [
            np.concatenate([shared[0][a], shared[1][b], stats[0][target, a], stats[1][target, b]])
            for a, b in rows.T
        ]
    )


def gram(parts, rows, others, target, gamma):
    x, z = features(parts, rows, target), features(parts, others, target)
    return np.exp(-gamma * ((x[:, None] - z[None]) ** 2).sum(-1))


def naive_gap(K, y, beta, C, epsilon):
    """U − L, one row after the other, from the formula of DESIGN."""
    f = y - K @ beta
    up = [f[i] - (epsilon if beta[i] >= 0 else -epsilon) for i in range(len(y)) if beta[i] < C[i]]
    down = [f[i] - (epsilon if beta[i] > 0 else -epsilon) for i in range(len(y)) if beta[i] > -C[i]]
    return max(up) - min(down)


def naive_intercept(K, y, beta, C, epsilon):
    f = y - K @ beta
    free = [f[i] - epsilon * np.sign(beta[i]) for i in range(len(y)) if 0 < abs(beta[i]) < C[i]]
    if free:
        return np.mean(free)
    up = [f[i] - (epsilon if beta[i] >= 0 else -epsilon) for i in range(len(y)) if beta[i] < C[i]]
    down = [f[i] - (epsilon if beta[i] > 0 else -epsilon) for i in range(len(y)) if beta[i] > -C[i]]
    return (max(up) + min(down)) / 2


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


def objective(K, y, beta, epsilon):
    return 0.5 * beta @ K @ beta - y @ beta + epsilon * np.abs(beta).sum()


def scikit_learn(K, K_test, y, C, epsilon, tol=1e-6, weight=None):
    """Dual coefficients and predictions of libsvm, which keeps K in float32."""
    model = SVR(kernel="precomputed", C=C, epsilon=epsilon, tol=tol).fit(K, y, sample_weight=weight)
    beta = np.zeros(len(y))
    beta[model.support_] = model.dual_coef_[0]
    return beta, model.predict(K_test)


def assert_feasible_and_optimal(K, Y, result, C, epsilon, tol, *, shared=False):
    """Check every target in float64.

    Where `shared`, gap and intercept as reported may be off by the rounding of a product in float32, which the solver
    allows itself where a bound on it is below tol.
    """
    for t, beta in enumerate(result.dual_coef):
        assert abs(beta.sum()) <= 1e-10 * max(1, np.max(C))
        assert (np.abs(beta) <= C).all()
        gap = naive_gap(K(t), Y[:, t], beta, C, epsilon)
        scale = 1 + np.abs(Y[:, t]).max() + np.abs(beta).sum()
        assert gap <= tol + 1e-12 * scale
        bound = PRODUCT_ROUNDING * (np.ptp(Y[:, t]) + np.max(C) * np.abs(K(t)).max())
        within = bound / 4 if shared and bound < tol else 1e-12 * scale
        np.testing.assert_allclose(result.gap[t], gap, atol=within)
        b = naive_intercept(K(t), Y[:, t], beta, C, epsilon)
        np.testing.assert_allclose(result.intercept[t], b, atol=within)
    assert result.converged.all()


def test_equals_a_naive_loop():
    kernel, rows, test_rows, Y, parts = problem(n=25)
    result = solve_factored(kernel, rows, Y, replace(OPTIONS, tol=1e-7), test_rows=test_rows)
    for t in range(3):
        K = gram(parts, rows, rows, t, 0.1)
        beta = naive_smo(K, Y[:, t], 1.0, 0.1, 1e-8)
        b = naive_intercept(K, Y[:, t], beta, np.ones(25), 0.1)
        expected = gram(parts, test_rows, rows, t, 0.1) @ beta + b
        np.testing.assert_allclose(result.predicted[t], expected, atol=2e-7)


@pytest.mark.parametrize(("tol", "within"), [(1e-3, 1e-3), (1e-6, 1e-5)])
@pytest.mark.parametrize("C", [0.01, 1.0, 10.0])
def test_predictions_equal_scikit_learn_on_50_targets(tol, within, C):
    kernel, rows, test_rows, Y, parts = problem(targets=50, levels=(40, 6), n=120, seed=3)
    result = solve_factored(kernel, rows, Y, replace(OPTIONS, tol=tol, C=C), test_rows=test_rows)
    assert_feasible_and_optimal(
        lambda t: gram(parts, rows, rows, t, 0.1), Y, result, np.full(120, C), 0.1, tol
    )
    for t in range(50):
        K, K_test = gram(parts, rows, rows, t, 0.1), gram(parts, test_rows, rows, t, 0.1)
        beta, expected = scikit_learn(K, K_test, Y[:, t], C, 0.1)
        np.testing.assert_allclose(result.predicted[t], expected, atol=within)
        best = objective(K, Y[:, t], beta, 0.1)
        assert objective(K, Y[:, t], result.dual_coef[t], 0.1) - best <= 1e-6 * abs(best)


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("gamma", [0.001, 0.1, 10.0])
def test_dense_equals_scikit_learn_over_the_whole_range(C, epsilon, gamma):
    _, rows, test_rows, Y, parts = problem(targets=4, levels=(30, 5), n=70, seed=5)
    # rounded to float32, as libsvm stores K: at C = 100 that alone moves its predictions by 1e-4
    K = gram(parts, rows, rows, 0, gamma).astype(np.float32).astype(float)
    K_test = gram(parts, test_rows, rows, 0, gamma)
    for tol, within in ((1e-3, 1e-3), (1e-6, 1e-5)):
        result = solve_dense(K, Y, SmoOptions(C=C, epsilon=epsilon, tol=tol, n_threads=1))
        assert_feasible_and_optimal(lambda t: K, Y, result, np.full(70, C), epsilon, tol, shared=True)
        for t in range(4):
            _, expected = scikit_learn(K, K_test, Y[:, t], C, epsilon, tol=1e-7)
            predicted = K_test @ result.dual_coef[t] + result.intercept[t]
            np.testing.assert_allclose(predicted, expected, atol=within)


def test_features_built_per_target_and_gamma_scale_equal_the_factored_kernel():
    kernel, rows, test_rows, Y, parts = problem(targets=6, levels=(20, 6), n=80, seed=1)
    shared = np.hstack([parts[0][0][rows[0]], parts[0][1][rows[1]]])
    gamma = smo.scale_gamma(
        rows,
        *parts[1],
        n_shared=shared.shape[1],
        shared_sum=shared.sum(),
        shared_sum_of_squares=(shared**2).sum(),
    )
    kernel = replace(kernel, gamma=gamma)
    result = solve_factored(kernel, rows, Y, OPTIONS, test_rows=test_rows)
    for t in range(6):
        X = features(parts, rows, t)
        model = SVR(kernel="rbf", gamma="scale", tol=1e-6).fit(X, Y[:, t])
        np.testing.assert_allclose(gamma[t], model._gamma, rtol=1e-12)
        np.testing.assert_allclose(
            result.predicted[t], model.predict(features(parts, test_rows, t)), atol=1e-3
        )
    again = smo.predict_factored(kernel, rows, test_rows, result.dual_coef, result.intercept)
    np.testing.assert_allclose(again, result.predicted, atol=1e-12)


def test_gamma_scale_of_constant_features_is_one():
    rows = np.zeros((2, 5), int)
    constant = np.full((2, 1, 3), 0.7)
    none = np.zeros((2, 1, 0))
    gamma = smo.scale_gamma(rows, constant, none, n_shared=2, shared_sum=7.0, shared_sum_of_squares=4.9)
    np.testing.assert_array_equal(gamma, 1.0)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 40),
    levels=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    statistics=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    C=st.floats(0.01, 100),
    epsilon=st.floats(0, 1),
    gamma=st.floats(0.001, 10),
    scale=st.sampled_from([0.01, 1.0, 100.0]),
    shift=st.sampled_from([0.0, 1000.0]),
    tol=st.sampled_from([1e-3, 1e-6]),
    seed=st.integers(0, 10_000),
)
def test_any_problem_meets_the_optimality_conditions(
    n, levels, statistics, C, epsilon, gamma, scale, shift, tol, seed
):
    kernel, rows, _, Y, parts = problem(2, levels, n, 1, statistics, gamma, seed)
    Y = scale * Y + shift
    Y[:, 1] = Y[0, 1]  # a constant target
    result = solve_factored(kernel, rows, Y, SmoOptions(C=C, epsilon=epsilon, tol=tol, n_threads=1))
    box = np.full(n, C)
    assert_feasible_and_optimal(lambda t: gram(parts, rows, rows, t, gamma), Y, result, box, epsilon, tol)
    np.testing.assert_array_equal(result.dual_coef[1], 0.0)
    np.testing.assert_allclose(result.intercept[1], Y[0, 1], rtol=1e-12)


@pytest.mark.parametrize("size", [0.0, 1e-6, 100.0])
def test_dense_solves_linear_kernels_of_any_size(size):
    rng = np.random.default_rng(4)
    X, Y = rng.normal(size=(50, 5)), rng.standard_t(4, size=(50, 2))
    K = size * (X @ X.T)
    result = solve_dense(K, Y, OPTIONS)
    assert_feasible_and_optimal(lambda t: K, Y, result, np.ones(50), 0.1, 1e-3, shared=True)


def test_dense_and_factored_agree_where_every_row_is_its_own_level():
    kernel, _, _, Y, parts = problem(targets=2, levels=(50, 50), n=50, seed=8)
    rows = np.stack([np.arange(50), np.random.default_rng(0).permutation(50)])
    options = replace(OPTIONS, C=100.0, tol=1e-8)
    factored = solve_factored(kernel, rows, Y, options, test_rows=rows)
    for t in range(2):
        K = gram(parts, rows, rows, t, 0.1)
        dense = solve_dense(K, Y[:, [t]], options)
        np.testing.assert_allclose(factored.predicted[t], K @ dense.dual_coef[0] + dense.intercept, atol=1e-7)


def test_order_of_rows_and_of_targets_does_not_matter():
    kernel, rows, test_rows, Y, _ = problem(targets=3, n=60)
    options = replace(OPTIONS, tol=1e-8)
    result = solve_factored(kernel, rows, Y, options, test_rows=test_rows)
    order = np.random.default_rng(1).permutation(60)
    permuted = solve_factored(kernel, rows[:, order], Y[order], options, test_rows=test_rows)
    np.testing.assert_allclose(permuted.predicted, result.predicted, atol=1e-7)
    alone = FactoredKernel(
        *(replace(side, statistics=side.statistics[2:]) for side in (kernel.first, kernel.second)),
        kernel.gamma[2:],
    )
    np.testing.assert_array_equal(
        solve_factored(alone, rows, Y[:, 2:], options, test_rows=test_rows).predicted[0], result.predicted[2]
    )


def test_rows_repeated_k_times_equal_a_box_k_times_as_wide():
    kernel, rows, test_rows, Y, _ = problem(n=30)
    once = solve_factored(kernel, rows, Y, replace(OPTIONS, C=3.0, tol=1e-8), test_rows=test_rows)
    rows3, Y3 = np.tile(rows, 3), np.tile(Y, (3, 1))
    thrice = solve_factored(kernel, rows3, Y3, replace(OPTIONS, tol=1e-8), test_rows=test_rows)
    np.testing.assert_allclose(thrice.predicted, once.predicted, atol=1e-7)


def test_two_rows_have_the_closed_form():
    Y = np.array([[3.0], [-1.0]])
    K = np.array([[1.0, 0.5], [0.5, 1.0]])
    free = solve_dense(K, Y, SmoOptions(C=10.0, epsilon=0.1, n_threads=1))
    np.testing.assert_allclose(free.dual_coef[0], [3.8, -3.8], rtol=1e-6)  # (4 − 2ε) / (2 − 2·0.5)
    bound = solve_dense(K, Y, SmoOptions(C=1.0, epsilon=0.1, n_threads=1))
    np.testing.assert_array_equal(bound.dual_coef[0], [1.0, -1.0])
    np.testing.assert_allclose(bound.intercept, 1.0)


def test_sample_weights_and_a_box_per_target():
    kernel, rows, test_rows, Y, parts = problem(targets=2, n=50)
    weight = np.random.default_rng(2).uniform(0.2, 2, 50)
    weight[7] = 0
    C = np.array([0.5, 4.0])
    options = SmoOptions(C=C, sample_weight=weight, tol=1e-7, n_threads=1)
    result = solve_factored(kernel, rows, Y, options, test_rows=test_rows)
    np.testing.assert_array_equal(result.dual_coef[:, 7], 0.0)
    kept = np.flatnonzero(weight)
    for t in range(2):
        K, K_test = gram(parts, rows, rows, t, 0.1), gram(parts, test_rows, rows, t, 0.1)
        _, expected = scikit_learn(
            K[np.ix_(kept, kept)], K_test[:, kept], Y[kept, t], C[t], 0.1, weight=weight[kept]
        )
        np.testing.assert_allclose(result.predicted[t], expected, atol=1e-5)
    matrix = smo.solve(
        gram(parts, rows, rows, 0, 0.1), Y, C=(C[None] * np.maximum(weight, 1e-9)[:, None]), tol=1e-7
    )
    np.testing.assert_allclose(matrix.dual_coef[:, 0], result.dual_coef[0], atol=1e-5)


def test_a_start_at_the_optimum_needs_no_iterations_and_any_start_ends_there():
    kernel, rows, _, Y, parts = problem(n=60)
    first = solve_factored(kernel, rows, Y, OPTIONS)
    again = solve_factored(kernel, rows, Y, OPTIONS, initial=first.dual_coef)
    np.testing.assert_array_equal(again.n_iter, 0)
    wild = np.random.default_rng(0).normal(size=first.dual_coef.shape) * 5 + 1
    result = solve_factored(kernel, rows, Y, OPTIONS, initial=wild)
    assert_feasible_and_optimal(lambda t: gram(parts, rows, rows, t, 0.1), Y, result, np.ones(60), 0.1, 1e-3)


def test_a_target_that_runs_out_of_iterations_is_marked():
    kernel, rows, _, Y, parts = problem(n=60)
    Y[:, 1] = 2.0
    result = solve_factored(kernel, rows, Y, replace(OPTIONS, max_iter=5))
    np.testing.assert_array_equal(result.converged, [False, True, False])
    np.testing.assert_array_equal(result.n_iter, [5, 0, 5])
    gap = naive_gap(gram(parts, rows, rows, 0, 0.1), Y[:, 0], result.dual_coef[0], np.ones(60), 0.1)
    np.testing.assert_allclose(result.gap[0], gap, rtol=1e-10)


def test_chunks_and_threads_change_nothing():
    kernel, rows, test_rows, Y, _ = problem(targets=150, n=30)

    class Counter:
        total = steps = 0

        def start(self, total):
            self.total = total

        def advance(self, steps=1):
            self.steps += steps

    counter = Counter()
    one = solve_factored(kernel, rows, Y, OPTIONS, test_rows=test_rows)
    two = solve_factored(
        kernel, rows, Y, replace(OPTIONS, n_threads=2), test_rows=test_rows, progress=counter
    )
    np.testing.assert_array_equal(one.dual_coef, two.dual_coef)
    np.testing.assert_array_equal(one.predicted, two.predicted)
    assert counter.total == counter.steps == 3


def test_float32_input_and_output():
    kernel, rows, _, Y, _ = problem()
    small = FactoredKernel(
        *(replace(g, statistics=g.statistics.astype(np.float32)) for g in (kernel.first, kernel.second)),
        kernel.gamma.astype(np.float32),
    )
    result = solve_factored(small, rows, Y.astype(np.float32), replace(OPTIONS, dtype=np.float32))
    assert result.dual_coef.dtype == np.float32 and result.gap.dtype == np.float64
    np.testing.assert_allclose(
        result.dual_coef, solve_factored(kernel, rows, Y, OPTIONS).dual_coef, atol=1e-3
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": np.full((2, 40), 9)}, "levels outside"),
        ({"rows": np.zeros((2, 40))}, "must be integers"),
        ({"Y": np.zeros((40, 2))}, "Y must be"),
        ({"Y": np.full((40, 3), np.nan)}, "not finite"),
        ({"options": SmoOptions(C=0.0)}, "C must be positive"),
        ({"options": SmoOptions(epsilon=-1.0)}, "epsilon"),
        ({"options": SmoOptions(sample_weight=np.zeros(40))}, "sample_weight"),
        ({"initial": np.zeros((3, 39))}, "initial must be"),
    ],
)
def test_what_cannot_be_used_is_refused(change, message):
    kernel, rows, _, Y, _ = problem()
    with pytest.raises(InputError, match=message):
        solve_factored(**{"kernel": kernel, "rows": rows, "Y": Y, **change})


def test_missing_numba_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapids_pipeline.svr.smo_kernels", None)
    with pytest.raises(UnavailableError, match="pip install"):
        solve_dense(np.eye(2), np.zeros((2, 1)))


def test_importing_the_solver_does_not_import_numba():
    code = "import sys, rapids_pipeline.svr.smo; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
