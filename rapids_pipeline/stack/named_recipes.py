"""The recipes that have a name. Those of the competition's winners are in `rapids_pipeline.stack.winners`.

best              composite kernels and a booster on them
best_with_nets    best, and nets in the blend
standard, quick   SVRs and a booster on them
published         the fourth place's SVRs and booster
"""

from pathlib import Path

from rapids_pipeline.backend.settings import by_name_or_toml
from rapids_pipeline.stack.members.booster import BoosterMember
from rapids_pipeline.stack.members.composite import CompositeMember
from rapids_pipeline.stack.members.kernel_model import KernelModelConfig
from rapids_pipeline.stack.members.member import PseudoLabels
from rapids_pipeline.stack.members.svr import OwnTargetSvrMember, SvrMember
from rapids_pipeline.stack.recipe import Recipe
from rapids_pipeline.stack.winners import WINNERS
from rapids_pipeline.stack.winners.fourth_place import FOURTH_PLACE_MEMBERS, FOURTH_PLACE_SOURCE
from rapids_pipeline.stack.winners.scape import SCAPE_NET

BEST, STANDARD, PUBLISHED, QUICK = "best", "standard", "published", "quick"
BEST_WITH_NETS = "best_with_nets"

COMPOSITE = CompositeMember(
    known_compounds=KernelModelConfig(
        weights={
            "cell_type": 1.5,
            "tanimoto": 0.7,
            "correlation * tanimoto": 1.5,
            "correlation * profile_linear": 7.0,
            "correlation * profile_rbf": 2.0,
        },
        context_weights={
            "compound * dose * time": 7.0,
            "cell_type * compound * dose * time": 7.0,
            "compound * time": 5.0,
            "dose * time": 2.0,
            "time": 2.0,
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
        context_weights={"dose * time": 0.5, "time": 0.5, "tanimoto * dose * time": 2.0},
        transform="none",
        penalty=3.0,
        penalty_growth=0.0,
        noise_exponent=0.6,
    ),
    atlas_weights={"correlation * atlas_linear": 3.0, "correlation * atlas_rbf": 1.0},
)
"""Settings chosen by cross-validation on the training rows of lincs_lung, those of contexts on Open TG-GATEs."""
BEST_MEMBERS = COMPOSITE, BoosterMember(stacks_on=("composite",))

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name=BEST,
            description="the most accurate: composite kernels with response profiles, a booster on top",
            members=BEST_MEMBERS,
        ),
        Recipe(
            name=BEST_WITH_NETS,
            description="best and ScAPE's nets: better for known compounds, at several times the work",
            members=(*BEST_MEMBERS, SCAPE_NET),
        ),
        Recipe(
            name=STANDARD,
            description="SVRs with and without each gene's own statistics, a booster on top, their blend",
            members=(
                SvrMember(),
                OwnTargetSvrMember(),
                BoosterMember(stacks_on=("svr_shared", "svr_per_target"), pseudo_labels=PseudoLabels()),
            ),
        ),
        Recipe(
            name=PUBLISHED,
            description="the fourth place's SVRs and booster, their leaks closed",
            source=FOURTH_PLACE_SOURCE,
            members=FOURTH_PLACE_MEMBERS,
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
        *WINNERS,
    )
}


def recipe(name: str | Path) -> Recipe:
    """Return the recipe of a name, or the one that a TOML file defines.

    Raises
    ------
    InputError
        No such recipe (the message lists them) or file, or a file that defines none (the message names the key).

    Examples
    --------
    >>> changed = recipe("best").updated(n_folds=10)
    >>> changed.name, changed.n_folds
    ('best', 10)
    """
    return by_name_or_toml(name, RECIPES, Recipe, "recipe")
