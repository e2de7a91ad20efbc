"""PerturbationModel: the same model as the command line's, from files and from tables in memory."""

import json
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

import rapids_pipeline
from rapids_pipeline import PerturbationModel
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.evaluation.evaluate import evaluate_files
from rapids_pipeline.stack.named_recipes import RECIPES
from rapids_pipeline.stack.recipe import to_toml
from tests.backend import cudf_on_cpu
from tests.command_line import run_arguments, succeed

PAIRS = [("NK cells", "Vorinostat"), ("B cells", "Vorinostat")]
QUICK = {"recipe": "quick", "molecules": "morgan"}


@pytest.fixture(scope="module")
def fitted(small_files):
    return PerturbationModel(**QUICK).fit(small_files.train, small_files.test)


@pytest.fixture(scope="module")
def pairs(small_files):
    """Pairs whose compounds the small training file has."""
    return list(small_files.id_map[["cell_type", "sm_name"]].head(5).itertuples(index=False, name=None))


def anndata_of(frame):
    genes = list(frame.select_dtypes("number").columns)
    obs = frame.drop(columns=genes)
    obs.index = obs.index.astype(str)
    return anndata.AnnData(frame[genes].to_numpy(np.float32), obs, pd.DataFrame(index=genes))


# --- the same as the command line -------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["quick", "published"])
def test_it_is_the_command_lines_model_to_the_byte(small_files, tmp_path, recipe):
    toml = tmp_path / "small.toml"
    toml.write_text(to_toml(RECIPES[recipe].updated(n_folds=3)))
    arguments = run_arguments(small_files.train, small_files.test, tmp_path / "run", "--recipe", toml)
    succeed(*arguments)
    ours = PerturbationModel(str(toml), molecules="morgan").fit(small_files.train, small_files.test)
    ours.save(tmp_path / "saved")
    files = sorted(path.name for path in (tmp_path / "run" / "model").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "saved").iterdir())
    for name in set(files) - {"manifest.json"}:
        one, other = (tmp_path / folder / name for folder in ("run/model", "saved"))
        assert one.read_bytes() == other.read_bytes(), name
    submission = pd.read_csv(tmp_path / "run" / "submission.csv", index_col="id").astype(np.float32)
    predicted = ours.predict(small_files.test)
    np.testing.assert_allclose(predicted.to_numpy(), submission.to_numpy(), rtol=1e-5, atol=1e-6)
    oof = pd.read_parquet(tmp_path / "run" / "oof.parquet")
    pd.testing.assert_frame_equal(ours.oof_, oof, check_dtype=False)
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())["out_of_fold"]
    assert ours.scores_["mrrmse"].to_dict() == {k: v["mean_rowwise_rmse"] for k, v in scores.items()}


def test_what_either_wrote_the_other_reads(small_files, fitted, tmp_path, pairs):
    fitted.save(tmp_path / "model")
    asked = tmp_path / "pairs.csv"
    pd.DataFrame(pairs, columns=["cell_type", "sm_name"]).to_csv(asked, index=False)
    succeed("predict", "--model", tmp_path / "model", "--pairs", asked, "--out", tmp_path / "out.csv")
    theirs = pd.read_csv(tmp_path / "out.csv", index_col="id").to_numpy(np.float32)
    np.testing.assert_array_equal(fitted.predict(pairs).to_numpy(), theirs)
    loaded = PerturbationModel.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(asked).to_numpy(), theirs)
    assert not hasattr(loaded, "scores_") and loaded.molecules == "morgan"
    with pytest.raises(InputError, match="exists already; choose another name, or give overwrite=True"):
        fitted.save(tmp_path / "model")
    fitted.save(tmp_path / "model", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("model", "out.applicability.csv", "out.csv", "out.report.html", "pairs.csv")
    ]


def test_scores_on_measured_responses_are_those_of_evaluate(small_files, fitted, tmp_path):
    truth = pd.read_parquet(small_files.truth)
    predicted = fitted.predict(small_files.test)
    table = small_files.id_map[["id"]].assign(**predicted.reset_index(drop=True))
    table.to_parquet(tmp_path / "model.parquet")
    theirs = evaluate_files(
        tmp_path / "model.parquet", small_files.truth, small_files.train, perturbations=True
    )
    for source in (small_files.truth, truth.drop(columns="id")):
        ours = fitted.evaluate(source, perturbations=True)
        expected = pd.DataFrame(theirs.scores).T.join(pd.DataFrame(theirs.perturbation_scores).T)
        pd.testing.assert_frame_equal(ours.astype(float), expected.astype(float), rtol=1e-5)
    assert fitted.score(truth) == -ours.loc["model", "mean_rowwise_rmse"]
    fewer = truth.drop(columns=[*fitted.genes_[:3]])
    assert fitted.evaluate(fewer).loc["zeros", "mean_rowwise_mae"] > 0
    with pytest.raises(InputError, match="1 of its genes are not the model's, such as 'NEW'"):
        fitted.evaluate(truth.assign(NEW=1.5))


