"""Target encoding: against naive loops, scikit-learn and category_encoders; what it takes and refuses."""

import inspect

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import KFold
from sklearn.preprocessing import TargetEncoder as SklearnTargetEncoder

from features.target_encoders import LeaveOneOutEncoder, TargetEncoder
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.evaluation.splits import random_folds

ALL = ("mean", "std", "min", "max", "median", "first", "count", "quantile_0.4")
NUMPY = {
    "mean": lambda y: y.mean(0),
    "std": lambda y: y.std(0),
    "min": lambda y: y.min(0),
    "max": lambda y: y.max(0),
    "median": lambda y: np.median(y, 0),
    "first": lambda y: y[0],
    "count": lambda y: np.full(y.shape[1], float(len(y))),
    "quantile_0.4": lambda y: np.quantile(y, 0.4, axis=0),
}


COLUMNS = pytest.mark.parametrize("column", ["sm_name", "cell_type"])


def example(column="sm_name", n=60, n_targets=4, seed=0):
    """Labels of many groups or of few; one of the many is that of a single row."""
    rng = np.random.default_rng(seed)
    labels = {
        "sm_name": [*(f"m{g:02d}" for g in rng.integers(0, 9, n - 1)), "alone"],
        "cell_type": rng.choice(["B", "T", "NK"], n),
    }
    Y = rng.normal(size=(n, n_targets)).astype(np.float32)
    return pd.Series(labels[column], name=column, dtype=object), Y


NEW = {"sm_name": ["m03", "alone", "new"], "cell_type": ["B", "other", "T"]}


def naive_row(label, groups, Y, names, smoothing=0.0):
    """The columns of a row with the label, from the rows of groups (n,) and Y."""
    found, Y = [], np.asarray(Y, dtype=np.float64)
    members = Y[np.asarray(groups) == label]
    for name in names:
        overall, own = NUMPY[name](Y), NUMPY[name](members) if len(members) else 0.0
        drawn = (len(members) * own + smoothing * overall) / max(len(members) + smoothing, 1e-300)
        found.append(drawn if len(members) else overall)
        if name == "count":
            found[-1] = np.full(Y.shape[1], float(len(members)))
    return np.concatenate(found)


def naive_cross_fit(groups, Y, folds, names, smoothing=0.0):
    groups, rows = np.asarray(groups), []
    for i in range(len(Y)):
        others = folds != folds[i]
        rows.append(naive_row(groups[i], groups[others], Y[others], names, smoothing))
    return np.array(rows)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), min_size=4, max_size=25),
    st.floats(0, 20, allow_subnormal=False),
    st.integers(0, 2**32 - 1),
)
def test_equals_a_naive_loop_whatever_the_groups(rows, smoothing, seed):
    groups, folds = (np.array(values) for values in zip(*rows, strict=True))
    folds[:2] = 0, 1
    Y, new = np.random.default_rng(seed).normal(size=(len(rows), 2)).astype(np.float32), ["a", "d", "new"]
    encoder = TargetEncoder(ALL, smoothing=smoothing)
    training, found = encoder.cross_fit(groups, Y, folds), encoder.transform(new)
    assert training.dtype == found.dtype == np.float32 and training.shape == (len(rows), 8 * 2)
    expected = naive_cross_fit(groups, Y, folds, ALL, smoothing)
    np.testing.assert_allclose(training, expected, rtol=1e-5, atol=1e-6)
    expected = [naive_row(label, groups, Y, ALL, smoothing) for label in new]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert encoder.fit(groups, Y).transform(new).tobytes() == found.tobytes()


def sklearns(smooth):
    """Return scikit-learn's encoder with the folds of a KFold(5, shuffle=True, random_state=3)."""
    newer = inspect.signature(SklearnTargetEncoder).parameters["shuffle"].default == "deprecated"
    folds = {"cv": KFold(5, shuffle=True, random_state=3)} if newer else {"cv": 5, "random_state": 3}
    return SklearnTargetEncoder(target_type="continuous", smooth=smooth, **folds)


@COLUMNS
@pytest.mark.parametrize("smooth", [0.0, 1.0, 25.0])
def test_equals_scikit_learn_fitted_and_cross_fitted(column, smooth):
    groups, Y = example(column)
    folds = np.empty(60, dtype=int)
    for k, (_, test) in enumerate(KFold(5, shuffle=True, random_state=3).split(Y)):
        folds[test] = k
    ours = TargetEncoder(smoothing=smooth)
    training, new = ours.cross_fit(groups, Y, folds), ours.transform(NEW[column])
    for t, y in enumerate(Y.astype(np.float64).T):
        theirs = sklearns(smooth)
        expected = theirs.fit_transform(groups.to_frame(), y)
        np.testing.assert_allclose(training[:, [t]], expected, rtol=1e-5, atol=1e-6)
        expected = theirs.transform(pd.DataFrame({column: NEW[column]}))
        np.testing.assert_allclose(new[:, [t]], expected, rtol=1e-5, atol=1e-6)


