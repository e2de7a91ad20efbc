"""Submission files: exact numbers, equal bytes, the fields of the contract, and nothing written when anything is wrong.

The contract: openproblems-bio/task_perturbation_prediction, commit 2fa4446, `src/api/file_prediction.yaml`.
"""

import csv
import gzip
import os
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.data.tables import read_responses
from rapids_pipeline.evaluation.evaluate import evaluate_files
from rapids_pipeline.evaluation.metrics import mean_rowwise_rmse
from rapids_pipeline.predictions import formats
from rapids_pipeline.predictions.formats import dataset_id_of, write_kaggle_csv, write_prediction_h5ad
from tests.data.open_problems_example import GENES, PAIRS, write_de, write_theirs

quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@pytest.fixture
def anndata(object_strings):
    return pytest.importorskip("anndata")


def predictions(n_rows=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n_rows, len(GENES))).astype(np.float32)


def any_bits(seed, n):
    """Return n rows of two finite float32 of random bits."""
    bits = np.random.default_rng(seed).integers(0, 2**32, 3 * n, dtype=np.uint32).view(np.float32)
    return bits[np.isfinite(bits)][: 2 * n].reshape(-1, 2)


# --- Kaggle ---------------------------------------------------------------------------------------------------


def test_the_file_is_plain(tmp_path):
    path = tmp_path / "submission.csv"
    write_kaggle_csv(path, [0, 1], GENES[:3], np.float32([[0.1, -2, 1e-7], [-0.0, 3.25, 1e9]]))
    assert path.read_bytes() == b"id,A1BG,A1BG-AS1,A2M\n0,0.1,-2,1e-7\n1,0,3.25,1000000000\n"


@pytest.mark.parametrize("name", ["new/folder/submission.csv", "submission.csv.gz", "SUBMISSION.CSV"])
@pytest.mark.parametrize("order", [None, "a slice of a Fortran array"])
def test_a_round_trip_is_exact(tmp_path, name, order):
    Y = np.asfortranarray(predictions(8))[::2] if order else predictions()
    write_kaggle_csv(tmp_path / name, np.array([7, 3, 5, 1]), GENES, Y)
    back = read_responses(tmp_path / name)
    np.testing.assert_array_equal(back.Y, Y)
    assert back.Y.dtype == np.float32
    assert back.genes == tuple(GENES)
    assert back.obs["id"].tolist() == [7, 3, 5, 1]


@pytest.mark.parametrize(
    ("name", "float_format", "n"), [("s.csv", None, 12_000), ("s.csv", "9", 1200), ("s.csv.gz", "9", 1200)]
)
def test_random_bit_patterns_read_back_as_themselves(tmp_path, name, float_format, n):
    """Also with nine significant digits."""
    Y = any_bits(0, n)
    write_kaggle_csv(tmp_path / name, range(n), ["G", "H"], Y, float_format=float_format)
    np.testing.assert_array_equal(read_responses(tmp_path / name).Y, Y)


@pytest.mark.parametrize("name", ["s.csv", "s.csv.gz"])
@pytest.mark.parametrize("block_values", [1, 7, 10**6])
def test_equal_input_gives_equal_bytes(tmp_path, name, block_values, monkeypatch):
    Y = predictions(50)
    write_kaggle_csv(tmp_path / "first" / name, range(50), GENES, Y)
    monkeypatch.setattr(formats, "BLOCK_VALUES", block_values)
    monkeypatch.setattr("time.time", lambda: 1e9)
    write_kaggle_csv(tmp_path / "second" / name, range(50), GENES, Y.astype(np.float64))
    first, second = ((tmp_path / folder / name).read_bytes() for folder in ("first", "second"))
    if name.endswith(".gz"):
        assert gzip.decompress(first) == gzip.decompress(second)
        assert first[3:8] == bytes(5), "no file name, no time"
    assert first == second or name.endswith(".gz")
    write_kaggle_csv(tmp_path / "third" / name, range(50), GENES, Y)
    assert (tmp_path / "third" / name).read_bytes() == second


