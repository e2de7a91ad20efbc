"""Matching by name, the baselines' training file, and every refusal of `evaluate_files`."""

import json
import math
import re
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import sha256_of
from rapids_pipeline.data.columns import TableOptions
from rapids_pipeline.data.tables import read_responses
from rapids_pipeline.evaluation.baselines import ALL_BASELINES
from rapids_pipeline.evaluation.evaluate import best_baseline, evaluate_files, scaled_scores
from rapids_pipeline.evaluation.harness_scores import harness_scores
from rapids_pipeline.evaluation.metrics import METRICS, score_all
from rapids_pipeline.evaluation.perturbation_metrics import score_perturbations
from tests.command_line import error_line, invoke, succeed
from tests.evaluation.evaluation_example import (
    GENES,
    PREDICTION,
    TRAINING,
    TRUTH,
    table,
    values,
)

NO_MANIFEST = (
    r"only the baseline zeros is scored: there is no .*manifest\.json to name the run's train file; "
    "give --train FILE for the others"
)


SMILES = {"x": "CCO", "y, z": "c1ccccc1", "w": "CCN", "unseen": "CS"}
NO_SMILES = "not scored, as the training file has no SMILES of all compounds: ridge, tanimoto_neighbours"


def with_manifest(folder, train, **changed):
    recorded = {"path": str(train), "sha256": sha256_of(train)} | changed
    (folder / "manifest.json").write_text(json.dumps({"inputs": {"train": recorded}}))


def with_smiles(training):
    return training.assign(SMILES=training["sm_name"].map(SMILES))


def test_scores_of_the_prediction_and_of_every_baseline(evaluate, tmp_path):
    truth, prediction = TRUTH.iloc[:3], PREDICTION.iloc[:3]  # of compounds that training has
    result = evaluate(prediction, truth, with_smiles(TRAINING))
    training = read_responses(tmp_path / "train.parquet")
    asked = with_smiles(truth)
    expected = {
        "mine": score_all(values(truth), values(prediction)),
        **{name: score_all(values(truth), made(training, asked)) for name, made in ALL_BASELINES.items()},
    }
    assert list(result.scores.items()) == list(expected.items())
    assert (result.n_rows, result.n_genes, result.matched_by, result.note) == (3, 4, "id", None)
    assert result.train == str(tmp_path / "train.parquet")
    assert result.perturbation_scores == {} and result.noise_ceiling is None
    errors = {name: row["mean_rowwise_rmse"] for name, row in result.scores.items()}
    best = min(errors[name] for name in ALL_BASELINES)
    assert result.scaled["mine"]["mean_rowwise_rmse"] == pytest.approx(1 - errors["mine"] / best)


@pytest.mark.parametrize("training", [TRAINING, with_smiles(TRAINING)])
def test_baselines_on_structure_need_every_structure(evaluate, training):
    result = evaluate(train=training)
    assert list(result.scores) == ["mine", *list(ALL_BASELINES)[:6]]
    assert result.note == NO_SMILES


def test_scores_of_single_perturbations(evaluate):
    result = evaluate(train=TRAINING, perturbations=True)
    assert list(result.perturbation_scores) == list(result.scores)
    expected = score_perturbations(
        values(TRUTH), values(PREDICTION), values(TRAINING).mean(axis=0), list(TRUTH["cell_type"])
    )
    expected |= harness_scores(values(TRUTH), values(PREDICTION), list(TRUTH["cell_type"]))
    assert result.perturbation_scores["mine"] == pytest.approx(expected)
    assert "pearson_delta" not in evaluate(perturbations=True).perturbation_scores["mine"]


def replicated(ids):
    """A truth with three rows of one pair and one of another, or of ids where these are not None."""
    again = pd.concat([TRUTH.iloc[[0, 1]]] + [TRUTH.iloc[[0]]] * 2, ignore_index=True)
    again.loc[:, GENES] = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    return again.drop(columns="id") if ids is None else again.assign(id=ids)


