"""MultiTargetSVR against scikit-learn: its estimator checks, its SVR, every kind of array, and what it refuses."""

import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.svm import SVR
from sklearn.utils.estimator_checks import parametrize_with_checks

from rapids_pipeline.backend.arrays import available_bytes
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.svr import MultiTargetSVR, NotConvergedWarning

SOLVED = pytest.mark.parametrize(
    ("kernel", "engine"), [("rbf", "douglas-rachford"), ("rbf", "smo"), ("linear", "smo")]
)
WEIGHT_CHECK = "check_sample_weight_equivalence_on_dense_data"


def expected_failures(estimator):
    reason = (
        "gamma='scale' is the variance over all rows whatever their weight, as in scikit-learn's SVR, which has the "
        "same exception; with gamma given the check passes (below)"
    )
    return {WEIGHT_CHECK: reason} if estimator.gamma == "scale" and estimator.kernel == "rbf" else {}


@parametrize_with_checks(
    [
        MultiTargetSVR(),
        MultiTargetSVR(gamma=0.1, tol=1e-10, max_iter=-1),
        MultiTargetSVR(kernel="linear", tol=1e-10, max_iter=-1),
        MultiTargetSVR(kernel="precomputed"),
    ],
    expected_failed_checks=expected_failures,
)
def test_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


def data(n=70, targets=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 5)), rng.standard_t(4, size=(n, targets)), rng.normal(size=(20, 5))


@SOLVED
def test_one_C_and_epsilon_for_each_target_and_sample_weights_equal_scikit_learn(engine, kernel):
    X, Y, X_test = data()
    C, epsilon = np.array([0.1, 1.0, 5.0, 0.5]), np.array([0.0, 0.1, 0.5, 1.0])
    weight = np.random.default_rng(1).uniform(0.1, 3, len(X))
    options = {"C": C, "epsilon": epsilon, "kernel": kernel, "tol": 1e-7, "engine": engine}
    for given in (None, weight):
        model = MultiTargetSVR(**options).fit(X, Y, sample_weight=given)
        for t in range(4):
            reference = SVR(C=C[t], epsilon=epsilon[t], kernel=kernel, tol=1e-7).fit(X, Y[:, t], given)
            within = 1e-5 if kernel == "rbf" else 1e-4  # libsvm keeps K, here up to 20, in float32
            np.testing.assert_allclose(model.predict(X_test)[:, t], reference.predict(X_test), atol=within)
    assert model.converged_.all() and (model.gap_ <= 1e-7).all() and model.n_iter_.shape == (4,)


@SOLVED
def test_a_weight_of_zero_leaves_a_row_out_and_a_weight_of_two_repeats_it(kernel, engine):
    X, Y, X_test = data()
    weight = np.resize([0, 1, 2], len(X))
    model = MultiTargetSVR(kernel=kernel, gamma=0.2, tol=1e-7, engine=engine)
    repeated = model.fit(np.repeat(X, weight, axis=0), np.repeat(Y, weight, axis=0)).predict(X_test)
    weighted = model.fit(X, Y, sample_weight=weight)
    np.testing.assert_allclose(weighted.predict(X_test), repeated, atol=1e-6)
    np.testing.assert_array_equal(weighted.dual_coef_[weight == 0], 0)


def test_parameters_of_scikit_learn_mean_what_they_do_there():
    X, Y, X_test = data(30)
    for ours, theirs in (
        ({"gamma": "auto"}, {"gamma": "auto"}),
        ({"C": np.inf, "gamma": 2.0}, {"C": np.inf, "gamma": 2.0}),
        ({"C": np.array([np.inf, 1.0, 1.0, 1.0]), "gamma": 2.0}, {"C": np.inf, "gamma": 2.0}),
        ({"max_iter": -1, "gamma": 0.3}, {"gamma": 0.3}),
    ):
        model = MultiTargetSVR(tol=1e-6, engine="smo", **ours).fit(X=X, y=Y)
        reference = SVR(tol=1e-6, **theirs).fit(X, Y[:, 0])
        np.testing.assert_allclose(model.predict(X_test)[:, 0], reference.predict(X_test), atol=1e-4)
    with pytest.raises(ValueError, match="gamma must be positive, 'scale' or 'auto', not 'wide'"):
        MultiTargetSVR(gamma="wide").fit(X, Y)
    with pytest.raises(ValueError, match="C must be positive and finite"):
        MultiTargetSVR(C=np.nan).fit(X, Y)


def test_an_infinite_C_is_in_the_unit_of_the_target():
    X, Y, X_test = data(30)
    options = {"C": np.inf, "gamma": 2.0, "engine": "smo"}
    unit = MultiTargetSVR(epsilon=0.1, tol=1e-6, **options).fit(X, Y)
    large = MultiTargetSVR(epsilon=1e8, tol=1e3, **options).fit(X, 1e9 * Y)
    np.testing.assert_allclose(large.predict(X_test), 1e9 * unit.predict(X_test), atol=1e5)
    assert np.abs(large.dual_coef_).max() > 1e8, "far beyond a bound that knows no unit"


