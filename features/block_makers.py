"""What makes the columns of a block: fitted on training rows, then asked for other rows.

A fitted maker's `state()` is plain data; `restore` puts it into a new maker of the same block, which then transforms
as the fitted one, to the last bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.categorical import OneHotEncoder
from features.descriptors import DescriptorEncoder
from features.group_statistics import checked_statistics
from features.molecule_columns import fitted_in_fold
from features.reduction import TruncatedSVD
from features.target import LeaveOneOutEncoder, TargetEncoder
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import State, StateReader

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

    @classmethod
    def joined(cls, first: "Rows", second: "Rows") -> "Rows":
        """Return the rows of both, those of `first` before; predictions only where both have them."""
        obs = pd.concat([first.obs, second.obs], ignore_index=True)
        molecules = {
            name: np.concatenate([values, second.molecules[name]]) for name, values in first.molecules.items()
        }
        if first.predictions is None or second.predictions is None:
            return cls(obs, molecules)
        return cls(obs, molecules, np.concatenate([first.predictions, second.predictions]))


class Maker(Protocol):
    """Makes the columns of one block."""

    def fit_transform(self, rows: Rows, targets: Matrix) -> Matrix:
        """Fit on training rows and their (n, d) targets, and return the training rows' columns."""

    def transform(self, rows: Rows) -> Matrix:
        """Return the columns of other rows."""

    def state(self) -> State:
        """Return what was learnt, as plain data."""

    def restore(self, reader: StateReader) -> int:
        """Take over what a maker of the same block had learnt; return how many columns it makes.

        Raises
        ------
        InputError
            The state is damaged or another block's.
        """


@dataclass(frozen=True)
class Noise:
    """The multiplicative noise of leave-one-out encodings, and the seed of whatever a block draws."""

    sigma: float = 0.0
    seed: int = 0


class OneHot:
    """Zeros and ones of one column."""

    def __init__(self, column: str) -> None:
        self._column, self._encoder = column, OneHotEncoder((column,))

    def fit_transform(self, rows: Rows, targets: Matrix) -> Matrix:
        """Fit on training rows and return their columns."""
        return np.asarray(self._encoder.fit(rows.obs).transform(rows.obs))

    def transform(self, rows: Rows) -> Matrix:
        """Return the columns of other rows."""
        return np.asarray(self._encoder.transform(rows.obs))

    def state(self) -> State:
        """Return the levels."""
        return self._encoder.state()

    def restore(self, reader: StateReader) -> int:
        """Take over the levels; return their number."""
        self._encoder = OneHotEncoder.from_state(reader)
        _require_column(reader, list(self._encoder.levels_), self._column)
        return len(self._encoder.levels_[self._column])


class Molecules:
    """Features that were made before, or those of an encoder that is fitted here."""

    def __init__(self, encoder: str | None) -> None:
        if encoder is None:
            raise ValueError("a block of molecules names no encoder: see FeatureSet.with_molecules")
        self._name = encoder
        self._descriptors = DescriptorEncoder() if fitted_in_fold(encoder) else None
        self._width = 0

    def fit_transform(self, rows: Rows, targets: Matrix) -> Matrix:
        """Fit on training rows and return their columns."""
        if self._descriptors is not None:
            return self._descriptors.fit(rows.obs["SMILES"]).transform(rows.obs["SMILES"])
        self._width = rows.molecules[self._name].shape[1]
        return rows.molecules[self._name]

    def transform(self, rows: Rows) -> Matrix:
        """Return the columns of other rows (InputError: features of another width than the training rows')."""
        if self._descriptors is not None:
            return self._descriptors.transform(rows.obs["SMILES"])
        return _of_width(rows.molecules[self._name], self._width, f"molecule features by {self._name}")

    def state(self) -> State:
        """Return what the encoder learnt, or how many columns it makes; the encoder's name is the recipe's."""
        return {"width": self._width} if self._descriptors is None else self._descriptors.state()

    def restore(self, reader: StateReader) -> int:
        """Take over the encoder; return how many columns it makes."""
        if self._descriptors is not None:
            self._descriptors = DescriptorEncoder.from_state(reader)
            return len(self._descriptors.names_)
        self._width = _width(reader)
        return self._width


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

    def state(self) -> State:
        """Return the group means."""
        return self._encoder.state()

    def restore(self, reader: StateReader) -> int:
        """Take over the group means; return the number of targets."""
        self._encoder = LeaveOneOutEncoder.from_state(reader)
        _require_column(reader, self._encoder.columns_, self._column)
        return len(self._encoder.targets_)


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

    def state(self) -> State:
        """Return the statistics of every group."""
        return self._encoder.state()

    def restore(self, reader: StateReader) -> int:
        """Take over the statistics; return how many columns they make."""
        wanted = checked_statistics(self._encoder.statistics)
        self._encoder = TargetEncoder.from_state(reader)
        _require_column(reader, self._encoder.columns_, self._column)
        if self._encoder.statistics_ != wanted:
            raise reader.fault(
                f"statistics are {', '.join(self._encoder.statistics_)}, not {', '.join(wanted)}"
            )
        if self._own and len(self._encoder.targets_) != 1:
            raise reader.fault(
                f"statistics of each target's own are of {len(self._encoder.targets_)} targets"
            )
        return len(wanted) * len(self._encoder.targets_)


class Predictions:
    """The first level's predictions as they are."""

    def __init__(self) -> None:
        self._width = 0

    def fit_transform(self, rows: Rows, targets: Matrix) -> Matrix:
        """Fit on training rows and return their columns."""
        self._width = _predictions(rows).shape[1]
        return _predictions(rows)

    def transform(self, rows: Rows) -> Matrix:
        """Return the columns of other rows (InputError: not as many predictions as in training)."""
        return _of_width(_predictions(rows), self._width, "first-level predictions")

    def state(self) -> State:
        """Return how many columns there are."""
        return {"width": self._width}

    def restore(self, reader: StateReader) -> int:
        """Take over how many columns there are, and return it."""
        self._width = _width(reader)
        return self._width


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

    def state(self) -> State:
        """Return what the other maker and the reduction learnt."""
        return {"reduced": self._maker.state(), "svd": self._reduction.state()}

    def restore(self, reader: StateReader) -> int:
        """Take over both; return the number of components."""
        width = self._maker.restore(reader.part("reduced"))
        self._reduction = TruncatedSVD.from_state(reader.part("svd"))
        n_kept, n_features = self._reduction.components_.shape
        if n_features != width:
            raise reader.fault(f"svd reduces {n_features} columns, and there are {width}")
        return int(n_kept)


def reduced(maker: Any, n_components: int | None) -> Maker:
    """Return a maker, or one that reduces what it makes."""
    return maker if n_components is None else Reduced(maker, n_components)


def _predictions(rows: Rows) -> Matrix:
    if rows.predictions is None:
        raise ValueError("this feature set needs first-level predictions and the rows have none")
    return rows.predictions


def _of_width(values: Matrix, width: int, what: str) -> Matrix:
    """Return the values, InputError where they have not as many columns as in training."""
    if values.shape[1] != width:
        raise InputError(f"{what} have {values.shape[1]} columns and had {width} when the model was trained")
    return values


def _width(reader: StateReader) -> int:
    width = reader.integer("width")
    if width < 1:
        raise reader.fault(f"width is {width}")
    return width


def _require_column(reader: StateReader, found: Sequence[str], wanted: str) -> None:
    """Raise InputError where a block of one column was restored from the state of another."""
    if list(found) != [wanted]:
        raise reader.fault(f"the encoded column is {', '.join(found)}, not {wanted}")
