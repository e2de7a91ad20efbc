"""Recipes: shown, copied, changed, and refused with the key that is wrong."""

import tomllib

import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.commands.run_options import RecipeChanges, changed_recipe, run_config
from rapids_pipeline.stack.named_recipes import RECIPES, recipe, to_toml
from rapids_pipeline.stack.recipe import BoostingConfig, KernelConfig, MachineConfig
from rapids_pipeline.stack.target_space import TARGET_SPACES


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_comes_back_from_its_toml(name, tmp_path):
    (tmp_path / "copy.toml").write_text(to_toml(RECIPES[name]))
    assert recipe(tmp_path / "copy.toml") == recipe(name) == RECIPES[name]
    assert isinstance(tomllib.loads(to_toml(RECIPES[name]))["boosting"]["features"], str), (
        "named, not spelt out"
    )


def test_kernels_come_back_from_toml_to_the_last_bit(tmp_path):
    known = {"tanimoto^2 * cell_type": 0.1 + 0.2, "correlation * profile_linear": 1e-7, "compound": 0.0}
    new = MachineConfig(weights={"rbf(molecules)": 1 / 3}, engine="smo", epsilon=0.1, max_iter=7, tol=1e-5)
    kernel = KernelConfig(name="mine", known=MachineConfig(weights=known, targets="genes"), new_compounds=new)
    changed = RECIPES["best"].model_copy(update={"svrs": (), "kernels": (kernel, *RECIPES["best"].kernels)})
    (tmp_path / "copy.toml").write_text(to_toml(changed))
    found = recipe(tmp_path / "copy.toml")
    assert found == changed and list(found.kernels[0].known.weights) == list(known), "and in their order"


def test_the_published_recipe_has_the_published_settings():
    published = RECIPES["published"]
    assert [(svr.name, svr.C, svr.epsilon, svr.gamma) for svr in published.svrs] == [
        ("svr_shared", 1.0, 0.1, "scale"),
        ("svr_per_target", 1.0, 0.1, "scale"),
    ]
    boosting = published.boosting
    assert (boosting.n_estimators, boosting.learning_rate, boosting.max_depth) == (1000, 0.01, 10)
    assert (boosting.colsample, boosting.min_samples_leaf, boosting.encoder_sigma) == (0.2, 1, 0.21)
    assert (published.n_folds, boosting.n_components, boosting.features.name) == (
        5,
        45,
        "boosting_aggregates",
    )


def test_a_changed_recipe_keeps_the_rest(tmp_path):
    (tmp_path / "mine.toml").write_text('name = "mine"\n[[svrs]]\nC = 2.0\nfeatures = "onehot"\n')
    mine = recipe(tmp_path / "mine.toml")
    assert [(svr.name, svr.C, svr.epsilon) for svr in mine.svrs] == [("onehot", 2.0, 0.1)]
    assert mine.boosting == BoostingConfig()
    changes = RecipeChanges(folds=4, engine="sklearn", svr_features="onehot,svr_per_target")
    changed = changed_recipe(mine, changes)
    assert [(svr.name, svr.C, svr.engine) for svr in changed.svrs] == [
        ("onehot", 2.0, "sklearn"),
        ("svr_per_target", 2.0, "auto"),
    ]
    assert changed.n_folds == 4 and changed.boosting == mine.boosting
    assert changed_recipe(mine, RecipeChanges()) == mine


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = ", "not a TOML file"),
        ("n_folds = 5", "name: field required"),
        ('name = "x"\ncolour = 1', "colour: extra inputs are not permitted"),
        ('name = "x"\n[[svrs]]\nC = -1', r"svrs\[0\].C: input should be greater than 0"),
        ('name = "x"\n[[svrs]]\nfeatures = "magic"', r"svrs\[0\].features: no feature set 'magic'"),
        ('name = "x"\n[[svrs]]\nfeatures = "boosting"', "stacks on predictions of the SVRs"),
        ('name = "x"\n[boosting]\nfeatures = "svr_per_target"', "gives every gene columns of its own"),
        ('name = "x"\n[[svrs]]\nfeatures = "svr_per_target"\nkernel = "linear"', "needs kernel = 'rbf'"),
        ('name = "x"\n[[svrs]]\n[[svrs]]\n', "two members are called svr_shared"),
        ('name = "x"\nsvrs = []', "at least one member among svrs and kernels"),
        ('name = "x"\n[pseudo_labels]\nuse = "maybe"', "pseudo_labels.use: input should be"),
        ('name = "x"\n[boosting]\ntarget_space = "magic"', "boosting.target_space: input should be"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_by_its_key(tmp_path, text, says):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(InputError, match=rf"bad.toml: .*{says}"):
        recipe(tmp_path / "bad.toml")


def test_unknown_names_and_files():
    with pytest.raises(
        InputError, match="no recipe 'magic'; choose among best, standard, published, quick, or name"
    ):
        recipe("magic")
    with pytest.raises(InputError, match=r"missing\.toml: No such file"):
        recipe("missing.toml")


@pytest.mark.parametrize(
    ("changes", "seed", "says"),
    [
        (RecipeChanges(folds=2), 0, "--folds 2: input should be greater than or equal to 3"),
        (RecipeChanges(svr_features="boosting"), 0, "--svr-features: boosting stacks on"),
        (RecipeChanges(svr_features="onehot,onehot"), 0, "--svr-features: two members are called onehot"),
        (RecipeChanges(boosting_features="svr_per_target"), 0, "--boosting-features: svr_per_target gives"),
        (RecipeChanges(), -1, "--seed -1: input should be"),
        (
            RecipeChanges(engine="ridge"),
            0,
            "--engine: engine = 'ridge' has squared errors, which have no tube",
        ),
    ],
)
def test_options_that_cannot_be_used_are_named(changes, seed, says):
    with pytest.raises(InputError, match=says):
        run_config("standard", changes, "morgan", seed)


def test_every_target_space_can_be_named():
    for name in TARGET_SPACES:
        assert BoostingConfig(target_space=name).target_space == name
