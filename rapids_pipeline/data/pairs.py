"""Pairs to predict: a test file's, with their ids, names and SMILES as they are; or a batch for a saved model.

A batch may have 100,000 pairs and more: it is read whole, checked by compound and numbered by molecule. A pair of it
needs a cell type and a compound, and the compound a name that the model was trained on or a SMILES:

    id          row numbers from 0 where the file has no such column
    cell_type   as it is
    sm_name     where there is none, the training name of the same molecule, otherwise its canonical SMILES
    SMILES      where there is none, that of the training compound `sm_name`

Encodings go by name, molecule features by SMILES. A compound that training has under another name (the same canonical
SMILES) is therefore predicted under its training name. Salts, stereoisomers and tautomers are other molecules.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.molecules.smiles import canonical_smiles, distinct_molecules
from rapids_pipeline.backend.arrays import Indices, Labels
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.frames import FrameLibrary, read_table
from rapids_pipeline.data.checks import (
    as_text,
    check_smiles,
    require_columns,
    rows_named,
    same_molecule,
    some_of,
)
from rapids_pipeline.data.columns import PAIR, TEST_COLUMNS

COLUMNS = ("id", "cell_type", "sm_name", "SMILES")


@dataclass(frozen=True, eq=False)
class PairBatch:
    """n pairs of q distinct molecules.

    Attributes
    ----------
    table : pandas.DataFrame
        `id, cell_type, sm_name, SMILES`, a string in every row; rows as in the file.
    known_as : ndarray of object, (n,)
        The name by which the model's encodings look the compound up: `sm_name`, or its training name.
    molecule : ndarray of intp, (n,)
        Place of each row's molecule among `molecules`.
    molecules : list of str, (q,)
        Canonical SMILES, in order of first occurrence.
    spelled : list of str, (q,)
        Each molecule as it is spelled where it occurs first.
    notes : list of str
        What a reader of the predictions should know of the pairs.
    """

    table: pd.DataFrame
    known_as: Labels
    molecule: Indices
    molecules: list[str]
    spelled: list[str]
    notes: list[str]


def read_batch(path: Path, training: pd.DataFrame) -> PairBatch:
    """Read the pairs of a file as a batch for a saved model.

    Parameters
    ----------
    path : Path
        .csv, .tsv (also .gz) or .parquet with `cell_type`, and `sm_name` or `SMILES` or both.
    training : pandas.DataFrame
        `cell_type`, `sm_name` and `SMILES` of the model's training rows.

    Raises
    ------
    InputError
        Missing, empty or unreadable file; missing column or value; an id twice; invalid SMILES; two molecules of one
        name, in the file or in file and training; a compound without SMILES that training does not have.
    """
    found = read_table(path, text=COLUMNS).to_arrow().to_pandas()
    require_columns(path, found, ["cell_type"])
    if not {"sm_name", "SMILES"} & set(found.columns):
        raise InputError(f"{path}: missing column sm_name or SMILES; a pair needs one of them")
    notes = [] if "id" in found.columns else ["the pairs have no id column: they are numbered from 0"]
    pairs = pd.DataFrame({name: _text(found, name) for name in COLUMNS})
    pairs["id"] = _ids(path, pairs["id"], "id" in found.columns)
    known = training_molecules(training)
    pairs["sm_name"] = _named(path, pairs, names_by_molecule(known))
    return _numbered(path, pairs, training, known, notes)


def read_pairs(path: Path, *, library: FrameLibrary = "pandas") -> pd.DataFrame:
    """Read the pairs of a test file, in file order.

    Returns
    -------
    pandas.DataFrame
        At least `id` (unique, as in the file), `cell_type` and `sm_name`; `SMILES` where the file has it.

    Raises
    ------
    InputError
        Missing, empty or unreadable file; missing column or value; an id twice; two SMILES for one compound;
        invalid SMILES.
    """
    pairs = read_table(path, library, text=[*TEST_COLUMNS, "SMILES"]).to_arrow().to_pandas()
    require_columns(path, pairs, TEST_COLUMNS)
    _refuse_repeated_ids(path, pairs["id"])
    pairs = as_text(path, pairs, PAIR)
    if "SMILES" in pairs.columns:
        pairs["SMILES"] = _text(pairs, "SMILES")
        check_smiles(path, pairs[pairs["SMILES"].notna()])
    return pairs


def with_smiles(pairs: pd.DataFrame, training: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return `pairs` with a SMILES in every row: its own where it has one, otherwise training's by `sm_name`.

    Parameters
    ----------
    pairs, training : pandas.DataFrame
        As from `read_pairs` and `read_training(...).obs`.
    path : Path
        The test file, for messages.

    Raises
    ------
    InputError
        A compound that has no SMILES in either file, or different molecules in the two.
    """
    known = training.drop_duplicates("sm_name").set_index("sm_name")["SMILES"]
    from_training = pairs["sm_name"].map(known)
    own = pairs["SMILES"] if "SMILES" in pairs.columns else pd.Series(pd.NA, index=pairs.index)
    smiles = own.where(own.notna(), from_training)
    without = pairs.index[smiles.isna()]
    if len(without):
        names = list(dict.fromkeys(pairs["sm_name"][without]))
        raise InputError(
            f"{path}: no SMILES for {some_of(names)} (first in row {without[0] + 1}), which the training file "
            "does not have either; add them in a SMILES column"
        )
    for row in pairs.index[own.notna() & from_training.notna()]:
        if not same_molecule(own[row], from_training[row]):
            raise InputError(
                f"{path}: row {row + 1} gives {pairs['sm_name'][row]!r} the SMILES {own[row]!r}, the training "
                f"file {from_training[row]!r}; make them one molecule or rename one"
            )
    return pairs.assign(SMILES=smiles.astype("str"))


