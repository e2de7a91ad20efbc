"""Blocks of columns: how they are described in a feature set, and the makers that make them.

A *block* (`OneHotBlock`, `MoleculeBlock`, …) is a frozen, validated description that a feature set lists and a TOML
file spells out. With `n_components` its columns are reduced to their TruncatedSVD. Its `maker()` gives what does the
work: it is fitted on training rows only (`fit_transform`) and never lets a training row's own targets, or those of its
replicates, into its own columns; other rows get what all training rows say (`transform`). A fitted maker's `state()` is
plain data; `restore` puts it into a new maker of the same block, which then transforms as the fitted one, to the last
bit.
"""

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from features.group_statistics import checked_statistics
from features.molecules import TABLE, fitted_in_fold
from features.rows import Rows, context_numbers, contexts_of, groups_of, log10_of
from rapids_pipeline.backend.arrays import Float32, RowSource
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.settings import bounded
from rapids_pipeline.backend.state import State, StateReader

FittedOn = Literal["nothing", "levels", "molecules", "targets", "predictions"]
Column = Literal["cell_type", "sm_name"]
Grouping = Literal["cell_type", "sm_name", "compound_dose"]
"""What encodings group by; compound_dose is that of `features.rows.groups_of`."""
Components = Annotated[int | None, bounded(1, 100_000, optional=True)]


class Maker(Protocol):
    """Makes the columns of one block."""

    def fit_transform(self, rows: Rows, targets: Float32) -> Float32:
        """Fit on training rows and their (n, d) targets, and return the training rows' columns."""

    def transform(self, rows: Rows) -> Float32:
        """Return the columns of other rows (InputError: of another width than the training rows')."""

    def state(self) -> State:
        """Return what was learnt, as plain data."""

    def restore(self, reader: StateReader) -> int:
        """Take over a like maker's state (InputError: damaged, or another's); return how many columns it makes."""