def test_names_that_need_quotes_get_them(tmp_path):
    ids, genes = ['a,"b"', "c", "d\ne"], ["G,1", 'G"2', "G 3", "G"]
    write_kaggle_csv(tmp_path / "s.csv", ids, genes, predictions(3))
    with (tmp_path / "s.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["id", *genes]
    assert [row[0] for row in rows[1:]] == ids


@pytest.mark.parametrize(
    ("float_format", "written"),
    [
        ("3", "0,0.123,-1.23e+03,0,1e-07\n"),
        ("%.3g", "0,0.123,-1.23e+03,0,1e-07\n"),
        ("%.2f", "0,0.12,-1234.50,0.00,0.00\n"),
        ("%.1e", "0,1.2e-01,-1.2e+03,0.0e+00,1.0e-07\n"),
    ],
)
def test_digits_can_be_asked_for(tmp_path, float_format, written):
    Y = np.float32([[0.12345, -1234.5, -0.0, 1e-7]])
    write_kaggle_csv(tmp_path / "s.csv", [0], list("ABCD"), Y, float_format=float_format)
    assert (tmp_path / "s.csv").read_text() == "id,A,B,C,D\n" + written


@quick
@given(st.lists(floats, min_size=1, max_size=50), st.sampled_from(["1", "6", "9", "%.6g", "%.4f", "%.3e"]))
def test_digits_are_those_of_the_percent_operator(tmp_path, values, float_format):
    Y = np.float32(values)[None]
    genes = [f"G{k}" for k in range(len(values))]
    write_kaggle_csv(tmp_path / "s.csv", ["a,b"], genes, Y, float_format=float_format)
    fields = next(csv.reader((tmp_path / "s.csv").read_text().splitlines()[1:]))
    percent = float_format if "%" in float_format else f"%.{float_format}g"
    assert fields[0] == "a,b"
    assert [float(field) for field in fields[1:]] == [float(percent % value) for value in Y[0].tolist()]
    assert not [field for field in fields[1:] if field.startswith("-") and float(field) == 0]


@pytest.mark.parametrize(
    "float_format", ["", "0", "18", "%.18f", "%.0g", "%d", "%6.2f", "{:.3f}", "six", "-3", "%.3f%s"]
)
def test_another_format_is_refused(tmp_path, float_format):
    with pytest.raises(
        InputError, match=r"--float-format .*: is no format; give a number of significant digits"
    ):
        write_kaggle_csv(tmp_path / "s.csv", [0], ["A"], np.zeros((1, 1)), float_format=float_format)
    assert not list(tmp_path.iterdir())


# --- What is wrong, in any format -------------------------------------------------------------------------------

BAD = {
    "a float32 that is not finite": (
        {"Y": [[0, 1, 2, 0], [3, np.nan, np.inf, 0], [0, 0, np.nan, 0]]},
        r"the prediction of id 3 \(row 2\) for gene A1BG-AS1 is nan; every value must be a finite float32",
    ),
    "beyond float32": (
        {"Y": [[0, 1, 2, 0], [3, 4, 1e39, 0], [0, 0, 0, 0]]},
        r"id 3 \(row 2\) for gene A2M is 1e\+39",
    ),
    "an id twice": ({"ids": [7, 3, 7]}, "duplicate id: '7'; every id may occur once"),
    "an id twice as text": ({"ids": [7, "x", "7"]}, "duplicate id: '7'"),
    "a gene twice": ({"genes": [*"ABAC"]}, "duplicate gene: 'A'; every gene may occur once"),
    "a gene named id": (
        {"genes": ["A", "id", "B", "C"]},
        "a gene is named id, as the column of row ids is; rename it",
    ),
    "a missing row": ({"ids": [1, 2]}, r"shape \(3, 4\), expected \(2, 4\) for 2 ids and 4 genes"),
    "a missing gene": ({"genes": ["A", "B"]}, r"shape \(3, 4\), expected \(3, 2\) for 3 ids and 2 genes"),
    "one dimension": ({"Y": [1, 2, 3]}, r"shape \(3,\), expected \(3, 4\)"),
    "no rows": ({"ids": [], "Y": np.zeros((0, 4))}, r"nothing to write \(0 ids, 4 genes\)"),
    "no genes": ({"genes": [], "Y": np.zeros((3, 0))}, r"nothing to write \(3 ids, 0 genes\)"),
}
WRITERS = {".csv": write_kaggle_csv, ".parquet": formats.write_parquet, ".h5ad": write_prediction_h5ad}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize(
    ("suffix", "block_values"), [(".csv", 4), (".csv", 10**6), (".parquet", 4), (".h5ad", 4)]
)
def test_what_is_wrong_is_refused_before_anything_is_written(
    tmp_path, change, message, suffix, block_values, monkeypatch
):
    monkeypatch.setattr(formats, "BLOCK_VALUES", block_values)
    given = {"ids": [7, 3, 5], "genes": GENES, "Y": predictions(3)} | change
    path = tmp_path / "new" / f"s{suffix}"
    with pytest.raises(InputError, match=message) as caught:
        WRITERS[suffix](path, given["ids"], given["genes"], np.asarray(given["Y"]))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def fail(*arguments, **_):
    """Stand for a writer that fills the disk."""
    if isinstance(arguments[0], Path):  # Path.write_bytes(self, content)
        arguments[0].write_text("half")
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".h5ad"])
def test_a_failure_midway_leaves_the_old_file(tmp_path, monkeypatch, suffix):
    path, write = tmp_path / f"s{suffix}", WRITERS[suffix]
    write(path, range(4), GENES, predictions())
    before = path.read_bytes()
    monkeypatch.setattr(formats, "_write_rows", fail)
    monkeypatch.setattr("pyarrow.parquet.write_table", fail)
    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(InputError, match=rf"s{suffix}: cannot be written \(No space left on device\)"):
        write(path, range(4), GENES, predictions(seed=1))
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]  # noqa: PTH208


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    for place, message in (
        ("file/s.csv", r"s.csv: cannot be written \("),
        ("folder.csv", r"folder.csv: is a folder; name a file"),
        ("s.parquet", r"s.parquet: a Kaggle submission is a CSV; name it .csv or .csv.gz"),
    ):
        with pytest.raises(InputError, match=message):
            write_kaggle_csv(tmp_path / place, range(4), GENES, predictions())


