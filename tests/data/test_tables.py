"""Files become the same checked data whatever their format, column order and reader; bad ones name file and cause."""

import gzip
import shutil

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import sparse

from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.data.columns import TableOptions
from rapids_pipeline.data.tables import (
    PerturbationData,
    read_responses,
    read_training,
    training_from_frame,
)
from tests.data.open_problems_example import DE_TRAIN_LAYERS, PAIRS, write_de, write_theirs
from tests.data.open_problems_example import GENES as THEIR_GENES
from tests.data.tables_example import GENES, LAYER, responses, table, with_value, write


def check(data: PerturbationData) -> None:
    """Check data read from any form of `table()`."""
    assert data.genes == tuple(GENES)
    np.testing.assert_array_equal(data.Y, table()[GENES].to_numpy(np.float32))
    assert (data.Y.dtype, data.Y.shape, data.Y.flags.c_contiguous) == (np.float32, (6, 4), True)
    assert data.obs.index.tolist() == list(range(6))
    for name in ("cell_type", "sm_name", "SMILES"):
        assert data.obs[name].tolist() == table()[name].tolist()


# --- what is read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("name", ["t.parquet", "t.pq", "t.csv", "t.tsv", "t.csv.gz", "t.tsv.gz", "T.CSV"])
def test_every_format_and_reader_gives_the_same(tmp_path, name, library):
    if name.endswith(".pq"):
        shutil.move(write(table(), tmp_path / "t.parquet"), tmp_path / name)
    else:
        write(table(), tmp_path / name)
    data = read_training(tmp_path / name, library=library)
    check(data)
    assert list(data.obs.columns) == ["cell_type", "sm_name", "sm_lincs_id", "SMILES", "control"]
    assert data.obs["control"].tolist() == table()["control"].tolist()


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_genes_are_known_by_name_and_kind_wherever_they_stand(tmp_path, suffix, library):
    frame = table().assign(
        dose_uM=np.arange(6.0),  # known metadata, numeric
        cell_count=np.arange(6),
        lot=list("aabbcc"),  # unknown, but text
        treated=[True, False] * 3,
        plate=np.arange(6),  # another name of batch, numeric
        chip=np.arange(6),  # unknown and numeric: said by the caller
        A2M=np.arange(6),  # a gene of whole numbers
    )
    genes = ["A1BG", "A1BG-AS1", "A2M", "ZZZ3"]
    mixed = ["A1BG", "plate", "chip", "SMILES", "dose_uM", "A1BG-AS1", "treated", "sm_name", "A2M"]
    mixed += ["lot", "cell_type", "cell_count", "control", "ZZZ3", "sm_lincs_id"]
    path = write(frame[mixed], tmp_path / f"t{suffix}")
    data = read_training(path, TableOptions(metadata_columns=("chip",)), library=library)
    assert data.genes == tuple(genes)
    np.testing.assert_array_equal(data.Y, frame[genes].to_numpy(np.float32))
    expected = ["batch" if name == "plate" else name for name in mixed if name not in genes]
    assert list(data.obs.columns) == expected
    with pytest.raises(
        InputError, match=r"1 numeric column\(s\) seem to be no genes: chip \(chip: whole numbers"
    ):
        read_training(path, library=library)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_row_labels_are_no_gene_and_named_ones_are_columns(tmp_path, library):
    labelled = table().set_index(pd.Index([9, 3, 7, 1, 0, 5]))
    labelled.to_csv(tmp_path / "t.csv")
    check(read_training(tmp_path / "t.csv", library=library))
    for frame in (
        labelled,
        table().set_index(["cell_type", "sm_name"]),
        table().astype({"sm_name": "category", "A2M": "Float64"}),
    ):
        frame.to_parquet(tmp_path / "t.parquet")
        check(read_training(tmp_path / "t.parquet", library=library))


@pytest.mark.parametrize(
    "convert",
    [
        pd.DataFrame,
        pl.from_pandas,
        pa.Table.from_pandas,
        lambda frame: frame.set_index(pd.Index([9, 3, 7, 1, 0, 5])),
    ],
)
def test_tables_in_memory_are_read_like_files(convert):
    check(training_from_frame(convert(table()), "memory"))


def test_decimals_of_text_files_are_read_exactly(tmp_path):
    values = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    frame = table()
    frame[GENES] = pd.DataFrame(values.astype(str), columns=GENES)
    np.testing.assert_array_equal(read_training(write(frame, tmp_path / "t.csv")).Y, values)


def test_whole_numbers_first_and_fractions_later_is_one_column_of_numbers(tmp_path):
    n = 400
    frame = pd.DataFrame({"cell_type": "B", "sm_name": [f"c{i}" for i in range(n)], "SMILES": "CCO", "G": 0})
    frame["G"] = frame["G"].astype(object).where(frame.index < 300, 0.5)
    path = write(frame, tmp_path / "t.csv")
    for library in ("pandas", "polars"):
        assert read_training(path, library=library).Y.sum() == 50.0


def test_names_that_look_like_numbers_stay_text(tmp_path):
    frame = table().replace({"sm_name": {"ethanol": "007", "benzene": "7", "aspirin": "1e3"}})
    for library in ("pandas", "polars"):
        data = read_training(write(frame, tmp_path / "t.csv"), library=library)
        assert data.obs["sm_name"].unique().tolist() == ["007", "7", "1e3"]


def test_some_rows_are_taken_in_the_order_asked_for():
    data = training_from_frame(table(), "memory")
    taken = data.take(np.array([4, 0]))
    np.testing.assert_array_equal(taken.Y, data.Y[[4, 0]])
    assert taken.obs["sm_name"].tolist() == ["aspirin", "ethanol"]
    assert taken.obs.index.tolist() == [0, 1]


