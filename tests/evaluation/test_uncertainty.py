"""The paired bootstrap: what it resamples, how often it is wrong; and the error to expect on other pairs."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapids_pipeline.evaluation.uncertainty import (
    LEAST_ROWS,
    expected_error,
    paired_intervals,
    replicate_weights,
    row_losses,
    strengths,
)


def test_losses_are_means_over_repeats_of_squares_or_of_roots():
    row_mse = np.array([[4.0, 1.0, np.nan, np.nan], [16.0, np.nan, 9.0, np.nan]])
    np.testing.assert_allclose(row_losses(row_mse, True), [10, 1, 9, np.nan])
    np.testing.assert_allclose(row_losses(row_mse, False), [3, 1, 3, np.nan])


def test_a_replicate_draws_folds_and_units_within_them():
    """With one row a unit every fold that is drawn c times contributes c × its rows; units move together."""
    folds = np.array([[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, -1]])
    units = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6])
    weights = replicate_weights(folds, units, 500, seed=1)
    assert weights.shape == (500, 13)
    assert not weights[:, 12].any(), "never held out"
    np.testing.assert_array_equal(weights[:, ::2][:, :6], weights[:, 1::2])
    times = np.stack([weights[:, folds[0] == k].sum(axis=1) / 4 for k in range(3)], axis=1)
    np.testing.assert_array_equal(times.sum(axis=1), 3)
    np.testing.assert_array_equal(times, times.round())
    assert {tuple(row) for row in times.astype(int)} >= {(3, 0, 0), (1, 1, 1), (0, 2, 1)}
    assert weights[:, :12].mean() == pytest.approx(1, abs=0.05)


def test_repeats_take_turns():
    folds = np.array([[0, 0, 1, 1], [0, 1, 0, 1]])
    weights = replicate_weights(folds, np.arange(4), 400, seed=0)
    first, second = weights[::2], weights[1::2]
    assert ((first[:, :2].sum(axis=1) % 2) == 0).all()
    assert ((second[:, [0, 2]].sum(axis=1) % 2) == 0).all()


def test_scores_differences_and_intervals_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    losses = rng.exponential(size=(3, 30)) * [[1], [1.3], [0.8]]
    folds, units = np.arange(30)[None] % 5, np.arange(30)
    weights = replicate_weights(folds, units, 200, seed=3)
    found = paired_intervals(losses, 1, weights, one_gene=True)
    scores = np.array([[np.sqrt(np.average(row, weights=w)) for w in weights] for row in losses])
    np.testing.assert_allclose(found.score, np.sqrt(losses.mean(axis=1)))
    np.testing.assert_allclose(found.difference, found.score - found.score[1])
    for k in range(3):
        difference = scores[k] - scores[1]
        np.testing.assert_allclose(found.difference_low[k], np.quantile(difference, 0.025))
        np.testing.assert_allclose(found.difference_high[k], np.quantile(difference, 0.975))
        np.testing.assert_allclose(found.score_low[k], np.quantile(scores[k], 0.025))
    assert found.difference_low[1] == found.difference_high[1] == 0


def test_several_genes_take_the_mean_and_rows_never_held_out_do_not_count():
    losses = np.array([[1.0, 2.0, 3.0, np.nan], [2.0, 2.0, 2.0, np.nan]])
    weights = replicate_weights(np.array([[0, 1, 1, -1]]), np.arange(4), 50)
    found = paired_intervals(losses, 0, weights, one_gene=False)
    np.testing.assert_allclose(found.score, [2, 2])


def test_equal_candidates_are_rarely_called_different():
    """Two candidates of the same expected loss, shared by a compound's rows: outside in 10 % at most (5 % stated)."""
    outside = 0
    folds, units = np.repeat(np.arange(5), 20)[None], np.repeat(np.arange(25), 4)
    weights = replicate_weights(folds, units, 300, seed=0)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        shared = rng.normal(size=25)[units]
        losses = np.stack([np.full(100, 10.0), 10 + shared + 0.2 * rng.normal(size=100)])
        found = paired_intervals(losses, 0, weights, one_gene=False)
        outside += found.difference_high[1] < 0 or found.difference_low[1] > 0
    assert outside <= 20


