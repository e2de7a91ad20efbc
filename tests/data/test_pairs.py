"""Files of pairs to predict: SMILES from training where they have none, and faults named with file and row."""

import pandas as pd
import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.pairs import read_pairs
from rapids_pipeline.data.tables import training_from_frame
from tests.data.tables_example import SMILES, table, write


def pairs(**columns) -> pd.DataFrame:
    given = {"id": [7, 3], "cell_type": ["B cells", "T cells"], "sm_name": ["aspirin", "ethanol"]} | columns
    return pd.DataFrame(given)


def training() -> pd.DataFrame:
    return training_from_frame(table(), "memory").obs


def read_pairs_of(frame: pd.DataFrame, path, library="pandas") -> pd.DataFrame:
    return read_pairs(write(frame, path), training(), library=library)[0]


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize(
    "smiles",
    [{}, {"SMILES": [None, None]}, {"SMILES": [None, "OCC"]}, {"SMILES": ["", " "]}],
    ids=["no column", "none", "some", "blank"],
)
def test_pairs_take_smiles_from_training_where_they_have_none(tmp_path, smiles, suffix, library):
    read = read_pairs_of(pairs(**smiles), tmp_path / f"id_map{suffix}", library)
    expected = [SMILES["aspirin"], "OCC" if smiles.get("SMILES") == [None, "OCC"] else "CCO"]
    assert read["SMILES"].tolist() == expected
    assert [str(name) for name in read["id"]] == ["7", "3"]
    assert read["cell_type"].tolist() == ["B cells", "T cells"]


def test_pairs_with_their_own_smiles_may_be_new_compounds(tmp_path):
    read = read_pairs_of(pairs(sm_name=["new", "ethanol"], SMILES=["CCN", "CCO"]), tmp_path / "id_map.csv")
    assert read["SMILES"].tolist() == ["CCN", "CCO"]


def test_ids_are_kept_as_the_file_has_them(tmp_path):
    path = tmp_path / "id_map.csv"
    path.write_text("id,cell_type,sm_name\n007,B,ethanol\n07,B,ethanol\n1e3,B,ethanol\n")
    for library in ("pandas", "polars"):
        assert read_pairs(path, training(), library=library)[0]["id"].tolist() == ["007", "07", "1e3"]


BAD_PAIRS = {
    "missing column": (
        lambda: pairs().drop(columns="sm_name"),
        "missing column sm_name; its metadata columns are: id, cell_type",
    ),
    "id twice": (
        lambda: pd.concat([pairs(), pairs()[1:]]),
        "id 3 occurs in rows 2, 3; ids must be unique",
    ),
    "no id": (lambda: pairs(id=["a", None]), "column id has no value in row 2; fill it or drop the row"),
    "no cell type": (lambda: pairs(cell_type=[None, "B"]), "column cell_type has no value in row 1"),
    "invalid SMILES": (
        lambda: pairs(sm_name=["new", "ethanol"], SMILES=["C(", None]),
        "row 1 (new): 'C(' is not a valid SMILES",
    ),
    "no SMILES anywhere": (
        lambda: pairs(sm_name=["aspirin", "new"]),
        "no SMILES for 'new' (first in row 2), which the training file does not have either; add them",
    ),
    "no SMILES in its column": (
        lambda: pairs(sm_name=["aspirin", "new"], SMILES=["CC(=O)Oc1ccccc1C(=O)O", None]),
        "no SMILES for 'new' (first in row 2)",
    ),
    "another molecule than in training": (
        lambda: pairs(SMILES=[None, "CCN"]),
        "row 2 gives 'ethanol' the SMILES 'CCN', the training file 'CCO'; make them one molecule",
    ),
    "two molecules of one name": (
        lambda: pairs(sm_name=["new", "new"], SMILES=["CCN", "CCS"]),
        "compound 'new' has two SMILES: 'CCN' in row 1 and 'CCS' in row 2",
    ),
    "no rows": (lambda: pairs()[:0], "the table has a header but no rows"),
}


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize(("make", "message"), BAD_PAIRS.values(), ids=BAD_PAIRS.keys())
def test_bad_pairs_are_refused_by_name_and_cause(tmp_path, make, message, library):
    path = tmp_path / "id_map.csv"
    with pytest.raises(InputError) as caught:
        read_pairs_of(make(), path, library)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_a_bad_pairs_file_is_refused(tmp_path):
    path = tmp_path / "id_map.csv"
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"id_map.csv: the file is empty \(0 bytes\)"):
        read_pairs(path, training())
    with pytest.raises(InputError, match=r"none.csv: no such file"):
        read_pairs(tmp_path / "none.csv", training())


def test_tens_of_missing_names_are_cut_short(tmp_path):
    many = pd.DataFrame({"id": range(9), "cell_type": "B", "sm_name": [f"new{i}" for i in range(9)]})
    with pytest.raises(
        InputError, match=r"no SMILES for 'new0', 'new1', 'new2' and 6 more \(first in row 1\)"
    ):
        read_pairs_of(many, tmp_path / "id_map.csv")
