"""SVRs on each target's own statistics: against scikit-learn on the columns spelt out, leaks, states, refusals."""

import numpy as np
import pandas as pd
import pytest
from sklearn.svm import SVR

from features.blocks import (
    LeaveOneOutBlock,
    MoleculeBlock,
    OneHotBlock,
    PredictionBlock,
    StatisticsBlock,
)
from features.feature_sets import FEATURE_SETS, FeatureSet, FeatureTable
from features.molecules.encoders import encode_molecules
from features.rows import Rows, contexts_of
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import StateReader
from rapids_pipeline.svr.engines import NotConvergedWarning
from rapids_pipeline.svr.own_target import estimator
from rapids_pipeline.svr.own_target.estimator import OwnTargetSVR, TrainedRows, fit_predict
from rapids_pipeline.svr.own_target.statistics import Side, sides_of

SIX = ("mean", "min", "max", "median", "first", "quantile_0.4")
SMILES = ["CCO", "c1ccccc1O", "CC(=O)O", "CCN", "CCCl", "c1ccncc1", "CC(C)=O", "OCC(O)CO"] * 4
ONEHOT = (OneHotBlock(column="cell_type"), OneHotBlock(column="sm_name"))


def statistics(column, names=SIX, **options):
    return StatisticsBlock(column=column, statistics=names, own_target=True, **options)


def recipe_of(*blocks):
    return FeatureSet(name="test", blocks=blocks)


RECIPES = {
    "published": FEATURE_SETS["svr_per_target"].with_molecules("made up"),
    "compound only": recipe_of(statistics("sm_name")),
    "cell type only": recipe_of(statistics("cell_type", ("mean",)), OneHotBlock(column="cell_type")),
    "no onehot": recipe_of(MoleculeBlock(encoder="made up"), statistics("cell_type", ("std", "first"))),
    "other statistics": recipe_of(
        *ONEHOT, statistics("sm_name", ("mean", "std", "count", "quantile_0.25"), n_folds=3)
    ),
    "smooth": recipe_of(
        *ONEHOT, statistics("sm_name", smoothing=2.5), statistics("cell_type", ("median",), smoothing=1)
    ),
    "leaky": recipe_of(
        *ONEHOT, statistics("sm_name", leaky=True), statistics("cell_type", ("mean", "max"), leaky=True)
    ),
    "two of one column": recipe_of(
        statistics("cell_type", ("mean",)), statistics("sm_name", ("mean",)), statistics("sm_name", SIX[1:])
    ),
    "reduced": recipe_of(MoleculeBlock(encoder="made up", n_components=4), statistics("sm_name", SIX * 1)),
}
EVERY_RECIPE = pytest.mark.parametrize("name", list(RECIPES))


def example(n=70, m=25, targets=5, seed=0):
    """Training rows of 4 cell types and 16 compounds; other rows have more of both; targets that depend on both."""
    rng = np.random.default_rng(seed)
    cells, compounds = (rng.integers(0, most, n + m) for most in (4, 16))
    cells[n : n + 3], compounds[n + 2 : n + 6] = 5, 20 + np.arange(4)
    made_up = rng.normal(size=(32, 10)).astype(np.float32)
    effects = [rng.normal(size=(32, targets)) for _ in range(2)]
    Y = effects[0][cells] + effects[1][compounds] + 0.5 * rng.normal(size=(n + m, targets))
    obs = pd.DataFrame(
        {
            "cell_type": [f"cell {c}" for c in cells],
            "sm_name": [f"compound {c}" for c in compounds],
            "SMILES": [SMILES[c] for c in compounds],
        }
    )
    rows = Rows(obs, {"made up": made_up[compounds]})
    return rows.take(np.arange(n)), Y[:n].astype(np.float32), rows.take(np.arange(n, n + m))


def spelt_out(recipe, rows, Y, others, target, seed=3, **how):
    """Predictions of one target by scikit-learn on the columns of a `FeatureTable`."""
    table = FeatureTable(recipe, seed=seed)
    X = table.fit_transform(rows, Y[:, [target]])
    return SVR(tol=1e-7, **how).fit(X, Y[:, target]).predict(table.transform(others))


