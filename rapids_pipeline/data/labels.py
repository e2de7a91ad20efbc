"""Labels that mean one thing: cell types and compounds that differ only in case, blanks or dashes, or by a slip.

    same       "b cells", "B-cells", "B cells"       taken for the known spelling, with a note
    near       "Myleoid cells", "Dexametasone"       stops, with the known label as a hint
    new        "NKT cells" beside "NK cells", "compound 12" beside "compound 13", "HL-60" beside "HL-61"

Words that have a digit or fewer than four letters are codes: another code is another thing.
"""

import re
from collections import Counter
from collections.abc import Iterable
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pandas as pd

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.checks import same_molecule, some_of

SEPARATORS = r"[\s\-_\u2010-\u2015]+"
"""Blanks, dashes and underscores."""
NEAR = 0.85
"""The least share of equal letters (Ratcliff and Obershelp) of labels that a slip may tell apart."""


def key_of_label(label: str) -> str:
    """Return a label without case, blanks, dashes and underscores; the label itself where nothing else is left.

    Between two digits one underscore stays: "CPD 1-1" is not "CPD 11".
    """
    between_digits = re.sub(rf"(?<=\d){SEPARATORS}(?=\d)", "_", label)
    return re.sub(rf"(?<!\d){SEPARATORS}|{SEPARATORS}(?!\d)", "", between_digits).casefold() or label


def with_known_labels(source: str, obs: pd.DataFrame, known: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return `obs` with the spelling that `known` has of its labels, the most frequent one, and notes on those changed.

    A compound is the known one only where its SMILES, if both have one, is the same molecule.

    Parameters
    ----------
    source : str
        What to call `obs` in notes.
    obs, known : pandas.DataFrame
        `cell_type` and `sm_name`, maybe `SMILES`. A training file is compared with itself.
    """
    notes, itself = [], known is obs
    for column in ("cell_type", "sm_name"):
        counts = Counter(known[column].dropna())
        spellings: dict[str, list[str]] = {}
        for label, _ in counts.most_common():
            spellings.setdefault(key_of_label(label), []).append(label)
        settled = set() if itself else set(counts)
        found = {
            one: next(
                (to for to in spellings.get(key_of_label(one), []) if _same(column, obs, one, known, to)), one
            )
            for one in obs[column].dropna().unique()
            if one not in settled
        }
        found = {one: to for one, to in found.items() if to != one}
        if found:
            obs = obs.assign(**{column: obs[column].replace(found)})
            said = some_of([f"{one} is {to}" for one, to in found.items()])
            notes.append(f"{source}: {column} spelled unlike the other rows', and taken for them: {said}")
    return obs, notes


def refuse_near(path: Path, column: str, labels: Iterable[Any], known: Iterable[str]) -> None:
    """Raise InputError, with the hint, where a label that is not known is nearly a known one."""
    labels, known = list(labels), list(dict.fromkeys(known))
    for label in dict.fromkeys(labels):
        near = nearest_label(str(label), known) if label not in known else None
        if near is not None:
            row = labels.index(label) + 1
            raise InputError(
                f"{path}: the {column} {label!r} (first in row {row}) is not in the training file, which has {near!r}; "
                "if it is meant, write it so, and if not, give the other one a name less like it"
            )


def nearest_label(label: str, known: Iterable[str]) -> str | None:
    """Return the known label that `label` differs from as by a slip, None where there is none."""
    best, found = NEAR, None
    matcher = SequenceMatcher(None, "", label.casefold(), autojunk=False)
    for other in known:
        matcher.set_seq1(other.casefold())
        if min(matcher.real_quick_ratio(), matcher.quick_ratio()) < best or _codes(label) != _codes(other):
            continue
        if (ratio := matcher.ratio()) >= best:
            best, found = ratio, other
    return found


def _codes(label: str) -> list[str]:
    words = re.findall(r"\w+", label.casefold())
    return sorted(word for word in words if len(word) < 4 or any(letter.isdigit() for letter in word))


def _same(column: str, obs: pd.DataFrame, one: str, known: pd.DataFrame, to: str) -> bool:
    """Say whether two names that differ in spelling only have the same molecule, or one has none; cell types do."""
    if column != "sm_name" or one == to or not ("SMILES" in obs.columns and "SMILES" in known.columns):
        return True
    mine, theirs = (
        table["SMILES"][(table["sm_name"] == name) & (table["SMILES"] != "")].dropna()
        for table, name in ((obs, one), (known, to))
    )
    return mine.empty or theirs.empty or same_molecule(mine.iloc[0], theirs.iloc[0])