def test_without_folds_they_are_random_seeded_and_balanced():
    groups, Y = example()
    found = TargetEncoder(n_folds=4, random_state=7).fit_transform(groups, Y)
    assert found.tobytes() == TargetEncoder().cross_fit(groups, Y, random_folds(60, 4, 7)).tobytes()
    assert found.tobytes() == TargetEncoder(n_folds=4, random_state=7).fit_transform(groups, Y).tobytes()
    assert found.tobytes() != TargetEncoder(n_folds=4, random_state=8).fit_transform(groups, Y).tobytes()
    few = TargetEncoder(n_folds=5).fit_transform(groups[:3], Y[:3])  # more folds than rows: one a row
    assert few.tobytes() == TargetEncoder().cross_fit(groups[:3], Y[:3], [0, 1, 2]).tobytes()


def test_replicates_are_in_one_of_these_folds():
    groups, Y = example()
    replicates = np.concatenate([np.arange(40), np.arange(20)])
    found = TargetEncoder(ALL, n_folds=4, random_state=7).fit_transform(groups, Y, replicates)
    folds = random_folds(40, 4, 7)[replicates]
    assert found.tobytes() == TargetEncoder(ALL).cross_fit(groups, Y, folds).tobytes()
    without = TargetEncoder(ALL, random_state=7).fit_transform(groups, Y)
    assert (
        TargetEncoder(ALL, random_state=7).fit_transform(groups, Y, np.arange(60)).tobytes()
        == without.tobytes()
    )


def test_leaky_gives_training_rows_what_new_rows_get():
    groups, Y = example()
    encoder, plain, folds = TargetEncoder(ALL, leaky=True), TargetEncoder(ALL), np.arange(60) % 2
    assert encoder.fit_transform(groups, Y).tobytes() == plain.fit(groups, Y).transform(groups).tobytes()
    assert encoder.cross_fit(groups, Y, folds).tobytes() == plain.cross_fit(groups, Y, folds).tobytes()


@pytest.mark.parametrize("encoder", [TargetEncoder(ALL), LeaveOneOutEncoder()])
def test_one_row_or_target_alone_equals_its_part_of_a_batch(encoder):
    groups, Y = example()
    batch = encoder.fit(groups, Y).transform(groups)
    assert np.vstack([encoder.transform(groups[i : i + 1]) for i in range(60)]).tobytes() == batch.tobytes()
    alone = encoder.fit(groups, Y[:, 2]).transform(groups)
    assert alone.tobytes() == batch.reshape(60, -1, 4)[:, :, 2].tobytes()


@pytest.mark.parametrize("encoder", [TargetEncoder(("mean", "max")), LeaveOneOutEncoder()])
def test_kinds_of_input(encoder):
    groups, Y = example()
    expected = encoder.fit(groups, Y).transform(groups)
    for labels in (groups.to_numpy(), groups.tolist(), groups.astype("category"), groups.astype("string")):
        assert encoder.transform(labels).tobytes() == expected.tobytes()
        for targets in (pd.DataFrame(Y, columns=["A1BG", "A1CF", "A2M", "A2MP1"]), Y.astype(np.float64)):
            assert encoder.fit(labels, targets).transform(groups).tobytes() == expected.tobytes()
    assert encoder.transform([]).shape == (0, expected.shape[1])
    numbers = encoder.fit([3, 4, 4], [1, 2, 4]).transform([4, 5])
    assert numbers[:, 0].tolist() == [3.0, np.float32(7 / 3)]


@pytest.mark.parametrize(
    ("encoder", "parameters"),
    [
        (
            TargetEncoder(["mean", "max"], smoothing=2, n_folds=3, random_state=5),
            {"statistics": ["mean", "max"], "smoothing": 2, "n_folds": 3, "random_state": 5, "leaky": False},
        ),
        (LeaveOneOutEncoder(sigma=0.1, random_state=3), {"sigma": 0.1, "random_state": 3}),
    ],
)
def test_parameters_are_left_alone_and_nothing_works_before_fit(encoder, parameters):
    encoder.fit_transform(*example())
    assert encoder.get_params() == clone(encoder).get_params() == parameters
    for call in (lambda: clone(encoder).transform(["a"]), clone(encoder).state):
        with pytest.raises(NotFittedError):
            call()


