"""SMO of several pairs an iteration: its vector passes against loops, what an iteration may do, and its optimum."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapids_pipeline.backend.arrays import aligned
from rapids_pipeline.svr.dual import optimality_gap
from rapids_pipeline.svr.smo import vectors
from rapids_pipeline.svr.smo.kernels import AT_BOUND, balance, fall_offset, rise_offset
from rapids_pipeline.svr.smo.pairs import descend, distance_table, pair_work, row_mask
from rapids_pipeline.svr.smo.vectors import BLOCKED

LENGTH, WIDTH = 128, 16


def vector_state(seed, rows=10):
    rng = np.random.default_rng(seed)
    f, up, down = (aligned((LENGTH,), np.float32) for _ in range(3))
    f[:], up[:], down[:] = rng.normal(size=LENGTH), 0.1, -0.1
    up[rng.random(LENGTH) < 0.2], down[rng.random(LENGTH) < 0.2] = BLOCKED, -BLOCKED
    table = aligned((rows, LENGTH), np.float32)
    table[:] = rng.uniform(0.01, 2.0, size=table.shape)
    return rng, f, up, down, table


@pytest.mark.parametrize("pairs", [0, 1, 2, 3, 4])
def test_advance_adds_the_rows_and_finds_the_best_of_every_quarter_of_the_lanes(pairs):
    rng, f, up, _, table = vector_state(pairs)
    advance = getattr(vectors, f"advance_{pairs}")
    call = numba.njit(lambda *a: advance(*a))
    chosen = rng.permutation(10)[: 2 * pairs]
    starts, steps = np.zeros(8, np.int64), np.zeros(8, np.float32)
    starts[: 2 * pairs], steps[: 2 * pairs] = chosen * LENGTH, rng.normal(size=2 * pairs)
    tops, rows = aligned((WIDTH,), np.float32), aligned((WIDTH,), np.int32)
    shift = np.float32(0.25 if pairs else 0.0)
    expected = f.astype(float) - shift
    for row, step in zip(chosen, steps, strict=False):
        expected += float(step) * table[row]
    call(f, up, table, starts, steps, shift, LENGTH, tops, rows)
    np.testing.assert_allclose(f, expected, atol=2e-6)
    for quarter in range(4):
        members = [k for k in range(LENGTH) if k % WIDTH // 4 == quarter]
        best = max(members, key=lambda k: f[k] - up[k])
        assert rows[4 * quarter] == best
        assert tops[4 * quarter] == f[best] - up[best]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_partners_are_the_best_of_their_lane_by_second_order(count):
    rng, f, _, down, table = vector_state(10 + count)
    partners = getattr(vectors, f"partners_{count}")
    call = numba.njit(lambda *a: partners(*a))
    chosen, tops = rng.permutation(10)[:4], rng.uniform(-0.5, 3.0, 4).astype(np.float32)
    tops[0] = -4.0  # nothing lies below: no partner
    keys, mask = aligned((4 * WIDTH,), np.int32), row_mask(LENGTH)
    bottom = call(f, down, table, chosen * LENGTH, tops, mask, LENGTH, keys)
    level = f - down
    assert bottom == level.min()
    for c in range(count):
        slope = tops[c] - level
        gain = np.where(slope > 0, slope, 0.0) / np.sqrt(table[chosen[c]])
        for lane in range(WIDTH):
            key = keys[c * WIDTH + lane]
            best = gain[lane::WIDTH].max()
            if best == 0.0:
                assert key <= mask
                continue
            assert (key & mask) % WIDTH == lane
            assert gain[key & mask] >= 0.85 * best  # both factors are compared by their bits


def test_a_partner_that_is_taken_is_passed_over():
    take = numba.njit(lambda keys, first, mask, taken: vectors.free_partner(keys, first, mask, taken))
    mask = row_mask(LENGTH)
    keys, taken = aligned((2 * WIDTH,), np.int32), np.zeros(LENGTH, np.uint8)
    assert take(keys, 0, mask, taken) == -1
    rows = [3, 20, 37]
    for place, row in enumerate(rows):
        keys[WIDTH + row % WIDTH] = ((10 - place) << 20) | row
    assert take(keys, 0, mask, taken) == -1
    for row in (*rows, -1):
        assert take(keys, WIDTH, mask, taken) == row
        if row >= 0:
            taken[row] = 1


@pytest.mark.parametrize("rows", [1, 2, 64, 65, 512, 20_032])
def test_the_mask_holds_every_row(rows):
    mask = int(row_mask(rows))
    assert mask >= rows - 1
    assert mask & (mask + 1) == 0
    assert mask == 0 or mask // 2 < rows - 1


def test_the_table_holds_half_squared_distances():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(70, 4))
    X[7] = X[3]
    table = distance_table(X @ X.T)
    expected = ((X[:, None] - X[None]) ** 2).sum(-1) / 2
    np.testing.assert_allclose(table[:, :70], expected, atol=1e-5)
    assert (table >= 0).all()
    assert (np.diagonal(table) == 0).all()
    assert (table[:, 70:] == 1).all()


def descended(K, y, cap, epsilon, tol, max_iter=100_000):
    n = len(y)
    work, beta = pair_work(distance_table(K), np.diagonal(K) / 2), np.zeros(n)
    work.f[:n] = y
    for i in range(n):
        work.up[i], work.down[i] = rise_offset(0.0, cap[i], epsilon), fall_offset(0.0, cap[i], epsilon)
    return beta, descend(work, 0, beta, cap, epsilon, tol, max_iter), work


def gap_of(K, y, beta, cap, epsilon):
    column = (x[:, None] for x in (y - K @ beta, beta))
    U, L = optimality_gap(*column, cap[:, None], np.full((1, 1), epsilon))
    return float(U[0] - L[0])


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 150),
    rank=st.integers(1, 8),
    gaussian=st.booleans(),
    epsilon=st.sampled_from([0.0, 0.1, 1.0]),
    C=st.sampled_from([0.01, 1.0, 30.0]),
    seed=st.integers(0, 2**31),
)
def test_reaches_the_optimum_of_any_problem_and_keeps_f(n, rank, gaussian, epsilon, C, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, rank))
    X[rng.random(n) < 0.2] = X[0]  # rows without any distance between them
    squares = ((X[:, None] - X[None]) ** 2).sum(-1)
    K = np.exp(-0.3 * squares) if gaussian else X @ X.T + 0.5 * np.eye(n)  # diagonals that differ
    y = rng.standard_t(4, size=n)
    cap = C * rng.choice([0.0, 0.5, 1.0], size=n)
    beta, done, work = descended(K, y, cap, epsilon, 1e-3)
    assert (np.abs(beta) <= cap).all()
    assert abs(beta.sum()) <= 1e-10 * max(1.0, C)
    assert gap_of(K, y, beta, cap, epsilon) <= 1e-3 + 2e-5 * (1 + np.abs(K).max()) * (1 + np.abs(y).max())
    assert done < 100_000
    drift = work.f[:n] - (y - K @ beta)
    assert np.abs(drift).max() <= 2e-5 * (1 + np.abs(K).max()) * (1 + np.abs(y).max())
    assert not work.taken.any()


def test_no_more_pairs_move_than_allowed_and_each_lowers_the_dual():
    rng = np.random.default_rng(1)
    X, y, cap = rng.normal(size=(120, 5)), rng.standard_t(4, size=120), np.ones(120)
    K = np.exp(-0.1 * ((X[:, None] - X[None]) ** 2).sum(-1))
    before = 0.0
    for limit in range(30):
        beta, done, _ = descended(K, y, cap, 0.1, 1e-6, limit)
        assert done <= limit
        value = 0.5 * beta @ K @ beta - y @ beta + 0.1 * np.abs(beta).sum()
        assert value <= before + 1e-12
        before = min(before, value)
    assert before < -1.0


def test_an_iteration_moves_four_pairs_and_no_row_twice():
    y, cap = np.random.default_rng(2).normal(size=64), np.full(64, 100.0)
    y[:4], y[20] = 5.0, -9.0  # one row is the best partner of every other: distances are equal
    beta, done, _ = descended(np.eye(64), y, cap, 0.1, 1e-3, 1)
    assert done == 1
    assert np.count_nonzero(beta) == 2
    y[[0, 4, 8, 12]] = 6.0  # one in every quarter of the lanes
    beta, done, _ = descended(np.eye(64), y, cap, 0.1, 1e-3, 4)
    assert done == 4
    assert set(np.flatnonzero(beta > 0)) == {0, 4, 8, 12}
    assert np.flatnonzero(beta < 0).size == 4
    assert beta[20] < 0


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 60), seed=st.integers(0, 2**31), bound=st.sampled_from([0.0, 0.3, 1.0]))
def test_balance_makes_any_start_feasible_and_leaves_a_feasible_one(n, seed, bound):
    rng = np.random.default_rng(seed)
    cap = np.maximum(rng.random(n), bound)
    beta = rng.normal(size=n) * rng.choice([0.0, 1.0, 5.0], size=n)
    signs = np.sign(beta)
    balance(beta, cap)
    assert (np.abs(beta) <= cap).all()
    assert abs(beta.sum()) <= 1e-10
    assert (beta * signs >= 0).all()
    again = beta.copy()
    balance(again, cap)
    np.testing.assert_allclose(again, beta, rtol=0, atol=AT_BOUND)  # what is that near a bound is put there
