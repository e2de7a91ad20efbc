"""Tables of embeddings: what is read of them, what is refused, and what combinations and standardised columns are."""

import numpy as np
import pandas as pd
import pytest

from features.blocks import MoleculeBlock, OneHotBlock
from features.feature_sets import FeatureSet, FeatureTable
from features.molecules import TABLE, is_table, reads_structures
from features.molecules.table import (
    EmbeddingTable,
    Standardisation,
    encode_compounds,
    read_embedding_table,
)
from features.rows import Rows
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import StateReader
from tests.features.test_states import assert_every_damage_is_refused, reader

NAMES = ["aspirin", "CD3", "KO TP53"]
VALUES = np.array([[1, -2.5], [0.25, 7], [3, 1e-3]], np.float32)
TEXT = "sm_name,e0,e1\naspirin,1,-2.5\nCD3,0.25,7\nKO TP53,3,0.001\n"


def written(path, text=TEXT):
    if path.suffix == ".parquet":
        pd.DataFrame({"e0": VALUES[:, 0], "sm_name": NAMES, "e1": VALUES[:, 1]}).to_parquet(path)
    else:
        path.write_text(text.replace(",", "\t") if path.suffix == ".tsv" else text)
    return path


def table(combine="sum"):
    return EmbeddingTable("t.csv", tuple(NAMES), ("e0", "e1"), VALUES, combine)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet"])
def test_a_table_is_read_by_name_whatever_the_order_of_its_columns(tmp_path, name):
    found = read_embedding_table(written(tmp_path / name))
    assert (found.names, found.columns) == (tuple(NAMES), ("e0", "e1"))
    np.testing.assert_array_equal(found.rows(NAMES), VALUES, strict=True)
    np.testing.assert_array_equal(found.rows(["CD3", "aspirin", "CD3"]), VALUES[[1, 0, 1]])


def test_names_that_look_like_numbers_stay_text_and_blanks_around_names_go(tmp_path):
    found = read_embedding_table(written(tmp_path / "t.csv", "sm_name,e0\n007, 1\n CD3 ,2\n"))
    assert found.names == ("007", "CD3")


REFUSED = {
    "sm_name": (
        "compound,e0\na,1\n",
        "missing column sm_name, which names the perturbations; the columns are: ",
    ),
    "no columns": ("sm_name\na\n", "has no column beside sm_name"),
    "no rows": ("sm_name,e0\n", "the table has a header but no rows"),
    "no name": ("sm_name,e0\na,1\n,2\n", "column sm_name has no value in row 2; fill it or drop the row"),
    "twice": (
        "sm_name,e0\na,1\nb,2\na,1\n",
        "column sm_name has 'a' in rows 1 and 3; a perturbation has one row",
    ),
    "text": (
        "sm_name,e0\na,1\nb,two\n",
        "column e0 has 'two' in row 2 (b), which is no finite number; make it one",
    ),
    "gap": ("sm_name,e0,e1\na,1,1\nb,2,\n", "column e1 has nan in row 2 (b), which is no finite number"),
    "infinite": ("sm_name,e0\na,inf\n", "column e0 has inf in row 1 (a), which is no finite number"),
    "too large": ("sm_name,e0\na,1e39\n", "column e0 has 1e+39 in row 1 (a), which is no finite number"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_a_bad_table_is_refused_by_file_column_and_row(tmp_path, text, message):
    path = written(tmp_path / "t.csv", text)
    with pytest.raises(InputError) as caught:
        read_embedding_table(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 500


@pytest.mark.parametrize("combine", ["sum", "mean"])
def test_a_combination_without_a_row_takes_the_sum_or_mean_of_its_parts(combine):
    rows = np.float64(VALUES[[1, 0, 1]])
    naive = rows.sum(axis=0) / (3 if combine == "mean" else 1)
    found = table(combine)
    np.testing.assert_allclose(found.rows(["CD3 + aspirin+CD3"])[0], naive, rtol=1e-6)
    assert found.notes(["aspirin+CD3", "aspirin", "aspirin+CD3"])[1].startswith("1 combinations have no row")
    assert found.notes(["aspirin"]) == ["molecules: 2 columns of t.csv, which has 3 rows"]


def test_a_combination_with_a_row_of_its_own_takes_that():
    found = EmbeddingTable("t.csv", ("a", "b", "a+b"), ("e0",), np.float32([[1], [2], [9]]))
    assert found.rows(["a+b", "b+a"]).ravel().tolist() == [9, 3]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["CD3", "CD4"],
            "train.csv: 'CD4' of column sm_name, first in row 2, have no row in t.csv; add them there",
        ),
        (["CD4", "CD5", "CD4"], "train.csv: 'CD4' and 1 more of column sm_name, first in row 1, have no row"),
        (["CD3+CD4"], "train.csv: 'CD3+CD4' (nor has its part 'CD4') of column sm_name, first in row 1"),
        (["CD3+"], "train.csv: 'CD3+' (nor has its part '') of column sm_name"),
    ],
)
def test_perturbations_without_a_row_are_named_with_their_file_and_row(names, message):
    with pytest.raises(InputError) as caught:
        table().require(names, "train.csv")
    assert str(caught.value).startswith(message)
    with pytest.raises(InputError):
        table().rows(names)


