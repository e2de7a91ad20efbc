"""SVRs on each target's own statistics: against scikit-learn on the columns spelt out, leaks, states, refusals."""

import numpy as np
import pandas as pd
import pytest
from sklearn.svm import SVR

from features.blocks import (
    LeaveOneOutBlock,
    MoleculeBlock,
    PredictionBlock,
    StatisticsBlock,
)
from features.feature_sets import FEATURE_SETS, FeatureTable
from features.molecules.encoders import encode_molecules
from features.rows import Rows
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import StateReader
from rapids_pipeline.svr.engines import NotConvergedWarning
from rapids_pipeline.svr.own_target import estimator, trained_rows
from rapids_pipeline.svr.own_target.estimator import OwnTargetSVR, fit_predict
from rapids_pipeline.svr.own_target.statistics import sides_of
from tests.svr.own_targets import ONEHOT, RECIPES, example, recipe_of, statistics

EVERY_RECIPE = pytest.mark.parametrize("name", list(RECIPES))
BY_EITHER_ENGINE = pytest.mark.parametrize("engine", ["smo", "douglas-rachford"])


def spelt_out(recipe, rows, Y, others, target, seed=3, **how):
    """Predictions of one target by scikit-learn on the columns of a `FeatureTable`."""
    table = FeatureTable(recipe, seed=seed)
    X = table.fit_transform(rows, Y[:, [target]])
    return SVR(tol=1e-7, **how).fit(X, Y[:, target]).predict(table.transform(others))


def assert_equals_spelt_out(recipe, data, tol, atol, engine="smo", **how):
    rows, Y, others = data
    found = fit_predict(recipe, rows, Y, others, tol=tol, seed=3, engine=engine, **how)
    assert found.shape == (len(others.obs), Y.shape[1]) and found.dtype == np.float32
    for target in range(Y.shape[1]):
        expected = spelt_out(recipe, rows, Y, others, target, **how)
        np.testing.assert_allclose(found[:, target], expected, atol=atol)


@BY_EITHER_ENGINE
@pytest.mark.parametrize(("tol", "atol"), [(1e-3, 2e-3), (1e-6, 3e-6)])
def test_rows_where_a_target_was_not_tested_are_left_out_of_its_fit(tol, atol, engine):
    rows, Y, others = example()
    tested = np.random.default_rng(0).random(Y.shape) > 0.3
    tested[:, 4] = False  # then all rows count
    recipe = RECIPES["published"]
    how = {"tol": tol, "seed": 3, "engine": engine}
    found = fit_predict(recipe, rows, Y, others, tested=tested, **how)
    for target in range(Y.shape[1]):
        table = FeatureTable(recipe, seed=3)
        X = table.fit_transform(rows, Y[:, [target]])
        inside = tested[:, target] if target < 4 else np.ones(len(Y), bool)
        gamma = 1 / (X.shape[1] * X.astype(float).var())
        svr = SVR(tol=1e-7, gamma=gamma).fit(X[inside], Y[inside, target])
        np.testing.assert_allclose(found[:, target], svr.predict(table.transform(others)), atol=atol)
    model = OwnTargetSVR.fit(recipe, rows, Y, tested=tested, **how)
    assert not model.dual_coef[:, :4][~tested[:, :4]].any()
    assert_predicts(model, others, found, engine)
    everything = fit_predict(recipe, rows, Y, others, tested=np.ones_like(tested), **how)
    assert everything.tobytes() == fit_predict(recipe, rows, Y, others, **how).tobytes()


@BY_EITHER_ENGINE
@pytest.mark.parametrize(("tol", "atol"), [(1e-3, 2e-3), (1e-6, 3e-6)])
def test_rows_count_by_their_weight_as_in_scikit_learn(tol, atol, engine):
    rows, Y, others = example()
    weight = np.random.default_rng(1).uniform(0.05, 3.0, len(Y))
    recipe, how = RECIPES["published"], {"tol": tol, "seed": 3, "engine": engine}
    found = fit_predict(recipe, rows, Y, others, sample_weight=weight, **how)
    for target in range(Y.shape[1]):
        table = FeatureTable(recipe, seed=3)
        X = table.fit_transform(rows, Y[:, [target]])
        svr = SVR(tol=1e-7).fit(X, Y[:, target], weight)
        np.testing.assert_allclose(found[:, target], svr.predict(table.transform(others)), atol=atol)
    plain = fit_predict(recipe, rows, Y, others, **how)
    assert np.abs(found - plain).max() > 0.02
    ones = fit_predict(recipe, rows, Y, others, sample_weight=np.ones(len(Y)), **how)
    assert ones.tobytes() == plain.tobytes()
    model = OwnTargetSVR.fit(recipe, rows, Y, sample_weight=weight, tested=Y < 1, **how)
    assert (np.abs(model.dual_coef) <= 1.0001 * np.where(Y < 1, weight[:, None], 0)).all()


