"""What a blend is tuned for: the error, telling compounds apart, or both.

The blend itself has the least MRRMSE. For the other objectives it gets a contrast (`rapids_pipeline.stack.contrast`),
whose numbers are chosen on held-out rows, by their MRRMSE and their discrimination by cosine and by l2 among the rows
of a cell type (`rapids_pipeline.evaluation.perturbation_metrics`):

    mrrmse           no contrast
    balanced         the least MRRMSE where neither discrimination is worse than that of the best baseline. Where no
                     choice is so good, the one whose worse discrimination comes nearest
    discrimination   the least MRRMSE where the mean of the two discriminations is within a standard error of the least

The best baseline is that of the least mean of the two. The held-out rows are those of training splits that are like the
pairs to predict (`splits_like`): the whole stack is fitted anew to the training rows of each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rapids_pipeline.backend.arrays import Float32, Float64, Indices, Mask
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.evaluation.audit import recommended_split
from rapids_pipeline.evaluation.baseline_names import called
from rapids_pipeline.evaluation.baselines import BASELINES
from rapids_pipeline.evaluation.splits import Split, context_folds, named_splits
from rapids_pipeline.stack.contrast import Choice, Contrast, Effects, evened

AMPLITUDES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.4, 1.6, 2.0, 2.5, 3.0)
WEIGHTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8, 1.0)
EVENNESS = (0.0, 0.15, 0.3, 0.45)
GAINS = (0.0, 0.25, 0.5)
PLAIN = Choice()
MEAN, DEVIATION = "mean", "deviation"
OWN = {gain: f"own {gain}" for gain in GAINS}
SCORES_IN_WORDS = ("MRRMSE", "discrimination by cosine", "by l2")
MOST_SPLITS = 5
JUDGES_OF_A_SPLIT = 256
"""Rows of a split that judge, at most: the distances within a cell type are held at once."""


class Scores(NamedTuple):
    """MRRMSE, and the discriminations by cosine and by l2; lower is better."""

    mrrmse: float
    cosine: float
    l2: float

    @property
    def discrimination(self) -> float:
        """The mean of the two."""
        return (self.cosine + self.l2) / 2


@dataclass(frozen=True, eq=False)
class Group:
    """Held-out rows of one cell type of one split, as products over the targets divided by their number; n rows.

    With x one of m_c, d_s and, for each gain, S(p − m_c) before the division (`own`), y the truth.

    Attributes
    ----------
    split : int
    truth : ndarray of float64, (n,)
        y·y of every row.
    with_truth : mapping of x to ndarray of float64, (n, n)
        x_i·y_k.
    with_others : mapping of (x, x) to ndarray of float64, (n,)
        x_i·x_i of two of them.
    baselines : mapping of name to ndarray of float64, (3, n)
        What the rows of `Judges.rows` are for baselines by the split's training rows.
    """

    split: int
    truth: Float64
    with_truth: Mapping[str, Float64]
    with_others: Mapping[tuple[str, str], Float64]
    baselines: Mapping[str, Float64]

    @classmethod
    def of(
        cls, split: int, Y: Float32, vectors: Mapping[str, Float32], baselines: Mapping[str, Float32]
    ) -> "Group":
        """Make the products of vectors, (n, t) each."""
        y = Y.astype(np.float64)
        x = {name: values.astype(np.float64) for name, values in vectors.items()}
        t, truth = y.shape[1], np.mean(y * y, axis=1)
        pairs = {(DEVIATION, MEAN), (MEAN, MEAN), (DEVIATION, DEVIATION)}
        pairs |= {(one, own) for own in x if own not in (MEAN, DEVIATION) for one in (MEAN, DEVIATION, own)}
        scores = {}
        for name, predicted in baselines.items():
            p = predicted.astype(np.float64)
            scores[name] = np.vstack([np.sqrt(np.mean((y - p) ** 2, axis=1)), shares(p @ y.T / t, truth)])
        return cls(
            split,
            truth,
            {name: values @ y.T / t for name, values in x.items()},
            {pair: np.mean(x[pair[0]] * x[pair[1]], axis=1) for pair in pairs},
            scores,
        )

    def sizes(self, a: float, w: float, own: str) -> Float64:
        """Return the root mean square of v of every row."""
        of = self.with_others
        square = a * a * of[own, own] + 2 * a * w * of[DEVIATION, own] + w * w * of[DEVIATION, DEVIATION]
        return np.asarray(np.sqrt(square.clip(min=0)))

    def rows(self, a: float, w: float, own: str, factors: Float64) -> Float64:
        """Return the error and both discriminations of every row, (3, n), for m_c + factors (a own + w d_s)."""
        of, f = self.with_others, factors[:, None]
        contrast = a * self.with_truth[own] + w * self.with_truth[DEVIATION]
        product = self.with_truth[MEAN] + f * contrast
        along = a * of[MEAN, own] + w * of[DEVIATION, MEAN] - np.diagonal(contrast)
        bare = of[MEAN, MEAN] - 2 * np.diagonal(self.with_truth[MEAN]) + self.truth
        square = bare + 2 * factors * along + (factors * self.sizes(a, w, own)) ** 2  # |m_c − y + f v|²
        return np.vstack([np.sqrt(square.clip(min=0)), shares(product, self.truth)])


@dataclass(frozen=True, eq=False)
class Judges:
    """Held-out rows of splits, and what any choice scores on them.

    Attributes
    ----------
    groups : list of Group
    """

    groups: list[Group]

    @cached_property
    def split(self) -> Indices:
        """The number of every row's split, (n,)."""
        return np.concatenate([np.full(len(group.truth), group.split) for group in self.groups])

    @cached_property
    def baselines(self) -> dict[str, Float64]:
        """What `rows` returns, for baselines."""
        return {
            name: np.hstack([group.baselines[name] for group in self.groups])
            for name in self.groups[0].baselines
        }

    @cached_property
    def scales(self) -> dict[float, float]:
        """What S is divided by, by gain."""
        sizes = {
            gain: float(np.mean(np.hstack([group.with_others[own, own] for group in self.groups]))) ** 0.5
            for gain, own in OWN.items()
        }
        return {gain: size / sizes[0.0] if size else 1.0 for gain, size in sizes.items()}

    def radius(self, choice: Choice) -> float:
        """Return ρ of a choice."""
        return float(np.median(np.hstack(self._sizes(choice)))) or 1.0

    def scores(self, choice: Choice) -> Scores:
        """Return what a choice scores."""
        return mean_of(self.rows(choice))

    def rows(self, choice: Choice) -> Float64:
        """Return the error and both discriminations of every row, (3, n)."""
        sizes = self._sizes(choice)
        radius = float(np.median(np.hstack(sizes))) or 1.0
        a, own = choice.amplitude / self.scales[choice.gain], OWN[choice.gain]
        found = [
            group.rows(a, choice.weight, own, evened(one, radius, choice.evenness))
            for group, one in zip(self.groups, sizes, strict=True)
        ]
        return np.hstack(found)

    def _sizes(self, choice: Choice) -> list[Float64]:
        a, own = choice.amplitude / self.scales[choice.gain], OWN[choice.gain]
        return [group.sizes(a, choice.weight, own) for group in self.groups]


