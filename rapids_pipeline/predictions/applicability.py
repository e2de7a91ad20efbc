"""How far a pair is from what a model was trained on, a row a pair.

    nearest_compound   the training compound whose Morgan fingerprint (radius 2, 1,024 bits) is most like the pair's
    tanimoto           their Tanimoto similarity, 0 to 1; of a training molecule itself always 1; without a structure,
                       nearest_compound is empty and this is missing, unless the compound is known
    cell_type_known    whether any training row is of the cell type
    compound_known     whether any training row is of the same molecule (equal canonical SMILES)
    cell_type_rows     training rows of the cell type
    compound_rows      training rows of the compound
    in_atlas           whether the model's atlas has the compound; left out without an atlas
    untested_genes     genes that no training row of the cell type was tested in; left out where all were

Which genes those are, by cell type, is in OUT.untested.csv or in the folder's manifest. A similarity of 1 does not make
a compound known: stereoisomers share their fingerprint. Source of the measure: `features.molecules.morgan`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from features.molecules.atlas import Atlas
from features.molecules.morgan import fingerprints, nearest
from features.rows import DOSE, TIME
from rapids_pipeline.backend.arrays import Codes, Float32, Labels
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.pairs import (
    COLUMNS,
    PairBatch,
    context_notes,
    names_by_molecule,
    training_molecules,
    unseen_levels,
)

METADATA = (
    *(*COLUMNS, DOSE, TIME, "nearest_compound", "tanimoto", "cell_type_known", "compound_known"),
    *("cell_type_rows", "compound_rows", "in_atlas", "untested_genes"),
)
"""Columns of predictions that are no genes."""
MOLECULES_AT_ONCE = 4096
"""Molecules compared at once (16 MB of Morgan fingerprints)."""


def applicability(
    batch: PairBatch, training: pd.DataFrame, atlas: Atlas | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Return how far pairs are from training rows, as a table with a row a pair, and in words.

    Parameters
    ----------
    batch : PairBatch
        n pairs.
    training : pandas.DataFrame
        `cell_type`, `sm_name` and `SMILES` of the model's training rows.
    atlas : Atlas, optional
        The model's.

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
    if atlas is not None:
        table["in_atlas"] = atlas.places(list(batch.known_as), list(batch.table["SMILES"])) >= 0
    unseen = [
        *unseen_levels("cell_type", batch.table["cell_type"], table["cell_type_known"]),
        *unseen_levels("sm_name", batch.known_as, table["compound_known"]),
        *context_notes(batch.table, training),
    ]
    return table, [*unseen, *_how_near(batch, table)]


def refuse_taken_names(called: object, genes: Sequence[str]) -> None:
    """Raise InputError where a gene has the name of a column that says what a predicted pair is."""
    taken = sorted(set(METADATA) & set(genes))
    if taken:
        raise InputError(
            f"{called}: a gene is called {taken[0]}, as a column of the predictions' metadata is"
        )


def _rows_of(values: "pd.Series[Any]", training: "pd.Series[Any]") -> Codes:
    """Return the number of training rows that have each value, (n,)."""
    counts = training.astype(object).value_counts()
    found = counts.reindex(values.astype(object).to_numpy(), fill_value=0)
    return np.asarray(found, dtype=np.int32)


def _nearest(molecules: list[str], names: dict[str, str]) -> tuple[Labels, Float32]:
    """Return the name and the similarity of the training molecule nearest to each molecule, (q,) each.

    A molecule without a structure, and any where no training compound has one, has the name "" and a similarity of NaN.
    """
    trained = list(names)
    name, similarity = np.full(len(molecules), "", object), np.full(len(molecules), np.nan, np.float32)
    of_training = np.array([names[molecule] for molecule in trained], object)
    bits = fingerprints(trained)
    drawn = np.flatnonzero([molecule != "" for molecule in molecules]) if trained else np.arange(0)
    for start in range(0, len(drawn), MOLECULES_AT_ONCE):
        some = drawn[start : start + MOLECULES_AT_ONCE]
        index, similarity[some] = nearest(fingerprints([molecules[k] for k in some]), bits)
        name[some] = of_training[index]
    return name, similarity


def _how_near(batch: PairBatch, table: pd.DataFrame) -> list[str]:
    """Return a sentence on the molecules that are new to the model."""
    by_molecule = table.assign(molecule=batch.molecule).drop_duplicates("molecule")
    new = by_molecule[~by_molecule["compound_known"]].dropna(subset="tanimoto")
    if not len(new):
        return []
    low, median, high = np.quantile(new["tanimoto"], [0.1, 0.5, 0.9])
    return [
        f"{len(new)} of {len(by_molecule)} molecules are new to the model; Tanimoto similarity to the nearest "
        f"training compound: median {median:.2f}, 10 % below {low:.2f}, 10 % above {high:.2f}"
    ]
