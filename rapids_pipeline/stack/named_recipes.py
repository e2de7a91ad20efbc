"""Named recipes: how a run's members are made, stacked and blended. A TOML file defines others:

    name = "mine"
    description = "one SVR and a quick booster"
    n_folds = 5

    [[svrs]]
    features = "svr_shared"        # a name, a .toml file, or a table as in `rapids-perturb features NAME --toml`
    C = 2.0

    [boosting]
    n_estimators = 300
    features = "boosting"

    [pseudo_labels]
    use = "off"

Whatever it leaves out has its default; `rapids-perturb recipes NAME --toml` prints a recipe in full.
"""

import tomllib
from pathlib import Path

import tomli_w
from pydantic import ValidationError

from features.feature_sets import FEATURE_SETS
from rapids_pipeline.backend.errors import InputError, first_fault
from rapids_pipeline.stack.recipe import (
    BoostingConfig,
    KernelConfig,
    MachineConfig,
    PseudoLabelConfig,
    Recipe,
    SvrConfig,
)

BEST, STANDARD, PUBLISHED, QUICK = "best", "standard", "published", "quick"

_SHARED, _PER_TARGET = (SvrConfig(features=FEATURE_SETS[name]) for name in ("svr_shared", "svr_per_target"))

COMPOSITE = KernelConfig(
    known=MachineConfig(
        weights={
            "cell_type": 1.5,
            "tanimoto": 0.7,
            "correlation * tanimoto": 1.5,
            "correlation * profile_linear": 7.0,
            "correlation * profile_rbf": 2.0,
        },
        profile_shrinkage=1.0,
        transform="asinh",
        transform_scale=2.0,
        penalty=1.8,
        penalty_growth=1.0,
        noise_exponent=0.1,
    ),
    new_compounds=MachineConfig(
        weights={
            "cell_type": 0.1,
            "correlation * tanimoto^2": 2.0,
            "rbf(descriptors)": 0.7,
        },
        transform="none",
        penalty=3.0,
        penalty_growth=0.0,
        noise_exponent=0.6,
    ),
)
"""Kernel machines whose settings were chosen by cross-validation on the training rows of lincs_lung."""

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name=BEST,
            description="the most accurate: composite kernels with response profiles, an SVR, a booster on top",
            svrs=(_SHARED,),
            kernels=(COMPOSITE,),
            pseudo_labels=PseudoLabelConfig(use="off"),
        ),
        Recipe(
            name=STANDARD,
            description="SVRs with and without each gene's own statistics, a booster on top, their blend",
            svrs=(_SHARED, _PER_TARGET),
        ),
        Recipe(
            name=PUBLISHED,
            description="the settings of the fourth place of the competition, its leaks closed",
            svrs=(_SHARED, _PER_TARGET),
            boosting=BoostingConfig(
                n_estimators=1000,
                learning_rate=0.01,
                max_depth=10,
                features=FEATURE_SETS["boosting_aggregates"],
            ),
        ),
        Recipe(
            name=QUICK,
            description="a first look: one SVR, few folds and trees, no pseudo-labels",
            n_folds=3,
            svrs=(_SHARED.model_copy(update={"tol": 1e-2}),),
            boosting=BoostingConfig(n_estimators=100, learning_rate=0.1),
            pseudo_labels=PseudoLabelConfig(use="off"),
        ),
    )
}


def recipe(name: str | Path) -> Recipe:
    """Return the recipe of a name, or the one that a TOML file defines.

    Raises
    ------
    InputError
        No such recipe (the message lists them) or file, or a file that defines none (the message names the key).
    """
    if str(name) in RECIPES:
        return RECIPES[str(name)]
    path = Path(name)
    if path.suffix != ".toml":
        raise InputError(f"no recipe {str(name)!r}; choose among {', '.join(RECIPES)}, or name a .toml file")
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file ({error})") from None
    except ValidationError as error:
        raise InputError(f"{path}: {first_fault(error)}") from None


def to_toml(found: Recipe) -> str:
    """Return a recipe as the TOML file that defines it; feature sets that have a name are named."""
    content = found.model_dump(mode="json", exclude_none=True)
    sets = [svr.features for svr in found.svrs] + [found.boosting.features]
    for stage, features in zip([*content["svrs"], content["boosting"]], sets, strict=True):
        if FEATURE_SETS.get(features.name) == features:
            stage["features"] = features.name
    return tomli_w.dumps(content)
