"""A member of a stack: what every kind has in common, and what a new kind must say.

A kind is one file here with a subclass of `Member` (its settings, checked), its fits and its fitted model, and one
line in `rapids_pipeline.stack.members.KINDS`. Which rows a member is fitted to is no concern of the kind: the stack
hands it a `TrainingSet` once for all fits that share it, and asks for fits to some of its rows
(`rapids_pipeline.stack.nested`).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Generic, Literal, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

from features.feature_sets import FeatureSet, feature_set
from features.rows import Rows
from rapids_pipeline.backend.arrays import Float32, Float64, Indices, Mask
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.files import FOLDER, within
from rapids_pipeline.backend.settings import bounded, named
from rapids_pipeline.backend.state import State, StateReader
from rapids_pipeline.data.untested import Imputed
from rapids_pipeline.stack.compact import Compact, SideBySide

M = TypeVar("M", bound="Member")
PSEUDO = "_pseudo"
"""What follows a member's name where its fits also learn from pseudo-labelled test rows."""
MOST_MEMBERS = 50
"""Members of a recipe: each is fitted, and the predictions of all of them are in memory."""
MOST_COMPONENTS = 100_000
"""Components of the targets that are kept; there are no more than genes."""
REMEDY = "`rapids-perturb recipes best --toml` prints a recipe to copy"


def _features(value: Any, info: ValidationInfo) -> Any:
    """Return a feature set for its name or file: in a recipe's file one of its own folder, in a saved model none."""
    if not isinstance(value, str):
        return value
    if info.context is None:
        return feature_set(value)
    folder = info.context[FOLDER]
    return feature_set(value if folder is not None and not value.endswith(".toml") else within(folder, value))


Features = Annotated[FeatureSet, BeforeValidator(_features)]
"""A feature set, which can also be given by its name or TOML file."""


class StageConfig(BaseModel):
    """Base of all settings of a recipe: frozen, and unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def updated(self, **values: Any) -> Self:
        """Return the same settings but for some values, all of them checked."""
        return type(self)(**dict(self) | values)


class PseudoLabels(StageConfig):
    """Whether a member also learns from the test rows, with the mean of some members' predictions as targets.

    Attributes
    ----------
    teacher : tuple of str
        Members whose mean is taken, as they are without pseudo-labels; none: all of them.
    weight : float
        What a pseudo-labelled row counts in training; a measured one counts 1.
    use : {"auto", "on", "off"}
        "auto" fits both forms and takes the one whose blend is better on rows that neither saw.
    """

    teacher: tuple[str, ...] = Field(default=(), max_length=MOST_MEMBERS)
    weight: Annotated[float, bounded(1e-6, 1e6, "a measured row counts 1")] = 1.0
    use: Literal["auto", "on", "off"] = "auto"


OFF = PseudoLabels(use="off")


class Model(Protocol):
    """A fitted member."""

    def predict(self, rows: Rows) -> Float32:
        """Return the predictions of rows, (m, t) float32; a row's do not depend on the others, to rounding."""

    def state(self) -> State:
        """Return what it has learnt, as plain data."""


@runtime_checkable
class SolvesComponents(Protocol):
    """A model that predicts scores of components."""

    def compact(self, rows: Rows) -> Compact:
        """Return what it predicts of rows, as scores."""


