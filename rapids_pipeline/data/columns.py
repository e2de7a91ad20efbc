"""Columns by meaning: what the ecosystem calls a cell type, a compound, a dose; and layers by name.

    meaning     other names (case, blanks, dashes, dots and underscores do not matter)
    cell_type   cell_line, cell_iname, cell, celltype; failing these cell_id, cell_name
    sm_name     pert_iname, perturbation, perturbagen, compound, drug, treatment, …
    dose_uM     pert_dose, dose, dose_value, concentration, …, also with a unit at the end (dose_nM)
    …           `ALIASES`

A column with the exact own name comes first. Two columns for one meaning that are not equal are never chosen between
in silence: `--column MEANING=NAME` or a columns.toml says which (`meanings`). This file imports nothing heavy.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from rapids_pipeline.backend.errors import InputError, meant, quoted, shown

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
    structures : bool
        Whether every row must have a SMILES; otherwise it may be missing, and is then the empty text.
    combine : {"sum", "mean"}
        What a table of embeddings gives a combination that has no row of its own.
    """

    layer: str = DEFAULT_LAYER
    metadata_columns: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    genes: Path | None = None
    gene_column: str | None = None
    structures: bool = True
    combine: Literal["sum", "mean"] = "sum"

    def to_json(self) -> dict[str, Any]:
        """Return the options for a manifest; those of columns and genes only where they are given."""
        given = {
            "columns": dict(self.columns),
            "genes": self.genes and str(self.genes.absolute()),
            "gene_column": self.gene_column,
        }
        kept: dict[str, Any] = {name: value for name, value in given.items() if value}
        kept |= {} if self.structures else {"structures": False}
        kept |= {} if self.combine == "sum" else {"combine": self.combine}
        return {"layer": self.layer, "metadata_columns": list(self.metadata_columns), **kept}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "TableOptions":
        """Return the options that a manifest holds; KeyError or TypeError where it does not."""
        genes = found.get("genes")
        names = tuple(str(name) for name in found["metadata_columns"])
        columns = dict(found.get("columns", {}))
        told = genes and Path(genes), found.get("gene_column"), bool(found.get("structures", True))
        combine: Literal["sum", "mean"] = "mean" if found.get("combine") == "mean" else "sum"
        return cls(str(found["layer"]), names, columns, *told, combine)


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
        from rapids_pipeline.backend.settings import read_toml

        columns = read_toml(file).get("columns")
        if not isinstance(columns, dict) or not all(isinstance(name, str) for name in columns.values()):
            raise InputError(
                f'{shown(file)}: needs a table [columns] with lines such as cell_type = "cell_line"'
            )
        found = {_meaning(shown(file), meaning): name for meaning, name in columns.items()}
    options: dict[str, str] = {}
    for text in given:
        meaning, equals, name = (part.strip() for part in text.partition("="))
        if not equals:
            raise InputError(f"--column {shown(text)}: give MEANING=NAME, such as cell_type=cell_line")
        if _meaning(f"--column {shown(text)}", meaning) in options:
            raise InputError(f"--column {shown(text)}: {meaning} is given twice")
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


@lru_cache(maxsize=100_000)
def meaning_of(name: str) -> tuple[str, int] | None:
    """Return the meaning that a column may have by its name, and the rank of the name (-1 for the own name)."""
    if name in ALIASES:
        return name, -1
    found = BY_KEY.get(key_of(name))
    if found is None and (parts := with_unit(name)) is not None:
        found = BY_KEY.get(key_of(parts[0]))
        found = found if found is not None and found[0] == parts[1] else None
    return found


def read_as_text(options: TableOptions, *others: str) -> Callable[[str], bool]:
    """Return what says whether a column is text even where it looks like numbers: `TEXT_MEANINGS` and `others`."""
    wanted = TEXT_MEANINGS | set(others)
    chosen = {name for meaning, name in options.columns.items() if meaning in wanted}
    return lambda name: name in chosen or (meaning_of(name) or ("",))[0] in wanted


def _meaning(source: str, meaning: str) -> str:
    if meaning not in ALIASES:
        raise InputError(
            f"{source}: no meaning {quoted(meaning)}{meant(meaning, ALIASES)}; there are {', '.join(ALIASES)}"
        )
    return meaning


def with_unit(name: str) -> tuple[str, str, str] | None:
    """Split "dose_nM" or "Time (min)" into the name before the unit, the meaning and the unit; None without a unit."""
    tail = re.search(r"(?:^|[\s_\-.\[(])([A-Za-zµμ]+)[\])]?$", name)
    if tail is None:
        return None
    unit, base = folded(tail[1]), name[: tail.start(1)].rstrip(" _-.[(")
    return next(((base or name, meaning, unit) for meaning, units in UNITS.items() if unit in units), None)


def folded(unit: str) -> str:
    """Return a unit as `UNITS` spells it."""
    return unit.casefold().replace("μ", "µ")
