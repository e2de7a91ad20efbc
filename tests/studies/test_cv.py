"""Cross-validation of a recipe: nothing leaks, scores are means over rows, and the command goes on where it stopped."""

import json

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.evaluation.baselines import ALL_BASELINES, BASELINES
from rapids_pipeline.evaluation.metrics import METRICS, score_all
from rapids_pipeline.evaluation.splits import SPLITS, Split, named_splits
from rapids_pipeline.stack.recipe import RunConfig
from rapids_pipeline.studies import cv
from rapids_pipeline.studies.cv import HeldOut, fit_split, mean_predictions, methods_of, split_rows
from tests.command_line import error_line, invoke, names_in, succeed
from tests.reports.pages import Page
from tests.stack_example import OWN, SVR, UNMOVED, booster, example, recipe

pytestmark = pytest.mark.filterwarnings("ignore:.*did not reach tol")  # with 1000 in a target
MEMBERS = SVR, OWN, booster("svr_shared", "svr_per_target", pseudo_labels={"use": "auto"})
CONFIG = RunConfig(recipe=recipe(*MEMBERS), molecules="made up")


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

    def raised(rows):
        changed = data.Y.copy()
        changed[rows] += 1000
        return fitted(problem(changed)[1], train, split)

    after = raised(split.held_out)
    assert np.abs(after.predicted - before.predicted).max() <= UNMOVED
    np.testing.assert_array_equal(after.strength, before.strength)
    moved = raised(split.training[0])
    assert np.abs(moved.predicted - before.predicted).max() > 1, "a training row must move something"
    assert (moved.strength != before.strength).any()


def test_scores_are_those_of_the_metrics():
    train, data = problem()
    split = a_split(data)
    found = fitted(data, train, split)
    assert next(iter(found.scores)) == "pipeline"
    assert set(BASELINES) < set(found.scores) and {"svr_shared", "boosting"} < set(found.scores)
    means = BASELINES["mean_across_compounds"](data.take(split.training), data.obs.iloc[split.held_out])
    for name, predicted in (("pipeline", found.predicted), ("mean_across_compounds", means)):
        expected = list(score_all(data.Y[split.held_out], predicted).values())
        np.testing.assert_allclose(found.scores[name].mean(axis=1), expected, rtol=1e-12)


def made_up(n=30, n_folds=3, repeats=2, t=4, seed=0):
    """Splits of n rows and what a recipe and two baselines might have got there."""
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame({"cell_type": "A", "sm_name": [f"m{i % 11}" for i in range(n)], "SMILES": "C"})
    splits = named_splits("random", obs, n_folds=n_folds, repeats=repeats)

    def part(split):
        m, names = len(split.held_out), ["pipeline", "svr", "zeros", "mean"]
        scores = {name: rng.random((len(METRICS), m)) + k for k, name in enumerate(names)}
        return HeldOut(rng.normal(size=(m, t)).astype(np.float32), scores, rng.lognormal(size=m))

    return splits, [[part(split) for split in repeat] for repeat in splits]


def test_a_row_held_out_twice_counts_once():
    splits, found = made_up()
    methods = methods_of(splits, found, ["zeros", "mean"], np.arange(30), None, 0)
    for one in methods:
        for k, metric in enumerate(METRICS):
            by_row = [[] for _ in range(30)]
            for repeat, parts in zip(splits, found, strict=True):
                for split, part in zip(repeat, parts, strict=True):
                    for row, value in zip(split.held_out, part.scores[one.name][k], strict=True):
                        by_row[row].append(value)
            assert one.scores[metric] == pytest.approx(np.mean([np.mean(values) for values in by_row]))
        assert one.low < one.error < one.high
        assert one.difference == pytest.approx(one.error - methods[0].error)
    assert [one.name for one in methods if one.baseline] == ["zeros", "mean"]
    assert methods[0].difference_low == methods[0].difference_high == 0
    assert methods[2].difference_low > 0, "2 above the pipeline in every row"


def test_rows_that_are_never_held_out_do_not_count():
    splits, found = made_up(repeats=1)
    two = [splits[0][:2]]
    [pipeline, *_] = methods_of(two, [found[0][:2]], ["zeros", "mean"], np.arange(30), np.ones(5), 0)
    both = np.concatenate([part.scores["pipeline"][0] for part in found[0][:2]])
    assert pipeline.error == pytest.approx(both.mean())
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


# --- the command ------------------------------------------------------------------------------------------

FILES = [".finished", "cv.csv", "cv.html", "cv.json", "cv.parquet", "cv.png"]


def arguments(files, out, *more):
    words = "--molecules morgan --quick --folds 3".split()
    return ["cv", "--train", files.train, "--out", out, *words, *more]


@pytest.fixture(scope="module")
def small_files(scarce_files):
    """Six of its 30 compounds are those of the scarce cell types."""
    return scarce_files(30, 6)


@pytest.fixture(scope="module")
def finished(small_files, tmp_path_factory):
    out = tmp_path_factory.mktemp("cv") / "out"
    return out, succeed(*arguments(small_files, out, "--test", small_files.test))


