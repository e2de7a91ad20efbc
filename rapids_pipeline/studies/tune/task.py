"""The task that a model is tuned on: held-out rows that are most like the pairs that it will serve.

Of a composite member, a pair whose compound was measured in another cell type is served by the model
`known_compounds`, any other pair by `new_compounds` (`rapids_pipeline.stack.members.composite`). The pairs to predict
are told apart so, and each part asks for the split that is most like it (`recommended_split`). A booster or a net
serves all pairs; one that knows pairs by names alone serves those of known compounds. Scarce cell types have few rows
to hold out, so `made_scarce`, the same task made of other cell types, stands beside `scarce`. A model that no pair
needs stays as it is. The share of the pairs that a model serves is its share of the trials and its weight in the
overall score.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from features.rows import Pairs, Rows
from rapids_pipeline.backend.arrays import Float32, Indices, Mask
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.evaluation.audit import recommended_split
from rapids_pipeline.evaluation.splits import SPLITS, Split, named_splits
from rapids_pipeline.kernels.response_profiles import ResponseProfiles
from rapids_pipeline.stack.members.composite import CompositeMember
from rapids_pipeline.stack.members.member import Member


class Served(NamedTuple):
    """The pairs that a model predicts: in words, and whether their compounds are known (None: of either kind)."""

    words: str
    known: bool | None


KNOWN = Served("compounds measured in another cell type", True)
NEW = Served("compounds without a response profile", False)
ALL = Served("every pair", None)

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

    model: str
    share: float
    lots: tuple[Lot, ...]

    @property
    def fewest_rows(self) -> int:
        """The smallest number of rows that a fit has."""
        return min(len(split.training) for lot in self.lots for split in lot.splits)


class Wanted(NamedTuple):
    """What one model asks for: its share, names of splits, and why."""

    share: float
    names: tuple[str, ...]
    reason: str


def is_known(training: Pairs, pairs: Pairs) -> Mask:
    """Say of which pairs some training rows have the compound in another context, (m,): see `LearntKernel.is_known`."""
    profiles = ResponseProfiles.learn(training, np.zeros((len(training), 1)), 0.0)
    differ = len(training.levels.doses) > 1 or len(training.levels.times) > 1
    return profiles.measured_elsewhere(pairs) if differ else profiles.of(pairs)[1]


def served_by(member: Member) -> dict[str, Served]:
    """Return the models of a member that are tuned, and whom each serves."""
    if isinstance(member, CompositeMember):
        return {"known_compounds": KNOWN, "new_compounds": NEW}
    return {member.name: KNOWN if member.by_names else ALL}


def plan(
    models: Mapping[str, Served],
    obs: pd.DataFrame,
    Y: Float32,
    rows: Pairs,
    pairs: pd.DataFrame | None,
    split: str = AUTO,
    seed: int = 0,
) -> tuple[list[Duty], list[str]]:
    """Return what is tuned, and in words on what and why.

    Parameters
    ----------
    models : dict of str to Served
        Of `served_by`.
    obs : DataFrame, (n,)
        `cell_type`, `sm_name` and `SMILES` of the training rows.
    Y : ndarray of float32, (n, t)
        For the split `cluster`.
    rows : Pairs
        The same rows.
    pairs : DataFrame, optional
        Those of the pairs to predict.
    split : str
        One of `SPLITS` for all models, or "auto".
    seed : int
        Of the splits.

    Raises
    ------
    InputError
        Unknown split, too few rows for it, or no model has rows to be tuned on.
    """
    make = partial(_lot, obs, Y, rows, pairs, seed)
    of_pairs = split == AUTO and pairs is not None
    if split == AUTO and pairs is not None:
        wanted = _like_the_pairs(models, obs, rows, pairs)
    else:
        name = "random" if split == AUTO else split
        reason = "no pairs to predict were given (--test)" if split == AUTO else f"--split {split}"
        wanted = {model: Wanted(1.0, (name,), reason) for model in models}
    duties, sentences = [], []
    for model, served in models.items():
        lots = _lots(wanted[model].names, partial(make, served.known)) if model in wanted else []
        if not lots:
            why = "too few rows are held out that it serves" if model in wanted else "no pair needs it"
            sentences.append(f"{model} (for {served.words}) stays as it is: {why}")
            continue
        part = wanted[model].share if of_pairs else sum(len(lot.rows) for lot in lots)
        duties.append(Duty(model, part, tuple(lots)))
        sentences.append(_in_words(duties[-1], served, wanted[model].reason, of_pairs))
    if not duties:
        raise InputError(
            f"--split {split}: fewer than {LEAST_ROWS} rows are held out for {' or '.join(models)}: take another"
        )
    total = sum(duty.share for duty in duties)
    return [replace(duty, share=duty.share / total) for duty in duties], sentences


def _like_the_pairs(
    models: Mapping[str, Served], obs: pd.DataFrame, rows: Pairs, pairs: pd.DataFrame
) -> dict[str, Wanted]:
    """Return what each model asks for that some pairs need."""
    known = is_known(rows, Pairs.of(Rows(pairs, {}), ()))
    found: dict[str, Wanted] = {}
    for model, served in models.items():
        mine = np.ones(len(pairs), dtype=bool) if served.known is None else known == served.known
        if not mine.any():
            continue
        name, reason = recommended_split(obs, pairs[mine])
        if served is NEW and name not in ("compound", "joint"):
            name, reason = "compound", "no other cell type has these pairs' compounds"
        names = ("scarce", "made_scarce") if name == "scarce" else (name,)
        found[model] = Wanted(float(mine.mean()), names, reason)
    return found


def _lots(names: Sequence[str], make: Callable[[str], Lot]) -> list[Lot]:
    """Return the lots with enough rows; of several names those that can be made, of one that one or its error."""
    lots = []
    for name in names:
        try:
            lots.append(make(name))
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
    is_wanted: bool | None,
    name: str,
) -> Lot:
    """Make a named split and keep of the rows held out those of known or of new compounds, or all."""
    for n_folds in range(FOLDS, 1, -1):
        try:
            repeats = named_splits(
                name, obs, n_folds=n_folds, repeats=REPEATS.get(name, 1), seed=seed, pairs=pairs, Y=Y
            )
            break
        except InputError:
            if n_folds == 2:
                raise

    def served(split: Split) -> Split:
        if is_wanted is None:
            return split
        known = is_known(rows.take(split.training), rows.take(split.held_out))
        return replace(split, held_out=split.held_out[known == is_wanted])

    kept = (tuple(part for part in map(served, splits) if len(part.held_out)) for splits in repeats)
    return Lot(name, tuple(splits for splits in kept if splits))


def _in_words(duty: Duty, served: Served, reason: str, of_pairs: bool) -> str:
    of_yours = of_pairs and served is not ALL
    who = f"{served.words}, {_share(duty.share)} of your pairs" if of_yours else served.words
    lots = [
        f"{lot.name}: {SPLITS[lot.name]} ({len(lot.rows)} rows, {len(lot.splits)} fits)" for lot in duty.lots
    ]
    many = "; each split counts alike, however many rows it has, since few are scarce" * (len(lots) > 1)
    return f"{duty.model} (for {who}) is tuned on {' and '.join(lots)}{many}; {reason}"


def _share(share: float) -> str:
    if share == 1:
        return "all"
    return f"{share:.1%}" if share < 0.9995 else "over 99.9%"
