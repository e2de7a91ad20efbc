"""Embeddings of perturbations from a table of the user's: a row a perturbation, a column a number.

    sm_name                 any perturbation: a compound, an antibody, a gene knock-out
    every other column      numbers, all of them finite

A combination "A+B" that has no row of its own takes the sum or the mean of the rows of A and B. Where columns enter a
kernel of distances they are standardised by the training perturbations of a fit (`Standardisation`), as descriptors
are.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from features.molecules import ATLAS, TABLE, Combine
from features.rows import Rows
from rapids_pipeline.backend.arrays import Float32, Float64
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.frames import as_pandas, read_table
from rapids_pipeline.backend.state import State, StateReader

if TYPE_CHECKING:
    from features.molecules.atlas import Atlas
    from features.molecules.encoders import MoleculeColumns

NAME = "sm_name"
"""The column that names the perturbations."""
JOINS = "+"
"""What stands between the parts of a combination."""
LARGEST = 10.0
"""Bound of standardised values, as of descriptors."""


@dataclass(frozen=True, eq=False)
class EmbeddingTable:
    """A table of embeddings.

    Attributes
    ----------
    source : str
        The file, for messages.
    names : tuple of str
        q distinct perturbations.
    columns : tuple of str
        The names of the p columns.
    values : ndarray of float32, (q, p)
    combine : {"sum", "mean"}
        What the rows of its parts give a combination.
    """

    source: str
    names: tuple[str, ...]
    columns: tuple[str, ...]
    values: Float32
    combine: Combine = "sum"

    @cached_property
    def _place(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.names)}

    def rows(self, names: Sequence[str]) -> Float32:
        """Return the embeddings of n perturbations, (n, p) float32 (InputError: as `require`)."""
        self.require(names, "the rows")
        found = {name: self._row(name) for name in dict.fromkeys(names)}
        made = np.empty((len(names), len(self.columns)), np.float32)
        for number, name in enumerate(names):
            made[number] = found[name]
        return made

    def require(self, names: Sequence[str], source: str) -> None:
        """Raise InputError where a perturbation of `source` has no row, nor all parts of it."""
        lacking = [name for name in dict.fromkeys(names) if self.parts_of(name) is None]
        if not lacking:
            return
        first = lacking[0]
        absent = [part for part in _split(first) if part not in self._place]
        said = f"{first!r} (nor has its part {absent[0]!r})" if len(_split(first)) > 1 else repr(first)
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        near = difflib.get_close_matches(absent[0], self.names, 1, 0.85)
        hint = f"; the table has {near[0]!r}, if that is meant" if near else ""
        raise InputError(
            f"{source}: {said}{more} of column {NAME}, first in row {list(names).index(first) + 1}, have no row in "
            f"{self.source}; add them there, or drop these rows{hint}"
        )

    def parts_of(self, name: str) -> tuple[str, ...] | None:
        """Return the perturbations whose rows a name stands for, None where there is none for it."""
        if name in self._place:
            return (name,)
        parts = _split(name)
        return parts if len(parts) > 1 and all(part in self._place for part in parts) else None

    def notes(self, names: Sequence[str]) -> list[str]:
        """Return what a reader should know of the embeddings of some perturbations."""
        found = [f"molecules: {len(self.columns)} columns of {self.source}, which has {len(self.names)} rows"]
        combined = sum(len(self.parts_of(name) or ()) > 1 for name in dict.fromkeys(names))
        if combined:
            found.append(
                f"{combined} combinations have no row in {self.source} and take the {self.combine} of their parts"
            )
        return found

    def _row(self, name: str) -> Float32:
        parts = self.values[[self._place[part] for part in self.parts_of(name) or ()]]
        if len(parts) == 1:
            return np.asarray(parts[0])
        whole = parts.sum(axis=0, dtype=np.float64)
        return np.asarray(whole if self.combine == "sum" else whole / len(parts), dtype=np.float32)

    def state(self) -> State:
        """Return the table as plain data."""
        return {
            "source": self.source,
            "names": list(self.names),
            "columns": list(self.columns),
            "values": self.values,
            "combine": self.combine,
        }

    @classmethod
    def from_state(cls, reader: StateReader) -> "EmbeddingTable":
        """Make the table of its state; InputError where that is damaged."""
        names, columns = tuple(reader.levels("names")), tuple(reader.levels("columns"))
        values = reader.array("values", np.float32, (len(names), len(columns)))
        combine = reader.text("combine")
        if combine not in ("sum", "mean"):
            raise reader.fault(f"combine is {combine!r}")
        return cls(reader.text("source"), names, columns, values, combine)  # type: ignore[arg-type]


def read_embedding_table(path: Path, combine: Combine = "sum") -> EmbeddingTable:
    """Read a table of embeddings.

    Parameters
    ----------
    path : Path
        .parquet, .csv, .tsv or .txt (the last three also with .gz), with `sm_name` and columns of numbers.
    combine : {"sum", "mean"}

    Raises
    ------
    InputError
        As `read_table`; no column `sm_name` or no other one, a row without a name, a name twice, a value that is no
        number or not finite.
    """
    table = as_pandas(read_table(path, text=lambda name: name == NAME))
    columns = [str(name) for name in table.columns if name != NAME]
    if NAME not in table.columns:
        shown = ", ".join(columns[:8])
        raise InputError(
            f"{path}: missing column {NAME}, which names the perturbations; the columns are: {shown}; rename one"
        )
    if not columns:
        raise InputError(f"{path}: has no column beside {NAME}; an embedding needs columns of numbers")
    names = (
        table[NAME].astype(object).map(lambda name: "" if name is None or name != name else str(name).strip())
    )
    if (names == "").any():
        row = int(np.flatnonzero(names == "")[0]) + 1
        raise InputError(f"{path}: column {NAME} has no value in row {row}; fill it or drop the row")
    if names.duplicated().any():
        name = names[names.duplicated()].iloc[0]
        first, second = np.flatnonzero(names == name)[:2] + 1
        raise InputError(
            f"{path}: column {NAME} has {name!r} in rows {first} and {second}; a perturbation has one row: drop one"
        )
    values = np.empty((len(table), len(columns)), np.float32)
    for place, column in enumerate(columns):
        values[:, place] = _numbers(path, column, table[column], list(names))
    return EmbeddingTable(str(path), tuple(names), tuple(columns), values, combine)


@dataclass(frozen=True, eq=False)
class Standardisation:
    """z = clip((x − mean) / std, −10, 10), by columns; a column that is constant in training becomes 0.

    Attributes
    ----------
    mean, scale : ndarray of float64, (p,)
        Of the distinct training perturbations, population standard deviation; a scale of 0 says that the column is
        constant.
    """

    mean: Float64
    scale: Float64

    @classmethod
    def of(cls, X: Float32) -> Self:
        """Learn it from the rows of the distinct training perturbations, (q, p)."""
        wide = X.astype(np.float64)
        constant = wide.min(axis=0) == wide.max(axis=0)
        return cls(wide.mean(axis=0), np.where(constant, 0.0, wide.std(axis=0)))

    def transform(self, X: Float32) -> Float32:
        """Return standardised rows, (n, p) float32."""
        varying = self.scale > 0
        z = np.zeros(X.shape)
        np.divide(X.astype(np.float64) - self.mean, self.scale, out=z, where=varying[None, :])
        return np.clip(z, -LARGEST, LARGEST).astype(np.float32)

    def state(self) -> State:
        """Return what was learnt, as plain data."""
        return {"mean": self.mean, "scale": self.scale}

    @classmethod
    def from_state(cls, reader: StateReader) -> Self:
        """Make it of its state; InputError where that is damaged."""
        mean = reader.array("mean", np.float64, (None,))
        scale = reader.array("scale", np.float64, mean.shape)
        if not len(mean) or (scale < 0).any():
            raise reader.fault("scale is negative, or there are no columns")
        return cls(mean, scale)


class TableColumns:
    """The columns of a block: the table's, standardised by the distinct training perturbations."""

    def fit_transform(self, rows: Rows, targets: Float32) -> Float32:
        """Fit on training perturbations and return the training rows' columns."""
        first = np.unique(rows.obs[NAME].to_numpy(str), return_index=True)[1]
        self._learnt = Standardisation.of(rows.molecules[TABLE][first])
        return self.transform(rows)

    def transform(self, rows: Rows) -> Float32:
        """Return the columns of other rows."""
        return self._learnt.transform(rows.molecules[TABLE])

    def state(self) -> State:
        """Return what was learnt."""
        return self._learnt.state()

    def restore(self, reader: StateReader) -> int:
        """Take over what was learnt; return how many columns there are."""
        self._learnt = Standardisation.from_state(reader)
        return len(self._learnt.mean)


