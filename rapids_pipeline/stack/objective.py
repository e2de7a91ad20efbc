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
from rapids_pipeline.evaluation.baselines import BASELINES
from rapids_pipeline.evaluation.splits import Split, named_splits
from rapids_pipeline.stack.contrast import Choice, Contrast, Effects, evened

AMPLITUDES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0)
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
EVENNESS = (0.0, 0.15, 0.3)
GAINS = (0.0, 0.25, 0.5)
PLAIN = Choice()
SCORES_IN_WORDS = ("MRRMSE", "discrimination by cosine", "by l2")
MOST_SPLITS = 5
JUDGES_OF_A_SPLIT = 512
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
class Judges:
    """Held-out rows of splits, by cell type, and what any choice scores on them; n rows, t targets.

    Attributes
    ----------
    truth, means, deviations : ndarray of float64, (n, t)
        y, m_c and d_s; the last two learnt from the training rows of the row's split.
    own : mapping of gain to ndarray of float64, (n, t)
        S(p − m_c), divided by the scale.
    scales : mapping of gain to float
    groups : list of ndarray of int
        The rows of every cell type of every split.
    split : ndarray of int, (n,)
        The number of the row's split.
    baselines : mapping of name to ndarray of float64, (n, t)
        Predictions of baselines by the same training rows.
    """

    truth: Float64
    means: Float64
    deviations: Float64
    own: Mapping[float, Float64]
    scales: Mapping[float, float]
    groups: list[Indices]
    split: Indices
    baselines: Mapping[str, Float64]

    def radius(self, choice: Choice) -> float:
        """Return ρ of a choice."""
        sizes = self._sizes(choice)
        return float(np.median(sizes)) or 1.0

    def scores(self, choice: Choice) -> Scores:
        """Return what a choice scores."""
        return mean_of(self.rows(choice))

    def rows(self, choice: Choice) -> Float64:
        """Return the error and both discriminations of every row, (3, n)."""
        a, w, _, gain = choice
        sizes = self._sizes(choice)
        f = evened(sizes, float(np.median(sizes)) or 1.0, choice.evenness)
        D, along = self._products[gain], self._along
        inner = a * (D["mean"] - D["truth"]) + w * (along["deviation mean"] - along["deviation truth"])
        bare = along["mean"] - 2 * along["mean truth"] + along["truth"]
        square = bare + 2 * f * inner + f * f * sizes**2  # |m_c − y + f v|²
        found = np.zeros((3, len(self.truth)))
        found[0] = np.sqrt(square.clip(min=0))
        for number, rows in enumerate(self.groups):
            mean, deviation, norms = self._of_group[number]
            product = mean + f[rows, None] * (a * self._own_of_group[gain][number] + w * deviation)
            found[1:, rows] = shares(product, norms)
        return found

    def baseline_rows(self) -> dict[str, Float64]:
        """Return the same of every baseline."""
        found = {}
        for name, predicted in self.baselines.items():
            rows = np.zeros((3, len(self.truth)))
            rows[0] = np.sqrt(np.mean((self.truth - predicted) ** 2, axis=1))
            for group in self.groups:
                y = self.truth[group]
                rows[1:, group] = shares(predicted[group] @ y.T / y.shape[1], np.mean(y * y, axis=1))
            found[name] = rows
        return found

    def _sizes(self, choice: Choice) -> Float64:
        a, w, _, gain = choice
        D = self._products[gain]
        square = a * a * D["own"] + 2 * a * w * D["deviation"] + w * w * self._along["deviation"]
        return np.asarray(np.sqrt(square.clip(min=0)))

    @cached_property
    def _along(self) -> dict[str, Float64]:
        y, m, e = self.truth, self.means, self.deviations
        pairs = {"truth": (y, y), "mean": (m, m), "mean truth": (m, y), "deviation": (e, e)}
        pairs |= {"deviation mean": (e, m), "deviation truth": (e, y)}
        return {name: np.mean(one * other, axis=1) for name, (one, other) in pairs.items()}

    @cached_property
    def _products(self) -> dict[float, dict[str, Float64]]:
        return {
            gain: {
                "own": np.mean(D * D, axis=1),
                "mean": np.mean(D * self.means, axis=1),
                "truth": np.mean(D * self.truth, axis=1),
                "deviation": np.mean(D * self.deviations, axis=1),
            }
            for gain, D in self.own.items()
        }

    @cached_property
    def _of_group(self) -> list[tuple[Float64, Float64, Float64]]:
        t = self.truth.shape[1]
        return [
            (self.means[g] @ y.T / t, self.deviations[g] @ y.T / t, np.mean(y * y, axis=1))
            for g, y in ((g, self.truth[g]) for g in self.groups)
        ]

    @cached_property
    def _own_of_group(self) -> dict[float, list[Float64]]:
        t = self.truth.shape[1]
        return {gain: [D[g] @ self.truth[g].T / t for g in self.groups] for gain, D in self.own.items()}


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


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What a split's stack predicts of the m rows held out, (m, t), and what it was fitted to."""

    training: PerturbationData
    held_out: PerturbationData
    predicted: Float32


