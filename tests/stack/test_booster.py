"""The second level: against its steps by hand, never leaking, with seeds, pseudo-labels and early stopping."""

from dataclasses import replace

import numpy as np
import pytest

from features.feature_sets import FeatureTable
from features.rows import Rows
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.backend.state import StateReader
from rapids_pipeline.boosting import MultiOutputBooster
from rapids_pipeline.evaluation.splits import random_folds
from rapids_pipeline.stack.members.booster import (
    SEED_STRIDE,
    BoostingProblem,
    FittedBooster,
    PseudoLabels,
    aggregated,
    boosted_member,
    n_fits,
)
from rapids_pipeline.stack.members.svr import fit_member
from rapids_pipeline.stack.nested import FirstLevel, NestedPredictions
from rapids_pipeline.stack.target_space import TargetSpace
from tests.stack_example import (
    BOOSTING,
    N_FOLDS,
    SVR,
    UNMOVED,
    assert_leak_free,
    example,
    folded,
    moved,
    with_made_up,
)

PARAMETERS = BOOSTING.model_dump(
    exclude={"n_components", "encoder_sigma", "features", "target_space", "n_seeds", "aggregate"}
)


def first_of(train, test, Y, folds):
    return FirstLevel([fit_member(train, test, Y, folds, SVR, 0, "cpu").predictions])


def problem_of(train, test, Y, folds, config=BOOSTING, first=None, labels=None):
    first = first or first_of(train, test, Y, folds)
    return BoostingProblem(train, test, Y, folds, first, config, "cpu", labels)


def by_hand(rows, Y, others, seed, weight=None, n_estimators=None):
    """A booster's predictions of `others`, step by step."""
    space = TargetSpace(BOOSTING.n_components)
    scores = space.components_for(Y)
    table = FeatureTable(BOOSTING.features, BOOSTING.encoder_sigma, seed)
    parameters = PARAMETERS | ({} if n_estimators is None else {"n_estimators": n_estimators})
    model = MultiOutputBooster(**parameters, random_state=seed)
    model.fit(table.fit_transform(rows, scores), scores, weight)
    return space.inverse_transform(model.predict(table.transform(others)))


def test_a_member_equals_its_steps_by_hand():
    train, test, Y = example()
    folds = folded(Y)
    first = first_of(train, test, Y, folds)
    found = boosted_member(problem_of(train, test, Y, folds, first=first), 7)
    nested = first.members[0]
    for k in range(N_FOLDS):
        before = (k - 1) % N_FOLDS
        for unseen, oof in ((k, found.oof), (before, found.judged)):
            inside = np.flatnonzero((folds != k) & (folds != unseen))
            rows = replace(train, predictions=nested.nested[unseen])
            wanted = rows.take(np.flatnonzero(folds == k))
            expected = by_hand(rows.take(inside), Y[inside], wanted, 7)
            np.testing.assert_allclose(oof[folds == k], expected, atol=1e-5)
        inside = np.flatnonzero(folds != k)
        rows = replace(train, predictions=nested.nested[k]).take(inside)
        expected = by_hand(rows, Y[inside], replace(test, predictions=nested.nested_test[k]), 7)
        np.testing.assert_allclose(found.nested_test[k], expected, atol=1e-5)
    rows, others = replace(train, predictions=nested.oof), replace(test, predictions=nested.test)
    np.testing.assert_allclose(found.test, by_hand(rows, Y, others, 7), atol=1e-5)


def made_up_labels(test, n_genes, weight=0.5):
    rng = np.random.default_rng(5)
    nested = rng.normal(size=(N_FOLDS, len(test.obs), n_genes)).astype(np.float32)
    return PseudoLabels(nested, nested.mean(axis=0), weight)


def test_pseudo_labelled_rows_are_trained_on_with_their_weight():
    train, test, Y = example()
    folds = folded(Y)
    first, labels = first_of(train, test, Y, folds), made_up_labels(test, Y.shape[1])
    found = boosted_member(problem_of(train, test, Y, folds, first=first, labels=labels), 7)
    nested = first.members[0]
    for k in range(N_FOLDS):
        inside = np.flatnonzero(folds != k)
        rows = replace(train, predictions=nested.nested[k])
        labelled = replace(test, predictions=nested.nested_test[k])
        weight = np.concatenate([np.ones(len(inside)), np.full(len(test.obs), 0.5)])
        both, targets = (
            Rows.joined(rows.take(inside), labelled),
            np.concatenate([Y[inside], labels.nested[k]]),
        )
        expected = by_hand(both, targets, rows.take(np.flatnonzero(folds == k)), 7, weight)
        np.testing.assert_allclose(found.oof[folds == k], expected, atol=1e-5)
    both = Rows.joined(replace(train, predictions=nested.oof), replace(test, predictions=nested.test))
    weight = np.concatenate([np.ones(len(Y)), np.full(len(test.obs), 0.5)])
    targets = np.concatenate([Y, labels.test])
    expected = by_hand(both, targets, replace(test, predictions=nested.test), 7, weight)
    np.testing.assert_allclose(found.test, expected, atol=1e-5)


@pytest.mark.parametrize(("how", "naive"), [("median", np.median), ("mean", np.mean)])
def test_seeds_are_aggregated_entry_by_entry(how, naive):
    train, test, Y = example()
    folds = folded(Y)
    first = first_of(train, test, Y, folds)
    several = BOOSTING.model_copy(update={"n_seeds": 3, "aggregate": how})
    found = boosted_member(problem_of(train, test, Y, folds, several, first), 1)
    single = [
        boosted_member(problem_of(train, test, Y, folds, first=first), 1 + SEED_STRIDE * s) for s in range(3)
    ]
    for name in ("oof", "judged", "nested_test", "test"):
        parts = [getattr(one, name) for one in single]
        assert np.any(parts[0] != parts[1]), "seeds must differ"
        np.testing.assert_array_equal(getattr(found, name), naive(np.stack(parts), axis=0))
    assert aggregated([found.oof], how) is found.oof


