"""Blocks: one-hot columns against a loop and pandas, columns that rows bring, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from features.blocks import Given, OneHotBlock
from features.rows import Rows
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import StateReader
from tests.features.test_feature_sets import example

LABELS = ["T cells", "B cells", "NK cells", "B cells"]


def rows_of(labels):
    return Rows(pd.DataFrame({"cell_type": labels}))


def one_hot(labels=None):
    maker = OneHotBlock(column="cell_type").maker()
    if labels is not None:
        maker.fit_transform(rows_of(labels), None)
    return maker


def test_one_hot_columns_equal_a_loop_and_pandas_dummies():
    found = one_hot().fit_transform(rows_of(LABELS), None)
    levels = ["B cells", "NK cells", "T cells"]
    expected = [[float(label == level) for level in levels] for label in LABELS]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found, pd.get_dummies(LABELS, dtype=np.float32).to_numpy())
    assert found.dtype == np.float32 and found.flags.c_contiguous


def test_levels_are_sorted_by_code_point_whatever_the_order_of_rows():
    labels = ["b", "É", "B", "a", "10", "9"]
    np.testing.assert_array_equal(one_hot(labels).transform(rows_of(sorted(labels))), np.eye(6))
    np.testing.assert_array_equal(one_hot(labels[::-1]).transform(rows_of(sorted(labels))), np.eye(6))


def test_levels_that_no_training_row_has_give_zeros():
    found = one_hot(LABELS).transform(rows_of(["B cells", "Liver", ""]))
    np.testing.assert_array_equal(found, [[1, 0, 0], [0, 0, 0], [0, 0, 0]])


def test_no_rows_have_no_columns_to_learn_but_columns_of_their_own():
    assert one_hot(LABELS).transform(rows_of([])).shape == (0, 3)
    with pytest.raises(InputError, match="no row to learn levels from"):
        one_hot([])


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, 7])
def test_a_label_that_is_missing_or_no_string_is_named(missing):
    broken = rows_of(np.array(["b", "a", missing, "c"], dtype=object))
    says = r"column cell_type, row 2 \(from 0\): .* is missing or no string"
    with pytest.raises(InputError, match=says):
        one_hot().fit_transform(broken, None)
    with pytest.raises(InputError, match=says):
        one_hot(LABELS).transform(broken)


def test_categories_and_strings_of_pandas_are_labels():
    for kind in ("category", "string"):
        found = one_hot(LABELS).transform(Rows(pd.DataFrame({"cell_type": LABELS}, dtype=kind)))
        np.testing.assert_array_equal(found, one_hot().fit_transform(rows_of(LABELS), None))


@pytest.mark.parametrize(
    ("encoder", "says"),
    [
        ("made up", "molecule features by made up have 5 columns and had 20 when"),
        (None, "first-level predictions have 5 columns and had 7 when"),
    ],
)
def test_columns_of_another_width_are_refused(encoder, says):
    rows, targets = example()
    fitted, restored = Given(encoder), Given(encoder)
    fitted.fit_transform(rows, targets)
    restored.restore(StateReader(fitted.state(), "saved"))
    narrow = Rows(rows.obs, {"made up": rows.molecules["made up"][:, :5]}, rows.predictions[:, :5])
    for made in (fitted, restored):
        with pytest.raises(InputError, match=says):
            made.transform(narrow)
