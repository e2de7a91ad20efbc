"""The space of parameters: the recipe is a point of it, every point is a model, and no dimension is idle."""

import numpy as np
import pytest

from features.feature_sets import FEATURE_SETS
from rapids_pipeline.stack.members.kernel_model import KernelModelConfig, fit_kernel_model
from rapids_pipeline.stack.members.net import NetMember
from rapids_pipeline.stack.named_recipes import RECIPES
from rapids_pipeline.stack.target_space import TRANSFORMS
from rapids_pipeline.studies.tune.space import N_COMPONENTS, Grid, ModelSpace, Range

MODELS = {
    f"{recipe.name} {name}": model
    for recipe in RECIPES.values()
    for member in recipe.members
    if member.kind == "composite"
    for name, model in zip(("known_compounds", "new_compounds"), member.models, strict=True)
} | {
    "tube": KernelModelConfig(weights={"cell_type": 0.3, "tanimoto": 2.0}, engine="smo", epsilon=0.07),
    "tube of 0": KernelModelConfig(weights={"tanimoto": 2.0}, engine="smo"),
    "genes": KernelModelConfig(weights={"tanimoto": 1, "cell_type": 1 / 3}, targets="genes", n_components=77),
}

MEMBERS = {
    f"{recipe.name} {member.name}": member
    for recipe in RECIPES.values()
    for member in recipe.members
    if member.kind in ("booster", "net")
}
TUNED = MODELS | MEMBERS


def setting_of(model, path):
    """What a model has at the path of a parameter."""
    if path.startswith("weights."):
        return model.weights[path.removeprefix("weights.")]
    for part in path.split("."):
        model = model[int(part)] if part.isdigit() else getattr(model, part)
    return model if not isinstance(model, dict) else next(iter(model))


@pytest.mark.parametrize("name", TUNED)
def test_the_start_is_the_recipes_model_to_the_last_bit(name):
    space = ModelSpace.of(TUNED[name], 500)
    assert space.model_of(space.start) == TUNED[name]


@pytest.mark.parametrize("name", TUNED)
def test_every_point_is_a_model_and_its_settings_are_those_of_the_point(name):
    space, rng = ModelSpace.of(TUNED[name], 500), np.random.default_rng(0)
    for _ in range(20):
        raw = space.near(rng)
        model, values = space.model_of(raw), space.values(raw)
        for parameter in space.parameters:
            assert setting_of(model, parameter.name) == values[parameter.name]
            if isinstance(parameter, Range):
                assert parameter.low <= raw[parameter.name] <= parameter.high
            elif isinstance(parameter, Grid):
                assert raw[parameter.name] in range(len(parameter.values))
        tuned = {parameter.name.split(".")[0] for parameter in space.parameters}
        before, after = TUNED[name].model_dump(exclude=tuned), model.model_dump(exclude=tuned)
        assert after == before, "what is not tuned is the recipe's"


def test_a_scale_that_no_transform_has_stays_as_it_is(member):
    space = ModelSpace.of(member.known_compounds, 500)
    raw = space.start | {"transform_scale": 0}
    scales = {name: space.model_of(raw | {"transform": name}).transform_scale for name in TRANSFORMS}
    assert scales == {"none": 1.7, "asinh": 0.425, "gene_scale": 1.7}


def test_what_is_tuned_is_what_the_model_has():
    names = {name: {p.name for p in ModelSpace.of(model, 500).parameters} for name, model in MODELS.items()}
    assert "profile_shrinkage" in names["best known_compounds"] - names["best new_compounds"]
    assert {name for name in names if "epsilon" in names[name]} == {"tube", "tube of 0"}
    assert "n_components" not in names["genes"] and "penalty_growth" not in names["genes"]
    always = {"penalty", "noise_exponent", "transform", "transform_scale"}
    assert all(always <= found for found in names.values())


def test_weights_of_0_and_the_largest_one_stay(member):
    space = ModelSpace.of(member.known_compounds, 500)
    names = [p.name for p in space.parameters if p.name.startswith("weights.")]
    assert names == ["weights.cell_type", "weights.tanimoto"]
    penalty = next(p for p in space.parameters if p.name == "penalty")
    assert (penalty.low, penalty.high) == pytest.approx((0.123456789, 12.3456789))


def test_components_fit_the_rows(member):
    grid = ModelSpace.of(member.known_compounds, 100).parameters[-1]
    assert grid.values == (6, *[n for n in N_COMPONENTS if n < 100])


@pytest.mark.parametrize("engine", ["ridge", "douglas-rachford"])
def test_weights_and_penalty_times_a_number_are_the_same_model(task, engine):
    model = task.member.known_compounds.updated(engine=engine, tol=1e-7, max_iter=100_000)
    tripled = {name: 3 * weight for name, weight in model.weights.items()}
    scaled = model.updated(weights=tripled, penalty=3 * model.penalty)
    ours, theirs = (fit_kernel_model(m, task.rows, task.Y, "cpu").predict(task.rows) for m in (model, scaled))
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_the_edge_of_a_range():
    space = ModelSpace.of(KernelModelConfig(weights={"tanimoto": 2.0, "cell_type": 0.5}), 500)
    assert space.at_edge(space.start) == []
    moved = {"penalty": 14.9, "noise_exponent": 0.0, "penalty_growth": 2.0, "weights.cell_type": 0.05}
    assert space.at_edge(space.start | moved) == ["weights.cell_type", "penalty", "penalty_growth"]
    assert space.at_edge(space.start | {"noise_exponent": 1.0}) == [], "there is nothing beyond 1"


