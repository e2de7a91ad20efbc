"""ScAPE: an encoder of compound and cell type, and a decoder that reads the cell type."""

from features.feature_sets import FEATURE_SETS, FeatureSet
from rapids_pipeline.nets.settings import ConditionalEncoderDecoder, Training
from rapids_pipeline.stack.members.net import NetMember
from rapids_pipeline.stack.recipe import BlendConfig, Recipe
from rapids_pipeline.stack.winners.parts import COMPETITION, statistics

SCAPE_SOURCE = f"scapeML, 16th place and judges' prize, {COMPETITION}; github.com/scapeML/scape (MIT)"
SCAPE_NET = NetMember(
    name="encoder_decoder",
    architecture=ConditionalEncoderDecoder(),
    features=FEATURE_SETS["loo"],
    n_components=100,
    replicas=8,
    training=Training(optimizer="rmsprop", learning_rate=5e-3, betas=(0.9, 0.9), batch_size=128),
)
"""The encoder and decoder as the recipe scape trains it."""


def sound() -> Recipe:
    """Return the recipe that takes minutes on two cores."""
    return Recipe(
        name="scape",
        description="ScAPE's encoder and decoder on leave-one-out means of components",
        source=SCAPE_SOURCE,
        differs=(
            "eight nets on all rows of a fit, not 146 that each leave one row out to choose their epoch by",
            "leave-one-out means of 100 components, not medians of 64 genes with the row's own value",
            "responses alone; the original also read log fold changes",
            "40 epochs with a falling rate, and no second net for the strongest compounds",
        ),
        n_folds=3,
        members=(SCAPE_NET,),
    )


def faithful() -> Recipe:
    """Return the recipe with the published numbers."""
    net = NetMember(
        name="encoder_decoder",
        architecture=ConditionalEncoderDecoder(norm_momentum=0.01),
        features=FeatureSet(
            name="scape_published",
            description="ScAPE: medians of 64 genes",
            blocks=(*statistics("median", leaky=True, n_targets=64),),
        ),
        standardise=False,
        transform="none",
        n_components="none",
        replicas=1,
        every_fold=True,
        aggregate="median",
        training=Training(
            optimizer="rmsprop",
            learning_rate=5e-3,
            betas=(0.9, 0.9),
            schedule="plateau",
            batch_size=128,
            epochs=300,
            input_noise=0.01,
            checkpoint="best",
            validation="most_measured",
            validation_folds=146,
        ),
    )
    return Recipe(
        name="scape_faithful",
        description="ScAPE's base nets as published: one for every compound that is left out (a day on a CPU)",
        source=SCAPE_SOURCE,
        differs=(
            "responses alone; the original also read log fold changes",
            "the base nets alone, without those for the strongest compounds and genes",
        ),
        n_folds=3,
        members=(net,),
        blend=BlendConfig(clip=False, shrink=False),
    )
