"""Leave-one-out encoding: against a naive loop, category_encoders, and never using a row's own target."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from features.targets.encoders import LeaveOneOutEncoder
from rapids_pipeline.backend.errors import InputError


def example(n=40, n_groups=6, n_targets=5, seed=0):
    """Groups of all sizes; the last row is alone in its group."""
    rng = np.random.default_rng(seed)
    groups = np.array([f"g{g}" for g in rng.integers(0, n_groups, n)], dtype=object)
    groups[-1] = "alone"
    return groups, rng.normal(size=(n, n_targets)).astype(np.float32)


def naive(groups, Y):
    encoded = np.empty(Y.shape)
    for i in range(len(Y)):
        for t in range(Y.shape[1]):
            others = [float(Y[j, t]) for j in range(len(Y)) if j != i and groups[j] == groups[i]]
            others = others or [float(Y[j, t]) for j in range(len(Y)) if j != i] or [0.0]
            encoded[i, t] = sum(others) / len(others)
    return encoded


def test_equals_a_naive_loop():
    groups, Y = example()
    encoded = LeaveOneOutEncoder().fit_transform(groups, Y)
    assert encoded.dtype == np.float32
    np.testing.assert_allclose(encoded, naive(groups, Y), rtol=1e-5, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=2, max_size=25), st.integers(0, 2**32 - 1))
def test_equals_a_naive_loop_whatever_the_groups(groups, seed):
    Y = np.random.default_rng(seed).normal(size=(len(groups), 2))
    encoded = LeaveOneOutEncoder().fit_transform(np.array(groups), Y)
    np.testing.assert_allclose(encoded, naive(groups, Y), rtol=1e-5, atol=1e-6)


def test_new_rows_get_their_groups_mean_and_unseen_groups_the_mean_of_all():
    groups, Y = example()
    encoder = LeaveOneOutEncoder().fit(groups, Y)
    encoded = encoder.transform(["g0", "unseen", "alone", "g3"])
    expected = [Y[groups == "g0"].mean(0), Y.mean(0), Y[-1], Y[groups == "g3"].mean(0)]
    np.testing.assert_allclose(encoded, expected, rtol=1e-5, atol=1e-7)


def test_equals_category_encoders():
    category_encoders = pytest.importorskip("category_encoders")
    groups, Y = example()
    shared = groups != "alone"  # groups of one are where the two differ by design
    encoder = LeaveOneOutEncoder()
    training, new = encoder.fit_transform(groups, Y), encoder.transform(["g0", "g5", "unseen"])
    for t in range(Y.shape[1]):
        reference = category_encoders.LeaveOneOutEncoder(cols=["g"])
        frame, target = pd.DataFrame({"g": groups}), pd.Series(Y[:, t].astype(float))
        theirs = reference.fit_transform(frame, target)["g"].to_numpy()
        np.testing.assert_allclose(training[shared, t], theirs[shared], rtol=1e-4, atol=1e-6)
        theirs = reference.transform(pd.DataFrame({"g": ["g0", "g5", "unseen"]}))["g"].to_numpy()
        np.testing.assert_allclose(new[:, t], theirs, rtol=1e-5, atol=1e-7)


def test_noise_multiplies_training_encodings_by_a_seeded_normal_as_category_encoders():
    category_encoders = pytest.importorskip("category_encoders")
    rng = np.random.default_rng(0)
    groups, Y = rng.choice(list("abcdef"), 4000), rng.normal(3.0, 1.0, (4000, 1))
    plain = LeaveOneOutEncoder().fit_transform(groups, Y)
    encoder = LeaveOneOutEncoder(sigma=0.21, random_state=4)
    noise = (encoder.fit_transform(groups, Y) / plain)[:, 0]
    frame, target = pd.DataFrame({"g": groups}), pd.Series(Y[:, 0])
    reference = category_encoders.LeaveOneOutEncoder(cols=["g"], sigma=0.21, random_state=4)
    theirs = reference.fit_transform(frame, target)["g"].to_numpy() / plain[:, 0]
    for ratio in (noise, theirs):
        assert ratio.mean() == pytest.approx(1.0, abs=0.02)
        assert ratio.std() == pytest.approx(0.21, rel=0.05)
    np.testing.assert_array_equal(
        encoder.transform(["a", "b"]), LeaveOneOutEncoder().fit(groups, Y).transform(["a", "b"])
    )


def test_noise_is_one_draw_an_entry_and_depends_on_the_seed_only():
    groups, Y = example()
    first, again, other = (
        LeaveOneOutEncoder(sigma=0.2, random_state=seed).fit_transform(groups, Y) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.all(first != other)
    ratio = first / LeaveOneOutEncoder().fit_transform(groups, Y)
    assert len(np.unique(ratio)) == ratio.size


@pytest.mark.parametrize("sigma", [0.0, 0.21])
@pytest.mark.parametrize("row", [0, 7, 20, 38, 39])
@pytest.mark.parametrize("added", [1e3, 1e9])  # the larger shows a subtraction from a float64 total
def test_a_rows_own_target_never_enters_its_encoding(row, sigma, added):
    groups, Y = example()
    encoder = LeaveOneOutEncoder(sigma)
    before = encoder.fit_transform(groups, Y)
    changed = Y.copy()
    changed[row] += added
    after = encoder.fit_transform(groups, changed)
    assert after[row].tobytes() == before[row].tobytes()
    of_group = np.flatnonzero((groups == groups[row]) & (np.arange(len(Y)) != row))
    alone = groups == "alone" if row != 39 else np.zeros(40, dtype=bool)  # it gets the mean of everyone else
    assert np.all(after[of_group] != before[of_group])
    assert np.all(after[alone] != before[alone])
    untouched = np.setdiff1d(np.arange(40), [*of_group, row, *np.flatnonzero(alone)])
    assert after[untouched].tobytes() == before[untouched].tobytes()


def test_subtracting_the_own_target_from_a_total_would_fail_that_test():
    groups, Y = example()
    rounded = []
    for added in (0, 1000):
        changed = Y.copy()
        changed[0] += added
        total = changed[groups == groups[0]].sum(axis=0, dtype=np.float32)
        rounded.append((total - changed[0]).tobytes())
    assert rounded[0] != rounded[1]


def test_order_of_rows_and_of_targets_follows():
    groups, Y = example()
    rng = np.random.default_rng(2)
    rows, targets = rng.permutation(40), rng.permutation(5)
    expected = LeaveOneOutEncoder().fit_transform(groups, Y)[np.ix_(rows, targets)]
    found = LeaveOneOutEncoder().fit_transform(groups[rows], Y[np.ix_(rows, targets)])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_one_row_alone_equals_its_row_in_a_batch():
    groups, Y = example()
    encoder = LeaveOneOutEncoder().fit(groups, Y)
    batch = encoder.transform(groups)
    assert np.vstack([encoder.transform([group]) for group in groups]).tobytes() == batch.tobytes()


def test_a_single_training_row_has_no_others():
    np.testing.assert_array_equal(LeaveOneOutEncoder().fit_transform(["a"], [[5.0]]), [[0.0]])


def test_refusals():
    with pytest.raises(ValueError, match=r"one group a row of Y: \(2,\) groups, Y of shape \(3, 1\)"):
        LeaveOneOutEncoder().fit(["a", "b"], np.ones((3, 1)))
    with pytest.raises(ValueError, match="one group a row"):
        LeaveOneOutEncoder().fit([], np.ones((0, 1)))
    with pytest.raises(InputError, match=r"Y must be \(n, n_targets\)"):
        LeaveOneOutEncoder().fit(["a"], np.ones((1, 1, 1)))
    with pytest.raises(InputError, match="one column of groups, not 2"):
        LeaveOneOutEncoder().fit([["a", "b"]], np.ones((1, 1)))
    with pytest.raises(InputError, match=r"row 1 .* target target2: nan is no finite number"):
        LeaveOneOutEncoder().fit(["a", "b"], [[1, 2, 3], [4, 5, np.nan]])
    with pytest.raises(InputError, match=r"row 0 .* has no group"):
        LeaveOneOutEncoder().fit(["a"], np.ones((1, 1))).transform([np.nan])
    with pytest.raises(ValueError, match=r"row 1 .* has no group"):
        LeaveOneOutEncoder().fit(["a", None], np.ones((2, 1)))
    with pytest.raises(NotFittedError):
        LeaveOneOutEncoder().transform(["a"])


def test_fit_leaves_parameters_alone():
    groups, Y = example()
    encoder = LeaveOneOutEncoder(sigma=0.1, random_state=3)
    encoder.fit_transform(groups, Y)
    assert encoder.get_params() == clone(encoder).get_params() == {"sigma": 0.1, "random_state": 3}


def test_kinds_of_input():
    groups, Y = example()
    obs, genes = pd.DataFrame({"sm_name": groups}), pd.DataFrame(Y, columns=list("ABCDE"))
    encoder = LeaveOneOutEncoder()
    expected = encoder.fit_transform(groups, Y)
    for labels in (obs, obs["sm_name"], groups[:, None]):
        assert encoder.fit_transform(labels, genes).tobytes() == expected.tobytes()
    assert encoder.transform(groups[:0]).shape == (0, 5)
    alone = LeaveOneOutEncoder().fit_transform(groups, Y[:, 3])
    np.testing.assert_allclose(alone, expected[:, 3:4], rtol=1e-6)


@pytest.mark.parametrize("column", ["cell_type", "sm_name"])
def test_equals_pandas_on_real_data(shared_data, column):
    frame = pd.read_parquet(shared_data / "lincs_lung" / "de_train.parquet")
    Y = frame.iloc[:, 5:]
    found = LeaveOneOutEncoder().fit_transform(frame[column], Y)
    grouped = Y.astype(np.float64).groupby(frame[column])
    sums, sizes = grouped.transform("sum"), frame[column].map(frame[column].value_counts())
    shared = (sizes > 1).to_numpy()
    theirs = ((sums - Y)[shared].to_numpy()) / (sizes[shared].to_numpy()[:, None] - 1)
    np.testing.assert_allclose(found[shared], theirs, rtol=1e-4, atol=1e-5)
    others = (Y.astype(np.float64).sum() - Y[~shared]) / (len(Y) - 1)
    np.testing.assert_allclose(found[~shared], others, rtol=1e-4, atol=1e-5)
    assert shared.all() == (column == "cell_type")