def training_molecules(training: pd.DataFrame) -> dict[str, str]:
    """Return the canonical SMILES of each training compound by name, those with the most rows first."""
    rows = training["sm_name"].value_counts(sort=False).sort_values(ascending=False, kind="stable")
    spelled = training.drop_duplicates("sm_name").set_index("sm_name")["SMILES"]
    return {str(name): str(canonical_smiles(str(spelled[name]))) for name in rows.index}


def names_by_molecule(molecules: Mapping[str, str]) -> dict[str, str]:
    """Return the name of each molecule in {name: molecule}: of several the first."""
    return {molecule: name for name, molecule in reversed(list(molecules.items()))}


def _text(found: pd.DataFrame, name: str) -> "pd.Series[Any]":
    """Return a column as strings, None where it is missing or blank."""
    if name not in found.columns:
        return pd.Series(None, index=found.index, dtype=object)
    values = found[name].astype(object)
    text = values.map(str).astype(object)
    return text.mask(values.isna() | (text.str.strip() == ""), None)


def _ids(path: Path, ids: "pd.Series[Any]", given: bool) -> "pd.Series[Any]":
    """Return the ids, or row numbers; InputError where one is missing or occurs twice."""
    if not given:
        return pd.Series(np.arange(len(ids)), index=ids.index).astype(str).astype(object)
    if ids.isna().any():
        where = rows_named(ids.index[ids.isna()])
        raise InputError(
            f"{path}: column id has no value in {where}; fill it, or leave the column out to number the rows"
        )
    _refuse_repeated_ids(path, ids)
    return ids


def _refuse_repeated_ids(path: Path, ids: "pd.Series[Any]") -> None:
    repeated = ids.index[ids.duplicated(keep=False)]
    if len(repeated):
        same = repeated[ids[repeated] == ids[repeated[0]]]
        raise InputError(f"{path}: id {ids[repeated[0]]} occurs in {rows_named(same)}; ids must be unique")


def _named(path: Path, pairs: pd.DataFrame, names_of: Mapping[str, str]) -> "pd.Series[Any]":
    """Return a name for every pair; InputError where it has neither name nor SMILES, or an invalid SMILES."""
    names, smiles = pairs["sm_name"], pairs["SMILES"]
    neither = pairs.index[names.isna() & smiles.isna()]
    if len(neither):
        raise InputError(f"{path}: {rows_named(neither)} has neither sm_name nor SMILES; give one of them")
    canonical = {string: canonical_smiles(string) for string in smiles.dropna().unique()}
    invalid = smiles.notna() & smiles.map(canonical).isna()
    if invalid.any():
        row = pairs.index[invalid][0]
        named = f" ({names[row]})" if isinstance(names[row], str) else ""
        raise InputError(f"{path}: row {row + 1}{named}: {smiles[row]!r} is not a valid SMILES")
    made = {string: names_of.get(str(molecule), str(molecule)) for string, molecule in canonical.items()}
    return names.where(names.notna(), smiles.map(made))


def _numbered(
    path: Path, pairs: pd.DataFrame, training: pd.DataFrame, known: Mapping[str, str], notes: list[str]
) -> PairBatch:
    """Check the distinct compounds, complete their SMILES and number their molecules."""
    name, spelling = pd.factorize(pairs["sm_name"])[0], pd.factorize(pairs["SMILES"])[0]
    number, _ = pd.factorize(name * (len(pairs) + 1) + spelling + 1)  # as drop_duplicates orders them
    compounds = pairs.drop_duplicates(["sm_name", "SMILES"])
    check_smiles(path, compounds[compounds["SMILES"].notna()])
    _refuse_other_molecules(path, compounds, known)
    compounds = with_smiles(compounds, training, path)
    molecules, molecule = distinct_molecules(compounds["SMILES"])
    given = compounds["sm_name"].to_numpy(object)
    names_of = names_by_molecule(known)
    of_molecule = np.array([names_of.get(found, "") for found in molecules], object)[molecule]
    renamed = np.array([name not in known for name in given]) & (of_molecule != "")
    known_as = np.where(renamed, of_molecule, given)
    if renamed.any():
        shown = some_of([f"{a} is {b}" for a, b in zip(given[renamed], of_molecule[renamed], strict=True)])
        notes = [
            *notes,
            f"{renamed.sum()} compounds are in training under another name, and predicted under it: {shown}",
        ]
    smiles = compounds["SMILES"].to_numpy(object)
    first = np.unique(molecule, return_index=True)[1]
    table = pairs.assign(SMILES=smiles[number]).astype(object)
    return PairBatch(table, known_as[number], molecule[number], molecules, list(smiles[first]), notes)


def _refuse_other_molecules(path: Path, compounds: pd.DataFrame, known: Mapping[str, str]) -> None:
    """Raise InputError where a training compound's name has the SMILES of another molecule."""
    own = compounds[compounds["SMILES"].notna() & compounds["sm_name"].isin(list(known))]
    same = own["SMILES"].map(canonical_smiles) == own["sm_name"].map(known)
    if same.all():
        return
    row = own.index[~same][0]
    others = f"; {(~same).sum()} compounds of the file have such a name" if (~same).sum() > 1 else ""
    raise InputError(
        f"{path}: row {row + 1} gives {own['sm_name'][row]!r} the SMILES {own['SMILES'][row]!r}, the training "
        f"file {known[own['sm_name'][row]]!r}; make them one molecule or rename one{others}"
    )
