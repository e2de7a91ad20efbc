"""What held-out rows share with the rows they are predicted from, and whether a split is as hard as the task.

A score is one of rows like those it was made on. The audit counts, for the held-out rows of a split and for the pairs
to predict alike, what the training rows already know of them: their compound, its scaffold, the nearest other
structure, their cell type, and by how many rows; where doses or times differ, also how near the compound's nearest
other context in the cell type is. Where the two differ, it says so in words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.molecules.morgan import fingerprints, tanimoto
from features.rows import DOSE, TIME, context_numbers, contexts_of, decades_apart, numbered, varying
from rapids_pipeline.backend.arrays import Float32, Float64, Indices
from rapids_pipeline.evaluation.splits import Split, same_compound, scaffolds_of

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
POINTS = 0.10
"""Shares that differ by more than this are told apart: with 100 held-out rows, twice their standard error."""
TIMES = 2.0
"""Medians of numbers of rows that differ by more than this factor are told apart."""
LIKENESS = 0.10
"""Median similarities that differ by more than this are told apart."""
FEW_ROWS = 5
"""Held-out rows below which a score says little."""


@dataclass(frozen=True)
class Overlap:
    """What some rows (held out, or to predict) share with the rows they are predicted from.

    Attributes
    ----------
    rows : int
        How many there are.
    compound, scaffold, cell_type, pair : float
        Share of the rows whose compound (same name or same molecule), Bemis–Murcko scaffold, cell type, or pair of
        compound and cell type, at the same dose and time, has a training row. `pair` must be 0: such a row has its
        answer in training. A compound without a structure is its own scaffold; where none has one, `scaffold` is None.
    same_response : float or None
        Share of the rows whose responses equal those of a training row in all genes; None where they are unknown.
    tanimoto : tuple of float
        Quantiles 5, 25, 50, 75 and 95 % of the similarity of the nearest training molecule (Morgan fingerprints; 1 for
        the same molecule), over the rows that have a structure; empty where there are none.
    rows_per_cell_type, rows_per_compound : float
        Median number of training rows with the row's cell type, and with its compound.
    fewest_per_cell_type : int
        The smallest such number for a cell type.
    other_context : float or None
        Share of the rows whose compound has a training row in the same cell type at another dose or time; None where
        no dose or time differs.
    decades : float or None
        Median distance to the nearest such row, |Δlog10 dose| + |Δlog10 time|; None without any.
    """

    rows: int
    compound: float
    scaffold: float | None
    cell_type: float
    pair: float
    same_response: float | None
    tanimoto: tuple[float, ...]
    rows_per_cell_type: float
    rows_per_compound: float
    fewest_per_cell_type: int
    other_context: float | None = None
    decades: float | None = None


@dataclass(frozen=True)
class Audit:
    """The audit of a split.

    Attributes
    ----------
    held_out : Overlap
        Over the held-out rows of all its parts, each against its own training rows.
    by_split : dict of str to Overlap
        Part by part.
    task : Overlap or None
        The pairs to predict, against all rows; None where they are not known.
    warnings : list of str
        What a reader of the scores must know, one sentence each.
    """

    held_out: Overlap
    by_split: dict[str, Overlap]
    task: Overlap | None
    warnings: list[str]


@dataclass(frozen=True, eq=False)
class _Known:
    """Numbers of cell type, compound and scaffold of all rows, and of the responses of those that are measured.

    `molecule` is the number of a row's SMILES, `similarity` that of two of them: NaN for a row without a structure.
    `context` is the number of a row's compound, cell type, dose and time; `doses_and_times`, (n, 2), None where none
    differ.
    """

    cell_type: Indices
    compound: Indices
    scaffold: Indices | None
    response: Indices | None
    molecule: Indices
    similarity: Float32
    context: Indices
    doses_and_times: Float64 | None

    def facts(self, training: Indices, rows: Indices) -> dict[str, NDArray[Any]]:
        """Return, for each of `rows`, what `training` knows of it."""
        there = np.unique(self.molecule[training])
        facts: dict[str, NDArray[Any]] = {
            "compound": np.isin(self.compound[rows], self.compound[training]),
            "cell_type": np.isin(self.cell_type[rows], self.cell_type[training]),
            "pair": np.isin(self.context[rows], self.context[training]),
            "tanimoto": self.similarity[self.molecule[rows]][:, there].max(axis=1),
            "rows_per_cell_type": _count(self.cell_type, training)[self.cell_type[rows]],
            "rows_per_compound": _count(self.compound, training)[self.compound[rows]],
        }
        if self.scaffold is not None:
            facts["scaffold"] = np.isin(self.scaffold[rows], self.scaffold[training])
        if self.response is not None and rows.max(initial=0) < len(self.response):
            facts["same_response"] = np.isin(self.response[rows], self.response[training])
        if self.doses_and_times is not None:
            facts["decades"] = self._decades(training, rows)
        return facts

    def _decades(self, training: Indices, rows: Indices) -> Float64:
        """Return how far the compound's nearest training row of the same cell type is; NaN where there is none."""
        assert self.doses_and_times is not None
        pair = self.cell_type * (self.compound.max() + 1) + self.compound
        found = np.full(len(rows), np.nan)
        for one in np.unique(pair[rows]):
            asked, known = np.flatnonzero(pair[rows] == one), training[pair[training] == one]
            if len(known):
                values = self.doses_and_times
                found[asked] = decades_apart(values[rows[asked]], values[known], values[training]).min(axis=1)
        return found


