"""Scores of single perturbations against loops, scipy, and what they must say of averages."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import distance as scipy_distance

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.evaluation import metrics, perturbation_metrics
from rapids_pipeline.evaluation.perturbation_metrics import HIGHER_IS_BETTER, score_perturbations
from tests.evaluation.test_metrics import LIBRARIES
from tests.evaluation.test_metrics import matrices as any_matrices

SCIPY = {"l1": scipy_distance.cityblock, "l2": scipy_distance.euclidean, "cosine": scipy_distance.cosine}


def matrices(seed=0, n_rows=9, n_genes=40, ties=False):
    return any_matrices(seed, n_rows, n_genes, ties)


def discriminations(truth, prediction, groups=None):
    """The scores by every distance, in the order of SCIPY."""
    found = score_perturbations(truth, prediction, groups=groups)
    return [found[f"discrimination_{distance}"] for distance in SCIPY]


def naive_discrimination(truth, prediction, distance, groups=None):
    shares = []
    for i, p in enumerate(prediction):
        others = [k for k in range(len(truth)) if k != i and (groups is None or groups[k] == groups[i])]
        if others:
            gaps = distance(p, truth[i]) - np.array([distance(p, truth[k]) for k in others])
            shares.append(0.5 + np.sign(np.where(np.abs(gaps) < 1e-9, 0, gaps)).mean() / 2)
    return np.mean(shares)


def test_discrimination_knows_perfection_chance_and_the_opposite():
    truth, _ = matrices(1)
    assert discriminations(truth, truth) == [0, 0, 0]
    mean = np.tile(truth.mean(axis=0), (9, 1))
    assert discriminations(truth, mean) == pytest.approx([0.5] * 3), "one prediction for all rows"
    assert min(discriminations(truth, np.roll(truth, 1, axis=0))) > 0.1


@pytest.mark.parametrize("library", ["numpy", *LIBRARIES])
def test_equal_truths_tie_whatever_the_rounding(library):
    truth, prediction = matrices(11, n_rows=101, n_genes=978)
    truth[30:] = truth[7]
    expected = [naive_discrimination(truth, prediction, distance) for distance in SCIPY.values()]
    make = LIBRARIES.get(library, np.asarray)
    assert discriminations(make(truth), make(prediction)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("library", ["numpy", *LIBRARIES])
@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e200])  # 1e200 squared is infinite
def test_an_infinite_prediction_is_as_near_to_all(library, value):
    truth, _ = matrices(12, n_rows=5)
    make = LIBRARIES.get(library, np.asarray)
    for genes in (slice(3, 4), slice(None)):
        ruined = truth.copy()
        ruined[2, genes] = value
        assert discriminations(make(truth), make(ruined)) == [0.1] * 3, "one row of five at a half"


def test_an_infinite_prediction_of_a_silent_gene_does_not_matter():
    truth, prediction = matrices(13)
    truth[1, 4] = 0
    prediction[1, 4] = np.inf
    finite = np.where(np.isinf(prediction), 0, prediction)
    before, after = (score_perturbations(truth, one)["de_weighted_mse"] for one in (prediction, finite))
    assert before == after
    prediction[1, 5] = np.inf
    found = score_perturbations(truth, prediction, truth.mean(axis=0))
    assert found["de_weighted_mse"] == np.inf
    assert all(np.isfinite(score) for name, score in found.items() if name != "de_weighted_mse")


@pytest.mark.parametrize("groups", [None, list("aabbbccad")])
@pytest.mark.parametrize("scale", [1e-90, 1.0, 1e90])
def test_discrimination_is_that_of_loops_whatever_the_unit(groups, scale):
    truth, prediction = matrices(14)
    expected = [naive_discrimination(truth, prediction, distance, groups) for distance in SCIPY.values()]
    assert discriminations(scale * truth, scale * prediction, groups) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("block_values", [1, 9, 100, 10**6])
@pytest.mark.parametrize("predictions", [1, 2, 4, 100])
def test_the_blocks_do_not_matter(block_values, predictions, monkeypatch):
    truth, prediction = matrices(15, n_genes=60)
    mean, groups = truth.mean(axis=0), list("aabbbccad")
    expected = score_perturbations(truth, prediction, mean, groups)
    monkeypatch.setattr(metrics, "BLOCK_VALUES", block_values)
    monkeypatch.setattr(perturbation_metrics, "PREDICTIONS", predictions)
    assert score_perturbations(truth, prediction, mean, groups) == pytest.approx(expected, abs=1e-12)


def test_missing_predictions_are_0_with_one_warning_at_the_caller():
    truth, prediction = matrices(16)
    prediction[0, 0] = np.nan
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = score_perturbations(truth, prediction)
    assert [warning.filename for warning in caught] == [__file__]
    assert str(caught[0].message).startswith("1 predicted value(s) are NaN")
    assert found == score_perturbations(truth, np.nan_to_num(prediction))


def test_rows_without_others_do_not_count():
    truth, prediction = matrices(2, n_rows=3)
    assert np.isnan(discriminations(truth, prediction, ["a", "b", "c"])).all()
    assert np.isnan(discriminations(truth[:1], prediction[:1])).all()


def test_a_zero_prediction_is_at_cosine_distance_1():
    truth, prediction = matrices(3, n_rows=2)
    prediction[:] = 0
    assert discriminations(truth, prediction)[2] == 0.5


def delta(truth, prediction, mean):
    return score_perturbations(truth, prediction, mean)["pearson_delta"]


def test_pearson_of_deviations():
    truth, prediction = matrices(4)
    mean = np.random.default_rng(0).normal(size=40)
    expected = np.mean(
        [stats.pearsonr(y - mean, p - mean).statistic for y, p in zip(truth, prediction, strict=True)]
    )
    assert delta(truth, prediction, mean) == pytest.approx(expected, abs=1e-12)
    assert delta(truth, np.tile(mean, (9, 1)), mean) == 0, "the mean knows nothing of a perturbation"
    assert delta(truth, truth, mean) == pytest.approx(1)
    assert "pearson_delta" not in score_perturbations(truth, prediction)


@pytest.mark.parametrize("library", ["numpy", *LIBRARIES])
def test_the_mean_rounded_to_float32_is_still_the_mean(library):
    truth, _ = matrices(17, n_genes=900)
    mean = truth.mean(axis=0)
    rounded = np.tile(mean.astype(np.float32), (9, 1))
    make = LIBRARIES.get(library, np.asarray)
    arguments = [make(values) for values in (truth.astype(np.float32), rounded, mean)]
    assert delta(*arguments) == 0
    far = make(mean * (1 + 1e-9 * np.random.default_rng(0).normal(size=(9, 900))))
    assert delta(make(truth), far, arguments[2]) != 0, "float64 knows more digits"


def test_integers_are_taken():
    truth, prediction = matrices(18, ties=True)
    mean = truth.mean(axis=0)
    found = score_perturbations(truth.astype(int), prediction.astype(int), mean)
    assert found == pytest.approx(score_perturbations(truth, prediction, mean), abs=1e-12)


def test_the_error_is_weighted_by_the_response():
    truth, prediction = matrices(5)
    truth[3] = 0
    expected = [
        np.average((y - p) ** 2, weights=np.abs(y) if y.any() else None)
        for y, p in zip(truth, prediction, strict=True)
    ]
    found = score_perturbations(truth, prediction)["de_weighted_mse"]
    assert found == pytest.approx(np.mean(expected), abs=1e-12)


def shares_of_top(monkeypatch, truth, prediction, k):
    """The shares of the top k genes, where k is not one of the usual."""
    with monkeypatch.context() as patch:
        patch.setattr(perturbation_metrics, "TOP", (k,))
        patch.setitem(HIGHER_IS_BETTER, f"direction_agreement_{k}", True)
        patch.setitem(HIGHER_IS_BETTER, f"top_genes_overlap_{k}", True)
        found = score_perturbations(truth, prediction)
    return [found[f"direction_agreement_{k}"], found[f"top_genes_overlap_{k}"]]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [1, 7, 39, 40])
def test_top_genes_by_sorting(monkeypatch, k, ties):
    truth, prediction = matrices(6, ties=ties)

    def top(row):
        return sorted(range(40), key=lambda j: (-abs(row[j]), j))[:k]

    rows = list(zip(truth, prediction, strict=True))
    agreement = [np.mean([np.sign(y[j]) == np.sign(p[j]) for j in top(y)]) for y, p in rows]
    overlap = [len(set(top(y)) & set(top(p))) / k for y, p in rows]
    found = shares_of_top(monkeypatch, truth, prediction, k)
    assert found == pytest.approx([np.mean(agreement), np.mean(overlap)], abs=1e-12)


def test_all_have_a_name_and_an_order():
    truth, prediction = matrices(7, n_genes=120)
    found = score_perturbations(truth, prediction, truth.mean(axis=0), list("aabbbccad"))
    assert list(found) == [name for name in HIGHER_IS_BETTER if not name.endswith("_200")], "120 genes"


def test_the_direction_of_every_score_is_known():
    truth, prediction = matrices(8, n_genes=250)
    mean = np.zeros(250)
    perfect, ours = (score_perturbations(truth, values, mean) for values in (truth, prediction - truth))
    assert {name: perfect[name] > ours[name] for name in perfect} == HIGHER_IS_BETTER


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("ties", [False, True])
def test_every_array_library_gives_what_numpy_gives(library, ties, monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK_VALUES", 300)
    truth, prediction = matrices(9, n_genes=210, ties=ties)
    mean = truth.mean(axis=0)
    expected = score_perturbations(truth, prediction, mean)
    found = score_perturbations(*(LIBRARIES[library](values) for values in (truth, prediction, mean)))
    assert found == pytest.approx(expected, abs=1e-10)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 7), st.integers(2, 30), st.booleans())
def test_the_order_of_rows_and_genes_does_not_matter(seed, n_rows, n_genes, grouped):
    truth, prediction = matrices(seed, n_rows, n_genes)
    rng = np.random.default_rng(seed)
    rows, genes = rng.permutation(n_rows), rng.permutation(n_genes)
    groups = rng.integers(0, 2, n_rows) if grouped else np.zeros(n_rows)
    moved = truth[:, genes], prediction[:, genes]
    before = discriminations(truth, prediction, groups)
    after = discriminations(*(x[rows] for x in moved), groups[rows])
    assert after == pytest.approx(before, abs=1e-9, nan_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        before, after = (shares_of_top(patch, y, p, 2) for y, p in ((truth, prediction), moved))
    assert after == pytest.approx(before)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda y, p: score_perturbations(y, p, groups=["a"]), "groups has 1 values for 9 rows"),
        (
            lambda y, p: score_perturbations(y, p, y[0, :5]),
            r"training_mean has shape \(5,\), expected \(40,\)",
        ),
        (lambda y, p: score_perturbations(y, p, np.full(40, np.nan)), "training_mean: gene 1 is nan"),
        (lambda y, p: score_perturbations(y, p[:, :5]), "both must be"),
        (lambda y, p: score_perturbations(np.full_like(y, np.inf), p), "truth: row 1, gene column 1 is inf"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(InputError, match=words):
        call(*matrices())


def test_scores_count_tested_entries_only():
    """Row by row as the row's tested genes alone; discriminations by mean distances over the tested genes."""
    truth, prediction = matrices(21, n_rows=8, n_genes=120)
    mean = np.random.default_rng(3).normal(size=120)
    truth[np.random.default_rng(4).random(truth.shape) < 0.4] = np.nan
    truth[2] = np.nan  # left out
    rows = [k for k in range(8) if k != 2]
    found = score_perturbations(truth, prediction, mean)
    alone = []
    for row in rows:
        tested = np.isfinite(truth[row])
        y, p = (values[row : row + 1, tested] for values in (truth, prediction))
        assert 50 < tested.sum() < 100
        alone.append(score_perturbations(y, p, mean[tested]))
    for name in ("pearson_delta", "de_weighted_mse", "direction_agreement_50", "top_genes_overlap_50"):
        assert found[name] == pytest.approx(np.mean([scores[name] for scores in alone]), abs=1e-12), name

    def far(kind, p, y):
        tested = np.isfinite(y)
        distance = SCIPY[kind](p[tested], y[tested])
        return distance if kind == "cosine" else distance / tested.sum() ** (1 if kind == "l1" else 0.5)

    for kind in SCIPY:
        shares = []
        for i in rows:
            own = far(kind, prediction[i], truth[i])
            shares.append(np.mean([far(kind, prediction[i], truth[k]) < own for k in rows if k != i]))
        assert found[f"discrimination_{kind}"] == pytest.approx(np.mean(shares), abs=1e-12), kind
