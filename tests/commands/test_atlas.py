"""`atlas`, and the commands that use one: what a run says of it, what its model keeps, and what is refused."""

import json

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline import PerturbationModel
from rapids_pipeline.backend.files import sha256_of
from rapids_pipeline.stack.named_recipes import COMPOSITE
from rapids_pipeline.stack.recipe import Recipe, to_toml
from tests.command_line import error_line, invoke, manifest_of, names_in, succeed

SMILES = [f"{'C' * (1 + k % 7)}{end}" for k in range(28) for end in ["NOSF"[k % 4] + ".Cl" * (k // 28)]]
NEW = 20
"""Compounds from this number on are new to the training rows."""


def table(cells, compounds, effects, genes, seed):
    """Responses of compounds in cell types by effects in some genes, with noise."""
    rng = np.random.default_rng(seed)
    pairs = [(cell, k) for k in compounds for cell in cells]
    Y = [effects[k] + 0.5 * rng.normal(size=len(genes)) for _, k in pairs]
    obs = {
        "cell_type": [cell for cell, _ in pairs],
        "sm_name": [f"drug-{k}" for _, k in pairs],
        "SMILES": [SMILES[k] for _, k in pairs],
    }
    return pd.concat([pd.DataFrame(obs), pd.DataFrame(np.array(Y), columns=genes)], axis=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Training rows, pairs of new compounds, two other data sets without structures, an atlas of them, a recipe."""
    made, rng = tmp_path_factory.mktemp("atlas"), np.random.default_rng(0)
    codes = rng.normal(size=(28, 4))
    mine, theirs = ([f"{letter}{k}" for k in range(12)] for letter in "GH")
    own = codes @ rng.normal(size=(4, 12))
    other = codes @ rng.normal(size=(4, 12))
    table(["B", "T"], range(NEW), own, mine, 1).to_parquet(made / "train.parquet")
    truth = table(["B"], range(NEW, 28), own, mine, 2)
    truth.to_parquet(made / "truth.parquet")
    truth[["cell_type", "sm_name", "SMILES"]].rename_axis("id").reset_index().to_csv(
        made / "pairs.csv", index=False
    )
    for name, cells, compounds, seed in (("one", ["K", "B"], range(26), 3), ("two", ["L"], range(5, 26), 4)):
        found = table(cells, compounds, other, theirs, seed).drop(columns="SMILES")
        found["sm_name"] = found["sm_name"].str.replace("drug-", "Drug ")
        found.to_csv(made / f"{name}.csv", index=False)
    (made / "kernels.toml").write_text(to_toml(Recipe(name="kernels", n_folds=3, members=(COMPOSITE,))))
    succeed("atlas", "--from", made / "one.csv", "--from", made / "two.csv", "--out", made / "atlas")
    return made


def run_words(folder, out, *more):
    files = "--train", folder / "train.parquet", "--test", folder / "pairs.csv", "--out", out
    how = "--recipe", folder / "kernels.toml", "--molecules", "morgan", "--device", "cpu"
    return ["run", *files, *how, *more]


def predicted_by(out):
    """What a run predicts."""
    return pd.read_csv(out / "submission.csv").drop(columns="id")


def amplitude_of(out):
    """The amplitude of a run's blend, which has one member."""
    return json.loads((out / "scores.json").read_text())["blend"]["amplitude"]


def test_a_run_with_an_atlas_predicts_new_compounds_better_and_absent_ones_alike(folder, tmp_path):
    shown = succeed(*run_words(folder, tmp_path / "with", "--atlas", folder / "atlas")).stdout
    assert "atlas: it has 20 of the 20 compounds of the training rows" in " ".join(shown.split())
    assert "it has 6 of the 8 compounds of the pairs to predict" in " ".join(shown.split())
    assert "6 of the 8 pairs to predict have cell type and compound of a response" in " ".join(shown.split())
    succeed(*run_words(folder, tmp_path / "without"))
    with_it, without = (predicted_by(tmp_path / name) for name in ("with", "without"))
    truth = pd.read_parquet(folder / "truth.parquet")[with_it.columns]
    errors = [np.sqrt(((found - truth) ** 2).mean(axis=1))[:6].mean() for found in (with_it, without)]
    assert errors[0] < 0.8 * errors[1]
    amplitudes = [amplitude_of(tmp_path / name) for name in ("with", "without")]
    np.testing.assert_allclose(with_it[6:] / amplitudes[0], without[6:] / amplitudes[1], rtol=1e-5)
    inputs = manifest_of(tmp_path / "with")["inputs"]
    assert inputs["atlas"]["sha256"] == sha256_of(folder / "atlas" / "manifest.json")
    assert "falls from" in " ".join(succeed("next", "--run", tmp_path / "with", "--top", "2").stdout.split())
    predicted = tmp_path / "later.csv"
    words = "predict", "--model", tmp_path / "with", "--pairs", folder / "pairs.csv", "--out", predicted
    said = succeed(*words)
    assert "it has 6 of the 8 compounds" in said.stderr
    for place in (tmp_path / "later.applicability.csv", tmp_path / "with" / "predictions.parquet"):
        read = pd.read_csv if place.suffix == ".csv" else pd.read_parquet
        assert read(place)["in_atlas"].tolist() == [True] * 6 + [False] * 2
    first, second = (pd.read_csv(path) for path in (predicted, tmp_path / "with" / "submission.csv"))
    np.testing.assert_allclose(first.to_numpy(), second.to_numpy(), atol=1e-5)


def test_python_and_cross_validation_take_an_atlas(folder, tmp_path):
    model = PerturbationModel(folder / "kernels.toml", molecules="morgan", atlas=folder / "atlas")
    assert "atlas counts" in " ".join(model.fit(folder / "train.parquet", folder / "pairs.csv").notes_)
    model.save(tmp_path / "model")
    again, asked = PerturbationModel.load(tmp_path / "model"), [("T", "DRUG 25", SMILES[25])]
    np.testing.assert_array_equal(again.predict(asked).to_numpy(), model.predict(asked).to_numpy())
    files = "--train", folder / "train.parquet", "--recipe", folder / "kernels.toml", "--molecules", "morgan"
    how = "--split", "compound", "--folds", "2", "--device", "cpu"
    scores = []
    for name, more in (("with", ["--atlas", folder / "atlas"]), ("without", [])):
        succeed("cv", *files, *how, "--out", tmp_path / name, *more)
        found = json.loads((tmp_path / name / "cv.json").read_text())
        scores.append(found["methods"][0]["scores"]["mean_rowwise_rmse"])
    assert scores[0] < 0.9 * scores[1]


def test_compounds_without_structures_are_found_by_name(folder, tmp_path):
    words = [("none" if word == "morgan" else word) for word in run_words(folder, tmp_path / "run")]
    succeed(*words, "--atlas", folder / "atlas")
    found = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    assert found["in_atlas"].tolist() == [True] * 6 + [False] * 2


def test_what_cannot_be_an_atlas_or_use_one_is_refused_in_one_line(folder, tmp_path):
    run = run_words(folder, tmp_path / "out")
    assert "there is no atlas; make one" in error_line(invoke(*run, "--atlas", tmp_path))
    succeed("atlas", "--from", folder / "train.parquet", "--out", tmp_path / "own")
    assert "made from this very file" in error_line(invoke(*run, "--atlas", tmp_path / "own"))
    again = "atlas", "--from", folder / "one.csv", "--out", tmp_path / "own"
    assert "--overwrite" in error_line(invoke(*again))
    succeed(*again, "--overwrite")
    other = invoke(*again[:-1], folder, "--overwrite")
    assert "is no folder of an atlas" in error_line(other) and (folder / "train.parquet").exists()
    assert "there is no atlas" in error_line(invoke(*run, "--atlas", "a" * 300))
    assert names_in(tmp_path / "own") == ["atlas.safetensors", "manifest.json", "state.json"]
    quick = invoke(*run_words(folder, tmp_path / "out", "--atlas", folder / "atlas", "--quick"))
    assert "no member of the recipe quick reads an atlas" in error_line(quick)
    (folder / "own.toml").write_text(
        (folder / "kernels.toml").read_text().replace("atlas = false", "atlas = true")
    )
    lacking = ["own.toml" if word == folder / "kernels.toml" else word for word in run]
    lacking[lacking.index("own.toml")] = folder / "own.toml"
    assert "name its folder with --atlas" in error_line(invoke(*lacking))


def test_an_atlas_without_a_compound_of_the_training_rows_counts_nothing(folder, tmp_path):
    others = pd.read_csv(folder / "one.csv")
    others["sm_name"] = "other " + others["sm_name"]
    others.to_csv(tmp_path / "others.csv", index=False)
    succeed("atlas", "--from", tmp_path / "others.csv", "--out", tmp_path / "atlas")
    shown = succeed(*run_words(folder, tmp_path / "run", "--atlas", tmp_path / "atlas")).stdout
    assert "the atlas counts nothing: it has 0 training compounds" in " ".join(shown.split())
