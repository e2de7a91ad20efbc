"""Matrix formats: AnnData files and objects, GCT and GCTX, and the real files of L1000 and TG-GATEs."""

import gzip

import numpy as np
import pandas as pd
import pytest

from benchmarks.faults import matrices
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data import readers
from rapids_pipeline.data.columns import TableOptions
from rapids_pipeline.data.tables import read_responses, read_training, training_from_frame
from tests.data.tables_example import GENES, responses, table

PROBES = ["200_at", "201_at", "202_s_at", "203_at"]
pytest.importorskip("anndata")


def annotations() -> pd.DataFrame:
    """The metadata of `table()` by L1000's names, with doses and times."""
    names = {
        "cell_type": "cell_id",
        "sm_name": "pert_iname",
        "SMILES": "canonical_smiles",
        "sm_lincs_id": "pert_id",
    }
    frame = table().drop(columns=[*GENES, "control"]).rename(columns=names)
    frame = frame.assign(pert_dose=["10", "10", "500", "-666", "0.5", "1"], pert_time="6", pert_time_unit="h")
    return frame.assign(pert_dose_unit=["um", "um", "nm", "-666", "mm", "um"])


def check(data, genes=PROBES):
    assert data.genes == tuple(genes)
    np.testing.assert_array_equal(data.Y, table()[GENES].to_numpy(np.float32))
    assert data.Y.flags.c_contiguous and data.Y.dtype == np.float32
    for name in ("cell_type", "sm_name", "SMILES", "sm_lincs_id"):
        assert data.obs[name].tolist() == table()[name].tolist()
    np.testing.assert_array_equal(data.obs["dose_uM"], [10, 10, 0.5, np.nan, 500, 1])
    assert data.obs["time_h"].tolist() == [6.0] * 6


def write_gct(path, version="#1.3"):
    obs = annotations()
    lines = [["id", "symbol", "s", *(f"well {k}" for k in range(6))]]
    lines += [[name, "na", "na", *map(str, obs[name])] for name in obs.columns]
    sizes = [4, 6, 2, len(obs.columns)]
    if version == "#1.2":
        lines, sizes = [["Name", "Description", *(f"well {k}" for k in range(6))]], sizes[:2]
    for probe, gene, values in zip(PROBES, GENES, responses().T, strict=True):
        lines.append([probe, gene, *([] if version == "#1.2" else ["x"]), *map(repr, map(float, values))])
    text = "\n".join([version, "\t".join(map(str, sizes)), *map("\t".join, lines)]) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def write_gctx(path):
    import h5py

    obs = annotations()
    with h5py.File(path, "w") as file:
        file.attrs["version"] = "GCTX1.0"
        file["0/DATA/0/matrix"] = responses().astype(np.float32)
        for axis, columns in {
            "ROW": {"id": PROBES, "symbol": GENES},
            "COL": {"id": [f"well {k}" for k in range(6)], **{name: list(obs[name]) for name in obs.columns}},
        }.items():
            for name, values in columns.items():
                file[f"0/META/{axis}/{name}"] = np.array(values, dtype="S")
    return path


@pytest.mark.parametrize(
    ("write", "name"), [(write_gct, "t.gct"), (write_gct, "t.gct.gz"), (write_gctx, "t.gctx")]
)
def test_gct_and_gctx_are_read_alike(tmp_path, write, name):
    path = write(tmp_path / name)
    data = read_training(path)
    check(data)
    assert data.obs["id"].tolist() == [f"well {k}" for k in range(6)]
    check(read_training(path, TableOptions(gene_column="symbol")), GENES)
    genes = tmp_path / "genes.txt"
    genes.write_text("ZZZ3\nA2M\n")
    listed = read_training(path, TableOptions(gene_column="symbol", genes=genes))
    assert listed.genes == ("A2M", "ZZZ3")
    np.testing.assert_array_equal(listed.Y, data.Y[:, 2:])


