"""Metadata under our names: which column has a meaning, labels without blanks, doses in µM, times in hours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.checks import refuse_long
from rapids_pipeline.data.columns import (
    ALIASES,
    NUMBER_MEANINGS,
    TEXT_MEANINGS,
    UNITS,
    TableOptions,
    folded,
    key_of,
    meaning_of,
    with_unit,
)

MISSING = ("", "-666", "-666.0", "nan", "<na>")
"""Text that means no value: L1000's -666, and what categories make of a missing one."""


def with_meanings(
    path: Path, obs: pd.DataFrame, options: TableOptions, *, strict: bool = False
) -> tuple[pd.DataFrame, list[str]]:
    """Return metadata whose columns have our names, and a note that names the aliases used.

    Labels are text without blanks around, None where they are missing; `dose_uM, time_h, n_cells, weight` are float64.

    Parameters
    ----------
    path : Path
        For messages.
    obs : pandas.DataFrame
        Metadata as the file has them.
    options : TableOptions
    strict : bool
        A column that `options` name must be there, as in a training file; other files may lack it.

    Raises
    ------
    InputError
        Two unequal columns for one meaning, a column named by an option that is not there, a unit that is not known,
        text in the place of a number.
    """
    chosen = _resolve(path, obs, options, strict)
    made = {name: _numbers(path, obs, name, chosen[name]) for name in NUMBER_MEANINGS if name in chosen}
    replaced = [meaning for meaning, name in chosen.items() if meaning != name and meaning in obs.columns]
    renamed = obs.drop(columns=replaced).rename(columns={name: meaning for meaning, name in chosen.items()})
    labels = {name: cleaned(renamed[name]) for name in chosen if name in TEXT_MEANINGS}
    for name in labels.keys() - {"SMILES"}:
        refuse_long(path, f"in column {name}", labels[name])
    renamed = renamed.assign(**labels, **{name: values for name, (values, _) in made.items()})
    said = [
        f"{meaning} is column {name!r}{made[meaning][1] if meaning in made else ''}"
        for meaning, name in chosen.items()
        if meaning != name
    ]
    return renamed, [f"{path}: {', '.join(said)}"] if said else []


def cleaned(values: "pd.Series[Any]") -> "pd.Series[Any]":
    """Return labels as text without blanks around them, None where there is no value."""
    present = values.astype(object)
    text = present.map(lambda value: str(value).strip()).astype(object)
    return text.mask(present.isna() | text.str.casefold().isin(MISSING), None)


def _resolve(path: Path, obs: pd.DataFrame, options: TableOptions, strict: bool) -> dict[str, str]:
    """Return the column of each meaning that the metadata have."""
    names = [str(name) for name in obs.columns]
    taken = set(options.columns.values())
    chosen: dict[str, str] = {}
    for meaning in ALIASES:
        asked = options.columns.get(meaning)
        if asked in names or asked == "":
            chosen |= {meaning: asked} if asked else {}
        elif meaning in names:
            chosen[meaning] = meaning
        elif asked is not None and strict:
            shown = ", ".join(names[:8]) or "none"
            raise InputError(
                f"{path}: --column {meaning}={asked}: no such column; its metadata columns are: {shown}"
            )
        else:
            for rank in range(len(ALIASES[meaning])):
                like = [name for name in names if name not in taken and meaning_of(name) == (meaning, rank)]
                if found := [name for name in like if cleaned(obs[name]).notna().any()]:
                    chosen[meaning] = _the_one(path, obs, meaning, found)
                    break
    return chosen


def _the_one(path: Path, obs: pd.DataFrame, meaning: str, found: Sequence[str]) -> str:
    """Return the first of the columns that can have a meaning; InputError unless all have the same values."""
    first = cleaned(obs[found[0]])
    unlike = next((name for name in found[1:] if not first.equals(cleaned(obs[name]))), None)
    if unlike is not None:
        raise InputError(
            f"{path}: {found[0]!r} and {unlike!r} can both be the {meaning}; say which: --column {meaning}={found[0]}"
        )
    return found[0]


def _numbers(path: Path, obs: pd.DataFrame, meaning: str, name: str) -> tuple["pd.Series[Any]", str]:
    """Return a column as float64, doses in µM and times in hours, and what to say of its unit."""
    text = cleaned(obs[name])
    parts = text.str.extract(r"^([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(\D*)$")
    values = pd.to_numeric(parts[0], errors="coerce").astype(float)
    bad = text.notna() & (values.isna() | ((values < 0) & (values != -1)))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(f"{path}: column {name} is no {meaning} in row {row + 1}: {text.iloc[row]!r}")
    values = values.mask(values == -1)
    if meaning not in UNITS:
        return values, ""
    usual, said = _unit(obs, meaning, name)
    unit = parts[1].where(parts[1].fillna("") != "", usual).map(lambda found: folded(str(found)))
    unknown = ~unit.isin(UNITS[meaning]) & values.notna() & (values != 0)
    if unknown.any():
        row = int(np.flatnonzero(unknown)[0])
        raise InputError(
            f"{path}: unknown unit {unit.iloc[row]!r} of column {name} in row {row + 1}; known are "
            f"{', '.join(UNITS[meaning])}; convert it, or leave the column out by --column {meaning}="
        )
    scaled = values.copy()
    for one in set(unit) & set(UNITS[meaning]):
        factor = UNITS[meaning][one]
        scaled[unit == one] = values[unit == one] * factor.numerator / factor.denominator
    return scaled, said


def _unit(obs: pd.DataFrame, meaning: str, name: str) -> tuple["pd.Series[Any]", str]:
    """Return the unit of each row by the column's name, or a column of units beside it, or the usual one."""
    usual, parts = next(iter(UNITS[meaning])), with_unit(name)
    if parts is not None and parts[1] == meaning:
        return pd.Series(parts[2], index=obs.index, dtype=object), ""
    for other in map(str, obs.columns):
        if key_of(other) in {f"{base}{end}" for base in _bases(name) for end in ("unit", "units")}:
            return cleaned(obs[other]), f" in the units of {other!r}"
    return pd.Series(usual, index=obs.index, dtype=object), f" in {'µM' if usual == 'um' else 'hours'}"


def _bases(name: str) -> set[str]:
    """Return what a column of units may be named by: "dosevalue" and "dose" for dose_value."""
    return {key_of(name), key_of(name).removesuffix("value")}