def audit(
    obs: pd.DataFrame,
    splits: Sequence[Split],
    pairs: pd.DataFrame | None = None,
    Y: Float32 | None = None,
) -> Audit:
    """Return the audit of a split.

    Parameters
    ----------
    obs : DataFrame, (n,)
        `cell_type`, `sm_name` and `SMILES` of the rows.
    splits : sequence of Split
        The parts of the split, of all repeats.
    pairs : DataFrame, optional
        Those of the pairs to predict.
    Y : ndarray of float32, (n, t), optional
        Responses of the rows, to find rows measured twice.

    Raises
    ------
    UnavailableError
        RDKit is not installed.
    """
    columns = ["cell_type", "sm_name", "SMILES"]
    columns += [name for name in (DOSE, TIME) if name in obs.columns]
    asked = (
        None
        if pairs is None
        else pairs.assign(**dict.fromkeys(set(columns[3:]) - set(pairs.columns), np.nan))
    )
    both = obs[columns] if asked is None else pd.concat([obs[columns], asked[columns]], ignore_index=True)
    known = _known(both, Y)
    parts = [known.facts(split.training, split.held_out) for split in splits]
    names = _distinct_names([split.name for split in splits])
    by_split = {name: _overlap([facts]) for name, facts in zip(names, parts, strict=True)}
    task, advice = None, ""
    if pairs is not None:
        advice = f"--split {recommended_split(obs, pairs)[0]} is most like them"
        to_predict = np.arange(len(obs), len(both))
        task = _overlap([known.facts(np.arange(len(obs)), to_predict)])
    held_out = _overlap(parts)
    return Audit(held_out, by_split, task, _warnings(held_out, by_split, task, advice))


def _share(share: float) -> str:
    """Return a share in per cent; one that is not quite none or all is not called so."""
    if 0 < share < 0.005:
        return "under 1%"
    return "over 99%" if 0.995 <= share < 1 else f"{share:.0%}"


