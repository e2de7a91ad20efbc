"""Big batches: the same numbers in blocks, in parts and alone; how far a pair is from training; interruptions."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow.dataset
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from typer.testing import CliRunner

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.commands import app as cli
from rapids_pipeline.evaluation.evaluate import evaluate_files
from rapids_pipeline.predictions import blocks, parts
from rapids_pipeline.predictions import predict as flow
from rapids_pipeline.predictions.applicability import COLUMNS
from rapids_pipeline.predictions.predict import predict_file
from rapids_pipeline.stack import saved as saved_model
from rapids_pipeline.stack.saved import load_model

NEW = ["CCCCO", "Cc1ccccc1N", "O=C(O)c1ccccc1"]


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def model(small_files, tmp_path_factory):
    """A model trained on the small demo data."""
    out = tmp_path_factory.mktemp("predict") / "run"
    options = ["--molecules", "morgan", "--quick", "--folds", "3", "--device", "cpu", "--out", out]
    result = invoke("run", "--train", small_files.train, "--test", small_files.test, *options)
    assert result.exit_code == 0, result.output
    return out / "model"


@pytest.fixture(scope="module")
def pairs(model, tmp_path_factory):
    """Known and new compounds in known and new cell types, 37 pairs, some more than once."""
    training = load_model(model).obs
    rng = np.random.default_rng(0)
    smiles = [*training["SMILES"].unique()[:6], *NEW]
    cells = [*training["cell_type"].unique()[:3], "a new one"]
    table = pd.DataFrame({"cell_type": rng.choice(cells, 37), "SMILES": rng.choice(smiles, 37)})
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    table.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def expected(model, pairs):
    """The predictions of all pairs at once."""
    loaded, table = load_model(model), pd.read_csv(pairs)
    names = loaded.obs.drop_duplicates("SMILES").set_index("SMILES")["sm_name"]
    table["sm_name"] = table["SMILES"].map(names).fillna(table["SMILES"])
    return loaded.predict(table)[0]


@pytest.mark.parametrize("block", [1, 5, 37, 1000])
def test_parts_hold_what_one_prediction_of_all_pairs_gives(model, pairs, expected, tmp_path, block):
    found = predict_file(model, pairs, tmp_path / "out", block_rows=block)
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == [f"part-{k:05d}.parquet" for k in range(-(-37 // block))]
    table = pyarrow.dataset.dataset(tmp_path / "out").to_table().to_pandas()
    assert list(table.columns[:4]) == ["id", "cell_type", "sm_name", "SMILES"]
    assert list(table.columns[4:10]) == list(COLUMNS)
    genes = list(table.columns[10:])
    assert genes == list(load_model(model).genes)
    np.testing.assert_allclose(table[genes].to_numpy(), expected, atol=1e-5)
    assert table["id"].tolist() == [str(k) for k in range(37)]
    assert (found.n_pairs, found.n_genes) == (37, 8)
    manifest = json.loads((tmp_path / "out.manifest.json").read_text())
    assert sum(part["rows"] for part in manifest["parts"]) == 37 and manifest["n_genes"] == 8
    assert "the pairs have no id column: they are numbered from 0" in found.notes
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out"), table)


def test_a_csv_holds_the_same_and_its_applicability_lies_beside(model, pairs, expected, tmp_path):
    result = invoke(
        "predict", "--model", model, "--pairs", pairs, "--out", tmp_path / "p.csv", "--block-rows", 7
    )
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(pd.read_csv(tmp_path / "p.csv").iloc[:, 1:], expected, atol=1e-5)
    beside = pd.read_csv(tmp_path / "p.applicability.csv")
    assert list(beside.columns) == ["id", "cell_type", "sm_name", "SMILES", *COLUMNS]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.applicability.csv", "p.csv"]
    assert "have a cell_type the model was not trained on (a new one)" in result.stderr
    assert "of 9 molecules are new to the model" in result.stderr


def test_applicability_by_brute_force(model, pairs, tmp_path):
    predict_file(model, pairs, tmp_path / "p.csv")
    training = load_model(model).obs
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)

    def bits(smiles):
        return generator.GetFingerprint(Chem.MolFromSmiles(smiles))

    def canonical(smiles):
        return Chem.MolToSmiles(Chem.MolFromSmiles(smiles))

    for row in pd.read_csv(tmp_path / "p.applicability.csv").itertuples():
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


def test_an_interrupted_prediction_goes_on_where_it_was(model, pairs, expected, tmp_path, monkeypatch):
    made, predict = [], flow.BlockPredictor.predict

    def interrupted(self, rows):
        made.append(rows.start)
        if len(made) == 3:
            raise KeyboardInterrupt
        return predict(self, rows)

    monkeypatch.setattr(flow.BlockPredictor, "predict", interrupted)
    arguments = ["predict", "--model", model, "--pairs", pairs, "--out", tmp_path / "out", "--block-rows", 10]
    first = invoke(*arguments)
    assert first.exit_code == 130 and "2 of 4 parts are kept in" in first.stderr
    assert "the same command continues" in first.stderr and not (tmp_path / "out").exists()
    second = invoke(*arguments)
    assert second.exit_code == 0, second.output
    assert made == [0, 10, 20, 20, 30]
    table = pd.read_parquet(tmp_path / "out")
    np.testing.assert_allclose(table.iloc[:, 10:].to_numpy(), expected, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.manifest.json"]
    third = invoke(*arguments)
    assert third.exit_code == 0 and made == [0, 10, 20, 20, 30], "a finished one is not made again"


def test_other_pairs_never_take_kept_parts(model, pairs, tmp_path, monkeypatch):
    def fail(self, rows):
        if rows.start:
            raise KeyboardInterrupt
        return np.full((rows.stop, 8), 7, np.float32)

    with monkeypatch.context() as patched:
        patched.setattr(flow.BlockPredictor, "predict", fail)
        arguments = ["predict", "--model", model, "--out", tmp_path / "out", "--block-rows", 10]
        assert invoke(*arguments, "--pairs", pairs).exit_code == 130
    pd.read_csv(pairs).iloc[::-1].to_csv(tmp_path / "turned.csv", index=False)
    result = invoke(*arguments, "--pairs", tmp_path / "turned.csv")
    assert result.exit_code == 0, result.output
    assert (pd.read_parquet(tmp_path / "out").iloc[:, 10:] != 7).all(axis=None)
    assert "unfinished parts of another prediction are in" in result.stderr


def test_what_is_there_is_replaced_only_when_asked(model, pairs, tmp_path):
    arguments = ["predict", "--model", model, "--out", tmp_path / "out"]
    assert invoke(*arguments, "--pairs", pairs).exit_code == 0
    pd.read_csv(pairs).iloc[:5].to_csv(tmp_path / "less.csv", index=False)
    refused = invoke(*arguments, "--pairs", tmp_path / "less.csv")
    assert refused.exit_code == 2
    assert "holds another prediction; choose another folder or add --overwrite" in refused.stderr
    assert len(pd.read_parquet(tmp_path / "out")) == 37
    assert invoke(*arguments, "--pairs", tmp_path / "less.csv", "--overwrite").exit_code == 0
    assert len(pd.read_parquet(tmp_path / "out")) == 5
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    refused = invoke(*arguments[:3], "--out", tmp_path / "mine", "--pairs", pairs, "--overwrite")
    assert refused.exit_code == 2 and "holds thesis.txt, which is no part of a prediction" in refused.stderr
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_too_little_room_is_said_before_anything_is_predicted(model, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(parts.shutil, "disk_usage", lambda place: parts.shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(
        InputError, match=r"37 rows × 8 genes need .* free; choose another disk or fewer pairs"
    ):
        predict_file(model, pairs, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


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


def test_memory_hangs_on_the_block_and_every_molecule_is_featurised_once(model, pairs, tmp_path, monkeypatch):
    rows, molecules = [], []
    first, encode = blocks.blended, saved_model.encode_molecules

    def counted(stack, some):
        rows.append(len(some.obs))
        return first(stack, some)

    def encoded(encoders, training, others=(), device="cpu"):
        molecules.extend(training)
        return encode(encoders, training, others, device)

    loaded = load_model(model)
    monkeypatch.setattr(flow, "load_model", lambda folder: loaded)  # its check pairs are encoded, too
    monkeypatch.setattr(blocks, "blended", counted)
    monkeypatch.setattr(saved_model, "encode_molecules", encoded)
    predict_file(model, pairs, tmp_path / "out", block_rows=6)
    assert max(rows) <= 6 and len(rows) == 7
    table = pd.read_csv(pairs)
    assert len(molecules) == len(set(molecules)) == table["SMILES"].nunique()


def test_features_that_were_forgotten_are_made_again(model, pairs, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "MOLECULES_AT_ONCE", 2)
    monkeypatch.setattr(blocks, "FEATURE_BYTES", 1)
    predict_file(model, pairs, tmp_path / "out", block_rows=6)
    found = pd.read_parquet(tmp_path / "out").iloc[:, 10:].to_numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_rows_that_the_model_cannot_tell_apart_are_predicted_once(model, tmp_path, monkeypatch):
    known = load_model(model).obs["cell_type"].iloc[0]
    cells = ["nowhere", known, "elsewhere", known]
    pairs = pd.DataFrame(
        {"cell_type": cells, "SMILES": ["CCCCO"] * 4, "sm_name": ["one", "one", "two", "two"]}
    )
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    rows, first = [], blocks.blended
    monkeypatch.setattr(
        blocks, "blended", lambda stack, some: rows.append(len(some.obs)) or first(stack, some)
    )
    predict_file(model, tmp_path / "pairs.csv", tmp_path / "out")
    assert rows == [2]
    found = pd.read_parquet(tmp_path / "out")
    values = found.iloc[:, 10:].to_numpy()
    assert (
        (values[0] == values[2]).all() and (values[1] == values[3]).all() and (values[0] != values[1]).any()
    )
    assert found["cell_type"].tolist() == cells and found["sm_name"].tolist() == ["one", "one", "two", "two"]


def test_a_damaged_part_is_made_anew(model, pairs, expected, tmp_path, monkeypatch):
    arguments = ["predict", "--model", model, "--pairs", pairs, "--out", tmp_path / "out", "--block-rows", 10]
    predict = flow.BlockPredictor.predict

    def interrupted(self, rows):
        if rows.start == 20:
            raise KeyboardInterrupt
        return predict(self, rows)

    with monkeypatch.context() as patched:
        patched.setattr(flow.BlockPredictor, "predict", interrupted)
        assert invoke(*arguments).exit_code == 130
    (folder,) = tmp_path.glob(".out.unfinished-*")
    whole = (folder / "part-00001.parquet").read_bytes()
    (folder / "part-00001.parquet").write_bytes(whole[: len(whole) // 2])
    (folder / ".part-00002-half.parquet").write_bytes(whole[:9])
    assert invoke(*arguments).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"part-{k:05d}.parquet" for k in range(4)
    ]
    np.testing.assert_allclose(pd.read_parquet(tmp_path / "out").iloc[:, 10:], expected, atol=1e-5)


KILLED = """
import os, signal, sys
from rapids_pipeline.commands import app as cli
from rapids_pipeline.predictions import parts

