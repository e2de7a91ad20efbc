"""First place: LSTM, GRU and convolutions on one-hot columns and statistics of the targets."""

from features.blocks import MoleculeBlock
from features.feature_sets import FeatureSet
from rapids_pipeline.nets.settings import Architecture, Conv1d, LossName, Recurrent, Training
from rapids_pipeline.stack.members.net import NetMember
from rapids_pipeline.stack.recipe import BlendConfig, Recipe
from rapids_pipeline.stack.winners.parts import COMPETITION, LEFT_OUT, ONE_HOT, statistics

FIRST_PLACE_SOURCE = (
    f"Jean Kouagou, first place, {COMPETITION}; "
    "github.com/Jean-KOUAGOU/1st-place-solution-single-cell-pbs (MIT)"
)
FOUR_LOSSES: dict[LossName, float] = {"mse": 0.32, "mae": 0.24, "log_cosh": 0.24, "sigmoid_bce": 0.2}
SCHEMES = {
    "initial": FeatureSet(
        name="first_initial",
        description="first place, initial: mean and deviation",
        blocks=(
            *LEFT_OUT,
            *statistics("std"),
        ),
    ),
    "light": FeatureSet(name="first_light", description="first place, light: means", blocks=LEFT_OUT),
    "heavy": FeatureSet(
        name="first_heavy",
        description="first place, heavy: means, and quartiles by cell type",
        blocks=(
            *LEFT_OUT,
            *statistics("quantile_0.25", "quantile_0.5", "quantile_0.75", by=["cell_type"]),
        ),
    ),
}
"""What a net of first_place reads, by the published names; a row's statistics leave out the row itself or its fold."""
PUBLISHED_SCHEMES = {
    "initial": FeatureSet(
        name="first_initial_published",
        description="first place, initial",
        blocks=(
            *ONE_HOT,
            *statistics("mean", "std", leaky=True),
            MoleculeBlock(),
        ),
    ),
    "light": FeatureSet(
        name="first_light_published",
        description="first place, light",
        blocks=(
            *ONE_HOT,
            *statistics("mean", leaky=True),
            MoleculeBlock(),
        ),
    ),
    "heavy": FeatureSet(
        name="first_heavy_published",
        description="first place, heavy",
        blocks=(
            *ONE_HOT,
            *statistics("quantile_0.25", "quantile_0.5", "quantile_0.75", leaky=True, by=["cell_type"]),
            *statistics("mean", leaky=True),
            MoleculeBlock(),
        ),
    ),
}
FIRST_PLACE_WEIGHTS = {"light": (0.1772, 0.1533), "initial": (0.1932, 0.1533), "heavy": (0.1764, 0.1466)}
"""What the plain and the weighted mean of a scheme's nets count."""
NET_WEIGHTS = {"lstm": 0.29, "cnn": 0.33, "gru": 0.38}
"""What the nets count in the weighted mean."""


def sound() -> Recipe:
    """Return the recipe that takes minutes on two cores."""
    nets: dict[str, tuple[Architecture, str]] = {
        "lstm": (Recurrent(cell="lstm", hidden=64, head=(256,), dropout=0.1), "initial"),
        "gru": (Recurrent(cell="gru", hidden=64, head=(256,), dropout=0.1), "light"),
        "cnn": (Conv1d(head=(512, 256), dropout=0.1), "heavy"),
    }
    return Recipe(
        name="first_place",
        description="the first place's LSTM, GRU and convolutions on statistics of components",
        source=FIRST_PLACE_SOURCE,
        differs=(
            "each net reads one of the three schemes, so there are 15 nets and not 45",
            "statistics are of 60 components and leave out the row's own targets",
            "there are no one-hot columns, by which a net could undo that",
            "no molecules and no masking, both of which raise the error of nets here",
            "the parameters of each net's best epoch are kept, as was meant",
            "weights of the blend are learnt from out-of-fold predictions",
        ),
        n_folds=3,
        members=tuple(
            NetMember(
                name=name,
                architecture=architecture,
                features=SCHEMES[scheme],
                n_components=60,
                replicas=1,
                every_fold=True,
                training=Training(
                    loss=FOUR_LOSSES,
                    learning_rate=3e-3,
                    batch_size=32,
                    epochs=50,
                    clip_norm=1.0,
                    checkpoint="best",
                    validation_folds=5,
                ),
            )
            for name, (architecture, scheme) in nets.items()
        ),
    )


def faithful() -> Recipe:
    """Return the recipe with the published numbers."""
    nets: dict[str, Architecture] = {"lstm": Recurrent(), "cnn": Conv1d(), "gru": Recurrent(cell="gru")}
    rates = {"lstm": 1e-3, "cnn": 1e-3, "gru": 3e-4}
    return Recipe(
        name="first_place_faithful",
        description="the first place as published: 45 nets on all genes' statistics (days on a CPU)",
        source=FIRST_PLACE_SOURCE,
        differs=(
            "p columns are folded into √p steps; the published numbers are those of the competition's genes",
            "molecules are encoded as --molecules says, not by logits of a head with random weights",
            "quartiles are ordered by statistic, and 18,211 columns of zeros are left out",
            "masks are drawn in every batch; the original masked a copy of the rows once and trained on both",
            "folds of a net count alike, not 0.25, 0.15, 0.20, 0.15, 0.25",
        ),
        n_folds=3,
        members=tuple(
            NetMember(
                name=f"{net}_{scheme}",
                architecture=architecture,
                features=PUBLISHED_SCHEMES[scheme],
                standardise=False,
                transform="none",
                n_components="none",
                replicas=1,
                every_fold=True,
                training=Training(
                    loss=FOUR_LOSSES,
                    learning_rate=rates[net],
                    eps=1e-8,
                    schedule="constant",
                    batch_size=16,
                    epochs=250,
                    clip_norm=5.0 if scheme == "initial" else 1.0,
                    masking=0.3,
                    validation_folds=5,
                ),
            )
            for scheme in FIRST_PLACE_WEIGHTS
            for net, architecture in nets.items()
        ),
        blend=BlendConfig(
            clip=False,
            weights={
                f"{net}_{scheme}": plain / len(nets) + weighted * NET_WEIGHTS[net]
                for scheme, (plain, weighted) in FIRST_PLACE_WEIGHTS.items()
                for net in nets
            },
        ),
    )
