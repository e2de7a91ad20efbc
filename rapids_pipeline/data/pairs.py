"""Pairs to predict: those of a test file, or a batch for a saved model.

A batch may have 100,000 pairs and more: it is read whole, checked by compound and numbered by molecule. A pair
needs a cell type and a compound; in a batch the compound needs a name that the model was trained on or a SMILES:

    id          in a batch row numbers from 0 where the file has no such column
    cell_type   a label of training where it differs only in case, blanks or dashes
    sm_name     likewise; in a batch, where there is none, the training name of the same molecule, otherwise its
                canonical SMILES
    SMILES      where there is none, that of the training compound `sm_name`

A label that is nearly one of training's stops the command. Encodings go by name, molecule features by SMILES. A
compound of a batch that training has under another name (the same canonical SMILES) is therefore predicted under its
training name. Salts, stereoisomers and tautomers are other molecules.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from features.molecules.smiles import canonical_smiles, told_smiles
from features.rows import DOSE, TIME, context_numbers
from rapids_pipeline.backend.arrays import Indices, Labels
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.frames import (
    FrameLibrary,
    as_pandas,
    read_table,
    refuse_repeated_columns,
    without_row_labels,
)
from rapids_pipeline.data.checks import (
    as_text,
    check_smiles,
    require_columns,
    rows_named,
    same_molecule,
    some_of,
)
from rapids_pipeline.data.columns import (
    AS_OURS,
    PAIR,
    TEST_COLUMNS,
    TableOptions,
    meaning_of,
    read_as_text,
)
from rapids_pipeline.data.labels import nearest_label, refuse_near, with_known_labels
from rapids_pipeline.data.meanings import cleaned, with_meanings

COLUMNS = ("id", "cell_type", "sm_name", "SMILES")


@dataclass(frozen=True, eq=False)
class PairBatch:
    """n pairs of q distinct molecules, or of q distinct compounds by name where no structures are read.

    Attributes
    ----------
    table : pandas.DataFrame
        `id, cell_type, sm_name, SMILES`, a string in every row; rows as in the file. Besides, as numbers, `dose_uM` and
        `time_h` where both the file and the model's training rows have them.
    known_as : ndarray of object, (n,)
        The name by which the model's encodings look the compound up: `sm_name`, or its training name.
    molecule : ndarray of intp, (n,)
        Place of each row's molecule among `molecules`.
    molecules : list of str, (q,)
        Canonical SMILES, in order of first occurrence; "" where the structure is not known.
    spelled : list of str, (q,)
        Each molecule as it is spelled where it occurs first.
    named : list of str, (q,)
        `known_as` of each molecule where it occurs first.
    notes : list of str
        What a reader of the predictions should know of the pairs.
    numbered : bool
        The file has no ids: they are row numbers.
    """

    table: pd.DataFrame
    known_as: Labels
    molecule: Indices
    molecules: list[str]
    spelled: list[str]
    named: list[str]
    notes: list[str]
    numbered: bool = False


def read_pairs(
    source: Any,
    training: pd.DataFrame,
    options: TableOptions = AS_OURS,
    *,
    library: FrameLibrary = "pandas",
) -> tuple[pd.DataFrame, list[str]]:
    """Read the pairs of a test file, in file order.

    Parameters
    ----------
    source : Path or table
        .csv, .tsv, .txt (also .gz) or .parquet with `id`, `cell_type` and `sm_name`, maybe `SMILES`; or a table in
        memory of any frame library, whose rows are numbered where it has no ids.
    training : pandas.DataFrame
        `cell_type`, `sm_name` and `SMILES` of the training rows.
    options : TableOptions
        Whose `columns` count here.
    library : {"pandas", "polars", "cudf"}

    Returns
    -------
    table : pandas.DataFrame
        `id` (unique, as in the file), `cell_type`, `sm_name` and `SMILES` in every row, and the file's other columns.
    notes : list of str
        What a reader of the predictions should know of the file.

    Raises
    ------
    InputError
        Missing, empty or unreadable file; missing column or value; an id twice; two SMILES for one compound, in the
        file or in file and training; invalid SMILES; a compound without SMILES that training does not have; a cell
        type that is nearly one of training's.
    """
    path, found, notes = _read(source, options, library)
    if not isinstance(source, Path) and "id" not in found.columns:
        found = found.assign(id=range(len(found)))
    require_columns(path, found, TEST_COLUMNS)
    _refuse_repeated_ids(path, found["id"])
    pairs, notes = _as_in_training(path, as_text(path, found, PAIR), training, notes)
    return with_smiles(pairs, training, path, options.structures), notes


def read_batch(source: Any, training: pd.DataFrame, options: TableOptions = AS_OURS) -> PairBatch:
    """Read the pairs of a file, or of a table in memory, as a batch for a saved model.

    Parameters and errors as in `read_pairs`, but `id`, and `sm_name` or `SMILES`, may be missing. `dose_uM` and
    `time_h` are read where `training` has them, too.
    """
    path, found, notes = _read(source, options, "pandas")
    if numbered := "id" not in found.columns:
        found = found.assign(id=range(len(found)))
        notes += ["the pairs have no id column: they are numbered from 0"] if isinstance(source, Path) else []
    require_columns(path, found, ["cell_type", "id"])
    if not {"sm_name", "SMILES"} & set(found.columns):
        raise InputError(f"{path}: missing column sm_name or SMILES; a pair needs one of them")
    _refuse_repeated_ids(path, found["id"])
    pairs = pd.DataFrame({name: _labels(found, name) for name in COLUMNS})
    pairs["id"] = found["id"].astype(object).map(str)
    known = training_molecules(training)
    pairs["sm_name"] = _named(path, pairs, names_by_molecule(known))
    pairs, notes = _as_in_training(path, pairs, training, notes)
    for column in context_columns(training):
        if column in found.columns:
            pairs[column] = context_numbers(found, column)[:, 0]
    batch = _numbered(path, pairs, training, known, notes, options.structures)
    return replace(batch, numbered=numbered)


def table_of_tuples(pairs: Sequence[Any]) -> pd.DataFrame:
    """Return (cell type, compound) or (cell type, compound, SMILES) as a table; InputError for anything else."""
    rows = [pair if isinstance(pair, list | tuple) else (pair,) for pair in pairs]
    wrong = next((pair for pair in rows if len(pair) not in (2, 3)), None)
    if wrong is not None or not rows:
        shown = "there are none" if wrong is None else f"not {wrong!r:.80}"
        raise InputError(
            f"pairs: give a list of (cell type, compound) or (cell type, compound, SMILES): {shown}"
        )
    width = max(len(pair) for pair in rows)
    filled = [[*pair, *[None] * (width - len(pair))] for pair in rows]
    return pd.DataFrame(filled, columns=[*PAIR, "SMILES"][:width])


def context_columns(obs: pd.DataFrame) -> list[str]:
    """Return which of `dose_uM` and `time_h` a table has."""
    return [column for column in (DOSE, TIME) if column in obs.columns]


def context_notes(pairs: pd.DataFrame, training: pd.DataFrame) -> list[str]:
    """Return a sentence where pairs lack a dose or time that training rows have, or are beyond theirs."""
    notes = []
    for column in context_columns(training):
        values, known = (context_numbers(table, column)[:, 0] for table in (pairs, training))
        missing = int(np.isnan(values).sum())
        if missing:
            notes.append(
                f"{missing} of {len(values)} pairs have no {column}, in which the training rows differ: they are "
                "predicted as of no known one; give them the column"
            )
        low, high = np.nanmin(known), np.nanmax(known)
        beyond = int(((values < low) | (values > high)).sum())
        if beyond:
            notes.append(
                f"{beyond} of {len(values)} pairs have a {column} outside the training rows' {low:g} to {high:g}: "
                "expect larger errors there"
            )
    return notes


def unseen_levels(column: str, values: Any, known: Any) -> list[str]:
    """Return a sentence where values of a column are such that no training row has."""
    unseen = np.asarray(values, object)[~np.asarray(known, bool)]
    if not len(unseen):
        return []
    names = list(dict.fromkeys(map(str, unseen)))
    return [
        f"{len(unseen)} of {len(values)} pairs have a {column} the model was not trained on "
        f"({', '.join(names[:3])}{', …' if len(names) > 3 else ''}): expect larger errors there"
    ]


def fanned_out(
    batch: PairBatch, doses: Sequence[float], times: Sequence[float], training: pd.DataFrame
) -> PairBatch:
    """Return every pair at each dose (µM) and time (h), in turn; without doses or without times as the pairs say.

    Ids get a suffix: id 7 at 0.1 µM and 24 h is 7_0.1uM_24h.

    Raises
    ------
    InputError
        A dose or time is below 0, not finite or given twice, or the model's training rows do not differ in it.
    """
    values = {DOSE: (doses, "uM"), TIME: (times, "h")}
    for option, column in (("--doses", DOSE), ("--times", TIME)):
        asked = list(values[column][0])
        wrong = [x for x in asked if not 0 <= x < np.inf or asked.count(x) > 1]
        if wrong:
            raise InputError(
                f"{option}: {wrong[0]:g}: give different numbers of 0 or more, separated by commas"
            )
        if asked and column not in training.columns:
            raise InputError(
                f"{option}: the model's training rows do not differ in {column}, so it tells none apart; leave the "
                "option out, or train on rows that have the column"
            )
    given = {
        column: (np.array(many, np.float64), unit) for column, (many, unit) in values.items() if len(many)
    }
    rows, suffix = np.arange(len(batch.table)), np.full(len(batch.table), "", object)
    columns: dict[str, Any] = {}
    for column, (many, unit) in given.items():
        columns = {name: np.repeat(kept, len(many)) for name, kept in columns.items()}
        columns[column] = np.tile(many, len(rows))
        suffix = np.repeat(suffix, len(many)) + np.tile([f"_{x:g}{unit}" for x in many], len(rows)).astype(
            object
        )
        rows = np.repeat(rows, len(many))
    table = batch.table.iloc[rows].reset_index(drop=True).assign(**columns)
    table["id"] = table["id"] + suffix
    return replace(batch, table=table, known_as=batch.known_as[rows], molecule=batch.molecule[rows])


def read_ids(path: Path, options: TableOptions = AS_OURS) -> pd.DataFrame:
    """Read `id`, and `cell_type` and `sm_name` where they are, of any table, such as a sample submission.

    Raises
    ------
    InputError
        As `read_table`; no column `id`, or a row without one.
    """
    table = read_table(path, text=read_as_text(options, "id"))
    chosen = {options.columns.get(name) for name in TEST_COLUMNS}
    kept = [
        name for name in table.columns if name in chosen or (meaning_of(name) or ("",))[0] in TEST_COLUMNS
    ]
    pairs, _ = with_meanings(path, as_pandas(table.select(kept)), options)
    require_columns(path, pairs, ["id"])
    return pairs


def with_smiles(
    pairs: pd.DataFrame, training: pd.DataFrame, path: Path, required: bool = True
) -> pd.DataFrame:
    """Return `pairs` with a SMILES in every row: its own where it has one, otherwise training's by `sm_name`.

    Where neither has one it is "", or, where `required`, an error.

    Parameters
    ----------
    pairs, training : pandas.DataFrame
        `sm_name` and `SMILES`; pairs may lack the latter.
    path : Path
        The test file, for messages.

    Raises
    ------
    InputError
        A compound that has no SMILES in either file, or different molecules in the two; as `check_smiles`.
    """
    known = training.drop_duplicates("sm_name").set_index("sm_name")["SMILES"]
    from_training = pairs["sm_name"].map(known).mask(lambda found: found == "", None)
    own = _labels(pairs, "SMILES")
    check_smiles(path, pairs.assign(SMILES=own)[own.notna()])
    smiles = own.where(own.notna(), from_training)
    without = pairs.index[smiles.isna()]
    if required and len(without):
        names = list(dict.fromkeys(pairs["sm_name"][without]))
        near = next(((name, hint) for name in names[:20] if (hint := nearest_label(name, known.index))), None)
        hint = f"; the training file has {near[1]!r}, if {near[0]!r} means that" if near else ""
        raise InputError(
            f"{path}: no SMILES for {some_of(names)} (first in row {without[0] + 1}), which the training file "
            f"does not have either; add them in a SMILES column{hint}, or train with --molecules none or a table"
        )
    both = pairs.assign(own=own, known=from_training)[own.notna() & from_training.notna()]
    both = both.drop_duplicates(["sm_name", "own"])
    unlike = both[[not same_molecule(*two) for two in zip(both["own"], both["known"], strict=True)]]
    if len(unlike):
        row, names = unlike.index[0], list(dict.fromkeys(unlike["sm_name"]))
        others = f"; {len(names)} compounds of the file have such a name" if len(names) > 1 else ""
        raise InputError(
            f"{path}: row {row + 1} gives {names[0]!r} the SMILES {own[row]!r}, the training file "
            f"{from_training[row]!r}; make them one molecule or rename one{others}"
        )
    return pairs.assign(SMILES=smiles.where(smiles.notna(), "").astype("str"))


def training_molecules(training: pd.DataFrame) -> dict[str, str]:
    """Return the canonical SMILES of each training compound by name, those with the most rows first.

    A compound without a structure has "".
    """
    rows = training["sm_name"].value_counts(sort=False).sort_values(ascending=False, kind="stable")
    spelled = training.drop_duplicates("sm_name").set_index("sm_name")["SMILES"]
    return {str(name): _canonical(str(spelled[name])) for name in rows.index}


def names_by_molecule(molecules: Mapping[str, str]) -> dict[str, str]:
    """Return the name of each molecule in {name: molecule}, less "": of several the first."""
    return {molecule: name for name, molecule in reversed(list(molecules.items())) if molecule}


def name_of(source: Any) -> Path:
    """Return what messages call a file, or a table in memory."""
    return source if isinstance(source, Path) else Path(f"the {type(source).__name__}")


def _read(source: Any, options: TableOptions, library: FrameLibrary) -> tuple[Path, pd.DataFrame, list[str]]:
    """Return what a file of pairs is called, its columns under our names, and a note on those of other names."""
    if isinstance(source, Path):
        path, found = source, as_pandas(read_table(source, library, text=read_as_text(options, "id")))
    else:
        path = name_of(source)
        refuse_repeated_columns(str(path), list(getattr(source, "column_names", None) or source.columns))
        found = as_pandas(without_row_labels(nw.from_native(source, eager_only=True)))
    if not len(found):
        raise InputError(f"{path}: has no rows")
    return path, *with_meanings(path, found, options)


def _as_in_training(
    path: Path, pairs: pd.DataFrame, training: pd.DataFrame, notes: list[str]
) -> tuple[pd.DataFrame, list[str]]:
    """Return pairs with training's spelling of labels; InputError where a cell type is nearly one of training's."""
    pairs, changed = with_known_labels(str(path), pairs, training)
    refuse_near(path, "cell_type", pairs["cell_type"], training["cell_type"])
    return pairs, [*notes, *changed]


def _labels(found: pd.DataFrame, name: str) -> "pd.Series[Any]":
    """Return a column as text, None where it has no value, or there is no such column."""
    absent = pd.Series(None, index=found.index, dtype=object)
    return cleaned(found[name]) if name in found.columns else absent


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
        raise InputError(f"{path}: row {row + 1}{named}: {told_smiles(smiles[row])} is not a valid SMILES")
    made = {string: names_of.get(str(molecule), str(molecule)) for string, molecule in canonical.items()}
    return names.where(names.notna(), smiles.map(made))


def _numbered(
    path: Path,
    pairs: pd.DataFrame,
    training: pd.DataFrame,
    known: Mapping[str, str],
    notes: list[str],
    structures: bool,
) -> PairBatch:
    """Check the distinct compounds, complete their SMILES and number their molecules: without structures by name."""
    name, spelling = pd.factorize(pairs["sm_name"])[0], pd.factorize(pairs["SMILES"])[0]
    number, _ = pd.factorize(name * (len(pairs) + 1) + spelling + 1)  # as drop_duplicates orders them
    compounds = pairs.drop_duplicates(["sm_name", "SMILES"])
    compounds = with_smiles(compounds, training, path, structures)
    canonical = [_canonical(smiles) for smiles in compounds["SMILES"]]
    given = compounds["sm_name"].to_numpy(object)
    names_of = names_by_molecule(known)
    of_molecule = np.array([names_of.get(found, "") for found in canonical], object)
    renamed = np.array([name not in known for name in given]) & (of_molecule != "")
    known_as = np.where(renamed, of_molecule, given)
    if renamed.any():
        shown = some_of([f"{a} is {b}" for a, b in zip(given[renamed], of_molecule[renamed], strict=True)])
        notes = [
            *notes,
            f"{renamed.sum()} compounds are in training under another name, and predicted under it: {shown}",
        ]
    smiles = compounds["SMILES"].to_numpy(object)
    molecule, _ = pd.factorize(np.array(canonical, object) if structures else known_as)
    first = np.unique(molecule, return_index=True)[1]
    distinct = [canonical[k] for k in first], list(smiles[first]), list(known_as[first])
    table = pairs.assign(SMILES=smiles[number]).astype(dict.fromkeys(COLUMNS, object))
    return PairBatch(table, known_as[number], molecule[number], *distinct, notes)


def _canonical(smiles: str) -> str:
    return str(canonical_smiles(smiles)) if smiles else ""