def judges_of(found: Sequence[HeldOut]) -> Judges:
    """Return the rows that splits held out as judges; their responses without NaN."""
    parts: dict[str, list[Float64]] = {}
    split, labels = list[Indices](), list[str]()
    for number, one in enumerate(found):
        rows = np.unique(np.linspace(0, len(one.predicted) - 1, JUDGES_OF_A_SPLIT).round().astype(int))
        effects, obs, predicted = (
            Effects.of(one.training.obs, one.training.Y),
            one.held_out.obs.iloc[rows],
            one.predicted[rows],
        )
        means = effects.means_of(obs)
        here = {"truth": one.held_out.Y[rows], "means": means, "deviations": effects.deviations_of(obs)}
        here |= {f"own {gain}": effects.amplified(predicted - means, gain) for gain in GAINS}
        here |= {name: baseline(one.training, obs) for name, baseline in BASELINES.items()}
        for name, values in here.items():
            parts.setdefault(name, []).append(values.astype(np.float64))
        split.append(np.full(len(rows), number))
        labels += [f"{number} {cell_type}" for cell_type in obs["cell_type"].astype(str)]
    every = {name: np.concatenate(values) for name, values in parts.items()}
    sizes = {gain: float(np.sqrt(np.mean(every[f"own {gain}"] ** 2))) or 1.0 for gain in GAINS}
    scales = {gain: size / sizes[0.0] for gain, size in sizes.items()}
    codes = np.unique(labels, return_inverse=True)[1]
    return Judges(
        every["truth"],
        every["means"],
        every["deviations"],
        {gain: every[f"own {gain}"] / scale for gain, scale in scales.items()},
        scales,
        [np.flatnonzero(codes == code) for code in range(int(codes.max()) + 1)],
        np.concatenate(split),
        {name: every[name] for name in BASELINES},
    )


@dataclass(frozen=True)
class Tuned:
    """What was chosen for an objective, and between what.

    Attributes
    ----------
    choice : Choice
    plain, chosen, nested : Scores
        On the rows that judge: of the blend as it is, of the choice, and of what each split's rows get by the choice of
        the other splits' rows.
    baselines : mapping of name to Scores
    best_baseline : str
    curves : mapping of name to list of Scores
        "amplitude": a alone, from 1. "compound's deviation": w alone, from 0. "chosen from": what nothing beats in both
        MRRMSE and discrimination.
    n_rows, n_splits : int
    split : str
        What the splits are called.
    """

    choice: Choice
    plain: Scores
    chosen: Scores
    nested: Scores
    baselines: Mapping[str, Scores]
    best_baseline: str
    curves: Mapping[str, list[Scores]]
    n_rows: int
    n_splits: int
    split: str = ""

    @property
    def reached(self) -> bool:
        """Whether neither discrimination of the choice is worse than the best baseline's."""
        target = self.baselines[self.best_baseline]
        return self.chosen.cosine <= target.cosine and self.chosen.l2 <= target.l2

    def document(self, objective: str) -> dict[str, Any]:
        """Return what scores.json says of it."""
        shown = {name: getattr(self, name)._asdict() for name in ("plain", "chosen", "nested")}
        baselines = {name: scores._asdict() for name, scores in self.baselines.items()}
        curves = {name: [list(scores) for scores in curve] for name, curve in self.curves.items()}
        return {
            "name": objective,
            "choice": self.choice._asdict(),
            "split": self.split,
            "splits": self.n_splits,
            "rows": self.n_rows,
            **shown,
            "baselines": baselines,
            "best_baseline": self.best_baseline,
            "reached": self.reached,
            "curves": curves,
        }

    def sentence(self) -> str:
        """Return in words what the contrast costs and gains."""
        gains = ", ".join(
            f"{what} {before:.4f} → {after:.4f}"
            for what, before, after in zip(SCORES_IN_WORDS, self.plain, self.nested, strict=True)
        )
        target = self.baselines[self.best_baseline]
        best = f"{self.best_baseline} has {', '.join(f'{value:.4f}' for value in target)}"
        missed = "" if self.reached else "; no choice discriminates as well as it by both"
        return f"objective, on {self.n_rows} rows of {self.n_splits} {self.split} splits: {gains}; {best}{missed}"


def tuned(objective: str, judges: Judges) -> Tuned:
    """Return the choice of an objective, "balanced" or "discrimination"."""
    rows = {
        choice: judges.rows(choice)
        for choice in (Choice(*one) for one in product(AMPLITUDES, WEIGHTS, EVENNESS, GAINS))
    }
    baselines = judges.baseline_rows()
    every = np.ones(len(judges.truth), dtype=np.bool_)
    choice = best_choice(objective, rows, baselines, every)
    nested = rows[choice].copy()
    numbers = np.unique(judges.split)
    for number in numbers if len(numbers) > 1 else ():
        here = judges.split == number
        nested[:, here] = rows[best_choice(objective, rows, baselines, ~here)][:, here]
    scores = {one: mean_of(found) for one, found in rows.items()}
    curves = {
        "amplitude": [scores[Choice(a)] for a in AMPLITUDES if a >= 1],
        "compound's deviation": [scores[Choice(1.0, w)] for w in WEIGHTS],
        "chosen from": frontier(list(scores.values())),
    }
    return Tuned(
        choice,
        scores[PLAIN],
        scores[choice],
        mean_of(nested),
        {name: mean_of(found) for name, found in baselines.items()},
        _best(baselines, every),
        curves,
        len(judges.truth),
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


def frontier(scores: Sequence[Scores]) -> list[Scores]:
    """Return those that none beats in both MRRMSE and discrimination, by ascending MRRMSE."""
    found: list[Scores] = []
    for one in sorted(scores, key=lambda one: (one.mrrmse, one.discrimination)):
        if not found or one.discrimination < found[-1].discrimination:
            found.append(one)
    return found


def contrast_of(choice: Choice, judges: Judges, effects: Effects) -> Contrast:
    """Return the contrast of a choice, with the effects of all training rows."""
    return Contrast(choice, effects, judges.scales[choice.gain], judges.radius(choice))
