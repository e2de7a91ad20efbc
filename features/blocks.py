"""Blocks of columns: how they are described, and how they are made.

A block turns rows into columns. Its description (a *spec*: `OneHotBlock`, `MoleculeBlock`, ...) is a frozen,
validated object that a feature set lists and a TOML file spells out; `maker()` gives what does the work. A maker
is fitted on training rows only (`fit_transform`) and never lets a training row's own targets into its own columns;
other rows get what all training rows say (`transform`).
"""

from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from features import block_makers
from features.block_makers import Maker, Noise
from features.group_statistics import checked_statistics
from features.molecule_columns import fitted_in_fold
from features.target import TargetEncoder
from rapids_pipeline.backend.errors import InputError

FittedOn = Literal["nothing", "levels", "molecules", "targets", "predictions"]
Column = Literal["cell_type", "sm_name"]


class BlockSpec(BaseModel):
    """Base of the specs: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    @abstractmethod
    def name(self) -> str:
        """What the block is called in tables and manifests."""

    @property
    @abstractmethod
    def columns(self) -> str:
        """How many columns it has, in words."""

    @property
    @abstractmethod
    def fitted_on(self) -> FittedOn:
        """What of the training rows the block learns from."""

    @property
    def own_row_excluded(self) -> bool:
        """Whether a training row's columns are the same to the last bit whatever its own targets are."""
        return True

    @abstractmethod
    def maker(self, noise: Noise) -> Maker:
        """Return a new maker of the block's columns."""


class OneHotBlock(BlockSpec):
    """One column a level of `column`; levels that no training row has give zeros."""

    kind: Literal["onehot"] = "onehot"
    column: Column

    @property
    def name(self) -> str:
        """onehot:COLUMN."""
        return f"onehot:{self.column}"

    @property
    def columns(self) -> str:
        """One a level."""
        return f"levels of {self.column}"

    @property
    def fitted_on(self) -> FittedOn:
        """The levels."""
        return "levels"

    def maker(self, noise: Noise) -> Maker:
        """Return a new maker."""
        return block_makers.OneHot(self.column)


class MoleculeBlock(BlockSpec):
    """The features of the row's compound; with `n_components` their TruncatedSVD.

    `encoder` is what `--molecules` takes; without one, what `--molecules` says.
    """

    kind: Literal["molecules"] = "molecules"
    encoder: str | None = None
    n_components: int | None = Field(default=None, ge=1)

    @property
    def name(self) -> str:
        """molecules[:ENCODER], or svd:molecules[:ENCODER]."""
        plain = "molecules" if self.encoder is None else f"molecules:{self.encoder}"
        return plain if self.n_components is None else f"svd:{plain}"

    @property
    def columns(self) -> str:
        """The encoder's width, or the number of components."""
        return "width of the encoder" if self.n_components is None else f"up to {self.n_components}"

    @property
    def fitted_on(self) -> FittedOn:
        """The molecules, where columns are standardised or reduced."""
        fitted = self.n_components is not None or (self.encoder is not None and fitted_in_fold(self.encoder))
        return "molecules" if fitted else "nothing"

    def maker(self, noise: Noise) -> Maker:
        """Return a new maker."""
        return block_makers.reduced(block_makers.Molecules(self.encoder), self.n_components)


class LeaveOneOutBlock(BlockSpec):
    """The leave-one-out mean of every target by `column` (`features.target.LeaveOneOutEncoder`)."""

    kind: Literal["leave_one_out"] = "leave_one_out"
    column: Column

    @property
    def name(self) -> str:
        """loo:COLUMN."""
        return f"loo:{self.column}"

    @property
    def columns(self) -> str:
        """One a target."""
        return "targets"

    @property
    def fitted_on(self) -> FittedOn:
        """The targets."""
        return "targets"

    def maker(self, noise: Noise) -> Maker:
        """Return a new maker."""
        return block_makers.LeaveOneOut(self.column, noise)


class StatisticsBlock(BlockSpec):
    """Statistics of every target by `column`, cross-fitted; with `n_components` their TruncatedSVD.

    The basis of that TruncatedSVD is learnt from all training rows, so a training row's own targets reach its
    columns through the basis (`own_row_excluded` says so). Rows that are held out stay unseen.

    `own_target` says that each target's model gets the statistics of that target alone, as the per-target SVRs
    of the published pipeline do. `leaky` gives a training row statistics that include its own targets, to reproduce
    published numbers: the name says so, and a run notes it.
    """

    kind: Literal["statistics"] = "statistics"
    column: Column
    statistics: tuple[str, ...] = ("mean",)
    smoothing: float = Field(default=0.0, ge=0)
    n_folds: int = Field(default=5, ge=2)
    n_components: int | None = Field(default=None, ge=1)
    own_target: bool = False
    leaky: bool = False

    @field_validator("statistics")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return checked_statistics(names)
        except InputError as error:
            raise ValueError(str(error)) from None

    @property
    def name(self) -> str:
        """statistics:COLUMN:STATISTIC+STATISTIC, or svd:statistics:…"""
        plain = f"{'leaky:' if self.leaky else ''}statistics:{self.column}:{'+'.join(self.statistics)}"
        return plain if self.n_components is None else f"svd:{plain}"

    @property
    def columns(self) -> str:
        """One a statistic and target, or the number of components."""
        if self.n_components is not None:
            return f"up to {self.n_components}"
        return str(len(self.statistics)) if self.own_target else f"{len(self.statistics)} × targets"

    @property
    def fitted_on(self) -> FittedOn:
        """The targets."""
        return "targets"

    @property
    def own_row_excluded(self) -> bool:
        """Not where it leaks, or where a basis is learnt from the columns."""
        return self.n_components is None and not self.leaky

    def maker(self, noise: Noise) -> Maker:
        """Return a new maker."""
        encoder = TargetEncoder(
            self.statistics,
            smoothing=self.smoothing,
            n_folds=self.n_folds,
            random_state=noise.seed,
            leaky=self.leaky,
        )
        return block_makers.reduced(
            block_makers.Statistics(self.column, encoder, self.own_target), self.n_components
        )


class PredictionBlock(BlockSpec):
    """A TruncatedSVD of the first level's predictions."""

    kind: Literal["predictions"] = "predictions"
    n_components: int = Field(default=45, ge=1)

    @property
    def name(self) -> str:
        """svd:predictions."""
        return "svd:predictions"

    @property
    def columns(self) -> str:
        """The number of components."""
        return f"up to {self.n_components}"

    @property
    def fitted_on(self) -> FittedOn:
        """The first level's predictions."""
        return "predictions"

    def maker(self, noise: Noise) -> Maker:
        """Return a new maker."""
        return block_makers.reduced(block_makers.Predictions(), self.n_components)


Block = Annotated[
    OneHotBlock | MoleculeBlock | LeaveOneOutBlock | StatisticsBlock | PredictionBlock,
    Field(discriminator="kind"),
]