def assert_predicts(model, others, expected, engine):
    """A model predicts what was predicted as it was fitted: to the last bit by smo, to rounding where a device sums."""
    within = 0 if engine == "smo" else (1e-5 if model.single else 1e-6)
    np.testing.assert_allclose(model.predict(others), expected, rtol=0, atol=within * np.abs(expected).max())


# --- against scikit-learn on the columns of a FeatureTable --------------------------------------------------


@EVERY_RECIPE
@BY_EITHER_ENGINE
@pytest.mark.parametrize(("tol", "atol"), [(1e-3, 1e-3), (1e-6, 2e-6)])
def test_equals_scikit_learn_on_the_columns_spelt_out(name, tol, atol, engine):
    # both are within tol of the optimum; columns are the same float32, so at 1e-6 only libsvm's float32 kernel and
    # the float32 of β and of the result remain
    assert_equals_spelt_out(RECIPES[name], example(), tol, atol, engine, epsilon=0.1)


@pytest.mark.parametrize(
    "how", [{"C": 0.3}, {"C": 30.0}, {"epsilon": 0.0}, {"gamma": 0.02}, {"gamma": "auto"}]
)
@pytest.mark.parametrize("tol", [1e-3, 1e-6])
@BY_EITHER_ENGINE
def test_equals_scikit_learn_with_other_settings(how, tol, engine):
    atol = max(2 * tol, 2e-6) * max(how.get("C", 1), 1)
    assert_equals_spelt_out(RECIPES["published"], example(), tol, atol, engine, **{"epsilon": 0.1, **how})


def test_float32_kernels_are_far_more_exact_than_tol():
    rows, Y, others = example(n=120, targets=30)
    single = OwnTargetSVR.fit(RECIPES["published"], rows, Y, tol=1e-4)
    assert single.single
    double = OwnTargetSVR(**{**vars(single), "single": False})
    np.testing.assert_allclose(single.predict(others), double.predict(others), atol=5e-6)
    exact = fit_predict(RECIPES["published"], rows, Y, others, tol=1e-7)
    np.testing.assert_allclose(single.predict(others), exact, atol=1e-4)


@BY_EITHER_ENGINE
def test_targets_of_any_scale_and_targets_that_are_constant(engine):
    rows, Y, others = example(targets=4)
    Y[:, 0] *= 1e3
    Y[:, 1] += 1e4
    Y[:, 2] = 7
    found = fit_predict(RECIPES["published"], rows, Y, others, seed=3, engine=engine)
    np.testing.assert_allclose(found[:, 2], 7, atol=1e-6)
    for target in (0, 1, 3):
        expected = spelt_out(RECIPES["published"], rows, Y, others, target, epsilon=0.1)
        far = target == 1 and engine == "douglas-rachford"  # K is 1: b is any number within an interval
        np.testing.assert_allclose(found[:, target], expected, atol=0.02 if far else 2e-3)


def test_descriptors_are_fitted_on_the_training_rows():
    pytest.importorskip("rdkit")
    recipe = recipe_of(*ONEHOT, MoleculeBlock(encoder="descriptors"), statistics("sm_name"))
    assert_equals_spelt_out(recipe, example(targets=2), 1e-6, 2e-6, epsilon=0.1)


def test_real_data_equals_scikit_learn(shared_data):
    pytest.importorskip("rdkit")
    train, test = (
        pd.read_parquet(shared_data / "lincs_lung" / f"de_{part}.parquet") for part in ("train", "test")
    )
    columns = encode_molecules(["morgan"], list(train["SMILES"]), list(test["SMILES"]))
    rows, others = Rows(train, columns.training), Rows(test, columns.others)
    Y = np.ascontiguousarray(train.iloc[:, [5, 100, 901]], np.float32)
    recipe = FEATURE_SETS["svr_per_target"].with_molecules("morgan")
    assert_equals_spelt_out(recipe, (rows, Y, others), 1e-3, 1e-3, epsilon=0.1)
    assert_equals_spelt_out(recipe, (rows, Y, others), 1e-6, 1e-5, epsilon=0.1)