def naive_strengths(obs, Y, pairs):
    """Effects by a dense least-squares problem whose last rows are the penalties."""
    cells, compounds = sorted(set(obs.cell_type)), sorted(set(obs.sm_name))
    effects = [("cell_type", c) for c in cells] + [("sm_name", m) for m in compounds]

    def design(frame):
        return np.array(
            [[float(row[column] == level) for column, level in effects] for _, row in frame.iterrows()]
        )

    logs = np.array([np.log(np.sqrt(np.mean(np.square(row, dtype=float)))) for row in Y])
    A = np.vstack([design(obs), np.eye(len(effects))])
    b = np.concatenate([logs - logs.mean(), np.zeros(len(effects))])
    return np.exp(logs.mean() + design(pairs) @ np.linalg.lstsq(A, b, rcond=None)[0])


def rows(seed, n=40):
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame({"cell_type": rng.choice(list("ABC"), n), "sm_name": rng.choice(list("uvwxyz"), n)})
    return obs, rng.normal(size=(n, 7)).astype(np.float32) * rng.lognormal(size=(n, 1)).astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_strengths_are_those_of_penalised_least_squares(seed):
    obs, Y = rows(seed)
    pairs = pd.DataFrame({"cell_type": ["A", "B", "new", "new"], "sm_name": ["u", "never", "u", "never"]})
    found = strengths(obs, Y, pairs)
    np.testing.assert_allclose(found, naive_strengths(obs, Y, pairs), rtol=1e-9)


def test_a_row_without_any_response_is_no_fault():
    obs, Y = rows(0)
    Y[3] = 0
    assert np.isfinite(strengths(obs, Y, obs)).all()


def weights(n, replicates=400, seed=0):
    return replicate_weights(np.zeros((1, n), dtype=np.intp), np.arange(n), replicates, seed)


def test_the_estimate_is_that_of_a_fitted_line():
    rng = np.random.default_rng(0)
    strength = rng.lognormal(size=30)
    errors = 0.3 + 0.7 * strength + rng.normal(scale=0.1, size=30)
    task = rng.lognormal(0.5, size=50)
    found = expected_error(errors, strength, task, weights(30))
    slope, intercept = np.polyfit(strength, errors, 1)
    assert found.error == pytest.approx(intercept + slope * task.mean(), abs=1e-12)
    assert found.slope == pytest.approx(slope, abs=1e-12)
    assert found.held_out == pytest.approx(errors.mean())
    assert found.outside == pytest.approx(np.mean((task < strength.min()) | (task > strength.max())))


def test_every_replicate_is_fitted_anew():
    rng = np.random.default_rng(1)
    strength, task = rng.lognormal(size=25), rng.lognormal(size=9)
    errors = strength + rng.normal(size=25)
    drawn = weights(25, 300)
    fits = [
        np.polyval(np.polyfit(np.repeat(strength, w), np.repeat(errors, w), 1), task.mean())
        for w in drawn.astype(int)
    ]
    found = expected_error(errors, strength, task, drawn)
    np.testing.assert_allclose([found.low, found.high], np.quantile(fits, [0.025, 0.975]), rtol=1e-9)


@pytest.mark.parametrize("strength", [np.ones(30), np.arange(1.0, LEAST_ROWS)])
def test_without_enough_to_fit_a_line_the_mean_stays(strength):
    errors = np.random.default_rng(0).random(len(strength))
    found = expected_error(errors, strength, np.full(4, 9.0), weights(len(strength)))
    assert found.error == pytest.approx(errors.mean()) and found.slope == 0


def test_it_finds_the_error_of_other_rows():
    """Held-out rows are the strong ones; the estimate must come nearer to the others' error than their own mean."""
    rng = np.random.default_rng(3)
    nearer = 0
    for _ in range(40):
        strength, task = rng.lognormal(0.5, 0.4, 40), rng.lognormal(0.0, 0.4, 400)
        errors, truth = (0.4 + 0.5 * s + rng.normal(scale=0.15, size=len(s)) for s in (strength, task))
        found = expected_error(errors, strength, task, weights(40, 200))
        nearer += abs(found.error - truth.mean()) < abs(found.held_out - truth.mean())
        assert found.low < found.error < found.high
    assert nearer >= 36