@pytest.mark.parametrize("ids", [None, [10, 11, 10, 10], [1, 2, 3, 4]], ids=["pairs", "an id again", "ids"])
@pytest.mark.parametrize("replicates", ["mean", "keep"])
def test_replicates_of_the_truth_are_averaged_or_kept(evaluate, ids, replicates):
    truth, prediction = replicated(ids), PREDICTION.iloc[:2]
    if ids == [1, 2, 3, 4]:  # a prediction for every row
        prediction = prediction.iloc[[0, 1, 0, 0]].assign(id=ids).drop(columns=["cell_type", "sm_name"])
        prediction.loc[:, GENES] += np.arange(4, dtype=np.float32)[:, None]
    found = evaluate(prediction, truth, TRAINING, replicates=replicates)
    Y, P = values(truth), values(prediction)[[0, 1, 2, 3] if len(prediction) == 4 else [0, 1, 0, 0]]
    first = [0, 2, 3]
    if replicates == "mean":
        Y, P = (np.stack([of[first].astype(float).mean(axis=0), of[1]]).astype(np.float32) for of in (Y, P))
    assert found.scores["mine"] == pytest.approx(score_all(Y, P), rel=1e-6)
    assert found.n_rows == len(Y)
    assert ("4 rows of the truth are replicates of 2 pairs: their means" in found.note) == (
        replicates == "mean"
    )
    assert (found.replicates.n_contexts, found.replicates.n_rows) == (1, 3)
    there = [0] if replicates == "mean" else first
    assert found.replicates.prediction == pytest.approx(score_all(Y[there], P[there]), rel=1e-6)
    assert found.noise_ceiling == found.replicates.ceiling["mean_rowwise_rmse"] > 0


def test_replicates_count_by_their_weight(evaluate):
    truth = replicated(None).assign(n_cells=[30.0, 5.0, 10.0, 20.0])
    found = evaluate(PREDICTION.iloc[:2].drop(columns="id"), truth)
    mean = np.average(values(truth)[[0, 2, 3]].astype(float), axis=0, weights=[30, 10, 20])
    expected = score_all(np.stack([mean, values(truth)[1]]).astype(np.float32), values(PREDICTION)[:2])
    assert found.scores["mine"] == pytest.approx(expected, rel=1e-6)
    with pytest.raises(InputError, match="column n_cells, row 3: 0 is missing or not above 0"):
        evaluate(PREDICTION.iloc[:2].drop(columns="id"), truth.assign(n_cells=[1, 1, 0, 1]))


@pytest.mark.parametrize("ids", [None, [10, 11, 12, 13, 14]], ids=["pairs", "ids"])
def test_copied_rows_of_the_truth_count_once(evaluate, ids):
    truth = replicated(None if ids is None else ids[:4])
    copied = pd.concat([truth, truth.iloc[[0]]], ignore_index=True)
    prediction = PREDICTION.iloc[:2].drop(columns="id")
    if ids is not None:
        copied["id"], prediction = ids, PREDICTION.iloc[[0, 1, 0, 0, 0]].assign(id=ids)
    found, once = evaluate(prediction, copied), evaluate(prediction.iloc[:4], truth)
    assert (found.scores, found.replicates) == (once.scores, once.replicates)
    assert "1 rows are identical copies of another row of their compound and context" in found.note


def test_doses_and_times_tell_rows_apart_and_bring_their_baselines(evaluate):
    contexts = {"dose_uM": [0.1, 10, 0.1, 10], "time_h": [6.0, 6, 24, np.nan]}
    pair = {"cell_type": "B cells", "sm_name": "x"}
    truth, prediction = (frame.drop(columns="id").assign(**pair, **contexts) for frame in (TRUTH, PREDICTION))
    training = TRAINING.assign(dose_uM=[0.1, 1, 10, 1, 10], time_h=6.0)
    found = evaluate(prediction.iloc[::-1], truth, training)
    assert found.matched_by == "cell_type, sm_name, dose_uM, time_h" and found.replicates is None
    assert found.scores["mine"] == score_all(values(truth), values(prediction))
    assert {"nearest_context", "context_mean"} <= set(found.scores)
    seen = evaluate(prediction, truth, pd.concat([training, truth.iloc[:1]])).note
    assert seen.startswith("1 of the 4 scored pairs are also in the training file")
    with pytest.raises(
        InputError, match=r"occurs in rows 1, 2, 3, 4.*one row for each pair, dose_uM and time_h in"
    ):
        evaluate(prediction.iloc[:1].drop(columns=list(contexts)), truth)


