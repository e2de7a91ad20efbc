"""The first level: against refitting everything naively, never leaking, and the same after a save."""

import warnings

import numpy as np
import pytest
from sklearn.svm import SVR as SklearnSVR

from features.feature_sets import FeatureTable
from features.rows import Pairs
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.backend.state import StateReader
from rapids_pipeline.evaluation.splits import random_folds
from rapids_pipeline.stack.members import svr as first_level
from rapids_pipeline.stack.members.svr import SharedSVR, features_of_all, fit_member, model_from_state
from rapids_pipeline.stack.nested import FirstLevel, n_fits, nested_predictions
from rapids_pipeline.svr import kernel_ridge
from rapids_pipeline.svr.engines import NotConvergedWarning
from tests.stack_example import (
    COMPOSITE,
    LOO,
    MACHINE,
    N_FOLDS,
    OWN,
    SVR,
    UNMOVED,
    assert_leak_free,
    example,
    folded,
    moved,
    with_made_up,
)


def fitted(train, test, Y, folds, config=SVR, **options):
    return fit_member(train, test, Y, folds, config, 0, "cpu", **options)


def sklearn_predictions(X, Y, training, wanted):
    predicted = np.empty((len(wanted), Y.shape[1]))
    for t in range(Y.shape[1]):
        model = SklearnSVR(C=1.0, epsilon=0.1, gamma="scale", tol=1e-6).fit(X[training], Y[training, t])
        predicted[:, t] = model.predict(X[wanted])
    return predicted


def test_nested_predictions_equal_refitting_for_every_pair_of_folds():
    rng = np.random.default_rng(0)
    n, m, t, n_folds = 30, 5, 4, 4
    X, Y = rng.normal(size=(n + m, 6)), rng.normal(size=(n, t))
    folds = random_folds(n, n_folds, seed=1)

    def fit_predict(training, groups):
        return [sklearn_predictions(X, Y, training, group).astype(np.float32) for group in groups]

    tests = np.arange(n, n + m)
    found = nested_predictions(fit_predict, fit_predict(np.arange(n), [tests])[0], folds)
    nested = np.zeros((n_folds, n, t))
    for k in range(n_folds):
        in_k, outside = np.flatnonzero(folds == k), np.flatnonzero(folds != k)
        np.testing.assert_allclose(found.oof[in_k], sklearn_predictions(X, Y, outside, in_k), atol=1e-6)
        np.testing.assert_allclose(found.nested_test[k], sklearn_predictions(X, Y, outside, tests), atol=1e-6)
        for j in [j for j in range(n_folds) if j != k]:
            in_j, neither = np.flatnonzero(folds == j), np.flatnonzero((folds != j) & (folds != k))
            nested[k, in_j] = sklearn_predictions(X, Y, neither, in_j)
            nested[k, in_k] += sklearn_predictions(X, Y, neither, in_k) / (n_folds - 1)
    np.testing.assert_allclose(found.nested, nested, atol=1e-6)
    assert {x.dtype for x in (found.oof, found.nested, found.nested_test)} == {np.dtype(np.float32)}


def test_a_shared_member_is_scikit_learns_svr():
    train, test, Y = example(n_genes=5)
    folds = folded(Y)
    found = fitted(train, test, Y, folds).predictions
    X = features_of_all(FeatureTable(SVR.features), train, test, Y, np.arange(len(Y)))
    tests = np.arange(len(Y), len(X))
    np.testing.assert_allclose(found.test, sklearn_predictions(X, Y, np.arange(len(Y)), tests), atol=1e-3)
    for k in range(N_FOLDS):
        inside, outside = np.flatnonzero(folds != k), np.flatnonzero(folds == k)
        np.testing.assert_allclose(found.oof[outside], sklearn_predictions(X, Y, inside, outside), atol=1e-3)


@pytest.mark.parametrize("config", [SVR, LOO, OWN, COMPOSITE], ids=lambda config: config.name)
def test_nested_predictions_of_an_outer_fold_never_see_it(config):
    train, test, Y = example()
    folds = folded(Y)
    changed = Y.copy()
    changed[folds == 1] += 1000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)  # with 1000 in a target
        before, after = (fitted(train, test, y, folds, config).predictions for y in (Y, changed))
    assert np.max(np.abs(after.nested[1] - before.nested[1])) <= UNMOVED
    assert np.max(np.abs(after.nested_test[1] - before.nested_test[1])) <= UNMOVED
    assert np.max(np.abs(after.oof - before.oof)[folds == 1]) <= UNMOVED
    assert np.min(np.max(np.abs(after.nested[0] - before.nested[0])[folds == 2], axis=1)) > 1
    assert np.min(np.max(np.abs(after.nested_test[0] - before.nested_test[0]), axis=1)) > 1


