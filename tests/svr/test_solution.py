"""Feasible points and the optimality of duals: against loops, and what is never called converged."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rapids_pipeline.svr import solution
from rapids_pipeline.svr.solution import DualSolution, intercept_of, judged, make_feasible, optimality_gap


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
    monkeypatch.setattr(solution, "make_feasible", lambda Z, box: Z)
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
    assert whole.astype(np.float32).gap.dtype == np.float32 and whole.converged.tolist() == [1, 0, 1, 0, 1]
