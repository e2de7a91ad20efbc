"""Rows that features and kernels are made from, and the same rows as numbers of what is distinct among them.

Kernels that compare cell types or molecules are matrices between the *distinct* ones of two sets of rows, a few hundred
of each, looked up by the rows' numbers. Subsets of one set share what is distinct (`Pairs.take`), so such a matrix is
computed once for all folds (`Levels.between`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rapids_pipeline.backend.arrays import Codes, Float32, Float64, Indices, Labels
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import State, StateReader

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Rows:
    """Rows of a table, n of them, with the features of their molecules.

    Attributes
    ----------
    obs : pandas.DataFrame
        With `cell_type` and `sm_name`, and `SMILES` where an encoder is fitted in-fold (`descriptors`).
    molecules : mapping of str to ndarray of float32, (n, p)
        Molecule features of each row's compound, by the name of the encoder that made them.
    predictions : ndarray of float32, (n, t), optional
        First-level predictions that never saw the row; for feature sets that stack.
    """

    obs: "pd.DataFrame"
    molecules: Mapping[str, Float32] = field(default_factory=dict)
    predictions: Float32 | None = None

    def take(self, which: Indices) -> "Rows":
        """Return some of the rows, in the order asked for."""
        predictions = None if self.predictions is None else self.predictions[which]
        molecules = {name: values[which] for name, values in self.molecules.items()}
        return Rows(self.obs.iloc[which], molecules, predictions)

    @classmethod
    def joined(cls, first: "Rows", second: "Rows") -> "Rows":
        """Return the rows of both, those of `first` before; predictions only where both have them."""
        import pandas as pd

        obs = pd.concat([first.obs, second.obs], ignore_index=True)
        molecules = {
            name: np.concatenate([values, second.molecules[name]]) for name, values in first.molecules.items()
        }
        if first.predictions is None or second.predictions is None:
            return cls(obs, molecules)
        return cls(obs, molecules, np.concatenate([first.predictions, second.predictions]))


@dataclass(frozen=True, eq=False)
class Levels:
    """What is distinct among some pairs.

    Attributes
    ----------
    cell_types, compounds : tuple of str
        Labels, sorted.
    smiles : tuple of str
        SMILES of each distinct molecule; empty where the rows have none.
    molecules : mapping of encoder to ndarray of float32, (n_molecules, p)
    """

    cell_types: tuple[str, ...]
    compounds: tuple[str, ...]
    smiles: tuple[str, ...] = ()
    molecules: Mapping[str, Float32] = field(default_factory=dict)
    _kept: dict[Any, Float64] = field(default_factory=dict)

    def between(self, other: "Levels", key: Any, make: Callable[[], Float64]) -> Float64:
        """Return what `make` makes of these levels and others; kept under `key` where both are the same."""
        if other is not self:
            return make()
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of cell type and compound by number; `cell_type`, `compound`, `molecule` are (n,) places in the levels."""

    levels: Levels
    cell_type: Codes
    compound: Codes
    molecule: Codes

    def __len__(self) -> int:
        return len(self.cell_type)

    @classmethod
    def of(cls, rows: Rows, encoders: Iterable[str] = ()) -> "Pairs":
        """Number the rows' cell types, compounds and molecules.

        Molecules are told apart by `sm_name` and, where there is one, `SMILES`; features of the `encoders` are those
        of each molecule's first row.

        Raises
        ------
        InputError
            A column is missing, or the features of an encoder.
        """
        for column in ("cell_type", "sm_name"):
            if column not in rows.obs.columns:
                raise InputError(f"the rows have no column {column}, which composite kernels compare")
        cells, cell = numbered(rows.obs["cell_type"].to_numpy(str))
        compounds, compound = numbered(rows.obs["sm_name"].to_numpy(str))
        spelled = rows.obs["SMILES"].to_numpy(str) if "SMILES" in rows.obs.columns else None
        written = compound if spelled is None else numbered(spelled)[1]
        key = compound * (int(written.max(initial=0)) + 1) + written
        first, molecule = np.unique(key, return_index=True, return_inverse=True)[1:]
        features = {}
        for name in encoders:
            if name not in rows.molecules:
                raise InputError(f"the rows have no molecule features of {name}, which the kernel compares")
            features[name] = np.asarray(rows.molecules[name], np.float32)[first]
        smiles = () if spelled is None else tuple(str(x) for x in spelled[first])
        levels = Levels(tuple(map(str, cells)), tuple(map(str, compounds)), smiles, features)
        return cls(levels, *(codes.astype(np.int32) for codes in (cell, compound, molecule)))

    def take(self, which: Indices) -> "Pairs":
        """Return some of the pairs, in the order asked for; they share these pairs' levels."""
        return Pairs(self.levels, self.cell_type[which], self.compound[which], self.molecule[which])

    def alone(self) -> "Pairs":
        """Return the same pairs with no more levels than they have."""
        (cell, cell_type), (name, compound), (kind, molecule) = (
            np.unique(codes, return_inverse=True) for codes in (self.cell_type, self.compound, self.molecule)
        )
        own = Levels(
            tuple(self.levels.cell_types[k] for k in cell),
            tuple(self.levels.compounds[k] for k in name),
            tuple(self.levels.smiles[k] for k in kind) if self.levels.smiles else (),
            {encoder: values[kind] for encoder, values in self.levels.molecules.items()},
        )
        return Pairs(own, *(codes.astype(np.int32) for codes in (cell_type, compound, molecule)))

    def state(self) -> State:
        """Return the pairs as plain data."""
        return {
            "cell_types": list(self.levels.cell_types),
            "compounds": list(self.levels.compounds),
            "smiles": list(self.levels.smiles),
            "encoders": list(self.levels.molecules),
            **{f"molecules_{number}": values for number, values in enumerate(self.levels.molecules.values())},
            "cell_type": self.cell_type,
            "compound": self.compound,
            "molecule": self.molecule,
        }

    @classmethod
    def from_state(cls, reader: StateReader) -> "Pairs":
        """Make the pairs of their state; InputError where it is damaged."""
        cells, compounds = tuple(reader.levels("cell_types")), tuple(reader.levels("compounds"))
        smiles = tuple(reader.strings("smiles"))
        features: dict[str, Float32] = {}
        n_molecules = len(smiles) or None
        for number, name in enumerate(reader.levels("encoders")):
            features[name] = reader.array(f"molecules_{number}", np.float32, (n_molecules, None))
            n_molecules = len(features[name])
        cell = reader.codes("cell_type", (None,), len(cells))
        compound = reader.codes("compound", (len(cell),), len(compounds))
        molecule = reader.codes("molecule", (len(cell),), n_molecules or len(cell))
        return cls(Levels(cells, compounds, smiles, features), cell, compound, molecule)


def numbered(labels: Any) -> "tuple[pd.Index, Indices]":
    """Return the distinct labels, sorted, and the place of each label among them."""
    import pandas as pd

    codes, distinct = pd.factorize(labels, sort=True)
    return pd.Index(distinct), codes.astype(np.intp)


def places(
    labels: "Sequence[Any] | Labels | pd.Index", among: "Sequence[str] | Labels | pd.Index"
) -> Indices:
    """Return the place of each label among distinct others, −1 where it is none of them."""
    import pandas as pd

    return pd.Index(among).get_indexer(pd.Index(labels))
