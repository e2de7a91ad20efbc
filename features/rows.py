"""Rows that features and kernels are made from, and the same rows as numbers of what is distinct among them.

A row is a response of a compound in a *context*: its cell type and, where the table has these columns, `dose_uM`
(micromolar) and `time_h` (hours). A missing value is a level of its own. Rows of one compound in one context are
replicates.

Kernels that compare cell types or molecules are matrices between the *distinct* ones of two sets of rows, a few hundred
of each, looked up by the rows' numbers. Subsets of one set share what is distinct (`Pairs.take`), so such a matrix is
computed once for all folds (`Levels.between`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rapids_pipeline.backend.arrays import Codes, Float32, Float64, Indices, Labels, RowSource
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import State, StateReader

if TYPE_CHECKING:
    import pandas as pd

DOSE, TIME, BATCH, REPLICATE = "dose_uM", "time_h", "batch", "replicate"
"""Columns of a table; none of them need be there."""
COMPOUND_DOSE = "compound_dose"
"""What encodings call the compound with its dose class."""
CODES = ("cell_type", "compound", "molecule", "dose", "time", "batch")
"""What `Pairs` numbers."""


@dataclass(frozen=True)
class Rows:
    """Rows of a table, n of them, with the features of their molecules.

    Attributes
    ----------
    obs : pandas.DataFrame
        With `cell_type` and `sm_name`, and `SMILES` where an encoder is fitted in-fold (`descriptors`).
    molecules : mapping of str to ndarray of float32, (n, p)
        Molecule features of each row's compound, by the name of the encoder that made them.
    predictions : ndarray of float32 or RowSource, (n, t), optional
        First-level predictions that never saw the row; for feature sets that stack.
    """

    obs: "pd.DataFrame"
    molecules: Mapping[str, Float32] = field(default_factory=dict)
    predictions: Float32 | RowSource | None = None

    def take(self, which: Indices) -> "Rows":
        """Return some of the rows, in the order asked for."""
        given = self.predictions
        predictions = given.take(which) if isinstance(given, RowSource) else given
        predictions = predictions[which] if isinstance(predictions, np.ndarray) else predictions
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
    doses, times : tuple of float
        Doses in micromolar and times in hours, sorted; NaN, for a missing value, is the last. It is the only level of
        a column that the rows lack.
    batches : tuple of str
        Labels, sorted; "" stands for a missing one.
    """

    cell_types: tuple[str, ...]
    compounds: tuple[str, ...]
    smiles: tuple[str, ...] = ()
    molecules: Mapping[str, Float32] = field(default_factory=dict)
    doses: tuple[float, ...] = (np.nan,)
    times: tuple[float, ...] = (np.nan,)
    batches: tuple[str, ...] = ("",)
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
    """Pairs of compound and context by number; every array is (n,) places in the levels."""

    levels: Levels
    cell_type: Codes
    compound: Codes
    molecule: Codes
    dose: Codes
    time: Codes
    batch: Codes

    def __len__(self) -> int:
        return len(self.cell_type)

    @classmethod
    def of(cls, rows: Rows, encoders: Iterable[str] = ()) -> "Pairs":
        """Number the rows' cell types, compounds and molecules, and where they have them doses, times and batches.

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
        doses, dose = _distinct_numbers(rows.obs, DOSE)
        times, time = _distinct_numbers(rows.obs, TIME)
        batches, batch = numbered(labels_of(rows.obs, BATCH))
        named = tuple(map(str, cells)), tuple(map(str, compounds)), smiles, features
        levels = Levels(*named, doses, times, tuple(map(str, batches)) or ("",))
        codes = cell, compound, molecule, dose, time, batch
        return cls(levels, *(code.astype(np.int32) for code in codes))

    def take(self, which: Indices | slice) -> "Pairs":
        """Return some of the pairs, in the order asked for; they share these pairs' levels."""
        return Pairs(self.levels, *(getattr(self, name)[which] for name in CODES))

    def alone(self) -> "Pairs":
        """Return the same pairs with no more levels than they have."""
        found = {name: np.unique(getattr(self, name), return_inverse=True) for name in CODES}
        kept = {name: distinct for name, (distinct, _) in found.items()}
        levels = self.levels
        own = Levels(
            tuple(levels.cell_types[k] for k in kept["cell_type"]),
            tuple(levels.compounds[k] for k in kept["compound"]),
            tuple(levels.smiles[k] for k in kept["molecule"]) if levels.smiles else (),
            {encoder: values[kept["molecule"]] for encoder, values in levels.molecules.items()},
            tuple(levels.doses[k] for k in kept["dose"]),
            tuple(levels.times[k] for k in kept["time"]),
            tuple(levels.batches[k] for k in kept["batch"]),
        )
        return Pairs(own, *(codes.astype(np.int32) for _, codes in found.values()))

    def state(self) -> State:
        """Return the pairs as plain data; of doses, times and batches only what the rows have."""
        levels = self.levels
        state: dict[str, Any] = {
            "cell_types": list(levels.cell_types),
            "compounds": list(levels.compounds),
            "smiles": list(levels.smiles),
            "encoders": list(levels.molecules),
            **{f"molecules_{number}": values for number, values in enumerate(levels.molecules.values())},
            "cell_type": self.cell_type,
            "compound": self.compound,
            "molecule": self.molecule,
        }
        for name in ("dose", "time"):
            values = np.array(getattr(levels, f"{name}s"), np.float64)
            if not np.isnan(values).all():
                state |= {f"{name}s": values, name: getattr(self, name)}
        return (
            state
            if levels.batches == ("",)
            else state | {"batches": list(levels.batches), "batch": self.batch}
        )

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
        n = len(cell)
        compound = reader.codes("compound", (n,), len(compounds))
        molecule = reader.codes("molecule", (n,), n_molecules or n)
        doses, times = (_read_numbers(reader, name) for name in ("doses", "times"))
        batches = tuple(reader.levels("batches")) if "batches" in reader.names() else ("",)
        levels = Levels(cells, compounds, smiles, features, doses, times, batches)
        given = zip(("dose", "time", "batch"), (doses, times, batches), strict=True)
        others = [
            reader.codes(name, (n,), len(values)) if name in reader.names() else np.zeros(n, np.int32)
            for name, values in given
        ]
        return cls(levels, cell, compound, molecule, *others)


