"""Named feature sets: ordered, named blocks, each saying what it is fitted on.

A set is a list of `features.blocks`; `FeatureTable` puts their columns side by side. `FEATURE_SETS` has those that
come with the package; a TOML file defines others:

    name = "mine"
    description = "cell type, structure, and how the compound acts elsewhere"

    [[blocks]]
    kind = "onehot"
    column = "cell_type"

    [[blocks]]
    kind = "molecules"       # encoder = "morgan" instead of what --molecules says; n_components = 45 reduces
    encoder = "morgan"

    [[blocks]]
    kind = "statistics"      # leave_one_out, predictions: see features.blocks
    column = "sm_name"
    statistics = ["mean", "quantile_0.25"]
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from features.blocks import (
    Block,
    ContextBlock,
    LeaveOneOutBlock,
    Maker,
    MoleculeBlock,
    OneHotBlock,
    PredictionBlock,
    StatisticsBlock,
)
from features.molecules import fitted_in_fold, refuse_foreign
from features.rows import COMPOUND_DOSE, DOSE, Rows
from rapids_pipeline.backend.arrays import Float32
from rapids_pipeline.backend.files import from_file
from rapids_pipeline.backend.settings import by_name_or_toml, named, words
from rapids_pipeline.backend.state import State, StateReader

N_COMPONENTS = 45
MOST_BLOCKS = 100
"""Blocks of a feature set: the columns of all of them are in memory side by side."""
PUBLISHED_STATISTICS = ("mean", "min", "max", "median", "first", "quantile_0.4")


class FeatureSet(BaseModel):
    """A named, ordered list of blocks.

    Attributes
    ----------
    name, description : str
    blocks : tuple of Block
        In the order of their columns; no two alike.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, named()]
    description: Annotated[str, words()] = ""
    blocks: tuple[Block, ...] = Field(min_length=1, max_length=MOST_BLOCKS)

    @model_validator(mode="after")
    def _distinct(self) -> "FeatureSet":
        names = [block.name for block in self.blocks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"block {twice[0]} occurs twice")
        return self

    @model_validator(mode="after")
    def _chooses_no_weights(self, info: ValidationInfo) -> "FeatureSet":
        for block in self.blocks if from_file(info.context) else ():
            if isinstance(block, MoleculeBlock) and block.encoder is not None:
                refuse_foreign(block.encoder)
        return self

    @property
    def uses_targets(self) -> bool:
        """Whether its columns depend on training targets, so that every fold has columns of its own."""
        return any(block.fitted_on == "targets" for block in self.blocks)

    @property
    def needs_predictions(self) -> bool:
        """Whether it stacks on first-level predictions."""
        return any(block.fitted_on == "predictions" for block in self.blocks)

    @property
    def own_target(self) -> bool:
        """Whether each target has columns of its own, so that there is no one table for many targets."""
        return any(isinstance(block, StatisticsBlock) and block.own_target for block in self.blocks)

    @property
    def leaky(self) -> bool:
        """Whether training rows see their own targets in some column, because that was asked for."""
        return any(isinstance(block, StatisticsBlock) and block.leaky for block in self.blocks)

    @property
    def encoders(self) -> list[str]:
        """The molecule encoders whose features `Rows.molecules` must hold."""
        named = [block.encoder for block in self.blocks if isinstance(block, MoleculeBlock)]
        return sorted({name for name in named if name is not None and not fitted_in_fold(name)})

    def with_molecules(self, encoder: str) -> "FeatureSet":
        """Return the set with `encoder` in the blocks of molecules that name none."""
        blocks = tuple(
            block.model_copy(update={"encoder": encoder})
            if isinstance(block, MoleculeBlock) and block.encoder is None
            else block
            for block in self.blocks
        )
        return self.model_copy(update={"blocks": blocks})

    def in_contexts(self, columns: Sequence[str]) -> "FeatureSet":
        """Return the set for training rows that differ in `columns`, of `dose_uM` and `time_h` one or both.

        With their blocks, and where doses differ with each encoding by compound also by compound and dose class. A set
        with columns of each gene's own stays as it is.
        """
        if self.own_target:
            return self
        encoded = [
            b
            for b in self.blocks
            if isinstance(b, LeaveOneOutBlock | StatisticsBlock) and b.column == "sm_name"
        ]
        by_dose = [block.model_copy(update={"column": COMPOUND_DOSE}) for block in encoded if DOSE in columns]
        added = [*by_dose, *(ContextBlock.model_validate({"column": column}) for column in columns)]
        present = {block.name for block in self.blocks}
        blocks = *self.blocks, *(block for block in added if block.name not in present)
        return self.model_copy(update={"blocks": blocks})

    def without_molecules(self) -> "FeatureSet | None":
        """Return the set without its blocks of molecules, None where it has no others."""
        blocks = tuple(block for block in self.blocks if not isinstance(block, MoleculeBlock))
        return self.model_copy(update={"blocks": blocks}) if blocks else None

    def to_toml(self) -> str:
        """Return the set as the TOML file that defines it."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def _described(name: str, description: str, *blocks: Any) -> tuple[str, FeatureSet]:
    return name, FeatureSet(name=name, description=description, blocks=blocks)


def _by_both(**options: Any) -> tuple[StatisticsBlock, ...]:
    return tuple(StatisticsBlock(column=column, **options) for column in ("cell_type", "sm_name"))


_CELL_TYPE, _SM_NAME = OneHotBlock(column="cell_type"), OneHotBlock(column="sm_name")
_ONEHOT = (_CELL_TYPE, _SM_NAME)
_LOO = (LeaveOneOutBlock(column="cell_type"), LeaveOneOutBlock(column="sm_name"))
_MOLECULES, _MOLECULES_SVD = MoleculeBlock(), MoleculeBlock(n_components=N_COMPONENTS)
_PREDICTIONS = PredictionBlock(n_components=N_COMPONENTS)
_FIRST = "first place of the competition"

FEATURE_SETS = dict(
    (
        _described("cell_type", "which cell type", _CELL_TYPE),
        _described("sm_name", "which compound", _SM_NAME),
        _described("onehot", "which cell type and which compound", *_ONEHOT),
        _described("molecules", "the compound's structure only, as --molecules says", _MOLECULES),
        _described("molecules_svd", f"the compound's structure in {N_COMPONENTS} numbers", _MOLECULES_SVD),
        _described("morgan", "cell type and Morgan fingerprints", _CELL_TYPE, MoleculeBlock(encoder="morgan")),
        _described(
            "descriptors",
            "cell type and RDKit's descriptors, standardised in-fold",
            _CELL_TYPE,
            MoleculeBlock(encoder="descriptors"),
        ),
        _described(
            "chemberta", "cell type and ChemBERTa embeddings", _CELL_TYPE, MoleculeBlock(encoder="chemberta")
        ),
        _described("cell_type_molecules", "cell type and structure", _CELL_TYPE, _MOLECULES),
        _described(
            "svr_shared", "cell type, compound and structure: level 1 of a run", *_ONEHOT, _MOLECULES
        ),
        _described(
            "svr_per_target",
            "svr_shared and six statistics of the gene itself, by cell type and compound (published v1, cross-fitted)",
            *_ONEHOT,
            _MOLECULES,
            *_by_both(statistics=PUBLISHED_STATISTICS, own_target=True),
        ),
        _described("loo", "leave-one-out means by cell type and by compound", *_LOO),
        _described("onehot_loo", "which cell type and compound, and their means", *_ONEHOT, *_LOO),
        _described(
            "svr_loo", "everything but first-level predictions", *_ONEHOT, _MOLECULES, *_LOO
        ),
        _described("boosting", "level 2 of a run", *_LOO, _PREDICTIONS, _MOLECULES_SVD),
        _described(
            "boosting_aggregates",
            "boosting and a TruncatedSVD of means and maxima by cell type and compound (the published recipe)",
            *_LOO,
            _PREDICTIONS,
            _MOLECULES_SVD,
            *_by_both(statistics=("mean", "max"), n_components=N_COMPONENTS),
        ),
        _described(
            "op2_first_initial",
            f"{_FIRST}, 'initial': structure, one-hot, mean, deviation and quartiles of all targets",
            *_ONEHOT,
            _MOLECULES,
            *_by_both(statistics=("mean", "std", "quantile_0.25", "quantile_0.5", "quantile_0.75")),
        ),
        _described(
            "op2_first_light",
            f"{_FIRST}, 'light': structure, one-hot, means of all targets",
            *_ONEHOT,
            _MOLECULES,
            *_by_both(statistics=("mean",)),
        ),
        _described(
            "op2_first_heavy",
            f"{_FIRST}, 'heavy': structure, one-hot, mean and quartiles of all targets",
            *_ONEHOT,
            _MOLECULES,
            *_by_both(statistics=("mean", "quantile_0.25", "quantile_0.5", "quantile_0.75")),
        ),
    )
)  # fmt: skip


def feature_set(name: str | Path) -> FeatureSet:
    """Return the feature set of a name, or the one that a TOML file defines.

    Raises
    ------
    InputError
        No such set (the message lists them) or file, or a file that defines none (the message names the key).
    """
    return by_name_or_toml(name, FEATURE_SETS, FeatureSet, "feature set")


class FeatureTable:
    """The columns of a feature set, side by side.

    Parameters
    ----------
    feature_set : FeatureSet
        Whose blocks of molecules all name an encoder (`FeatureSet.with_molecules`).
    sigma : float
        Noise of the leave-one-out encodings of training rows (see `features.target_encoders.LeaveOneOutEncoder`).
    seed : int
        Seed of that noise and of the folds of cross-fitted statistics; every block draws its own.

    Attributes
    ----------
    columns_ : dict of str to int
        Columns of each block, in order; set by `fit_transform`.
    """

    def __init__(self, feature_set: FeatureSet, sigma: float = 0.0, seed: int = 0) -> None:
        self.feature_set = feature_set
        self._makers: dict[str, Maker] = {
            block.name: block.maker(sigma, seed + position)
            for position, block in enumerate(feature_set.blocks)
        }
        self.columns_: dict[str, int] = {}

    def fit_transform(self, rows: Rows, targets: Float32) -> Float32:
        """Fit every block on training rows and return their features, (n, p) float32."""
        parts = {name: maker.fit_transform(rows, targets) for name, maker in self._makers.items()}
        self.columns_ = {name: part.shape[1] for name, part in parts.items()}
        return np.hstack(list(parts.values()), dtype=np.float32)

    def transform(self, rows: Rows) -> Float32:
        """Return the features of other rows, (n, p) float32."""
        return np.hstack([maker.transform(rows) for maker in self._makers.values()], dtype=np.float32)

    def state(self) -> State:
        """Return what the blocks learnt, as plain data; the feature set is saved apart (`FeatureSet.to_toml`)."""
        return {f"block_{position}": maker.state() for position, maker in enumerate(self._makers.values())}

    @classmethod
    def from_state(cls, feature_set: FeatureSet, reader: StateReader) -> "FeatureTable":
        """Make the table that `state` described: it transforms as the original, to the last bit.

        Raises
        ------
        InputError
            The state is damaged or another feature set's.
        """
        table = cls(feature_set)
        if sorted(reader.names()) != sorted(
            f"block_{position}" for position in range(len(feature_set.blocks))
        ):
            raise reader.fault(
                f"the parts are not those of feature set {feature_set.name}, of {len(feature_set.blocks)} blocks"
            )
        table.columns_ = {
            name: maker.restore(reader.part(f"block_{position}"))
            for position, (name, maker) in enumerate(table._makers.items())
        }
        return table