# --- h5ad -------------------------------------------------------------------------------------------------


def write_h5ad(path, *, genes=GENES, layers=(LAYER, "logFC"), convert=np.asarray, X=True):
    anndata = pytest.importorskip("anndata")
    pytest.importorskip("h5py")
    obs = table().drop(columns=GENES).astype({"cell_type": "category"})
    obs = obs.astype(dict.fromkeys(("sm_name", "sm_lincs_id", "SMILES"), object))
    obs = obs.assign(cell_count=np.arange(6)).set_index(pd.Index([f"obs{i}" for i in range(6)], dtype=object))
    values = responses()
    data = anndata.AnnData(
        X=convert(-values) if X else None,
        obs=obs,
        var=pd.DataFrame(index=pd.Index(genes, dtype=object)),
        layers={layer: convert(values if layer == LAYER else 2 * values) for layer in layers},
    )
    data.write_h5ad(path)
    return path


@pytest.mark.filterwarnings("ignore")  # anndata's own, of what it will change
@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_matrix, sparse.csc_matrix, np.asfortranarray])
def test_an_h5ad_file_is_read_by_layer(object_strings, tmp_path, convert):
    path = write_h5ad(tmp_path / "t.h5ad", convert=convert)
    data = read_training(path)
    check(data)
    assert "cell_count" in data.obs.columns
    np.testing.assert_array_equal(read_training(path, TableOptions(layer="X")).Y, -data.Y)
    np.testing.assert_array_equal(read_training(path, TableOptions(layer="logFC")).Y, 2 * data.Y)


@pytest.mark.filterwarnings("ignore")
def test_bad_h5ad_files_name_the_cause(object_strings, tmp_path):
    path = write_h5ad(tmp_path / "t.h5ad")
    with pytest.raises(InputError, match=rf"t.h5ad: no layer 'pval'; --layer can be {LAYER}, logFC, X$"):
        read_training(path, TableOptions(layer="pval"))
    with pytest.raises(InputError, match=r"d.h5ad: duplicate gene: 'A2M'; every gene may occur once$"):
        read_training(write_h5ad(tmp_path / "d.h5ad", genes=["A2M", "B", "A2M", "C"]))
    with pytest.raises(InputError, match=r"c.h5ad: 'control' names both a gene and a metadata column"):
        read_training(write_h5ad(tmp_path / "c.h5ad", genes=["A2M", "B", "control", "C"]))
    with pytest.raises(InputError, match=r"x.h5ad: layer 'X' is empty"):
        read_training(write_h5ad(tmp_path / "x.h5ad", X=False), TableOptions(layer="X"))
    broken = tmp_path / "b.h5ad"
    broken.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(InputError, match=r"b.h5ad: cannot be read as .h5ad \(.*\); is the file complete"):
        read_training(broken)
    with pytest.raises(InputError, match=r"none.h5ad: no such file"):
        read_training(tmp_path / "none.h5ad")


@pytest.mark.parametrize("layer", DE_TRAIN_LAYERS)
def test_an_open_problems_training_file_is_read_by_any_layer(tmp_path, object_strings, layer):
    values = write_de(tmp_path / "de_train.h5ad")
    data = read_training(tmp_path / "de_train.h5ad", TableOptions(layer=layer))
    np.testing.assert_array_equal(data.Y, values[layer].astype(np.float32))
    assert data.genes == tuple(THEIR_GENES) and data.obs["sm_name"].tolist() == PAIRS["sm_name"].tolist()
    assert "id" not in data.obs.columns


@pytest.mark.parametrize("names", [[str(k) for k in range(5)], [f"ACGT-{k}" for k in range(5)]])
def test_row_names_of_a_training_file_are_no_ids(tmp_path, object_strings, names):
    write_de(tmp_path / "de_train.h5ad", names=names)
    assert "id" not in read_training(tmp_path / "de_train.h5ad").obs.columns
    assert "id" not in read_responses(tmp_path / "de_train.h5ad").obs.columns


@pytest.mark.parametrize(
    ("written", "layer", "found"),
    [
        ({}, "prediction", [*"42013"]),
        ({}, "other", [*"42013"]),
        ({"name": None}, "prediction", [*"42013"]),
        ({"name": None}, "other", None),
        (
            {"obs": pd.DataFrame({"id": [5, 6, 7, 8, 9]}, index=pd.Index([*"abcde"], dtype=object))},
            "prediction",
            [5, 6, 7, 8, 9],
        ),
        ({"obs": PAIRS.astype(object).set_axis(pd.Index([*"abcde"], dtype=object))}, "prediction", None),
    ],
)
def test_which_row_names_are_ids(tmp_path, object_strings, written, layer, found):
    """A column `id` first; then names called id, of any layer; then any names of a prediction without pairs."""
    write_theirs(tmp_path / "p.h5ad", [4, 2, 0, 1, 3], np.zeros((5, 4), np.float32), **written)
    obs = read_responses(tmp_path / "p.h5ad", TableOptions(layer=layer)).obs
    assert (obs["id"].tolist() if "id" in obs else None) == found
    if "obs" in written:
        assert list(obs.columns) == list(written["obs"].columns)


def test_h5ad_without_anndata_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "t.h5ad").write_bytes(b"x")
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(UnavailableError, match=r"t.h5ad: .h5ad needs anndata; pip install '.\[h5ad\]'"):
        read_training(tmp_path / "t.h5ad")


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
