"""What a file may be before it is read: regular, and of a size that it can honestly have."""

import gzip
import os
import socket

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from rapids_pipeline.backend import limits
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.frames import column_names, read_table
from rapids_pipeline.backend.limits import VARIABLE, require_file


@pytest.fixture
def small(monkeypatch):
    """Files may expand to a hundredth of what they usually may."""
    monkeypatch.setattr(limits, "SMALL", 2**20)


def refused(path, call=require_file):
    with pytest.raises(InputError) as caught:
        call(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_regular_file_is_not_opened(tmp_path, kind, monkeypatch):
    path = tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            monkeypatch.chdir(tmp_path)  # an address has at most 108 letters
            bound.bind("x")
    else:
        path.symlink_to("/dev/zero")
    assert refused(path) == "is a pipe, a socket or a device, expected a file; save it as a file first"


def test_a_gzip_file_that_unpacks_to_too_much_is_refused_until_it_is_allowed(tmp_path, small, monkeypatch):
    path = tmp_path / "bomb.csv.gz"
    path.write_bytes(gzip.compress(b"id,A1BG\n" + b"1,2.5\n" * 1_000_000))
    assert "its content takes 0.0 GB or more, over 100 times the file's size" in refused(path)
    monkeypatch.setenv(VARIABLE, "10000")
    require_file(path)
    assert len(read_table(path)) == 1_000_000


def test_a_gzip_file_of_numbers_may_have_any_size(tmp_path, small):
    path = tmp_path / "t.csv.gz"
    numbers = np.random.default_rng(0).normal(size=(20_000, 8)).round(4)
    pd.DataFrame(numbers).to_csv(path, index=False)
    assert path.stat().st_size < 2**20 < len(gzip.decompress(path.read_bytes()))
    require_file(path)


@pytest.mark.parametrize("value", ["", "x", "0.5", "nan", "-1"])
def test_the_limit_is_a_number_of_at_least_one(tmp_path, monkeypatch, value):
    path = tmp_path / "t.csv"
    path.write_text("a\n1\n")
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(InputError, match=f"^{VARIABLE}={value}: must be a number of at least 1$"):
        require_file(path)


def test_a_file_larger_than_the_memory_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text("a\n1\n")
    monkeypatch.setattr(limits, "host_bytes", lambda: 3)
    assert refused(path) == "its content takes 0.0 GB, and 0.0 GB of memory are left here"


def test_a_parquet_file_that_declares_too_many_rows_is_refused(tmp_path, small):
    path = tmp_path / "t.parquet"
    nothing = pa.table({"A1BG": pa.array(np.zeros(1_000_000, np.float32))})
    parquet.write_table(nothing, path)
    assert path.stat().st_size < 5000
    assert refused(path, read_table).startswith("what it declares takes 0.0 GB or more")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.map_(pa.string(), pa.int64()), [[("a", 1)]]),
        (pa.list_(pa.string()), [["a"]]),
        (pa.struct([("a", pa.int64())]), [{"a": 1}]),
        (pa.binary(), [b"\xff"]),
        (pa.dictionary(pa.int8(), pa.binary()), None),
    ],
    ids=["map", "list", "struct", "binary", "dictionary of binary"],
)
def test_a_parquet_column_that_holds_no_single_values_is_named(tmp_path, kind, values):
    path = tmp_path / "t.parquet"
    column = pa.array([b"\xff"]).dictionary_encode() if values is None else pa.array(values, kind)
    parquet.write_table(pa.table({"A1BG": [1.0], "more": column}), path)
    message = refused(path, read_table)
    assert message.startswith("column 'more' holds ")
    assert message.endswith(", expected text, numbers or dates; make it one of these, or drop it")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a" * 2**25 + b"\n1\n", "a line of it has more than 33,554,432 characters; is it a table?"),
        (b"a" + b"," * 1_000_001 + b"\n1\n", "has more than 1,000,000 columns; is it a table?"),
    ],
    ids=["a line", "columns"],
)
def test_a_text_file_whose_lines_are_no_tables_is_refused(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_bytes(text)
    assert refused(path, column_names) == message