class BlockSpec(BaseModel):
    """Base of the descriptions: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fits: ClassVar[FittedOn] = "targets"

    @property
    def name(self) -> str:
        """What the block is called in tables and manifests; svd:… where its columns are reduced."""
        return self._plain()[0] if self._reduced_to is None else f"svd:{self._plain()[0]}"

    @property
    def columns(self) -> str:
        """How many columns it has, in words."""
        return self._plain()[1] if self._reduced_to is None else f"up to {self._reduced_to}"

    @property
    def fitted_on(self) -> FittedOn:
        """What of the training rows the block learns from."""
        return self.fits

    def maker(self, sigma: float = 0.0, seed: int = 0) -> Maker:
        """Return a new maker of its columns; `sigma` is the noise of leave-one-out encodings."""
        plain = self._plain_maker(sigma, seed)
        return plain if self._reduced_to is None else Reduced(plain, self._reduced_to)

    @property
    def _reduced_to(self) -> int | None:
        return getattr(self, "n_components", None)

    @abstractmethod
    def _plain(self) -> tuple[str, str]:
        """Return the name and, in words, the number of the columns before they are reduced."""

    @abstractmethod
    def _plain_maker(self, sigma: float, seed: int) -> Maker:
        """Return a new maker of the columns before they are reduced."""


class OneHotBlock(BlockSpec):
    """One column a level of `column`, in the order of code points; levels that no training row has give zeros."""

    fits = "levels"

    kind: Literal["onehot"] = "onehot"
    column: Column

    def _plain(self) -> tuple[str, str]:
        return f"onehot:{self.column}", f"levels of {self.column}"

    def _plain_maker(self, sigma: float, seed: int) -> Maker:
        return OneHot(self.column)


class MoleculeBlock(BlockSpec):
    """The features of the row's compound; with `n_components` their TruncatedSVD.

    `encoder` is what `--molecules` takes; without one, what `--molecules` says.
    """

    kind: Literal["molecules"] = "molecules"
    encoder: str | None = None
    n_components: Components = None

    @property
    def fitted_on(self) -> FittedOn:
        """The molecules, where columns are standardised or reduced."""
        learns = self.encoder is not None and (fitted_in_fold(self.encoder) or self.encoder == TABLE)
        return "molecules" if learns or self.n_components is not None else "nothing"

    def _plain(self) -> tuple[str, str]:
        return "molecules" if self.encoder is None else f"molecules:{self.encoder}", "width of the encoder"

    def _plain_maker(self, sigma: float, seed: int) -> Maker:
        if self.encoder is None:
            raise ValueError("a block of molecules names no encoder: see FeatureSet.with_molecules")
        if self.encoder == TABLE:
            from features.molecules.table import TableColumns

            return TableColumns()
        return Descriptors() if fitted_in_fold(self.encoder) else Given(self.encoder)


class ContextBlock(BlockSpec):
    """The dose or time of a row: log10, standardised on the training rows, and whether it is missing.

    A dose or time of 0 lies one decade below the least positive training value; a missing one is 0 in the first column.
    """

    fits = "levels"

    kind: Literal["context"] = "context"
    column: Literal["dose_uM", "time_h"]

    def _plain(self) -> tuple[str, str]:
        return self.column.split("_")[0], "2"

    def _plain_maker(self, sigma: float, seed: int) -> Maker:
        return LogScaled(self.column)


class LeaveOneOutBlock(BlockSpec):
    """The leave-one-out mean of every target by `column` (`features.target_encoders.LeaveOneOutEncoder`)."""

    kind: Literal["leave_one_out"] = "leave_one_out"
    column: Grouping

    def _plain(self) -> tuple[str, str]:
        return f"loo:{self.column}", "targets"

    def _plain_maker(self, sigma: float, seed: int) -> Maker:
        from features.target_encoders import LeaveOneOutEncoder

        return Encoded(self.column, LeaveOneOutEncoder(sigma, seed))


class StatisticsBlock(BlockSpec):
    """Statistics of every target by `column`, cross-fitted; with `n_components` their TruncatedSVD.

    The basis of that TruncatedSVD is learnt from all training rows, so a training row's own targets reach its
    columns through the basis. Rows that are held out stay unseen.

    `own_target` says that each target's model gets the statistics of that target alone, as the per-target SVRs
    of the published pipeline do. `leaky` gives a training row statistics that include its own targets, to reproduce
    published numbers: the name says so, and a run notes it. `n_targets` takes the targets alone that vary most.
    """

    kind: Literal["statistics"] = "statistics"
    column: Grouping
    statistics: tuple[Annotated[str, Field(max_length=40)], ...] = Field(("mean",), max_length=50)
    smoothing: Annotated[float, bounded(0.0, 1e9, "it counts rows")] = 0.0
    n_folds: Annotated[int, bounded(2, 1000, "the statistics are made anew for each")] = 5
    n_components: Components = None
    n_targets: Annotated[int | None, bounded(1, 1_000_000, optional=True)] = None
    own_target: bool = False
    leaky: bool = False

    @field_validator("statistics")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return checked_statistics(names)

    def _plain(self) -> tuple[str, str]:
        name = f"{'leaky:' if self.leaky else ''}statistics:{self.column}:{'+'.join(self.statistics)}"
        if self.n_targets is not None:
            return f"{name}:top_{self.n_targets}", f"{len(self.statistics)} × {self.n_targets}"
        return name, f"{len(self.statistics)}" + ("" if self.own_target else " × targets")

    def _plain_maker(self, sigma: float, seed: int) -> Maker:
        from features.target_encoders import TargetEncoder

        encoder = TargetEncoder(
            self.statistics,
            smoothing=self.smoothing,
            n_folds=self.n_folds,
            random_state=seed,
            leaky=self.leaky,
        )
        return Encoded(self.column, encoder, self.own_target, self.n_targets)


class PredictionBlock(BlockSpec):
    """A TruncatedSVD of the first level's predictions."""

    fits = "predictions"

    kind: Literal["predictions"] = "predictions"
    n_components: Annotated[int, bounded(1, 100_000)] = 45

    def _plain(self) -> tuple[str, str]:
        return "predictions", "targets"

    def _plain_maker(self, sigma: float, seed: int) -> Maker:
        return Given()


Block = Annotated[
    OneHotBlock | MoleculeBlock | ContextBlock | LeaveOneOutBlock | StatisticsBlock | PredictionBlock,
    Field(discriminator="kind"),
]


