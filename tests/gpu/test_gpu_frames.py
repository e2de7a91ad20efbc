"""cuDF reads what pandas reads: names, types, values, text, gaps and faults, in every format. Stand-in: polars.

A table in memory also has a stand-in of cuDF's own manners (`cudf_on_cpu`).
"""

import inspect
import sys

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.demo import simulate
from rapids_pipeline.data.pairs import read_pairs
from rapids_pipeline.data.tables import read_responses, read_training, training_from_frame
from tests.backend import cudf_on_cpu
from tests.gpu.requirements import need, on_gpu

FORMATS = ("csv", "csv.gz", "tsv", "parquet")
TEXT_ROUNDING = 3e-7
"""cuDF's reader of decimal numbers may end some units beside the nearest float64, and so one beside the float32."""


@pytest.fixture(params=["cpu", on_gpu])
def library(request):
    """The library that is compared with pandas."""
    if request.param == "cuda":
        need("cudf")
        return "cudf"
    pytest.importorskip("polars")
    return "polars"


def native(frame, library):
    """Return a pandas table as one of the library."""
    if library == "cudf":
        import cudf

        return cudf.from_pandas(frame)
    import polars

    return polars.from_pandas(frame)


def written(frame, path):
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ".tsv" in path.name else ",")
    return path


@pytest.fixture(scope="module")
def training():
    """40 rows of the demo data; a compound whose name is a number, and columns of every kind beside the genes."""
    frame = simulate(0, 60).de_train.iloc[:40].reset_index(drop=True)
    name = frame["sm_name"].iloc[0]
    frame["sm_name"] = frame["sm_name"].where(frame["sm_name"] != name, "007")
    frame["well"] = np.arange(40)
    frame["donor_id"] = [None if row % 7 == 0 else f"Grün, {row}" for row in range(40)]
    return frame


def assert_same(found, expected, within):
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    assert found.genes == expected.genes
    assert found.Y.dtype == np.float32 and found.Y.flags.c_contiguous
    np.testing.assert_allclose(found.Y, expected.Y, rtol=within, atol=0)


@pytest.mark.parametrize("kind", FORMATS)
def test_training_files(library, training, tmp_path, kind):
    path = written(training, tmp_path / f"train.{kind}")
    found, expected = (read_training(path, library=name) for name in (library, "pandas"))
    assert len(found.genes) == 60 and "007" in set(found.obs["sm_name"])
    assert_same(found, expected, 0 if kind == "parquet" else TEXT_ROUNDING)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("labels", ["numbers", "named", "thinned"])
def test_row_labels(library, training, tmp_path, kind, labels):
    frame = training.iloc[::2] if labels == "thinned" else training
    frame = frame.set_index("sm_lincs_id") if labels == "named" else frame
    path = tmp_path / f"train.{kind}"
    if kind == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="\t" if kind == "tsv" else ",")
    found, expected = (read_training(path, library=name) for name in (library, "pandas"))
    assert ("sm_lincs_id" in found.obs.columns) and not any("ndex" in name for name in found.obs.columns)
    assert found.genes == expected.genes and len(found.genes) == 60
    columns = sorted(expected.obs.columns)
    pd.testing.assert_frame_equal(found.obs[columns], expected.obs[columns])
    np.testing.assert_allclose(found.Y, expected.Y, rtol=TEXT_ROUNDING)


@pytest.mark.parametrize("kind", FORMATS)
def test_pairs(library, tmp_path, kind):
    pairs = simulate(0, 3).de_test[["id", "cell_type", "sm_name"]].iloc[:30].reset_index(drop=True)
    known = simulate(0, 3).de_train
    pairs["SMILES"] = pairs["sm_name"].map(dict(zip(known["sm_name"], known["SMILES"], strict=True)))
    pairs.loc[pairs.index % 3 == 0, "SMILES"] = None
    pairs.loc[pairs.index % 3 == 1, "SMILES"] = "  "
    path = written(pairs, tmp_path / f"pairs.{kind}")
    found, expected = (read_pairs(path, known, library=name)[0] for name in (library, "pandas"))
    assert list(found.columns) == list(expected.columns) and found["SMILES"].notna().all()
    for name in found.columns:
        assert found[name].astype(object).where(found[name].notna(), None).tolist() == (
            expected[name].astype(object).where(expected[name].notna(), None).tolist()
        )


def test_cudf_has_what_is_used_of_it():
    """Also without a GPU: its names."""
    cudf = pytest.importorskip("cudf", exc_type=ImportError)
    assert callable(cudf.from_pandas) and callable(cudf.DataFrame.reset_index)
    assert "preserve_index" in inspect.signature(cudf.DataFrame.to_arrow).parameters
    assert {"sep", "dtype", "decimal"} <= set(inspect.signature(cudf.read_csv).parameters)


def test_a_table_in_memory(library, training):
    found, expected = (training_from_frame(x, "table") for x in (native(training, library), training))
    assert_same(found, expected, 0)


def test_a_table_of_the_stand_in_gives_nothing_unasked(training, monkeypatch):
    cudf = cudf_on_cpu.module()
    monkeypatch.setitem(sys.modules, "cudf", cudf)
    made = cudf.from_pandas(training.set_index("sm_lincs_id"))
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(made["cell_type"])
    expected = training_from_frame(training.set_index("sm_lincs_id"), "table")
    assert_same(training_from_frame(made, "table"), expected, 0)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_gap_in_a_gene_is_read_alike(library, training, tmp_path, kind):
    frame, gene = training.copy(), training.columns[10]
    frame[gene] = frame[gene].astype(float)
    frame.loc[5, gene] = np.nan
    path = written(frame, tmp_path / f"gap.{kind}")
    found, expected = (read_training(path, library=name) for name in (library, "pandas"))
    assert np.isnan(expected.Y).sum() == 1
    np.testing.assert_array_equal(np.isnan(found.Y), np.isnan(expected.Y))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("fault", ["infinite", "gap in text", "no column", "text among numbers"])
def test_faults_are_told_in_the_same_words(library, training, tmp_path, kind, fault):
    frame, gene = training.copy(), training.columns[10]
    if fault == "no column":
        frame = frame.drop(columns="cell_type")
    else:
        column = "sm_name" if fault == "gap in text" else gene
        value = {"infinite": np.inf, "text among numbers": "missing?"}.get(fault)
        frame[column] = frame[column].astype(float if fault == "infinite" else object)
        frame.loc[5, column] = value
        if fault == "text among numbers":
            frame[column] = frame[column].astype(str)
    path = written(frame, tmp_path / f"faulty.{kind}")
    messages = []
    for name in (library, "pandas"):
        with pytest.raises(InputError) as caught:
            read_training(path, library=name)
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and str(path) in messages[0]


@pytest.mark.parametrize("content", [b"", b"cell_type,sm_name\n", b"\xff\xfe\x00\x01", b"a,a\n1,2\n"])
@pytest.mark.parametrize("kind", FORMATS)
def test_files_that_are_none_are_refused(library, tmp_path, content, kind):
    path = tmp_path / f"broken.{kind}"
    path.write_bytes(content)
    with pytest.raises(InputError, match="broken"):
        read_responses(path, library=library)
