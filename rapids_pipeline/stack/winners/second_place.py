"""Second place: a transformer encoder."""

from features.feature_sets import FeatureSet
from rapids_pipeline.nets.settings import Training, Transformer
from rapids_pipeline.stack.members.net import NetMember
from rapids_pipeline.stack.recipe import BlendConfig, Recipe
from rapids_pipeline.stack.winners.parts import COMPETITION, LEFT_OUT, ONE_HOT, statistics

SECOND_PLACE_SOURCE = f"Eliorkalfon, second place, {COMPETITION}; github.com/Eliorkalfon/single_cell_pb"


PUBLISHED_TRAINING = Training(
    loss={"huber": 1.0},
    optimizer="lion",
    learning_rate=1e-5,
    betas=(0.9, 0.99),
    weight_decay=1e-4,
    schedule="constant",
    batch_size=32,
    epochs=20_000,
    clip_norm=1.0,
    checkpoint="best",
    patience=5_000,
)


def sound() -> Recipe:
    """Return the recipe that takes minutes on two cores."""
    sets = {
        "means": FeatureSet(name="second_means", description="second place: means", blocks=LEFT_OUT),
        "means_and_deviations": FeatureSet(
            name="second_means_std",
            description="second place: means and deviations",
            blocks=(
                *LEFT_OUT,
                *statistics("std"),
            ),
        ),
    }
    return Recipe(
        name="second_place",
        description="the second place's transformer encoder; the tokens are what is known of a row",
        source=SECOND_PLACE_SOURCE,
        differs=(
            "every block of a row is a token; in the original the rows of a batch were",
            "two nets of five folds, smaller, and not four",
            "statistics are of 60 components, without the row's own targets, and standardised",
            "Adam with a falling rate, and the loss is MRRMSE",
            "the blend's amplitude is learnt from out-of-fold predictions; the original's weights sum to 1.3",
        ),
        n_folds=3,
        members=tuple(
            NetMember(
                name=f"transformer_{name}",
                architecture=Transformer(
                    tokens="blocks", layers=2, width=64, heads=4, feed_forward=256, dropout=0.1
                ),
                features=columns,
                n_components=60,
                replicas=1,
                every_fold=True,
                training=Training(
                    learning_rate=3e-3,
                    batch_size=64,
                    epochs=80,
                    checkpoint="best",
                    validation="clusters",
                    validation_folds=5,
                ),
            )
            for name, columns in sets.items()
        ),
    )


def faithful() -> Recipe:
    """Return the recipe with the published numbers."""
    both = FeatureSet(
        name="second_mean_std_published",
        description="second place: mean and deviation",
        blocks=(
            *ONE_HOT,
            *statistics("mean", "std", leaky=True),
        ),
    )
    means = FeatureSet(
        name="second_mean_published",
        description="second place: mean",
        blocks=(
            *ONE_HOT,
            *statistics("mean", leaky=True),
        ),
    )
    members = {
        "clusters": (both, "clusters", 0.5),
        "common_columns": (both, "rows", 0.25),
        "clusters_again": (both, "clusters", 0.25),
        "means": (means, "rows", 0.3),
    }
    return Recipe(
        name="second_place_faithful",
        description="the second place as published, but that rows do not attend to each other (days on a CPU)",
        source=SECOND_PLACE_SOURCE,
        differs=(
            "a row is a sequence of one token, so that attention has nothing to attend to",
            "k-means makes up to ten clusters of the responses, not two",
            "no one-hot column is dropped for being 0 in all test rows",
            "a constant learning rate: the published schedule multiplies it by 0.9999 at times",
        ),
        n_folds=3,
        members=tuple(
            NetMember(
                name=name,
                architecture=Transformer(groups=(2, 2)),
                features=columns,
                standardise=False,
                transform="none",
                n_components="none",
                replicas=1,
                training=PUBLISHED_TRAINING.model_copy(update={"validation": validation}),
            )
            for name, (columns, validation, _) in members.items()
        ),
        blend=BlendConfig(
            clip=False, amplitude=1.3, weights={name: weight for name, (*_, weight) in members.items()}
        ),
    )
