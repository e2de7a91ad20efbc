"""Target encoding: against naive loops, scikit-learn, category_encoders and pandas; what it takes and refuses."""

import inspect

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import KFold
from sklearn.preprocessing import TargetEncoder as SklearnTargetEncoder

from features.targets.encoders import LeaveOneOutEncoder, TargetEncoder
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


def example(n=60, n_targets=4, seed=0):
    """Two columns of groups; one label of the first is that of a single row."""
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {
            "sm_name": [f"m{g:02d}" for g in rng.integers(0, 9, n)],
            "cell_type": rng.choice(["B", "T", "NK"], n),
        }
    )
    obs.loc[n - 1, "sm_name"] = "alone"
    return obs, rng.normal(size=(n, n_targets)).astype(np.float32)


def naive_row(labels, groups, Y, names, smoothing=0.0):
    """The columns of a row with the labels, from the rows of groups (n, n_columns) and Y."""
    found, Y = [], np.asarray(Y, dtype=np.float64)
    for column, label in enumerate(labels):
        members = Y[groups[:, column] == label]
        for name in names:
            overall, own = NUMPY[name](Y), NUMPY[name](members) if len(members) else 0.0
            drawn = (len(members) * own + smoothing * overall) / max(len(members) + smoothing, 1e-300)
            found.append(drawn if len(members) else overall)
            if name == "count":
                found[-1] = np.full(Y.shape[1], float(len(members)))
    return np.concatenate(found)


def naive_cross_fit(groups, Y, folds, names, smoothing=0.0):
    rows = []
    for i in range(len(Y)):
        others = folds != folds[i]
        rows.append(naive_row(groups[i], groups[others], Y[others], names, smoothing))
    return np.array(rows)


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 10.0])
def test_equals_a_naive_loop(smoothing):
    obs, Y = example()
    groups, folds = obs.to_numpy(object), np.arange(60) % 3
    encoder = TargetEncoder(ALL, smoothing=smoothing)
    training = encoder.cross_fit(obs, Y, folds)
    assert training.dtype == np.float32 and training.shape == (60, 2 * 8 * 4)
    np.testing.assert_allclose(
        training, naive_cross_fit(groups, Y, folds, ALL, smoothing), rtol=1e-5, atol=1e-6
    )
    new = pd.DataFrame({"sm_name": ["m03", "alone", "new", "m01"], "cell_type": ["B", "T", "NK", "other"]})
    expected = [naive_row(row, groups, Y, ALL, smoothing) for row in new.to_numpy(object)]
    np.testing.assert_allclose(encoder.transform(new), expected, rtol=1e-5, atol=1e-6)
    assert encoder.transform(new).dtype == np.float32
    refitted = TargetEncoder(ALL, smoothing=smoothing).fit(obs, Y)
    assert refitted.transform(new).tobytes() == encoder.transform(new).tobytes()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from("xy"), st.integers(0, 3)), min_size=4, max_size=25
    ),
    st.floats(0, 20, allow_subnormal=False),
    st.integers(0, 2**32 - 1),
)
def test_equals_a_naive_loop_whatever_the_groups(rows, smoothing, seed):
    folds = np.array([fold for _, _, fold in rows])
    folds[:2] = 0, 1
    groups = np.array([labels for *labels, _ in rows], dtype=object)
    Y = np.random.default_rng(seed).normal(size=(len(rows), 2))
    found = TargetEncoder(ALL, smoothing=smoothing).cross_fit(groups, Y, folds)
    expected = naive_cross_fit(groups, Y, folds, ALL, smoothing)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_equals_pandas_on_real_data(shared_data):
    frame = pd.read_parquet(shared_data / "lincs_lung" / "de_train.parquet")
    obs, Y = frame[["cell_type", "sm_name"]], frame.iloc[:, 5:]
    folds = random_folds(len(frame), 5, 0)
    names = ("mean", "min", "max", "median", "first", "quantile_0.4")
    encoder = TargetEncoder(names)
    found = encoder.cross_fit(obs, Y, folds).reshape(len(frame), 2, len(names), -1)
    absent = 0
    for fold in range(5):
        outside = frame[folds != fold]
        for c, column in enumerate(obs):
            grouped = outside.groupby(column)[list(Y.columns)]
            for s, name in enumerate(names):
                table = grouped.quantile(0.4) if name == "quantile_0.4" else grouped.agg(name)
                inside = obs[column][folds == fold]
                known = inside.isin(table.index).to_numpy()
                absent += np.sum(~known)
                rows = np.flatnonzero(folds == fold)[known]
                np.testing.assert_allclose(
                    found[rows, c, s], table.loc[inside[known]].to_numpy(), rtol=1e-4, atol=1e-5, err_msg=name
                )
    assert absent