def test_targets_do_not_meet():
    rows, Y, others = example()
    changed = Y.copy()
    changed[:, 1] = 0
    before, after = (fit_predict(RECIPES["published"], rows, y, others) for y in (Y, changed))
    np.testing.assert_array_equal(np.delete(before, 1, axis=1), np.delete(after, 1, axis=1))


# --- rows, chunks, states -----------------------------------------------------------------------------------


@EVERY_RECIPE
def test_a_row_alone_is_predicted_as_in_a_batch(name):
    rows, Y, others = example()
    model = OwnTargetSVR.fit(RECIPES[name], rows, Y)
    batch = model.predict(others)
    alone = np.vstack([model.predict(others.take(np.array([row]))) for row in range(len(batch))])
    np.testing.assert_allclose(alone, batch, rtol=1e-6, atol=1e-6)


@BY_EITHER_ENGINE
def test_fit_predict_is_fit_then_predict_whatever_the_chunks(monkeypatch, engine):
    rows, Y, others = example(targets=11)
    expected = fit_predict(RECIPES["published"], rows, Y, others, seed=1, engine=engine)
    model = OwnTargetSVR.fit(RECIPES["published"], rows, Y, seed=1, engine=engine)
    assert_predicts(model, others, expected, engine)
    monkeypatch.setattr(estimator, "TARGETS_AT_ONCE", 3)
    monkeypatch.setattr(trained_rows, "ROWS_AT_ONCE", 4)
    np.testing.assert_allclose(model.predict(others), expected, rtol=1e-5, atol=2e-6)
    again = fit_predict(RECIPES["published"], rows, Y, others, seed=1, engine=engine)
    np.testing.assert_allclose(again, expected, rtol=1e-5, atol=2e-6)
    assert model.predict(others.take(np.arange(0))).shape == (0, 11)


def test_the_seed_draws_the_inner_folds():
    rows, Y, others = example()
    one, two = (fit_predict(RECIPES["published"], rows, Y, others, seed=seed) for seed in (0, 1))
    assert np.any(one != two)


def test_progress_reaches_its_total():
    class Counter(estimator.Progress):
        total = done = 0

        def start(self, total):
            self.total = total

        def advance(self, steps=1):
            self.done += steps

    rows, Y, others = example()
    counter = Counter()
    fit_predict(RECIPES["published"], rows, Y, others, progress=counter)
    assert counter.done == counter.total > 0


def read_back(recipe, state):
    return OwnTargetSVR.from_state(recipe, StateReader(state, "model: svr"))


@EVERY_RECIPE
@pytest.mark.parametrize("tol", [1e-3, 1e-6])
def test_a_state_read_back_predicts_the_same_to_the_last_bit(name, tol):
    rows, Y, others = example()
    model = OwnTargetSVR.fit(RECIPES[name], rows, Y, tol=tol)
    again = read_back(RECIPES[name], model.state())
    assert again.predict(others).tobytes() == model.predict(others).tobytes()
    assert again.state().keys() == model.state().keys()


def test_a_state_holds_plain_data_of_the_training_rows_only():
    rows, Y, _ = example()
    kinds = set()

    def visit(state):
        for value in state.values():
            if isinstance(value, dict):
                visit(value)
            else:
                kinds.add(str(value.dtype) if isinstance(value, np.ndarray) else type(value).__name__)

    state = OwnTargetSVR.fit(RECIPES["published"], rows, Y).state()
    visit(state)
    assert kinds <= {"float32", "int32", "bool", "int", "str", "list", "NoneType"}
    assert (
        sum(state[name].nbytes for name in ("targets", "dual_coef", "intercept", "gamma"))
        == 8 * Y.size + 8 * 5
    )


def changed(state, path, value):
    """A copy of a state where the value at "part.name" is another, or a function of what it was."""
    head, _, rest = path.partition(".")
    new = changed(state[head], rest, value) if rest else value(state[head]) if callable(value) else value
    return {**state, head: new}


