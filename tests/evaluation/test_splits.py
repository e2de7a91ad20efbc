"""Folds: even, seeded, and like the pairs to predict."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.evaluation.splits import made_scarce_splits, random_folds


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


def lines(counts, shared="compound"):
    """Rows of cell types with so many compounds each, the first ones in all of them."""
    pairs = [(name, f"{shared} {m:02d}") for name, count in counts.items() for m in range(count)]
    return pd.DataFrame(pairs, columns=["cell_type", "sm_name"])


def test_made_scarce_splits_keep_as_few_rows_as_the_scarce_cell_types_have():
    obs = lines({"B": 4, "M": 6, "T": 30, "NK": 25})
    pairs = pd.DataFrame({"cell_type": ["B", "M", "M"]})
    splits = made_scarce_splits(obs, pairs, seed=0)
    assert [split.name for split in splits] == ["NK", "T"]
    for split in splits:
        assert not set(split.training) & set(split.held_out)
        assert len(split.training) + len(split.held_out) == len(obs)
        left = obs.iloc[split.training]
        assert (left.cell_type == split.name).sum() == 5 + (5 if split.name == "T" else 0)  # five are T's own
        assert set(obs.iloc[split.held_out].cell_type) == {split.name}
        assert set(obs.iloc[split.held_out].sm_name) <= set(left.sm_name), (
            "a held-out compound is seen elsewhere"
        )
        kept = left[left.cell_type == split.name].sm_name
        assert kept.isin([f"compound {m:02d}" for m in range(6)]).sum() == 5, (
            "the scarce types' compounds first"
        )


def test_made_scarce_splits_are_seeded():
    obs, pairs = lines({"B": 2, "S": 20, "T": 30}), pd.DataFrame({"cell_type": ["B"]})
    obs.loc[obs.cell_type == "B", "sm_name"] = ["elsewhere 1", "elsewhere 2"]  # so that any row may be kept

    def drawn(seed):
        return [tuple(split.held_out) for split in made_scarce_splits(obs, pairs, seed)]

    assert drawn(0) == drawn(0)
    assert len({draw for seed in range(5) for draw in drawn(seed)}) > 5


@pytest.mark.parametrize("cell_types", [["B", "T"], ["new"], []])
def test_pairs_that_no_split_imitates(cell_types):
    with pytest.raises(InputError, match="no split imitates these pairs"):
        made_scarce_splits(lines({"B": 8, "T": 30}), pd.DataFrame({"cell_type": cell_types}, dtype=object), 0)
