"""The recipes of the competition's winners: published sizes, what they say of themselves, and small runs of each."""

import tomllib

import numpy as np
import pandas as pd
import pytest

from features.feature_sets import feature_set
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import StateReader
from rapids_pipeline.evaluation.splits import judging_folds
from rapids_pipeline.nets.settings import Block, Conv1d, ConvResNet, Mlp, Recurrent, Training
from rapids_pipeline.stack.duration import of_a_row, operations, require_agreed
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
            # folds that judge halve the work where every fold would have a net of its own
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
    np.testing.assert_allclose(found.test, 1.3 * found.test_members["response_transfer"], rtol=1e-5)
    with pytest.raises(ValueError, match="amplitude needs weights"):
        BlendConfig(amplitude=1.3)


def test_the_second_place_amplifies():
    blend = BY_NAME["second_place_faithful"].blend
    assert blend.amplitude == 1.3 and sum(blend.weights.values()) == pytest.approx(1.3)


def long_run(name, times=1):
    train, test, _ = example()
    require_agreed(RECIPES[name].with_molecules("made up"), train, len(test.obs), 25, "cpu", times=times)


@pytest.mark.parametrize("name", ["best", "third_place", "scape", "jn_ap"])
def test_short_work_needs_no_consent(name):
    long_run(name)


def test_long_work_names_its_hours_and_the_way_out():
    with pytest.raises(
        InputError, match=r"the nets of second_place_faithful need [\d,]+ TFLOP here, about [\d,]+ hours"
    ) as e:
        long_run("second_place_faithful", times=1000)
    assert "take second_place, which takes minutes" in str(e.value) and "--yes" in str(e.value)
    train, test, _ = example()
    require_agreed(RECIPES["second_place_faithful"], train, len(test.obs), 25, "cuda", times=1000)


def test_operations_are_those_of_the_products():
    """An MLP of 14 → 16 → 25: three products a layer, of which the first has no gradient of its inputs."""
    train, test, _ = example()
    net = NetMember(
        architecture=Mlp(blocks=(Block(width=16),)),
        features=feature_set("onehot"),
        n_components="none",
        replicas=3,
        training=Training(epochs=7),
    )
    p = len(set(train.obs.cell_type)) + len(set(train.obs.sm_name))
    row = 2 * (2 * p * 16 + 3 * 16 * 25) * 7 * 3
    assert of_a_row(net, train, 25) == row
    fits = len(train.obs) * (1 + 3 * 2 / 3 + 3 * 1 / 3)  # whole, three without a fold, three without two
    assert operations(stack_recipe(net), train, len(test.obs), 25) == pytest.approx(row * fits)


@pytest.mark.parametrize("name", ["scarce", "most_measured"])
def test_judging_folds_hold_compounds_of_the_right_cell_types(name):
    obs = pd.DataFrame(
        [(c, f"m{m}") for c, n in (("a", 12), ("b", 11), ("c", 4), ("d", 5)) for m in range(n)],
        columns=["cell_type", "sm_name"],
    )
    folds = judging_folds(name, obs, np.zeros((len(obs), 2), np.float32), 3, 0)
    judged = obs[folds >= 0]
    assert set(judged["cell_type"]) == ({"c", "d"} if name == "scarce" else {"a"})
    assert all(len(set(folds[(folds >= 0) & (obs["sm_name"] == m)])) == 1 for m in set(judged["sm_name"]))
    assert set(folds) == {-1, 0, 1, 2}
    # the compound that no other cell type has is never left out
    assert "m11" not in set(judged["sm_name"])


@pytest.mark.parametrize("name", ["rows", "scarce", "most_measured", "clusters"])
def test_judging_folds_are_of_rows_where_there_is_nothing_else(name):
    obs = pd.DataFrame({"cell_type": ["a"] * 12, "sm_name": [f"m{m}" for m in range(12)]})
    folds = judging_folds(name, obs, np.zeros((12, 2), np.float32), 3, 0)
    assert np.bincount(folds).tolist() == [4, 4, 4]


def test_clusters_have_rows_in_every_fold():
    Y = np.repeat([[0.0], [10.0]], 20, axis=0) + np.random.default_rng(0).normal(size=(40, 3))
    obs = pd.DataFrame({"cell_type": ["a"] * 40, "sm_name": [f"m{m}" for m in range(40)]})
    folds = judging_folds("clusters", obs, Y.astype(np.float32), 3, 0)
    for part in (folds[:20], folds[20:]):
        assert set(part) == {0, 1, 2}
