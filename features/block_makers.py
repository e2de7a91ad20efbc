"""What makes the columns of a block: fitted on training rows, then asked for other rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.categorical import OneHotEncoder
from features.descriptors import DescriptorEncoder
from features.molecule_columns import fitted_in_fold
from features.reduction import TruncatedSVD
from features.target import LeaveOneOutEncoder, TargetEncoder
from rapids_pipeline.backend.errors import InputError

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Rows:
    """What features of n rows are made from.

    Attributes
    ----------
    obs : pandas.DataFrame
        With `cell_type` and `sm_name`, and `SMILES` where an encoder is fitted in-fold (`descriptors`).
    molecules : mapping of str to ndarray of float32, (n, p)
        Molecule features of each row's compound, by the name of the encoder that made them.
    predictions : ndarray of float32, (n, t), optional
        First-level predictions that never saw the row; for feature sets that stack.
    """

    obs: pd.DataFrame
    molecules: Mapping[str, Matrix] = field(default_factory=dict)
    predictions: Matrix | None = None

    def take(self, which: NDArray[np.intp]) -> "Rows":
        """Return some of the rows, in the order asked for."""
        predictions = None if self.predictions is None else self.predictions[which]
        molecules = {name: values[which] for name, values in self.molecules.items()}
        return Rows(self.obs.iloc[which], molecules, predictions)


class Maker(Protocol):
    """Makes the columns of one block."""

    def fit_transform(self, rows: Rows, targets: Matrix) -> Matrix:
        """Fit on training rows and their (n, d) targets, and return the training rows' columns."""

    def transform(self, rows: Rows) -> Matrix:
        """Return the columns of other rows."""


@dataclass(frozen=True)
class Noise:
    """The multiplicative noise of leave-one-out encodings, and the seed of whatever a block draws."""

    sigma: float = 0.0
    seed: int = 0


class OneHot:
    """Zeros and ones of one column."""

    def __init__(self, column: str) -> None:
        self._encoder = OneHotEncoder((column,))

    def fit_transform(self, rows: Rows, targets: Matrix) -> Matrix:
        """Fit on training rows and return their columns."""
        return np.asarray(self._encoder.fit(rows.obs).transform(rows.obs))

    def transform(self, rows: Rows) -> Matrix:
        """Return the columns of other rows."""
        return np.asarray(self._encoder.transform(rows.obs))


class Molecules:
    """Features that were made before, or those of an encoder that is fitted here."""

    def __init__(self, encoder: str | None) -> None:
        if encoder is None:
            raise ValueError("a block of molecules names no encoder: see FeatureSet.with_molecules")
        self._name = encoder
        self._descriptors = DescriptorEncoder() if fitted_in_fold(encoder) else None

    def fit_transform(self, rows: Rows, targets: Matrix) -> Matrix:
        """Fit on training rows and return their columns."""
        if self._descriptors is not None:
            self._descriptors.fit(rows.obs["SMILES"])
        return self.transform(rows)

    def transform(self, rows: Rows) -> Matrix:
        """Return the columns of other rows."""
        if self._descriptors is not None:
            return self._descriptors.transform(rows.obs["SMILES"])
        return rows.molecules[self._name]


class LeaveOneOut:
    """Leave-one-out means by one column."""

    def __init__(self, column: str, noise: Noise) -> None:
        self._column = column
        self._encoder = LeaveOneOutEncoder(noise.sigma, noise.seed)

    def fit_transform(self, rows: Rows, targets: Matrix) -> Matrix:
        """Fit on training rows and return their columns."""
        return self._encoder.fit_transform(rows.obs[self._column], targets)

    def transform(self, rows: Rows) -> Matrix:
        """Return the columns of other rows."""
        return self._encoder.transform(rows.obs[self._column])


class Statistics:
    """Cross-fitted statistics by one column."""

    def __init__(self, column: str, encoder: TargetEncoder, own_target: bool) -> None:
        self._column, self._encoder, self._own = column, encoder, own_target

    def fit_transform(self, rows: Rows, targets: Matrix) -> Matrix:
        """Fit on training rows and return their columns."""
        if self._own and targets.shape[1] > 1:
            raise InputError(
                f"the block of {self._column} statistics is each target's own (own_target): it cannot make one table "
                f"for {targets.shape[1]} targets; screen one gene with it, or set own_target = false"
            )
        return self._encoder.fit_transform(rows.obs[self._column], targets)

    def transform(self, rows: Rows) -> Matrix:
        """Return the columns of other rows."""
        return self._encoder.transform(rows.obs[self._column])


class Predictions:
    """The first level's predictions as they are."""

    def fit_transform(self, rows: Rows, targets: Matrix) -> Matrix:
        """Fit on training rows and return their columns."""
        return self.transform(rows)

    def transform(self, rows: Rows) -> Matrix:
        """Return the columns of other rows."""
        if rows.predictions is None:
            raise ValueError("this feature set needs first-level predictions and the rows have none")
        return rows.predictions


class Reduced:
    """A TruncatedSVD, fitted on the training rows' columns, of what another maker makes."""

    def __init__(self, maker: Maker, n_components: int) -> None:
        self._maker, self._reduction = maker, TruncatedSVD(n_components)

    def fit_transform(self, rows: Rows, targets: Matrix) -> Matrix:
        """Fit on training rows and return their columns."""
        columns = self._maker.fit_transform(rows, targets)
        return np.asarray(self._reduction.fit(columns).transform(columns))

    def transform(self, rows: Rows) -> Matrix:
        """Return the columns of other rows."""
        return np.asarray(self._reduction.transform(self._maker.transform(rows)))


def reduced(maker: Any, n_components: int | None) -> Maker:
    """Return a maker, or one that reduces what it makes."""
    return maker if n_components is None else Reduced(maker, n_components)