class OneHot:
    """Zeros and ones of one column: scikit-learn's encoder, with the levels of the training rows."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._levels: list[str] = []

    def fit_transform(self, rows: Rows, targets: Float32) -> Float32:
        """Learn the levels, and return the training rows' columns."""
        self._levels = sorted(set(self._labels(rows)))
        if not self._levels:
            raise InputError("one-hot encoding: no row to learn levels from")
        return self.transform(rows)

    def transform(self, rows: Rows) -> Float32:
        """Return the columns of other rows (InputError: a label is missing or no string)."""
        from sklearn.preprocessing import OneHotEncoder

        labels = np.array(self._labels(rows), dtype=object)[:, None]
        if not len(labels):
            return np.zeros((0, len(self._levels)), dtype=np.float32)
        encoder = OneHotEncoder(
            categories=[self._levels], handle_unknown="ignore", sparse_output=False, dtype=np.float32
        )
        return np.asarray(encoder.fit_transform(labels))

    def state(self) -> State:
        """Return the levels."""
        return {"columns": [self._column], "levels_0": self._levels}

    def restore(self, reader: StateReader) -> int:
        """Take over the levels; return their number."""
        _require_column(reader, ", ".join(reader.levels("columns")), self._column)
        self._levels = reader.levels("levels_0")
        if not self._levels:
            raise reader.fault("there is a column without levels")
        return len(self._levels)

    def _labels(self, rows: Rows) -> list[str]:
        labels: list[str] = rows.obs[self._column].tolist()
        for row, label in enumerate(labels):
            if not isinstance(label, str):
                raise InputError(
                    f"column {self._column}, row {row} (from 0): {label!r} is missing or no string"
                )
        return labels


class Given:
    """Columns that the rows bring: the molecule features of an encoder, or without one first-level predictions."""

    def __init__(self, encoder: str | None = None) -> None:
        self._encoder, self._width = encoder, 0

    def fit_transform(self, rows: Rows, targets: Float32) -> Any:
        """Note how many columns there are, and return them."""
        columns = self._columns(rows)
        self._width = columns.shape[1]
        return columns

    def transform(self, rows: Rows) -> Any:
        """Return the columns of other rows (InputError: not as many as in training)."""
        columns = self._columns(rows)
        if columns.shape[1] != self._width:
            what = f"molecule features by {self._encoder}" if self._encoder else "first-level predictions"
            raise InputError(
                f"{what} have {columns.shape[1]} columns and had {self._width} when the model was trained"
            )
        return columns

    def _columns(self, rows: Rows) -> Float32 | RowSource:
        if self._encoder is not None:
            return rows.molecules[self._encoder]
        if rows.predictions is None:
            raise ValueError("this feature set needs first-level predictions and the rows have none")
        return rows.predictions

    def state(self) -> State:
        """Return how many columns there are; the encoder's name is the feature set's."""
        return {"width": self._width}

    def restore(self, reader: StateReader) -> int:
        """Take over how many columns there are, and return it."""
        self._width = reader.integer("width")
        if self._width < 1:
            raise reader.fault(f"width is {self._width}")
        return self._width


class LogScaled:
    """log10 of a dose or time, standardised by the training rows; and what is missing."""

    def __init__(self, column: str) -> None:
        self._column, self._least, self._mean, self._scale = column, 1.0, 0.0, 1.0

    def fit_transform(self, rows: Rows, targets: Float32) -> Float32:
        """Learn the least positive value, mean and deviation, and return the training rows' columns."""
        values = context_numbers(rows.obs, self._column)[:, 0]
        positive = values[values > 0]
        self._least = float(positive.min()) if len(positive) else 1.0
        logs = log10_of(values[~np.isnan(values)], np.array([self._least]))
        if len(logs):
            self._mean, self._scale = float(logs.mean()), float(logs.std()) or 1.0
        return self.transform(rows)

    def transform(self, rows: Rows) -> Float32:
        """Return the columns of other rows."""
        logs = log10_of(context_numbers(rows.obs, self._column)[:, 0], np.array([self._least]))
        scaled = (logs - self._mean) / self._scale
        return np.stack([np.nan_to_num(scaled, nan=0.0), np.isnan(logs)], axis=1).astype(np.float32)

    def state(self) -> State:
        """Return the column and what was learnt of it."""
        return {"column": self._column, "least": self._least, "mean": self._mean, "scale": self._scale}

    def restore(self, reader: StateReader) -> int:
        """Take over what was learnt; return the number of columns."""
        _require_column(reader, reader.text("column"), self._column)
        self._least, self._mean, self._scale = (reader.number(name) for name in ("least", "mean", "scale"))
        if self._least <= 0 or self._scale <= 0:
            raise reader.fault("least and scale must be above 0")
        return 2


