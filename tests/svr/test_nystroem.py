"""Kernel ridge on landmarks: the formula in dense float64, all rows as landmarks, what is left, any library."""

import array_api_strict
import numpy as np
import pytest
import torch

from rapids_pipeline.svr import kernel_ridge, nystroem
from rapids_pipeline.svr.dual import take


def problem(n=60, t=5, seed=0, rank=None):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    K = np.exp(-0.3 * ((X[:, None] - X[None]) ** 2).sum(axis=2))
    if rank is not None:
        A = rng.normal(size=(n, rank))
        K = A @ A.T / rank
    Y = rng.normal(size=(n, t)) + 3.0
    return K, Y, 10.0 ** rng.uniform(-1, 1, t), rng.uniform(0.2, 2.0, n)


def solved(K, Y, penalty, weight, make=np.asarray, **how):
    single, diagonal = make(K.astype(np.float32)), np.diag(K).copy()
    made = nystroem.solve(
        lambda rows: take(single, rows, 1), diagonal, make(Y), penalty=penalty, weight=weight, **how
    )
    assert all(isinstance(x, np.ndarray) for x in (made.landmarks, made.coef, made.intercept))
    return made


def naive(K, S, Y, penalty, weight):
    """The minimum over functions of the replaced kernel, target by target, in float64."""
    K_S = K[:, S]
    feature = K_S @ np.linalg.pinv(K[np.ix_(S, S)], rcond=1e-6, hermitian=True) @ K_S.T
    fitted = np.empty_like(Y)
    for target in range(Y.shape[1]):
        ones = np.ones(len(Y))
        system = np.block(
            [[feature + penalty[target] * np.diag(1 / weight), ones[:, None]], [ones[None], np.zeros((1, 1))]]
        )
        found = np.linalg.solve(system, np.append(Y[:, target], 0.0))
        fitted[:, target] = feature @ found[:-1] + found[-1]
    return fitted


def fitted(K, made):
    return K[:, made.landmarks] @ made.coef + made.intercept


@pytest.mark.parametrize("most", [1, 12, 30])
def test_the_fit_is_the_minimum_for_the_replaced_kernel(most, monkeypatch):
    monkeypatch.setattr(nystroem, "BLOCK", 7)
    K, Y, penalty, weight = problem()
    made = solved(K, Y, penalty, weight, most=most)
    assert len(made.landmarks) == most and (np.diff(made.landmarks) > 0).all()
    np.testing.assert_allclose(fitted(K, made), naive(K, made.landmarks, Y, penalty, weight), atol=2e-4)
    left = (
        K
        - K[:, made.landmarks] @ np.linalg.pinv(K[np.ix_(made.landmarks, made.landmarks)]) @ K[made.landmarks]
    )
    assert made.left == pytest.approx(np.trace(left) / np.trace(K), abs=2e-3)


def test_all_rows_as_landmarks_are_kernel_ridge():
    K, Y, penalty, weight = problem(n=50)
    made = solved(K, Y, penalty, weight, left=0.0)
    whole = kernel_ridge.solve(K, Y, C=weight[:, None] / penalty[None, :], epsilon=0.0)
    np.testing.assert_allclose(fitted(K, made), K @ whole.dual_coef + whole.intercept, atol=1e-4)
    assert len(made.landmarks) <= 50 and made.left < 1e-5


def test_few_landmarks_suffice_where_the_kernel_has_a_low_rank(monkeypatch):
    monkeypatch.setattr(nystroem, "BLOCK", 10)
    K, Y, penalty, weight = problem(n=200, rank=15)
    made = solved(K, Y, penalty, weight)
    assert len(made.landmarks) <= 30 and made.left < nystroem.LEFT
    whole = kernel_ridge.solve(K, Y, C=weight[:, None] / penalty[None, :], epsilon=0.0)
    np.testing.assert_allclose(fitted(K, made), K @ whole.dual_coef + whole.intercept, atol=1e-3)


def test_duplicated_rows_and_one_row():
    K, Y, penalty, weight = problem(n=20)
    twice = np.repeat(np.arange(20), 2)
    made = solved(K[np.ix_(twice, twice)], Y[twice], penalty, weight[twice], left=0.0)
    both = fitted(K[np.ix_(twice, twice)], made)
    assert np.isfinite(both).all()
    np.testing.assert_allclose(both[::2], both[1::2], atol=1e-5)
    alone = solved(K[:1, :1], Y[:1], penalty, weight[:1])
    np.testing.assert_allclose(fitted(K[:1, :1], alone), Y[:1], atol=1e-6)


@pytest.mark.parametrize("make", [torch.asarray, array_api_strict.asarray], ids=["torch", "array_api_strict"])
def test_any_array_library_finds_the_same(make):
    K, Y, penalty, weight = problem()
    expected = solved(K, Y, penalty, weight, most=20)
    found = solved(K, Y, penalty, weight, make, most=20)
    np.testing.assert_array_equal(found.landmarks, expected.landmarks)
    np.testing.assert_allclose(fitted(K, found), fitted(K, expected), atol=1e-4)


def test_the_seed_alone_decides_the_draws():
    K, Y, penalty, weight = problem()
    one, same, other = (solved(K, Y, penalty, weight, most=15, seed=seed) for seed in (0, 0, 1))
    assert one.coef.tobytes() == same.coef.tobytes()
    assert one.landmarks.tolist() != other.landmarks.tolist()
