"""Submission files: exact numbers, equal bytes, and nothing written when anything is wrong."""

import csv
import gzip
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.predictions import kaggle, table
from rapids_pipeline.predictions.kaggle import write_kaggle_csv
from rapids_pipeline.predictions.predictions import read_predictions

GENES = ["A1BG", "A1BG-AS1", "A2M"]


def predictions(n_rows=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n_rows, len(GENES))).astype(np.float32)


def test_the_file_is_plain(tmp_path):
    path = tmp_path / "submission.csv"
    write_kaggle_csv(path, [0, 1], GENES, np.float32([[0.1, -2, 1e-7], [-0.0, 3.25, 1e9]]))
    assert path.read_bytes() == b"id,A1BG,A1BG-AS1,A2M\n0,0.1,-2,1e-7\n1,0,3.25,1000000000\n"


@pytest.mark.parametrize("name", ["new/folder/submission.csv", "submission.csv.gz", "SUBMISSION.CSV"])
def test_a_round_trip_is_exact(tmp_path, name):
    Y = predictions()
    write_kaggle_csv(tmp_path / name, np.array([7, 3, 5, 1]), GENES, Y)
    back = read_predictions(tmp_path / name)
    np.testing.assert_array_equal(back.Y, Y)
    assert back.Y.dtype == np.float32
    assert back.genes == tuple(GENES)
    assert back.obs["id"].tolist() == [7, 3, 5, 1]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=200))
def test_every_float32_reads_back_as_itself(tmp_path, values):
    Y = np.float32(values)[:, None]
    write_kaggle_csv(tmp_path / "s.csv", range(len(Y)), ["G"], Y)
    np.testing.assert_array_equal(read_predictions(tmp_path / "s.csv").Y, Y)


def test_random_bit_patterns_read_back_as_themselves(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2**32, 30_000, dtype=np.uint32).view(np.float32)
    Y = bits[np.isfinite(bits)][:24_000].reshape(-1, 3)
    write_kaggle_csv(tmp_path / "s.csv", range(len(Y)), GENES, Y)
    np.testing.assert_array_equal(read_predictions(tmp_path / "s.csv").Y, Y)


