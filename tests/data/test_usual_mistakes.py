"""The usual mistakes in files of one's own: each is read as it was meant, with a note, or named in one line."""

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.columns import TableOptions
from rapids_pipeline.data.labels import key_of_label
from rapids_pipeline.data.problem import ProblemFiles, open_problem
from rapids_pipeline.data.tables import read_training, training_from_frame
from tests.data.tables_example import GENES, SMILES, table

PAIRS = "id,cell_type,sm_name\n0,B cells,aspirin\n"


def renamed(**names: str) -> pd.DataFrame:
    return table().rename(columns=names)


def text_of(frame: pd.DataFrame, *, separator=",", decimal=".", encoding="utf-8") -> bytes:
    return frame.to_csv(index=False, sep=separator, decimal=decimal).encode(encoding)


def transposed() -> bytes:
    return table().set_index("sm_lincs_id").T.to_csv().encode()


def matrix_transposed() -> bytes:
    frame = pd.DataFrame(np.ones((3, 4)) / 3, ["A1BG", "A2M", "ZZZ3"], [f"sample {k}" for k in range(4)])
    return frame.to_csv(index_label="symbol").encode()


READ = {
    "semicolons": text_of(table(), separator=";"),
    "semicolons and decimal commas": text_of(table(), separator=";", decimal=","),
    "decimal commas in quotes": text_of(table(), decimal=","),
    "tabs in a .csv": text_of(table(), separator="\t"),
    "byte order mark": text_of(table(), encoding="utf-8-sig"),
    "blanks around column names": text_of(renamed(cell_type=" cell_type", SMILES="SMILES ", A2M="A2M ")),
    "trailing blanks": text_of(
        table().assign(cell_type=["B cells ", "NK cells"] + [" B cells", "NK cells"] * 2)
    ),
    "other case of columns": text_of(renamed(cell_type="Cell Type", sm_name="SM-name", SMILES="smiles")),
    "names of L1000": text_of(renamed(cell_type="cell_id", sm_name="pert_iname", SMILES="canonical_smiles")),
    "a batch, a dose and a time": text_of(
        table().assign(batch=[1, 1, 2, 2, 3, 3], dose=10.0, timepoint_hr=24)
    ),
    "columns of quality": text_of(table().assign(n_counts=range(6), pct_counts_mt=0.1, psbulk_cells=-666)),
}


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("content", READ.values(), ids=READ.keys())
def test_what_was_meant_is_read(tmp_path, content, library):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    data = read_training(path, library=library)
    assert data.genes == tuple(GENES)
    np.testing.assert_array_equal(data.Y, table()[GENES].to_numpy(np.float32))
    assert data.obs["cell_type"].tolist() == ["B cells", "NK cells"] * 3
    assert data.obs["sm_name"].tolist() == table()["sm_name"].tolist()


SEEM = "{path}: 1 numeric column(s) seem to be no genes: {names} ({names}: {why}); leave them out by "
SEEM += "--metadata-columns {names}, or name the genes in a text file, one a line, by --genes FILE"
REFUSED = {
    "a covariate": (
        text_of(table().assign(**{"viability score": np.linspace(0, 1, 6)})),
        SEEM.replace("{names}", "viability score").replace("{why}", "a covariate's name"),
    ),
    "whole numbers": (
        text_of(table().assign(run=[3, 1, 2, 3, 1, 2])),
        SEEM.replace("{names}", "run").replace("{why}", "whole numbers"),
    ),
    "a constant": (
        text_of(table().assign(voltage=0.5)),
        SEEM.replace("{names}", "voltage").replace("{why}", "one value in all rows"),
    ),
    "UTF-16": (
        text_of(table(), encoding="utf-16"),
        "{path}: is UTF-16 text; save it as UTF-8 (in Excel: CSV UTF-8)",
    ),
    "UTF-16 without a mark": (
        text_of(table(), encoding="utf-16-le"),
        "{path}: is UTF-16 text; save it as UTF-8 (in Excel: CSV UTF-8)",
    ),
    "transposed": (
        transposed(),
        "{path}: looks transposed: its rows are 'cell_type', 'sm_name', 'SMILES' and 5 more; a row must be a "
        "sample and a column a gene; turn it round (pandas: table.T)",
    ),
    "transposed without metadata": (
        matrix_transposed(),
        "{path}: looks transposed: its rows are 'A1BG', 'A2M', 'ZZZ3'; a row must be a sample and a column a gene; "
        "turn it round (pandas: table.T)",
    ),
    "Excel dates": (
        text_of(renamed(A2M="1-Mar", ZZZ3="Sep-2")),
        "{path}: Excel has turned gene names into dates: '1-Mar', 'Sep-2'; restore the names (1-Mar was MARCHF1, 2-Sep "
        "was SEPTIN2)",
    ),
    "a symbol twice": (
        text_of(table()).replace(b"ZZZ3", b"A2M"),
        "{path}: duplicate column names: 'A2M'; every gene and column may occur once",
    ),
    "two columns of cell types": (
        text_of(renamed(cell_type="cell_line").assign(celltype="lung")),
        "{path}: 'cell_line' and 'celltype' can both be the cell_type; say which: --column cell_type=cell_line",
    ),
    "an unknown unit": (
        text_of(table().assign(dose=0.1, dose_unit="%")),
        "{path}: unknown unit '%' of column dose in row 1; known are um, µm, umol/l, micromolar, nm, nmol/l, "
        "nanomolar, pm, pmol/l, picomolar, mm, mmol/l, millimolar, m, mol/l, molar; convert it, or leave the column "
        "out by --column dose_uM=",
    ),
    "a dose that is none": (
        text_of(table().assign(dose=["1", "2", "high", "1", "2", "3"])),
        "{path}: column dose is no dose_uM in row 3: 'high'",
    ),
    "a compound that is -666": (
        text_of(table().replace("ethanol", "-666")),
        "{path}: column sm_name has no value in rows 1, 2; fill it or drop the row",
    ),
}


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_meant_is_named(tmp_path, content, message, library):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_training(path, library=library)
    assert str(caught.value) == message.replace("{path}", str(path))
    assert len(str(caught.value)) - len(str(path)) <= 500


