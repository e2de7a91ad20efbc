"""Saved models: they predict as the run that saved them, anywhere, and damaged ones are refused."""

import shutil

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.commands import app as cli
from rapids_pipeline.data.tables import read_responses
from rapids_pipeline.stack import saved as saved_model
from rapids_pipeline.stack.saved import load_model

RECIPE = """name = "small"
n_folds = 3
[[members]]
kind = "svr"
[[members]]
kind = "own_target_svr"
[[members]]
kind = "composite"
[members.known_compounds]
n_components = 6
weights = { cell_type = 1.0, tanimoto = 0.5, "correlation * profile_linear" = 3.0, "rbf(molecules)" = 0.2 }
[members.new_compounds]
n_components = 6
transform = "gene_scale"
targets = "genes"
weights = { cell_type = 1.0, "correlation * tanimoto^2" = 1.0, "rbf(descriptors)" = 0.5 }
[[members]]
kind = "booster"
stacks_on = ["svr_shared", "svr_per_target", "composite"]
pseudo_labels = { use = "on" }
n_estimators = 20
learning_rate = 0.2
n_seeds = 2
features = "boosting_aggregates"
[[members]]
kind = "booster"
name = "trees"
stacks_on = ["composite"]
n_estimators = 5
transform = "asinh"
centre = true
[[members]]
kind = "svr"
name = "above"
stacks_on = ["composite", "svr_shared"]
features = "boosting"
"""


BOOSTER = 5
"""Place of the first booster among the models: those of the first level, then `trees` and `above`, come before it."""


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def error_line(result, code=2):
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


@pytest.fixture(scope="module")
def finished(small_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    (folder / "recipe.toml").write_text(RECIPE)
    arguments = ["--train", small_files.train, "--test", small_files.test, "--out", folder / "run"]
    result = invoke("run", *arguments, "--molecules", "morgan", "--recipe", folder / "recipe.toml")
    assert result.exit_code == 0, result.output
    return folder / "run"


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished / "model", tmp_path / "model")
    return tmp_path / "model"


def predict(model, pairs, out):
    return invoke("predict", "--model", model, "--pairs", pairs, "--out", out)


def test_a_saved_model_predicts_as_the_run_that_saved_it(finished, small_files, tmp_path):
    out = tmp_path / "predicted.csv"
    result = predict(finished / "model", small_files.test, out)
    assert result.exit_code == 0, result.output
    assert f"written: {out}" in result.stdout
    one, other = read_responses(finished / "submission.csv"), read_responses(out)
    assert one.obs["id"].tolist() == other.obs["id"].tolist() and one.genes == other.genes
    np.testing.assert_allclose(one.Y, other.Y, atol=1e-5)


FEW = {
    "no booster": '[[members]]\nkind = "svr"\n[[members]]\nkind = "svr"\nfeatures = "onehot"\n',
    "one member": '[[members]]\nkind = "svr"\nfeatures = "onehot"\n',
    "a booster of the first level": '[[members]]\nkind = "booster"\nn_estimators = 5\nfeatures = "onehot_loo"\n',
}


@pytest.mark.parametrize("name", FEW)
def test_a_recipe_of_few_members_runs_is_saved_and_predicts(name, small_files, tmp_path):
    (tmp_path / "few.toml").write_text(f'name = "few"\nn_folds = 3\n{FEW[name]}')
    arguments = ["--train", small_files.train, "--test", small_files.test, "--out", tmp_path / "run"]
    result = invoke("run", *arguments, "--molecules", "morgan", "--recipe", tmp_path / "few.toml")
    assert result.exit_code == 0, result.output
    out = tmp_path / "predicted.csv"
    assert predict(tmp_path / "run" / "model", small_files.test, out).exit_code == 0
    one, other = read_responses(tmp_path / "run" / "submission.csv"), read_responses(out)
    np.testing.assert_allclose(one.Y, other.Y, atol=1e-5)


def test_the_model_needs_nothing_but_its_folder(copy, finished, small_files, tmp_path):
    """A copy elsewhere, its run gone; one pair alone is predicted as among the others."""
    pairs = small_files.id_map.iloc[[4]]
    pairs.to_csv(tmp_path / "one.csv", index=False)
    assert predict(copy, tmp_path / "one.csv", tmp_path / "one-out.csv").exit_code == 0
    alone, all_of_them = read_responses(tmp_path / "one-out.csv"), read_responses(finished / "submission.csv")
    np.testing.assert_allclose(alone.Y[0], all_of_them.Y[4], atol=1e-5)
    assert not list(copy.glob("*.pkl")) and {path.suffix for path in copy.iterdir()} == {
        ".json",
        ".safetensors",
    }


