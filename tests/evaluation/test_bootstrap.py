"""The paired bootstrap: what it resamples, and how often it is wrong."""

import numpy as np
import pytest

from rapids_pipeline.evaluation.bootstrap import paired_intervals, replicate_weights, row_losses


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


def test_a_clear_difference_is_found():
    rng = np.random.default_rng(0)
    losses = np.stack([rng.exponential(size=200), rng.exponential(size=200) + 1])
    weights = replicate_weights(np.arange(200)[None] % 5, np.arange(200), 300)
    found = paired_intervals(losses, 0, weights, one_gene=False)
    assert found.difference_low[1] > 0.5
