"""Columns by meaning: what the ecosystem calls a cell type, a compound, a dose; and layers by name.

    meaning     other names (case, blanks, dashes, dots and underscores do not matter)
    cell_type   cell_line, cell_iname, cell, celltype; failing these cell_id, cell_name
    sm_name     pert_iname, perturbation, perturbagen, compound, drug, treatment, …
    dose_uM     pert_dose, dose, dose_value, concentration, …, also with a unit at the end (dose_nM)
    …           `ALIASES`

A column with the exact own name comes first. Two columns for one meaning that are not equal are never chosen between
in silence: `--column MEANING=NAME` or a columns.toml says which. Doses become µM and times hours.
"""

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.frames import readable_as, require_file

DEFAULT_LAYER = "clipped_sign_log10_pval"
"""The layer of an Open Problems `.h5ad` file that holds the responses."""
PREDICTION_LAYER = "prediction"
"""The layer of an Open Problems prediction `.h5ad`."""
PAIR = ["cell_type", "sm_name"]
TRAINING_COLUMNS = [*PAIR, "SMILES"]
TEST_COLUMNS = ["id", *PAIR]

ALIASES: dict[str, tuple[str, ...]] = {
    "id": ("row_id pair_id",),
    "cell_type": (
        "cell_line cell_iname cell celltype cell_line_name cell_type_name",
        "cell_id cell_name",
    ),
    "sm_name": (
        "pert_iname perturbation perturbagen compound compound_name cmap_name drug drug_name treatment",
        "product_name pert_name",
    ),
    "SMILES": ("canonical_smiles isomeric_smiles smiles_string",),
    "sm_lincs_id": ("lincs_id", "pert_id"),
    "control": ("is_control vehicle",),
    "dose_uM": ("pert_dose dose dose_value concentration conc drug_concentration",),
    "time_h": ("pert_time time timepoint time_point treatment_time exposure_time hours days",),
    "batch": ("plate det_plate plate_id", "library batch_id"),
    "replicate": ("rep replicate_id biological_replicate bio_rep",),
    "n_cells": ("psbulk_cells ncells num_cells number_of_cells",),
    "weight": ("sample_weight row_weight",),
}
"""Other names of each meaning, ranked: names of a rank stand for the meaning only where no earlier one is there."""
TEXT_MEANINGS = frozenset({*TRAINING_COLUMNS, "batch", "replicate"})
NUMBER_MEANINGS = ("dose_uM", "time_h", "n_cells", "weight")
UNITS: dict[str, dict[str, Fraction]] = {
    "dose_uM": {
        **dict.fromkeys(("um", "µm", "umol/l", "micromolar"), Fraction(1)),
        **dict.fromkeys(("nm", "nmol/l", "nanomolar"), Fraction(1, 10**3)),
        **dict.fromkeys(("pm", "pmol/l", "picomolar"), Fraction(1, 10**6)),
        **dict.fromkeys(("mm", "mmol/l", "millimolar"), Fraction(10**3)),
        **dict.fromkeys(("m", "mol/l", "molar"), Fraction(10**6)),
    },
    "time_h": {
        **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), Fraction(1)),
        **dict.fromkeys(("min", "mins", "minute", "minutes"), Fraction(1, 60)),
        **dict.fromkeys(("d", "day", "days"), Fraction(24)),
    },
}
"""What one unit is in µM and in hours; the first stands where nothing names a unit."""
MISSING = ("", "-666", "-666.0", "nan", "<na>")
"""Text that means no value: L1000's -666, and what categories make of a missing one."""