def test_coefficients_of_a_linear_kernel():
    X, Y, X_test = data()
    model = MultiTargetSVR(kernel="linear", tol=1e-7, engine="smo").fit(X, Y)
    assert model.coef_.shape == (4, 5)
    np.testing.assert_allclose(X_test @ model.coef_.T + model.intercept_, model.predict(X_test), atol=1e-10)
    one = MultiTargetSVR(kernel="linear", tol=1e-7, engine="smo").fit(X, Y[:, 0])
    reference = SVR(kernel="linear", tol=1e-7).fit(X, Y[:, 0])
    np.testing.assert_allclose(one.coef_, reference.coef_[0], atol=1e-4)
    rbf = MultiTargetSVR().fit(X, Y)
    assert not hasattr(rbf, "coef_")


def test_dask_arrays_are_computed():
    dask = pytest.importorskip("dask.array")
    X, Y, X_test = data()
    ours = MultiTargetSVR().fit(dask.from_array(X, chunks=20), dask.from_array(Y, chunks=20))
    expected = MultiTargetSVR().fit(X, Y).predict(X_test)
    np.testing.assert_array_equal(ours.predict(dask.from_array(X_test, chunks=7)), expected)


def test_precomputed_kernel_one_target_and_score():
    X, Y, X_test = data()
    K, K_test = X @ X.T, X_test @ X.T
    model = MultiTargetSVR(kernel="precomputed", tol=1e-6).fit(K, Y[:, 0])
    reference = SVR(kernel="precomputed", tol=1e-6).fit(K, Y[:, 0])
    assert model.predict(K_test).shape == (20,) and model.dual_coef_.shape == (70, 1)
    np.testing.assert_allclose(model.predict(K_test), reference.predict(K_test), atol=1e-4)
    np.testing.assert_allclose(model.score(K, Y[:, 0]), reference.score(K, Y[:, 0]), atol=1e-4)


def test_two_rows_and_one_row():
    model = MultiTargetSVR(C=10, gamma=1.0).fit([[0.0], [1.0]], [1.0, 3.0])
    np.testing.assert_allclose(model.predict([[0.0], [1.0]]), [1.1, 2.9], atol=1e-3)
    np.testing.assert_allclose(MultiTargetSVR().fit([[1.0]], [3.0]).predict([[7.0]]), 3.0)


def test_one_row_alone_is_predicted_as_in_a_batch():
    X, Y, X_test = data()
    model = MultiTargetSVR().fit(X, Y.astype(np.float32))
    together = model.predict(X_test)
    for i in range(len(X_test)):
        np.testing.assert_allclose(model.predict(X_test[[i]])[0], together[i], rtol=0, atol=1e-6)


@pytest.mark.parametrize("engine", ["auto", "smo", "sklearn"])
@pytest.mark.parametrize("library", ["torch", "array_api_strict"])
def test_arrays_of_another_library_give_results_of_that_library(library, engine):
    xp = pytest.importorskip(library)
    X, Y, X_test = data()
    weight = np.linspace(0, 1, len(X))
    model = MultiTargetSVR(engine=engine, tol=1e-6).fit(xp.asarray(X), xp.asarray(Y), xp.asarray(weight))
    predicted = model.predict(xp.asarray(X_test))
    for array in (predicted, model.dual_coef_, model.intercept_, model.n_iter_, model.gap_, model.converged_):
        assert type(array) is type(xp.asarray(X))
    expected = MultiTargetSVR(engine=engine, tol=1e-6).fit(X, Y, weight)
    np.testing.assert_allclose(np.asarray(predicted), expected.predict(X_test), atol=2e-6)
    np.testing.assert_allclose(model.score(xp.asarray(X), xp.asarray(Y)), expected.score(X, Y), atol=1e-5)
    with pytest.raises(TypeError, match="convert one of them"):
        model.predict(X_test)


