"""Folds and the order of rows that makes them independent of the file."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.evaluation.splits import canonical_order, random_folds


@given(st.integers(2, 12), st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_folds_are_even_and_seeded(n_folds, extra, seed):
    n_rows = 2 * n_folds + extra
    folds = random_folds(n_rows, n_folds, seed)
    counts = np.bincount(folds, minlength=n_folds)
    assert len(counts) == n_folds
    assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(folds, random_folds(n_rows, n_folds, seed))


def test_another_seed_makes_other_folds():
    assert np.any(random_folds(50, 5, 0) != random_folds(50, 5, 1))


@pytest.mark.parametrize(("n_rows", "n_folds"), [(10, 1), (9, 5), (0, 2), (10, 0)])
def test_too_few_rows_or_folds(n_rows, n_folds):
    with pytest.raises(InputError, match=f"{n_folds} folds of {n_rows} training rows: need at least"):
        random_folds(n_rows, n_folds, 0)


def test_canonical_order_is_by_cell_type_then_compound():
    obs = pd.DataFrame({"sm_name": list("baba"), "cell_type": ["Y", "Y", "X", "X"]}, index=[7, 7, 3, 1])
    assert canonical_order(obs).tolist() == [3, 2, 1, 0]


@given(st.permutations([(c, m) for c in ("B cells", "T cells") for m in ("a", "aa", "B", "é")]))
def test_canonical_order_does_not_depend_on_the_file(pairs):
    obs = pd.DataFrame(pairs, columns=["cell_type", "sm_name"])
    ordered = obs.iloc[canonical_order(obs)]
    assert list(ordered.itertuples(index=False, name=None)) == sorted(pairs)
