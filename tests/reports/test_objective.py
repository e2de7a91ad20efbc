"""A run with an objective: what its page, its scores and its model have of it."""

import json

import numpy as np
import pytest

from rapids_pipeline.data.tables import read_responses
from rapids_pipeline.reports.objective import LINES, objective_section, objective_sentences
from rapids_pipeline.stack import objective
from tests.command_line import error_line, invoke, succeed
from tests.reports.pages import Page

RECIPE = """
name = "small"
n_folds = 3
[[members]]
kind = "svr"
features = "onehot"
[blend]
objective = "discrimination"
"""


@pytest.fixture(scope="module")
def run(small_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("objective")
    (folder / "recipe.toml").write_text(RECIPE)
    words = "--train", small_files.train, "--test", small_files.test, "--molecules", "morgan"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objective, "AMPLITUDES", (1.0, 1.4, 2.0))
        patch.setattr(objective, "WEIGHTS", (0.0, 0.4))
        succeed(
            "run",
            *words,
            "--recipe",
            folder / "recipe.toml",
            "--objective",
            "balanced",
            "--out",
            folder / "run",
        )
    return folder / "run"


def test_the_option_wins_over_the_recipe_and_the_scores_say_what_was_chosen(run):
    found = json.loads((run / "scores.json").read_text())["objective"]
    assert found["name"] == "balanced" and found["choice"]["amplitude"] in (1.0, 1.4, 2.0)
    config = json.loads((run / "manifest.json").read_text())["config"]
    assert config["recipe"]["blend"]["objective"] == "balanced"
    for name in ("plain", "chosen", "nested"):
        assert set(found[name]) == {"mrrmse", "cosine", "l2"}


def test_the_page_has_the_trade_off(run):
    text = (run / "report.html").read_text()
    found = Page(text)
    assert found.faults == [] and "objective" in found.ids and "tradeoff" in text
    scores = json.loads((run / "scores.json").read_text())["objective"]
    for beside in ("members", "by-cell-type", "by-compound"):
        assert (
            "before the objective balanced changes it"
            in text[text.index(f'id="{beside}"') :].split("<table")[0]
        )
    for value in (scores["plain"]["mrrmse"], scores["nested"]["l2"]):
        assert f"{value:.4f}" in text


def test_the_saved_model_predicts_as_its_run(run, small_files, tmp_path):
    succeed("predict", "--model", run / "model", "--pairs", small_files.test, "--out", tmp_path / "new.csv")
    one, other = read_responses(run / "submission.csv"), read_responses(tmp_path / "new.csv")
    np.testing.assert_allclose(one.Y, other.Y, atol=1e-5)


def test_the_page_warns_where_no_choice_keeps_the_promise():
    one, words = {"mrrmse": 1.0, "cosine": 0.5, "l2": 0.5}, "WARNING: the nearest was taken"
    found = {"name": "balanced", "best_baseline": "zeros", "reached": False, "warning": words, "choice": {}}
    found |= {"rows": 9, "splits": 3, "split": "random", "plain": one, "nested": one, "chosen": one}
    found |= {"baselines": {"zeros": one}, "curves": {key: [[1.0, 0.5, 0.5]] for key in LINES}}
    assert words in objective_sentences({"objective": found}) and words in objective_section(found).words
    assert objective_sentences({}) == []


def test_an_unknown_objective_is_refused(small_files, tmp_path):
    words = "--train", small_files.train, "--test", small_files.test, "--out", tmp_path / "run"
    found = invoke("run", *words, "--objective", "best")
    assert found.exit_code == 2 and "balanced" in error_line(found)
