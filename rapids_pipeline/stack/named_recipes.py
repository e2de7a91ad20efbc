"""Named recipes: how a run's members are made, stacked and blended. A TOML file defines others:

    name = "mine"
    description = "one SVR and a quick booster that reads its predictions"
    n_folds = 5

    [[members]]
    kind = "svr"                   # or own_target_svr, composite, booster
    features = "svr_shared"        # a name, a .toml file, or a table as in `rapids-perturb features NAME --toml`
    C = 2.0

    [[members]]
    kind = "booster"
    n_estimators = 300
    features = "boosting"
    stacks_on = ["svr_shared"]     # members are called by `name`, by default like their feature set
    pseudo_labels = { use = "auto", weight = 0.5 }

Whatever it leaves out has its default; `rapids-perturb recipes NAME --toml` prints a recipe in full.
"""

import tomllib
from pathlib import Path

import tomli_w
from pydantic import ValidationError

from features.feature_sets import FEATURE_SETS
from rapids_pipeline.backend.errors import InputError, first_fault
from rapids_pipeline.stack.members.booster import BoosterMember
from rapids_pipeline.stack.members.composite import CompositeMember, KernelModelConfig
from rapids_pipeline.stack.members.member import PseudoLabels
from rapids_pipeline.stack.members.svr import OwnTargetSvrMember, SvrMember
from rapids_pipeline.stack.recipe import Recipe

BEST, STANDARD, PUBLISHED, QUICK = "best", "standard", "published", "quick"

_SHARED, _PER_TARGET = SvrMember(), OwnTargetSvrMember()

COMPOSITE = CompositeMember(
    known_compounds=KernelModelConfig(
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
    new_compounds=KernelModelConfig(
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
"""Settings chosen by cross-validation on the training rows of lincs_lung."""

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name=BEST,
            description="the most accurate: composite kernels with response profiles, an SVR, a booster on top",
            members=(_SHARED, COMPOSITE, BoosterMember(stacks_on=("svr_shared", "composite"))),
        ),
        Recipe(
            name=STANDARD,
            description="SVRs with and without each gene's own statistics, a booster on top, their blend",
            members=(
                _SHARED,
                _PER_TARGET,
                BoosterMember(stacks_on=("svr_shared", "svr_per_target"), pseudo_labels=PseudoLabels()),
            ),
        ),
        Recipe(
            name=PUBLISHED,
            description="the settings of the fourth place of the competition, its leaks closed",
            members=(
                _SHARED,
                _PER_TARGET,
                BoosterMember(
                    stacks_on=("svr_shared", "svr_per_target"),
                    pseudo_labels=PseudoLabels(),
                    n_estimators=1000,
                    learning_rate=0.01,
                    max_depth=10,
                    features=FEATURE_SETS["boosting_aggregates"],
                ),
            ),
        ),
        Recipe(
            name=QUICK,
            description="a first look: one SVR, few folds and trees, no pseudo-labels",
            n_folds=3,
            members=(
                SvrMember(tol=1e-2),
                BoosterMember(stacks_on=("svr_shared",), n_estimators=100, learning_rate=0.1),
            ),
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
    """Return a recipe as the TOML file that defines it; feature sets that have a name are named.

    Members that stack on none, or have no pseudo-labels, say nothing of it.
    """
    content = found.model_dump(mode="json", exclude_none=True)
    for member, settings in zip(found.members, content["members"], strict=True):
        if member.pseudo_labels.use == "off":
            del settings["pseudo_labels"]
        if not member.stacks_on:
            del settings["stacks_on"]
        for features in member.feature_sets:
            if "features" in settings and FEATURE_SETS.get(features.name) == features:
                settings["features"] = features.name
    return tomli_w.dumps(content)
