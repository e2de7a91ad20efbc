"""Predictions by a saved model: the same numbers in blocks, in parts and at once, each molecule and row only once."""

import json

import numpy as np
import pandas as pd
import pyarrow.dataset
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from features.molecules import encoders
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.pairs import read_batch
from rapids_pipeline.evaluation.evaluate import evaluate_files
from rapids_pipeline.predictions import predict
from rapids_pipeline.predictions.applicability import applicability
from rapids_pipeline.predictions.predict import predict_file
from rapids_pipeline.stack.saved import load_model
from tests.command_line import error_line, invoke, names_in, run_arguments, succeed

METADATA = "id cell_type sm_name SMILES".split()
APPLICABILITY = (
    "nearest_compound tanimoto cell_type_known compound_known cell_type_rows compound_rows".split()
)


def close(found, expected):
    """Compare predictions of rows beside different rows: the bits of a BLAS product depend on the number of rows."""
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", [1, 5, 37, 1000])
def test_parts_hold_what_one_prediction_of_all_pairs_gives(model, pairs, expected, tmp_path, block):
    found = predict_file(model, pairs, tmp_path / "out", block_rows=block)
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == [f"part-{k:05d}.parquet" for k in range(-(-37 // block))]
    table = pyarrow.dataset.dataset(tmp_path / "out").to_table().to_pandas()
    assert list(table.columns[:10]) == [*METADATA, *APPLICABILITY]
    genes = list(table.columns[10:])
    assert genes == list(load_model(model).genes)
    close(table[genes].to_numpy(), expected)
    assert table["id"].tolist() == [str(k) for k in range(37)]
    assert (found.n_pairs, found.n_genes) == (37, 8)
    manifest = json.loads((tmp_path / "out.manifest.json").read_text())
    assert sum(part["rows"] for part in manifest["parts"]) == 37 and manifest["n_genes"] == 8
    assert "the pairs have no id column: they are numbered from 0" in found.notes
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out"), table)


@pytest.mark.parametrize("given", [lambda model: model, lambda model: model.parent], ids=["model", "run"])
def test_a_csv_holds_the_same_and_its_applicability_lies_beside(model, given, pairs, expected, tmp_path):
    options = ["--model", given(model), "--pairs", pairs, "--out", tmp_path / "p.csv", "--block-rows", 7]
    result = succeed("predict", *options)
    close(pd.read_csv(tmp_path / "p.csv").iloc[:, 1:], expected)
    beside = pd.read_csv(tmp_path / "p.applicability.csv")
    assert list(beside.columns) == [*METADATA, *APPLICABILITY]
    assert names_in(tmp_path) == ["p.applicability.csv", "p.csv", "p.report.html"]
    assert "have a cell_type the model was not trained on (a new one)" in result.stderr


@pytest.mark.parametrize("name", ["p.csv", "p.applicability.csv", "p.report.html"])
def test_files_that_exist_are_replaced_only_when_asked(model, pairs, tmp_path, name):
    (tmp_path / name).write_text("precious")
    arguments = ["predict", "--model", model, "--pairs", pairs, "--out", tmp_path / "p.csv"]
    words = f"--out {tmp_path}/{name}: exists already; choose another name or add --overwrite"
    assert error_line(invoke(*arguments)) == f"error: {words}"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]
    succeed(*arguments, "--overwrite")
    assert len(pd.read_csv(tmp_path / "p.csv")) == len(pd.read_csv(tmp_path / "p.applicability.csv")) == 37


@pytest.mark.parametrize("name", ["p", "p.csv"])
def test_pages_of_other_predictions_are_replaced_or_removed_only_when_asked(model, pairs, tmp_path, name):
    folder = tmp_path / "made"
    asked = ["predict", "--model", model, "--pairs", pairs, "--out", folder / name]
    page, doses = folder / "p.report.html", folder / "p.doses.html"
    succeed(*asked)
    for old in (page, doses):
        old.write_text("precious")
    again = invoke(*asked)
    if name == "p":  # the same predictions are there, so the page is theirs
        assert again.exit_code == 0 and "p.report.html is of the same predictions and stays" in again.stderr
        asked += ["--block-rows", 20]  # other parts are another prediction
        (again, before) = (invoke(*asked), sorted((folder / name).iterdir()))
        assert "holds another prediction" in error_line(again) and before == sorted((folder / name).iterdir())
    assert (
        error_line(again).endswith("or add --overwrite")
        and page.read_text() == doses.read_text() == "precious"
    )
    succeed(*asked, "--overwrite", "--no-report")
    assert not page.exists() and not doses.exists()
    succeed(*asked, "--overwrite")
    assert "precious" not in page.read_text() and not doses.exists()


def test_a_page_without_its_predictions_is_in_the_way_of_a_folder(model, pairs, tmp_path):
    page = tmp_path / "p.report.html"
    page.write_text("precious")
    asked = ["predict", "--model", model, "--pairs", pairs, "--out", tmp_path / "p"]
    words = f"--out {page}: exists already; choose another name or add --overwrite"
    assert error_line(invoke(*asked)) == f"error: {words}"
    assert page.read_text() == "precious" and not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("sm_name\nx\n", "missing column cell_type"),
        ("cell_type\nB\n", "missing column sm_name or SMILES"),
        ("cell_type,SMILES\nB,CCO\nB,C(C\n", r"row 2: 'C\(C' is not a valid SMILES"),
        ("cell_type,sm_name\nB,nobody knows\n", "no SMILES for 'nobody knows'"),
        ("id,cell_type,SMILES\n1,B,CCO\n1,B,CC\n", "id 1 occurs in rows 1"),
        ("cell_type,SMILES\n,CCO\n", "row 1"),
        ("cell_type,sm_name,SMILES\nB,,\n", "has neither sm_name nor SMILES"),
    ],
)
def test_pairs_that_cannot_be_predicted(model, tmp_path, table, words):
    (tmp_path / "pairs.csv").write_text(table)
    with pytest.raises(InputError, match=words):
        predict_file(model, tmp_path / "pairs.csv", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.csv"]


def test_names_of_training_compounds_are_other_molecules(model, tmp_path):
    names = load_model(model).obs["sm_name"].unique()[:2]
    table = pd.DataFrame({"cell_type": "B", "sm_name": names, "SMILES": ["CCCCO", "CCCCN"]})
    table.to_csv(tmp_path / "pairs.csv", index=False)
    with pytest.raises(InputError, match=r"row 1 gives .* 2 compounds of the file have such a name"):
        predict_file(model, tmp_path / "pairs.csv", tmp_path / "out")


def test_a_training_molecule_under_another_name_is_that_compound(model, tmp_path):
    training = load_model(model).obs.iloc[0]
    rows = [
        (training["cell_type"], name, training["SMILES"]) for name in (training["sm_name"], "my own code")
    ]
    pd.DataFrame(rows, columns=["cell_type", "sm_name", "SMILES"]).to_csv(tmp_path / "pairs.csv", index=False)
    found = predict_file(model, tmp_path / "pairs.csv", tmp_path / "p.csv")
    one, other = pd.read_csv(tmp_path / "p.csv").iloc[:, 1:].to_numpy()
    np.testing.assert_array_equal(one, other)
    assert any("in training under another name" in note for note in found.notes)


@pytest.fixture
def predicted_rows(monkeypatch):
    """The numbers of rows that the stack is asked for, one after the other."""
    rows, honest = [], predict.PairPredictor.predict_rows
    monkeypatch.setattr(
        predict.PairPredictor,
        "predict_rows",
        lambda self, which: rows.append(len(which)) or honest(self, which),
    )
    return rows


def test_memory_hangs_on_the_block_and_every_molecule_is_featurised_once(
    model, pairs, tmp_path, monkeypatch, predicted_rows
):
    molecules, encode = [], encoders.encode_molecules

    def encoded(names, training, others=(), device="cpu"):
        molecules.extend(training)
        return encode(names, training, others, device)

    loaded = load_model(model)
    monkeypatch.setattr(predict, "load_model", lambda folder: loaded)  # its check pairs are encoded, too
    monkeypatch.setattr(encoders, "encode_molecules", encoded)
    predict_file(model, pairs, tmp_path / "out", block_rows=6)
    assert max(predicted_rows) <= 6 and len(predicted_rows) == 7
    assert len(molecules) == len(set(molecules)) == pd.read_csv(pairs)["SMILES"].nunique()


def test_features_that_were_forgotten_are_made_again(model, pairs, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "MOLECULES_AT_ONCE", 2)
    monkeypatch.setattr(predict, "KEPT", 1)
    predict_file(model, pairs, tmp_path / "out", block_rows=6)
    close(pd.read_parquet(tmp_path / "out").iloc[:, 10:].to_numpy(), expected)


def test_rows_that_the_model_cannot_tell_apart_are_predicted_once(model, tmp_path, predicted_rows):
    known = load_model(model).obs["cell_type"].iloc[0]
    cells = ["nowhere", known, "elsewhere", known]
    pairs = pd.DataFrame(
        {"cell_type": cells, "SMILES": ["CCCCO"] * 4, "sm_name": ["one", "one", "two", "two"]}
    )
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    predict_file(model, tmp_path / "pairs.csv", tmp_path / "out")
    assert predicted_rows == [2]
    found = pd.read_parquet(tmp_path / "out")
    values = found.iloc[:, 10:].to_numpy()
    assert (
        (values[0] == values[2]).all() and (values[1] == values[3]).all() and (values[0] != values[1]).any()
    )
    assert found["cell_type"].tolist() == cells and found["sm_name"].tolist() == ["one", "one", "two", "two"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "p.txt"], "a Kaggle submission is a CSV"),
        (["--out", "p", "--block-rows", 0], "--block-rows 0: must be at least 1"),
    ],
)
def test_options_that_cannot_be_used(model, pairs, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    assert words in error_line(invoke("predict", "--model", model, "--pairs", pairs, *options))
    assert list(tmp_path.iterdir()) == []


def test_a_csv_larger_than_memory_is_refused(model, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "host_bytes", lambda: 1000)
    with pytest.raises(InputError, match=r"37 pairs × 8 genes take .* a folder of Parquet parts"):
        predict_file(model, pairs, tmp_path / "p.csv")


def test_counts_of_equal_sentences_are_added():
    notes = ["2 of 9 molecules are salts", "no numbers {here}"]
    notes += ["1 of 4 molecules are salts", "no numbers {here}"]
    assert predict.added(notes) == ["3 of 13 molecules are salts", "no numbers {here}"]


def test_a_part_can_be_scored(model, small_files, tmp_path):
    predict_file(model, small_files.test, tmp_path / "out")
    found = evaluate_files(tmp_path / "out" / "part-00000.parquet", small_files.truth, small_files.train)
    assert found.n_rows == len(small_files.id_map) and found.n_genes == 8


def test_applicability_by_brute_force(model, pairs):
    training, batch = load_model(model).obs, read_batch(pairs, load_model(model).obs)
    found, notes = applicability(batch, training)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)

    def bits(smiles):
        return generator.GetFingerprint(Chem.MolFromSmiles(smiles))

    def canonical(smiles):
        return Chem.MolToSmiles(Chem.MolFromSmiles(smiles))

    for row in pd.concat([batch.table, found], axis=1).itertuples():
        likeness = [
            DataStructs.TanimotoSimilarity(bits(row.SMILES), bits(text)) for text in training["SMILES"]
        ]
        same = [canonical(text) == canonical(row.SMILES) for text in training["SMILES"]]
        assert row.tanimoto == pytest.approx(max(likeness), abs=1e-6)
        near = training["sm_name"][np.isclose(likeness, max(likeness))]
        assert row.nearest_compound in set(near)
        assert row.compound_known == any(same) and row.compound_rows == sum(same)
        assert row.cell_type_rows == (training["cell_type"] == row.cell_type).sum()
        assert row.cell_type_known == (row.cell_type_rows > 0)
    assert any("have a cell_type the model was not trained on (a new one)" in note for note in notes)
    assert any("have a sm_name the model was not trained on (" in note for note in notes)
    assert any("of 9 molecules are new to the model" in note for note in notes)