def test_early_stopping_chooses_the_number_of_trees_on_rows_of_the_fit_itself():
    train, test, Y = example()
    folds = folded(Y)
    first = first_of(train, test, Y, folds)
    config = BOOSTING.model_copy(update={"n_estimators": 200, "early_stopping_rounds": 5})
    found = boosted_member(problem_of(train, test, Y, folds, config, first), 7)
    trees = found.model.fitted[0].trees.n_trees
    assert 1 < trees < 200
    rows, others = (
        replace(train, predictions=first.members[0].oof),
        replace(test, predictions=first.test(None)),
    )
    held_out = random_folds(len(Y), 5, 7) == 0
    table, space = FeatureTable(BOOSTING.features, BOOSTING.encoder_sigma, 7), TargetSpace(5)
    scores = space.components_for(Y[~held_out])
    X = table.fit_transform(rows.take(np.flatnonzero(~held_out)), scores)
    probe = MultiOutputBooster(
        **PARAMETERS | {"n_estimators": 200, "early_stopping_rounds": 5}, random_state=7
    ).fit(
        X,
        scores,
        eval_set=(table.transform(rows.take(np.flatnonzero(held_out))), space.transform(Y[held_out])),
    )
    assert trees == probe.best_iteration_
    np.testing.assert_allclose(found.test, by_hand(rows, Y, others, 7, n_estimators=trees), atol=1e-5)


def test_encoder_noise_is_used_and_seeded():
    train, test, Y = example()
    folds = folded(Y)
    first = first_of(train, test, Y, folds)

    def oof(sigma):
        config = BOOSTING.model_copy(update={"encoder_sigma": sigma})
        return boosted_member(problem_of(train, test, Y, folds, config, first), 0).oof

    assert oof(0.21).tobytes() == oof(0.21).tobytes()
    assert np.any(oof(0.21) != oof(0.0))


@pytest.mark.parametrize("space", ["svd", "none", "pca_asinh"])
@pytest.mark.parametrize("name", ["boosting", "boosting_aggregates", "onehot_loo"])
def test_no_rows_own_target_moves_its_prediction_whatever_features_and_space(name, space):
    train, test, Y = example()
    folds = folded(Y)
    config = BOOSTING.model_copy(update={"features": with_made_up(name), "target_space": space})

    def predict(y):
        return {"boosting": boosted_member(problem_of(train, test, y, folds, config), 0).oof}

    assert_leak_free(moved(Y, [20], predict), [20], folds)


def test_the_check_finds_level_2_on_plain_out_of_fold_predictions():
    """As published: level 2 learns from out-of-fold predictions of SVRs that saw the fold it is scored on."""
    train, test, Y = example()
    folds = folded(Y)

    def predict(y):
        first = first_of(train, test, y, folds).members[0]
        plain = np.broadcast_to(first.oof, first.nested.shape)
        leaky = FirstLevel([NestedPredictions(first.oof, plain, first.nested_test, first.test)])
        return {"boosting": boosted_member(problem_of(train, test, y, folds, first=leaky), 0).oof}

    with pytest.raises(AssertionError, match="boosting: the prediction of a row moved with its own target"):
        assert_leak_free(moved(Y, [20], predict), [20], folds)


def test_judged_rows_never_saw_the_fold_whose_choices_they_make():
    """A row moves no judged prediction of the fold after its own, and moves those of the others."""
    train, test, Y = example()
    folds = folded(Y)
    by_row = moved(Y, [20], lambda y: {"b": boosted_member(problem_of(train, test, y, folds), 0).judged})["b"]
    assert by_row[folds == (folds[20] + 1) % N_FOLDS].max() <= UNMOVED
    assert by_row[folds == (folds[20] + 2) % N_FOLDS].max() > UNMOVED


def test_a_booster_comes_back_from_its_state():
    train, test, Y = example()
    folds = folded(Y)
    first = first_of(train, test, Y, folds)
    rows = replace(test, predictions=first.test(None))
    for space in ("svd", "none", "pca_asinh"):
        config = BOOSTING.model_copy(update={"target_space": space})
        booster = boosted_member(problem_of(train, test, Y, folds, config, first), 0).model.fitted[0]
        again = FittedBooster.from_state(config, StateReader(booster.state(), "model"))
        np.testing.assert_array_equal(again.predict(rows), booster.predict(rows))
        alone = np.vstack([booster.predict(rows.take(np.array([i]))) for i in range(len(rows.obs))])
        np.testing.assert_allclose(alone, booster.predict(rows), atol=1e-5)
    with pytest.raises(InputError, match=r"model\.trees.*leaves is missing"):
        state = booster.state()
        trees = {name: array for name, array in state["trees"].items() if name != "leaves"}
        FittedBooster.from_state(config, StateReader({**state, "trees": trees}, "model"))


def test_progress_counts_every_fit():
    class Counted(Progress):
        total = done = 0

        def start(self, total):
            self.total = total

        def advance(self, steps=1):
            self.done += steps

    train, test, Y = example(n_genes=6)
    config = BOOSTING.model_copy(update={"n_seeds": 2})
    progress = Counted()
    boosted_member(problem_of(train, test, Y, folded(Y), config), 0, progress)
    assert progress.total == progress.done == n_fits(config, N_FOLDS) == 14