def test_a_name_that_is_nearly_in_the_table_gets_a_hint():
    with pytest.raises(InputError, match="the table has 'aspirin', if that is meant"):
        table().require(["Aspirin"], "train.csv")


def test_columns_are_standardised_by_the_distinct_training_perturbations():
    X = np.float32([[1, 5, 0], [3, 5, 0.1], [8, 5, -4]])
    learnt = Standardisation.of(X)
    naive = np.zeros((3, 3))
    for k in (0, 2):
        column = X[:, k].astype(float)
        naive[:, k] = (column - np.mean(column)) / np.sqrt(np.mean((column - np.mean(column)) ** 2))
    np.testing.assert_allclose(learnt.transform(X), naive, atol=1e-6)
    np.testing.assert_allclose(
        learnt.transform(np.float32([[1e6, 9, -1e6]])), [[10, 0, -10]], err_msg="bounded; constants stay 0"
    )


def test_a_block_reads_the_table_and_weights_no_perturbation_by_its_rows():
    features = FeatureSet(name="mine", blocks=(OneHotBlock(column="cell_type"), MoleculeBlock(encoder=TABLE)))
    names = ["aspirin", "CD3", "aspirin", "aspirin"]
    obs = pd.DataFrame({"cell_type": ["B"] * 4, "sm_name": names, "SMILES": ""})
    rows = Rows(obs, encode_compounds(features.encoders, obs, table=table()).training)
    made = FeatureTable(features)
    found = made.fit_transform(rows, np.zeros((4, 1), np.float32))
    np.testing.assert_allclose(found[:, 1:], [[1, -1], [-1, 1], [1, -1], [1, -1]], atol=1e-6)
    again = FeatureTable.from_state(features, StateReader(made.state(), "model"))
    np.testing.assert_array_equal(again.transform(rows), made.transform(rows))
    assert again.columns_ == made.columns_


def test_states_come_back_and_damage_is_refused():
    back = EmbeddingTable.from_state(reader(table("mean").state()))
    assert (back.names, back.columns, back.source, back.combine) == (
        tuple(NAMES),
        ("e0", "e1"),
        "t.csv",
        "mean",
    )
    np.testing.assert_array_equal(back.values, VALUES)
    assert_every_damage_is_refused(Standardisation.from_state, Standardisation.of(VALUES).state())
    with pytest.raises(InputError, match="combine is 'product'; the saved model is damaged"):
        EmbeddingTable.from_state(reader(table("product").state()))


def test_encoders_of_smiles_name_the_compounds_that_have_none():
    obs = pd.DataFrame({"sm_name": ["ethanol", "CD3", "CD3"], "SMILES": ["CCO", "", ""]})
    with pytest.raises(
        InputError, match="morgan reads SMILES, and 1 compounds have none, first 'CD3'; add them"
    ):
        encode_compounds(["morgan", TABLE], obs, table=table())
    with pytest.raises(
        InputError, match="the recipe reads a table of embeddings; name it with --molecules FILE"
    ):
        encode_compounds([TABLE], obs)


def test_what_molecules_names(tmp_path):
    (tmp_path / "model.csv").mkdir()
    tables = ["a.parquet", "b/c.csv.gz", "d.TSV"]
    assert [is_table(name) for name in tables] == [True] * 3
    assert not any(map(is_table, ["morgan", "none", "org/model", "folder", str(tmp_path / "model.csv")]))
    assert [reads_structures(name) for name in ("morgan", "none", "a.csv")] == [True, False, False]
