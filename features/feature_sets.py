"""Named recipes of features: ordered, named blocks, each saying what it is fitted on.

A block turns rows into columns. Blocks that use targets are fitted on training rows only and never let a
training row's own targets into its own columns (`fit_transform`); held-out rows get what all training rows
say (`transform`). A recipe (`FeatureSet`) is a list of blocks; `FeatureTable` puts their columns side by side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.categorical import OneHotEncoder
from features.reduction import TruncatedSVD
from features.target import LeaveOneOutEncoder
from rapids_pipeline.backend.errors import InputError

FittedOn = Literal["nothing", "levels", "targets", "predictions"]
N_COMPONENTS = 45


@dataclass(frozen=True)
class Rows:
    """What features of n rows are made from.

    Attributes
    ----------
    obs : pandas.DataFrame
        With `cell_type` and `sm_name`.
    molecules : ndarray of float32, (n, p)
        Molecule features of each row's compound.
    predictions : ndarray of float32, (n, t), optional
        First-level predictions that never saw the row; for recipes that stack.
    """

    obs: pd.DataFrame
    molecules: NDArray[np.float32]
    predictions: NDArray[np.float32] | None = None

    def take(self, which: NDArray[np.intp]) -> "Rows":
        """Return some of the rows, in the order asked for."""
        predictions = None if self.predictions is None else self.predictions[which]
        return Rows(self.obs.iloc[which], self.molecules[which], predictions)


class Block(Protocol):
    """Some columns of a feature table."""

    fitted_on: FittedOn

    def fit_transform(self, rows: Rows, targets: NDArray[np.float32]) -> NDArray[np.float32]:
        """Fit on training rows and their (n, d) targets, and return the training rows' columns."""

    def transform(self, rows: Rows) -> NDArray[np.float32]:
        """Return the columns of other rows."""


class OneHotBlock:
    """One column a level of one metadata column; unseen levels give zeros."""

    fitted_on: FittedOn = "levels"

    def __init__(self, column: str) -> None:
        self._encoder = OneHotEncoder((column,))

    def fit_transform(self, rows: Rows, targets: NDArray[np.float32]) -> NDArray[np.float32]:
        """Learn the levels and encode the training rows."""
        return np.asarray(self._encoder.fit(rows.obs).transform(rows.obs))

    def transform(self, rows: Rows) -> NDArray[np.float32]:
        """Encode other rows."""
        return np.asarray(self._encoder.transform(rows.obs))


