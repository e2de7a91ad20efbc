"""SVR members: scikit-learn's SVR, features made once or by every fit, and the same after a save."""

import warnings

import numpy as np
import pytest
from sklearn.svm import SVR as SklearnSVR

from features.feature_sets import FeatureTable
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import StateReader
from rapids_pipeline.stack.members.svr import OwnTargetSvrMember, SvrMember, features_of_all
from rapids_pipeline.svr.own_target import douglas_rachford
from rapids_pipeline.svr.own_target.estimator import OwnTargetSVR
from tests.stack_example import (
    COMPOSITE,
    LOO,
    N_FOLDS,
    OWN,
    SVR,
    assert_alone_as_among_others,
    booster,
    example,
    fitted,
    folded,
    training_set,
    with_made_up,
)


def sklearn_predictions(X, Y, training, wanted, weight=None):
    predicted = np.empty((len(wanted), Y.shape[1]))
    for t in range(Y.shape[1]):
        model = SklearnSVR(C=1.0, epsilon=0.1, gamma="scale", tol=1e-6).fit(
            X[training], Y[training, t], weight
        )
        predicted[:, t] = model.predict(X[wanted])
    return predicted


def test_a_shared_member_is_scikit_learns_svr():
    train, test, Y = example(n_genes=5)
    folds = folded(Y)
    found = fitted(SVR, train, test, Y, folds)
    X = features_of_all(FeatureTable(SVR.features), training_set(train, test, Y), np.arange(len(Y)))
    tests = np.arange(len(Y), len(X))
    np.testing.assert_allclose(found.test, sklearn_predictions(X, Y, np.arange(len(Y)), tests), atol=1e-3)
    for k in range(N_FOLDS):
        inside, outside = np.flatnonzero(folds != k), np.flatnonzero(folds == k)
        np.testing.assert_allclose(found.oof[outside], sklearn_predictions(X, Y, inside, outside), atol=1e-3)


def test_weights_of_rows_are_scikit_learns():
    train, test, Y = example(n_genes=4)
    weight = np.random.default_rng(0).uniform(0.2, 2, len(Y))
    data, some = training_set(train, test, Y, weight), np.arange(40)
    fits = SVR.prepare(data)
    tests = np.arange(len(Y), len(Y) + 6)
    X = features_of_all(FeatureTable(SVR.features), data, np.arange(len(Y)))
    expected = sklearn_predictions(X, Y, some, tests, weight[some])
    np.testing.assert_allclose(fits.fit_predict(some, [tests])[0], expected, atol=2e-3)
    np.testing.assert_allclose(fits.fit(some).predict(test), expected, atol=2e-3)


def test_weights_of_rows_reach_the_svrs_on_each_genes_own_statistics():
    train, test, Y = example(n_genes=4)
    weight, some = np.random.default_rng(0).uniform(0.1, 3, len(Y)), np.arange(5, len(Y))
    fits = OWN.prepare(training_set(train, test, Y, weight))
    found = fits.fit_predict(some, [np.arange(len(Y), len(Y) + 6)])[0]
    how = {"C": OWN.C, "epsilon": OWN.epsilon, "tol": OWN.tol}
    given = OWN.features, train.take(some), Y[some]
    expected = OwnTargetSVR.fit(*given, sample_weight=weight[some], **how).predict(test)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(fits.fit(some).predict(test), expected, atol=1e-5)
    assert np.abs(found - OwnTargetSVR.fit(*given, **how).predict(test)).max() > 0.05
    assert OWN.updated(pseudo_labels={"use": "on", "weight": 0.5}).pseudo_labels.weight == 0.5


def test_the_engine_of_a_member_solves_its_fits(monkeypatch):
    train, test, Y = example(n_genes=4)
    some, tests = np.arange(5, len(Y)), np.arange(len(Y), len(Y) + 6)
    called = []
    solve = douglas_rachford.solve
    monkeypatch.setattr(douglas_rachford, "solve", lambda *a, **how: called.append(a) or solve(*a, **how))
    by_smo, by_products = (
        OWN.updated(engine=engine).prepare(training_set(train, test, Y)).fit_predict(some, [tests])[0]
        for engine in ("auto", "douglas-rachford")
    )
    assert len(called) >= 1
    np.testing.assert_allclose(by_products, by_smo, atol=2e-3)
    auto = "smo (auto: numpy arrays, and every target has a kernel of its own)"
    assert OWN.engine_choice(Y, "cpu") == auto
    assert OWN.updated(engine="douglas-rachford").engine_choice(Y, "cpu") == "douglas-rachford (asked for)"
    with pytest.raises(InputError, match="engine 'cuml' solves one kernel that all targets share"):
        OWN.updated(engine="cuml").engine_choice(Y, "cpu")


def test_features_of_all_are_cross_fitted_inside_and_plain_outside():
    train, test, Y = example()
    training = np.arange(7, len(Y))
    features = with_made_up("op2_first_light")
    X = features_of_all(FeatureTable(features, seed=2), training_set(train, test, Y), training)
    table = FeatureTable(features, seed=2)
    np.testing.assert_array_equal(X[7 : len(Y)], table.fit_transform(train.take(training), Y[training]))
    np.testing.assert_array_equal(X[:7], table.transform(train.take(np.arange(7))))
    np.testing.assert_array_equal(X[len(Y) :], table.transform(test))


@pytest.mark.parametrize("member", [SVR, LOO, OWN, COMPOSITE], ids=lambda member: member.name)
def test_a_fit_for_predictions_is_the_model_that_is_kept(member):
    train, test, Y = example()
    fits, some = member.prepare(training_set(train, test, Y)), np.arange(5, len(Y))
    groups = [np.arange(5), np.arange(len(Y), len(Y) + 6)]
    model = fits.fit(some)
    for group, predicted in zip(groups, fits.fit_predict(some, groups), strict=True):
        np.testing.assert_allclose(predicted, model.predict(fits.data.take(group)), atol=1e-4)


@pytest.mark.parametrize("member", [SVR, LOO, OWN, COMPOSITE, booster()], ids=lambda member: member.name)
def test_a_model_predicts_a_row_alone_as_in_a_batch_and_after_its_state_was_read_back(member):
    train, test, Y = example()
    found = fitted(member, train, test, Y, folded(Y))
    np.testing.assert_array_equal(found.model.predict(test), found.test)
    assert_alone_as_among_others(found.model.predict, test)
    again = member.model_from_state(StateReader(found.model.state(), "model"))
    np.testing.assert_array_equal(again.predict(test), found.test)


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
    state = SVR.prepare(training_set(train, test, Y)).fit(np.arange(len(Y))).state() | change
    with pytest.raises(InputError, match=f"model: {says}"):
        SVR.model_from_state(StateReader(state, "model"))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SvrMember(features="svr_per_target"), "take kind = 'own_target_svr'"),
        (lambda: OwnTargetSvrMember(features="onehot"), "no columns of each gene's own: take kind = 'svr'"),
        (lambda: SvrMember(engine="ridge"), "squared errors, which have no tube"),
        (
            lambda: SvrMember(features="boosting"),
            "reads predictions of other members: name them in stacks_on",
        ),
        (lambda: SvrMember(stacks_on=("x",)), "feature set svr_shared reads no predictions"),
    ],
)
def test_settings_that_cannot_be_used_are_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_no_warning_of_convergence_on_plain_data():
    train, test, Y = example(n_genes=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(SVR, train, test, Y, folded(Y))
