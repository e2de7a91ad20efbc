"""Molecules as rows of numbers: fingerprints, descriptors, embeddings."""

WITHOUT_WEIGHTS = {
    "morgan": "features.molecules.morgan.MorganEncoder",
    "descriptors": "features.molecules.descriptors.DescriptorEncoder",
}
"""Where the encoders are that need no weights, by name: a new one is a file of this folder and a line here."""
FITTED_IN_FOLD = ("descriptors",)
"""Those of them that learn from the molecules they are fitted to."""


def fitted_in_fold(encoder: str) -> bool:
    """Say whether an encoder learns from the molecules it is fitted to."""
    return encoder in FITTED_IN_FOLD


def needs_weights(encoder: str) -> bool:
    """Say whether an encoder is a language model, whose weights must be on this machine or fetched."""
    return encoder not in WITHOUT_WEIGHTS