def assert_equals_spelt_out(recipe, data, tol, atol, **how):
    rows, Y, others = data
    found = fit_predict(recipe, rows, Y, others, tol=tol, seed=3, **how)
    assert found.shape == (len(others.obs), Y.shape[1]) and found.dtype == np.float32
    for target in range(Y.shape[1]):
        expected = spelt_out(recipe, rows, Y, others, target, **how)
        np.testing.assert_allclose(found[:, target], expected, atol=atol)


@pytest.mark.parametrize(("tol", "atol"), [(1e-3, 2e-3), (1e-6, 3e-6)])
def test_rows_where_a_target_was_not_tested_are_left_out_of_its_fit(tol, atol):
    rows, Y, others = example()
    tested = np.random.default_rng(0).random(Y.shape) > 0.3
    tested[:, 4] = False  # then all rows count
    recipe = RECIPES["published"]
    found = fit_predict(recipe, rows, Y, others, tol=tol, seed=3, tested=tested)
    for target in range(Y.shape[1]):
        table = FeatureTable(recipe, seed=3)
        X = table.fit_transform(rows, Y[:, [target]])
        inside = tested[:, target] if target < 4 else np.ones(len(Y), bool)
        gamma = 1 / (X.shape[1] * X.astype(float).var())
        svr = SVR(tol=1e-7, gamma=gamma).fit(X[inside], Y[inside, target])
        np.testing.assert_allclose(found[:, target], svr.predict(table.transform(others)), atol=atol)
    model = OwnTargetSVR.fit(recipe, rows, Y, tol=tol, seed=3, tested=tested)
    assert not model.dual_coef[:, :4][~tested[:, :4]].any()
    np.testing.assert_array_equal(model.predict(others), found)
    everything = fit_predict(recipe, rows, Y, others, tol=tol, seed=3, tested=np.ones_like(tested))
    assert everything.tobytes() == fit_predict(recipe, rows, Y, others, tol=tol, seed=3).tobytes()


@pytest.mark.parametrize(("tol", "atol"), [(1e-3, 2e-3), (1e-6, 3e-6)])
def test_rows_count_by_their_weight_as_in_scikit_learn(tol, atol):
    rows, Y, others = example()
    weight = np.random.default_rng(1).uniform(0.05, 3.0, len(Y))
    recipe, how = RECIPES["published"], {"tol": tol, "seed": 3}
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


def side_of(recipe, rows, number=0, seed=0):
    return Side.fit(sides_of(recipe)[number], rows, seed)


# --- against scikit-learn on the columns of a FeatureTable --------------------------------------------------


@EVERY_RECIPE
@pytest.mark.parametrize(("tol", "atol"), [(1e-3, 1e-3), (1e-6, 2e-6)])
def test_equals_scikit_learn_on_the_columns_spelt_out(name, tol, atol):
    # both are within tol of the optimum; columns are the same float32, so at 1e-6 only libsvm's float32 kernel and
    # the float32 of β and of the result remain
    assert_equals_spelt_out(RECIPES[name], example(), tol, atol, epsilon=0.1)


@pytest.mark.parametrize(
    "how", [{"C": 0.3}, {"C": 30.0}, {"epsilon": 0.0}, {"gamma": 0.02}, {"gamma": "auto"}]
)
@pytest.mark.parametrize("tol", [1e-3, 1e-6])
def test_equals_scikit_learn_with_other_settings(how, tol):
    atol = max(2 * tol, 2e-6) * max(how.get("C", 1), 1)
    assert_equals_spelt_out(RECIPES["published"], example(), tol, atol, **{"epsilon": 0.1, **how})


def test_float32_kernels_are_far_more_exact_than_tol():
    rows, Y, others = example(n=120, targets=30)
    single = OwnTargetSVR.fit(RECIPES["published"], rows, Y, tol=1e-4)
    assert single.single
    double = OwnTargetSVR(**{**vars(single), "single": False})
    np.testing.assert_allclose(single.predict(others), double.predict(others), atol=5e-6)
    exact = fit_predict(RECIPES["published"], rows, Y, others, tol=1e-7)
    np.testing.assert_allclose(single.predict(others), exact, atol=1e-4)


def test_targets_of_any_scale_and_targets_that_are_constant():
    rows, Y, others = example(targets=4)
    Y[:, 0] *= 1e3
    Y[:, 1] += 1e4
    Y[:, 2] = 7
    found = fit_predict(RECIPES["published"], rows, Y, others, seed=3)
    np.testing.assert_allclose(found[:, 2], 7, atol=1e-6)
    for target in (0, 1, 3):
        expected = spelt_out(RECIPES["published"], rows, Y, others, target, epsilon=0.1)
        np.testing.assert_allclose(found[:, target], expected, atol=2e-3)


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


