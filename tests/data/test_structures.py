"""Files of perturbations without structures: what is read where none is needed, and what is refused where one is."""

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.columns import TableOptions
from rapids_pipeline.data.pairs import read_batch, read_pairs
from rapids_pipeline.data.problem import ProblemFiles, open_problem
from rapids_pipeline.data.tables import read_training
from tests.data.tables_example import SMILES, table, write

NOT_NEEDED = TableOptions(structures=False)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_without_structures_has_empty_ones_where_none_is_needed(tmp_path, suffix):
    path = write(table().drop(columns="SMILES"), tmp_path / f"t{suffix}")
    data = read_training(path, NOT_NEEDED)
    assert data.obs["SMILES"].tolist() == [""] * 6
    with pytest.raises(InputError) as caught:
        read_training(path)
    assert str(caught.value) == (
        f"{path}: missing column SMILES; its metadata columns are: cell_type, sm_name, sm_lincs_id, control; take "
        "--molecules none, or --molecules TABLE (embeddings of any perturbation)"
    )


def test_gaps_are_filled_by_the_compounds_other_rows_and_otherwise_empty(tmp_path):
    some = table().assign(SMILES=["CCO", None, " ", "-666", SMILES["aspirin"], SMILES["aspirin"]])
    path = write(some, tmp_path / "t.csv")
    found = read_training(path, NOT_NEEDED).obs["SMILES"].tolist()
    assert found == ["CCO", "CCO", "", "", SMILES["aspirin"], SMILES["aspirin"]]
    with pytest.raises(InputError) as caught:
        read_training(path)
    assert str(caught.value).startswith(
        f"{path}: column SMILES has no value in rows 2, 3, 4, of 2 compounds: 'ethanol', 'benzene'; fill it, drop the "
        "rows, or take --molecules none, or --molecules TABLE"
    )


def test_structures_that_are_there_are_still_checked(tmp_path):
    bad = table().assign(SMILES=[None, None, "c1ccccc1", "CCC", None, None])
    with pytest.raises(InputError, match="compound 'benzene' has two SMILES"):
        read_training(write(bad, tmp_path / "t.csv"), NOT_NEEDED)
    with pytest.raises(InputError, match=r"row 1 \(ethanol\): 'no' is not a valid SMILES"):
        read_training(write(table().assign(SMILES="no"), tmp_path / "t.csv"), NOT_NEEDED)


def test_names_that_differ_in_case_are_one_compound_where_one_has_no_structure(tmp_path):
    some = table().assign(sm_name=["ethanol", "Ethanol", *table()["sm_name"][2:]])
    some.loc[1:, "SMILES"] = None
    found = read_training(write(some, tmp_path / "t.csv"), NOT_NEEDED).obs
    assert found["sm_name"].tolist()[:2] == ["ethanol"] * 2 and found["SMILES"].tolist()[:2] == ["CCO"] * 2


def test_pairs_need_no_structure_either(tmp_path):
    some = table().assign(SMILES=["CCO", "CCO", None, None, None, None])
    training = read_training(write(some, tmp_path / "t.csv"), NOT_NEEDED).obs
    names = ["ethanol", "benzene", "anti-CD3"]
    asked = pd.DataFrame({"id": range(3), "cell_type": "B cells", "sm_name": names})
    path = write(asked, tmp_path / "pairs.csv")
    assert read_pairs(path, training, NOT_NEEDED)[0]["SMILES"].tolist() == ["CCO", "", ""]
    with pytest.raises(
        InputError, match=r"no SMILES for 'benzene', 'anti-CD3'.*or train with --molecules none or"
    ):
        read_pairs(path, training)


def test_a_batch_without_structures_is_numbered_by_name(tmp_path):
    training = read_training(write(table(), tmp_path / "t.csv"), NOT_NEEDED).obs
    names = ["anti-CD3", "TP53", "anti-CD3", "EtOH", "ethanol"]
    smiles = ["", "", "", "OCC", "CCO"]
    asked = pd.DataFrame({"cell_type": "B cells", "sm_name": names, "SMILES": smiles})
    batch = read_batch(write(asked, tmp_path / "pairs.csv"), training, NOT_NEEDED)
    assert batch.known_as.tolist() == ["anti-CD3", "TP53", "anti-CD3", "ethanol", "ethanol"]
    assert batch.molecule.tolist() == [0, 1, 0, 2, 2]
    assert (batch.molecules, batch.named) == (["", "", "CCO"], ["anti-CD3", "TP53", "ethanol"])


def test_a_problem_reads_its_table_and_wants_a_row_of_every_compound(tmp_path):
    train = write(table().drop(columns="SMILES"), tmp_path / "t.csv")
    test = write(
        pd.DataFrame({"id": [0, 1], "cell_type": "B cells", "sm_name": ["benzene", "aspirin+benzene"]}),
        tmp_path / "p.csv",
    )
    embeddings = tmp_path / "e.csv"
    embeddings.write_text("sm_name,e0\nethanol,1\nbenzene,2\naspirin,4\n")
    files = ProblemFiles(train, test, TableOptions(combine="mean")).for_molecules(str(embeddings))
    problem = open_problem(files)
    assert problem.table.rows(list(problem.asked["sm_name"])).ravel().tolist() == [3, 2]
    assert problem.inputs["molecules"]["path"] == str(embeddings)
    assert TableOptions.from_json(files.options.to_json()) == files.options
    embeddings.write_text("sm_name,e0\nethanol,1\nbenzene,2\n")
    with pytest.raises(InputError) as caught:
        open_problem(files)
    assert str(caught.value).startswith(
        f"{train}: 'aspirin' of column sm_name, first in row 5, have no row in"
    )
    assert np.isfinite(open_problem(ProblemFiles(train, test).for_molecules("none")).data.Y).all()
