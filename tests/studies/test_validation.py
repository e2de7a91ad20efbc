"""Cross-validation of a recipe: nothing leaks, scores are means over rows, and finished splits are found again."""

import json

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.evaluation.baselines import BASELINES
from rapids_pipeline.evaluation.metrics import METRICS, score_all
from rapids_pipeline.evaluation.named_splits import named_splits
from rapids_pipeline.evaluation.splits import Split
from rapids_pipeline.stack.recipe import RunConfig
from rapids_pipeline.studies.cv_results import RowScores, mean_predictions, methods_of, split_rows
from rapids_pipeline.studies.finished import FOLDER, FinishedSplits
from rapids_pipeline.studies.fits import HeldOut, fit_split
from tests.stack_example import OWN, SVR, UNMOVED, example, recipe

pytestmark = pytest.mark.filterwarnings("ignore:.*did not reach tol")  # with 1000 in a target
CONFIG = RunConfig(recipe=recipe(svrs=(SVR, OWN), use="auto"), molecules="made up")


def problem(Y=None):
    train, _, measured = example()
    obs = train.obs.assign(SMILES=["C" * (1 + int(name[-2:])) for name in train.obs["sm_name"]])
    measured = measured if Y is None else Y
    return train, PerturbationData(obs, measured, tuple(f"G{k}" for k in range(measured.shape[1])))


def a_split(data):
    held_out = np.flatnonzero(data.obs["sm_name"].isin(["drug 03", "drug 07", "drug 11"]))
    return Split("three drugs", np.setdiff1d(np.arange(len(data.obs)), held_out), held_out)


def fitted(data, train, split):
    return fit_split(train, data, split, CONFIG, "cpu", BASELINES)


def test_no_held_out_response_moves_a_prediction():
    train, data = problem()
    split = a_split(data)
    before = fitted(data, train, split)
    changed = data.Y.copy()
    changed[split.held_out] += 1000
    _, other = problem(changed)
    after = fitted(other, train, split)
    assert np.abs(after.predicted - before.predicted).max() <= UNMOVED
    np.testing.assert_array_equal(after.strength, before.strength)
    changed = data.Y.copy()
    changed[split.training[0]] += 1000
    moved = fitted(problem(changed)[1], train, split)
    assert np.abs(moved.predicted - before.predicted).max() > 1, "a training row must move something"
    assert (moved.strength != before.strength).any()


def test_scores_are_those_of_the_metrics():
    train, data = problem()
    split = a_split(data)
    found = fitted(data, train, split)
    assert next(iter(found.scores)) == "pipeline"
    assert set(BASELINES) < set(found.scores) and {"svr_shared", "boosting"} < set(found.scores)
    expected = score_all(data.Y[split.held_out], found.predicted)
    np.testing.assert_allclose(found.scores["pipeline"].mean(axis=1), list(expected.values()), rtol=1e-12)
    inside, outside = data.take(split.training), data.obs.iloc[split.held_out]
    baseline = score_all(data.Y[split.held_out], BASELINES["mean_across_compounds"](inside, outside))
    np.testing.assert_allclose(
        found.scores["mean_across_compounds"].mean(axis=1), list(baseline.values()), rtol=1e-12
    )


def made_up(n=30, n_folds=3, repeats=2, t=4, seed=0):
    """Splits of n rows and what a recipe and two baselines might have got there."""
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame({"cell_type": "A", "sm_name": [f"m{i % 11}" for i in range(n)], "SMILES": "C"})
    splits = named_splits("random", obs, n_folds=n_folds, repeats=repeats)

    def part(split):
        m = len(split.held_out)
        scores = {
            name: rng.random((len(METRICS), m)) + k
            for k, name in enumerate(["pipeline", "svr", "zeros", "mean"])
        }
        return HeldOut(rng.normal(size=(m, t)).astype(np.float32), scores, rng.lognormal(size=m))

    return splits, [[part(split) for split in repeat] for repeat in splits]