def first_set_to(value):
    def change(array):
        array = array.copy()
        array.flat[0] = value
        return array

    return change


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("targets", first_set_to(np.nan), "targets holds values that are not finite"),
        ("targets", lambda x: x.astype(np.float64), "targets must be float32"),
        ("targets", lambda x: x[:1], "targets are"),
        ("dual_coef", lambda x: x[:, 1:], "dual_coef must be"),
        ("dual_coef", first_set_to(np.inf), "dual_coef holds values that are not finite"),
        ("intercept", lambda x: x[1:], "intercept must be"),
        ("gamma", first_set_to(0), "gamma is not positive"),
        ("gamma", None, "gamma is no array"),
        ("single", 1, "single is neither true nor false"),
        ("first", 3, "first has no parts"),
        ("first.labels", ["a"], "label_of_row has numbers outside 0 … 0"),
        ("first.labels", lambda x: x[::-1], "labels are not sorted"),
        ("second.labels", lambda x: [*x, "zzz"], "no training row has one of them"),
        ("second.labels", lambda x: [*x, x[0]], "labels names something twice"),
        ("first.label_of_row", first_set_to(99), "label_of_row has numbers outside"),
        ("first.features_of_row", first_set_to(-1), "features_of_row has numbers outside"),
        ("second.features_of_row", lambda x: x.astype(np.int64), "features_of_row must be int32"),
        ("first.features", lambda x: x[:, 1:], "features have 25 columns"),
        ("first.features", first_set_to(np.nan), "features holds values that are not finite"),
        ("first.folds", lambda x: x[:0], "folds must be int32"),
        ("first.folds", lambda x: 0 * x, "folds are not those of the blocks"),
        ("second.folds", first_set_to(1000), "folds has numbers outside"),
        ("first.table", {}, "of 2 blocks"),
    ],
)
def test_a_damaged_state_is_refused(path, value, says):
    rows, Y, _ = example()
    state = OwnTargetSVR.fit(RECIPES["published"], rows, Y).state()
    with pytest.raises(InputError, match=f"model: svr.*{says}"):
        read_back(RECIPES["published"], changed(state, path, value))


def test_a_state_of_another_recipe_is_refused():
    rows, Y, _ = example()
    state = OwnTargetSVR.fit(RECIPES["published"], rows, Y).state()
    for name in ("compound only", "cell type only", "leaky", "two of one column"):
        with pytest.raises(InputError, match="model: svr"):
            read_back(RECIPES[name], state)


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "named"),
    [
        (LeaveOneOutBlock(column="sm_name"), "loo:sm_name"),
        (PredictionBlock(), "svd:predictions"),
        (MoleculeBlock(), "molecules;"),
        (StatisticsBlock(column="sm_name"), "statistics:sm_name:mean"),
        (StatisticsBlock(column="sm_name", own_target=True, n_components=2), "svd:statistics:sm_name:mean"),
    ],
)
def test_blocks_that_are_no_function_of_the_level_are_refused(block, named):
    with pytest.raises(InputError, match=f"feature set test: .*cannot take block {named}"):
        sides_of(recipe_of(*ONEHOT, statistics("cell_type"), block))


def test_a_set_without_own_statistics_is_refused():
    with pytest.raises(InputError, match="has no statistics of each gene's own"):
        sides_of(FEATURE_SETS["onehot"])
    sides_of(RECIPES["published"])


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"C": 0.0}, "C must be positive"),
        ({"epsilon": -1.0}, "epsilon must be finite and not negative"),
        ({"tol": 0.0}, "tol must be positive"),
        ({"gamma": "wide"}, "gamma must be"),
        ({"gamma": -1.0}, "gamma must be"),
        ({"max_iter": 0}, "max_iter must be at least 1"),
        ({"engine": "ridge"}, "need one of auto, douglas-rachford, smo"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(how, says):
    rows, Y, others = example()
    with pytest.raises(InputError, match=says):
        fit_predict(RECIPES["published"], rows, Y, others, **how)


def test_targets_that_cannot_be_used_are_refused():
    rows, Y, others = example()
    with pytest.raises(InputError, match=r"Y must be \(70, t\)"):
        fit_predict(RECIPES["published"], rows, Y[1:], others)
    Y[3, 2] = np.nan
    with pytest.raises(InputError, match=r"row 3 \(from 0\), target 2"):
        fit_predict(RECIPES["published"], rows, Y, others)


def test_a_row_without_a_label_is_named():
    rows, Y, others = example()
    others.obs.loc[others.obs.index[7], "sm_name"] = None
    with pytest.raises(InputError, match="sm_name"):
        fit_predict(RECIPES["compound only"], rows, Y, others)


@BY_EITHER_ENGINE
def test_targets_that_do_not_converge_are_reported(engine):
    rows, Y, others = example()
    with pytest.warns(NotConvergedWarning, match="5 of 5 SVR targets did not reach tol"):
        fit_predict(RECIPES["published"], rows, Y, others, max_iter=2, engine=engine)


def test_compounds_with_equal_names_and_other_molecules_keep_their_own_molecules():
    rows, Y, others = example()
    others.molecules["made up"][0] += 1
    assert_equals_spelt_out(RECIPES["published"], (rows, Y, others), 1e-6, 2e-6, epsilon=0.1)
