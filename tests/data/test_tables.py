"""Files become the same checked data whatever their format, column order and reader; bad ones name file and cause."""

import shutil

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
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
from tests.data.tables_example import GENES, LAYER, responses, table, write


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
