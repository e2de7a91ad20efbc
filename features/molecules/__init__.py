"""Molecules as rows of numbers: fingerprints, descriptors, embeddings; and perturbations that are no molecules."""

import os
from pathlib import Path
from typing import Literal

WITHOUT_WEIGHTS = {
    "morgan": "features.molecules.morgan.MorganEncoder",
    "descriptors": "features.molecules.descriptors.DescriptorEncoder",
}
"""Where the encoders are that need no weights, by name: a new one is a file of this folder and a line here."""
FITTED_IN_FOLD = ("descriptors",)
"""Those of them that learn from the molecules they are fitted to."""
DEFAULT_CHEMBERTA = "DeepChem/ChemBERTa-10M-MTR"
"""The hub id of `--molecules chemberta`."""
NONE = "none"
"""In `--molecules none`: perturbations are told apart by name, and no structure is read."""
TABLE = "table"
"""What kernels and blocks call the columns of `--molecules TABLE` (`features.molecules.table`)."""
ATLAS = "atlas"
"""What kernels call the columns of `--atlas FOLDER` (`features.molecules.atlas`); absent compounds have zeros."""

WEIGHTS_VARIABLE = "RAPIDS_PERTURB_WEIGHTS"
"""Environment variable: weights that the user trusts besides those of --molecules, as PATH lists folders."""

Combine = Literal["sum", "mean"]
"""What the rows of its parts in such a table give a combination "A+B" that has none."""


def fitted_in_fold(encoder: str) -> bool:
    """Say whether an encoder learns from the molecules it is fitted to."""
    return encoder in FITTED_IN_FOLD


def needs_weights(encoder: str) -> bool:
    """Say whether an encoder is a language model, whose weights must be on this machine or fetched."""
    return encoder not in (*WITHOUT_WEIGHTS, TABLE, ATLAS)


def trusted_weights() -> list[str]:
    """Return the weights that the environment names as trusted."""
    return [name for name in os.environ.get(WEIGHTS_VARIABLE, "").split(os.pathsep) if name]


def refuse_foreign(encoder: str) -> None:
    """Raise ValueError where settings from a file name weights that their user has not named."""
    if needs_weights(encoder) and encoder not in ("chemberta", *trusted_weights()):
        raise ValueError(
            f"{encoder[:80]!r} names weights, which a file does not choose: leave the encoder out (kernels: "
            f"rbf(molecules)) and give --molecules {encoder[:80]}, or add it to {WEIGHTS_VARIABLE}"
        )


def is_table(molecules: str) -> bool:
    """Say whether `--molecules` names a table of embeddings: a file of a kind that tables have."""
    from rapids_pipeline.backend.frames import TABLE_SUFFIXES, table_suffix

    path = Path(molecules)
    return table_suffix(path) in TABLE_SUFFIXES and not os.path.isdir(path)  # noqa: PTH112 (takes names of any length)


def reads_structures(molecules: str) -> bool:
    """Say whether what `--molecules` names reads SMILES, so that every row must have one."""
    return molecules != NONE and not is_table(molecules)