name, write = sys.argv.pop(), parts.PartFolder.write

def written(self, number, *what):
    if number == 2:
        os.kill(os.getpid(), getattr(signal, name))
    write(self, number, *what)

parts.PartFolder.write = written
cli.main()
"""


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGKILL", -9)])
def test_a_stopped_process_leaves_whole_parts_and_no_folder(model, pairs, tmp_path, name, status):
    options = ["--model", model, "--pairs", pairs, "--out", tmp_path / "out", "--block-rows", 10]
    command = [sys.executable, "-c", KILLED, "predict", *map(str, options), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith(".out.unfinished-")
    assert sorted(path.name for path in kept.glob("part-*")) == ["part-00000.parquet", "part-00001.parquet"]
    assert ("2 of 4 parts are kept in" in done.stderr) == (name == "SIGINT")
    assert invoke("predict", *options).exit_code == 0
    assert len(pd.read_parquet(tmp_path / "out")) == 37


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "p.txt"], "a Kaggle submission is a CSV"),
        (["--out", "p", "--block-rows", 0], "--block-rows 0: must be at least 1"),
    ],
)
def test_options_that_cannot_be_used(model, pairs, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    result = invoke("predict", "--model", model, "--pairs", pairs, *options)
    assert result.exit_code == 2 and words in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_csv_larger_than_memory_is_refused(model, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(flow, "host_bytes", lambda: 1000)
    with pytest.raises(InputError, match=r"37 pairs × 8 genes take .* a folder of Parquet parts"):
        predict_file(model, pairs, tmp_path / "p.csv")


def test_a_prediction_that_is_no_number_is_refused(model, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "blended", lambda stack, rows: np.full((len(rows.obs), 8), np.inf))
    with pytest.raises(InputError, match="the model predicts inf for id 0, gene "):
        predict_file(model, pairs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_of_training_compounds_are_other_molecules(model, tmp_path):
    names = load_model(model).obs["sm_name"].unique()[:2]
    table = pd.DataFrame({"cell_type": "B", "sm_name": names, "SMILES": ["CCCCO", "CCCCN"]})
    table.to_csv(tmp_path / "pairs.csv", index=False)
    with pytest.raises(InputError, match=r"row 1 gives .* 2 compounds of the file have such a name"):
        predict_file(model, tmp_path / "pairs.csv", tmp_path / "out")


def test_counts_of_equal_sentences_are_added():
    notes = [
        "2 of 9 molecules are salts",
        "no numbers {here}",
        "1 of 4 molecules are salts",
        "no numbers {here}",
    ]
    assert blocks.added(notes) == ["3 of 13 molecules are salts", "no numbers {here}"]


def test_a_part_can_be_scored(model, small_files, tmp_path):
    predict_file(model, small_files.test, tmp_path / "out")
    found = evaluate_files(tmp_path / "out" / "part-00000.parquet", small_files.truth, small_files.train)
    assert found.n_rows == len(small_files.id_map) and found.n_genes == 8
