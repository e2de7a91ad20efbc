"""Douglas–Rachford on CuPy reaches the optima that it reaches on NumPy. Stand-in: PyTorch on the CPU."""

import numpy as np
import pytest

from rapids_pipeline.backend.arrays import is_on_cuda, to_host
from rapids_pipeline.svr import MultiTargetSVR
from rapids_pipeline.svr.douglas_rachford import GPU_CHUNK, HOST_CHUNK, chunk_for, solve
from rapids_pipeline.svr.dual import GramTable
from rapids_pipeline.svr.engines import fit_on_table

WITHIN = {1e-3: 2e-3, 1e-6: 1e-5}
"""How far predictions of two solutions within a tolerance may be apart (docs/methods/svr.md, Accuracy)."""


def problem(n=300, targets=700, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 20))
    K = np.exp(-((X[:, None] - X[None]) ** 2).sum(-1) / 20)
    return X, K, rng.standard_t(4, size=(n, targets)) + X[:, :1]


def objective(K, Y, beta, epsilon):
    return 0.5 * np.einsum("it,ij,jt->t", beta, K, beta) - (Y * beta).sum(0) + epsilon * np.abs(beta).sum(0)


def assert_same(K, Y, there, here, tol, C=1.0, epsilon=0.1):
    assert to_host(there.converged).all() and here.converged.all()
    assert to_host(there.gap).max() <= tol
    beta, intercept = (to_host(x).astype(np.float64) for x in (there.dual_coef, there.intercept))
    predicted, expected = K @ beta + intercept, K @ here.dual_coef + here.intercept
    compared = (np.abs(beta) < 0.999 * C).any(axis=0)  # with none inside its box b is an interval
    assert compared.mean() > 0.7
    np.testing.assert_allclose(predicted[:, compared], expected[:, compared], atol=WITHIN[tol])
    best = objective(K, Y, here.dual_coef.astype(np.float64), epsilon)
    np.testing.assert_allclose(objective(K, Y, beta, epsilon), best, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("tol", [1e-3, 1e-6])
def test_dual_objectives_and_predictions(moved, dtype, tol):
    _, K, Y = problem()
    Y = Y.astype(dtype)
    there, here = solve(moved(K), moved(Y), tol=tol), solve(K, Y, tol=tol)
    assert is_on_cuda(there.dual_coef) == is_on_cuda(moved(K))
    assert_same(K, Y.astype(np.float64), there, here, tol)
    assert np.median(to_host(there.n_iter)) < 100  # by the shared step, not by the second pass


def test_a_box_and_a_tube_for_every_target_and_row(moved):
    _, K, Y = problem(120, 300)
    C = np.linspace(0.1, 2, 120)[:, None] * np.linspace(0.5, 3, 300)
    epsilon = np.linspace(0, 0.5, 300)[None]
    there = solve(moved(K), moved(Y), C=moved(C), epsilon=moved(epsilon))
    assert (np.abs(to_host(there.dual_coef)) <= C * (1 + 1e-6)).all()
    assert_same(K, Y, there, solve(K, Y, C=C, epsilon=epsilon), 1e-3, C, epsilon)


def test_targets_that_one_step_does_not_suit_and_one_that_is_not_done(moved):
    _, K, Y = problem(80, 40)
    Y[:, ::4] *= 100
    there, here = (solve(x, y, tol=1e-3) for x, y in ((moved(K), moved(Y)), (K, Y)))
    assert here.n_iter.max() > 200  # the second pass had work
    assert_same(K, Y, there, here, 1e-3)
    stopped = solve(moved(K), moved(Y), max_iter=5)
    assert not to_host(stopped.converged).all() and to_host(stopped.gap).max() > 1e-3


def test_a_fit_on_some_rows_of_a_table(moved):
    X, _, Y = problem(200, 60)
    training, others = np.arange(0, 200, 2), np.arange(1, 200, 2)
    how = {"C": 1.0, "epsilon": 0.1, "tol": 1e-3, "max_iter": None, "engine_name": "douglas-rachford"}
    there = fit_on_table(GramTable(moved(X)), moved(Y), training, [others], **how)
    here = fit_on_table(GramTable(X), Y, training, [others], **how)
    assert (
        is_on_cuda(there.predictions[0]) == is_on_cuda(moved(X)) and to_host(there.solution.converged).all()
    )
    np.testing.assert_allclose(to_host(there.predictions[0]), here.predictions[0], atol=WITHIN[1e-3])


def test_auto_takes_it_where_the_arrays_live(moved):
    X, _, Y = problem(60, 5)
    model = MultiTargetSVR().fit(moved(X), moved(Y))
    assert (model.engine_, model.engine_reason_) == ("douglas-rachford", "auto: the arrays are not numpy's")
    assert is_on_cuda(model.predict(moved(X))) == is_on_cuda(moved(X))
    assert chunk_for(moved(X)) == (GPU_CHUNK if is_on_cuda(moved(X)) else HOST_CHUNK)
