"""The booster: against its steps by hand, with seeds, weights and early stopping, in every space, and saved."""

import numpy as np
import pytest

from features.feature_sets import FeatureTable
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import StateReader
from rapids_pipeline.boosting import MultiOutputBooster
from rapids_pipeline.evaluation.splits import random_folds
from rapids_pipeline.stack.members.booster import SEED_STRIDE, BoosterMember, aggregated
from rapids_pipeline.stack.target_space import TargetSpace
from tests.stack_example import assert_alone_as_among_others, booster, example, training_set

BOOSTER = booster()
PARAMETERS = {"n_estimators": 10, "learning_rate": 0.3, "max_depth": 6, "colsample": 0.2}


def by_hand(rows, Y, others, seed, weight=None, n_estimators=10):
    """A booster's predictions of `others`, step by step."""
    space = TargetSpace(5)
    scores = space.components_for(Y)
    table = FeatureTable(BOOSTER.features, BOOSTER.encoder_sigma, seed)
    model = MultiOutputBooster(**PARAMETERS | {"n_estimators": n_estimators}, random_state=seed)
    model.fit(table.fit_transform(rows, scores), scores, weight)
    return space.inverse_transform(model.predict(table.transform(others)))


def fitted(member, weight=None, seed=7):
    train, test, Y = example()
    data = training_set(train, test, Y, weight, seed)
    return member.prepare(data).fit(np.arange(len(Y)))


def test_a_member_equals_its_steps_by_hand():
    train, test, Y = example()
    fits, some = BOOSTER.prepare(training_set(train, test, Y, seed=7)), np.arange(9, len(Y))
    found, again = fits.fit_predict(some, [np.arange(9), np.arange(len(Y), len(Y) + 6)])
    np.testing.assert_allclose(
        found, by_hand(train.take(some), Y[some], train.take(np.arange(9)), 7), atol=1e-5
    )
    np.testing.assert_allclose(again, by_hand(train.take(some), Y[some], test, 7), atol=1e-5)


def test_rows_are_trained_on_with_their_weight():
    train, test, Y = example()
    weight = np.where(np.arange(len(Y)) < 10, 0.5, 1.0)
    expected = by_hand(train, Y, test, 7, weight)
    np.testing.assert_allclose(fitted(BOOSTER, weight).predict(test), expected, atol=1e-5)
    assert np.abs(expected - by_hand(train, Y, test, 7)).max() > 1e-3


@pytest.mark.parametrize(("how", "naive"), [("median", np.median), ("mean", np.mean)])
def test_seeds_are_aggregated_entry_by_entry(how, naive):
    _, test, _ = example()
    found = fitted(booster(n_seeds=3, aggregate=how), seed=1).predict(test)
    parts = [fitted(BOOSTER, seed=1 + SEED_STRIDE * number).predict(test) for number in range(3)]
    assert np.any(parts[0] != parts[1]), "seeds must differ"
    np.testing.assert_array_equal(found, naive(np.stack(parts), axis=0))
    assert aggregated([found], how) is found


def test_early_stopping_chooses_the_number_of_trees_on_rows_of_the_fit_itself():
    train, test, Y = example()
    model = fitted(booster(n_estimators=200, early_stopping_rounds=5))
    trees = model.fitted[0].trees.n_trees
    assert 1 < trees < 200
    held_out = random_folds(len(Y), 5, 7) == 0
    table, space = FeatureTable(BOOSTER.features, BOOSTER.encoder_sigma, 7), TargetSpace(5)
    scores = space.components_for(Y[~held_out])
    X = table.fit_transform(train.take(np.flatnonzero(~held_out)), scores)
    probe = MultiOutputBooster(
        **PARAMETERS | {"n_estimators": 200}, early_stopping_rounds=5, random_state=7
    ).fit(
        X,
        scores,
        eval_set=(table.transform(train.take(np.flatnonzero(held_out))), space.transform(Y[held_out])),
    )
    assert trees == probe.best_iteration_
    np.testing.assert_allclose(model.predict(test), by_hand(train, Y, test, 7, None, trees), atol=1e-5)


@pytest.mark.parametrize(
    "space",
    [{}, {"n_components": "none"}, {"transform": "asinh", "centre": True}, {"transform": "gene_scale"}],
)
def test_a_booster_comes_back_from_its_state(space):
    _, test, _ = example()
    member = booster(n_seeds=2, **space)
    model = fitted(member)
    again = member.model_from_state(StateReader(model.state(), "model"))
    np.testing.assert_array_equal(again.predict(test), model.predict(test))
    assert_alone_as_among_others(model.predict, test)


def test_a_damaged_state_is_refused():
    state = dict(fitted(BOOSTER).state())
    trees = {name: array for name, array in state["seed_0"]["trees"].items() if name != "leaves"}
    state["seed_0"] = {**state["seed_0"], "trees": trees}
    with pytest.raises(InputError, match=r"model\.seed_0\.trees.*leaves is missing"):
        BOOSTER.model_from_state(StateReader(state, "model"))


def test_what_the_target_space_keeps_is_told():
    [note] = BOOSTER.notes(fitted(BOOSTER))
    assert note.startswith("the target space of boosting keeps ") and note.endswith(
        "% of the sum of squared targets"
    )


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"features": "svr_per_target", "stacks_on": ()}, "gives every gene columns of its own"),
        (
            {"stacks_on": ()},
            "feature set boosting reads predictions of other members: name them in stacks_on",
        ),
        ({"n_components": 0}, "from 1 to 100,000"),
        ({"transform": "log"}, "transform"),
    ],
)
def test_settings_that_cannot_be_used_are_named(values, says):
    with pytest.raises(ValueError, match=says):
        BoosterMember(**{"stacks_on": ("svr_shared",)} | values)