def shares(product: Float64, norms: Float64) -> Float64:
    """Return the shares of other truths that are nearer than a row's own, by cosine and by l2, (2, n).

    `product` has p_i·y_k, (n, n), and `norms` y_k·y_k, (n,), both divided by the number of targets. A half for equals,
    and for a row that is alone in its cell type.
    """
    if len(product) < 2:
        return np.full((2, len(product)), 0.5)
    lengths = np.sqrt(norms)
    away = np.stack([-product / np.where(lengths > 0, lengths, 1.0), norms - 2 * product])
    own = np.diagonal(away, axis1=1, axis2=2)[:, :, None]
    nearer = (away < own).sum(axis=2) - (away > own).sum(axis=2)
    return np.asarray(0.5 + nearer / (2 * (len(product) - 1)))


def mean_of(rows: Float64) -> Scores:
    """Return the means over rows of what `Judges.rows` returns."""
    return Scores(*(float(value) for value in rows.mean(axis=1)))


def splits_like(obs: pd.DataFrame, pairs: pd.DataFrame, seed: int) -> tuple[str, list[Split]]:
    """Return the name of the split that is most like the pairs to predict, and at most `MOST_SPLITS` of its splits.

    As `recommended_split`, but where the pairs' cell types are scarce others are made so (`made_scarce`), since the few
    rows of the scarce ones could not judge. Random rows where there are no pairs, or no such split can be made.
    """
    name = recommended_split(obs, pairs)[0] if len(pairs) else "random"
    name = "made_scarce" if name == "scarce" else name
    try:
        splits = named_splits(name, obs, pairs=pairs, seed=seed)[0]
    except InputError:
        if name == "random":
            raise
        name, splits = "random", named_splits("random", obs, seed=seed)[0]
    places = np.unique(np.linspace(0, len(splits) - 1, min(len(splits), MOST_SPLITS)).round().astype(int))
    return name, [splits[place] for place in places]


