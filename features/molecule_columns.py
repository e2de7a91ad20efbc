"""Molecule features of training and other rows, by the name of the encoder, made once for all feature sets.

Most encoders learn nothing from molecules, so their columns can be made before there are folds. One that does
(`descriptors`, standardised) is fitted by its block, on the training rows of each fold (`features.blocks`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from features.molecules import molecule_encoder

FITTED_IN_FOLD = ("descriptors",)
WITHOUT_WEIGHTS = ("morgan", "descriptors")


@dataclass(frozen=True)
class MoleculeColumns:
    """Columns by encoder, float32: `training` rows, `others`; and what a reader of results should know."""

    training: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    others: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def fitted_in_fold(encoder: str) -> bool:
    """Say whether an encoder learns from the molecules it is fitted to."""
    return encoder in FITTED_IN_FOLD


def needs_weights(encoder: str) -> bool:
    """Say whether an encoder is a language model, whose weights must be on this machine or fetched."""
    return encoder not in WITHOUT_WEIGHTS


def encode_molecules(
    encoders: Sequence[str], training: Sequence[str], others: Sequence[str] = (), device: str = "cpu"
) -> MoleculeColumns:
    """Encode the SMILES of training rows and of other rows.

    Parameters
    ----------
    encoders : sequence of str
        As `features.molecules.molecule_encoder`; those fitted in-fold are checked and left out of the result.
    training, others : sequence of str
        SMILES of each row.
    device : str
        Torch device of language models.

    Raises
    ------
    InputError, UnavailableError
        As `molecule_encoder` and the encoders.
    """
    found = MoleculeColumns()
    for name in dict.fromkeys(encoders):
        encoder = molecule_encoder(name, device).fit(training)
        if not fitted_in_fold(name):
            values = encoder.transform([*training, *others])
            found.training[name], found.others[name] = values[: len(training)], values[len(training) :]
        found.notes.extend(note for note in encoder.notes() if note not in found.notes)
    return found
