"""The recipes that have a name: ours, the fourth place's, and the third place's nets with all their published numbers.

    best              composite kernels and a booster on them
    standard, quick   SVRs and a booster on them
    published         the fourth place of the competition
    best_with_nets    best, and the nets of third_place in the blend
    third_place       nets on names alone, taught by each other's predictions of the test rows: few and fast
    third_place_faithful   the same as published: 7 nets of 10 replicas that teach 20 of 10

The third place's nets (Open Problems, NeurIPS 2023; okon2000, single_cell_perturbations, MIT) are `STAGE_1` and
`STAGE_2`. What differs here from the original, in both recipes:

- Replicas differ in weights, order and dropout by one seed. The original seeded order and dropout of some nets alike,
  and initial weights not at all.
- The SVD that was trained in is the one that predicts. The original made another one for its predictions.
- An unknown cell type or compound has the mean vector of the known ones. The original cannot predict it.
- Targets are divided by their root mean square first, which was about 1 in the competition's data.
- Pseudo-labels of an outer fold come from nets that never saw the fold, so the out-of-fold score is an honest one.
- The teachers count alike, and their mean is not clipped before it teaches.

third_place_faithful has the published weights of the second stage; third_place learns them from out-of-fold rows.
"""

from collections.abc import Sequence
from pathlib import Path

from features.feature_sets import FEATURE_SETS
from rapids_pipeline.backend.settings import by_name_or_toml
from rapids_pipeline.nets.settings import Block, EmbeddingMlp, LossName, Order, Training
from rapids_pipeline.stack.members.booster import BoosterMember
from rapids_pipeline.stack.members.composite import CompositeMember
from rapids_pipeline.stack.members.kernel_model import KernelModelConfig
from rapids_pipeline.stack.members.member import PseudoLabels
from rapids_pipeline.stack.members.net import NetMember
from rapids_pipeline.stack.members.svr import OwnTargetSvrMember, SvrMember
from rapids_pipeline.stack.recipe import BlendConfig, Recipe

BEST, STANDARD, PUBLISHED, QUICK = "best", "standard", "published", "quick"
BEST_WITH_NETS, THIRD_PLACE, THIRD_PLACE_FAITHFUL = "best_with_nets", "third_place", "third_place_faithful"

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
)
"""Settings chosen by cross-validation on the training rows of lincs_lung, those of contexts on Open TG-GATEs."""


_N: Order = "linear norm relu drop"
_R: Order = "linear relu norm drop"
_D: Order = "linear relu drop"
FAMILIES: dict[int, tuple[LossName, tuple[Order, ...]]] = {
    1: ("mae", (_N, _R)),
    2: ("mae", (_N, _R)),
    3: ("mae", (_N, _N, _N, _N)),
    4: ("mae", (_N, _N, _N)),
    5: ("mrrmse", (_N, _N)),
    6: ("mrrmse", (_D, _N)),
    7: ("mrrmse", (_N, _N, _N, _N)),
    8: ("mrrmse", (_N, _N, _N)),
}
"""Loss and blocks of the third place's eight models; the sixth normalises the vectors first."""


def third_place_net(
    family: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    embedding: int,
    widths: Sequence[int],
    dropout: Sequence[float],
    n_components: int,
) -> NetMember:
    """Return a net of the third place; its columns are those of the published tables."""
    loss, orders = FAMILIES[family]
    blocks = zip(widths, dropout, orders, strict=True)
    return NetMember(
        name=f"net_{family}",
        architecture=EmbeddingMlp(
            embedding=embedding,
            norm=family == 6,
            norm_momentum=0.01,
            blocks=tuple(Block(width=width, dropout=p, order=order) for width, p, order in blocks),
        ),
        training=Training(
            loss={loss: 1.0},
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            schedule="constant",
        ),
        n_components=n_components,
        transform="none",
        replicas=10,
        aggregate="median",
    )


# fmt: off
STAGE_1 = {
    1: third_place_net(1, 114, 128, 0.008458, 22, (256, 1024), (0.2, 0.2), 50),
    2: third_place_net(2, 136, 64, 0.007787, 10, (384, 1280), (0.4643, 0.1010), 60),
    3: third_place_net(3, 157, 64, 0.004312, 62, (560, 480, 248, 224), (0.4360, 0.3443, 0.0111, 0.2313), 119),
    5: third_place_net(5, 122, 32, 0.004429, 32, (256, 1024), (0.4060, 0.1782), 71),
    6: third_place_net(6, 112, 128, 0.009774, 60, (436, 416), (0.2574, 0.2574), 126),
    7: third_place_net(7, 141, 128, 0.005530, 48, (712, 400, 232, 216), (0.4904, 0.0324, 0.1114, 0.0199), 100),
    8: third_place_net(8, 143, 192, 0.009719, 48, (312, 344, 248), (0.1097, 0.1011, 0.0978), 100),
}
"""The nets of the first stage, by the number of their model."""