def test_cross_validation_is_that_of_the_command(small_files, tmp_path):
    files = ["--train", small_files.train, "--test", small_files.test, "--split", "random", "--folds", "3"]
    succeed("cv", *files, "--quick", "--molecules", "morgan", "--out", tmp_path / "cv")
    theirs = json.loads((tmp_path / "cv" / "cv.json").read_text())["methods"]
    found = PerturbationModel(**QUICK).cross_validate(
        small_files.de_train, small_files.id_map, split="random", n_folds=3, folder=tmp_path / "again"
    )
    frame = found.to_frame()
    assert list(frame.index) == [one["name"] for one in theirs]
    assert frame["mean_rowwise_rmse"].tolist() == [one["scores"]["mean_rowwise_rmse"] for one in theirs]
    assert repr(found).startswith(f"<cross-validation by random, {found.n_rows} rows held out: MRRMSE ")


# --- tables in memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow", "anndata", "cudf"])
def test_a_table_in_memory_is_its_file(small_files, fitted, kind, object_strings, monkeypatch):
    frame, cudf = small_files.de_train, cudf_on_cpu.module()
    monkeypatch.setitem(sys.modules, "cudf", cudf)
    if kind == "anndata":
        made = anndata_of(frame)
    else:
        turn = {
            "pandas": lambda x: x,
            "polars": pl.from_pandas,
            "arrow": lambda x: pl.from_pandas(x).to_arrow(),
            "cudf": cudf.from_pandas,
        }
        made = turn[kind](frame)
    asked = small_files.id_map if kind in ("pandas", "anndata") else pl.from_pandas(small_files.id_map)
    asked = cudf.from_pandas(small_files.id_map) if kind == "cudf" else asked
    found = PerturbationModel(**QUICK).fit(made, asked)
    expected = fitted.predict(small_files.test)
    pd.testing.assert_frame_equal(found.predict(asked), expected, check_index_type=False, rtol=1e-5)
    pd.testing.assert_frame_equal(found.evaluate(made), found.evaluate(small_files.train), rtol=1e-5)


def test_pairs_as_tuples_tables_and_files(fitted, tmp_path, pairs):
    table = pd.DataFrame(pairs, columns=["cell_type", "sm_name"])
    file = tmp_path / "pairs.csv"
    table.to_csv(file, index=False)
    first = fitted.predict(pairs)
    for asked in (
        table,
        file,
        str(file),
        pl.from_pandas(table),
        tuple(pairs),
        [list(pair) for pair in pairs],
    ):
        pd.testing.assert_frame_equal(fitted.predict(asked), first)
    assert list(first.index) == pairs and first.index.names == ["cell_type", "sm_name"]
    assert list(first.columns) == list(fitted.genes_) and (first.dtypes == np.float32).all()
    new = fitted.predict([*pairs, ("NK cells", "my compound", "CCO")])
    np.testing.assert_allclose(new.to_numpy()[:-1], first.to_numpy(), rtol=1e-5, atol=1e-6)
    far = fitted.applicability([("Martian cells", "my compound", "CCO")])
    assert not far["cell_type_known"].any() and not far["compound_known"].any()


def test_anndata_out(fitted, tmp_path, pairs, object_strings):
    found = fitted.predict(pairs, output="anndata")
    np.testing.assert_array_equal(found.X, fitted.predict(pairs).to_numpy())
    assert list(found.var_names) == list(fitted.genes_) and list(found.obs_names) == list("01234")
    assert list(zip(found.obs["cell_type"], found.obs["sm_name"], strict=True)) == pairs
    assert found.obs["compound_known"].all()
    found.write_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(anndata.read_h5ad(tmp_path / "out.h5ad").X, found.X)


def test_doses_are_named_and_matter(small_files):
    frame = small_files.de_train
    genes = frame.select_dtypes("number").columns
    weak = frame.assign(dose_uM=0.1, **{gene: frame[gene] * 0.2 for gene in genes})
    model = PerturbationModel(**QUICK).fit(pd.concat([frame.assign(dose_uM=10.0), weak], ignore_index=True))
    asked = frame[["cell_type", "sm_name"]].head(20)
    high, low = (model.predict(asked.assign(dose_uM=dose)) for dose in (10.0, 0.1))
    assert high.index.names == ["cell_type", "sm_name", "dose_uM"]
    assert np.abs(high.to_numpy()).mean() > 1.5 * np.abs(low.to_numpy()).mean()