def audit_rows(found: Audit) -> list[tuple[str, str, str]]:
    """Return the audit as rows of text: what, of the held-out rows, of the pairs to predict ("" where unknown)."""

    with_contexts = found.held_out.other_context is not None

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.2g}"

    def cells(overlap: Overlap | None) -> list[str]:
        if overlap is None:
            return [""] * (10 + 2 * with_contexts)
        near, same = overlap.tanimoto, overlap.same_response
        return [
            f"{overlap.rows}",
            _share(overlap.compound),
            "" if overlap.scaffold is None else _share(overlap.scaffold),
            f"{near[2]:.2f} ({near[0]:.2f} to {near[4]:.2f})" if near else "",
            _share(overlap.cell_type),
            f"{overlap.rows_per_compound:g}",
            f"{overlap.rows_per_cell_type:g}",
            f"{overlap.fewest_per_cell_type}",
            _share(overlap.pair),
            "" if same is None else _share(same),
            *([_share(overlap.other_context or 0.0), number(overlap.decades)] if with_contexts else []),
        ]

    words = [
        "rows",
        "compound known",
        "scaffold known",
        "nearest known molecule, Tanimoto: median (5 to 95 %)",
        "cell type known",
        "training rows of the compound, median",
        "training rows of the cell type, median",
        "training rows of the cell type, fewest",
        "pair known (must be 0)",
        "equal to a training row in all genes",
        *(
            [
                "compound known in the cell type at another dose or time",
                "decades of dose and time to it, median",
            ]
            if with_contexts
            else []
        ),
    ]
    return list(zip(words, cells(found.held_out), cells(found.task), strict=True))


def recommended_split(obs: pd.DataFrame, pairs: pd.DataFrame) -> tuple[str, str]:
    """Return the name of the split that is most like the pairs to predict, and why.

    By what most pairs are: compound and cell type new, `joint`; cell type new, `cell_type`; compound new, `compound`;
    all known, `scarce` where the pairs are of some cell types only and those have fewer training rows than the
    others, otherwise `random`.

    Parameters
    ----------
    obs, pairs : DataFrame
        `cell_type`, `sm_name` and `SMILES` of the training rows and of the pairs to predict.
    """
    n, m = len(obs), len(pairs)
    names, smiles = (
        np.concatenate([a[c].to_numpy(str) for a in (obs, pairs)]) for c in ("sm_name", "SMILES")
    )
    compounds = same_compound(names, smiles)
    known_compound = np.isin(compounds[n:], compounds[:n])
    cell_types = obs["cell_type"].to_numpy(str)
    wanted = pairs["cell_type"].to_numpy(str)
    known_cell_type = np.isin(wanted, cell_types)
    new_compound, new_cell_type = 1 - known_compound.mean(), 1 - known_cell_type.mean()
    if new_compound > 0.5 or new_cell_type > 0.5:
        shares = {"compound": new_compound, "cell type": new_cell_type}
        new = [f"{share:.0%} have a new {what}" for what, share in shares.items()]
        both = min(new_compound, new_cell_type) > 0.5
        name = "joint" if both else "compound" if new_compound > 0.5 else "cell_type"
        return name, f"of {m} pairs to predict {' and '.join(new)}"
    scarce = np.isin(cell_types, wanted)
    elsewhere = np.isin(compounds[:n][scarce], compounds[:n][~scarce]).any() if (~scarce).any() else False
    if elsewhere:
        rows = (np.unique(cell_types[which], return_counts=True)[1] for which in (scarce, ~scarce))
        few, many = map(np.median, rows)
        if few < many:
            return "scarce", (
                f"the pairs to predict are of cell types with a median of {few:g} training rows (the others have "
                f"{many:g}), and their compounds are known from elsewhere"
            )
    return (
        "random",
        "compounds and cell types of the pairs to predict are known, and by as many rows as others",
    )


def _known(rows: pd.DataFrame, Y: Float32 | None) -> _Known:
    smiles = rows["SMILES"].to_numpy(str)
    distinct, molecule = numbered(smiles)
    bits = fingerprints(list(distinct))
    similarity = tanimoto(bits, bits)
    similarity[distinct == ""] = np.nan
    drawn = smiles != ""
    scaffolds = np.array(scaffolds_of(smiles), object)
    scaffolds[~drawn] = "without a structure: " + rows["sm_name"].to_numpy(str)[~drawn].astype(object)
    response = None
    if Y is not None:
        response = np.unique([row.tobytes() for row in np.ascontiguousarray(Y)], return_inverse=True)[1]
    compound = same_compound(rows["sm_name"].to_numpy(str), smiles)
    return _Known(
        cell_type=numbered(rows["cell_type"].to_numpy(str))[1],
        compound=compound,
        scaffold=numbered(scaffolds.astype(str))[1] if drawn.any() else None,
        response=response,
        molecule=molecule,
        similarity=similarity,
        context=contexts_of(rows.assign(sm_name=compound)),
        doses_and_times=context_numbers(rows, DOSE, TIME) if varying(rows) else None,
    )