def encode_compounds(
    encoders: Sequence[str],
    training: pd.DataFrame,
    others: pd.DataFrame | None = None,
    device: str = "cpu",
    table: EmbeddingTable | None = None,
    atlas: "Atlas | None" = None,
) -> "MoleculeColumns":
    """Encode the compounds of rows: by their SMILES, or by the rows that a table or an atlas has of them.

    Parameters
    ----------
    encoders : sequence of str
        As `encode_molecules`, `TABLE` and `ATLAS`.
    training, others : pandas.DataFrame
        `sm_name` and `SMILES` of each row, for an atlas also `cell_type`; an empty SMILES where the structure is not
        known.
    device : str
    table : EmbeddingTable, optional
    atlas : Atlas, optional

    Raises
    ------
    InputError, UnavailableError
        As `encode_molecules` and `EmbeddingTable.rows`; an encoder reads SMILES and a row has none; `TABLE` or `ATLAS`
        and there is none.
    """
    from features.molecules.encoders import (  # loads scikit-learn, which takes a second
        MoleculeColumns,
        encode_molecules,
    )

    parts = [training] if others is None else [training, others]
    of_smiles = [name for name in dict.fromkeys(encoders) if name not in (TABLE, ATLAS)]
    found = MoleculeColumns()
    if of_smiles:
        for part in parts:
            _require_structures(of_smiles[0], part)
        smiles = list(training["SMILES"]), [] if others is None else list(others["SMILES"])
        found = encode_molecules(of_smiles, *smiles, device)
    if TABLE in encoders:
        if table is None:
            raise InputError("the recipe reads a table of embeddings; name it with --molecules FILE.parquet")
        found.training[TABLE] = table.rows(list(training["sm_name"]))
        found.others[TABLE] = table.rows([] if others is None else list(others["sm_name"]))
        found.notes.extend(table.notes([name for part in parts for name in part["sm_name"]]))
    if ATLAS in encoders:
        if atlas is None:
            raise InputError("the recipe reads an atlas; name its folder with --atlas FOLDER")
        asked = training.head(0) if others is None else others
        for columns, part in ((found.training, training), (found.others, asked)):
            columns[ATLAS] = atlas.rows(list(part["sm_name"]), list(part["SMILES"]))
        found.notes.extend(atlas.notes(training, asked))
    return found


def _split(name: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in name.split(JOINS))


def _numbers(path: Path, column: str, values: Any, names: Sequence[str]) -> Float32:
    """Return a column as float32; InputError where a value is no number or not finite."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    with np.errstate(over="ignore"):
        found: Float32 = numbers.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(found))
    if len(bad):
        row = int(bad[0])
        value = values.iloc[row]
        said = repr(value) if isinstance(value, str) else f"{value}"
        raise InputError(
            f"{path}: column {column} has {said} in row {row + 1} ({names[row]}), which is no finite "
            "number; make it one, drop the row, or leave the column out"
        )
    return found


def _require_structures(encoder: str, rows: pd.DataFrame) -> None:
    lacking = list(dict.fromkeys(rows["sm_name"][rows["SMILES"] == ""]))
    if lacking:
        raise InputError(
            f"{encoder} reads SMILES, and {len(lacking)} compounds have none, first {lacking[0]!r}; add them, or take "
            "feature sets and kernels that name no encoder of SMILES"
        )
