"""The files of a run."""

from dataclasses import dataclass
from pathlib import Path

DEFAULT_LAYER = "clipped_sign_log10_pval"
"""The layer of the Open Problems files that holds the responses."""


@dataclass(frozen=True)
class RunInputs:
    """The files of a run and how to read them."""

    train: Path
    test: Path
    layer: str = DEFAULT_LAYER
    metadata_columns: tuple[str, ...] = ()