def labels_of(obs: "pd.DataFrame", column: str) -> Labels:
    """Return a column of a table as text, (n,), "" where a value is missing or there is no such column."""
    if column not in obs.columns:
        return np.full(len(obs), "", dtype=str)
    return obs[column].astype(object).where(obs[column].notna(), "").map(str).to_numpy(str)


def context_numbers(obs: "pd.DataFrame", *columns: str) -> Float64:
    """Return columns of a table as numbers, (n, len(columns)) float64; NaN where a value or a column is missing.

    Raises
    ------
    InputError
        A column holds something else than numbers.
    """
    found = np.full((len(obs), len(columns)), np.nan)
    for k, name in enumerate(columns):
        if name in obs.columns:
            try:
                found[:, k] = obs[name].to_numpy(np.float64, na_value=np.nan)
            except (TypeError, ValueError):
                raise InputError(f"column {name} must hold numbers only; give it without a unit") from None
    return found


def log10_of(values: Float64, training: Float64) -> Float64:
    """Return log10 of doses or times; 0 lies one decade below the least positive training value, NaN stays NaN."""
    positive = training[training > 0]
    least = float(positive.min()) if len(positive) else 1.0
    return np.log10(np.where(values == 0, least / 10, values))


def decades_apart(here: Float64, there: Float64, training: Float64) -> Float64:
    """Return |Δlog10 dose| + |Δlog10 time| between (dose, time) of m and n rows, (m, n).

    A dose or time of 0 is that of `log10_of` for the `training` rows, (k, 2).
    A missing value is 0 from a missing one, infinitely far from any other.
    """
    total = np.zeros((len(here), len(there)))
    for column in range(2):
        A, B = (log10_of(x[:, column], training[:, column]) for x in (here, there))
        apart = np.abs(A[:, None] - B[None, :])
        apart[np.isnan(apart)] = np.inf
        apart[np.isnan(A)[:, None] & np.isnan(B)[None, :]] = 0.0
        total += apart
    return total


def contexts_of(obs: "pd.DataFrame") -> Indices:
    """Return one number a compound and context, (n,), in the order of first occurrence; replicates share theirs."""
    import pandas as pd

    parts = [
        obs["cell_type"].to_numpy(str),
        obs["sm_name"].to_numpy(str),
        *context_numbers(obs, DOSE, TIME).T,
    ]
    key = np.zeros(len(obs), dtype=np.int64)
    for part in parts:
        code, distinct = pd.factorize(part, use_na_sentinel=False)
        key = pd.factorize(key * max(len(distinct), 1) + code)[0]
    return np.asarray(key, dtype=np.intp)


def groups_of(obs: "pd.DataFrame", column: str) -> "pd.Series[Any]":
    """Return a column of a table, or for `compound_dose` every row's compound with its dose class, as text.

    A dose class is a decade, log10 of the dose rounded; 0 and a missing dose are classes of their own.
    """
    if column != COMPOUND_DOSE:
        labels: pd.Series[Any] = obs[column]
        return labels
    with np.errstate(divide="ignore"):
        decade = np.round(np.log10(context_numbers(obs, DOSE)[:, 0])) + 0.0  # −0 is 0
    named: pd.Series[Any] = obs["sm_name"].astype(str) + np.array(
        [f" @ 1e{x:g}" for x in decade], dtype=object
    )
    return named.rename(COMPOUND_DOSE)


def varying(obs: "pd.DataFrame") -> tuple[str, ...]:
    """Return those of `dose_uM` and `time_h` in which the rows differ; a missing value differs from any other."""
    columns = zip((DOSE, TIME), context_numbers(obs, DOSE, TIME).T, strict=True)
    return tuple(name for name, values in columns if len(np.unique(values)) > 1)


def _distinct_numbers(obs: "pd.DataFrame", column: str) -> tuple[tuple[float, ...], Indices]:
    """Return the distinct values of a column, NaN last, and the place of each row's among them."""
    distinct, codes = np.unique(context_numbers(obs, column)[:, 0], return_inverse=True)
    return tuple(float(x) for x in distinct) or (np.nan,), codes.astype(np.intp)


def _read_numbers(reader: StateReader, name: str) -> tuple[float, ...]:
    """Return sorted numbers of a state, of which NaN may be the last; those of absent rows where it has none."""
    if name not in reader.names():
        return (np.nan,)
    values = reader.array(name, np.float64, (None,), finite=False)
    present = values[:-1] if len(values) and np.isnan(values[-1]) else values
    if (
        not len(values)
        or not np.isfinite(present).all()
        or (np.diff(present) <= 0).any()
        or (present < 0).any()
    ):
        raise reader.fault(
            f"{name} must be increasing numbers, none negative, and only the last may be missing"
        )
    return tuple(float(x) for x in values)


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
