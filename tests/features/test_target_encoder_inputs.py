"""What target encoding takes, what it refuses, and in what words; names of its columns."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from features.targets.encoders import LeaveOneOutEncoder, TargetEncoder
from rapids_pipeline.backend.errors import InputError


def example(n=60, n_targets=4, seed=0):
    """Two columns of groups."""
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {
            "sm_name": [f"m{g:02d}" for g in rng.integers(0, 9, n)],
            "cell_type": rng.choice(["B", "T", "NK"], n),
        }
    )
    return obs, rng.normal(size=(n, n_targets)).astype(np.float32)


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
