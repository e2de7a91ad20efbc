import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from features.categorical import OneHotEncoder
from rapids_pipeline.backend.errors import InputError


@pytest.fixture
def obs():
    return pd.DataFrame(
        {
            "cell_type": ["T cells", "B cells", "NK cells", "B cells"],
            "sm_name": ["b", "a", "a", "c"],
            "SMILES": ["CC", "CN", "CN", "CO"],
        }
    )


def test_equals_a_naive_loop(obs):
    encoder = OneHotEncoder().fit(obs)
    names = [("cell_type", level) for level in ("B cells", "NK cells", "T cells")]
    names += [("sm_name", level) for level in ("a", "b", "c")]
    expected = np.zeros((4, 6))
    for i in range(4):
        for j, (column, level) in enumerate(names):
            expected[i, j] = obs[column].iloc[i] == level
    rows = encoder.transform(obs)
    np.testing.assert_array_equal(rows, expected)
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous
    assert encoder.get_feature_names_out().tolist() == [f"{column}={level}" for column, level in names]
    assert encoder.levels_["cell_type"] == ["B cells", "NK cells", "T cells"]


def test_equals_pandas_dummies(obs):
    dummies = pd.get_dummies(obs[["cell_type", "sm_name"]], prefix_sep="=", dtype=np.float32)
    encoder = OneHotEncoder().fit(obs)
    assert encoder.get_feature_names_out().tolist() == dummies.columns.tolist()
    np.testing.assert_array_equal(encoder.transform(obs), dummies.to_numpy())


def test_unseen_levels_give_zeros_and_are_counted(obs):
    encoder = OneHotEncoder().fit(obs)
    new = pd.DataFrame({"cell_type": ["B cells", "Liver", "Liver"], "sm_name": ["zzz", "a", "b"]})
    rows = encoder.transform(new)
    assert rows.sum(axis=1).tolist() == [1, 1, 1]
    assert not rows[1:, :3].any()
    assert not rows[0, 3:].any()
    assert encoder.count_unseen(new) == {"cell_type": 2, "sm_name": 1}
    assert encoder.count_unseen(obs) == {"cell_type": 0, "sm_name": 0}


def test_row_order_does_not_matter_for_the_columns_and_rows_are_independent(obs):
    encoder, shuffled = OneHotEncoder().fit(obs), OneHotEncoder().fit(obs.iloc[::-1])
    np.testing.assert_array_equal(encoder.transform(obs), shuffled.transform(obs))
    for i in range(4):
        np.testing.assert_array_equal(encoder.transform(obs.iloc[[i]])[0], encoder.transform(obs)[i])


def test_takes_any_table_with_those_columns(obs):
    import narwhals as nw
    import polars as pl

    expected = OneHotEncoder().fit_transform(obs)
    kinds = [
        obs.to_dict("list"),
        obs.astype("category"),
        obs.astype("string"),
        pl.DataFrame(obs.to_dict("list")),
        nw.from_native(obs),
    ]
    for table in kinds:
        np.testing.assert_array_equal(OneHotEncoder().fit_transform(table), expected)


def test_no_rows_to_transform(obs):
    assert OneHotEncoder().fit(obs).transform(obs.iloc[:0]).shape == (0, 6)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, 7])
def test_a_missing_value_is_named(obs, missing):
    broken = obs.assign(sm_name=["b", "a", missing, "c"])
    with pytest.raises(InputError, match=r"column sm_name, row 2 \(from 0\)"):
        OneHotEncoder().fit(broken)
    with pytest.raises(InputError, match="column sm_name, row 2"):
        OneHotEncoder().fit(obs).transform(broken)


def test_a_missing_column_is_named(obs):
    with pytest.raises(InputError, match="no column plate"):
        OneHotEncoder(columns=("cell_type", "plate")).fit(obs)
    with pytest.raises(InputError, match="no row"):
        OneHotEncoder().fit(obs.iloc[:0])


def test_is_a_scikit_learn_estimator(obs):
    encoder = OneHotEncoder(columns=("sm_name",))
    assert clone(encoder).get_params() == {"columns": ("sm_name",)}
    with pytest.raises(NotFittedError):
        encoder.transform(obs)