def folded_splits(
    objective: str, obs: pd.DataFrame, pairs: pd.DataFrame, n_folds: int, seed: int
) -> tuple[str, list[tuple[Split, Indices]]]:
    """Return the splits of `splits_like`, each with the folds of its training rows.

    Raises
    ------
    InputError
        There are too few rows; the message names the option and the remedy.
    """
    try:
        name, splits = splits_like(obs, pairs, seed)
        return name, [(one, context_folds(obs.iloc[one.training], n_folds, seed)) for one in splits]
    except InputError as error:
        raise InputError(
            f"--objective {objective}: is chosen on training rows that are held out, and {len(obs)} rows are too few "
            f"for that ({error}); give --objective mrrmse, which needs none, or more rows"
        ) from error


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What a split's stack predicts of the m rows held out, (m, t), and what it was fitted to."""

    training: PerturbationData
    held_out: PerturbationData
    predicted: Float32


def judges_of(found: Sequence[HeldOut]) -> Judges:
    """Return the rows that splits held out as judges; their responses without NaN."""
    groups = []
    for number, one in enumerate(found):
        rows = np.unique(np.linspace(0, len(one.predicted) - 1, JUDGES_OF_A_SPLIT).round().astype(int))
        effects, obs = Effects.of(one.training.obs, one.training.Y), one.held_out.obs.iloc[rows]
        means = effects.means_of(obs)
        vectors = {MEAN: means, DEVIATION: effects.deviations_of(obs)}
        vectors |= {own: effects.amplified(one.predicted[rows] - means, gain) for gain, own in OWN.items()}
        baselines = {name: baseline(one.training, obs) for name, baseline in BASELINES.items()}
        cells, truth = obs["cell_type"].to_numpy(str), one.held_out.Y[rows]
        for cell in np.unique(cells):
            here = np.flatnonzero(cells == cell)
            parts = ({name: values[here] for name, values in of.items()} for of in (vectors, baselines))
            groups.append(Group.of(number, truth[here], *parts))
    return Judges(groups)


@dataclass(frozen=True)
class Tuned:
    """What was chosen for an objective, and between what.

    Attributes
    ----------
    objective : {"balanced", "discrimination"}
    choice : Choice
    plain, chosen, nested : Scores
        On the rows that judge: of the blend as it is, of the choice, and of what each split's rows get by the choice of
        the other splits' rows.
    baselines : mapping of name to Scores
    best_baseline : str
    curves : mapping of name to dict of Choice to Scores
        "amplitude": a alone, from 1. "compound's deviation": w alone, from 0. "chosen from": what no other choice beats
        in both MRRMSE and discrimination.
    judges : Judges
    n_rows, n_splits : int
    split : str
        What the splits are called.
    """

    objective: str
    choice: Choice
    plain: Scores
    chosen: Scores
    nested: Scores
    baselines: Mapping[str, Scores]
    best_baseline: str
    curves: Mapping[str, Mapping[Choice, Scores]]
    judges: Judges
    n_rows: int
    n_splits: int
    split: str = ""

    @property
    def reached(self) -> bool:
        """Whether neither discrimination of the choice is worse than the best baseline's."""
        target = self.baselines[self.best_baseline]
        return self.chosen.cosine <= target.cosine and self.chosen.l2 <= target.l2

    @property
    def warning(self) -> str:
        """What to say where "balanced" found no choice that is as good as it promises; otherwise nothing."""
        if self.objective != "balanced" or self.reached:
            return ""
        return (
            f"WARNING: no choice tells compounds apart as well as the {called(self.best_baseline)} by both distances, "
            f"so the one that comes nearest was taken whatever its error: MRRMSE {self.chosen.mrrmse:.4f}, and "
            f"{self.plain.mrrmse:.4f} without it; compare with --objective mrrmse"
        )

    def document(self) -> dict[str, Any]:
        """Return what scores.json says of it."""
        shown = {name: getattr(self, name)._asdict() for name in ("plain", "chosen", "nested")}
        baselines = {name: scores._asdict() for name, scores in self.baselines.items()}
        curves = {name: [list(scores) for scores in curve.values()] for name, curve in self.curves.items()}
        return {
            "name": self.objective,
            "choice": self.choice._asdict(),
            "split": self.split,
            "splits": self.n_splits,
            "rows": self.n_rows,
            **shown,
            "baselines": baselines,
            "best_baseline": self.best_baseline,
            "reached": self.reached,
            **({"warning": self.warning} if self.warning else {}),
            "curves": curves,
        }

    def sentence(self) -> str:
        """Return in words what the contrast costs and gains."""
        gains = ", ".join(
            f"{what} {before:.4f} → {after:.4f}"
            for what, before, after in zip(SCORES_IN_WORDS, self.plain, self.nested, strict=True)
        )
        target = self.baselines[self.best_baseline]
        best = f"the {called(self.best_baseline)} has {', '.join(f'{value:.4f}' for value in target)}"
        where = f"on {self.n_rows} rows of {self.n_splits} {self.split} splits"
        told = f"objective, {where}: {gains}; {best}; out-of-fold scores are of the blend before that"
        return f"{told}. {self.warning}" if self.warning else told