def sklearns(smooth):
    """Return scikit-learn's encoder with the folds of a KFold(5, shuffle=True, random_state=3)."""
    if inspect.signature(SklearnTargetEncoder).parameters["shuffle"].default == "deprecated":
        return SklearnTargetEncoder(
            target_type="continuous", smooth=smooth, cv=KFold(5, shuffle=True, random_state=3)
        )
    return SklearnTargetEncoder(target_type="continuous", smooth=smooth, cv=5, random_state=3)


@pytest.mark.parametrize("smooth", [0.0, 1.0, 25.0])
def test_equals_scikit_learn_fitted_and_cross_fitted(smooth):
    obs, Y = example()
    folds = np.empty(60, dtype=int)
    for k, (_, test) in enumerate(KFold(5, shuffle=True, random_state=3).split(obs)):
        folds[test] = k
    ours = TargetEncoder(smoothing=smooth)
    training = ours.cross_fit(obs, Y, folds).reshape(60, 2, 4)
    new = pd.DataFrame({"sm_name": ["m03", "alone", "new"], "cell_type": ["B", "other", "T"]})
    for t in range(4):
        theirs = sklearns(smooth)
        y = Y[:, t].astype(np.float64)
        np.testing.assert_allclose(training[:, :, t], theirs.fit_transform(obs, y), rtol=1e-5, atol=1e-6)
        expected = theirs.transform(new)
        np.testing.assert_allclose(
            ours.transform(new).reshape(3, 2, 4)[:, :, t], expected, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("m", [0.0, 1.0, 12.5])
def test_equals_the_m_estimate_of_category_encoders(m):
    category_encoders = pytest.importorskip("category_encoders")
    obs, Y = example()
    new = pd.DataFrame({"sm_name": ["m03", "alone", "new"], "cell_type": ["B", "other", "T"]})
    ours = TargetEncoder(smoothing=m).fit(obs, Y).transform(new).reshape(3, 2, 4)
    for t in range(4):
        theirs = category_encoders.MEstimateEncoder(m=m).fit(obs, Y[:, t].astype(np.float64)).transform(new)
        np.testing.assert_allclose(ours[:, :, t], theirs.to_numpy(), rtol=1e-5, atol=1e-6)


def test_a_fold_a_row_is_the_leave_one_out_mean_of_category_encoders():
    category_encoders = pytest.importorskip("category_encoders")
    obs, Y = example()
    ours = TargetEncoder().cross_fit(obs, Y, np.arange(60)).reshape(60, 2, 4)
    for t in range(4):
        theirs = category_encoders.LeaveOneOutEncoder().fit_transform(obs, Y[:, t].astype(np.float64))
        np.testing.assert_allclose(ours[:-1, :, t], theirs.to_numpy()[:-1], rtol=1e-4, atol=1e-6)


def test_without_folds_they_are_random_seeded_and_balanced():
    obs, Y = example()
    found = TargetEncoder(n_folds=4, random_state=7).fit_transform(obs, Y)
    assert found.tobytes() == TargetEncoder().cross_fit(obs, Y, random_folds(60, 4, 7)).tobytes()
    assert found.tobytes() == TargetEncoder(n_folds=4, random_state=7).fit_transform(obs, Y).tobytes()
    assert found.tobytes() != TargetEncoder(n_folds=4, random_state=8).fit_transform(obs, Y).tobytes()
    few = TargetEncoder(n_folds=5).fit_transform(obs[:3], Y[:3])  # more folds than rows: one a row
    assert few.tobytes() == TargetEncoder().cross_fit(obs[:3], Y[:3], [0, 1, 2]).tobytes()


def test_leaky_gives_training_rows_what_new_rows_get():
    obs, Y = example()
    encoder = TargetEncoder(ALL, leaky=True)
    assert encoder.fit_transform(obs, Y).tobytes() == TargetEncoder(ALL).fit(obs, Y).transform(obs).tobytes()
    folds = np.arange(60) % 2
    assert encoder.cross_fit(obs, Y, folds).tobytes() == TargetEncoder(ALL).cross_fit(obs, Y, folds).tobytes()


def test_order_of_rows_and_of_targets_follows():
    obs, Y = example()
    rng = np.random.default_rng(2)
    rows, targets, folds = rng.permutation(60), rng.permutation(4), rng.permutation(60) % 3
    names = tuple(name for name in ALL if name != "first")
    plain = TargetEncoder(names).cross_fit(obs, Y, folds).reshape(60, 2, len(names), 4)
    found = TargetEncoder(names).cross_fit(obs.iloc[rows], Y[np.ix_(rows, targets)], folds[rows])
    np.testing.assert_allclose(
        found.reshape(60, 2, len(names), 4), plain[rows][..., targets], rtol=1e-5, atol=1e-6
    )
    first = TargetEncoder(("first",))
    assert np.any(
        first.cross_fit(obs.iloc[rows], Y[rows], folds[rows]) != first.cross_fit(obs, Y, folds)[rows]
    )


@pytest.mark.parametrize("encoder", [TargetEncoder(ALL), LeaveOneOutEncoder()])
def test_one_row_or_target_alone_equals_its_part_of_a_batch(encoder, monkeypatch):
    obs, Y = example()
    names = obs["sm_name"]
    batch = encoder.fit(names, Y).transform(names)
    assert np.vstack([encoder.transform(names[i : i + 1]) for i in range(60)]).tobytes() == batch.tobytes()
    monkeypatch.setattr("features.targets.encoders.ROWS_AT_ONCE", 7)
    assert encoder.transform(names).tobytes() == batch.tobytes()
    alone = encoder.fit(names, Y[:, 2]).transform(names)
    assert alone.tobytes() == batch.reshape(60, -1, 4)[:, :, 2].tobytes()


def test_kinds_of_input():
    obs, Y = example()
    genes = pd.DataFrame(Y, columns=["A1BG", "A1CF", "A2M", "A2MP1"])
    encoder = TargetEncoder(("mean", "max")).fit(obs, genes)
    expected = encoder.transform(obs)
    assert expected.shape[1] == 16
    assert encoder.transform(obs[["cell_type", "sm_name"]].assign(more=1)).tobytes() == expected.tobytes()
    assert encoder.transform(obs.to_numpy(object)).tobytes() == expected.tobytes()
    arrays = TargetEncoder(("mean", "max")).fit(obs.to_numpy(str).tolist(), Y.tolist())
    np.testing.assert_allclose(arrays.transform(obs.to_numpy(str)), expected, rtol=1e-6)
    series = TargetEncoder().fit(obs["sm_name"], genes["A2M"])
    assert series.transform(obs).tobytes() == series.transform(obs["sm_name"].tolist()).tobytes()
    assert encoder.transform(obs[:0]).shape == (0, 16)
    assert TargetEncoder().fit([3, 4, 4], [1, 2, 4]).transform([4, 5]).tolist() == [
        [3.0],
        [np.float32(7 / 3)],
    ]


def test_parameters_are_left_alone():
    obs, Y = example()
    encoder = TargetEncoder(["mean", "max"], smoothing=2, n_folds=3, random_state=5)
    encoder.fit_transform(obs, Y)
    assert encoder.get_params() == clone(encoder).get_params()
    assert encoder.get_params() == {
        **{"statistics": ["mean", "max"], "smoothing": 2, "n_folds": 3, "random_state": 5, "leaky": False}
    }
    with pytest.raises(NotFittedError):
        clone(encoder).transform(obs)


@pytest.mark.parametrize("encoder", [TargetEncoder(), LeaveOneOutEncoder()])
def test_nothing_works_before_fit(encoder):
    for call in (lambda: encoder.transform(["a"]), encoder.state):
        with pytest.raises(NotFittedError):
            call()


def with_value(array, row, column, value):
    changed = np.array(array, dtype=object if value is None else None)
    changed[row, column] = value
    return changed


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda g, Y: TargetEncoder().fit(g, Y[:-1]),
            r"one group a row of Y: \(60, 2\) groups, Y of shape \(59",
        ),
        (
            lambda g, Y: TargetEncoder().fit(g, with_value(Y, 7, 2, np.nan)),
            "row 7 .* target target2: nan is no",
        ),
        (
            lambda g, Y: TargetEncoder().fit(g, with_value(Y, 7, 2, -np.inf)),
            "row 7 .* target target2: -inf is",
        ),
        (lambda g, Y: TargetEncoder().fit(with_value(g, 5, 1, None), Y), "row 5 .* no group.* column group1"),
        (lambda g, Y: TargetEncoder().fit(g, Y).transform(with_value(g, 5, 1, None)), "row 5 .* no group"),
        (lambda g, Y: TargetEncoder().fit(g, Y).transform(g[:, 0]), "1 columns; expected are group0, group1"),
        (lambda g, Y: TargetEncoder().fit(g[:, :0], Y), r"must be \(n,\) or \(n, n_columns\), not \(60, 0\)"),
        (lambda g, Y: TargetEncoder().fit(g, Y[:, :, None]), r"must be \(n, n_targets\)"),
        (lambda g, Y: TargetEncoder().fit(g, np.full((60, 1), "high")), "Y must hold numbers"),
        (lambda g, Y: TargetEncoder(("mode",)).fit(g, Y), "no statistic 'mode'"),
        (lambda g, Y: TargetEncoder(smoothing=-0.1).fit(g, Y), "smoothing must be .* not -0.1"),
        (lambda g, Y: TargetEncoder(smoothing=np.inf).fit(g, Y), "smoothing must be"),
        (lambda g, Y: TargetEncoder(smoothing=np.nan).fit(g, Y), "smoothing must be"),
        (lambda g, Y: TargetEncoder().cross_fit(g, Y, np.zeros(60, int)), "all rows are in one fold"),
        (lambda g, Y: TargetEncoder().cross_fit(g, Y, np.arange(59)), r"folds of shape \(59,\)"),
        (
            lambda g, Y: TargetEncoder().cross_fit(g, Y, np.linspace(0, 1, 60)),
            "one whole number for each of 60",
        ),
        (lambda g, Y: TargetEncoder().fit_transform(g[:1], Y[:1]), "1 rows in 5 folds: needs at least 2"),
        (lambda g, Y: TargetEncoder(n_folds=1).fit_transform(g, Y), "60 rows in 1 folds: needs at least 2"),
    ],
)
def test_refusals_are_one_line(make, message):
    obs, Y = example()
    with pytest.raises(InputError, match=message) as refused:
        make(obs.to_numpy(object), Y)
    assert "\n" not in str(refused.value)


def test_columns_must_be_there_once():
    obs, Y = example()
    encoder = TargetEncoder().fit(obs, Y)
    with pytest.raises(
        InputError, match="need columns of groups sm_name, cell_type, one of each; there are sm_name"
    ):
        encoder.transform(obs[["sm_name"]])
    with pytest.raises(InputError, match="one of each"):
        TargetEncoder().fit(pd.concat([obs, obs], axis=1), Y)


def test_a_fit_that_fails_leaves_the_encoder_as_it_was():
    obs, Y = example()
    encoder = TargetEncoder()
    with pytest.raises(InputError):
        encoder.set_params(smoothing=-1).fit(obs, Y)
    with pytest.raises(NotFittedError):
        encoder.transform(obs)