Predictions = tuple[Sequence[tuple[Compact, Compact]], Float32 | None]
"""Predictions that fits learn from: of training and test rows by each member that is stacked on; pseudo-labels."""


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Rows that a member is fitted to and predicts: n training rows, then m test rows.

    Attributes
    ----------
    rows : Rows
        All n + m of them, without predictions of other members.
    Y : ndarray of float32, (n, t), or (n + m, t) where the test rows have pseudo-labels
        NaN where a gene was not tested; a fit reads `targets`.
    weight : ndarray of float64, (len(Y),), optional
        What each row counts in training; all alike by default.
    stacked : sequence of (Compact (n, t), Compact (m, t))
        Predictions of training and test rows by each member that this one stacks on.
    seed : int
    device : str
    measured : Imputed, optional
        The targets of the n training rows, to share between sets of them what is imputed; by default its own.
    on_landmarks : bool
        Whether kernel models of many rows are sums over landmarks, chosen once for all fits (`stack.room`).
    """

    rows: Rows
    Y: Float32
    weight: Float64 | None
    stacked: Sequence[tuple[Compact, Compact]]
    seed: int
    device: DeviceName
    measured: Imputed | None = None
    on_landmarks: bool = False

    def __post_init__(self) -> None:
        if self.measured is None:
            made = Imputed(self.Y, self.rows.obs["cell_type"].iloc[: len(self.Y)])
            object.__setattr__(self, "measured", made)

    def learning_from(self, given: Predictions) -> "TrainingSet":
        """Return the same rows with these predictions to learn from."""
        stacked, labels = given
        assert self.measured is not None
        Y = self.measured.Y if labels is None else np.concatenate([self.measured.Y, labels])
        return replace(self, Y=Y, stacked=stacked)

    def targets(self, training: Indices) -> Float32:
        """Return the targets of training rows (and labelled ones), untested ones imputed from these training rows.

        Pseudo-labels are no evidence of what was not tested: they stay as they are and impute nothing.
        """
        assert self.measured is not None
        n = len(self.measured.Y)
        if not (training >= n).any():
            return self.measured.of(training)
        Y = self.Y[training]
        Y[training < n] = self.measured.of(training[training < n])
        return Y

    def tested(self, training: Indices) -> Mask | None:
        """Return which of those targets are not imputed; None where none are."""
        tested = ~np.isnan(self.Y[training])
        return None if tested.all() else tested

    def take(self, which: Indices) -> Rows:
        """Return some of the rows, all different, with the predictions of the members stacked on side by side."""
        rows = self.rows.take(which)
        if not self.stacked:
            return rows
        read = [_of_both(*parts, which) for parts in self.stacked]
        return replace(rows, predictions=read[0] if len(read) == 1 else SideBySide(read))


class Fits(ABC, Generic[M]):
    """Fits of one member to some rows of a training set; what does not depend on the choice of rows is shared."""

    def __init__(self, member: M, data: TrainingSet) -> None:
        self.member, self.data = member, data

    @abstractmethod
    def fit(self, training: Indices) -> Model:
        """Fit to some of the rows that have targets."""

    def fit_predict(self, training: Indices, groups: Sequence[Indices]) -> list[Float32]:
        """Return the predictions of groups of rows by a fit to some others, float32 on the host."""
        model = self.fit(training)
        return [model.predict(self.data.take(group)) for group in groups]

    def fit_compact(self, training: Indices, groups: Sequence[Indices]) -> list[Compact]:
        """Return the same predictions, as scores where the member solves components."""
        found = self.fit_predict(training, groups)
        return [Compact.of(Y) for Y in found]


class Member(StageConfig, ABC):
    """Settings of a member.

    Attributes
    ----------
    kind : str
        A key of `rapids_pipeline.stack.members.KINDS`.
    name : str
        Distinct in a recipe; by default `default_name`.
    stacks_on : tuple of str
        Members whose predictions this one reads; it is then of the second level.
    pseudo_labels : PseudoLabels
        Off by default.
    """

    kind: str
    name: Annotated[str, named()] = ""
    stacks_on: tuple[str, ...] = Field(default=(), max_length=MOST_MEMBERS)
    pseudo_labels: PseudoLabels = OFF

    @property
    @abstractmethod
    def default_name(self) -> str:
        """The name where none is given."""

    @abstractmethod
    def prepare(self, data: TrainingSet) -> Fits[Any]:
        """Return the fits to rows of a training set."""

    def side_by_side(self, n: int) -> bool:
        """Say whether fits to n rows run side by side on a CPU: each gains nothing from more threads, and is small."""
        return False

    @abstractmethod
    def model_from_state(self, reader: StateReader) -> Model:
        """Make a fitted model of its state; InputError where that is damaged."""

    @property
    def feature_sets(self) -> list[FeatureSet]:
        """The feature sets that it reads."""
        return []

    @property
    def encoders(self) -> list[str]:
        """The molecule encoders whose features `Rows.molecules` must hold."""
        return sorted({name for features in self.feature_sets for name in features.encoders})

    def with_molecules(self, encoder: str) -> Self:
        """Return the member with `encoder` where it names none."""
        return self

    def with_atlas(self) -> Self:
        """Return the member for rows that have an atlas (`features.molecules.atlas`); as it is where it reads none."""
        return self

    @property
    def by_names(self) -> bool:
        """Whether it tells pairs apart by names alone, so that it knows nothing of a new cell type or compound."""
        return False

    def in_contexts(self, columns: Sequence[str]) -> Self:
        """Return the member for training rows that differ in `columns`, of `dose_uM` and `time_h` one or both."""
        return self

    def without_molecules(self) -> "Self | None":
        """Return the member without all that it reads of molecules, None where it reads nothing else."""
        return self

    def engine_choice(self, Y: Float32, device: DeviceName) -> str:
        """Return which engine fits targets (n, t), and why; raises where it cannot be had."""
        return ""

    def notes(self, model: Any) -> list[str]:
        """Return what a reader should know of its fitted model."""
        return []

    @model_validator(mode="after")
    def _named_and_stacking(self) -> Self:
        if not self.name:
            object.__setattr__(self, "name", self.default_name)
        reading = [features.name for features in self.feature_sets if features.needs_predictions]
        if reading and not self.stacks_on:
            raise ValueError(
                f"{self.name}: feature set {reading[0]} reads predictions of other members: name them in stacks_on"
            )
        if self.stacks_on and not reading:
            lacks = f"feature set {self.feature_sets[0].name}" if self.feature_sets else f"kind {self.kind}"
            raise ValueError(f"{self.name}: {lacks} reads no predictions, so it cannot stack on others")
        return self


class WithFeatures(Member):
    """A member that reads one feature set."""

    features: Features

    @property
    def default_name(self) -> str:
        """Its feature set's name."""
        return self.features.name

    @property
    def feature_sets(self) -> list[FeatureSet]:
        """The one feature set."""
        return [self.features]

    def with_molecules(self, encoder: str) -> Self:
        """Return the member with `encoder` in the blocks of molecules that name none."""
        return self.model_copy(update={"features": self.features.with_molecules(encoder)})

    def in_contexts(self, columns: Sequence[str]) -> Self:
        """Return the member with blocks of doses and times, and encodings by dose class."""
        return self.model_copy(update={"features": self.features.in_contexts(columns)})

    def without_molecules(self) -> "Self | None":
        """Return the member without the blocks of molecules of its feature set, None where there are no others."""
        features = self.features.without_molecules()
        return None if features is None else self.model_copy(update={"features": features})


def _of_both(training: Compact, test: Compact, which: Indices) -> Compact:
    """Return the predictions of some rows, of which `training` has the first and `test` the others."""
    n = training.n_rows
    inside, outside = np.flatnonzero(which < n), np.flatnonzero(which >= n)
    parts = (inside, training.take(which[inside]), 1), (outside, test.take(which[outside] - n), 1)
    return Compact.placed(len(which), training.n_targets, parts)
