"""Scores under the names of other programs, against their own formulas, written out."""

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import pairwise_distances

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.evaluation.harness_scores import HIGHER_IS_BETTER, harness_scores, mejia_weights
from rapids_pipeline.evaluation.perturbation_metrics import score_perturbations


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(23, 17)).astype(np.float32)
    return truth, (0.4 * truth + rng.normal(size=truth.shape)).astype(np.float32), list("abc" * 7 + "ab")


def perturbench(truth, prediction, distance):
    """PerturBench's `pairwise_metric_helper` and `rank_helper`: predictions are sorted for every column, a truth."""
    names = [f"compound {i}" for i in range(len(truth))]
    matrix = pd.DataFrame(0.0, index=names, columns=names)
    for i, one in enumerate(names):
        for k, other in enumerate(names):
            matrix.loc[one, other] = distance(prediction[i].astype(float), truth[k].astype(float))
    ranks = [list(matrix[p].sort_values().index).index(p) for p in names]
    return np.mean(ranks) / len(names)


def systema(truth, prediction):
    """Systema's `calculate_centroid_accuracies`, of one method."""
    distances = cdist(prediction, truth, metric="euclidean")
    own = np.diag(distances)[:, None]
    return np.mean((distances > own).sum(axis=1) / (len(truth) - 1))


def cell_eval(truth, prediction, metric):
    """cell-eval's `discrimination_score`, of effects, without a target gene."""
    scores = []
    for i in range(len(truth)):
        distances = pairwise_distances(truth, prediction[i : i + 1], metric=metric).ravel()
        scores.append(1 - np.flatnonzero(np.argsort(distances) == i)[0] / len(truth))
    return np.mean(scores)


def test_equals_the_formulas_of_the_programs(rows):
    truth, prediction, _ = rows
    found = harness_scores(truth, prediction)
    rmse = perturbench(truth, prediction, lambda x, y: np.sqrt(np.mean(np.square(x - y))))
    cosine = perturbench(truth, prediction, lambda x, y: -x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    expected = {"perturbench_rank_rmse": rmse, "perturbench_rank_cosine": cosine}
    expected["systema_centroid_accuracy"] = systema(truth, prediction)
    expected |= {
        f"cell_eval_discrimination_{name}": cell_eval(truth, prediction, name)
        for name in ("l1", "l2", "cosine")
    }
    assert found == pytest.approx(expected, abs=1e-12)
    assert rmse != pytest.approx(1 - found["cell_eval_discrimination_l2"]), "the roles are not the same"
    assert list(found) == [name for name in HIGHER_IS_BETTER if name != "vcpi_wmse"]


def test_equals_cell_eval_itself(rows):
    """Of two data sets that each have one cell a compound, and controls of zeros."""
    cell_eval = pytest.importorskip("cell_eval", reason="install cell-eval to compare with it")
    anndata = pytest.importorskip("anndata")
    truth, prediction, _ = rows
    obs = pd.DataFrame({"target": ["control", *(f"compound {i:02d}" for i in range(len(truth)))]})
    obs.index = obs.index.astype(str)
    both = [
        anndata.AnnData(np.vstack([np.zeros(truth.shape[1]), values]).astype(np.float64), obs)
        for values in (truth, prediction)
    ]
    named = {"pert_col": "target", "control_pert": "control"}
    pair = cell_eval._types.PerturbationAnndataPair(real=both[0], pred=both[1], **named)
    found = harness_scores(truth, prediction)
    for name in ("l1", "l2", "cosine"):
        theirs = cell_eval.metrics._anndata.discrimination_score(pair, metric=name, exclude_target_gene=False)
        assert np.mean(list(theirs.values())) == pytest.approx(
            found[f"cell_eval_discrimination_{name}"], abs=1e-12
        )


def test_weighted_error_is_that_of_mejia(rows):
    truth, prediction, _ = rows
    statistics = np.random.default_rng(1).normal(size=truth.shape)
    expected = []
    for t, y, p in zip(statistics, truth.astype(float), prediction.astype(float), strict=True):
        weights = ((np.abs(t) - np.abs(t).min()) / (np.abs(t).max() - np.abs(t).min())) ** 2
        expected.append(np.sum(weights / weights.sum() * (y - p) ** 2))
    weights = mejia_weights(statistics)
    found = harness_scores(truth, prediction, weights=weights)
    assert found["vcpi_wmse"] == pytest.approx(np.mean(expected))
    assert harness_scores(truth, prediction, weights=3 * weights)["vcpi_wmse"] == pytest.approx(
        found["vcpi_wmse"]
    )
    assert (mejia_weights(np.full((2, 3), -2.0)) == 1).all()


def test_rows_are_ranked_within_their_group_and_agree_with_our_discrimination(rows):
    truth, prediction, groups = rows
    found = harness_scores(truth, prediction, groups)
    sizes = np.array([groups.count(one) for one in groups])
    by_group = [np.flatnonzero(np.array(groups) == one) for one in "abc"]
    alone = [harness_scores(truth[g], prediction[g]) for g in by_group]
    for name, value in found.items():
        parts = [one[name] * len(g) for one, g in zip(alone, by_group, strict=True)]
        assert value == pytest.approx(sum(parts) / len(truth)), name
    ours = score_perturbations(truth, prediction, groups=groups)
    assert found["systema_centroid_accuracy"] == pytest.approx(1 - ours["discrimination_l2"])
    assert sizes.min() > 1


def test_perfection_ties_and_a_row_of_zeros(rows):
    truth = rows[0]
    best = harness_scores(truth, truth)
    assert all(value == (1 if HIGHER_IS_BETTER[name] else 0) for name, value in best.items())
    alike = harness_scores(truth, np.zeros_like(truth))
    assert alike["perturbench_rank_rmse"] == pytest.approx((len(truth) - 1) / 2 / len(truth))
    assert alike["cell_eval_discrimination_cosine"] == pytest.approx(1 - (len(truth) - 1) / 2 / len(truth))


def test_what_cannot_be_scored_is_refused(rows):
    truth, prediction, _ = rows
    gap = truth.copy()
    gap[3, 2] = np.nan
    with pytest.raises(InputError, match="truth: row 4 has a value that is not finite"):
        harness_scores(gap, prediction)
    with pytest.raises(InputError, match="groups has 2 values for 23 rows"):
        harness_scores(truth, prediction, ["a", "b"])
    with pytest.raises(InputError, match="weights have the shape"):
        harness_scores(truth, prediction, weights=truth[:2])
    with pytest.raises(InputError, match="not negative"):
        harness_scores(truth, prediction, weights=truth)