@pytest.mark.parametrize("name", ["s.csv", "s.csv.gz"])
@pytest.mark.parametrize("block_values", [1, 7, 10**6])
def test_equal_input_gives_equal_bytes(tmp_path, name, block_values, monkeypatch):
    Y = predictions(50)
    write_kaggle_csv(tmp_path / "first" / name, range(50), GENES, Y)
    monkeypatch.setattr(table, "BLOCK_VALUES", block_values)
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
    ids, genes = ['a,"b"', "c", "d\ne"], ["G,1", 'G"2', "G 3"]
    write_kaggle_csv(tmp_path / "s.csv", ids, genes, predictions(3))
    with (tmp_path / "s.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["id", *genes]
    assert [row[0] for row in rows[1:]] == ids


def test_a_slice_of_a_fortran_array_is_written_right(tmp_path):
    Y = np.asfortranarray(predictions(8))[::2]
    write_kaggle_csv(tmp_path / "s.csv", range(4), GENES, Y)
    np.testing.assert_array_equal(read_predictions(tmp_path / "s.csv").Y, Y)


BAD = {
    "a float32 that is not finite": (
        {"Y": [[0, 1, 2], [3, np.nan, np.inf], [0, 0, np.nan]]},
        r"the prediction of id 3 \(row 2\) for gene A1BG-AS1 is nan; every value must be a finite float32",
    ),
    "beyond float32": (
        {"Y": [[0, 1, 2], [3, 4, 1e39], [0, 0, 0]]},
        r"id 3 \(row 2\) for gene A2M is 1e\+39",
    ),
    "an id twice": ({"ids": [7, 3, 7]}, r"id '7' occurs twice \(again at position 3\); ids must be unique"),
    "an id twice as text": ({"ids": [7, "x", "7"]}, "id '7' occurs twice"),
    "a gene twice": ({"genes": ["A", "B", "A"]}, r"gene 'A' occurs twice \(again at position 3\)"),
    "a gene named id": ({"genes": ["A", "id", "B"]}, "gene 'id' occurs twice.*none may be named \"id\""),
    "a missing row": ({"ids": [1, 2]}, r"shape \(3, 3\), expected \(2, 3\) for 2 ids and 3 genes"),
    "a missing gene": ({"genes": ["A", "B"]}, r"shape \(3, 3\), expected \(3, 2\) for 3 ids and 2 genes"),
    "one dimension": ({"Y": [1, 2, 3]}, r"shape \(3,\), expected \(3, 3\)"),
    "no rows": ({"ids": [], "Y": np.zeros((0, 3))}, r"nothing to write \(0 ids, 3 genes\)"),
    "no genes": ({"genes": [], "Y": np.zeros((3, 0))}, r"nothing to write \(3 ids, 0 genes\)"),
    "another format": ({"name": "s.parquet"}, r"name it .csv or .csv.gz"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("block_values", [3, 10**6])
def test_what_is_wrong_is_refused_before_anything_is_written(
    tmp_path, change, message, block_values, monkeypatch
):
    monkeypatch.setattr(table, "BLOCK_VALUES", block_values)
    given = {"name": "s.csv", "ids": [7, 3, 5], "genes": GENES, "Y": predictions(3)} | change
    folder = tmp_path / "new"
    with pytest.raises(InputError, match=message) as caught:
        write_kaggle_csv(folder / given["name"], given["ids"], given["genes"], np.asarray(given["Y"]))
    assert str(caught.value).startswith(f"{folder / given['name']}: ")
    assert "\n" not in str(caught.value)
    assert not folder.exists()


def test_a_failure_midway_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "s.csv"
    write_kaggle_csv(path, range(4), GENES, predictions())
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kaggle, "_write_rows", fail)
    with pytest.raises(InputError, match=r"s.csv: cannot be written \(No space left on device\)"):
        write_kaggle_csv(path, range(4), GENES, predictions(seed=1))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["s.csv"]  # noqa: PTH208


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


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50),
    st.sampled_from(["1", "6", "9", "%.6g", "%.4f", "%.3e"]),
)
def test_digits_are_those_of_the_percent_operator(tmp_path, values, float_format):
    Y = np.float32(values)[None]
    genes = [f"G{k}" for k in range(len(values))]
    write_kaggle_csv(tmp_path / "s.csv", ["a,b"], genes, Y, float_format=float_format)
    fields = next(csv.reader((tmp_path / "s.csv").read_text().splitlines()[1:]))
    percent = float_format if "%" in float_format else f"%.{float_format}g"
    assert fields[0] == "a,b"
    assert [float(field) for field in fields[1:]] == [float(percent % value) for value in Y[0].tolist()]
    assert not [field for field in fields[1:] if field.startswith("-") and float(field) == 0]


def test_nine_digits_read_back_as_the_same_float32(tmp_path):
    bits = np.random.default_rng(1).integers(0, 2**32, 3000, dtype=np.uint32).view(np.float32)
    Y = bits[np.isfinite(bits)][:2400].reshape(-1, 3)
    for name in ("s.csv", "s.csv.gz"):
        write_kaggle_csv(tmp_path / name, range(len(Y)), GENES, Y, float_format="9")
        np.testing.assert_array_equal(read_predictions(tmp_path / name).Y, Y)


@pytest.mark.parametrize(
    "float_format", ["", "0", "18", "%.18f", "%.0g", "%d", "%6.2f", "{:.3f}", "six", "-3", "%.3f%s"]
)
def test_another_format_is_refused(tmp_path, float_format):
    with pytest.raises(
        InputError, match=r"--float-format .*: is no format; give a number of significant digits"
    ):
        write_kaggle_csv(tmp_path / "s.csv", [0], ["A"], np.zeros((1, 1)), float_format=float_format)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"s.csv: cannot be written \("):
        write_kaggle_csv(tmp_path / "file" / "s.csv", range(4), GENES, predictions())
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match=r"folder.csv: is a folder; name a file"):
        write_kaggle_csv(tmp_path / "folder.csv", range(4), GENES, predictions())


def test_predictions_come_back_in_the_order_asked_for(tmp_path):
    Y = predictions()
    write_kaggle_csv(tmp_path / "s.csv", range(4), GENES, Y)
    back = read_predictions(tmp_path / "s.csv", GENES[::-1])
    assert back.genes == tuple(GENES[::-1])
    np.testing.assert_array_equal(back.Y, Y[:, ::-1])
    assert back.Y.flags.c_contiguous


def test_predictions_for_other_genes_are_refused(tmp_path):
    write_kaggle_csv(tmp_path / "s.csv", range(4), GENES, predictions())
    with pytest.raises(
        InputError, match=r"1 of the 3 genes of the list asked for are missing \(X\); 1 of its genes"
    ):
        read_predictions(tmp_path / "s.csv", ["A1BG", "A2M", "X"])