# --- statistics and leaks -----------------------------------------------------------------------------------


@EVERY_RECIPE
def test_statistics_are_those_of_the_feature_sets_blocks_to_the_last_bit(name):
    rows, Y, others = example()
    trained = TrainedRows(*(side_of(RECIPES[name], rows, number, seed=3) for number in (0, 1)))
    for side, of_row, found in zip(trained.sides, trained.of_row, trained.statistics(Y), strict=True):
        levels, start = side.others(others), 0
        for position, block in side.blocks.statistics:
            maker = block.model_copy(update={"own_target": False}).maker(seed=3 + position)
            own = slice(start, start + len(block.statistics))
            shape = (-1, len(block.statistics), Y.shape[1])
            expected = maker.fit_transform(rows, Y).reshape(shape).transpose(2, 1, 0)
            np.testing.assert_array_equal(found.trained[:, own, of_row], expected)
            expected = maker.transform(others).reshape(shape).transpose(2, 1, 0)
            np.testing.assert_array_equal(
                found.everyone[:, own][:, :, levels.labels[levels.of_row]], expected
            )
            start = own.stop


@pytest.mark.parametrize("name", ["published", "smooth", "two of one column"])
@pytest.mark.parametrize("row", [0, 33, 69])
def test_neither_a_rows_own_target_nor_a_replicates_is_in_its_statistics(name, row):
    rows, Y, _ = example()
    contexts = contexts_of(rows.obs)
    changed = Y.copy()
    changed[contexts == contexts[row]] += 1000
    trained = TrainedRows(*(side_of(RECIPES[name], rows, number) for number in (0, 1)))
    pairs = zip(trained.of_row, trained.statistics(Y), trained.statistics(changed), strict=True)
    for of_row, before, after in pairs:
        assert before.trained[:, :, of_row[row]].tobytes() == after.trained[:, :, of_row[row]].tobytes()
        assert np.any(before.trained[:, :, of_row] != after.trained[:, :, of_row])


def test_leaky_statistics_hold_the_rows_own_target():
    rows, Y, _ = example()
    changed = Y.copy()
    changed[4] += 1000
    trained = TrainedRows(*(side_of(RECIPES["leaky"], rows, number) for number in (0, 1)))
    before, after = trained.statistics(Y)[0], trained.statistics(changed)[0]
    assert np.any(before.trained[:, :, trained.of_row[0, 4]] != after.trained[:, :, trained.of_row[0, 4]])


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


def test_fit_predict_is_fit_then_predict_whatever_the_chunks(monkeypatch):
    rows, Y, others = example(targets=11)
    expected = fit_predict(RECIPES["published"], rows, Y, others, seed=1)
    model = OwnTargetSVR.fit(RECIPES["published"], rows, Y, seed=1)
    np.testing.assert_array_equal(model.predict(others), expected)
    monkeypatch.setattr(estimator, "TARGETS_AT_ONCE", 3)
    monkeypatch.setattr(estimator, "ROWS_AT_ONCE", 4)
    np.testing.assert_allclose(model.predict(others), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        fit_predict(RECIPES["published"], rows, Y, others, seed=1), expected, rtol=1e-6, atol=1e-6
    )
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


def test_targets_that_do_not_converge_are_reported():
    rows, Y, others = example()
    with pytest.warns(NotConvergedWarning, match="5 of 5 SVR targets did not reach tol"):
        fit_predict(RECIPES["published"], rows, Y, others, max_iter=2)


def test_compounds_with_equal_names_and_other_molecules_keep_their_own_molecules():
    rows, Y, others = example()
    others.molecules["made up"][0] += 1
    assert_equals_spelt_out(RECIPES["published"], (rows, Y, others), 1e-6, 2e-6, epsilon=0.1)


def test_levels_are_fewer_than_rows_only_where_rows_agree():
    rows, _, _ = example()
    side = side_of(RECIPES["published"], rows, 1)
    of_row, examples = side.training()
    assert len(examples) <= 4 * 5 and len(np.unique(of_row)) == len(examples)
    for row, level in enumerate(of_row):
        assert side.label_of_row[row] == side.label_of_row[examples[level]]
        assert (side.folds[:, row] == side.folds[:, examples[level]]).all()