def broken(Y, value):
    Y = Y.copy()
    Y[7, 2] = value
    return Y


def named(Y):
    return pd.DataFrame(Y, columns=list("ABCD"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda g, Y: TargetEncoder().fit(g, Y[:-1]),
            r"one group a row of Y: \(60,\) groups, Y of shape \(59",
        ),
        (lambda g, Y: TargetEncoder().fit([], Y[:0]), "one group a row of Y"),
        (lambda g, Y: TargetEncoder().fit(g, broken(Y, np.nan)), "row 7 .* target target2: nan is no"),
        (lambda g, Y: TargetEncoder().fit(g, broken(Y, -np.inf)), "row 7 .* target target2: -inf is"),
        (lambda g, Y: LeaveOneOutEncoder().fit(g, named(broken(Y, np.nan))), "row 7 .* target C: nan is no"),
        (lambda g, Y: TargetEncoder().fit(g.where(g.index != 5), Y), "row 5 .* no group.* column sm_name"),
        (lambda g, Y: TargetEncoder().fit(g, Y).transform(g.where(g.index != 5, None)), "row 5 .* no group"),
        (
            lambda g, Y: TargetEncoder().fit(pd.concat([g, g], axis=1), Y),
            r"one label a row, \(n,\), not \(60, 2\)",
        ),
        (lambda g, Y: TargetEncoder().fit(g, Y[:, :, None]), r"must be \(n, n_targets\)"),
        (lambda g, Y: TargetEncoder().fit(g, np.full((60, 1), "high")), "Y must hold numbers"),
        (lambda g, Y: TargetEncoder(("mode",)).fit(g, Y), "no statistic 'mode'"),
        *(
            (lambda g, Y, x=x: TargetEncoder(smoothing=x).fit(g, Y), f"smoothing must be .* not {x}")
            for x in (-0.1, np.inf, np.nan)
        ),
        (lambda g, Y: TargetEncoder().cross_fit(g, Y, np.zeros(60, int)), "all rows are in one fold"),
        (lambda g, Y: TargetEncoder().cross_fit(g, Y, np.arange(59)), r"folds of shape \(59,\)"),
        (lambda g, Y: TargetEncoder().cross_fit(g, Y, np.ones(60) / 2), "one whole number for each of 60"),
        (lambda g, Y: TargetEncoder().fit_transform(g[:1], Y[:1]), "1 rows in 5 folds: needs at least 2"),
        (lambda g, Y: TargetEncoder(n_folds=1).fit_transform(g, Y), "60 rows in 1 folds: needs at least 2"),
    ],
)
def test_refusals_are_one_line(make, message):
    with pytest.raises(InputError, match=message) as refused:
        make(*example())
    assert "\n" not in str(refused.value)


def test_a_fit_that_fails_leaves_the_encoder_as_it_was():
    groups, Y = example()
    encoder = TargetEncoder()
    with pytest.raises(InputError):
        encoder.set_params(smoothing=-1).fit(groups, Y)
    with pytest.raises(NotFittedError):
        encoder.transform(groups)


# --- leave-one-out ------------------------------------------------------------------------------------------


def naive_leave_one_out(groups, Y, replicates):
    encoded = np.empty(Y.shape)
    for i in range(len(Y)):
        for t in range(Y.shape[1]):
            apart = [j for j in range(len(Y)) if replicates[j] != replicates[i]]
            others = [float(Y[j, t]) for j in apart if groups[j] == groups[i]]
            others = others or [float(Y[j, t]) for j in apart] or [0.0]
            encoded[i, t] = sum(others) / len(others)
    return encoded


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=2, max_size=25), st.integers(0, 2**32 - 1))
def test_leave_one_out_equals_a_naive_loop_whatever_the_groups(groups, seed):
    Y = np.random.default_rng(seed).normal(size=(len(groups), 2)).astype(np.float32)
    encoded = LeaveOneOutEncoder().fit_transform(np.array(groups), Y)
    assert encoded.dtype == np.float32
    np.testing.assert_allclose(encoded, naive_leave_one_out(groups, Y, range(len(Y))), rtol=1e-5, atol=1e-6)
    apart = LeaveOneOutEncoder().fit_transform(np.array(groups), Y, np.arange(len(Y)))
    assert apart.tobytes() == encoded.tobytes()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 2)), min_size=2, max_size=25),
    st.integers(0, 2**32 - 1),
)
def test_leave_one_out_leaves_replicates_out_as_a_naive_loop_does(contexts, seed):
    Y = np.random.default_rng(seed).normal(size=(len(contexts), 2)).astype(np.float32)
    groups, replicates = [group for group, _ in contexts], pd.factorize(np.array(list(map(str, contexts))))[0]
    encoded = LeaveOneOutEncoder().fit_transform(np.array(groups), Y, replicates)
    np.testing.assert_allclose(encoded, naive_leave_one_out(groups, Y, replicates), rtol=1e-5, atol=1e-6)