def test_a_row_held_out_twice_counts_once():
    splits, found = made_up()
    rows = RowScores.of(30, splits, found)
    methods = methods_of(rows, ["zeros", "mean"], np.arange(30), None, 0)
    for one in methods:
        for k, metric in enumerate(METRICS):
            by_row = [[] for _ in range(30)]
            for repeat, parts in zip(splits, found, strict=True):
                for split, part in zip(repeat, parts, strict=True):
                    for row, value in zip(split.held_out, part.scores[one.name][k], strict=True):
                        by_row[row].append(value)
            assert one.scores[metric] == pytest.approx(np.mean([np.mean(values) for values in by_row]))
        assert one.low < one.scores["mean_rowwise_rmse"] < one.high
        assert one.difference == pytest.approx(
            one.scores["mean_rowwise_rmse"] - methods[0].scores["mean_rowwise_rmse"]
        )
    assert [one.name for one in methods if one.baseline] == ["zeros", "mean"]
    assert methods[0].difference_low == methods[0].difference_high == 0
    assert methods[2].difference_low > 0, "2 above the pipeline in every row"


def test_rows_that_are_never_held_out_do_not_count():
    splits, found = made_up(repeats=1)
    two = [splits[0][:2]]
    rows = RowScores.of(30, two, [found[0][:2]])
    [pipeline, *_] = methods_of(rows, ["zeros", "mean"], np.arange(30), np.ones(5), 0)
    both = np.concatenate([part.scores["pipeline"][0] for part in found[0][:2]])
    assert pipeline.scores["mean_rowwise_rmse"] == pytest.approx(both.mean())
    assert pipeline.expected.held_out == pytest.approx(both.mean())
    held, predicted = mean_predictions(30, two, [found[0][:2]])
    assert held.tolist() == sorted(np.concatenate([split.held_out for split in two[0]]))
    assert predicted.shape == (len(held), 4)


def test_predictions_are_means_over_repeats():
    splits, found = made_up()
    held, predicted = mean_predictions(30, splits, found)
    assert held.tolist() == list(range(30))
    naive = np.zeros((30, 4))
    for repeat, parts in zip(splits, found, strict=True):
        for split, part in zip(repeat, parts, strict=True):
            naive[split.held_out] += part.predicted / 2
    np.testing.assert_allclose(predicted, naive, atol=1e-6)


def test_every_split_is_described():
    splits, found = made_up()
    rows = split_rows(splits, found, ["zeros", "mean"])
    assert len(rows) == 6 and {row["repeat"] for row in rows} == {1, 2}
    first = found[0][0].scores
    assert rows[0]["pipeline"] == pytest.approx(first["pipeline"][0].mean())
    assert rows[0]["best_baseline"] == "zeros"
    assert rows[0]["trained_on"] + rows[0]["held_out"] == 30


def kept_by(folder, train, data, config=CONFIG, device="cpu"):
    return FinishedSplits(folder, train, data, config, device, list(BASELINES))


def test_finished_splits_are_found_again_and_only_by_the_same_problem(tmp_path):
    train, data = problem()
    split = a_split(data)
    found = fitted(data, train, split)
    store = kept_by(tmp_path, train, data)
    assert store.get(split) is None
    store.put(split, found)
    again = kept_by(tmp_path, train, data).get(split)
    np.testing.assert_array_equal(again.predicted, found.predicted)
    np.testing.assert_array_equal(again.strength, found.strength)
    assert list(again.scores) == list(found.scores)
    for name, values in found.scores.items():
        np.testing.assert_array_equal(again.scores[name], values)

    other_rows = Split(split.name, split.training[1:], split.held_out)
    changed = data.Y.copy()
    changed[0, 0] += 1
    assert store.get(other_rows) is None
    assert kept_by(tmp_path, train, problem(changed)[1]).get(split) is None
    assert kept_by(tmp_path, train, data, CONFIG.model_copy(update={"seed": 1})).get(split) is None
    assert kept_by(tmp_path, train, data, device="cuda").get(split) is None


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"x" + b[1:], lambda b: b""])
def test_a_damaged_file_is_made_anew(tmp_path, damage):
    train, data = problem()
    split = a_split(data)
    store = kept_by(tmp_path, train, data)
    store.put(
        split,
        HeldOut(
            np.zeros((len(split.held_out), 25), np.float32),
            {"pipeline": np.zeros((5, len(split.held_out)))},
            np.ones(len(split.held_out)),
        ),
    )
    assert store.get(split) is not None
    [path] = (tmp_path / FOLDER).iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert store.get(split) is None


def test_results_are_json():
    splits, found = made_up()
    methods = methods_of(RowScores.of(30, splits, found), ["zeros", "mean"], np.arange(30), np.ones(5), 0)
    assert json.loads(json.dumps([one.expected.to_json() for one in methods]))[0]["held_out"] > 0