def test_it_leaves_its_files_and_takes_the_split_most_like_the_pairs(finished, small_files):
    out, result = finished
    assert names_in(out) == FILES and f"written: {out}/" in result.stdout
    found = json.loads((out / "cv.json").read_text())
    assert found["split"] == "scarce"
    assert found["reason"].startswith("auto: the pairs to predict are of cell types with")
    assert "split: scarce: compounds within the cell types of the pairs" in result.stdout
    splits = [line.split() for line in result.stderr.splitlines() if line.startswith("  split ")]
    assert [words[1] for words in splits] == ["1/3", "2/3", "3/3"]
    logged = [float(words[3].rstrip(";")) for words in splits]
    assert logged == pytest.approx([row["pipeline"] for row in found["by_split"]], abs=5e-5)
    assert f"next: rapids-perturb run --train {small_files.train} --test {small_files.test}" in result.stderr
    assert found["audit"]["held_out"]["pair"] == 0 and found["audit"]["task"]["compound"] == 1


def test_scores_are_those_of_the_predictions_that_it_leaves(finished, small_files):
    out, _ = finished
    found = json.loads((out / "cv.json").read_text())
    table = pd.read_parquet(out / "cv.parquet")
    genes = [name for name in small_files.de_train.columns if small_files.de_train[name].dtype == np.float32]
    truth = small_files.de_train.merge(table[["cell_type", "sm_name"]], how="right")
    expected = score_all(*(rows[genes].to_numpy(np.float32) for rows in (truth, table)))
    [pipeline, *_] = found["methods"]
    assert pipeline["name"] == "pipeline" and pipeline["scores"] == pytest.approx(expected, abs=1e-6)
    assert found["n_rows"] == len(table) == sum(row["held_out"] for row in found["by_split"])
    assert set(table["cell_type"]) <= {"B cells", "Myeloid cells"}


def test_baselines_stand_beside_it_with_intervals_and_the_error_to_expect(finished):
    out, result = finished
    table = pd.read_csv(out / "cv.csv").set_index("method")
    assert set(ALL_BASELINES) == set(table.index[table["baseline"]])
    assert (table["mrrmse_low"] <= table["mean_rowwise_rmse"]).all()
    assert (table["mrrmse_high"] >= table["mean_rowwise_rmse"]).all()
    assert table["expected_on_pairs"].gt(0).all()
    assert "expected on your pairs: MRRMSE" in result.stdout and "mean of similar compounds" in result.stdout


def test_the_page_has_every_table(finished):
    page = Page((finished[0] / "cv.html").read_text())
    methods, splits = len(pd.read_csv(finished[0] / "cv.csv")), 3
    assert not page.faults and {"scores", "audit", "splits"} <= set(page.ids)
    ours = json.loads((finished[0] / "cv.json").read_text())["methods"][0]["expected"]
    assert page.words["h1"][0].startswith(f"Expect MRRMSE {ours['error']:.4f} ({ours['low']:.4f} to ")
    assert page.tags.count("tr") == methods + 1 + 10 + 1 + splits + 1
    assert {"pipeline", "mean of similar compounds"} <= set(page.chart_words["MRRMSE"])


def test_the_same_command_goes_on_where_it_was_interrupted(small_files, tmp_path, monkeypatch, finished):
    out, calls, fit = tmp_path / "out", [], cv.fit_split

    def interrupted(train, data, split, *rest):
        calls.append(split.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fit(train, data, split, *rest)

    monkeypatch.setattr(cv, "fit_split", interrupted)
    first = invoke(*arguments(small_files, out, "--test", small_files.test))
    assert first.exit_code == 130 and "the same command continues" in first.stderr
    assert [path.name for path in out.iterdir()] == [".finished"]
    succeed(*arguments(small_files, out, "--test", small_files.test))
    assert len(calls) == 4, "two were finished, one was begun again"
    ours, theirs = ((folder / "cv.csv").read_text() for folder in (out, finished[0]))
    assert ours == theirs


def test_without_pairs_rows_are_held_out_at_random_and_repeats_deal_anew(small_files, tmp_path):
    result = succeed(*arguments(small_files, tmp_path, "--repeats", 2))
    found = json.loads((tmp_path / "cv.json").read_text())
    assert found["split"] == "random" and found["reason"] == "auto: no pairs to predict were given (--test)"
    assert all(method["expected"] is None for method in found["methods"])
    assert found["n_rows"] == len(small_files.de_train)
    assert [row["repeat"] for row in found["by_split"]] == [1, 1, 1, 2, 2, 2]
    assert "expected on your pairs" not in result.stdout


def test_an_easier_split_is_called_so(small_files, tmp_path):
    more = "--test", small_files.test, "--split", "random"
    result = succeed(*arguments(small_files, tmp_path / "out", *more))
    assert "EASIER than your pairs, so scores look too good" in result.stdout
    assert "--split scarce is most like them" in result.stdout
    assert "expected on your pairs" not in result.stdout, "of another kind of rows nothing follows for them"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--split magic", f"Invalid value for '--split': 'magic' is none of {', '.join(SPLITS)}"),
        ("--split scarce", "--split scarce: needs the pairs to predict (--test FILE)"),
        ("--repeats 0", "Invalid value for '--repeats': it must be greater than or equal to 1"),
        ("--split compound --folds 99", "99 folds of 30 compounds: take from 2 to 30"),
        ("--recipe magic", "no recipe 'magic'"),
    ],
)
def test_refusals_leave_nothing(small_files, tmp_path, more, words):
    base = [a for a in arguments(small_files, tmp_path / "out") if a != "--quick"]
    assert error_line(invoke(*base, *more.split())).startswith(f"error: {words}")
    assert not (tmp_path / "out").exists()