def test_gct_1_2_has_ids_and_numbers_only(tmp_path):
    data = read_responses(write_gct(tmp_path / "t.gct", "#1.2"))
    assert (data.genes, data.obs["id"].tolist()) == (tuple(PROBES), [f"well {k}" for k in range(6)])
    np.testing.assert_array_equal(data.Y, table()[GENES].to_numpy(np.float32))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "t.gct",
            lambda text: text.replace(b"#1.3", b"#1.9"),
            "starts with '#1.9'; GCT 1.2 and 1.3 (#1.3) are read",
        ),
        ("t.gct", lambda text: text[: len(text) // 2], "cannot be read as GCT ("),
        (
            "t.gct",
            lambda text: text.replace(b"203_at\t", b"200_at\t"),
            "duplicate gene: '200_at'; every gene",
        ),
        ("t.gctx", lambda text: text[:999], "cannot be read as .gctx ("),
        ("t.gct", lambda text: text, "no gene column 'name'; --gene-column can be symbol, s"),
    ],
)
def test_bad_gct_files_name_the_cause(tmp_path, name, change, message):
    path = (write_gctx if name.endswith("x") else write_gct)(tmp_path / name)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError) as caught:
        read_training(path, TableOptions(gene_column="name" if "column" in message else None))
    assert str(caught.value).startswith(f"{path}: {message}")


def anndata_of(layers=()):
    import anndata

    obs = annotations().astype(object).set_axis([f"well {k}" for k in range(6)])
    obs["cell_id"] = obs["cell_id"].astype("category")
    var = pd.DataFrame({"symbol": GENES}, index=pd.Index(PROBES, dtype=object)).astype(object)
    values = responses().astype(np.float32)
    return anndata.AnnData(X=values, obs=obs, var=var, layers=dict.fromkeys(layers, 2 * values))


@pytest.mark.filterwarnings("ignore")
def test_anndata_objects_and_files_are_read_alike(tmp_path, object_strings):
    data = anndata_of()
    data.write_h5ad(tmp_path / "t.h5ad")
    for options, genes in ((TableOptions(), PROBES), (TableOptions(gene_column="symbol"), GENES)):
        check(training_from_frame(data, "memory", options), genes)
        check(read_training(tmp_path / "t.h5ad", options), genes)


@pytest.mark.filterwarnings("ignore")
def test_which_matrix_is_read_where_there_are_several(object_strings):
    with pytest.raises(InputError) as caught:
        training_from_frame(anndata_of(["counts"]), "memory")
    assert str(caught.value) == "memory: no layer 'clipped_sign_log10_pval'; --layer can be counts, X"
    check(training_from_frame(anndata_of(["counts"]), "memory", TableOptions(layer="X")))
    with pytest.raises(
        InputError, match=r"memory: looks transposed: var has cell types or compounds; write data\.T"
    ):
        training_from_frame(anndata_of().T, "memory")


# --- real files --------------------------------------------------------------------------------------------


def test_a_real_plate_of_l1000(shared_data):
    data = read_responses(
        shared_data / "ljp005_a375" / "level3.gct.gz", TableOptions(gene_column="pr_gene_symbol")
    )
    assert (data.Y.shape, data.genes[0], data.Y[0, 0]) == ((377, 978), "PSME1", np.float32(11.3819))
    treated = data.obs[data.obs["pert_type"] != "ctl_vehicle"]
    assert treated["sm_name"].nunique() == 59
    assert sorted(treated["dose_uM"].unique()) == [0.04, 0.12, 0.37, 1.11, 3.33, 10]
    assert data.obs["dose_uM"].isna().sum() == (data.obs["pert_type"] == "ctl_vehicle").sum()
    assert set(data.obs["time_h"]) == {24.0} and set(data.obs["cell_type"]) == {"A375"}
    assert "cell_type is column 'cell_id', sm_name is column 'pert_iname'" in data.notes[0]


def test_real_samples_of_l1000_as_anndata(shared_data):
    path = shared_data / "l1000_ht115" / "level3.h5ad"
    with pytest.raises(
        InputError, match=r"'pert_dose' and 'dose' can both be the dose_uM; say which: --column dose_uM="
    ):
        read_responses(path)
    data = read_responses(path, TableOptions(columns={"dose_uM": "pert_dose"}))
    assert (data.Y.shape, data.genes[:2]) == ((681, 978), ("DDR1", "PAX8"))
    assert data.obs["sm_name"].nunique() == 350 and set(data.obs["time_h"]) == {6.0}
    assert (data.obs["dose_uM"].nunique(), data.obs["dose_uM"].isna().sum()) == (52, 20)
    with pytest.raises(InputError, match="compound 'parthenolide' has two SMILES"):
        read_training(path, TableOptions(columns={"dose_uM": "pert_dose"}))


