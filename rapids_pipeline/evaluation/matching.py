"""Rows and genes of two files matched by name: ids, or pairs, and gene names; what does not match is refused.

by id      where both files have the column
by pair    `cell_type` and `sm_name`, with `dose_uM` and `time_h` where both files have them
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from features.rows import DOSE, TIME, context_numbers, contexts_of
from rapids_pipeline.backend.arrays import Indices
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.columns import PAIR
from rapids_pipeline.data.pairs import context_columns, read_ids
from rapids_pipeline.data.tables import PerturbationData

NAME_THEM = "give the pairs of its rows by --id-map id_map.csv"
"""What helps where the rows of a prediction do not say which pairs they are."""


def with_id_map(path: Path, predicted: PerturbationData, id_map: Path) -> tuple[PerturbationData, list[str]]:
    """Return a prediction whose rows have the ids and pairs of an id map, and a note if they were matched by position.

    Rows are matched by the column `id`. A file without ids is matched by position, and so is an AnnData file none of
    whose row names is an id of the map, since AnnData names rows by itself. Both need as many rows as the map has.

    Raises
    ------
    InputError
        The id map cannot be read or has an id twice, some ids of the prediction are not in it, or there are no ids and
        the numbers of rows differ.
    """
    known = read_ids(id_map)
    known = known.assign(id=text_of(id_map, known, "id"))
    if known["id"].duplicated().any():
        raise InputError(f"{id_map}: id {known['id'][known['id'].duplicated()].iloc[0]} is there twice")
    own = text_of(path, predicted.obs, "id") if "id" in predicted.obs.columns else []
    rows = pd.Index(known["id"]).get_indexer(pd.Index(own))
    made_up = path.suffix == ".h5ad" and (rows < 0).all()
    if own and not made_up:
        if (rows < 0).any():
            raise InputError(
                f"{path}: id {own[rows.argmin()]} is not in {id_map}; give the id map that it was made for"
            )
        return replace(predicted, obs=known.iloc[rows].reset_index(drop=True)), []
    if len(known) != len(predicted.Y):
        raise InputError(
            f"{path}: its rows are not named by ids of {id_map}, and there are {len(predicted.Y)} of them, not "
            f"{len(known)}; give the id map that it was made for"
        )
    note = f"the rows of {path.name} have no ids, so they were matched with {id_map.name} by position"
    return replace(predicted, obs=known), [note]


def match_rows(
    path: Path, obs: pd.DataFrame, truth: Path, truth_obs: pd.DataFrame, names: Sequence[str]
) -> Indices:
    """Return, for every row of `truth_obs`, the row of `obs` with the same values of the columns `names`.

    Raises
    ------
    InputError
        A name has no value or occurs twice in a file, the two files do not name the same rows, or rows of one
        id are two (cell type, compound) pairs. In the truth a name may occur again for replicates: rows of one pair,
        dose and time.
    """
    contexts = contexts_of(truth_obs) if set(PAIR) <= set(truth_obs.columns) else None
    mine, theirs = _row_names(path, obs, names), _row_names(truth, truth_obs, names, contexts)
    what = "ids" if list(names) == ["id"] else "pairs"
    unnamed = not set(PAIR) <= set(obs.columns)
    remedy = f"predict exactly the truth's rows{f', or {NAME_THEM}' if unnamed else ''}"
    _refuse_unlike(path, mine, f"the truth {truth}", theirs, what, remedy)
    rows = pd.Index(mine).get_indexer(pd.Index(theirs))
    if what == "ids" and all(set(PAIR) <= set(frame.columns) for frame in (obs, truth_obs)):
        _refuse_other_pairs(path, obs.iloc[rows].reset_index(drop=True), truth, truth_obs, theirs)
    return rows.astype(np.intp)


def match_genes(path: Path, found: Sequence[str], of: str, wanted: Sequence[str]) -> Indices:
    """Return the position in `found`, the genes of `path`, of every gene in `wanted`, those of `of`.

    Raises
    ------
    InputError
        The two do not hold the same genes.
    """
    _refuse_unlike(path, found, of, wanted, "genes", "give every gene once, under the same name")
    return pd.Index(found).get_indexer(pd.Index(wanted)).astype(np.intp)


def common_names(path: Path, obs: pd.DataFrame, truth: Path, truth_obs: pd.DataFrame) -> list[str]:
    """Return the columns that rows are matched by; InputError where there are none in both files."""
    common = set(obs.columns) & set(truth_obs.columns)
    if "id" in common:
        return ["id"]
    if set(PAIR) <= common:
        return [*PAIR, *(name for name in context_columns(obs) if name in common)]
    have, truth_has = (", ".join(map(str, frame.columns[:6])) or "none" for frame in (obs, truth_obs))
    raise InputError(
        f"{path}: rows cannot be matched: it and the truth {truth} need a column id in both, or "
        f"{' and '.join(PAIR)} in both; metadata columns here: {have}; in the truth: {truth_has}; {NAME_THEM}"
    )


def _row_names(
    path: Path, obs: pd.DataFrame, names: Sequence[str], contexts: Indices | None = None
) -> list[str]:
    """Return the name of every row; InputError where two rows share theirs, unless they are of one context."""
    columns = [text_of(path, obs, name) for name in names]
    keys = columns[0] if len(columns) == 1 else [str(key) for key in zip(*columns, strict=True)]
    series = pd.Series(keys)
    shared = series.duplicated(keep=False)
    if contexts is not None and shared.any():
        shared &= (pd.Series(contexts).groupby(series).transform("nunique") > 1).to_numpy()
    repeated = series[shared]
    if len(repeated):
        what = "id" if len(names) == 1 else "pair"
        same = [str(row + 1) for row in repeated.index[repeated == repeated.iloc[0]]]
        raise InputError(
            f"{path}: {what} {repeated.iloc[0]} occurs in rows {', '.join(same[:5])}"
            f"{' …' if len(same) > 5 else ''}; {len(repeated)} rows share their {what} in all; "
            f"keep one row for each {what}"
            + ("" if contexts is None else ", dose_uM and time_h in both files")
        )
    return keys


def text_of(path: Path, obs: pd.DataFrame, name: str) -> list[str]:
    """Return a column as text; a dose or time with six digits, "nan" where it is missing."""
    if name in (DOSE, TIME):
        return [f"{value:.6g}" for value in context_numbers(obs, name)[:, 0]]
    column = obs[name]
    absent = np.flatnonzero(column.isna())
    if len(absent):
        raise InputError(
            f"{path}: column {name} has no value in row {absent[0] + 1}; fill it or drop the row"
        )
    if pd.api.types.is_float_dtype(column) and (column % 1 == 0).all():
        column = column.astype(np.int64)  # ids that some program has turned into 0.0, 1.0, …
    return [str(value) for value in column]


def _refuse_unlike(
    path: Path, found: Sequence[str], of: str, wanted: Sequence[str], what: str, remedy: str
) -> None:
    have, want = set(found), set(wanted)
    missing, extra = (
        [name for name in wanted if name not in have],
        [name for name in found if name not in want],
    )
    faults = []
    if missing:
        faults.append(f"{len(missing)} of the {len(want)} {what} of {of} are missing ({_first(missing)})")
    if extra:
        faults.append(f"{len(extra)} of its {what} are not in {of} ({_first(extra)})")
    if faults:
        raise InputError(f"{path}: {'; '.join(faults)}; {remedy}")


def _refuse_other_pairs(
    path: Path, obs: pd.DataFrame, truth: Path, truth_obs: pd.DataFrame, ids: Sequence[str]
) -> None:
    mine = zip(*(text_of(path, obs, name) for name in PAIR), strict=True)
    theirs = zip(*(text_of(truth, truth_obs, name) for name in PAIR), strict=True)
    for name, here, there in zip(ids, mine, theirs, strict=True):
        if here != there:
            raise InputError(
                f"{path}: id {name} is {here}, but {there} in the truth {truth}; use the ids of one test file"
            )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
