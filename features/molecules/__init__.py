"""Molecules as rows of numbers: fingerprints, descriptors, embeddings."""

FITTED_IN_FOLD = ("descriptors",)
WITHOUT_WEIGHTS = ("morgan", "descriptors")


def fitted_in_fold(encoder: str) -> bool:
    """Say whether an encoder learns from the molecules it is fitted to."""
    return encoder in FITTED_IN_FOLD


def needs_weights(encoder: str) -> bool:
    """Say whether an encoder is a language model, whose weights must be on this machine or fetched."""
    return encoder not in WITHOUT_WEIGHTS