def tuned(objective: str, judges: Judges) -> Tuned:
    """Return the choice of an objective, "balanced" or "discrimination"."""
    rows = {
        choice: judges.rows(choice)
        for choice in (Choice(*one) for one in product(AMPLITUDES, WEIGHTS, EVENNESS, GAINS))
    }
    baselines = judges.baselines
    every = np.ones(len(judges.split), dtype=np.bool_)
    choice = best_choice(objective, rows, baselines, every)
    nested = rows[choice].copy()
    numbers = np.unique(judges.split)
    for number in numbers if len(numbers) > 1 else ():
        here = judges.split == number
        nested[:, here] = rows[best_choice(objective, rows, baselines, ~here)][:, here]
    scores = {one: mean_of(found) for one, found in rows.items()}
    curves = {
        "amplitude": {one: scores[one] for one in map(Choice, AMPLITUDES) if one.amplitude >= 1},
        "compound's deviation": {one: scores[one] for one in (Choice(1.0, w) for w in WEIGHTS)},
        "chosen from": frontier(scores),
    }
    return Tuned(
        objective,
        choice,
        scores[PLAIN],
        scores[choice],
        mean_of(nested),
        {name: mean_of(found) for name, found in baselines.items()},
        _best(baselines, every),
        curves,
        judges,
        len(judges.split),
        len(numbers),
    )


def best_choice(
    objective: str, rows: Mapping[Choice, Float64], baselines: Mapping[str, Float64], judging: Mask
) -> Choice:
    """Return the choice of an objective by some of the rows that judge.

    Parameters
    ----------
    objective : {"balanced", "discrimination"}
    rows : mapping of Choice to ndarray of float64, (3, n)
        As `Judges.rows`.
    baselines : mapping of name to the same
    judging : ndarray of bool, (n,)
    """
    scores = {choice: mean_of(found[:, judging]) for choice, found in rows.items()}
    if objective == "discrimination":
        least = min(scores, key=lambda one: scores[one].discrimination)
        of_rows = rows[least][1:, judging].mean(axis=0)
        bound = scores[least].discrimination + float(of_rows.std()) / len(of_rows) ** 0.5
        good = [one for one, found in scores.items() if found.discrimination <= bound]
        return min(good, key=lambda one: scores[one].mrrmse)
    target = mean_of(baselines[_best(baselines, judging)][:, judging])
    excess = {one: max(found.cosine - target.cosine, found.l2 - target.l2) for one, found in scores.items()}
    good = [one for one, worse in excess.items() if worse <= 0]
    return min(good, key=lambda one: scores[one].mrrmse) if good else min(excess, key=lambda one: excess[one])


def _best(baselines: Mapping[str, Float64], judging: Mask) -> str:
    return min(baselines, key=lambda name: mean_of(baselines[name][:, judging]).discrimination)


def frontier(scores: Mapping[Choice, Scores]) -> dict[Choice, Scores]:
    """Return those that none beats in both MRRMSE and discrimination, by ascending MRRMSE."""
    found, least = dict[Choice, Scores](), float("inf")
    for choice, one in sorted(scores.items(), key=lambda item: (item[1].mrrmse, item[1].discrimination)):
        if one.discrimination < least:
            found[choice], least = one, one.discrimination
    return found


def contrast_of(choice: Choice, judges: Judges, effects: Effects) -> Contrast:
    """Return the contrast of a choice, with the effects of all training rows."""
    return Contrast(choice, effects, judges.scales[choice.gain], judges.radius(choice))
