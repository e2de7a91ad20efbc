"""What an input table must satisfy; every violation is one line that names file, row, column and remedy."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.molecules.smiles import canonical_smiles, told_smiles
from rapids_pipeline.backend.arrays import Float32, Mask
from rapids_pipeline.backend.errors import InputError, quoted
from rapids_pipeline.data.columns import PAIR

LONGEST_NAME = 1000
"""Characters of a gene, a cell type, a compound, an id: arrays of text take the length of the longest for each row."""
WITHOUT_STRUCTURES = "take --molecules none, or --molecules TABLE (embeddings of any perturbation)"
"""What to do where compounds have no structure."""


def require_columns(path: Path, obs: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise InputError where one of `columns` is missing from `obs` or has a row without a value."""
    missing = [name for name in columns if name not in obs.columns]
    if missing:
        have = ", ".join(map(str, obs.columns[:8])) or "none"
        raise InputError(f"{path}: missing column {', '.join(missing)}; its metadata columns are: {have}")
    for name in columns:
        absent = obs.index[obs[name].isna() | (obs[name].astype(str).str.strip() == "")]
        if len(absent):
            raise InputError(
                f"{path}: column {name} has no value in {rows_named(absent)}; fill it or drop the row"
            )


def refuse_long(path: Path, what: str, names: Iterable[object]) -> None:
    """Raise InputError where a name, such as a gene's or a compound's, has more than `LONGEST_NAME` characters."""
    for name in names:
        if isinstance(name, str) and len(name) > LONGEST_NAME:
            raise InputError(
                f"{path}: {what} {quoted(name)} has {len(name):,} characters; a name has at most {LONGEST_NAME:,}"
            )


def as_text(path: Path, obs: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return `obs` with `columns` as strings; InputError where one is missing or has gaps."""
    require_columns(path, obs, columns)
    return obs.assign(**{name: obs[name].astype(object).map(str).astype("str") for name in columns})


def refuse_repeated(path: Path, what: str, names: Sequence[str]) -> None:
    """Raise InputError where a name, such as an id's or a gene's, occurs twice in `path`."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise InputError(f"{path}: duplicate {what}: {some_of(repeated)}; every {what} may occur once")


def refuse_non_finite(path: Path, obs: pd.DataFrame, Y: Float32, genes: Sequence[str]) -> None:
    """Raise InputError where a value is NaN or infinite: how many, and which row and gene first."""
    _refuse(path, obs, Y, genes, ~np.isfinite(Y))


def refuse_unusable(path: Path, obs: pd.DataFrame, Y: Float32, genes: Sequence[str]) -> None:
    """Raise InputError where a target is infinite, or a gene or a row has no target but NaN, which is "not tested"."""
    _refuse(path, obs, Y, genes, np.isinf(Y))
    gaps = np.isnan(Y)
    untested = [genes[gene] for gene in np.flatnonzero(gaps.all(axis=0)).tolist()]
    if untested:
        raise InputError(
            f"{path}: {len(untested)} gene(s) have no value in any row: {some_of(untested)}; drop the columns"
        )
    empty = np.flatnonzero(gaps.all(axis=1))
    if len(empty):
        raise InputError(
            f"{path}: {rows_named(pd.Index(empty))} has no value of any gene{_pair_of(obs, empty[0])}; "
            f"{len(empty)} such row(s) in all; drop them"
        )


def _refuse(path: Path, obs: pd.DataFrame, Y: Float32, genes: Sequence[str], bad: Mask) -> None:
    """Raise InputError where any value is bad."""
    places = np.argwhere(bad)
    if len(places):
        row, gene = places[0]
        raise InputError(
            f"{path}: {len(places)} target value(s) are not finite, in {len(set(places[:, 0]))} row(s); first: row "
            f"{row + 1}{_pair_of(obs, row)}, gene {genes[gene]} = {Y[row, gene]}; drop or impute them"
        )


def _pair_of(obs: pd.DataFrame, row: int) -> str:
    """Return " (cell type, compound)" of a row, as far as the columns are there."""
    pair = ", ".join(str(obs[name].iloc[row]) for name in PAIR if name in obs.columns)
    return f" ({pair})" if pair else ""


def refuse_text_among_numbers(
    path: Path, name: str, column: "pd.Series[Any]", *, listed: bool = False, gene: bool = True
) -> None:
    """Raise InputError where most values of a text column are numbers: a gene with a stray word.

    `listed` says that the user names it as a gene, and `gene` that its name is a gene's: other columns of whole numbers
    are identifiers.
    """
    if not (pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column) or listed):
        return
    present = column.dropna()
    numeric = pd.to_numeric(present, errors="coerce").notna()
    identifiers = not gene and present.astype(str).str.fullmatch(r"\d+").all()
    if listed or (len(present) and numeric.mean() > 0.5 and not identifiers):
        row = next(iter([*numeric.index[~numeric], *numeric.index]), 0)
        raise InputError(
            f"{path}: column {name} holds text among numbers: row {row + 1} has {quoted(column[row])}; make it a number"
        )