def test_data_frames_name_features_and_targets():
    X, Y, X_test = data()
    columns, genes = list("abcde"), ["A1BG", "A1CF", "AAK1", "AAR2"]
    frame, targets = pd.DataFrame(X, columns=columns), pd.DataFrame(Y, columns=genes)
    model = MultiTargetSVR().fit(frame, targets)
    assert list(model.feature_names_in_) == columns
    np.testing.assert_array_equal(
        model.predict(pd.DataFrame(X_test, columns=columns)), MultiTargetSVR().fit(X, Y).predict(X_test)
    )
    with pytest.warns(NotConvergedWarning, match=r"2 of 4 SVR targets .* targets A1CF, AAR2: raise"):
        constant = targets.assign(A1BG=1.0, AAK1=2.0)
        model = MultiTargetSVR(engine="smo", max_iter=2).fit(frame, constant)
    np.testing.assert_array_equal(model.converged_, [True, False, True, False])
    with pytest.raises(ValueError, match="Y contains NaN at row 3, column 'AAK1'"):
        MultiTargetSVR().fit(
            frame, targets.mask((targets.index.to_numpy() == 3)[:, None] & [[0, 0, 1, 0]] == 1)
        )
    with pytest.raises(ValueError, match="X contains inf at row 5, column 'b'"):
        MultiTargetSVR().fit(frame.assign(b=np.where(np.arange(70) == 5, np.inf, 0)), targets)


@pytest.mark.parametrize("engine", ["douglas-rachford", "smo", "sklearn"])
def test_targets_without_names_are_named_by_position(engine):
    X, Y, _ = data(targets=20)
    with pytest.warns(NotConvergedWarning, match="20 of 20 .* targets 0, 1, 2, .*, 9 …: raise"):
        model = MultiTargetSVR(engine=engine, max_iter=1, tol=1e-5, C=10.0).fit(X, Y)
    assert not model.converged_.any() and (model.gap_ > 1e-5).all()


def test_float32_targets_give_float32_predictions_close_to_those_of_float64():
    X, Y, X_test = data()
    small = MultiTargetSVR(tol=1e-4).fit(X.astype(np.float32), Y.astype(np.float32)).predict(X_test)
    assert small.dtype == np.float32
    np.testing.assert_allclose(small, MultiTargetSVR(tol=1e-4).fit(X, Y).predict(X_test), atol=2e-4)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"C": 0.0}, "C must be positive"),
        ({"C": [1.0, 2.0]}, "C must be a number or one for each of 4 targets"),
        ({"C": [1.0, -1.0, 1.0, 1.0]}, "C must be positive"),
        ({"epsilon": -0.1}, "epsilon must be finite and not negative"),
        ({"kernel": "poly"}, "kernel must be"),
        ({"gamma": 0.0}, "gamma must be positive"),
        ({"tol": 0.0}, "tol must be positive"),
        ({"max_iter": 0}, "max_iter must be at least 1"),
        ({"engine": "libsvm"}, "choose one of auto, douglas-rachford, smo, sklearn, cuml"),
        ({"kernel": "precomputed"}, "square"),
    ],
)
def test_parameters_that_cannot_be_used_are_refused(parameters, message):
    X, Y, _ = data()
    with pytest.raises(ValueError, match=message):
        MultiTargetSVR(**parameters).fit(X, Y)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_non_finite_values_are_named(value, which):
    given = np.ones((4, 3)), np.ones((4, 2))
    given[which][2, 1] = value
    with pytest.raises(InputError, match=rf"^{'XY'[which]} contains (NaN|inf) at row 2, column 1"):
        MultiTargetSVR().fit(*given)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones(3), r"must be \(70,\), one number for every row"),
        (np.where(np.arange(70) == 4, -1.0, 1.0), r"-1\.0 \(row 4"),
        (np.zeros(70), "zero for every row"),
    ],
)
def test_sample_weights_that_cannot_be_used_are_refused(weight, message):
    X, Y, _ = data()
    with pytest.raises(InputError, match=message):
        MultiTargetSVR().fit(X, Y, sample_weight=weight)


def test_what_does_not_fit_in_memory_stops_before_anything_is_built(monkeypatch):
    monkeypatch.setattr("rapids_pipeline.svr.dual.available_bytes", lambda like: 200_000)
    X, Y, _ = data(n=100)
    with pytest.raises(InputError, match=r"100 training rows .* needs 0.0 GB .* enough for about 55 rows"):
        MultiTargetSVR(engine="douglas-rachford").fit(X, Y)
    MultiTargetSVR(engine="douglas-rachford").fit(X[:55], Y[:55])
    rows = np.broadcast_to(np.zeros(1), (200_000, 3))  # nothing of this size may be touched
    monkeypatch.setattr("rapids_pipeline.svr.dual.available_bytes", lambda like: 16 * 10**9)
    with pytest.raises(InputError, match=r"200,000 .* needs 2560.0 GB .* 16.0 GB are available"):
        MultiTargetSVR(engine="douglas-rachford").fit(rows, rows[:, 0])


def test_available_memory_is_plausible():
    assert 10**7 < available_bytes(np.zeros(1)) < 10**14


def test_importing_the_estimator_loads_neither_numba_nor_torch():
    import subprocess

    code = "import sys, rapids_pipeline.svr.estimator; sys.exit(bool({'numba', 'torch', 'cuml'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_fitting_warns_of_nothing_else():
    X, Y, _ = data()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MultiTargetSVR().fit(X, Y)
