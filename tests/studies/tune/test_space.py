"""The space of parameters: the recipe is a point of it, every point is a model, and no dimension is idle."""

import numpy as np
import pytest

from rapids_pipeline.stack.members.kernel_model import KernelModelConfig, fit_kernel_model
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


@pytest.mark.parametrize("name", MODELS)
def test_the_start_is_the_recipes_model_to_the_last_bit(name):
    space = ModelSpace.of(MODELS[name], 500)
    assert space.model_of(space.start) == MODELS[name]


@pytest.mark.parametrize("name", MODELS)
def test_every_point_is_a_model_and_its_settings_are_those_of_the_point(name):
    space, rng = ModelSpace.of(MODELS[name], 500), np.random.default_rng(0)
    for _ in range(50):
        raw = space.near(rng)
        model, values = space.model_of(raw), space.values(raw)
        for parameter in space.parameters:
            found = parameter.name.removeprefix("weights.")
            setting = model.weights[found] if found != parameter.name else getattr(model, found)
            assert setting == values[parameter.name]
            if isinstance(parameter, Range):
                assert parameter.low <= raw[parameter.name] <= parameter.high
            elif isinstance(parameter, Grid):
                assert raw[parameter.name] in range(len(parameter.values))
        assert model.engine == MODELS[name].engine and model.tol == MODELS[name].tol


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
