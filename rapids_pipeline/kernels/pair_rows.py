"""Rows as kernels see them: numbers of their cell types, compounds and molecules, and what the distinct ones are.

Kernels that compare cell types or molecules are matrices between the *distinct* ones of two sets of rows, a few hundred
of each, looked up by the rows' numbers. Subsets of one set share what is distinct (`take`), so such a matrix is
computed once for all folds (`Levels.between`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.feature_sets import Rows
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import State, StateReader

Floats = NDArray[np.float64]
Codes = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Levels:
    """What is distinct among some rows.

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
    smiles: tuple[str, ...]
    molecules: Mapping[str, NDArray[np.float32]]
    _kept: dict[Any, Floats] = field(default_factory=dict)

    def between(self, other: "Levels", key: Any, make: Callable[[], Floats]) -> Floats:
        """Return what `make` makes of these levels and others; kept under `key` where both are the same."""
        if other is not self:
            return make()
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


@dataclass(frozen=True, eq=False)
class PairRows:
    """n rows by number; `cell_type`, `compound` and `molecule` are (n,) places among the levels."""

    levels: Levels
    cell_type: Codes
    compound: Codes
    molecule: Codes

    def __len__(self) -> int:
        return len(self.cell_type)

    @classmethod
    def of(cls, rows: Rows, encoders: Iterable[str]) -> "PairRows":
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
        cells, cell = _numbered(rows.obs["cell_type"].to_numpy(str))
        compounds, compound = _numbered(rows.obs["sm_name"].to_numpy(str))
        spelled = rows.obs["SMILES"].to_numpy(str) if "SMILES" in rows.obs.columns else None
        written = compound if spelled is None else _numbered(spelled)[1].astype(np.int64)
        key = compound.astype(np.int64) * (int(written.max(initial=0)) + 1) + written
        first, molecule = np.unique(key, return_index=True, return_inverse=True)[1:]
        features = {}
        for name in encoders:
            if name not in rows.molecules:
                raise InputError(f"the rows have no molecule features of {name}, which the kernel compares")
            features[name] = np.asarray(rows.molecules[name], np.float32)[first]
        smiles = () if spelled is None else tuple(str(x) for x in spelled[first])
        return cls(Levels(cells, compounds, smiles, features), cell, compound, molecule.astype(np.int32))

    def take(self, which: NDArray[np.intp]) -> "PairRows":
        """Return some of the rows, in the order asked for; they share these rows' levels."""
        return PairRows(self.levels, self.cell_type[which], self.compound[which], self.molecule[which])

    def alone(self) -> "PairRows":
        """Return the same rows with no more levels than they have."""
        (cell, cell_type), (name, compound), (kind, molecule) = (
            np.unique(codes, return_inverse=True) for codes in (self.cell_type, self.compound, self.molecule)
        )
        own = Levels(
            tuple(self.levels.cell_types[k] for k in cell),
            tuple(self.levels.compounds[k] for k in name),
            tuple(self.levels.smiles[k] for k in kind) if self.levels.smiles else (),
            {encoder: values[kind] for encoder, values in self.levels.molecules.items()},
        )
        return PairRows(own, *(codes.astype(np.int32) for codes in (cell_type, compound, molecule)))

    def state(self) -> State:
        """Return the rows as plain data."""
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
    def from_state(cls, reader: StateReader) -> "PairRows":
        """Make the rows of their state; InputError where it is damaged."""
        cells, compounds = tuple(reader.levels("cell_types")), tuple(reader.levels("compounds"))
        smiles = tuple(reader.strings("smiles"))
        features: dict[str, NDArray[np.float32]] = {}
        n_molecules = len(smiles) or None
        for number, name in enumerate(reader.levels("encoders")):
            features[name] = reader.array(f"molecules_{number}", np.float32, (n_molecules, None))
            n_molecules = len(features[name])
        cell = reader.codes("cell_type", (None,), len(cells))
        compound = reader.codes("compound", (len(cell),), len(compounds))
        molecule = reader.codes("molecule", (len(cell),), n_molecules or len(cell))
        return cls(Levels(cells, compounds, smiles, features), cell, compound, molecule)


def places(labels: tuple[str, ...], among: tuple[str, ...]) -> NDArray[np.intp]:
    """Return the place of each label among others, −1 where it is none of them."""
    place = {label: number for number, label in enumerate(among)}
    return np.array([place.get(label, -1) for label in labels], dtype=np.intp)


def _numbered(labels: NDArray[Any]) -> tuple[tuple[str, ...], Codes]:
    distinct, codes = np.unique(labels, return_inverse=True)
    return tuple(str(x) for x in distinct), codes.astype(np.int32)