# --- Open Problems ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # anndata's, of names that are numbers
def test_it_is_laid_out_as_their_own_methods_do(tmp_path, anndata):
    """`src/control_methods/zeros/script.py`, its output part, and ours: the same groups, shapes and texts."""
    import h5py

    theirs = anndata.AnnData(
        layers={"prediction": np.zeros((5, len(GENES)))},
        obs=pd.DataFrame(index=PAIRS.assign(id=range(5))["id"]),
        var=pd.DataFrame(index=GENES),
        uns={"dataset_id": "neurips-2023-data", "method_id": "zeros"},
    )
    theirs.write_h5ad(tmp_path / "theirs.h5ad", compression="gzip")
    zeros = np.zeros((5, len(GENES)))
    write_prediction_h5ad(tmp_path / "ours.h5ad", range(5), GENES, zeros, method_id="zeros")

    def content(name):
        found = {}

        def visit(place, item):
            if isinstance(item, h5py.Dataset):
                value = item[()]
                found[place] = value.tolist() if isinstance(value, np.ndarray) else value
            else:
                found[place] = "group"

        with h5py.File(tmp_path / name) as file:
            file.visititems(visit)
        return found

    assert content("ours.h5ad") == content("theirs.h5ad")


def test_pairs_are_kept_where_they_are_known_and_equal_input_gives_equal_arrays(tmp_path, anndata):
    for name in ("one.h5ad", "two.h5ad"):
        pairs = PAIRS.set_axis([9, 8, 7, 6, 5])
        write_prediction_h5ad(tmp_path / name, range(5), GENES, predictions(5), pairs=pairs)
    one, two = anndata.read_h5ad(tmp_path / "one.h5ad"), anndata.read_h5ad(tmp_path / "two.h5ad")
    assert one.obs["cell_type"].tolist() == PAIRS["cell_type"].tolist()
    assert one.obs["sm_name"].tolist() == PAIRS["sm_name"].tolist()
    np.testing.assert_array_equal(one.layers["prediction"], predictions(5))
    np.testing.assert_array_equal(one.layers["prediction"], two.layers["prediction"])
    assert one.layers["prediction"].dtype == np.float32
    pd.testing.assert_frame_equal(one.obs, two.obs)
    assert one.var_names.equals(two.var_names) and dict(one.uns) == dict(two.uns)


