"""The dual: Gram matrices against naive loops and scikit-learn; feasible points and optimality against loops."""

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from sklearn.metrics.pairwise import linear_kernel, rbf_kernel
from sklearn.svm import SVR

from rapids_pipeline.backend.arrays import to_host
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.svr import dual
from rapids_pipeline.svr.dual import (
    DualSolution,
    GramTable,
    intercept_of,
    judged,
    make_feasible,
    optimality_gap,
    scale_gamma,
    squared_distances,
)

ROWS, COLUMNS = np.array([0, 3, 5, 7, 8]), np.array([9, 1, 3])


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(12, 4)) * 3


def naive(X, rows, columns, kernel, gamma):
    K = np.empty((len(rows), len(columns)))
    for i, a in enumerate(rows):
        for j, b in enumerate(columns):
            if kernel == "linear":
                K[i, j] = sum(X[a, f] * X[b, f] for f in range(X.shape[1]))
            else:
                K[i, j] = np.exp(-gamma * sum((X[a, f] - X[b, f]) ** 2 for f in range(X.shape[1])))
    return K


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_equals_a_naive_loop(X, kernel):
    K = GramTable(X, kernel, 0.07).gram(ROWS, COLUMNS, 0.07)
    assert K.dtype == np.float64
    np.testing.assert_allclose(K, naive(X, ROWS, COLUMNS, kernel, 0.07), rtol=1e-10)


def test_equals_scikit_learn(X):
    rbf = GramTable(X, "rbf", 0.2).gram(ROWS, COLUMNS, 0.2)
    np.testing.assert_allclose(rbf, rbf_kernel(X[ROWS], X[COLUMNS], gamma=0.2), rtol=1e-10)
    linear = GramTable(X, "linear").gram(ROWS, COLUMNS, 1.0)
    np.testing.assert_allclose(linear, linear_kernel(X[ROWS], X[COLUMNS]), rtol=1e-12)


def test_float32_input_is_computed_in_float64(X):
    single = X.astype(np.float32)
    K = GramTable(single, "rbf", 0.2).gram(ROWS, COLUMNS, 0.2)
    np.testing.assert_array_equal(
        K, GramTable(single.astype(np.float64), "rbf", 0.2).gram(ROWS, COLUMNS, 0.2)
    )


def test_gamma_scale_is_scikit_learns_on_the_training_rows_only(X):
    table = GramTable(X)
    model = SVR(gamma="scale").fit(X[ROWS], np.arange(5.0))
    assert table.gamma_of(ROWS) == pytest.approx(model._gamma, rel=1e-12)
    others = X.copy()
    others[[1, 2, 4, 6, 9, 10, 11]] += 100  # rows outside the fold
    assert GramTable(others).gamma_of(ROWS) == table.gamma_of(ROWS)


def test_gamma_of_constant_features_and_of_other_kernels(X):
    assert scale_gamma(np.full((4, 2), 3.0)) == 1.0
    assert GramTable(X, "linear").gamma_of(ROWS) == 1.0
    assert GramTable(X, "rbf", 0.3).gamma_of(ROWS) == 0.3


def test_precomputed_is_indexed_and_nothing_else(X):
    K = rbf_kernel(X)
    np.testing.assert_array_equal(
        GramTable(K, "precomputed").gram(ROWS, COLUMNS, 1.0), K[np.ix_(ROWS, COLUMNS)]
    )


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.floats(-1e3, 1e3)))
def test_a_gram_matrix_is_symmetric_positive_and_one_on_the_diagonal(X):
    rows = np.arange(len(X))
    distances = squared_distances(X, X)
    assert np.all(distances >= 0)
    K = GramTable(X, "rbf", 1e-3).gram(rows, rows, 1e-3)
    np.testing.assert_allclose(np.diagonal(K), 1, atol=1e-5)  # rounding of |x|² + |x|² − 2x·x at |x| of 1e3
    np.testing.assert_allclose(K, K.T, atol=1e-12)
    assert np.linalg.eigvalsh(K).min() >= -1e-5


def test_array_api_strict_equals_numpy(X):
    table = GramTable(array_api_strict.asarray(X))
    expected = GramTable(X)
    gamma = table.gamma_of(ROWS)
    assert gamma == pytest.approx(expected.gamma_of(ROWS), rel=1e-12)
    found = table.gram(ROWS, COLUMNS, gamma)
    np.testing.assert_allclose(to_host(found), expected.gram(ROWS, COLUMNS, gamma), rtol=1e-12)