def test_lengths_are_tuned_where_a_kernel_compares_doses_or_times():
    model = MODELS["best known_compounds"]

    def lengths(weights):
        space = ModelSpace.of(model.model_copy(update={"weights": weights}), 500)
        return {parameter.name for parameter in space.parameters if parameter.name.endswith("_length")}

    assert lengths(model.in_contexts().weights) == {"dose_length", "time_length"}
    assert lengths({"cell_type": 1.0, "time * compound": 2.0}) == {"time_length"}
    assert lengths(model.weights) == set()


def test_the_search_stays_within_what_settings_take():
    extreme = {"penalty": 9e7, "dose_length": 900.0, "transform_scale": 800.0, "epsilon": 9e5}
    model = KernelModelConfig(weights={"dose": 9e5, "tanimoto": 1e6}, engine="smo", **extreme)
    space = ModelSpace.of(model, 500)
    assert space.model_of(space.start) == model
    highest = {p.name: p.high if isinstance(p, Range) else space.start[p.name] for p in space.parameters}
    highest |= {p.name: len(p.values) - 1 for p in space.parameters if isinstance(p, Grid)}
    found = space.model_of(highest)
    assert (found.penalty, found.dose_length, found.weights["dose"]) == (1e8, 1e3, 1e6)
    assert found.transform_scale <= 1e3


# --- boosters and nets ------------------------------------------------------------------------------------


def parameters_of(member, n_rows=500):
    return {parameter.name: parameter for parameter in ModelSpace.of(member, n_rows).parameters}


def test_the_ranges_of_a_net_of_the_third_place_hold_what_its_author_searched():
    member = MEMBERS["third_place net_6"]
    found = parameters_of(member)
    assert set(found) == {
        *(f"architecture.blocks.{place}.{name}" for place in (0, 1) for name in ("width", "dropout")),
        "architecture.embedding",
        *(f"training.{name}" for name in ("learning_rate", "epochs", "batch_size", "loss", "schedule")),
        *("transform", "transform_scale", "n_components"),
    }
    rate = found["training.learning_rate"]
    assert rate.low < 0.0026 and rate.high > 0.0098 and rate.log
    assert all(n % 32 == 0 for n in found["training.batch_size"].values)
    widths = found["architecture.blocks.0.width"].values
    assert min(widths) <= 128 and max(widths) >= 512 and all(n % 8 == 0 for n in set(widths) - {436})
    assert {"mrrmse", "mae", "mse"} < set(found["training.loss"].values)


def test_what_a_net_does_not_have_is_not_tuned():
    bare = NetMember(
        architecture={"kind": "mlp", "blocks": [{"width": 12}]},
        features=FEATURE_SETS["onehot"],
        n_components="none",
        training={"loss": {"mse": 1.0, "mae": 0.5}},
    )
    assert set(parameters_of(bare)) == {
        "architecture.blocks.0.width",
        *(f"training.{name}" for name in ("learning_rate", "epochs", "batch_size", "schedule")),
        *("transform", "transform_scale"),
    }
    rich = bare.updated(
        training={
            "optimizer": "adamw",
            "weight_decay": 0.01,
            "masking": 0.3,
            "input_noise": 0.1,
            "target_noise": 1.0,
        }
    )
    more = {f"training.{name}" for name in ("weight_decay", "masking", "input_noise", "target_noise", "loss")}
    assert set(parameters_of(rich)) - set(parameters_of(bare)) == more


def test_widths_stay_what_an_architecture_can_have():
    transformer = NetMember(
        architecture={"kind": "transformer", "width": 36, "heads": 6}, features=FEATURE_SETS["onehot"]
    )
    widths = parameters_of(transformer)["architecture.width"].values
    assert all(width % 6 == 0 for width in widths) and 36 in widths
    folded = NetMember(architecture={"kind": "recurrent", "fold": [4, 50]}, features=FEATURE_SETS["onehot"])
    assert not any("fold" in name or "layers" in name for name in parameters_of(folded))
    assert parameters_of(NetMember(), 100)["training.batch_size"].values == (32, 64, 96, 192)


def test_a_booster_is_tuned_in_what_it_has():
    booster = MEMBERS["published boosting"]
    found = parameters_of(booster)
    assert set(found) == {
        *("learning_rate", "n_estimators", "max_depth", "min_samples_leaf", "colsample", "subsample"),
        *("reg_lambda", "encoder_sigma", "transform", "transform_scale", "n_components"),
    }
    assert found["subsample"].high == found["colsample"].high == 1.0
    assert all(isinstance(n, int) for n in found["n_estimators"].values)
    quiet = booster.updated(encoder_sigma=0.0, reg_lambda=0.0, n_components="none", learning_rate=0.9)
    assert set(found) - set(parameters_of(quiet)) == {"encoder_sigma", "n_components"}
    assert parameters_of(quiet)["learning_rate"].high == 1.0
    plain = booster.updated(features=FEATURE_SETS["onehot"], stacks_on=())
    assert "encoder_sigma" not in parameters_of(plain)