@pytest.mark.parametrize(("name", "value"), [("method_id", " "), ("dataset_id", "")])
def test_an_empty_label_is_refused(tmp_path, name, value):
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} is empty"):
        write_prediction_h5ad(tmp_path / "p.h5ad", range(4), GENES, predictions(), **{name: value})
    assert not list(tmp_path.iterdir())


def test_without_anndata_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "anndata", None)
    with pytest.raises(UnavailableError, match=r"p.h5ad: .h5ad needs anndata; pip install '.\[h5ad\]'"):
        write_prediction_h5ad(tmp_path / "p.h5ad", range(4), GENES, predictions())


def test_the_data_set_of_a_file_is_read(tmp_path, anndata):
    write_de(tmp_path / "de_train.h5ad")
    assert dataset_id_of(tmp_path / "de_train.h5ad") == "small-data"
    content = (tmp_path / "de_train.h5ad").read_bytes()
    (tmp_path / "half.h5ad").write_bytes(content[: len(content) // 2])
    with pytest.raises(
        InputError, match=r"half.h5ad: cannot be read as .h5ad \(.*\); is the file complete\?$"
    ):
        dataset_id_of(tmp_path / "half.h5ad")


ORDER = [3, 0, 4, 1, 2]


@pytest.mark.parametrize(
    ("whose", "truth"),
    [*product(["ours", "theirs"], ["parquet", "h5ad with ids"]), ("ours", "h5ad with pairs")],
)
def test_a_prediction_is_scored_row_by_row_by_its_ids(tmp_path, anndata, truth, whose):
    """Also one of theirs, without pairs, that is matched by its row names."""
    path, Y = tmp_path / "de_test.h5ad", predictions(5)
    measured = write_de(path, with_id=truth == "h5ad with ids")["clipped_sign_log10_pval"].astype(np.float32)
    if whose == "ours":
        write_prediction_h5ad(tmp_path / "p.h5ad", ORDER, GENES, Y[ORDER], pairs=PAIRS.iloc[ORDER])
    else:
        write_theirs(tmp_path / "p.h5ad", ORDER, Y[ORDER], name=None)
    if truth == "parquet":
        path = tmp_path / "de_test.parquet"
        ids = pd.DataFrame({"id": range(5)})
        pd.concat([ids, PAIRS, pd.DataFrame(measured, columns=GENES)], axis=1).to_parquet(path)
    found = evaluate_files(tmp_path / "p.h5ad", path)
    assert found.matched_by == ("cell_type, sm_name" if truth == "h5ad with pairs" else "id")
    naive = np.mean([np.sqrt(np.mean((measured[k] - Y[k]) ** 2)) for k in range(5)])
    assert found.scores["p"]["mean_rowwise_rmse"] == pytest.approx(naive, rel=1e-6)
    assert naive != pytest.approx(mean_rowwise_rmse(measured, Y[ORDER]), rel=1e-3)
