"""Bad training tables and files are refused by name and cause, whatever their format and reader."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.tables import (
    read_responses,
    read_training,
    training_from_frame,
)
from tests.data.tables_example import GENES, responses, table, with_value, write

# --- bad training tables ----------------------------------------------------------------------------------

BAD_TABLES = {
    "missing column": (
        lambda: table().drop(columns="cell_type"),
        "missing column cell_type; its metadata columns are: sm_name, sm_lincs_id, SMILES, control",
    ),
    "missing columns": (
        lambda: table().drop(columns=["sm_name", "SMILES"]),
        "missing column sm_name, SMILES; its",
    ),
    "missing value": (
        lambda: with_value("sm_name", 3, None),
        "column sm_name has no value in row 3; fill it or drop the row",
    ),
    "missing SMILES": (lambda: with_value("SMILES", 5, ""), "column SMILES has no value in row 5"),
    "not finite": (
        lambda: table().assign(A2M=[0, 1, np.nan, 2, np.inf, 3], ZZZ3=[0, 0, 0, 0, -np.inf, 0]),
        "2 target value(s) are not finite, in 1 row(s); first: row 5 (B cells, aspirin), gene A2M = inf",
    ),
    "a row without a value": (
        lambda: table().assign(**{gene: table()[gene].where(table().index != 2) for gene in GENES}),
        "row 3 has no value of any gene (B cells, benzene); 1 such row(s) in all; drop them",
    ),
    "beyond float32": (
        lambda: table().assign(A2M=[0, 1, 2, 1e39, 4, 5]),
        "1 target value(s) are not finite, in 1 row(s); first: row 4 (NK cells, benzene), gene A2M = inf",
    ),
    "two molecules of one name": (
        lambda: with_value("SMILES", 4, "CCN"),
        "compound 'benzene' has two SMILES: 'c1ccccc1' in row 3 and 'CCN' in row 4; one name",
    ),
    "invalid SMILES": (
        lambda: with_value("SMILES", 4, "c1ccc"),
        "row 4 (benzene): 'c1ccc' is not a valid SMILES",
    ),
    "text among numbers": (
        lambda: with_value("A2M", 2, "high").astype({"A2M": "str"}),
        "column A2M holds text among numbers: row 2 has 'high'; make it a number",
    ),
    "numbers as text": (
        lambda: table().astype({"A2M": "str"}).assign(A2M=lambda frame: "'" + frame["A2M"].str.strip()),
        None,  # a column of text throughout is metadata
    ),
    "no genes": (
        lambda: table().drop(columns=GENES),
        "no gene columns: none of its 5 columns is numeric and not metadata; the first are: cell_type, sm_name",
    ),
    "no rows": (lambda: table()[:0], "the table has a header but no rows"),
}


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize(("make", "message"), BAD_TABLES.values(), ids=BAD_TABLES.keys())
def test_a_bad_training_table_is_refused_by_name_and_cause(tmp_path, make, message, suffix, library):
    path = write(make(), tmp_path / f"t{suffix}")
    if message is None:
        assert read_training(path, library=library).genes == ("A1BG", "A1BG-AS1", "ZZZ3")
        return
    with pytest.raises(InputError) as caught:
        read_training(path, library=library)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "library"), [(".parquet", "pandas"), (".parquet", "polars"), (".csv", "pandas")]
)
def test_a_gene_without_a_value_in_any_row_is_refused(tmp_path, suffix, library):
    path = write(table().assign(A2M=np.nan), tmp_path / f"t{suffix}")
    with pytest.raises(InputError) as caught:
        read_training(path, library=library)
    assert str(caught.value) == f"{path}: 1 gene(s) have no value in any row: 'A2M'; drop the columns"


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_gaps_among_the_targets_are_genes_that_were_not_tested(tmp_path, suffix, library):
    path = write(table().assign(A2M=[0.5, np.nan, 1, np.nan, 2, 3]), tmp_path / f"t{suffix}")
    data = read_training(path, library=library)
    np.testing.assert_array_equal(data.Y[:, 2], np.float32([0.5, np.nan, 1, np.nan, 2, 3]))
    assert np.isnan(data.Y).sum() == 2
    with pytest.raises(InputError, match=r"2 target value\(s\) are not finite.*row 2 .*A2M = nan"):
        read_responses(path, library=library, untested=False)


def test_two_spellings_of_one_molecule_are_one_molecule(tmp_path):
    data = read_training(write(with_value("SMILES", 2, "OCC"), tmp_path / "t.parquet"))
    assert data.obs["SMILES"].tolist()[:2] == ["CCO", "OCC"]


# --- bad files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "the file is empty (0 bytes)"),
        ("t.parquet", b"", "the file is empty (0 bytes)"),
        ("t.h5ad", b"", "the file is empty (0 bytes)"),
        ("t.csv", b"\n", "cannot be read as CSV/TSV ("),
        ("t.csv.gz", gzip.compress(b"", mtime=0), "cannot be read as CSV/TSV ("),
        ("t.csv.gz", b"cell_type,sm_name\n", "cannot be read as CSV/TSV ("),
        ("t.csv", b"cell_type,sm_name,SMILES,G\nB,c,C,1\nB,d,C,1,2\n", "cannot be read as CSV/TSV ("),
        ("t.csv", "cell_type,sm_name,SMILES,G\nB,é,C,1\n".encode("latin-1"), "cannot be read as CSV/TSV ("),
        (
            "t.csv",
            "cell_type,sm_name,SMILES,G\n".encode("utf-16"),
            "is UTF-16 text; save it as UTF-8 (in Excel",
        ),
        ("t.csv", b"cell_type|sm_name|SMILES|G\nB|c|C|1\n", "no gene columns: none of its 1 columns"),
        ("t.parquet", b"garbage" * 99, "cannot be read as Parquet ("),
        ("t.h5ad", b"garbage" * 99, "cannot be read as .h5ad ("),
        ("t.xlsx", b"garbage", "unknown file type; expected one of .parquet, "),
        ("t", b"garbage", "unknown file type; expected one of .parquet, "),
        ("t.csv", b"cell_type,sm_name,SMILES,G,G\nB,c,C,1,2\n", "duplicate column names: 'G'; every gene"),
    ],
)
def test_a_bad_file_is_refused_by_name_and_cause(tmp_path, name, content, message, library):
    if name.endswith(".h5ad"):
        pytest.importorskip("anndata")
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_training(path, library=library)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.999])
def test_a_cut_off_parquet_file_is_refused(tmp_path, kept):
    content = write(table(), tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError, match=r"t.parquet: cannot be read as Parquet \(.*is the file complete\?$"):
        read_training(tmp_path / "t.parquet")


def test_places_without_a_file_are_refused(tmp_path):
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "file").write_text("x")
    for place, message in {
        "none.parquet": "no such file",
        "none/none.csv": "no such file",
        "file/none.csv": "no such file",
        "folder.parquet": "is a folder, expected a file",
        "x" * 300 + ".csv": r"cannot be read \(File name too long\)",
    }.items():
        with pytest.raises(InputError, match=f"{place[-20:]}: {message}"):
            read_training(tmp_path / place)


def test_permission_denied_is_told_apart(tmp_path, monkeypatch):
    path = write(table(), tmp_path / "t.parquet")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(InputError, match=r"t.parquet: cannot be read \(Permission denied\); check its perm"):
        read_training(path)


def test_duplicate_gene_names_are_refused_in_every_form(tmp_path):
    frame = table()
    names = [name if name != "ZZZ3" else "A2M" for name in frame.columns]
    doubled = pa.Table.from_arrays([pa.array(frame[name]) for name in frame.columns], names=names)
    pq.write_table(doubled, tmp_path / "t.parquet")
    for library in ("pandas", "polars"):
        with pytest.raises(InputError, match=r"t.parquet: duplicate column names: 'A2M'; every gene"):
            read_training(tmp_path / "t.parquet", library=library)
    with pytest.raises(InputError, match=r"memory: duplicate column names: 'A2M'"):
        training_from_frame(doubled, "memory")
    frame.columns = names
    with pytest.raises(InputError, match=r"memory: duplicate column names: 'A2M'"):
        training_from_frame(frame, "memory")


def test_bad_tables_in_memory_are_refused():
    with pytest.raises(InputError, match="memory: the table has no rows"):
        training_from_frame(table()[:0], "memory")
    with pytest.raises(InputError, match="memory: every column name must be text"):
        training_from_frame(table().rename(columns={"A2M": 7}), "memory")


def test_predictions_need_no_metadata(tmp_path):
    path = write(table()[["A1BG", "A2M"]].assign(id=list("fedcba")), tmp_path / "p.csv")
    data = read_responses(path)
    assert data.genes == ("A1BG", "A2M")
    assert data.obs["id"].tolist() == list("fedcba")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (
            "SMILES",
            "C" * 5001,
            r"row 1 \(ethanol\): 'C+…C+' \(5,001 characters; at most 5,000 are read\) is",
        ),
        (
            "cell_type",
            "x" * 1001,
            r"in column cell_type 'x+…x+' has 1,001 characters; a name has at most 1,000",
        ),
        ("sm_name", "x" * 1001, r"in column sm_name 'x+…x+' has 1,001 characters; a name has at most 1,000"),
    ],
)
def test_what_is_too_long_is_cut_in_the_message(tmp_path, column, value, message):
    path = write(with_value(column, 1, value), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=message) as caught:
        read_training(path)
    assert len(str(caught.value)) < 400


def test_a_long_gene_is_named(tmp_path):
    path = write(table().rename(columns={"A1BG": "g" * 1001}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"gene 'g+…g+' has 1,001 characters; a name has at most 1,000"):
        read_training(path)


def test_pandas_own_notes_in_a_parquet_file_are_not_read(tmp_path):
    import pyarrow as pa

    made = pa.Table.from_pandas(table(), preserve_index=False)
    damaged = made.replace_schema_metadata({b"pandas": b"{\xff"})
    pa.parquet.write_table(damaged, tmp_path / "t.parquet")
    np.testing.assert_array_equal(read_training(tmp_path / "t.parquet").Y, responses().astype(np.float32))
