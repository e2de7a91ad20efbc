"""Statistics of groups: against naive loops, pandas on real data, and what must not change them."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import group_statistics as module
from features.group_statistics import checked_statistics, group_statistics, sums_of_others
from rapids_pipeline.backend.errors import InputError

ALL = (
    *("mean", "std", "min", "max", "median", "first", "count"),
    *("quantile_0", "quantile_0.25", "quantile_0.4", "quantile_.9", "quantile_1"),
)
PUBLISHED = ("mean", "min", "max", "median", "first", "quantile_0.4")


def naive_quantile(values, q):
    values = sorted(values)
    place = q * (len(values) - 1)
    low = min(int(place), max(len(values) - 2, 0))
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


def naive_one(values, name):
    """One statistic of a list of Python floats."""
    mean = sum(values) / len(values)
    plain = {
        "mean": mean,
        "std": (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5,
        "min": min(values),
        "max": max(values),
        "first": values[0],
        "count": len(values),
        "median": naive_quantile(values, 0.5),
    }
    return plain[name] if name in plain else naive_quantile(values, float(name.split("_")[1]))


def naive(Y, codes, n_levels, names):
    tables = np.full((n_levels, len(names), Y.shape[1]), np.nan)
    for level in range(n_levels):
        for position, name in enumerate(names):
            for t in range(Y.shape[1]):
                values = [float(Y[i, t]) for i in range(len(Y)) if codes[i] == level]
                if values or name == "count":
                    tables[level, position, t] = naive_one(values, name) if values else 0
    return tables


def example(sizes, n_targets=7, seed=0, dtype=np.float32):
    """Rows of groups of the sizes, shuffled, some rows in none."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.repeat(np.arange(-1, len(sizes)), [5, *sizes]))
    return rng.normal(size=(len(codes), n_targets)).astype(dtype), codes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_a_naive_loop_for_groups_of_all_sizes(dtype):
    sizes = [*range(12), 40, 3, 3, 9, 1]  # on both sides of SMALL_GROUP; the first has no rows
    Y, codes = example(sizes, dtype=dtype)
    found = group_statistics(Y, codes, len(sizes), ALL)
    assert found.dtype == np.float32 and found.shape == (len(sizes), len(ALL), 7)
    np.testing.assert_allclose(found, naive(Y, codes, len(sizes), ALL), rtol=1e-6, atol=1e-7)
    assert np.isnan(found[0, 0]).all() and not np.isnan(found[1:]).any()


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(-1, 5), min_size=1, max_size=30),
    st.lists(st.sampled_from(ALL), min_size=1, unique=True),
    st.floats(0, 1, allow_subnormal=False),
    st.integers(0, 2**32 - 1),
)
def test_equals_a_naive_loop_whatever_the_groups(codes, names, share, seed):
    Y = np.random.default_rng(seed).integers(-3, 4, size=(len(codes), 3)).astype(np.float32)  # with ties
    names = [*names, f"quantile_{share:.7f}"]
    found = group_statistics(Y, np.array(codes), 6, names)
    np.testing.assert_allclose(found, naive(Y, codes, 6, names), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("column", ["cell_type", "sm_name"])
def test_equals_pandas_on_real_data(shared_data, column):
    frame = pd.read_parquet(shared_data / "lincs_lung" / "de_train.parquet")
    genes = frame.columns[5:]
    codes, levels = pd.factorize(frame[column], sort=True)
    found = group_statistics(frame[genes].to_numpy(), codes, len(levels), ALL)
    grouped = frame[genes].astype(np.float64).groupby(codes)
    for position, name in enumerate(ALL):
        theirs = {
            "std": lambda: grouped.std(ddof=0),
            "count": grouped.count,
            **{plain: getattr(grouped, plain) for plain in ("mean", "min", "max", "median", "first")},
        }.get(name, lambda name=name: grouped.quantile(float(name.split("_")[-1])))()
        np.testing.assert_allclose(found[:, position], theirs.to_numpy(), rtol=1e-5, atol=1e-6, err_msg=name)


def test_blocks_of_targets_and_other_statistics_do_not_matter(monkeypatch):
    sizes = [1, 2, 2, 9, 30]
    Y, codes = example(sizes, n_targets=40)
    together = group_statistics(Y, codes, 5, ALL)
    for t in (0, 17, 39):
        assert group_statistics(Y[:, t : t + 1], codes, 5, ALL).tobytes() == together[:, :, t].tobytes()
    for position, name in enumerate(ALL):
        assert group_statistics(Y, codes, 5, (name,)).tobytes() == together[:, position].tobytes()
    monkeypatch.setattr(module, "BLOCK_SIZE", 1)
    monkeypatch.setattr(module, "MIN_WIDTH", 3)
    assert group_statistics(Y, codes, 5, ALL).tobytes() == together.tobytes()
    monkeypatch.setattr(module, "SMALL_GROUP", 50)
    assert group_statistics(Y, codes, 5, ALL).tobytes() == together.tobytes()


def test_other_groups_and_rows_in_none_do_not_matter():
    Y, codes = example([4, 12, 7])
    changed = Y.copy()
    changed[(codes == 1) | (codes < 0)] += 1000
    before, after = group_statistics(Y, codes, 3, ALL), group_statistics(changed, codes, 3, ALL)
    assert after[[0, 2]].tobytes() == before[[0, 2]].tobytes()
    moved = np.isin(ALL, ["count", "std"], invert=True)
    assert np.all(after[1, moved] > before[1, moved] + 999)


def test_the_input_is_left_as_it_was():
    Y, codes = example([4, 12, 7])
    kept = Y.copy(), codes.copy()
    group_statistics(Y, codes, 3, ALL)
    assert Y.tobytes() == kept[0].tobytes() and codes.tobytes() == kept[1].tobytes()


def test_means_are_summed_in_float64():
    Y = np.full((1001, 1), 0.1, dtype=np.float32)
    Y[0] = 2.0**24  # float32 has whole numbers only from here on
    found = group_statistics(Y, np.zeros(1001, dtype=int), 1, ("mean",))
    assert found[0, 0, 0] == np.float32(Y.astype(np.float64).mean())
    total = np.float32(0)
    for value in Y[:, 0]:
        total += value
    assert total / np.float32(1001) != found[0, 0, 0]


def test_no_rows_and_no_targets():
    assert np.isnan(group_statistics(np.empty((0, 2), np.float32), np.empty(0, int), 2, ("mean",))).all()
    assert group_statistics(np.empty((3, 0), np.float32), np.zeros(3, int), 2, PUBLISHED).shape == (2, 6, 0)


@pytest.mark.parametrize(
    "name", ["men", "quantile", "quantile_", "quantile_1.1", "quantile_-0.1", "quantile_nan", "quantile_0_1"]
)
def test_unknown_statistics_are_refused_with_those_there_are(name):
    with pytest.raises(InputError, match=f"no statistic '{name}'; choose among mean, std, .*quantile_q"):
        checked_statistics(["mean", name])


def test_refusals():
    assert checked_statistics("quantile_.5") == ("quantile_.5",)
    with pytest.raises(InputError, match=r"name every statistic once.*: mean, max, mean"):
        checked_statistics(["mean", "max", "mean"])
    with pytest.raises(InputError, match="none named"):
        checked_statistics([])
    Y = np.ones((3, 2))
    for codes, n_levels in (([0, 1], 2), ([0, 1, 2], 2), ([[0], [1], [1]], 2)):
        with pytest.raises(InputError, match=f"one code below {n_levels} a row"):
            group_statistics(Y, np.array(codes), n_levels, ("mean",))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=25), st.integers(0, 2**32 - 1))
def test_sums_of_others_equal_a_naive_loop(codes, seed):
    Y = np.random.default_rng(seed).normal(size=(len(codes), 2))
    expected = [
        [sum(Y[j, t] for j in range(len(Y)) if j != i and codes[j] == codes[i]) for t in (0, 1)]
        for i in range(len(Y))
    ]
    np.testing.assert_allclose(sums_of_others(Y, np.array(codes)), expected, rtol=1e-12, atol=1e-12)
