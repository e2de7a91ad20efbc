"""Saved models: they predict as the run that saved them, anywhere, and damaged ones are refused."""

import shutil
from copy import deepcopy

import numpy as np
import pytest

from features.molecules import encoders
from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.data.tables import read_responses
from rapids_pipeline.stack import saved as saved_model
from rapids_pipeline.stack.saved import load_model
from tests.command_line import error_line, invoke, succeed

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


def run(files, out, recipe):
    words = "run", "--train", files.train, "--test", files.test, "--molecules", "morgan"
    return succeed(*words, "--recipe", recipe, "--out", out)


@pytest.fixture(scope="module")
def finished(small_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    (folder / "recipe.toml").write_text(RECIPE)
    run(small_files, folder / "run", folder / "recipe.toml")
    return folder / "run"


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished / "model", tmp_path / "model")
    return tmp_path / "model"


def predict(model, pairs, out):
    return invoke("predict", "--model", model, "--pairs", pairs, "--out", out)


def assert_predicts_as_its_run(folder, files, out):
    assert predict(folder / "model", files.test, out).exit_code == 0
    one, other = read_responses(folder / "submission.csv"), read_responses(out)
    assert one.obs["id"].tolist() == other.obs["id"].tolist() and one.genes == other.genes
    np.testing.assert_allclose(one.Y, other.Y, atol=1e-5)


def test_a_saved_model_predicts_as_the_run_that_saved_it(finished, small_files, tmp_path):
    assert_predicts_as_its_run(finished, small_files, tmp_path / "predicted.csv")


def test_a_recipe_of_one_member_runs_is_saved_and_predicts(small_files, tmp_path):
    (tmp_path / "one.toml").write_text(
        'name = "one"\nn_folds = 3\n[[members]]\nkind = "svr"\nfeatures = "onehot"\n'
    )
    run(small_files, tmp_path / "run", tmp_path / "one.toml")
    assert_predicts_as_its_run(tmp_path / "run", small_files, tmp_path / "predicted.csv")


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


def test_no_model_and_a_damaged_one_end_with_2(copy, small_files, tmp_path):
    out = tmp_path / "out.csv"
    assert str(tmp_path / "none") in error_line(predict(tmp_path / "none", small_files.test, out))
    for path in sorted(copy.iterdir()):
        content = path.read_bytes()
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
        assert str(copy) in error_line(predict(copy, small_files.test, out)), path.name
        path.write_bytes(content)
    assert not out.exists()


def test_a_package_that_computes_otherwise_is_noticed(finished, monkeypatch):
    original = encoders.encode_molecules

    def other(names, training, others=(), device="cpu"):
        found = original(names, training, others, device)
        for name in found.training:
            found.training[name] = found.training[name][:, ::-1]
        return found

    monkeypatch.setattr(encoders, "encode_molecules", other)
    with pytest.raises(InputError, match="predicts its own check pairs otherwise than when it was saved"):
        load_model(finished / "model")


def test_parts_that_do_not_fit_together_are_refused(finished, tmp_path):
    """A consistent folder, every hash right, whose arrays belong to another model."""
    from rapids_pipeline.backend.bundle import read_bundle, write_bundle

    bundle = read_bundle(finished / "model")
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
        changed = deepcopy(bundle.state._state)
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
    with pytest.raises(
        UnavailableError, match=r"1 compounds are new to the model, .* weights of 'somewhere/weights'"
    ):
        embedded._embedded(encoder, ["CCN"], "cpu")
