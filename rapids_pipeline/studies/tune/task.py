"""The task that a model is tuned on: held-out rows that are most like the pairs that the model will serve.

A pair whose compound was measured in another cell type is served by the model `known_compounds`, any other pair by
`new_compounds` (`rapids_pipeline.stack.members.composite`). The pairs to predict are told apart so, and each part asks
for the split that is most like it (`recommended_split`). Scarce cell types have few rows to hold out, so
`made_scarce`, the same task made of other cell types, stands beside `scarce`. A model that no pair needs stays as it
is. The share of the pairs that a model serves is its share of the trials and its weight in the overall score.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import pandas as pd

from features.rows import Pairs, Rows
from rapids_pipeline.backend.arrays import Float32, Indices, Mask
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.evaluation.audit import recommended_split
from rapids_pipeline.evaluation.splits import SPLITS, Split, named_splits
from rapids_pipeline.kernels.response_profiles import ResponseProfiles

ModelName = Literal["known_compounds", "new_compounds"]
MODELS: tuple[ModelName, ...] = get_args(ModelName)
SERVES = {
    "known_compounds": "compounds measured in another cell type",
    "new_compounds": "compounds without a response profile",
}
"""The pairs that a model predicts, in words."""

AUTO = "auto"
FOLDS = 5
"""Folds of a split; fewer where there is not enough to hold out."""
REPEATS = {"scarce": 2}
"""How often folds are dealt anew, where it is not once."""
LEAST_ROWS = 10
"""Held-out rows below which a model is not tuned: it would be tuned to noise."""


@dataclass(frozen=True, eq=False)
class Lot:
    """The parts of a named split, repeat after repeat; of the rows held out only those that the model serves."""

    name: str
    repeats: tuple[tuple[Split, ...], ...]

    @property
    def splits(self) -> list[Split]:
        """All parts."""
        return [split for splits in self.repeats for split in splits]

    @property
    def rows(self) -> Indices:
        """The rows held out at least once, sorted."""
        return np.unique(np.concatenate([split.held_out for split in self.splits]))


@dataclass(frozen=True, eq=False)
class Duty:
    """A model, the share of the pairs that it serves, and what it is tuned on."""

    model: ModelName
    share: float
    lots: tuple[Lot, ...]

    @property
    def fewest_rows(self) -> int:
        """The smallest number of rows that a fit has."""
        return min(len(split.training) for lot in self.lots for split in lot.splits)


@dataclass(frozen=True, eq=False)
class Plan:
    """What is tuned, and in words on what and why."""

    duties: tuple[Duty, ...]
    sentences: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Wanted:
    """What one model asks for: its share, names of splits, and why."""

    share: float
    names: tuple[str, ...]
    reason: str


def has_profile(training: Pairs, pairs: Pairs) -> Mask:
    """Say which pairs have a response profile by some training rows, (m,)."""
    return ResponseProfiles.learn(training, np.zeros((len(training), 1)), 0.0).of(pairs)[1]


def plan(
    obs: pd.DataFrame,
    Y: Float32,
    rows: Pairs,
    pairs: pd.DataFrame | None,
    split: str = AUTO,
    seed: int = 0,
) -> Plan:
    """Return what is tuned on what.

    Parameters
    ----------
    obs : DataFrame, (n,)
        `cell_type`, `sm_name` and `SMILES` of the training rows.
    Y : ndarray of float32, (n, t)
        For the split `cluster`.
    rows : Pairs
        The same rows.
    pairs : DataFrame, optional
        Those of the pairs to predict.
    split : str
        One of `SPLITS` for both models, or "auto".
    seed : int
        Of the splits.

    Raises
    ------
    InputError
        Unknown split, too few rows for it, or no model has rows to be tuned on.
    """
    make = partial(_lot, obs, Y, rows, pairs, seed)
    if split == AUTO and pairs is not None:
        wanted = _like_the_pairs(obs, rows, pairs)
    else:
        name = "random" if split == AUTO else split
        reason = "no pairs to predict were given (--test)" if split == AUTO else f"--split {split}"
        wanted = {model: _Wanted(1.0, (name,), reason) for model in MODELS}
    duties, sentences = [], []
    for model in MODELS:
        lots = _lots(model, wanted[model].names, make) if model in wanted else []
        if not lots:
            why = "too few rows are held out that it serves" if model in wanted else "no pair needs it"
            sentences.append(f"{model} (for {SERVES[model]}) stays as it is: {why}")
            continue
        duties.append(Duty(model, wanted[model].share, tuple(lots)))
        sentences.append(_in_words(duties[-1], wanted[model], pairs is not None and split == AUTO))
    if not duties:
        raise InputError(
            f"--split {split}: fewer than {LEAST_ROWS} rows are held out for either model: take another"
        )
    return Plan(_with_shares(duties, by_rows=split != AUTO or pairs is None), tuple(sentences))


def _like_the_pairs(obs: pd.DataFrame, rows: Pairs, pairs: pd.DataFrame) -> dict[ModelName, _Wanted]:
    """Return what each model asks for that some pairs need."""
    profiled = has_profile(rows, Pairs.of(Rows(pairs, {}), ()))
    found: dict[ModelName, _Wanted] = {}
    for model, mine in zip(MODELS, (profiled, ~profiled), strict=True):
        if not mine.any():
            continue
        name, reason = recommended_split(obs, pairs[mine])
        if model == "new_compounds" and name not in ("compound", "joint"):
            name, reason = "compound", "no other cell type has these pairs' compounds"
        names = ("scarce", "made_scarce") if name == "scarce" else (name,)
        found[model] = _Wanted(float(mine.mean()), names, reason)
    return found


def _lots(model: ModelName, names: Sequence[str], make: Callable[[str, ModelName], Lot]) -> list[Lot]:
    """Return the lots with enough rows; of several names those that can be made, of one that one or its error."""
    lots = []
    for name in names:
        try:
            lots.append(make(name, model))
        except InputError:
            if name == names[-1] and not lots:
                raise
    return [lot for lot in lots if lot.repeats and len(lot.rows) >= LEAST_ROWS]


def _lot(
    obs: pd.DataFrame,
    Y: Float32,
    rows: Pairs,
    pairs: pd.DataFrame | None,
    seed: int,
    name: str,
    model: ModelName,
) -> Lot:
    """Make a named split and keep of the rows held out those that a model serves."""
    for n_folds in range(FOLDS, 1, -1):
        try:
            repeats = named_splits(
                name, obs, n_folds=n_folds, repeats=REPEATS.get(name, 1), seed=seed, pairs=pairs, Y=Y
            )
            break
        except InputError:
            if n_folds == 2:
                raise
    kept = (tuple(_served(rows, split, model) for split in splits) for splits in repeats)
    some = (tuple(split for split in splits if len(split.held_out)) for splits in kept)
    return Lot(name, tuple(splits for splits in some if splits))


def _served(rows: Pairs, split: Split, model: ModelName) -> Split:
    profiled = has_profile(rows.take(split.training), rows.take(split.held_out))
    mine = profiled if model == "known_compounds" else ~profiled
    return Split(split.name, split.training, split.held_out[mine])


def _with_shares(duties: Sequence[Duty], by_rows: bool) -> tuple[Duty, ...]:
    """Return duties whose shares sum to 1; `by_rows`: as their held-out rows are."""
    parts = [sum(len(lot.rows) for lot in duty.lots) if by_rows else duty.share for duty in duties]
    return tuple(
        Duty(duty.model, part / sum(parts), duty.lots) for duty, part in zip(duties, parts, strict=True)
    )


def _in_words(duty: Duty, wanted: _Wanted, of_pairs: bool) -> str:
    serves = SERVES[duty.model]
    who = f"{serves}, {_share(wanted.share)} of your pairs" if of_pairs else serves
    lots = [
        f"{lot.name}: {SPLITS[lot.name]} ({len(lot.rows)} rows, {len(lot.splits)} fits)" for lot in duty.lots
    ]
    many = "; each split counts alike, however many rows it has, since few are scarce" * (len(lots) > 1)
    return f"{duty.model} (for {who}) is tuned on {' and '.join(lots)}{many}; {wanted.reason}"


def _share(share: float) -> str:
    if share == 1:
        return "all"
    return f"{share:.1%}" if share < 0.9995 else "over 99.9%"
