"""How far a pair is from what a model was trained on, one row a pair.

    nearest_compound   the training compound whose Morgan fingerprint (radius 2, 1,024 bits) is most like the pair's
    tanimoto           their Tanimoto similarity, 0 to 1; of a training molecule itself always 1
    cell_type_known    whether any training row is of the cell type
    compound_known     whether any training row is of the same molecule (equal canonical SMILES)
    cell_type_rows     training rows of the cell type
    compound_rows      training rows of the compound

A similarity of 1 does not make a compound known: stereoisomers share their fingerprint. Source of the measure:
`features.molecules.morgan`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from features.molecules.morgan import MorganEncoder, nearest
from rapids_pipeline.backend.arrays import Codes, Float32, Labels
from rapids_pipeline.data.pairs import PairBatch, names_by_molecule, training_molecules

COLUMNS = (
    "nearest_compound",
    "tanimoto",
    "cell_type_known",
    "compound_known",
    "cell_type_rows",
    "compound_rows",
)
MOLECULES_AT_ONCE = 4096
"""Fingerprints of new molecules held at once (16 MB)."""


@dataclass(frozen=True, eq=False)
class Applicability:
    """The columns above, as a table of n rows, and in words."""

    table: pd.DataFrame
    notes: list[str]


def applicability(batch: PairBatch, training: pd.DataFrame) -> Applicability:
    """Compare pairs with training rows.

    Parameters
    ----------
    batch : PairBatch
        n pairs.
    training : pandas.DataFrame
        `cell_type`, `sm_name` and `SMILES` of the model's training rows.

    Raises
    ------
    UnavailableError
        RDKit is not installed.
    """
    names = names_by_molecule(training_molecules(training))
    cell_rows = _rows_of(batch.table["cell_type"], training["cell_type"])
    compound_rows = _rows_of(pd.Series(batch.known_as), training["sm_name"])
    name, similarity = _nearest(batch.molecules, names)
    known = compound_rows > 0
    table = pd.DataFrame(
        {
            "nearest_compound": np.where(known, batch.known_as, name[batch.molecule]),
            "tanimoto": np.where(known, np.float32(1), similarity[batch.molecule]),
            "cell_type_known": cell_rows > 0,
            "compound_known": known,
            "cell_type_rows": cell_rows,
            "compound_rows": compound_rows,
        }
    )
    unseen = [
        *unseen_levels("cell_type", batch.table["cell_type"].to_numpy(object), table["cell_type_known"]),
        *unseen_levels("sm_name", batch.known_as, table["compound_known"]),
    ]
    return Applicability(table, [*unseen, *_how_near(batch, table)])


def unseen_levels(column: str, values: Labels, known: Any) -> list[str]:
    """Return a sentence where values of a column are such that no training row has."""
    unseen = values[~np.asarray(known, bool)]
    if not len(unseen):
        return []
    names = list(dict.fromkeys(map(str, unseen)))
    return [
        f"{len(unseen)} of {len(values)} pairs have a {column} the model was not trained on "
        f"({', '.join(names[:3])}{', …' if len(names) > 3 else ''}): expect larger errors there"
    ]


def _rows_of(values: "pd.Series[Any]", training: "pd.Series[Any]") -> Codes:
    """Return the number of training rows that have each value, (n,)."""
    counts = training.astype(object).value_counts()
    found = counts.reindex(values.astype(object).to_numpy(), fill_value=0)
    return np.asarray(found, dtype=np.int32)


def _nearest(molecules: list[str], names: dict[str, str]) -> tuple[Labels, Float32]:
    """Return the name and the similarity of the training molecule nearest to each molecule, (q,) each."""
    encoder, trained = MorganEncoder(), list(names)
    of_training = np.array([names[molecule] for molecule in trained], object)
    fingerprints = encoder.transform(trained)
    index, similarity = np.empty(len(molecules), np.intp), np.empty(len(molecules), np.float32)
    for start in range(0, len(molecules), MOLECULES_AT_ONCE):
        some = slice(start, start + MOLECULES_AT_ONCE)
        index[some], similarity[some] = nearest(encoder.transform(molecules[some]), fingerprints)
    return of_training[index], similarity


def _how_near(batch: PairBatch, table: pd.DataFrame) -> list[str]:
    """Return a sentence on the molecules that are new to the model."""
    by_molecule = table.assign(molecule=batch.molecule).drop_duplicates("molecule")
    new = by_molecule[~by_molecule["compound_known"]]
    if not len(new):
        return []
    low, median, high = np.quantile(new["tanimoto"], [0.1, 0.5, 0.9])
    return [
        f"{len(new)} of {len(by_molecule)} molecules are new to the model; Tanimoto similarity to the nearest "
        f"training compound: median {median:.2f}, 10 % below {low:.2f}, 10 % above {high:.2f}"
    ]