def test_refusals(X):
    with pytest.raises(ValueError, match="kernel must be rbf, linear or precomputed, not 'poly'"):
        GramTable(X, "poly")
    for gamma in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="gamma must be positive, 'scale'"):
            GramTable(X, "rbf", gamma)
    with pytest.raises(ValueError, match=r"could not convert|gamma must be"):
        GramTable(X, "rbf", "wide")
    with pytest.raises(ValueError, match=r"must be square, not of shape \(12, 4\)"):
        GramTable(X, "precomputed")


def test_a_table_that_does_not_fit_in_memory_is_not_built(monkeypatch, X):
    monkeypatch.setattr(dual, "available_bytes", lambda like: 4_000)
    with pytest.raises(InputError, match="12 training rows"):
        GramTable(X)


# --- solutions ----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30))
def test_make_feasible_keeps_box_and_signs(seed, n):
    rng = np.random.default_rng(seed)
    box = rng.uniform(0.5, 2.0, (n, 1))
    Z = np.clip(rng.normal(size=(n, 4)) * (rng.random((n, 4)) < 0.6) * 3, -box, box)
    moved = make_feasible(Z, box)
    assert np.all(np.abs(moved) <= box)
    assert np.all(moved * Z >= 0)
    assert np.mean(np.abs(moved.sum(0)) <= 1e-9) >= 0.5  # what is left over is refused by `judged`


def test_an_infeasible_point_is_never_called_converged(monkeypatch):
    monkeypatch.setattr(dual, "make_feasible", lambda Z, box: Z)
    box, tube = np.ones((1, 1)), np.ones((1, 1))
    beta = np.array([[0.0, 0.1], [0.0, 0.1], [0.0, 0.0]])  # the second column does not sum to zero
    point = judged(np.zeros((3, 3)), np.zeros((3, 2)), beta, box, tube, 1, 1e-3)
    assert np.all(point.gap <= 1e-3)
    assert point.converged.tolist() == [True, False]


def test_gap_and_intercept_equal_their_formulas_row_by_row():
    rng = np.random.default_rng(0)
    box, tube = rng.uniform(0.5, 2.0, (12, 1)), np.array([[0.1, 0.0, 0.4]])
    Z = np.clip(rng.normal(size=(12, 3)) * (rng.random((12, 3)) < 0.6) * 2, -box, box)
    Z[:, 2] = np.where(Z[:, 2] > 0, box[:, 0], 0.0)  # none is free
    F = rng.normal(size=(12, 3))
    U, L = optimality_gap(F, Z, box, tube)
    b = intercept_of(F, Z, box, tube, U, L)
    for t in range(3):
        f, z, e, rows = F[:, t], Z[:, t], tube[0, t], range(12)
        assert U[t] == max(f[i] - (e if z[i] >= 0 else -e) for i in rows if z[i] < box[i, 0])
        assert L[t] == min(f[i] - (e if z[i] > 0 else -e) for i in rows if z[i] > -box[i, 0])
        free = [f[i] - e * np.sign(z[i]) for i in rows if 0 < abs(z[i]) < box[i, 0]]
        np.testing.assert_allclose(b[t], np.mean(free) if free else (U[t] + L[t]) / 2, rtol=1e-12)


def test_parts_are_joined_and_taken_in_order():
    rng = np.random.default_rng(1)
    parts = [
        DualSolution(rng.normal(size=(4, t)), *rng.normal(size=(3, t)), np.arange(t) % 2 == 0) for t in (2, 3)
    ]
    whole = DualSolution.joined(parts)
    back = whole.take(np.array([4, 0]))
    expected = np.stack([parts[1].dual_coef[:, 2], parts[0].dual_coef[:, 0]], axis=1)
    np.testing.assert_array_equal(back.dual_coef, expected)
    np.testing.assert_array_equal(back.gap, [parts[1].gap[2], parts[0].gap[0]])
    assert whole.mapped(lambda x: x.astype(np.float32)).gap.dtype == np.float32
    assert whole.converged.tolist() == [1, 0, 1, 0, 1]
