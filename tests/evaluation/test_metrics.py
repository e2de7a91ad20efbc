"""The scores against loops written out here, scipy, and what the benchmark's R scripts prescribe."""

import math
import warnings

import array_api_strict
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rapids_pipeline.backend.arrays import to_host
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.evaluation import metrics
from rapids_pipeline.evaluation.metrics import (
    HIGHER_IS_BETTER,
    METRICS,
    mean_rowwise_rmse,
    rowwise_rmse,
    rowwise_scores,
    score_all,
)

RANKED = ["mean_rowwise_pearson", "mean_rowwise_spearman", "mean_rowwise_cosine"]


def matrices(seed, n_rows=7, n_genes=23, ties=False, dtype=np.float64):
    rng = np.random.default_rng(seed)
    truth, noise = rng.normal(size=(2, n_rows, n_genes))
    prediction = 0.5 * truth + noise
    if ties:
        truth, prediction = np.round(truth), np.round(prediction)
    return truth.astype(dtype), prediction.astype(dtype)


def naive_ranks(values):
    return [1 + sum(o < v for o in values) + (sum(o == v for o in values) - 1) / 2 for v in values]


def naive_pearson(y, p):
    if len(set(y)) == 1 or len(set(p)) == 1:
        return 0.0
    my, mp = math.fsum(y) / len(y), math.fsum(p) / len(p)
    cov = math.fsum((a - my) * (b - mp) for a, b in zip(y, p, strict=True))
    return cov / math.sqrt(math.fsum((a - my) ** 2 for a in y) * math.fsum((b - mp) ** 2 for b in p))


def naive_cosine(y, p):
    lengths = math.sqrt(math.fsum(a * a for a in y) * math.fsum(b * b for b in p))
    return math.fsum(a * b for a, b in zip(y, p, strict=True)) / lengths if lengths else 0.0


NAIVE = {
    "mean_rowwise_rmse": lambda y, p: math.sqrt(
        math.fsum((a - b) ** 2 for a, b in zip(y, p, strict=True)) / len(y)
    ),
    "mean_rowwise_mae": lambda y, p: math.fsum(abs(a - b) for a, b in zip(y, p, strict=True)) / len(y),
    "mean_rowwise_pearson": naive_pearson,
    "mean_rowwise_spearman": lambda y, p: naive_pearson(naive_ranks(y), naive_ranks(p)),
    "mean_rowwise_cosine": naive_cosine,
}


def naive(name, truth, prediction):
    pairs = zip(truth.astype(float).tolist(), prediction.astype(float).tolist(), strict=True)
    return math.fsum(NAIVE[name](y, p) for y, p in pairs) / len(truth)


def test_the_metrics_are_the_benchmark_s_in_its_order():
    assert list(METRICS) == list(score_all(*matrices(0))) == list(NAIVE)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n_genes", [1, 23])  # one gene has no correlation
def test_equals_a_naive_loop(n_genes, ties, dtype):
    truth, prediction = matrices(1, n_genes=n_genes, ties=ties, dtype=dtype)
    expected = {name: naive(name, truth, prediction) for name in METRICS}
    assert score_all(truth, prediction) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("ties", [False, True])
def test_equals_scipy_and_numpy(ties):
    truth, prediction = matrices(2, n_rows=20, n_genes=301, ties=ties)
    rows = list(zip(truth, prediction, strict=True))
    expected = {
        "mean_rowwise_rmse": [np.sqrt(np.mean((y - p) ** 2)) for y, p in rows],
        "mean_rowwise_pearson": [stats.pearsonr(y, p).statistic for y, p in rows],
        "mean_rowwise_spearman": [stats.spearmanr(y, p).statistic for y, p in rows],
    }
    scores = score_all(truth, prediction)
    for name, by_row in expected.items():
        assert scores[name] == pytest.approx(np.mean(by_row), abs=1e-10), name


@pytest.mark.parametrize("ties", [False, True])
def test_ranks_equal_scipy_s(ties):
    values = np.vstack([*matrices(3, ties=ties), np.zeros((1, 23)), np.full((1, 23), np.inf)])
    np.testing.assert_array_equal(metrics.average_ranks(values), stats.rankdata(values, axis=1))