class Encoded:
    """Encodings of one column by the targets: each target's statistics, or its leave-one-out mean."""

    def __init__(
        self, column: str, encoder: Any, own_target: bool = False, n_targets: int | None = None
    ) -> None:
        self._column, self._encoder, self._own, self._n_targets = column, encoder, own_target, n_targets

    def fit_transform(self, rows: Rows, targets: Float32) -> Float32:
        """Fit on training rows and return their columns."""
        if self._own and targets.shape[1] > 1:
            raise InputError(
                f"the block of {self._column} statistics is each target's own (own_target): it cannot make one table "
                f"for {targets.shape[1]} targets; screen one gene with it, or set own_target = false"
            )
        groups = groups_of(rows.obs, self._column)
        if self._n_targets is not None:
            most = np.argsort(-targets.std(axis=0, dtype=np.float64), kind="stable")[: self._n_targets]
            targets = targets[:, np.sort(most)]
        return np.asarray(self._encoder.fit_transform(groups, targets, contexts_of(rows.obs)))

    def transform(self, rows: Rows) -> Float32:
        """Return the columns of other rows."""
        return np.asarray(self._encoder.transform(groups_of(rows.obs, self._column)))

    def state(self) -> State:
        """Return what the encoder learnt."""
        return dict(self._encoder.state())

    def restore(self, reader: StateReader) -> int:
        """Take over the statistics; return how many columns they make."""
        wanted = checked_statistics(self._encoder.statistics)
        self._encoder = type(self._encoder).from_state(reader)
        _require_column(reader, self._encoder.table_.column, self._column)
        found, n_targets = self._encoder.statistics_, self._encoder.table_.values.shape[2]
        if found != wanted:
            raise reader.fault(f"statistics are {', '.join(found)}, not {', '.join(wanted)}")
        if n_targets > (1 if self._own else self._n_targets or n_targets):
            raise reader.fault(f"they are statistics of too many targets, {n_targets}")
        return int(self._encoder.n_columns_)


class Descriptors(Encoded):
    """Descriptors of molecules, standardised by the training molecules."""

    def __init__(self) -> None:
        from features.molecules.descriptors import DescriptorEncoder

        super().__init__("SMILES", DescriptorEncoder())

    def fit_transform(self, rows: Rows, targets: Float32) -> Float32:
        """Fit on training rows and return their columns."""
        return np.asarray(self._encoder.fit_transform(rows.obs["SMILES"], targets))

    def restore(self, reader: StateReader) -> int:
        """Take over the encoder; return how many columns it makes."""
        self._encoder = self._encoder.from_state(reader)
        return len(self._encoder.names_)


class Reduced:
    """A TruncatedSVD, fitted on the training rows' columns, of what another maker makes."""

    def __init__(self, maker: Maker, n_components: int) -> None:
        from features.reduction import TruncatedSVD

        self._maker, self._reduction = maker, TruncatedSVD(n_components)

    def fit_transform(self, rows: Rows, targets: Float32) -> Float32:
        """Fit on training rows and return their columns."""
        columns = self._maker.fit_transform(rows, targets)
        return np.asarray(self._reduction.fit(columns).transform(columns))

    def transform(self, rows: Rows) -> Float32:
        """Return the columns of other rows."""
        return np.asarray(self._reduction.transform(self._maker.transform(rows)))

    def state(self) -> State:
        """Return what the other maker and the reduction learnt."""
        return {"reduced": self._maker.state(), "svd": self._reduction.state()}

    def restore(self, reader: StateReader) -> int:
        """Take over both; return the number of components."""
        width = self._maker.restore(reader.part("reduced"))
        self._reduction = self._reduction.from_state(reader.part("svd"))
        n_kept, n_features = self._reduction.components_.shape
        if n_features != width:
            raise reader.fault(f"svd reduces {n_features} columns, and there are {width}")
        return int(n_kept)


def _require_column(reader: StateReader, found: str, wanted: str) -> None:
    """Raise InputError where a block of one column was restored from the state of another."""
    if found != wanted:
        raise reader.fault(f"the encoded column is {found}, not {wanted}")
