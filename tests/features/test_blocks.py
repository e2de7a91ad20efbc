"""Blocks: one-hot columns against a loop and pandas, columns that rows bring, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from features.blocks import ContextBlock, Given, LeaveOneOutBlock, OneHotBlock
from features.feature_sets import FEATURE_SETS, FeatureTable
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


# --- doses and times ----------------------------------------------------------------------------------------


def at(**columns):
    return Rows(pd.DataFrame(columns))


def test_a_dose_is_its_logarithm_by_the_training_rows_and_whether_it_is_missing():
    maker = ContextBlock(column="dose_uM").maker()
    found = maker.fit_transform(at(dose_uM=[0.0, 0.1, 10.0, np.nan]), None)
    logs = np.array([-2.0, -1.0, 1.0])
    scaled = (logs - logs.mean()) / logs.std()
    np.testing.assert_allclose(found, [*zip(scaled, [0] * 3, strict=True), (0, 1)], rtol=1e-6)
    assert found.dtype == np.float32
    others = maker.transform(at(dose_uM=[0.0, 1.0]))  # 0 is where training rows put it
    np.testing.assert_allclose(others[:, 0], ([-2, 0] - logs.mean()) / logs.std(), rtol=1e-6)
    np.testing.assert_array_equal(maker.transform(at(cell_type=["B"])), [[0, 1]])
    again = ContextBlock(column="dose_uM").maker()
    assert again.restore(StateReader(maker.state(), "saved")) == 2
    np.testing.assert_array_equal(
        again.transform(at(dose_uM=[3.0, np.nan])), maker.transform(at(dose_uM=[3.0, np.nan]))
    )
    with pytest.raises(InputError, match="the encoded column is dose_uM, not time_h"):
        ContextBlock(column="time_h").maker().restore(StateReader(maker.state(), "saved"))
    with pytest.raises(InputError, match="least and scale must be above 0"):
        again.restore(StateReader({**maker.state(), "scale": 0.0}, "saved"))


@pytest.mark.parametrize("values", [[np.nan, np.nan], [0.0, 0.0], [5.0]])
def test_a_column_that_says_nothing_is_zero(values):
    found = ContextBlock(column="time_h").maker().fit_transform(at(time_h=values), None)
    np.testing.assert_array_equal(found[:, 0], 0)


def test_compounds_are_encoded_by_dose_class():
    rows = at(cell_type=["A"] * 7, sm_name=["x"] * 6 + ["y"], dose_uM=[1, 2, 20, 0, np.nan, 2.5, 1])
    targets = np.arange(7, dtype=np.float32)[:, None]
    maker = LeaveOneOutBlock(column="compound_dose").maker()
    maker.fit_transform(rows, targets)
    asked = maker.transform(at(sm_name=["x", "x", "x", "x", "y"], dose_uM=[0.5, 15, 0, np.nan, 0.9]))
    np.testing.assert_allclose(asked[:, 0], [np.mean([0, 1, 5]), 2, 3, 4, 6], rtol=1e-6)


def test_a_set_gets_blocks_of_what_differs_once():
    plain = FEATURE_SETS["svr_loo"]
    names = [block.name for block in plain.blocks]
    both = plain.in_contexts(("dose_uM", "time_h"))
    assert [block.name for block in both.blocks] == [*names, "loo:compound_dose", "dose", "time"]
    assert both.in_contexts(("dose_uM", "time_h")) == both and plain.in_contexts(()) == plain
    assert [block.name for block in plain.in_contexts(("time_h",)).blocks] == [*names, "time"]
    own = FEATURE_SETS["svr_per_target"]
    assert own.in_contexts(("dose_uM",)) == own  # its solver takes no such columns
    rows, Y = example()
    rows = Rows(rows.obs.assign(dose_uM=np.arange(len(Y)) % 7), rows.molecules)
    table = FeatureTable(both.with_molecules("morgan"))
    X = table.fit_transform(rows, Y)
    saved = FeatureTable.from_state(table.feature_set, StateReader(table.state(), "saved"))
    np.testing.assert_array_equal(saved.transform(rows), table.transform(rows))
    assert X.shape[1] == table.transform(rows).shape[1] and table.columns_["dose"] == 2