LIBRARIES = {"array_api_strict": array_api_strict.asarray, "torch": torch.asarray}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("ties", [False, True])
def test_every_array_library_gives_what_numpy_gives(library, ties, monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK_VALUES", 50)
    truth, prediction = matrices(3, ties=ties, dtype=np.float32)
    truth[2], prediction[3] = 0.5, 0
    theirs = [LIBRARIES[library](values) for values in (truth, prediction)]
    assert score_all(*theirs) == pytest.approx(score_all(truth, prediction), abs=1e-12)
    for name, scores in rowwise_scores(*theirs).items():
        assert type(scores) is type(theirs[0])
        np.testing.assert_allclose(to_host(scores), rowwise_scores(truth, prediction)[name], atol=1e-12)
    np.testing.assert_array_equal(to_host(metrics.average_ranks(theirs[0])), metrics.average_ranks(truth))


@pytest.mark.parametrize("library", LIBRARIES)
def test_missing_and_infinite_values_in_every_array_library(library):
    truth, prediction = matrices(9)
    prediction[2, 3], prediction[4, 0] = np.nan, np.inf
    with pytest.warns(UserWarning, match=r"1 predicted value\(s\) are NaN"):
        expected = score_all(truth, prediction)
    with pytest.warns(UserWarning, match=r"1 predicted value\(s\) are NaN"):
        found = score_all(LIBRARIES[library](truth), LIBRARIES[library](prediction))
    assert found == pytest.approx(expected, abs=1e-12)
    truth[5, 2] = np.inf
    with pytest.raises(InputError, match="truth: row 6, gene column 3 is inf"):
        score_all(LIBRARIES[library](truth), LIBRARIES[library](prediction))


def test_the_direction_of_every_score_is_known():
    truth, prediction = matrices(1)
    perfect, ours = score_all(truth, truth), score_all(truth, prediction)
    assert {name: perfect[name] > ours[name] for name in METRICS} == HIGHER_IS_BETTER


def test_rowwise_rmse_averages_to_the_score():
    truth, prediction = matrices(5)
    by_row = rowwise_rmse(truth, prediction)
    assert by_row.shape == (7,)
    assert by_row.dtype == np.float64
    assert by_row.mean() == mean_rowwise_rmse(truth, prediction)
    assert by_row.mean() == score_all(truth, prediction)["mean_rowwise_rmse"]


@pytest.mark.parametrize("block_values", [1, 23, 50, 10**6])
def test_rows_are_independent_of_the_blocks(block_values, monkeypatch):
    truth, prediction = matrices(6, ties=True)
    expected = [score_all(truth[i : i + 1], prediction[i : i + 1]) for i in range(len(truth))]
    monkeypatch.setattr(metrics, "BLOCK_VALUES", block_values)
    for name, score in score_all(truth, prediction).items():
        assert score == pytest.approx(np.mean([row[name] for row in expected]), abs=1e-15)


def test_sums_are_accumulated_in_float64():
    truth = np.full((1, 200_000), 1000.1, dtype=np.float32)
    prediction = truth + np.float32(0.5)
    expected = naive("mean_rowwise_mae", truth, prediction)
    assert score_all(truth, prediction)["mean_rowwise_mae"] == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("constant", [0.0, 0.1, -3.7, 1e-30])
@pytest.mark.parametrize("side", ["truth", "prediction", "both"])
def test_a_constant_row_correlates_0_exactly(constant, side):
    truth, prediction = matrices(7, n_rows=2, n_genes=1001)
    alone = score_all(truth[:1], prediction[:1])
    if side != "prediction":
        truth[1] = constant
    if side != "truth":
        prediction[1] = constant
    found = score_all(truth, prediction)
    for name in RANKED if constant == 0 else RANKED[:2]:  # the cosine of a row of zeros is 0 too
        assert found[name] == alone[name] / 2, "the constant row counts, as 0"


def test_nan_in_the_prediction_counts_as_0_with_one_warning_at_the_caller():
    truth, prediction = matrices(9)
    prediction[2, 3] = prediction[4] = np.nan
    before = prediction.copy()
    for function in (score_all, mean_rowwise_rmse):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = function(truth, prediction)
        assert [warning.filename for warning in caught] == [__file__]
        assert str(caught[0].message) == "24 predicted value(s) are NaN and are scored as 0"
        assert found == function(truth, np.nan_to_num(prediction))
    np.testing.assert_array_equal(prediction, before), "the caller's array is left alone"


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_a_truth_that_is_not_finite_is_refused(bad, monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK_VALUES", 50)
    truth, prediction = matrices(11)
    truth[5, 2] = bad
    with pytest.raises(InputError, match=rf"truth: row 6, gene column 3 is {bad}; a truth must be finite"):
        score_all(truth, prediction)


def gapped(seed, n_rows=9):
    """Rows with some entries untested, some complete, and one (4) without any tested entry."""
    truth, prediction = matrices(seed, n_rows=n_rows)
    truth[np.random.default_rng(seed).random(truth.shape) < 0.3] = np.nan
    truth[[1, 6]] = prediction[[1, 6]] + 1
    truth[4] = np.nan
    return truth, prediction


@pytest.mark.parametrize("library", ["numpy", *LIBRARIES])
@pytest.mark.parametrize("block", [25, 2**19])
def test_scores_count_tested_entries_only(library, block, monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK_VALUES", block)
    truth, prediction = gapped(13)
    native = LIBRARIES.get(library, np.asarray)
    found = rowwise_scores(native(truth), native(prediction))
    means = score_all(native(truth), native(prediction))
    for name in METRICS:
        expected = []
        for y, p in zip(truth, prediction, strict=True):
            tested = ~np.isnan(y)
            expected.append(NAIVE[name](y[tested].tolist(), p[tested].tolist()) if tested.any() else np.nan)
        np.testing.assert_allclose(to_host(found[name]), expected, atol=1e-10, err_msg=name)
        assert np.isnan(expected[4]) and means[name] == pytest.approx(np.nanmean(expected), abs=1e-10)
    assert mean_rowwise_rmse(native(truth), native(prediction)) == means["mean_rowwise_rmse"]


def test_a_truth_without_any_tested_entry_is_refused():
    truth, prediction = matrices(14)
    with pytest.raises(InputError, match="truth: every value is NaN: nothing was tested"):
        score_all(np.full_like(truth, np.nan), prediction)


def test_an_infinite_prediction_ruins_its_row_only():
    truth, prediction = matrices(12, n_rows=2)
    alone = score_all(truth[:1], prediction[:1])
    prediction[1, 0] = np.inf
    scores = score_all(truth, prediction)
    assert scores["mean_rowwise_rmse"] == scores["mean_rowwise_mae"] == np.inf
    assert scores["mean_rowwise_pearson"] == alone["mean_rowwise_pearson"] / 2
    assert scores["mean_rowwise_cosine"] == alone["mean_rowwise_cosine"] / 2


@pytest.mark.parametrize(
    "shapes", [((3, 4), (3, 5)), ((3, 4), (4, 3)), ((0, 4), (0, 4)), ((3, 0), (3, 0)), (3, 3)]
)
def test_shapes_that_do_not_fit_are_refused(shapes):
    with pytest.raises(InputError, match="both must be"):
        score_all(*map(np.zeros, shapes))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(2, 40), st.booleans())
def test_properties(seed, n_rows, n_genes, ties):
    truth, prediction = matrices(seed, n_rows, n_genes, ties)
    scores = score_all(truth, prediction)
    shuffled = np.random.default_rng(seed).permutation(n_genes)
    for name, score in score_all(truth[::-1, shuffled], prediction[::-1, shuffled]).items():
        assert score == pytest.approx(scores[name], abs=1e-12), "the order of rows and genes does not matter"
    for name, score in score_all(prediction, truth).items():
        assert score == pytest.approx(scores[name], abs=1e-12), "symmetric"
    assert scores["mean_rowwise_mae"] <= scores["mean_rowwise_rmse"] + 1e-12
    stretched = score_all(truth, 3 * prediction + 5)
    assert stretched["mean_rowwise_pearson"] == pytest.approx(scores["mean_rowwise_pearson"], abs=1e-10)
    assert stretched["mean_rowwise_spearman"] == scores["mean_rowwise_spearman"]
    assert all(-1 <= scores[name] <= 1 for name in RANKED)


def test_a_perfect_prediction():
    truth, _ = matrices(13)
    assert list(score_all(truth, truth).values()) == pytest.approx([0, 0, 1, 1, 1], abs=1e-15)
    assert list(score_all(truth, -truth).values())[2:] == pytest.approx([-1, -1, -1], abs=1e-15)