# --- pseudo-labels ----------------------------------------------------------------------------------------


def test_without_pairs_there_are_no_pseudo_labels(small_files):
    recipe = RECIPES["standard"].updated(n_folds=3)
    bare = PerturbationModel(recipe, molecules="morgan").fit(small_files.train)
    labelled = PerturbationModel(recipe, molecules="morgan").fit(small_files.train, small_files.test)
    said = "there are no pairs to predict, so no member learns from pseudo-labels of them"
    assert said in bare.notes_ and said not in labelled.notes_
    assert all(m.pseudo_labels.use == "off" for m in bare.model_.config.recipe.members)
    asked = small_files.test
    assert not np.array_equal(bare.predict(asked).to_numpy(), labelled.predict(asked).to_numpy())
    again = PerturbationModel(recipe.without_pseudo_labels(), molecules="morgan")
    again.fit(small_files.train, small_files.test)
    np.testing.assert_allclose(bare.predict(asked), again.predict(asked), rtol=1e-5, atol=1e-6)


# --- what goes wrong, and what scikit-learn expects -------------------------------------------------------


def test_what_cannot_be_is_said(fitted, pairs):
    with pytest.raises(NotFittedError, match=r"call fit, or PerturbationModel.load"):
        PerturbationModel().predict(pairs)
    with pytest.raises(InputError, match="output='csv': choose 'frame' or 'anndata'"):
        fitted.predict(pairs, output="csv")
    with pytest.raises(InputError, match=r"pairs: give a list of .* there are none"):
        fitted.predict([])
    with pytest.raises(InputError, match=r"pairs: give a list of .* not \('NK cells',\)"):
        fitted.predict(["NK cells"])
    with pytest.raises(InputError, match="the DataFrame: missing column cell_type"):
        fitted.predict(pd.DataFrame({"sm_name": ["Vorinostat"]}))
    with pytest.raises(InputError, match="the DataFrame: has no rows"):
        fitted.predict(pd.DataFrame({"cell_type": [], "sm_name": []}))
    with pytest.raises(InputError, match="no recipe 'magic'"):
        PerturbationModel("magic").fit(pd.DataFrame())
    with pytest.raises(InputError, match=r"nowhere.parquet"):
        PerturbationModel().fit("nowhere.parquet")
    with pytest.raises(
        InputError, match="the NoneType: is neither a file, nor a table, nor an AnnData object"
    ):
        PerturbationModel(**QUICK).fit(None)


def test_a_fit_leaves_the_parameters_and_the_data_alone(small_files):
    frame, model = small_files.de_train.copy(), PerturbationModel(**QUICK)
    before = model.get_params()
    assert model.fit(frame) is model and model.get_params() == before
    pd.testing.assert_frame_equal(frame, small_files.de_train)


def test_scikit_learns_clone_and_grid_search(small_files, fitted):
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params() and not hasattr(copy, "model_")
    assert repr(fitted) == "PerturbationModel(molecules='morgan', recipe='quick')"
    search = GridSearchCV(PerturbationModel(**QUICK), {"seed": [0, 1], "recipe": ["quick"]}, cv=3)
    search.fit(small_files.de_train)
    assert search.best_score_ < 0 and search.best_estimator_.predict(small_files.test).shape[1] == 8
    with pytest.raises(ValueError, match="recipe__n_folds: a recipe is checked as a whole"):
        fitted.set_params(recipe__n_folds=3)


def test_a_notebook_shows_a_small_table(fitted):
    html = fitted._repr_html_()
    assert "<th>genes</th><td>8</td>" in html and "out-of-fold MRRMSE" in html
    named = RECIPES["quick"].updated(name="<script>")
    assert "&lt;script&gt;" in PerturbationModel(named)._repr_html_()
    assert "not fitted" in PerturbationModel()._repr_html_()


def test_the_package_loads_it_when_it_is_asked_for():
    code = "import sys, rapids_pipeline; print('pandas' in sys.modules, 'sklearn' in sys.modules)\n"
    code += "from rapids_pipeline import PerturbationModel; print(PerturbationModel.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "PerturbationModel"]
    assert "PerturbationModel" in dir(rapids_pipeline)
    with pytest.raises(AttributeError, match="has no attribute 'Magic'"):
        _ = rapids_pipeline.Magic