STAGE_2 = {
    "1a": third_place_net(1, 200, 128, 0.008458, 22, (256, 1024), (0.2, 0.2), 50),
    "2a": third_place_net(2, 200, 64, 0.007787, 10, (384, 1280), (0.4643, 0.1010), 60),
    "2b": third_place_net(2, 200, 192, 0.008304, 32, (284, 1424), (0.2786, 0.0422), 96),
    "2c": third_place_net(2, 200, 64, 0.006661, 22, (232, 1184), (0.4623, 0.2443), 61),
    "3a": third_place_net(3, 200, 64, 0.004312, 62, (560, 480, 248, 224), (0.4360, 0.3443, 0.0111, 0.2313), 119),
    "3b": third_place_net(3, 200, 64, 0.007916, 22, (504, 136, 232, 512), (0.0072, 0.0778, 0.3483, 0.4011), 55),
    "4a": third_place_net(4, 200, 64, 0.005949, 46, (872, 264, 256), (0.1754, 0.3588, 0.1208), 213),
    "4b": third_place_net(4, 200, 128, 0.006444, 62, (552, 480, 216), (0.3234, 0.1514, 0.0346), 104),
    "5a": third_place_net(5, 200, 32, 0.005430, 56, (256, 1024), (0.0287, 0.3581), 108),
    "5b": third_place_net(5, 200, 192, 0.005289, 60, (256, 1024), (0.2978, 0.3236), 78),
    "5c": third_place_net(5, 200, 32, 0.004429, 32, (256, 1024), (0.4060, 0.1782), 71),
    "6a": third_place_net(6, 200, 128, 0.003047, 62, (396, 912), (0.1738, 0.1738), 144),
    "6b": third_place_net(6, 200, 128, 0.009774, 60, (436, 416), (0.2574, 0.2574), 126),
    "6c": third_place_net(6, 200, 160, 0.005742, 56, (504, 928), (0.2433, 0.2433), 134),
    "7a": third_place_net(7, 200, 128, 0.002626, 62, (824, 184, 208, 472), (0.0441, 0.0512, 0.0593, 0.0882), 167),
    "7b": third_place_net(7, 200, 128, 0.005530, 48, (712, 400, 232, 216), (0.4904, 0.0324, 0.1114, 0.0199), 100),
    "8a": third_place_net(8, 200, 192, 0.009719, 48, (312, 344, 248), (0.1097, 0.1011, 0.0978), 100),
    "8b": third_place_net(8, 200, 192, 0.008078, 16, (1016, 392, 176), (0.2141, 0.4054, 0.1048), 72),
    "8c": third_place_net(8, 200, 160, 0.005427, 36, (760, 416, 240), (0.1649, 0.0142, 0.0582), 128),
    "8d": third_place_net(8, 200, 224, 0.007745, 38, (856, 352, 112), (0.0590, 0.1093, 0.0622), 246),
}
"""The nets of the second stage, by their published names."""
# fmt: on

SOUND_EPOCHS, SOUND_REPLICAS = 40, 8
# fmt: off
STAGE_2_WEIGHTS = {
    "1a": 0.03950, "2a": 0.22778, "2b": 0.64705, "2c": 0.14998, "3a": 0.24180, "3b": 0.01823, "4a": 0.06708,
    "4b": 0.45476, "5a": 0.89537, "5b": 0.23417, "5c": 0.37805, "6a": 0.34287, "6b": 0.58025, "6c": 0.81582,
    "7a": 0.48650, "7b": 0.01708, "8a": 0.26623, "8b": 0.20727, "8c": 0.47400, "8d": 0.67585,
}
# fmt: on
"""What the nets of the second stage count, before these numbers are divided by their sum."""


def _sound(number: int, labels: PseudoLabels) -> NetMember:
    """Return a net of the first stage as the recipe third_place trains it: a third of the epochs, and better."""
    net = STAGE_1[number]
    return net.updated(
        architecture=net.architecture.model_copy(update={"norm_momentum": 0.1}),
        training=net.training.model_copy(
            update={"loss": {"mrrmse": 1.0}, "schedule": "linear", "epochs": SOUND_EPOCHS}
        ),
        transform="asinh",
        replicas=SOUND_REPLICAS,
        aggregate="mean",
        pseudo_labels=labels,
    )


def _third_place() -> Recipe:
    """Return the published recipe, but for what this module says."""
    teachers = {f"teacher_{number}": net for number, net in STAGE_1.items()}
    taught = PseudoLabels(use="on", teacher=tuple(teachers))
    return Recipe(
        name=THIRD_PLACE_FAITHFUL,
        description="the third place of the competition as published: 27 nets of 10 replicas (hours on a CPU)",
        n_folds=3,
        members=(
            *(net.model_copy(update={"name": name}) for name, net in teachers.items()),
            *(
                net.model_copy(update={"name": f"net_{name}", "pseudo_labels": taught})
                for name, net in STAGE_2.items()
            ),
        ),
        blend=BlendConfig(weights={f"net_{name}": weight for name, weight in STAGE_2_WEIGHTS.items()}),
    )


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name=BEST,
            description="the most accurate: composite kernels with response profiles, a booster on top",
            members=(COMPOSITE, BoosterMember(stacks_on=("composite",))),
        ),
        Recipe(
            name=BEST_WITH_NETS,
            description="best and nets on names alone: level or better for known compounds, several times the time",
            members=(
                COMPOSITE,
                BoosterMember(stacks_on=("composite",)),
                _sound(6, PseudoLabels(use="off")),
                _sound(1, PseudoLabels(use="off")),
            ),
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
        Recipe(
            name=THIRD_PLACE,
            description="the third place's nets on names alone, few and fast, taught by their own predictions",
            n_folds=3,
            members=(_sound(6, PseudoLabels()), _sound(1, PseudoLabels())),
        ),
        _third_place(),
    )
}


def recipe(name: str | Path) -> Recipe:
    """Return the recipe of a name, or the one that a TOML file defines.

    Raises
    ------
    InputError
        No such recipe (the message lists them) or file, or a file that defines none (the message names the key).
    """
    return by_name_or_toml(name, RECIPES, Recipe, "recipe")
