"""The recipes of the competition's winners: published sizes, what they say of themselves, and small runs of each."""

import tomllib

import numpy as np
import pytest

from rapids_pipeline.backend.state import StateReader
from rapids_pipeline.nets.settings import Conv1d, ConvResNet, Recurrent
from rapids_pipeline.stack.fit import fit_stack
from rapids_pipeline.stack.members.net import NetMember
from rapids_pipeline.stack.members.response_transfer import ResponseTransferMember
from rapids_pipeline.stack.named_recipes import RECIPES
from rapids_pipeline.stack.recipe import BlendConfig, Recipe, to_toml
from rapids_pipeline.stack.saved import StackModel
from rapids_pipeline.stack.winners import WINNERS
from tests.stack_example import assert_alone_as_among_others, example, folded
from tests.stack_example import recipe as stack_recipe

BY_NAME = {recipe.name: recipe for recipe in WINNERS}
SMALL = [name for name in BY_NAME if name != "third_place_faithful"]
"""Without the 27 members of embeddings, which the tests of nets have."""


def small(recipe):
    """The recipe with an epoch, a replica and few folds of each net, smaller heads, and few trees."""
    members = []
    for member in recipe.with_molecules("made up").members:
        if isinstance(member, NetMember):
            how = member.training.model_copy(update={"epochs": 1, "validation_folds": 2, "patience": None})
            net = member.architecture
            if isinstance(net, ConvResNet | Recurrent | Conv1d):
                smaller = {"side": 32} if isinstance(net, ConvResNet) else {"head": (16,)}
                net = net.model_copy(update=smaller)
            # one net a member, not one for each fold
            member = member.updated(training=how, replicas=1, architecture=net, every_fold=False)
        elif member.kind == "booster":
            member = member.updated(n_estimators=5, max_depth=3, n_components=5)
        members.append(member)
    return recipe.with_members(*members)


@pytest.mark.parametrize("name", SMALL)
def test_a_recipe_runs_is_saved_and_predicts_the_same(name):
    train, test, Y = example()
    recipe = small(BY_NAME[name])
    found = fit_stack(train, test, Y, folded(Y), recipe, 0, "cpu")
    assert np.isfinite(found.oof).all() and np.isfinite(found.test).all()
    assert_alone_as_among_others(found.model.predict, test)
    state = StateReader(found.model.state(), "model")
    np.testing.assert_array_equal(StackModel.from_state(recipe, Y.shape[1], state).predict(test), found.test)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_recipe_says_who_published_it_and_what_differs(name):
    recipe = RECIPES[name]
    assert "NeurIPS 2023" in recipe.source and len(recipe.differs) >= 2
    assert ("published" in recipe.description) == (name.endswith("_faithful") or name == "fourth_place")
    again = Recipe.model_validate(tomllib.loads(to_toml(recipe)))
    assert again.model_dump(exclude={"members"}) == recipe.model_dump(exclude={"members"})


def test_the_weights_of_the_first_place_are_the_published_shares():
    weights = BY_NAME["first_place_faithful"].blend.weights
    assert sum(weights.values()) == pytest.approx(1.0, abs=1e-3)
    for part, share in (
        ("light", 0.3305),
        ("initial", 0.3465),
        ("heavy", 0.3230),
        ("lstm", 0.314),
        ("cnn", 0.332),
    ):
        assert sum(w for name, w in weights.items() if part in name) == pytest.approx(share, abs=1e-3)


def test_fixed_weights_are_multiplied_by_the_amplitude():
    train, test, Y = example()
    blend = {"weights": {"response_transfer": 2.0}, "amplitude": 1.3, "clip": False}
    found = fit_stack(
        train, test, Y, folded(Y), stack_recipe(ResponseTransferMember(), blend=blend), 0, "cpu"
    )
    np.testing.assert_allclose(found.test, 1.3 * found.test_members["response_transfer"][:], rtol=1e-5)
    with pytest.raises(ValueError, match="amplitude needs weights"):
        BlendConfig(amplitude=1.3)


def test_the_second_place_amplifies():
    blend = BY_NAME["second_place_faithful"].blend
    assert blend.amplitude == 1.3 and sum(blend.weights.values()) == pytest.approx(1.3)
