"""Reading states: every value is checked, and a wrong one is named."""

import errno
import os

import numpy as np
import pytest
import safetensors.numpy

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import StateReader, save_arrays

STATE = {
    "x": np.arange(6, dtype=np.float32).reshape(2, 3),
    "codes": np.array([0, 2], dtype=np.int32),
    "levels": ["a", "b"],
    "n": 3,
    "share": 0.5,
    "weights": [0.25, 1],
    "on": True,
    "kernel": "rbf",
    "inner": {"y": np.zeros(2)},
}


def reader(**changed):
    return StateReader(STATE | changed, "model: svr")


def test_what_fits_is_returned():
    read = reader()
    assert read.array("x", np.float32, (2, None)).shape == (2, 3)
    assert read.codes("codes", (2,), 3).tolist() == [0, 2]
    assert (read.levels("levels"), read.integer("n"), read.number("share")) == (["a", "b"], 3, 0.5)
    assert (read.flag("on"), read.text("kernel"), read.number("n")) == (True, "rbf", 3.0)
    assert read.numbers("weights") == [0.25, 1.0]
    assert read.part("inner").array("y", np.float64, (2,)).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("changed", "ask", "says"),
    [
        ({}, lambda r: r.array("z", np.float32, (1,)), "z is missing"),
        ({}, lambda r: r.array("n", np.float32, (1,)), "n is no array"),
        ({}, lambda r: r.array("x", np.float64, (2, 3)), r"x must be float64 \(2, 3\), not float32"),
        ({}, lambda r: r.array("x", np.float32, (2,)), r"x must be float32 \(2\), not float32 \(2, 3\)"),
        ({}, lambda r: r.array("x", np.float32, (None, 4)), r"\(any, 4\)"),
        (
            {"x": np.full(1, np.nan)},
            lambda r: r.array("x", float, (1,)),
            "x holds values that are not finite",
        ),
        ({}, lambda r: r.codes("codes", (2,), 2), "codes has numbers outside 0 … 1"),
        (
            {"codes": np.full(1, -1, np.int32)},
            lambda r: r.codes("codes", (1,), 2),
            "codes has numbers outside",
        ),
        ({"levels": ["a", 1]}, lambda r: r.strings("levels"), "levels is no list of strings"),
        ({"levels": ["a", "a"]}, lambda r: r.levels("levels"), "levels names something twice"),
        ({"n": True}, lambda r: r.integer("n"), "n is no whole number"),
        ({"n": 1.5}, lambda r: r.integer("n"), "n is no whole number"),
        ({"share": float("inf")}, lambda r: r.number("share"), "share is no finite number"),
        ({"share": 10**400}, lambda r: r.number("share"), "share is no finite number"),
        *(
            ({"weights": wrong}, lambda r: r.numbers("weights"), "weights is no list of finite numbers")
            for wrong in ([1, "2"], [True], [10**400], 1)
        ),
        ({"on": 1}, lambda r: r.flag("on"), "on is neither true nor false"),
        ({"kernel": None}, lambda r: r.text("kernel"), "kernel is no string"),
        ({"inner": 1}, lambda r: r.part("inner"), "inner has no parts"),
    ],
)
def test_what_does_not_fit_is_named(changed, ask, says):
    with pytest.raises(InputError, match=f"model: svr: .*{says}"):
        ask(reader(**changed))


def test_parts_name_their_place():
    with pytest.raises(InputError, match=r"model: svr\.inner: y is no string"):
        reader().part("inner").text("y")


@pytest.mark.parametrize(
    ("said", "number"), [("No space left on device (os error 28)", errno.ENOSPC), ("unheard of", errno.EIO)]
)
def test_a_disk_that_is_full_is_an_error_of_the_system(tmp_path, monkeypatch, said, number):
    def full(arrays, path):
        raise safetensors.SafetensorError(f"Error while serializing: I/O error: {said}")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(OSError, match=os.strerror(number)) as raised:
        save_arrays({"a": np.zeros(3)}, tmp_path / "a.safetensors")
    assert raised.value.errno == number
