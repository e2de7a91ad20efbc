"""evaluate: scores as a table and as JSON, and the refusal of other rows."""

import json

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.data.tables import read_responses
from tests.command_line import error_line, invoke, succeed


def test_evaluate_prints_json(finished, small_files):
    arguments = ["--prediction", finished[0] / "submission.csv", "--truth", small_files.truth, "--json"]
    result = succeed("evaluate", *arguments)
    evaluation = json.loads(result.stdout)
    assert (evaluation["n_rows"], evaluation["n_genes"]) == (len(small_files.id_map), 8)
    assert evaluation["matched_by"] == "id"
    assert evaluation["train"] == str(small_files.train), "known from the manifest"
    predicted = read_responses(finished[0] / "submission.csv")
    truth = pd.read_parquet(small_files.truth).set_index("id").loc[predicted.obs["id"], list(predicted.genes)]
    expected = np.sqrt(((predicted.Y - truth.to_numpy()) ** 2).mean(axis=1)).mean()
    assert evaluation["scores"]["submission"]["mean_rowwise_rmse"] == pytest.approx(expected, abs=1e-6)


def test_evaluate_prints_a_table_and_scores_single_perturbations_where_asked(finished, small_files):
    arguments = ["evaluate", "--prediction", finished[0] / "submission.csv", "--truth", small_files.truth]
    table = succeed(*arguments).stdout
    for words in ("MRRMSE", "compound mean", "mean of similar compounds", "the best baseline"):
        assert words in table
    assert "discrimination_l1" not in table
    more = succeed(*arguments, "--perturbations").stdout
    assert "discrimination_l1" in more and "pearson_delta" in more


@pytest.mark.parametrize("replicates", ["mean", "keep"])
def test_evaluate_says_what_replicates_score(finished, small_files, tmp_path, replicates):
    truth = pd.read_parquet(small_files.truth)
    genes = list(truth.select_dtypes("number").columns)
    again = truth.assign(**(truth[genes] + np.random.default_rng(0).normal(size=(len(truth), len(genes)))))
    pd.concat([truth, again]).to_parquet(tmp_path / "twice.parquet")
    arguments = ["--prediction", finished[0] / "submission.csv", "--truth", tmp_path / "twice.parquet"]
    arguments += ["--replicates", replicates]
    shown = succeed("evaluate", *arguments).stdout
    assert "replicates alone would score" in shown and "noise ceiling: no model can expect" in shown
    found = json.loads(succeed("evaluate", *arguments, "--json").stdout)
    assert found["n_rows"] == len(truth) * (1 if replicates == "mean" else 2)
    assert found["replicates"]["n_contexts"] == len(truth)
    assert found["noise_ceiling"] == found["replicates"]["ceiling"]["mean_rowwise_rmse"]


def test_evaluate_refuses_other_rows(finished, small_files, tmp_path):
    pd.read_parquet(small_files.truth)[1:].to_parquet(tmp_path / "part.parquet")
    prediction = finished[0] / "submission.csv"
    line = error_line(invoke("evaluate", "--prediction", prediction, "--truth", tmp_path / "part.parquet"))
    assert line.startswith(f"error: {prediction}: 1 of its ids are not in the truth")