@dataclass(frozen=True)
class TableOptions:
    """How a file is read.

    Attributes
    ----------
    layer : str
        The layer of an .h5ad file that holds the responses ("X" for its main matrix).
    metadata_columns : tuple of str
        Numeric columns that are not genes.
    columns : mapping of str to str
        The column of a meaning, by meaning; "" says that the file has none.
    genes : Path, optional
        A file that names the columns that are genes, one a line.
    gene_column : str, optional
        The row annotation of an .h5ad or GCT file that names the genes.
    """

    layer: str = DEFAULT_LAYER
    metadata_columns: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    genes: Path | None = None
    gene_column: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the options for a manifest; those of columns and genes only where they are given."""
        given = {
            "columns": dict(self.columns),
            "genes": self.genes and str(self.genes.absolute()),
            "gene_column": self.gene_column,
        }
        kept = {name: value for name, value in given.items() if value}
        return {"layer": self.layer, "metadata_columns": list(self.metadata_columns), **kept}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "TableOptions":
        """Return the options that a manifest holds; KeyError or TypeError where it does not."""
        genes = found.get("genes")
        names = tuple(str(name) for name in found["metadata_columns"])
        columns = dict(found.get("columns", {}))
        return cls(str(found["layer"]), names, columns, genes and Path(genes), found.get("gene_column"))


AS_OURS = TableOptions()
"""The options where a file needs none."""


def chosen_columns(given: Sequence[str], file: Path | None = None) -> dict[str, str]:
    """Return {meaning: column} of `--column MEANING=NAME` options, which win over the `[columns]` of a TOML file.

    Raises
    ------
    InputError
        No such meaning, given twice, no "=", or a file that is no TOML with a table `[columns]` of texts.
    """
    found: dict[str, str] = {}
    if file is not None:
        require_file(file)
        with readable_as("TOML", file):
            content = tomllib.loads(file.read_text(encoding="utf-8-sig"))
        columns = content.get("columns")
        if not isinstance(columns, dict) or not all(isinstance(name, str) for name in columns.values()):
            raise InputError(f'{file}: needs a table [columns] with lines such as cell_type = "cell_line"')
        found = {_meaning(str(file), meaning): name for meaning, name in columns.items()}
    options: dict[str, str] = {}
    for text in given:
        meaning, equals, name = (part.strip() for part in text.partition("="))
        if not equals:
            raise InputError(f"--column {text}: give MEANING=NAME, such as cell_type=cell_line")
        if _meaning(f"--column {text}", meaning) in options:
            raise InputError(f"--column {text}: {meaning} is given twice")
        options[meaning] = name
    return found | options


def key_of(name: str) -> str:
    """Return a name without blanks, dashes, dots, underscores and case."""
    return re.sub(r"[\s\-_.]+", "", name).casefold().replace("μ", "µ")


BY_KEY = {
    key_of(name): (meaning, rank)
    for meaning, ranks in ALIASES.items()
    for rank, names in enumerate(ranks)
    for name in [*names.split(), *([meaning] if rank == 0 else [])]
}


def meaning_of(name: str) -> tuple[str, int] | None:
    """Return the meaning that a column may have by its name, and the rank of the name (-1 for the own name)."""
    if name in ALIASES:
        return name, -1
    found = BY_KEY.get(key_of(name))
    if found is None and (parts := _with_unit(name)) is not None:
        found = BY_KEY.get(key_of(parts[0]))
        found = found if found is not None and found[0] == parts[1] else None
    return found


def read_as_text(options: TableOptions, *others: str) -> Callable[[str], bool]:
    """Return what says whether a column is text even where it looks like numbers: `TEXT_MEANINGS` and `others`."""
    wanted = TEXT_MEANINGS | set(others)
    chosen = {name for meaning, name in options.columns.items() if meaning in wanted}
    return lambda name: name in chosen or (meaning_of(name) or ("",))[0] in wanted


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


def _meaning(source: str, meaning: str) -> str:
    if meaning not in ALIASES:
        raise InputError(f"{source}: no meaning {meaning!r}; there are {', '.join(ALIASES)}")
    return meaning


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


def _with_unit(name: str) -> tuple[str, str, str] | None:
    """Split "dose_nM" or "Time (min)" into the name before the unit, the meaning and the unit; None without a unit."""
    tail = re.search(r"(?:^|[\s_\-.\[(])([A-Za-zµμ]+)[\])]?$", name)
    if tail is None:
        return None
    unit, base = _folded(tail[1]), name[: tail.start(1)].rstrip(" _-.[(")
    return next(((base or name, meaning, unit) for meaning, units in UNITS.items() if unit in units), None)


def _folded(unit: str) -> str:
    return unit.casefold().replace("μ", "µ")


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
    unit = parts[1].where(parts[1].fillna("") != "", usual).map(lambda found: _folded(str(found)))
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
    usual, parts = next(iter(UNITS[meaning])), _with_unit(name)
    if parts is not None and parts[1] == meaning:
        return pd.Series(parts[2], index=obs.index, dtype=object), ""
    for other in map(str, obs.columns):
        if key_of(other) in {f"{base}{end}" for base in _bases(name) for end in ("unit", "units")}:
            return cleaned(obs[other]), f" in the units of {other!r}"
    return pd.Series(usual, index=obs.index, dtype=object), f" in {'µM' if usual == 'um' else 'hours'}"


def _bases(name: str) -> set[str]:
    """Return what a column of units may be named by: "dosevalue" and "dose" for dose_value."""
    return {key_of(name), key_of(name).removesuffix("value")}