def test_both_remedies_for_a_suspicious_column_work(tmp_path):
    path, genes = tmp_path / "t.csv", tmp_path / "genes.txt"
    path.write_bytes(text_of(table().assign(run=range(6), voltage=0.5)))
    assert read_training(path, TableOptions(metadata_columns=("run", "voltage"))).genes == tuple(GENES)
    genes.write_text("run\nA2M\nA1BG\n")
    data = read_training(path, TableOptions(genes=genes))
    assert data.genes == ("A1BG", "A2M", "run")
    assert {"voltage", "ZZZ3"} <= set(data.obs.columns)


def test_a_constant_gene_is_only_noted():
    data = training_from_frame(table().assign(A2M=0.0), "memory")
    assert data.genes == tuple(GENES)
    assert data.notes == ("memory: 1 gene(s) have one value in all rows: 'A2M'",)


@pytest.mark.parametrize(
    ("pairs", "found", "note"),
    [
        ("id,cell_type,sm_name\n0,b CELLS ,Aspirin\n", ("B cells", "aspirin"), "'b CELLS is B cells'"),
        ("ID;Cell line;Compound\n0;NK-cells;benzene\n", ("NK cells", "benzene"), "'NK-cells is NK cells'"),
        ("id,cell_type,sm_name\n0,NKT cells,benzene\n", ("NKT cells", "benzene"), None),
        ("id,cell_type,sm_name\n0,T cells,benzene\n", ("T cells", "benzene"), None),
    ],
)
def test_pairs_that_differ_in_case_blanks_or_dashes_are_known(tmp_path, pairs, found, note):
    problem = problem_of(tmp_path, pairs)
    assert tuple(problem.asked[["cell_type", "sm_name"]].iloc[0]) == found
    spelled = [text for text in problem.notes if "spelled unlike" in text]
    assert spelled == [] if note is None else note in spelled[0]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (
            "id,cell_type,sm_name\n0,Monocyte,benzene\n",
            "the cell_type 'Monocyte' (first in row 1) is not in the training file, which has 'Monocytes'; if it is "
            "meant, write it so, and if not, give the other one a name less like it",
        ),
        (
            "id,cell_type,sm_name\n0,Monocytes,benzene\n1,Monocytes,asprin\n",
            "no SMILES for 'asprin' (first in row 2), which the training file does not have either; add them in a "
            "SMILES column; the training file has 'aspirin', if 'asprin' means that, or train with --molecules none or "
            "a table",
        ),
        (
            "id,cell_type,sm_name\n0,Monocytes,compound 12\n",
            "no SMILES for 'compound 12' (first in row 1), which the training file does not have either; add them in a "
            "SMILES column, or train with --molecules none or a table",
        ),
    ],
)
def test_near_misses_stop_with_the_hint(tmp_path, pairs, message):
    training = table().replace({"cell_type": {"B cells": "Monocytes"}, "sm_name": {"ethanol": "compound 13"}})
    with pytest.raises(InputError) as caught:
        problem_of(tmp_path, pairs, training)
    assert str(caught.value) == f"{tmp_path / 'p.csv'}: {message}"


def problem_of(folder, pairs: str, training: pd.DataFrame | None = None):
    (folder / "t.csv").write_bytes(text_of(table() if training is None else training))
    (folder / "p.csv").write_text(pairs)
    return open_problem(ProblemFiles(folder / "t.csv", folder / "p.csv"))


def test_spellings_within_a_training_file_are_one_label_unless_the_molecules_differ():
    frame = table().assign(cell_type=["B cells", "NK cells", "b_cells", "nk-cells", "B cells", "NK cells"])
    frame["sm_name"] = ["AB-1", "AB 1", "ab1", "ab1", "x", "x"]
    data = training_from_frame(frame, "memory")
    assert data.obs["cell_type"].tolist() == ["B cells", "NK cells"] * 3
    assert data.obs["sm_name"].tolist() == ["AB-1", "AB-1", "ab1", "ab1", "x", "x"]
    assert data.notes == (
        "memory: cell_type spelled unlike the other rows', and taken for them: 'b_cells is B cells', 'nk-cells is NK "
        "cells'",
        "memory: sm_name spelled unlike the other rows', and taken for them: 'AB 1 is AB-1'",
    )
    assert SMILES["ethanol"] == data.obs["SMILES"][1]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("HL-60", "hl 60", True),
        ("B cells", "b_Cells", True),
        ("CPD 1-1", "cpd-1 1", True),
        ("CPD 1-1", "CPD 11", False),
        ("2-3-AB", "23AB", False),
        ("--", "-", False),
    ],
)
def test_a_dash_between_digits_tells_labels_apart(one, other, same):
    assert (key_of_label(one) == key_of_label(other)) is same
