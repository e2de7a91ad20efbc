"""Leave-one-out encoding: against a naive loop, category_encoders, and never using a row's own target."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.target_encoders import LeaveOneOutEncoder


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


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=2, max_size=25), st.integers(0, 2**32 - 1))
def test_equals_a_naive_loop_whatever_the_groups(groups, seed):
    Y = np.random.default_rng(seed).normal(size=(len(groups), 2)).astype(np.float32)
    encoded = LeaveOneOutEncoder().fit_transform(np.array(groups), Y)
    assert encoded.dtype == np.float32
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
    without = LeaveOneOutEncoder().fit(groups, Y)
    np.testing.assert_array_equal(encoder.transform(["a", "b"]), without.transform(["a", "b"]))


def test_noise_is_one_draw_an_entry_and_depends_on_the_seed_only():
    groups, Y = example()
    first, again, other = (
        LeaveOneOutEncoder(sigma=0.2, random_state=seed).fit_transform(groups, Y) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.all(first != other)
    ratio = first / LeaveOneOutEncoder().fit_transform(groups, Y)
    assert len(np.unique(ratio)) == ratio.size


def test_order_of_rows_and_of_targets_follows():
    groups, Y = example()
    rng = np.random.default_rng(2)
    rows, targets = rng.permutation(40), rng.permutation(5)
    expected = LeaveOneOutEncoder().fit_transform(groups, Y)[np.ix_(rows, targets)]
    found = LeaveOneOutEncoder().fit_transform(groups[rows], Y[np.ix_(rows, targets)])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_a_single_training_row_has_no_others():
    np.testing.assert_array_equal(LeaveOneOutEncoder().fit_transform(["a"], [[5.0]]), [[0.0]])


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