def _count(labels: Indices, rows: Indices) -> Indices:
    return np.bincount(labels[rows], minlength=int(labels.max()) + 1)


def _overlap(parts: Sequence[dict[str, NDArray[Any]]]) -> Overlap:
    facts = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    same, decades = facts.get("same_response"), facts.get("decades")
    near = facts["tanimoto"][~np.isnan(facts["tanimoto"])]
    return Overlap(
        rows=len(facts["pair"]),
        **{name: float(facts[name].mean()) for name in ("compound", "cell_type", "pair")},
        scaffold=float(facts["scaffold"].mean()) if "scaffold" in facts else None,
        same_response=None if same is None else float(same.mean()),
        tanimoto=tuple(float(q) for q in np.quantile(near, QUANTILES)) if len(near) else (),
        rows_per_cell_type=float(np.median(facts["rows_per_cell_type"])),
        rows_per_compound=float(np.median(facts["rows_per_compound"])),
        fewest_per_cell_type=int(facts["rows_per_cell_type"].min()),
        other_context=None if decades is None else float(np.isfinite(decades).mean()),
        decades=None
        if decades is None or not np.isfinite(decades).any()
        else float(np.median(decades[np.isfinite(decades)])),
    )


def _distinct_names(names: Sequence[str]) -> list[str]:
    """Return names with the number of their repeat where they occur again."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return out


def _warnings(
    held_out: Overlap, by_split: dict[str, Overlap], task: Overlap | None, advice: str
) -> list[str]:
    found = []
    if held_out.pair:
        found.append(
            f"{held_out.pair:.0%} of the held-out rows have a training row of the same compound and cell type (perhaps "
            "under another name): their scores are too good; drop one of the two, or take --split compound"
        )
    if held_out.same_response:
        found.append(
            f"{held_out.same_response:.0%} of the held-out rows equal a training row in all genes: their scores are "
            "too good; drop the copies"
        )
    small = [name for name, part in by_split.items() if part.rows < FEW_ROWS]
    if small:
        found.append(
            f"{len(small)} of {len(by_split)} splits hold out fewer than {FEW_ROWS} rows ({small[0]}): look at the "
            "interval, and take fewer --folds or more --repeats"
        )
    return found if task is None else [*found, *_compared(held_out, task, advice)]


def _compared(held_out: Overlap, task: Overlap, advice: str) -> list[str]:
    """Return in what the held-out rows are easier, and in what they are harder, than the pairs to predict."""
    faults: dict[bool, list[str]] = {True: [], False: []}
    for field, what in (("compound", "compounds"), ("scaffold", "scaffolds"), ("cell_type", "cell types")):
        ours, theirs = getattr(held_out, field), getattr(task, field)
        if ours is not None and theirs is not None and abs(ours - theirs) > POINTS:
            faults[ours > theirs].append(
                f"{ours:.0%} of the held-out {what} are in training, of your pairs' {theirs:.0%}"
            )
    ours, theirs = (overlap.tanimoto[2] if overlap.tanimoto else np.nan for overlap in (held_out, task))
    if abs(ours - theirs) > LIKENESS:
        faults[ours > theirs].append(
            f"the nearest training molecule has a median similarity of {ours:.2f} to the held-out ones, "
            f"to your pairs' {theirs:.2f}"
        )
    ours, theirs = held_out.rows_per_cell_type, task.rows_per_cell_type
    if max(ours, theirs) > TIMES * min(ours, theirs):
        faults[ours > theirs].append(
            f"the held-out rows' cell types have {ours:g} training rows (median), your pairs' {theirs:g}"
        )
    words = {
        True: "EASIER than your pairs, so scores look too good",
        False: "harder than your pairs, so scores look too bad",
    }
    return [f"{words[easier]}: {'; '.join(found)}; {advice}" for easier, found in faults.items() if found]
