"""Nothing that is fitted sees the rows it is scored on: a changed held-out row changes no prediction for it."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from features.rows import Pairs, Rows, contexts_of
from rapids_pipeline.evaluation.splits import context_folds
from rapids_pipeline.stack.fit import fit_stack
from rapids_pipeline.stack.members import svr as svr_members
from rapids_pipeline.stack.nested import FoldedRows, Labels, predictions_without
from rapids_pipeline.svr import kernel_ridge
from tests.stack_example import (
    BOOSTER,
    COMPOSITE,
    KERNEL_MODEL,
    LOO,
    N_FOLDS,
    NET,
    OWN,
    SVR,
    UNMOVED,
    assert_leak_free,
    booster,
    example,
    fitted,
    folded,
    moved,
    net,
    recipe,
    stacked_svr,
    with_made_up,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*did not reach tol")  # with 1000 in a target

ON, AUTO = {"use": "on", "weight": 0.5}, {"use": "auto"}
READS = ("svr_shared", "svr_per_target", "composite")
RECIPES = {
    "as the named ones": recipe(SVR, OWN, COMPOSITE, booster(*READS)),
    "pseudo-labels by evidence": recipe(SVR, OWN, COMPOSITE, booster(*READS, pseudo_labels=AUTO)),
    "pseudo-labels": recipe(SVR, COMPOSITE, booster("svr_shared", "composite", pseudo_labels=ON)),
    "no booster": recipe(SVR, COMPOSITE),
    "one member": recipe(SVR),
    "two boosters on different members": recipe(
        SVR, COMPOSITE, booster("svr_shared", name="one"), booster("composite", name="other")
    ),
    "an SVR of the second level": recipe(SVR, COMPOSITE, stacked_svr("composite", "svr_shared")),
    "a booster of the first level": recipe(booster(name="below"), booster("below")),
    "nets of both levels": recipe(SVR, NET, net("svr_shared", name="above")),
    "nets that teach each other": recipe(
        NET.updated(pseudo_labels=ON | {"teacher": ("embedding_mlp", "svr_loo")}),
        net(),
        net("svr_loo", name="above"),
    ),
    "pseudo-labels of members of both levels": recipe(
        SVR.model_copy(update={"pseudo_labels": SVR.pseudo_labels.model_copy(update=AUTO)}),
        COMPOSITE.model_copy(
            update={"pseudo_labels": SVR.pseudo_labels.model_copy(update=ON | {"teacher": ("svr_shared",)})}
        ),
        stacked_svr("svr_shared", name="above", pseudo_labels=AUTO),
    ),
}


def oof_of(train, test, folds, which):
    def predict(Y):
        found = fit_stack(train, test, Y, folds, which, 0, "cpu")
        return {"blend": found.oof} | {name: made[:] for name, made in found.members.items()}

    return predict


def test_with_an_atlas_no_compounds_targets_move_its_out_of_fold_predictions():
    train, test, Y = example()
    compounds, codes = np.unique(train.obs["sm_name"], return_inverse=True)
    folds = np.arange(len(compounds))[codes] % N_FOLDS
    effects = np.stack([Y[codes == code].mean(axis=0) for code in range(len(compounds))])
    number = np.concatenate([codes, np.searchsorted(compounds, test.obs["sm_name"])])
    atlas = (effects - effects.mean(axis=0))[number] / np.float32(5)  # as if known from elsewhere: it stays
    train, test = (
        replace(rows, molecules={**rows.molecules, "atlas": some})
        for rows, some in ((train, atlas[: len(Y)]), (test, atlas[len(Y) :]))
    )
    weights = {"atlas_linear": 3.0}
    which = recipe(COMPOSITE.model_copy(update={"atlas_weights": weights}), booster("composite")).with_atlas()
    rows = np.flatnonzero(codes == 4)
    assert_leak_free(moved(Y, rows, oof_of(train, test, folds, which)), rows, folds)
    fitted_to = fit_stack(train, test, Y, folds, which, 0, "cpu")
    assert fitted_to.model.models["composite"].strength.value > 0, "the atlas counts"


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("row", [0, 20, 47])
def test_no_rows_own_target_moves_its_out_of_fold_prediction(row, name):
    train, test, Y = example()
    folds = folded(Y)
    assert_leak_free(moved(Y, [row], oof_of(train, test, folds, RECIPES[name])), [row], folds)


def test_no_rows_own_target_chooses_the_epoch_of_its_out_of_fold_prediction():
    train, test, Y = example()
    folds, training = folded(Y), NET.training.model_copy(update={"checkpoint": "best", "validation_folds": 3})
    for row in (0, 20):  # the first chooses epochs where it could teach, the other teaches
        found = moved(Y, [row], oof_of(train, test, folds, recipe(NET.updated(training=training))))
        assert all(by_row[row] <= UNMOVED for by_row in found.values())
    assert all(by_row.max() > 1 for by_row in found.values())


def with_gaps(Y, seed=0):
    """A third of the entries untested; every row and gene keeps some."""
    return np.where(np.random.default_rng(seed).random(Y.shape) < 0.3, np.float32(np.nan), Y)


@pytest.mark.parametrize(
    "name", ["as the named ones", "pseudo-labels by evidence", "an SVR of the second level"]
)
def test_with_untested_targets_too_no_rows_own_target_moves_its_out_of_fold_prediction(name):
    train, test, Y = example()
    folds = folded(Y)
    found = moved(with_gaps(Y), [20], oof_of(train, test, folds, RECIPES[name]))
    assert_leak_free(found, [20], folds)


@pytest.mark.parametrize("labelled", [False, True])
def test_what_is_imputed_in_a_folds_training_rows_never_saw_the_rows_held_out(labelled):
    train, test, Y = example()
    Y, folds, m = with_gaps(Y), folded(Y), len(test.obs)
    inside, changed = np.flatnonzero(folds != 1), Y.copy()
    changed[folds == 1] += 1000

    def targets(y, training):
        rows = FoldedRows(train, test, y, folds, 0, "cpu")
        made = np.zeros((N_FOLDS, m, Y.shape[1]), np.float32)
        labels = Labels(made, made[0], 1.0) if labelled else None
        found = rows.training_set(labels).learning_from(predictions_without(1, (), labels))
        return found.targets(np.concatenate([training, np.arange(len(Y), len(found.Y))]))

    before, after = (targets(y, inside) for y in (Y, changed))
    assert before.tobytes() == after.tobytes() and np.isfinite(before).all()
    gaps = np.isnan(Y[inside])
    assert before[: len(inside)][~gaps].tobytes() == Y[inside][~gaps].tobytes()
    everyone = [targets(y, np.arange(len(Y)))[inside][gaps] for y in (Y, changed)]
    assert np.abs(everyone[1] - everyone[0]).max() > 1, "imputed from all rows it does depend on them"


def test_no_replicates_target_moves_a_rows_out_of_fold_prediction():
    train, test, Y = example()
    twice = np.concatenate([np.arange(len(Y)), np.arange(0, len(Y), 3)])
    obs = train.obs.assign(dose_uM=np.arange(len(Y)) % 2, time_h=24.0)
    train, Y = Rows(obs, train.molecules).take(twice), Y[twice]
    folds, contexts = context_folds(train.obs, N_FOLDS, 0), contexts_of(train.obs)
    assert all(len(set(folds[contexts == c])) == 1 for c in contexts), "no fold separates replicates"
    which = RECIPES["as the named ones"].in_contexts(("dose_uM",))
    rows = np.flatnonzero(contexts == contexts[-1])
    assert len(rows) == 2
    movement = moved(Y, rows[:1], oof_of(train, test, folds, which))
    for name, by_row in movement.items():
        assert by_row[rows].max() <= UNMOVED, (
            f"{name}: the prediction of a row moved with its replicate's target"
        )
        assert by_row[folds != folds[rows[0]]].max() > 1


def test_no_compounds_targets_move_its_out_of_fold_predictions():
    train, test, Y = example()
    compounds, codes = np.unique(train.obs["sm_name"], return_inverse=True)
    folds = np.arange(len(compounds))[codes] % N_FOLDS
    rows = np.flatnonzero(codes == 4)
    assert len(rows) == 3 and len(set(folds[rows])) == 1
    which = RECIPES["pseudo-labels by evidence"]
    assert_leak_free(moved(Y, rows, oof_of(train, test, folds, which)), rows, folds)


@pytest.mark.parametrize(
    "member", [SVR, LOO, OWN, COMPOSITE, booster(), NET, net()], ids=lambda member: member.name
)
def test_nested_predictions_of_an_outer_fold_never_see_it(member):
    train, test, Y = example()
    folds = folded(Y)
    changed = Y.copy()
    changed[folds == 1] += 1000
    before, after = (fitted(member, train, test, y, folds) for y in (Y, changed))
    assert np.max(np.abs(after.nested[1][:] - before.nested[1][:])) <= UNMOVED
    assert np.max(np.abs(after.nested_test[1][:] - before.nested_test[1][:])) <= UNMOVED
    assert np.max(np.abs(after.oof[:] - before.oof[:])[folds == 1]) <= UNMOVED
    assert np.min(np.max(np.abs(after.nested[0][:] - before.nested[0][:])[folds == 2], axis=1)) > 1
    assert np.min(np.max(np.abs(after.nested_test[0][:] - before.nested_test[0][:]), axis=1)) > 1


@pytest.mark.parametrize("name", ["svr_shared", "svr_loo", "op2_first_initial", "svr_per_target"])
def test_no_rows_own_target_moves_its_prediction_whatever_features_of_an_svr(name):
    train, test, Y = example()
    folds = folded(Y)
    member = (OWN if name == "svr_per_target" else SVR).model_copy(update={"features": with_made_up(name)})
    movement = moved(Y, [20], lambda y: {"svr": fitted(member, train, test, y, folds).oof[:]})
    assert_leak_free(movement, [20], folds)


SPACES = {
    "components": {},
    "genes": {"n_components": "none"},
    "asinh": {"transform": "asinh", "centre": True},
    "gene_scale": {"transform": "gene_scale"},
}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", ["boosting", "boosting_aggregates", "onehot_loo"])
def test_no_rows_own_target_moves_its_prediction_whatever_features_and_space_of_a_booster(name, space):
    train, test, Y = example()
    folds = folded(Y)
    features = with_made_up(name)
    reads = ("svr_shared",) if features.needs_predictions else ()
    member = booster(*reads, features=features, **SPACES[space])
    movement = moved(Y, [20], lambda y: {"boosting": fitted(member, train, test, y, folds).oof[:]})
    assert_leak_free(movement, [20], folds)


def test_pseudo_labels_of_an_outer_fold_never_see_it():
    train, test, Y = example()
    folds = folded(Y)

    def labels(y):
        first = fitted(SVR, train, test, y, folds)
        second = fitted(BOOSTER, train, test, y, folds)
        found = Labels.mean_of([second, first], 1.0)
        nested = np.stack(first.nested_test) + np.stack(second.nested_test)
        np.testing.assert_allclose(found.nested, nested / 2, atol=1e-6)
        np.testing.assert_allclose(found.test, (first.test[:] + second.test[:]) / 2, atol=1e-6)
        return found.nested

    changed = Y.copy()
    changed[20] += 1000
    movement = np.abs(labels(changed) - labels(Y)).max(axis=(1, 2))
    assert movement[folds[20]] <= UNMOVED
    assert movement[[k for k in range(N_FOLDS) if k != folds[20]]].min() > 1


@pytest.mark.parametrize("member", [SVR, BOOSTER, stacked_svr("svr_shared")], ids=["SVR", "booster", "above"])
def test_judged_rows_never_saw_the_fold_whose_choices_they_make(member):
    """A row moves no judged prediction of the fold after its own, and moves those of the others."""
    train, test, Y = example()
    folds = folded(Y)
    by_row = moved(Y, [20], lambda y: {"judged": fitted(member, train, test, y, folds).judged[:]})["judged"]
    assert by_row[folds == (folds[20] + 1) % N_FOLDS].max() <= UNMOVED
    assert by_row[folds == (folds[20] + 2) % N_FOLDS].max() > UNMOVED


def level_2_on_plain_predictions(train, test, y, folds):
    """As published: level 2 learns from out-of-fold predictions of SVRs that saw the fold it is scored on."""
    first = fitted(SVR, train, test, y, folds)
    leaky = replace(first, nested=[first.oof] * len(first.nested))
    return fitted(BOOSTER, train, test, y, folds, [leaky]).oof[:]


def pseudo_labels_by_models_that_saw_the_fold(train, test, y, folds):
    found = fitted(SVR, train, test, y, folds)
    leaky = Labels(np.stack([found.test] * len(found.nested_test)), found.test[:], 1.0)
    return fitted(SVR, train, test, y, folds, (), leaky).oof[:]


def response_profiles_of_all_rows(train, test, y, folds):
    """Solved on training rows alone, on a kernel learnt from all rows: held-out rows are in others' profiles."""
    learnt, oof = KERNEL_MODEL.kernel.learn(Pairs.of(train, ["made up"]), y.astype(float)), np.empty_like(y)
    K = learnt.gram(np.empty(0))
    for k in range(N_FOLDS):
        inside, outside = np.flatnonzero(folds != k), np.flatnonzero(folds == k)
        found = kernel_ridge.solve(K[np.ix_(inside, inside)], y[inside], C=2.0, epsilon=0.0)
        oof[outside] = K[np.ix_(outside, inside)] @ found.dual_coef + found.intercept
    return oof


def encodings_fitted_on_all_rows(train, test, y, folds):
    everything, honest = np.arange(len(y)), svr_members.features_of_all
    with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patched.setattr(
            svr_members, "features_of_all", lambda table, data, _: honest(table, data, everything)
        )
        return fitted(LOO, train, test, y, folds).oof[:]


LEAKY = [
    level_2_on_plain_predictions,
    pseudo_labels_by_models_that_saw_the_fold,
    response_profiles_of_all_rows,
    encodings_fitted_on_all_rows,
]


@pytest.mark.parametrize("leaky", LEAKY, ids=lambda leaky: leaky.__name__)
def test_the_check_finds_what_leaks(leaky):
    train, test, Y = example()
    folds = folded(Y)
    movement = moved(Y, [20], lambda y: {"made": leaky(train, test, y, folds)})
    with pytest.raises(AssertionError, match="made: the prediction of a row moved with its own target"):
        assert_leak_free(movement, [20], folds)