def with_structures(path: Path, obs: pd.DataFrame, required: bool) -> pd.DataFrame:
    """Return `obs` with `SMILES` as strings: where a row has none that of its compound's other rows, or "".

    Raises
    ------
    InputError
        `required`, and the column is missing or has gaps: how many compounds lack one, and what to do.
    """
    if required and "SMILES" not in obs.columns:
        raise InputError(
            f"{path}: missing column SMILES; its metadata columns are: {', '.join(map(str, obs.columns[:8]))}; "
            f"{WITHOUT_STRUCTURES}"
        )
    smiles = obs["SMILES"] if "SMILES" in obs.columns else pd.Series(None, index=obs.index, dtype=object)
    smiles = smiles.mask(smiles.isna() | (smiles.astype(str).str.strip() == ""), None).astype(object)
    absent = obs.index[smiles.isna()]
    if required and len(absent):
        names = list(dict.fromkeys(obs["sm_name"][absent]))
        raise InputError(
            f"{path}: column SMILES has no value in {rows_named(absent)}, of {len(names)} compounds: {some_of(names)}; "
            f"fill it, drop the rows, or {WITHOUT_STRUCTURES}"
        )
    known = obs.assign(SMILES=smiles).dropna(subset="SMILES").drop_duplicates("sm_name")
    filled = smiles.where(smiles.notna(), obs["sm_name"].map(known.set_index("sm_name")["SMILES"]))
    return obs.assign(SMILES=filled.where(filled.notna(), "").map(str).astype("str"))


def check_smiles(path: Path, obs: pd.DataFrame) -> None:
    """Raise InputError for a SMILES that does not parse, or two molecules under one `sm_name`; "" is no molecule."""
    distinct = obs[obs["SMILES"] != ""].drop_duplicates(["sm_name", "SMILES"])
    for row, name, smiles in zip(distinct.index, distinct["sm_name"], distinct["SMILES"], strict=True):
        if canonical_smiles(smiles) is None:
            raise InputError(f"{path}: row {row + 1} ({name}): {told_smiles(smiles)} is not a valid SMILES")
    first: dict[str, tuple[int, str]] = {}
    for row, name, smiles in zip(distinct.index, distinct["sm_name"], distinct["SMILES"], strict=True):
        first_row, first_smiles = first.setdefault(name, (row, smiles))
        if not same_molecule(first_smiles, smiles):
            raise InputError(
                f"{path}: compound {quoted(name)} has two SMILES: {quoted(first_smiles)} in row {first_row + 1} and "
                f"{quoted(smiles)} in row {row + 1}; one name must be one molecule"
            )


def same_molecule(one: str, other: str) -> bool:
    """Say whether two SMILES spell one molecule."""
    return one == other or canonical_smiles(one) == canonical_smiles(other)


def rows_named(index: "pd.Index[Any]") -> str:
    """Return "rows 3, 8, …", counted from 1."""
    shown = ", ".join(str(int(row) + 1) for row in index[:5])
    return f"row{'s' if len(index) > 1 else ''} {shown}{' …' if len(index) > 5 else ''}"


def some_of(names: Sequence[str]) -> str:
    """Return the first three names and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(quoted, names[:3])) + more