def test_replicates_of_the_training_file_are_averaged_as_in_a_run(evaluate):
    mean, genes = with_smiles(TRAINING), dict.fromkeys(GENES, np.float32(0.5))
    more, less = (
        mean.iloc[:2].assign(**(mean[GENES].iloc[:2] + step * pd.Series(genes))) for step in (1, -1)
    )
    several, copied = pd.concat([mean, more, less]), pd.concat([mean, mean.iloc[:2]])
    expected = evaluate(train=mean).scores
    for method, scores in evaluate(train=several).scores.items():
        assert scores == pytest.approx(expected[method], rel=1e-5)
    assert evaluate(train=several, replicates="keep").scores != expected
    assert evaluate(train=copied, replicates="keep").scores == expected, "copies count once"


def test_untested_entries_of_a_truth_are_not_scored(evaluate):
    gaps = TRUTH.assign(A2M=[np.nan, 1.0, 2.0, np.nan])
    found = evaluate(truth=gaps, train=with_smiles(TRAINING), perturbations=True)
    assert found.scores["mine"] == score_all(values(gaps), values(PREDICTION))
    assert "2 of the truth's 16 entries are NaN (not tested) and not scored" in found.note
    assert np.isfinite([score for scores in found.scores.values() for score in scores.values()]).all()


def test_columns_that_are_no_genes_can_be_named(evaluate):
    truth = TRUTH.assign(my_number=7.0)
    assert (
        evaluate(truth=truth, options=TableOptions(metadata_columns=("my_number",))).scores
        == evaluate().scores
    )


def test_the_order_of_rows_and_genes_does_not_matter(evaluate):
    expected = evaluate(train=TRAINING)
    shuffled = PREDICTION.iloc[[2, 0, 3, 1]][["AACS", "id", "A2M", "sm_name", "A1BG", "cell_type", "AAAS"]]
    training = TRAINING.iloc[::-1][["A2M", "AACS", "A1BG", "sm_name", "AAAS", "cell_type"]]
    assert evaluate(shuffled, TRUTH, training) == expected


@pytest.mark.parametrize("as_id", [str, float, "category"])
def test_ids_of_another_type_match(evaluate, as_id):
    assert evaluate(PREDICTION.astype({"id": as_id}).iloc[::-1]) == evaluate()


def test_without_ids_rows_match_by_pair(evaluate):
    without = PREDICTION.drop(columns="id").iloc[[3, 1, 2, 0]]
    result = evaluate(without)
    assert result.matched_by == "cell_type, sm_name"
    assert result.scores == evaluate().scores


def test_pairs_come_from_the_prediction_where_the_truth_has_only_ids(evaluate):
    ids_only = TRUTH.drop(columns=["cell_type", "sm_name"])
    shuffled = PREDICTION.iloc[[2, 0, 3, 1]]
    assert evaluate(shuffled, ids_only, TRAINING).scores == evaluate(train=TRAINING).scores


def test_without_pairs_two_baselines_remain_and_the_note_says_why(evaluate):
    truth, prediction = (frame.drop(columns=["cell_type", "sm_name"]) for frame in (TRUTH, PREDICTION))
    result = evaluate(prediction, truth, TRAINING)
    assert list(result.scores) == ["mine", "zeros", "mean_outcome"]
    assert result.note == ("neither file has cell_type and sm_name, which the other baselines average over")
    complete = evaluate(train=TRAINING).scores
    assert all(result.scores[name] == complete[name] for name in result.scores)


def test_without_training_only_zeros_is_scored(evaluate):
    result = evaluate()
    assert list(result.scores) == ["mine", "zeros"]
    assert result.train is None
    assert re.fullmatch(NO_MANIFEST, result.note)


def test_more_genes_in_training_do_not_matter(evaluate):
    assert evaluate(train=TRAINING.assign(MORE=1.0)).scores == evaluate(train=TRAINING).scores


def test_the_run_s_training_file_is_found_by_its_manifest(evaluate, tmp_path):
    expected = evaluate(train=TRAINING)
    with_manifest(tmp_path, tmp_path / "train.parquet")
    assert evaluate() == expected


@pytest.mark.parametrize(
    ("training", "changed", "note"),
    [
        (
            TRAINING,
            {"sha256": "0" * 64},
            r"train\.parquet has changed since.*; give --train FILE for the others$",
        ),
        (
            TRAINING.drop(columns="A2M"),
            {},
            r"train.parquet: 1 of the 4 genes of the truth are missing \(A2M\)",
        ),
    ],
)
def test_a_recorded_training_file_that_does_not_help_is_only_noted(
    evaluate, tmp_path, training, changed, note
):
    training.to_parquet(tmp_path / "train.parquet")
    with_manifest(tmp_path, tmp_path / "train.parquet", **changed)
    result = evaluate()
    assert list(result.scores) == ["mine", "zeros"]
    assert re.search(note, result.note)


