"""Cross-validation from one Gram matrix: against a naive loop over scikit-learn, and nothing held out leaks."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.svm import SVR

from rapids_pipeline.backend import memory
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.svr import MultiTargetSVR, NotConvergedWarning
from rapids_pipeline.svr.cross_validation import cross_val_predict
from rapids_pipeline.svr.gram import GramTable
from rapids_pipeline.svr.target_features import TargetFeatures


def data(n=60, targets=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4)) * np.linspace(0.2, 3, n)[:, None]  # folds differ in variance, so in gamma
    return X, rng.standard_t(4, size=(n, targets)), rng.normal(size=(7, 4)), rng.permutation(np.arange(n) % 4)


@pytest.mark.parametrize("engine", ["douglas-rachford", "smo", "sklearn"])
def test_equals_a_naive_loop_over_scikit_learn(engine):
    X, Y, X_test, folds = data()
    weight = np.linspace(0, 2, 60)
    svr = MultiTargetSVR(C=[0.5, 1.0, 2.0], epsilon=[0.0, 0.1, 0.3], tol=1e-6, engine=engine)
    for given in (None, weight):
        result = cross_val_predict(svr, X, Y, folds, X_test, sample_weight=given)
        oof, test = np.zeros((60, 3)), np.zeros((7, 3))
        for t in range(3):
            for k in range(4):
                inside = folds != k
                model = SVR(C=svr.C[t], epsilon=svr.epsilon[t], tol=1e-6)
                model.fit(X[inside], Y[inside, t], None if given is None else given[inside])
                oof[~inside, t] = model.predict(X[~inside])
                test[:, t] += model.predict(X_test) / 4
                np.testing.assert_allclose(result.gamma[k], model._gamma, rtol=1e-12)
        np.testing.assert_allclose(result.oof, oof, atol=2e-5)
        np.testing.assert_allclose(result.test, test, atol=2e-5)
    assert result.converged.shape == result.n_iter.shape == result.gap.shape == (4, 3)
    assert result.converged.all() and len(set(result.gamma)) == 4


def target_specific(seed=0):
    rng = np.random.default_rng(seed)
    levels = np.stack([rng.integers(0, 9, 60), rng.integers(0, 3, 60)], axis=1)
    svr = MultiTargetSVR(target_features=TargetFeatures(np.eye(9), np.eye(3)), tol=1e-6)
    return levels, rng.standard_t(4, size=(60, 4)), levels[:5], rng.permutation(np.arange(60) % 4), svr


def test_target_specific_features_are_learnt_in_each_fold():
    pytest.importorskip("numba")
    levels, Y, tests, folds, svr = target_specific()
    result = cross_val_predict(svr, levels, Y, folds, tests)
    test = np.zeros((5, 4))
    for k in range(4):
        model = svr.fit(levels[folds != k], Y[folds != k])
        np.testing.assert_allclose(result.oof[folds == k], model.predict(levels[folds == k]), atol=1e-10)
        np.testing.assert_array_equal(result.gamma[k], model.gamma_)
        test += model.predict(tests) / 4
    np.testing.assert_allclose(result.test, test, atol=1e-10)


@pytest.mark.parametrize("kind", ["shared", "target-specific"])
def test_targets_of_a_held_out_row_change_no_prediction_for_it(kind):
    if kind == "shared":
        X, Y, X_test, folds = data()
        svr = MultiTargetSVR()
    else:
        pytest.importorskip("numba")
        X, Y, X_test, folds, svr = target_specific()
    before = cross_val_predict(svr, X, Y, folds, X_test)
    Y = Y.copy()
    Y[folds == 2] = 1000.0
    after = cross_val_predict(svr, X, Y, folds, X_test)
    np.testing.assert_array_equal(after.oof[folds == 2], before.oof[folds == 2])
    assert np.isclose(after.oof[folds == 1], before.oof[folds == 1]).mean() < 0.05


def test_features_of_a_held_out_row_change_no_other_prediction_of_its_fold():
    X, Y, X_test, folds = data()
    before = cross_val_predict(MultiTargetSVR(), X, Y, folds, X_test)
    row = np.flatnonzero(folds == 2)[0]
    X = X.copy()
    X[row] *= 50
    after = cross_val_predict(MultiTargetSVR(), X, Y, folds, X_test)
    others = np.setdiff1d(np.flatnonzero(folds == 2), row)
    np.testing.assert_allclose(after.oof[others], before.oof[others], atol=1e-9)
    np.testing.assert_allclose(after.gamma[2], before.gamma[2], rtol=1e-12)


def test_one_target_no_test_rows_and_a_table_in_the_place_of_X():
    X, Y, X_test, folds = data()
    full = cross_val_predict(MultiTargetSVR(), X, Y, folds, X_test)
    one = cross_val_predict(MultiTargetSVR(), X, Y[:, 0], folds)
    assert one.oof.shape == (60,) and one.test.shape == (0,)
    np.testing.assert_allclose(one.oof, full.oof[:, 0], atol=2e-3)
    table = GramTable(np.vstack([X, X_test]))
    np.testing.assert_array_equal(cross_val_predict(MultiTargetSVR(), table, Y, folds).test, full.test)
    K = table.gram(np.arange(67), np.arange(67), 0.1)
    precomputed = cross_val_predict(MultiTargetSVR(), GramTable(K, "precomputed"), Y, folds)
    given = cross_val_predict(MultiTargetSVR(gamma=0.1), X, Y, folds, X_test)
    np.testing.assert_allclose(precomputed.test, given.test, atol=1e-9)


@pytest.mark.parametrize("kind", ["shared", "target-specific"])
def test_torch_in_torch_out_and_float32_stays_float32(kind):
    torch = pytest.importorskip("torch")
    if kind == "shared":
        X, Y, X_test, folds = data()
        svr = MultiTargetSVR()
    else:
        pytest.importorskip("numba")
        X, Y, X_test, folds, svr = target_specific()
    expected = cross_val_predict(svr, X, Y.astype(np.float32), folds, X_test)
    assert expected.oof.dtype == expected.test.dtype == np.float32
    result = cross_val_predict(
        svr, torch.asarray(X), torch.asarray(Y.astype(np.float32)), folds, torch.asarray(X_test)
    )
    assert result.oof.dtype == torch.float32 and isinstance(result.test, torch.Tensor)
    np.testing.assert_allclose(result.oof.numpy(), expected.oof, atol=1e-4)
    np.testing.assert_allclose(result.test.numpy(), expected.test, atol=1e-4)


def test_targets_that_miss_the_tolerance_are_named():
    X, Y, _, folds = data()
    with pytest.warns(NotConvergedWarning, match="targets A1BG, A1CF, AAK1: raise"):
        result = cross_val_predict(
            MultiTargetSVR(max_iter=1, C=10.0), X, pd.DataFrame(Y, columns=["A1BG", "A1CF", "AAK1"]), folds
        )
    assert not result.converged.any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cross_val_predict(MultiTargetSVR(), X, Y, folds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folds": np.zeros(60, int)}, "at least 2 folds"),
        ({"folds": np.resize([0, 2], 60)}, "fold 1 has no rows"),
        ({"folds": np.zeros(3, int)}, "one for each of 60 rows"),
        ({"folds": np.full(60, 0.5)}, "whole numbers"),
        ({"X": np.zeros((3, 4))}, "X must be"),
        ({"X": np.full((60, 4), np.nan)}, "X contains NaN at row 0, column 0"),
        ({"X_test": np.zeros((3, 2))}, "X_test must be"),
        ({"Y": np.where(np.arange(60) == 7, np.inf, 0.0)}, "Y contains inf at row 7"),
        ({"sample_weight": np.zeros(60)}, "zero at every row"),
    ],
)
def test_what_cannot_be_used_is_refused(change, message):
    X, Y, X_test, folds = data()
    with pytest.raises(InputError, match=message):
        cross_val_predict(MultiTargetSVR(), **{"X": X, "Y": Y, "folds": folds, "X_test": X_test, **change})


def test_what_does_not_fit_in_memory_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda like: 50_000)
    X, Y, X_test, folds = data()
    with pytest.raises(InputError, match=r"45 training rows \(67 rows in all\)"):
        cross_val_predict(MultiTargetSVR(), X, Y, folds, X_test)


def test_a_table_that_does_not_fit_in_memory_is_not_built(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda like: 50_000)
    with pytest.raises(InputError, match="60 training rows"):
        GramTable(data()[0])