# --- genes that were never tested ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gapped(small_files, tmp_path_factory):
    """A run on the small demo data, two genes untested in one cell type and a single entry elsewhere; what they are."""
    folder, table = tmp_path_factory.mktemp("gapped"), small_files.de_train.copy()
    genes = [name for name in table.columns if table[name].dtype.kind == "f"]
    cell_type = sorted(table["cell_type"].unique())[0]
    table.loc[table["cell_type"] == cell_type, genes[1:3]] = np.nan
    table.loc[table.index[table["cell_type"] != cell_type][0], genes[5]] = np.nan
    table.to_parquet(folder / "train.parquet")
    succeed(*run_arguments(folder / "train.parquet", small_files.test, folder / "run", "--quick"))
    return folder / "run", cell_type, genes[1:3]


def test_a_run_says_what_was_never_tested(gapped):
    run, cell_type, genes = gapped
    scores = json.loads((run / "scores.json").read_text())
    assert scores["untested"]["never_tested"] == {cell_type: genes}
    assert all(np.isfinite(row["mean_rowwise_rmse"]) for row in scores["out_of_fold"].values())
    notes = json.loads((run / "manifest.json").read_text())["notes"]
    assert any(note.startswith("not tested (NaN): ") for note in notes)
    assert any(
        note.startswith("UNTESTED: ") and f"{cell_type}: 2 genes ({', '.join(genes)})" in note
        for note in notes
    )
    assert {k: v.tolist() for k, v in load_model(run / "model").never_tested.items()} == {
        cell_type: [list(load_model(run / "model").genes).index(gene) for gene in genes]
    }
    assert np.isfinite(pd.read_parquet(run / "oof.parquet").select_dtypes("number")).all(axis=None)


@pytest.mark.parametrize("name", ["p.csv", "p"])
def test_predictions_of_what_was_never_tested_are_flagged(gapped, small_files, tmp_path, name):
    run, cell_type, genes = gapped
    options = ["--model", run, "--pairs", small_files.test, "--out", tmp_path / name]
    result = succeed("predict", *options)
    pairs = small_files.id_map["cell_type"]
    assert (cell_type in set(pairs)) == ("UNTESTED: " in result.stderr)
    if name == "p.csv":
        shown = pd.read_csv(tmp_path / "p.applicability.csv")
        listed = (
            pd.read_csv(tmp_path / "p.untested.csv").to_numpy().tolist() if cell_type in set(pairs) else []
        )
    else:
        shown = pd.read_parquet(tmp_path / "p")
        found = json.loads((tmp_path / "p.manifest.json").read_text()).get("untested", {})
        listed = [[cell, gene] for cell, names in found.items() for gene in names]
    assert shown["untested_genes"].tolist() == [2 * (cell == cell_type) for cell in shown["cell_type"]]
    assert listed == ([[cell_type, gene] for gene in genes] if cell_type in set(pairs) else [])