def test_a_truth_that_the_baselines_were_fitted_on_is_noted(evaluate):
    answers = pd.concat([TRAINING, TRUTH.drop(columns="id").iloc[:3]])
    assert evaluate(train=answers).note.startswith(
        "3 of the 4 scored pairs are also in the training file: the baselines have seen their answers and "
        "look better than they are"
    )


def test_the_result_is_json_in_order(evaluate):
    result = evaluate(train=TRAINING)
    back = json.loads(json.dumps(asdict(result)))
    names = ["scores", "scaled", "perturbation_scores", "noise_ceiling", "replicates"]
    assert list(back) == ["n_rows", "n_genes", "matched_by", *names, "train", "note"]
    assert list(back["scores"]) == ["mine", *list(ALL_BASELINES)[:6]]
    assert all(list(scores) == list(METRICS) for scores in back["scores"].values())
    assert back["scores"] == result.scores


@pytest.mark.parametrize(
    ("name", "method"), [("my.model.csv", "my.model"), ("mine.csv.gz", "mine"), ("zeros.csv", "prediction")]
)
def test_the_prediction_goes_by_its_file_s_name(tmp_path, name, method):
    PREDICTION.to_csv(tmp_path / name, index=False)
    TRUTH.to_csv(tmp_path / "truth.csv", index=False)
    assert list(evaluate_files(tmp_path / name, tmp_path / "truth.csv").scores) == [method, "zeros"]


def test_a_pair_is_not_confused_with_one_split_elsewhere(evaluate):
    truth = table([("A", "B, C"), ("A, B", "C")], 0, with_id=False)
    prediction = table([("A, B", "C"), ("A", "B, C")], 1, with_id=False)
    expected = score_all(values(truth), values(prediction)[::-1])
    assert evaluate(prediction, truth).scores["mine"] == expected


def test_h5ad_layers(object_strings, tmp_path):
    anndata = pytest.importorskip("anndata")

    def write(name, frame, layer):
        obs = (
            frame[["id", "cell_type", "sm_name"]]
            .astype({"cell_type": object, "sm_name": object})
            .set_axis([f"row{k}" for k in range(len(frame))])
        )
        var = pd.DataFrame(index=GENES)
        anndata.AnnData(obs=obs, var=var, layers={layer: values(frame)}).write_h5ad(tmp_path / name)

    write("mine.h5ad", PREDICTION, "prediction")
    write("truth.h5ad", TRUTH, "clipped_sign_log10_pval")
    result = evaluate_files(tmp_path / "mine.h5ad", tmp_path / "truth.h5ad")
    assert result.scores["mine"] == score_all(values(TRUTH), values(PREDICTION))
    with pytest.raises(InputError, match=r"truth\.h5ad: no layer 'sign_log10_pval'"):
        evaluate_files(
            tmp_path / "mine.h5ad", tmp_path / "truth.h5ad", options=TableOptions(layer="sign_log10_pval")
        )


def test_on_real_data(shared_data, tmp_path):
    folder = shared_data / "lincs_lung"
    truth = read_responses(folder / "de_test.parquet")
    zeros = pd.DataFrame(np.zeros_like(truth.Y), columns=truth.genes)
    zeros.insert(0, "id", pd.read_csv(folder / "id_map.csv")["id"])
    zeros.to_csv(tmp_path / "submission.csv", index=False)
    files = [tmp_path / "submission.csv", folder / "de_test.parquet", folder / "de_train.parquet"]
    result = evaluate_files(*files)
    assert (result.n_rows, result.n_genes, result.note) == (364, 978, None)
    rmse = {name: scores["mean_rowwise_rmse"] for name, scores in result.scores.items()}
    known = [1.549, 1.549, 1.525, 1.554, 1.641, 1.517, 1.4925, 1.488, 1.515]
    assert rmse == pytest.approx(dict(zip(["submission", *ALL_BASELINES], known, strict=True)), abs=6e-4)


SCORES = {
    "model": {"mean_rowwise_rmse": 0.6, "mean_rowwise_pearson": 0.4},
    "zeros": {"mean_rowwise_rmse": 0.8, "mean_rowwise_pearson": 0.0},
    "mean": {"mean_rowwise_rmse": 0.9, "mean_rowwise_pearson": 0.2},
}


