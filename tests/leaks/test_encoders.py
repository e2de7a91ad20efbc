"""A row's own targets never enter its own columns, to the last bit, in any path of an encoder but the leaky one."""

import numpy as np
import pytest

from features.target_encoders import LeaveOneOutEncoder, TargetEncoder

ALL = ("mean", "std", "min", "max", "median", "first", "count", "quantile_0.4")
N_ROWS, N_TARGETS = 40, 3
FOLDS = np.random.default_rng(5).permutation(N_ROWS) % 4
ALONE = N_ROWS - 1
"""The row that is alone in its group."""


def example(seed=0):
    rng = np.random.default_rng(seed)
    first = np.array([f"a{g}" for g in rng.integers(0, 8, N_ROWS)], dtype=object)
    first[ALONE] = "alone"
    first[ALONE - 1] = "alone, too"  # its leave-one-out mean is that of all others
    second = np.array([f"b{g}" for g in rng.integers(0, 3, N_ROWS)], dtype=object)
    return {"many": first, "few": second}, rng.normal(size=(N_ROWS, N_TARGETS)).astype(np.float32)


PATHS = {
    "cross_fit": lambda g, Y: TargetEncoder(ALL).cross_fit(g, Y, FOLDS),
    "cross_fit, smoothed": lambda g, Y: TargetEncoder(ALL, smoothing=3.0).cross_fit(g, Y, FOLDS),
    "cross_fit, a fold a row": lambda g, Y: TargetEncoder(ALL).cross_fit(g, Y, np.arange(N_ROWS)),
    "fit_transform": lambda g, Y: TargetEncoder(ALL).fit_transform(g, Y),
    "leave-one-out": lambda g, Y: LeaveOneOutEncoder().fit_transform(g, Y),
    "leave-one-out, noise": lambda g, Y: LeaveOneOutEncoder(0.21).fit_transform(g, Y),
}
LEAKY = {
    "leaky=True": lambda g, Y: TargetEncoder(ALL, leaky=True).fit_transform(g, Y),
    "fit, then transform": lambda g, Y: TargetEncoder(ALL).fit(g, Y).transform(g),
    "leave-one-out, fit, then transform": lambda g, Y: LeaveOneOutEncoder().fit(g, Y).transform(g),
}
GROUPS = pytest.mark.parametrize("groups", ["many", "few"])


def check_no_leak(encode, groups, row, added=1000.0):
    """Change one row's targets; its columns must stay bit for bit, and some others must change."""
    labels, Y = example()
    groups = labels[groups]
    changed = Y.copy()
    changed[row] += added
    before, after = encode(groups, Y), encode(groups, changed)
    assert before.shape[0] == N_ROWS and before.dtype == np.float32 and np.isfinite(before).all()
    assert np.any(after != before), "no column depends on the targets: the check could not fail"
    assert after[row].tobytes() == before[row].tobytes(), "the row's own targets are in its columns"
    return np.flatnonzero((after != before).any(axis=1)), groups


@GROUPS
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("row", [0, 7, 20, ALONE])
@pytest.mark.parametrize("added", [1e3, -1e9])  # the larger would show in the last bits of a difference
def test_own_targets_never_enter_own_columns(path, groups, row, added):
    check_no_leak(PATHS[path], groups, row, added)


@GROUPS
@pytest.mark.parametrize("path", LEAKY)
@pytest.mark.parametrize("row", [0, 7, 20, ALONE])
def test_the_leaky_paths_fail_that_check(path, groups, row):
    with pytest.raises(AssertionError, match="the row's own targets are in its columns"):
        check_no_leak(LEAKY[path], groups, row)


@GROUPS
@pytest.mark.parametrize(
    "encoder", [TargetEncoder(ALL, smoothing=2.0), LeaveOneOutEncoder(0.1)], ids=["folds", "loo"]
)
@pytest.mark.parametrize("row", [0, 7, 20])
def test_replicates_targets_enter_neither_others_columns_if_the_encoder_knows_of_them(groups, encoder, row):
    labels, Y = example()
    changed = Y.copy()
    changed[row] += 1000
    contexts = np.unique([f"{a} {b}" for a, b in zip(*labels.values(), strict=True)], return_inverse=True)[1]
    alike = np.flatnonzero(contexts == contexts[row])
    assert len(alike) > 1
    before, after = (encoder.fit_transform(labels[groups], y, contexts) for y in (Y, changed))
    assert after[alike].tobytes() == before[alike].tobytes() and np.any(after != before)
    before, after = (encoder.fit_transform(labels[groups], y) for y in (Y, changed))
    assert after[alike].tobytes() != before[alike].tobytes(), (
        "not told of replicates it shows them each other"
    )


@GROUPS
@pytest.mark.parametrize("row", [0, 7, 20])
def test_rows_of_the_same_group_in_other_folds_do_change(groups, row):
    moved, labels = check_no_leak(PATHS["cross_fit"], groups, row)
    same_group = labels == labels[row]
    assert set(moved) >= set(np.flatnonzero(same_group & (FOLDS != FOLDS[row])))
    assert not set(moved) & set(np.flatnonzero(FOLDS == FOLDS[row]))


@pytest.mark.parametrize("row", [0, 7, ALONE])
def test_of_a_leave_one_out_encoding_the_rest_of_the_group_and_lone_rows_do_change(row):
    moved, groups = check_no_leak(PATHS["leave-one-out"], "many", row)
    labels = groups.tolist()
    lone = [
        i for i, label in enumerate(labels) if labels.count(label) == 1
    ]  # they have the mean of everyone else
    assert ALONE in lone
    assert set(moved) == {*np.flatnonzero(groups == labels[row]), *lone} - {row}
