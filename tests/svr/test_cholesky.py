"""Kernel ridge with one penalty by Cholesky factors: against the bordered system, in blocks, on every library."""

import array_api_strict
import numpy as np
import pytest
import torch

from rapids_pipeline.backend.arrays import to_host
from rapids_pipeline.svr import cholesky, kernel_ridge
from tests.svr.test_kernel_ridge import bordered, problem


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks of columns, of rows and of targets, the last of each smaller."""
    for name, size in (("COLUMNS", 7), ("ROWS", 5), ("TARGETS", 3)):
        monkeypatch.setattr(cholesky, name, size)


@pytest.mark.parametrize(("n", "t"), [(1, 1), (6, 4), (7, 3), (40, 5)])
@pytest.mark.parametrize("penalty", [1e-2, 1.0, 1e6])
def test_every_target_solves_its_bordered_system(n, t, penalty):
    _, K, Y, rng = problem(n, t, seed=n)
    weight = rng.uniform(0.1, 1, size=n)
    gamma, b, rounds, gap = cholesky.solve(K.astype(np.float32), np.sqrt(weight), Y, np.asarray(penalty))
    K = K.astype(np.float32).astype(np.float64)
    beta = np.sqrt(weight)[:, None] * gamma
    assert (rounds <= cholesky.MOST_ROUNDS).all()
    residual = K @ beta + penalty * beta / weight[:, None] + b - Y
    np.testing.assert_allclose(gap, np.abs(residual).max(axis=0), atol=1e-12)
    assert gap.max() < 1e-6 * np.abs(Y).max()
    np.testing.assert_allclose(beta.sum(axis=0), 0, atol=1e-9 * np.abs(beta).sum() + 1e-12)
    for j in range(t):
        expected, intercept = bordered(K, Y[:, j], penalty, 1 / weight)
        np.testing.assert_allclose(beta[:, j], expected, atol=1e-5 * np.abs(expected).max() + 1e-12)
        np.testing.assert_allclose(b[j], intercept, rtol=1e-6, atol=1e-9)


def test_repeated_rows_and_a_spectrum_of_six_decades():
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    K = (Q * np.logspace(3, -3, 30)) @ Q.T
    K = K[np.ix_(*[np.r_[0:30, 0:10]] * 2)].astype(np.float32).astype(np.float64)
    Y = rng.normal(size=(40, 4))
    gamma, b, _, gap = cholesky.solve(K.astype(np.float32), np.ones(40), Y, np.asarray(0.01))
    expected = np.column_stack([bordered(K, y, 0.01, np.ones(40))[0] for y in Y.T])
    assert gap.max() < 1e-5
    np.testing.assert_allclose(K @ gamma + b, Y - 0.01 * expected, atol=1e-4)


@pytest.mark.parametrize("xp", [array_api_strict, torch], ids=["strict", "torch"])
def test_all_array_libraries_solve_alike(xp):
    _, K, Y, rng = problem(23, 5)
    given = K.astype(np.float32), np.sqrt(rng.uniform(0.2, 1, 23)), Y, np.asarray(0.5)
    expected = cholesky.solve(*given)
    found = cholesky.solve(*(xp.asarray(x) for x in given))
    for one, other in zip(found[:2], expected[:2], strict=True):
        assert isinstance(one, type(xp.asarray(Y)))
        np.testing.assert_allclose(to_host(one), other, atol=1e-7)


def test_one_penalty_that_is_not_tiny_is_solved_by_factors_and_others_are_not(monkeypatch):
    _, K, Y, _ = problem(30, 4)
    solved, real = [], cholesky.solve
    monkeypatch.setattr(kernel_ridge, "ITERATES_FROM", 1)
    monkeypatch.setattr(cholesky, "solve", lambda *given: solved.append(1) or real(*given))
    for C, by_factors in ((2.0, True), ([[1.0, 2.0, 2.0, 2.0]], False), (1e9, False)):
        found = kernel_ridge.solve(K, Y, C=np.asarray(C), epsilon=0.0)
        assert bool(solved) == by_factors
        solved.clear()
        assert found.converged.all()