def test_scores_are_shares_of_the_way_from_the_best_baseline_to_perfection():
    found = scaled_scores(SCORES, ["zeros", "mean", "not scored"])
    assert found["model"]["mean_rowwise_rmse"] == pytest.approx((0.8 - 0.6) / 0.8)
    assert found["model"]["mean_rowwise_pearson"] == pytest.approx((0.4 - 0.2) / (1 - 0.2))
    assert found["zeros"]["mean_rowwise_rmse"] == 0 and found["mean"]["mean_rowwise_pearson"] == 0
    assert found["mean"]["mean_rowwise_rmse"] == pytest.approx(-0.125), "worse than the best baseline"
    assert best_baseline(SCORES, ["zeros", "mean"], "mean_rowwise_pearson") == "mean"


def test_a_perfect_model_is_one_and_a_perfect_baseline_leaves_nothing():
    perfect = {"mean_rowwise_rmse": 0.0, "mean_rowwise_pearson": 1.0}
    assert set(scaled_scores(SCORES | {"model": perfect}, ["zeros"])["model"].values()) == {1.0}
    found = scaled_scores({"model": SCORES["model"], "zeros": perfect}, ["zeros"])["model"]
    assert all(math.isnan(value) for value in found.values())


# --- rows that an id map names ----------------------------------------------------------------------------


def test_an_id_map_names_the_rows_of_a_prediction(evaluate, tmp_path):
    expected = evaluate(train=TRAINING)
    id_map = tmp_path / "id_map.csv"
    TRUTH[["id", "cell_type", "sm_name"]].to_csv(id_map, index=False)
    by_id = PREDICTION[["id", *GENES]].sample(frac=1, random_state=0)
    without_ids = TRUTH.drop(columns="id")
    for prediction, truth in (
        (PREDICTION[GENES], TRUTH),  # in the order of the map
        (by_id, TRUTH),
        (by_id, without_ids),  # the map has the pairs
    ):
        found = evaluate(prediction, truth, TRAINING, id_map=id_map)
        assert found.scores == expected.scores and found.n_rows == 4
        assert ("matched with id_map.csv by position" in (found.note or "")) == ("id" not in prediction)
    with pytest.raises(InputError, match=r"id 99 is not in .*id_map.csv"):
        evaluate(PREDICTION[["id", *GENES]].replace({"id": {10: 99}}), TRUTH, id_map=id_map)
    with pytest.raises(InputError, match=r"not named by ids of .*id_map.csv, and there are 3 of them, not 4"):
        evaluate(PREDICTION[GENES].head(3), TRUTH.head(3), id_map=id_map)
    pd.concat([TRUTH, TRUTH])[["id"]].to_csv(id_map, index=False)
    with pytest.raises(InputError, match=r"id_map.csv: id 10 is there twice"):
        evaluate(PREDICTION[GENES], id_map=id_map)


def test_a_contract_only_prediction_of_open_problems_is_scored_with_its_id_map(tmp_path, object_strings):
    anndata = pytest.importorskip("anndata")
    data = anndata.AnnData(
        obs=pd.DataFrame(index=[f"cell{k}" for k in range(4)]), var=pd.DataFrame(index=GENES)
    )
    data.layers["prediction"] = values(PREDICTION)
    data.write_h5ad(tmp_path / "prediction.h5ad")
    for name, frame in (("truth", TRUTH), ("train", TRAINING)):
        frame.to_parquet(tmp_path / f"{name}.parquet", index=False)
    TRUTH[["id", "cell_type", "sm_name"]].to_csv(tmp_path / "id_map.csv", index=False)
    asked = ["evaluate", "--prediction", tmp_path / "prediction.h5ad", "--truth", tmp_path / "truth.parquet"]
    refused = error_line(invoke(*asked))
    assert "4 of the 4 ids of the truth" in refused and "give the pairs of its rows by --id-map" in refused
    told = json.loads(succeed(*asked, "--id-map", tmp_path / "id_map.csv", "--json").stdout)
    assert told["scores"]["prediction"]["mean_rowwise_rmse"] == pytest.approx(
        score_all(values(TRUTH), values(PREDICTION))["mean_rowwise_rmse"]
    )


def test_a_prediction_with_nan_is_refused_as_the_docs_say(evaluate):
    broken = PREDICTION.assign(A2M=[0.0, np.nan, 1.0, 2.0])
    with pytest.raises(InputError, match="A2M"):
        evaluate(broken)
