"""Data files from a stranger: attacks on what reads tables."""

import json
import pickle
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("rdkit")

from tests.command_line import invoke
from tests.journeys.watched import PAYLOAD, SECRET, Bomb, secrets, told, watching

if find_spec("anndata"):
    # It imports Dask, which reads the user's own settings of Dask when it starts: before anything is watched.
    import_module("anndata")


def frame():
    rows = {"cell_type": list("BTBT"), "sm_name": list("aabb"), "SMILES": ["CCO", "CCO", "CC", "CC"]}
    return pd.DataFrame(rows).assign(G1=np.arange(4.0), G2=1.5)


def extension_type(place):
    """A Parquet file whose column says that its type is to be unpickled, as old versions of PyArrow did."""
    table, bomb = pa.Table.from_pandas(frame()), pickle.dumps(Bomb(place))
    marks = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": bomb}
    field = pa.field("G1", pa.float64(), metadata=marks)
    pq.write_table(
        table.cast(table.schema.set(table.schema.get_field_index("G1"), field)), place / "x.parquet"
    )
    return place / "x.parquet"


def pandas_metadata(place):
    """A Parquet file whose pandas metadata name code and objects."""
    table = pa.Table.from_pandas(frame())
    meta = json.loads(table.schema.metadata[b"pandas"])
    for column in meta["columns"]:
        column |= {
            "pandas_type": f"{PAYLOAD}.T",
            "numpy_type": f"{PAYLOAD}.T",
            "metadata": {"unpickle": "gASV"},
        }
    meta["index_columns"] = [
        {"kind": "range", "name": "__import__('os')", "start": 0, "stop": 10**12, "step": 1}
    ]
    pq.write_table(table.replace_schema_metadata({b"pandas": json.dumps(meta).encode()}), place / "x.parquet")
    return place / "x.parquet"


def pickled_column(place):
    """A Parquet file of pickles where genes should be."""
    pq.write_table(
        pa.Table.from_pandas(frame().assign(G1=[pickle.dumps(Bomb(place))] * 4)), place / "x.parquet"
    )
    return place / "x.parquet"


def pickle_as(name):
    def make(place):
        (place / name).write_bytes(pickle.dumps(Bomb(place)))
        return place / name

    return make


def hdf5(change):
    """An .h5ad with one change."""

    def make(place):
        anndata = pytest.importorskip("anndata")
        h5py = pytest.importorskip("h5py")
        path = place / "x.h5ad"
        obs = frame()[["cell_type", "sm_name", "SMILES"]].astype(object)
        obs.index = obs.index.astype(str)
        with pd.option_context("future.infer_string", False):
            anndata.AnnData(frame()[["G1", "G2"]].to_numpy(), obs=obs).write_h5ad(path)
        with h5py.File(path, "a") as file:
            change(h5py, file, place)
        return path

    return make


def external_link(h5py, file, place):
    with h5py.File(place / "outside" / "secret.h5", "w") as other:
        other["X"] = np.ones((4, 2))
    del file["X"]
    file["X"] = h5py.ExternalLink(str(place / "outside" / "secret.h5"), "X")


def external_storage(h5py, file, place):
    del file["X"]
    place = str(place / "outside" / "model.safetensors")
    file.create_dataset("X", (4, 2), "f8", external=[(place, 0, 64)])


def virtual(h5py, file, place):
    with h5py.File(place / "outside" / "secret.h5", "w") as other:
        other["X"] = np.ones((4, 2))
    del file["X"]
    layout = h5py.VirtualLayout((4, 2), "f8")
    layout[:] = h5py.VirtualSource(str(place / "outside" / "secret.h5"), "X", (4, 2))
    file.create_virtual_dataset("X", layout)


def opaque(h5py, file, place):
    del file["X"]
    file["X"] = np.array([np.void(pickle.dumps(Bomb(place)))] * 4)


def unknown_encoding(h5py, file, place):
    file["X"].attrs["encoding-type"] = f"{PAYLOAD}.read"
    file["X"].attrs["encoding-version"] = "__import__('os')"


def unstructured(h5py, file, place):
    file["uns"].create_dataset("bomb", data=np.void(pickle.dumps(Bomb(place))))


DATA = {
    "Parquet of an extension type that is unpickled": extension_type,
    "Parquet whose pandas metadata name code": pandas_metadata,
    "Parquet of pickles": pickled_column,
    "pickle that is called .parquet": pickle_as("x.parquet"),
    "pickle that is called .csv": pickle_as("x.csv"),
    "pickle that is called .csv.gz": pickle_as("x.csv.gz"),
    "pickle that is called .h5ad": pickle_as("x.h5ad"),
    "pickle": pickle_as("x.pkl"),
    "HDF5 that links to another file": hdf5(external_link),
    "HDF5 that has its numbers in another file": hdf5(external_storage),
    "HDF5 that is a view of another file": hdf5(virtual),
    "HDF5 of opaque pickles": hdf5(opaque),
    "HDF5 of an encoding that is code": hdf5(unknown_encoding),
    "HDF5 with a pickle among what is unstructured": hdf5(unstructured),
}


@pytest.mark.parametrize("attack", DATA)
def test_a_data_file_executes_nothing_and_reads_no_other(attack, tmp_path):
    outside = secrets(tmp_path)
    path = DATA[attack](tmp_path)
    (tmp_path / "truth.csv").write_text(frame().to_csv(index=False))
    with watching(outside, tmp_path):
        result = invoke("evaluate", "--prediction", path, "--truth", tmp_path / "truth.csv")
    assert SECRET not in result.output
    if result.exit_code:
        told(result, (2,))
    assert not attack.startswith("HDF5 that") or "lies in another file" in result.stderr