@pytest.mark.parametrize("name", ["svr_shared", "svr_loo", "op2_first_initial", "svr_per_target"])
def test_no_rows_own_target_moves_its_out_of_fold_prediction(name):
    train, test, Y = example()
    folds = folded(Y)
    config = (OWN if name == "svr_per_target" else SVR).model_copy(update={"features": with_made_up(name)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)
        movement = moved(Y, [20], lambda y: {"svr": fitted(train, test, y, folds, config).predictions.oof})
    assert_leak_free(movement, [20], folds)


@pytest.mark.parametrize("row", [0, 20, 47])
def test_no_rows_own_target_moves_what_composite_kernels_predict_for_it(row):
    train, test, Y = example()
    folds = folded(Y)
    movement = moved(Y, [row], lambda y: {"c": fitted(train, test, y, folds, COMPOSITE).predictions.oof})
    assert_leak_free(movement, [row], folds)


def test_the_check_finds_response_profiles_of_all_rows():
    """Solved on training rows alone, on a kernel learnt from all rows: held-out rows are in others' profiles."""
    train, _, Y = example()
    folds, pairs = folded(Y), Pairs.of(train, ["made up"])

    def leaky(y):
        K, oof = MACHINE.kernel.learn(pairs, y.astype(float)).gram(np.empty(0)), np.empty_like(y)
        for k in range(N_FOLDS):
            inside, outside = np.flatnonzero(folds != k), np.flatnonzero(folds == k)
            found = kernel_ridge.solve(K[np.ix_(inside, inside)], y[inside], C=2.0, epsilon=0.0)
            oof[outside] = K[np.ix_(outside, inside)] @ found.dual_coef + found.intercept
        return {"composite": oof}

    with pytest.raises(AssertionError, match="composite: the prediction of a row moved with its own target"):
        assert_leak_free(moved(Y, [20], leaky), [20], folds)


@pytest.mark.filterwarnings("ignore:.*did not reach tol")
def test_the_check_finds_encodings_fitted_on_all_rows(monkeypatch):
    train, test, Y = example()
    folds = folded(Y)

    def fitted_on_all(table, train, test, Y, training):
        return features_of_all(table, train, test, Y, np.arange(len(Y)))

    monkeypatch.setattr(first_level, "features_of_all", fitted_on_all)
    movement = moved(Y, [20], lambda y: {"svr": fitted(train, test, y, folds, LOO).predictions.oof})
    with pytest.raises(AssertionError, match="svr: the prediction of a row moved with its own target"):
        assert_leak_free(movement, [20], folds)


def test_features_of_all_are_cross_fitted_inside_and_plain_outside():
    train, test, Y = example()
    training = np.arange(7, len(Y))
    features = with_made_up("op2_first_light")
    X = features_of_all(FeatureTable(features, seed=2), train, test, Y, training)
    table = FeatureTable(features, seed=2)
    np.testing.assert_array_equal(X[7 : len(Y)], table.fit_transform(train.take(training), Y[training]))
    np.testing.assert_array_equal(X[:7], table.transform(train.take(np.arange(7))))
    np.testing.assert_array_equal(X[len(Y) :], table.transform(test))


@pytest.mark.parametrize("config", [SVR, LOO, OWN, COMPOSITE], ids=lambda config: config.name)
def test_a_model_predicts_a_row_alone_as_in_a_batch_and_after_its_state_was_read_back(config):
    train, test, Y = example()
    member = fitted(train, test, Y, folded(Y), config)
    np.testing.assert_array_equal(member.model.predict(test), member.predictions.test)
    alone = np.vstack([member.model.predict(test.take(np.array([row]))) for row in range(len(test.obs))])
    np.testing.assert_allclose(alone, member.predictions.test, atol=1e-5)
    again = model_from_state(config, StateReader(member.model.state(), "model"))
    np.testing.assert_array_equal(again.predict(test), member.predictions.test)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kernel": "sigmoid"}, "kernel is 'sigmoid'"),
        ({"gamma": float("nan")}, "gamma is no finite number"),
        (
            {"dual_coef": np.zeros((3, 25), np.float32)},
            "dual_coef must be float32 .48, any., not float32 .3, 25.",
        ),
        ({"intercept": np.zeros(24, np.float32)}, "intercept must be"),
        ({"support": np.zeros((48, 30))}, "support must be float32"),
    ],
)
def test_a_damaged_state_is_refused(change, says):
    train, test, Y = example()
    state = fitted(train, test, Y, folded(Y)).model.state() | change
    with pytest.raises(InputError, match=f"model: {says}"):
        SharedSVR.from_state(SVR.features, StateReader(state, "model"))


def test_progress_counts_every_fit():
    class Counted(Progress):
        total = done = 0

        def start(self, total):
            self.total = total

        def advance(self, steps=1):
            self.done += steps

    train, test, Y = example(n_genes=3)
    progress = Counted()
    fitted(train, test, Y, folded(Y), progress=progress)
    assert progress.total == progress.done == n_fits(N_FOLDS) + 1 == 7


def test_level_2_sees_the_members_side_by_side():
    train, test, Y = example(n_genes=4)
    folds = folded(Y)
    first = fitted(train, test, Y, folds).predictions
    both = FirstLevel([first, first])
    rows = np.array([3, 0])
    np.testing.assert_array_equal(both.training(1, rows), np.hstack([first.nested[1][rows]] * 2))
    np.testing.assert_array_equal(both.training(None, rows), np.hstack([first.oof[rows]] * 2))
    np.testing.assert_array_equal(both.test(2), np.hstack([first.nested_test[2]] * 2))
    np.testing.assert_array_equal(both.test(None), np.hstack([first.test] * 2))