def test_unseen_compounds_and_cell_types_are_predicted_and_named(finished, small_files, tmp_path):
    known = small_files.de_train.iloc[0]
    pairs = pd.DataFrame(
        {
            "id": [1, 2, 3],
            "cell_type": [known.cell_type, "unheard of", known.cell_type],
            "sm_name": ["new", known.sm_name, "caffeine"],
            "SMILES": ["CCOC(=O)c1ccccc1", None, "Cn1cnc2c1c(=O)n(C)c(=O)n2C"],
        }
    )
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    result = predict(finished / "model", tmp_path / "pairs.csv", tmp_path / "out.csv")
    assert result.exit_code == 0, result.output
    assert "2 of 3 pairs have a sm_name the model was not trained on (new, caffeine)" in result.stderr
    assert "1 of 3 pairs have a cell_type the model was not trained on (unheard of)" in result.stderr
    predicted = read_responses(tmp_path / "out.csv").Y
    assert np.isfinite(predicted).all() and np.any(predicted[0] != predicted[2]), "the structure counts"


def test_a_compound_without_smiles_and_a_bad_name_are_refused(finished, tmp_path):
    pairs = pd.DataFrame({"id": [1], "cell_type": ["x"], "sm_name": ["nobody knows"]})
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    out = tmp_path / "out.csv"
    assert "no SMILES for 'nobody knows'" in error_line(
        predict(finished / "model", tmp_path / "pairs.csv", out)
    )
    assert not out.exists()
    message = error_line(predict(finished / "model", tmp_path / "pairs.csv", tmp_path / "out.txt"))
    assert "a Kaggle submission is a CSV" in message


def test_no_model_and_a_damaged_one_end_with_2(copy, small_files, tmp_path):
    out = tmp_path / "out.csv"
    assert str(tmp_path / "none") in error_line(predict(tmp_path / "none", small_files.test, out))
    for path in sorted(copy.iterdir()):
        content = path.read_bytes()
        for place in (0, len(content) // 2, len(content) - 3):
            changed = bytearray(content)
            changed[place] ^= 1
            path.write_bytes(bytes(changed))
            assert str(copy) in error_line(predict(copy, small_files.test, out)), (path.name, place)
        path.write_bytes(content[:-5])
        error_line(predict(copy, small_files.test, out))
        path.unlink()
        error_line(predict(copy, small_files.test, out))
        path.write_bytes(content)
    assert not out.exists()
    assert predict(copy, small_files.test, out).exit_code == 0, "and whole again it works"


def test_a_package_that_computes_otherwise_is_noticed(finished, monkeypatch):
    original = saved_model.encode_molecules

    def other(encoders, training, others=(), device="cpu"):
        found = original(encoders, training, others, device)
        for name in found.training:
            found.training[name] = found.training[name][:, ::-1]
        return found

    monkeypatch.setattr(saved_model, "encode_molecules", other)
    with pytest.raises(InputError, match="predicts its own check pairs otherwise than when it was saved"):
        load_model(finished / "model")


def test_parts_that_do_not_fit_together_are_refused(finished, tmp_path):
    """A consistent folder, every hash right, whose arrays belong to another model."""
    from rapids_pipeline.backend.bundle import read_bundle, write_bundle

    bundle = read_bundle(finished / "model")

    def plain(reader, name):
        value = reader.anything(name)
        return value if not hasattr(value, "items") else {key: plain(reader.part(name), key) for key in value}

    state = {name: plain(bundle.state, name) for name in bundle.state.names()}
    changes = {
        "few support rows": lambda s: s["member_0"].update(support=s["member_0"]["support"][:5]),
        "other genes": lambda s: s["genes"].update(names=s["genes"]["names"][:-1]),
        "narrow table": lambda s: s["member_0"].update(support=s["member_0"]["support"][:, :-1].copy()),
        "no blend": lambda s: s.pop("blend"),
        "wide trees": lambda s: s[f"member_{BOOSTER}"]["seed_0"]["trees"].update(
            n_features=np.array([10_000])
        ),
    }
    for number, (name, change) in enumerate(changes.items()):
        changed = {
            part: {key: dict(value) if isinstance(value, dict) else value for key, value in content.items()}
            for part, content in state.items()
        }
        change(changed)
        write_bundle(tmp_path / str(number), changed, bundle.about)
        with pytest.raises(InputError, match=str(tmp_path / str(number))):
            load_model(tmp_path / str(number))
            pytest.fail(name)


def test_embeddings_of_known_molecules_are_at_hand_and_new_ones_need_the_weights(finished, small_files):
    model = load_model(finished / "model")
    encoder = "somewhere/weights"
    features = np.arange(6, dtype=np.float32).reshape(2, 3)
    embedded = saved_model.SavedModel(
        model.stack, model.config, model.genes, model.obs, {encoder: (["CCO", "c1ccccc1"], features)}
    )
    found, notes = embedded._embedded(encoder, ["C1=CC=CC=C1", "OCC", "CCO"], "cpu")
    assert found.tolist() == features[[1, 0, 0]].tolist() and notes == []
    with pytest.raises(UnavailableError, match="1 compounds are new to the model, and somewhere/weights"):
        embedded._embedded(encoder, ["CCN"], "cpu")