class MoleculeBlock:
    """The molecule features as they are."""

    fitted_on: FittedOn = "nothing"

    def fit_transform(self, rows: Rows, targets: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the training rows' molecule features."""
        return rows.molecules

    def transform(self, rows: Rows) -> NDArray[np.float32]:
        """Return other rows' molecule features."""
        return rows.molecules


class LeaveOneOutBlock:
    """Leave-one-out encodings of every target by one metadata column."""

    fitted_on: FittedOn = "targets"

    def __init__(self, column: str) -> None:
        self._column = column
        self._encoder = LeaveOneOutEncoder()

    def set_noise(self, sigma: float, seed: int) -> None:
        """Set the noise of the training rows' encodings."""
        self._encoder.set_params(sigma=sigma, random_state=seed)

    def fit_transform(self, rows: Rows, targets: NDArray[np.float32]) -> NDArray[np.float32]:
        """Fit and encode the training rows, each without its own targets."""
        return self._encoder.fit_transform(rows.obs[self._column], targets)

    def transform(self, rows: Rows) -> NDArray[np.float32]:
        """Encode other rows by the training means of their group."""
        return self._encoder.transform(rows.obs[self._column])


class ReducedMoleculeBlock:
    """A TruncatedSVD of the molecule features."""

    fitted_on: FittedOn = "levels"

    def __init__(self, n_components: int = N_COMPONENTS) -> None:
        self._reduction = TruncatedSVD(n_components)

    def fit_transform(self, rows: Rows, targets: NDArray[np.float32]) -> NDArray[np.float32]:
        """Fit on the training rows' molecules and reduce them."""
        return self._reduction.fit(rows.molecules).transform(rows.molecules)

    def transform(self, rows: Rows) -> NDArray[np.float32]:
        """Reduce other rows' molecules."""
        return self._reduction.transform(rows.molecules)


class PredictionBlock:
    """A TruncatedSVD of first-level predictions."""

    fitted_on: FittedOn = "predictions"

    def __init__(self, n_components: int = N_COMPONENTS) -> None:
        self._reduction = TruncatedSVD(n_components)

    def fit_transform(self, rows: Rows, targets: NDArray[np.float32]) -> NDArray[np.float32]:
        """Fit on the training rows' predictions and reduce them."""
        return self._reduction.fit(_predictions_of(rows)).transform(_predictions_of(rows))

    def transform(self, rows: Rows) -> NDArray[np.float32]:
        """Reduce other rows' predictions."""
        return self._reduction.transform(_predictions_of(rows))


BLOCKS: dict[str, Callable[[], Block]] = {
    "onehot:cell_type": lambda: OneHotBlock("cell_type"),
    "onehot:sm_name": lambda: OneHotBlock("sm_name"),
    "molecules": MoleculeBlock,
    "loo:cell_type": lambda: LeaveOneOutBlock("cell_type"),
    "loo:sm_name": lambda: LeaveOneOutBlock("sm_name"),
    "svd:molecules": ReducedMoleculeBlock,
    "svd:predictions": PredictionBlock,
}


@dataclass(frozen=True)
class FeatureSet:
    """A named, ordered list of blocks."""

    name: str
    blocks: tuple[str, ...]
    description: str


def _known(*sets: FeatureSet) -> dict[str, FeatureSet]:
    return {feature_set.name: feature_set for feature_set in sets}


_ONEHOT = ("onehot:cell_type", "onehot:sm_name")
_LOO = ("loo:cell_type", "loo:sm_name")
FEATURE_SETS = _known(
    FeatureSet("cell_type", _ONEHOT[:1], "which cell type"),
    FeatureSet("sm_name", _ONEHOT[1:], "which compound"),
    FeatureSet("onehot", _ONEHOT, "which cell type and which compound"),
    FeatureSet("molecules", ("molecules",), "the compound's structure only"),
    FeatureSet("molecules_svd", ("svd:molecules",), "the compound's structure in 45 numbers"),
    FeatureSet("cell_type_molecules", ("onehot:cell_type", "molecules"), "cell type and structure"),
    FeatureSet("svr_shared", (*_ONEHOT, "molecules"), "cell type, compound and structure: level 1 of a run"),
    FeatureSet("loo", _LOO, "leave-one-out means by cell type and by compound"),
    FeatureSet("onehot_loo", (*_ONEHOT, *_LOO), "which cell type and compound, and their means"),
    FeatureSet("svr_loo", (*_ONEHOT, "molecules", *_LOO), "everything but first-level predictions"),
    FeatureSet("boosting", (*_LOO, "svd:predictions", "svd:molecules"), "level 2 of a run"),
)


def feature_set(name: str) -> FeatureSet:
    """Return the recipe called `name`; InputError lists the recipes where there is none."""
    if name not in FEATURE_SETS:
        raise InputError(f"no feature set {name!r}; choose among {', '.join(FEATURE_SETS)}")
    return FEATURE_SETS[name]


def needs_predictions(recipe: FeatureSet) -> bool:
    """Say whether a recipe stacks on first-level predictions."""
    return any(BLOCKS[block]().fitted_on == "predictions" for block in recipe.blocks)


class FeatureTable:
    """The columns of a recipe, side by side.

    Parameters
    ----------
    recipe : FeatureSet
    sigma : float
        Noise of the leave-one-out encodings of training rows (see `features.target.LeaveOneOutEncoder`).
    seed : int
        Seed of that noise; every block draws its own.

    Attributes
    ----------
    columns_ : dict of str to int
        Columns of each block, in order; set by `fit_transform`.
    """

    def __init__(self, recipe: FeatureSet, sigma: float = 0.0, seed: int = 0) -> None:
        self.recipe = recipe
        self._blocks = {name: BLOCKS[name]() for name in recipe.blocks}
        for position, block in enumerate(self._blocks.values()):
            if isinstance(block, LeaveOneOutBlock):
                block.set_noise(sigma, seed + position)
        self.columns_: dict[str, int] = {}

    def fit_transform(self, rows: Rows, targets: NDArray[np.float32]) -> NDArray[np.float32]:
        """Fit every block on training rows and return their features, (n, p) float32."""
        parts = {name: block.fit_transform(rows, targets) for name, block in self._blocks.items()}
        self.columns_ = {name: part.shape[1] for name, part in parts.items()}
        return np.hstack(list(parts.values()), dtype=np.float32)

    def transform(self, rows: Rows) -> NDArray[np.float32]:
        """Return the features of other rows, (n, p) float32."""
        return np.hstack([block.transform(rows) for block in self._blocks.values()], dtype=np.float32)


def _predictions_of(rows: Rows) -> NDArray[np.float32]:
    if rows.predictions is None:
        raise ValueError("this feature set needs first-level predictions and the rows have none")
    return rows.predictions
