"""Third place: embedding nets in a space of components, taught by their own predictions of the test rows."""

from collections.abc import Sequence

from rapids_pipeline.nets.settings import Block, EmbeddingMlp, LossName, Order, Training
from rapids_pipeline.stack.members.member import PseudoLabels
from rapids_pipeline.stack.members.net import NetMember
from rapids_pipeline.stack.recipe import BlendConfig, Recipe
from rapids_pipeline.stack.winners.parts import COMPETITION

THIRD_PLACE, THIRD_PLACE_FAITHFUL = "third_place", "third_place_faithful"
THIRD_PLACE_SOURCE = (
    f"okon2000, third place, {COMPETITION}; github.com/okon2000/single_cell_perturbations (MIT)"
)
THIRD_PLACE_DIFFERS = (
    "the SVD that was trained in is the one that predicts; the original made another one for its predictions",
    "an unknown cell type or compound has the mean vector of the known ones; the original cannot predict it",
    "the teachers count alike, and their mean is not clipped before it teaches",
)
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


def sound_net(number: int, labels: PseudoLabels) -> NetMember:
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


def sound() -> Recipe:
    """Return the recipe that takes minutes on two cores."""
    return Recipe(
        name=THIRD_PLACE,
        description="the third place's nets on names alone, few and fast, taught by their own predictions",
        source=THIRD_PLACE_SOURCE,
        differs=(
            *THIRD_PLACE_DIFFERS,
            "two nets of 8 replicas, and not 7 of 10 that teach 20 of 10",
            "40 epochs with a falling rate, faster running values, asinh of the targets, means of replicas",
            "pseudo-labels only where out-of-fold predictions ask for them; weights are learnt from these, too",
        ),
        n_folds=3,
        members=(sound_net(6, PseudoLabels()), sound_net(1, PseudoLabels())),
    )


def faithful() -> Recipe:
    """Return the recipe with the published numbers."""
    teachers = {f"teacher_{number}": net for number, net in STAGE_1.items()}
    taught = PseudoLabels(use="on", teacher=tuple(teachers))
    return Recipe(
        name=THIRD_PLACE_FAITHFUL,
        description="the third place as published: 27 nets of 10 replicas (an hour and more on a CPU)",
        source=THIRD_PLACE_SOURCE,
        differs=THIRD_PLACE_DIFFERS,
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