def test_real_arrays_of_tg_gates(shared_data):
    data = read_responses(shared_data / "tggates" / "expression.parquet")
    assert data.Y.shape == (2382, 196)
    assert data.obs["sm_name"].nunique() == 146 and set(data.obs["time_h"]) == {2.0, 8.0, 24.0}
    assert set(data.obs["replicate"]) == {"1", "2"} and data.obs["dose_uM"].dtype == float
    assert data.obs["SMILES"].notna().sum() > 0


def test_the_real_layouts_are_as_they_were(shared_data):
    path = shared_data / "lincs_lung" / "de_train.parquet"
    data, read = read_training(path), pd.read_parquet(path)
    assert data.notes == () and list(data.genes) == list(read.columns[5:])
    pd.testing.assert_frame_equal(data.obs, read[read.columns[:5]], check_dtype=False)
    np.testing.assert_array_equal(data.Y, read.iloc[:, 5:].to_numpy(np.float32))
    genes = (shared_data / "op2_layout" / "genes.txt").read_text().split()
    pairs = pd.read_csv(shared_data / "op2_layout" / "de_train_pairs.csv")
    values = pd.DataFrame(np.ones((614, len(genes)), np.float32), columns=genes)
    whole = training_from_frame(pd.concat([pairs, values], axis=1), "op2")
    assert whole.genes == tuple(genes)
    pd.testing.assert_frame_equal(whole.obs, pairs, check_dtype=False)
    assert len(whole.notes) == 1 and whole.notes[0].startswith(
        "op2: 18211 gene(s) have one value in all rows: 'A1BG'"
    )


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("sparse", "indices far out of bounds", r"cannot be read as a sparse matrix \("),
        ("sparse", "short indptr", r"cannot be read as a sparse matrix \("),
        ("sparse", "indptr beyond", r"cannot be read as a sparse matrix \("),
        (
            "sparse",
            "a wide shape",
            "its sparse matrix takes 128.0 GB or more, over 100 times the file's size",
        ),
        ("dense", "X of 1000000000000×3", "what it declares takes 12000.0 GB or more, over 100 times"),
        ("dense", "X short", "its matrix is 29 × 3, and it names 32 rows and 3 genes; is the file complete?"),
        ("dense", "X 1-D", "its matrix is 32, and it names 32 rows and 3 genes; is the file complete?"),
        ("dense", "X complex", "its matrix holds complex64, expected numbers"),
        ("dense", "a long gene", "gene 'x+…x+' has 100,000 characters; a name has at most 1,000"),
        ("gctx", "no ids", "/0/META/COL has no id; is the file complete?"),
        ("gctx", "matrix text", "its matrix holds object, expected numbers"),
    ],
)
def test_parts_that_do_not_fit_are_named(tmp_path, kind, name, message):
    whole, changes, suffix = {
        "sparse": (matrices.h5ad(sparse=True), matrices.SPARSE, ".h5ad"),
        "dense": (matrices.h5ad(), matrices.H5AD, ".h5ad"),
        "gctx": (matrices.gctx(), matrices.GCTX, ".gctx"),
    }[kind]
    path = tmp_path / f"t{suffix}"
    path.write_bytes(whole)
    assert read_training(path).Y.shape == (32, 3)
    path.write_bytes(matrices.changed(whole, changes[name]))
    with pytest.raises(InputError, match=f"^{path}: {message}"):
        read_training(path)


def test_a_file_on_which_the_hdf5_library_never_ends_is_refused(tmp_path, monkeypatch):
    """A heap of texts that is all zeros is walked through for ever."""
    monkeypatch.setattr(readers, "PROBE_S", 3.0)
    whole = matrices.h5ad()
    at = whole.index(b"GCOL") + 16
    path = tmp_path / "t.h5ad"
    path.write_bytes(whole[:at] + bytes(1000) + whole[at + 1000 :])
    with pytest.raises(InputError, match=r"cannot be read as \.h5ad \(the HDF5 library does not end on it\)"):
        read_training(path)


def test_a_gct_file_has_as_many_samples_as_it_says(tmp_path):
    path = write_gct(tmp_path / "t.gct")
    path.write_text(path.read_text().replace("4\t6\t2", "4\t1000000000\t2"))
    with pytest.raises(InputError, match=r"cannot be read as GCT \(6 samples instead of 1000000000\)"):
        read_training(path)