def test_new_rows_get_their_groups_mean_and_unseen_groups_the_mean_of_all():
    groups, Y = example()
    encoder = LeaveOneOutEncoder().fit(groups, Y)
    encoded = encoder.transform(["m00", "unseen", "alone", "m03"])
    expected = [Y[groups == "m00"].mean(0), Y.mean(0), Y[-1], Y[groups == "m03"].mean(0)]
    np.testing.assert_allclose(encoded, expected, rtol=1e-5, atol=1e-7)


def test_leave_one_out_equals_category_encoders():
    category_encoders = pytest.importorskip("category_encoders")
    groups, Y = example()
    shared = groups != "alone"  # groups of one are where the two differ by design
    encoder = LeaveOneOutEncoder()
    training, new = encoder.fit_transform(groups, Y), encoder.transform(["m00", "m05", "unseen"])
    for t in range(Y.shape[1]):
        reference = category_encoders.LeaveOneOutEncoder(cols=["g"])
        frame, target = pd.DataFrame({"g": groups}), pd.Series(Y[:, t].astype(float))
        theirs = reference.fit_transform(frame, target)["g"].to_numpy()
        np.testing.assert_allclose(training[shared, t], theirs[shared], rtol=1e-4, atol=1e-6)
        theirs = reference.transform(pd.DataFrame({"g": ["m00", "m05", "unseen"]}))["g"].to_numpy()
        np.testing.assert_allclose(new[:, t], theirs, rtol=1e-5, atol=1e-7)


def test_a_single_training_row_has_no_others():
    np.testing.assert_array_equal(LeaveOneOutEncoder().fit_transform(["a"], [[5.0]]), [[0.0]])


def test_noise_multiplies_training_encodings_by_a_seeded_normal_one_draw_an_entry():
    rng = np.random.default_rng(0)
    groups, Y = rng.choice(list("abcdef"), 4000), rng.normal(3.0, 1.0, (4000, 1))
    encoder = LeaveOneOutEncoder(sigma=0.21, random_state=4)
    first, again, other = (
        clone(encoder).set_params(random_state=seed).fit_transform(groups, Y) for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(first, again)
    assert np.mean(first != other) > 0.99
    ratio = first / LeaveOneOutEncoder().fit_transform(groups, Y)
    assert len(np.unique(ratio)) > 0.99 * ratio.size
    assert ratio.mean() == pytest.approx(1.0, abs=0.02) and ratio.std() == pytest.approx(0.21, rel=0.05)
    without = LeaveOneOutEncoder().fit(groups, Y)
    np.testing.assert_array_equal(encoder.fit(groups, Y).transform(["a", "b"]), without.transform(["a", "b"]))


# --- in scikit-learn's hands ------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", [TargetEncoder(("mean", "std"), n_folds=3), LeaveOneOutEncoder()])
@pytest.mark.parametrize("columns", ["cell_type", ["cell_type"]])
def test_encoders_work_in_a_column_transformer(encoder, columns):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"cell_type": rng.choice(list("ABC"), 30), "other": rng.normal(size=30)}, index=range(5, 35)
    )
    Y = rng.normal(size=(30, 2))
    made = ColumnTransformer([("groups", encoder, columns)], remainder="passthrough")
    plain = made.fit_transform(frame, Y)
    np.testing.assert_array_equal(plain[:, :-1], encoder.fit_transform(frame["cell_type"], Y))
    framed = made.set_output(transform="pandas").fit_transform(frame, Y)
    statistics = encoder.statistics_ if hasattr(encoder, "statistics_") else ("mean",)
    names = [f"groups__cell_type_{statistic}_{target}" for statistic in statistics for target in (0, 1)]
    assert list(framed.columns) == [*names, "remainder__other"] and list(framed.index) == list(frame.index)
    np.testing.assert_array_equal(
        made.transform(frame)[names], encoder.fit(frame["cell_type"], Y).transform(frame["cell_type"])
    )


def test_several_columns_are_refused():
    with pytest.raises(InputError, match=r"groups must be one label a row, \(n,\), not \(2, 2\)"):
        TargetEncoder().fit(pd.DataFrame({"a": ["x", "y"], "b": ["x", "y"]}), [[1.0], [2.0]])
