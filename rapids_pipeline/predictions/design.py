r"""Which pairs to measure next: those that take most off the uncertainty of the other predictions.

Component c of a composite kernel's targets, in units of its root mean square, with the penalty λ_c, is predicted by the
posterior mean of a Gaussian process

    a_c(x) = b + s_c f(x),   f ~ GP(0, K),   b flat,   measured with noise of variance s_c² λ_c h

so the covariance s_c² C_c of the predictions is known, too, and does not depend on what a measurement will say. Over n
training rows, with M = (K + λ_c H)⁻¹, k_x = K(rows, x) and r_x = 1 − 1ᵀM k_x,

    C_c(x, y) = K(x, y) − k_xᵀ M k_y + r_x r_y / 1ᵀM1        s_c² = a_cᵀ β_c / (n − 1)

(s_c by restricted likelihood). Pairs are chosen one after the other, each the one that takes most off the weighted
variance of the pairs of interest that are left,

    gain(x) = Σ_c Σ_{j ≠ x} w_jc C_c(x, j)² / (C_c(x, x) + λ_c h)
    C_c(y, z) ← C_c(y, z) − C_c(y, x) C_c(x, z) / (C_c(x, x) + λ_c h)

(A-optimal design). The update is exact, so a pair that is like a chosen one gains little any more: a batch is diverse.
A chosen pair counts as measured, and its own variance is in no sum any more. A new row has the geometric mean of the
training rows' h.

Weights turn variances of components into the mean over the t genes of the variance of a response, in the square of its
unit. With u_c the root mean square of a component, V the components and T the transform of the targets,

    w_jc = s_c² u_c² Σ_g (V_cg / T'_g(0))² / t   for a pair of interest,   0 for others

The slope is that at 0: by asinh, the uncertainty of large responses is larger than said.

Kernel and components are held fixed. Response profiles are made of training responses, so a measurement also changes
K, and may give other pairs of its compound a profile: what that gains is not counted.

Sources: Cohn, Ghahramani and Jordan, J. Artif. Intell. Res. 4 (1996) 129; Yu, Bi and Tresp, Active learning via
transductive experimental design, ICML (2006); Rasmussen and Williams, Gaussian Processes (2006), sections 2.2 and 2.7.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from features.rows import DOSE, TIME, Pairs, Rows, contexts_of
from rapids_pipeline.backend.arrays import Float64, Indices, Mask, gigabytes, host_bytes
from rapids_pipeline.backend.errors import InputError, quoted
from rapids_pipeline.backend.files import PREDICTIONS, model_folder
from rapids_pipeline.data.columns import PAIR
from rapids_pipeline.predictions.predict import PairPredictor, predictor_of
from rapids_pipeline.predictions.readouts import pairs_in
from rapids_pipeline.stack.members.composite import CompositeMember, CompositeModel
from rapids_pipeline.stack.members.kernel_model import KernelModel, KernelModelConfig
from rapids_pipeline.stack.recipe import Form
from rapids_pipeline.stack.saved import SavedModel, load_model
from rapids_pipeline.stack.target_space import TargetSpace

ROWS_AT_ONCE = 512
SHARE = 0.8
"""Share of the memory at hand that the covariances may take."""
MOST_OPERATIONS = 1e13
"""Operations that covariances may take: some ten minutes of two cores."""


@dataclass(eq=False)
class Posterior:
    """Posterior covariances of u pairs by one kernel, C of each of g penalties.

    Parameters
    ----------
    K : ndarray of float64, (n, n)
        Between the training rows.
    noise : ndarray of float64, (n,)
        h of the training rows.
    penalties : ndarray of float64, (g,)
        λ.
    to_rows, prior : ndarray of float64, (u, n) and (u, u)
        K of the pairs with the training rows, and between the pairs.
    weights : ndarray of float64, (u, g)
        w; 0 for pairs that do not count.
    candidates : ndarray of int, (p,)
        Pairs that can be measured.

    Attributes
    ----------
    variance : ndarray of float64, (u, g)
        C(x, x), after what was measured so far.
    squares : ndarray of float64, (p, g)
        Σ_j w_j C(x, j)² of the candidates, over the pairs that are left.
    """

    K: Float64
    noise: Float64
    penalties: Float64
    to_rows: Float64
    prior: Float64
    weights: Float64
    candidates: Indices
    variance: Float64 = field(init=False)
    squares: Float64 = field(init=False)

    def __post_init__(self) -> None:
        d = 1 / np.sqrt(self.noise)
        values, Q = np.linalg.eigh(self.K * d[:, None] * d[None, :])
        one = Q.T @ d
        self._shrink = 1 / (np.maximum(values, 0.0)[:, None] + self.penalties)  # (n, g)
        self._along = (self.to_rows * d) @ Q  # k_x in the basis Q, (u, n)
        free = 1 - self._along @ (one[:, None] * self._shrink)  # r_x, (u, g)
        self._free = free / np.sqrt(one**2 @ self._shrink)
        self._new = self.penalties * np.exp(np.log(self.noise).mean())  # λ h of a new row
        self._steps: list[Float64] = []  # C(·, x) / √(C(x, x) + λ h) of every measured x, (u, g)
        self.weights = self.weights.copy()
        self.variance = np.diag(self.prior)[:, None] - self._along**2 @ self._shrink + self._free**2
        self.squares = np.zeros((len(self.candidates), len(self.penalties)))
        counted = np.flatnonzero(self.weights.any(axis=1))
        for start in range(0, len(self.candidates), ROWS_AT_ONCE):
            some = self.candidates[start : start + ROWS_AT_ONCE]
            prior, there = self.prior[np.ix_(some, counted)], self._along[counted].T
            for g in range(len(self.penalties)):
                C = prior - (self._along[some] * self._shrink[:, g]) @ there
                C += self._free[some, g, None] * self._free[counted, g]
                self.squares[start : start + len(some), g] = C**2 @ self.weights[counted, g]

    def gains(self) -> Float64:
        """Return what measuring each candidate takes off Σ_j w_j C(j, j) of the other pairs that are left, (p,)."""
        weights, variance = self.weights[self.candidates], self.variance[self.candidates]
        others = np.maximum(self.squares - weights * variance**2, 0.0)
        return np.asarray((others / (variance + self._new)).sum(axis=1))

    def measure(self, x: int) -> None:
        """Take a pair as measured: its variance counts no more, and the others' are those after it."""
        C, here = self.covariance(x), self.candidates
        self.squares -= self.weights[x] * C[here] ** 2
        self.weights[x] = 0.0
        step = C / np.sqrt(C[x] + self._new)
        counted = self.weights * step
        # Σ_j w_j (C(y, j) − e_y e_j)² = Σ_j w_j C(y, j)² + e_y² Σ_j w_j e_j² − 2 e_y Σ_j C(y, j) w_j e_j
        self.squares += step[here] ** 2 * (counted * step).sum(axis=0)
        self.squares -= 2 * step[here] * self.applied(counted)[here]
        self.variance = self.variance - step**2
        self._steps.append(step)

    def covariance(self, x: int) -> Float64:
        """Return C(·, x), (u, g)."""
        prior = self.prior[:, x, None] - self._along @ (self._along[x][:, None] * self._shrink)
        return np.asarray(prior + self._free * self._free[x] - sum(step * step[x] for step in self._steps))

    def applied(self, V: Float64) -> Float64:
        """Return C V, each column of V (u, g) by its own penalty."""
        found = self.prior @ V - self._along @ (self._shrink * (self._along.T @ V))
        found += self._free * (self._free * V).sum(axis=0)
        return np.asarray(found - sum(step * (step * V).sum(axis=0) for step in self._steps))


@dataclass(frozen=True, eq=False)
class Choice:
    """Candidates in the order in which they were chosen, k of them.

    Attributes
    ----------
    places : ndarray of int, (k,)
        Among the candidates.
    gains : ndarray of float64, (k,)
        What each takes off the weighted variance of the pairs that are then left.
    before, after : float
        That of the pairs that are left in the end, without and with all k measurements.
    """

    places: Indices
    gains: Float64
    before: float
    after: float


def greedy(posteriors: Sequence[Posterior], count: int) -> Choice:
    """Choose `count` candidates, or all; `posteriors` are of the same pairs and candidates. Of equal ones the first."""
    candidates = posteriors[0].candidates
    unmeasured = [one.weights * one.variance for one in posteriors]
    gains: dict[int, float] = {}
    for _ in range(min(count, len(candidates))):
        found = np.sum([one.gains() for one in posteriors], axis=0)
        found[list(gains)] = -1.0
        place = int(np.argmax(found))
        gains[place] = float(found[place])
        for one in posteriors:
            one.measure(int(candidates[place]))
    places = np.array(list(gains), np.intp)
    before = sum(np.delete(one, candidates[places], axis=0).sum() for one in unmeasured)
    after = sum((one.weights * one.variance).sum() for one in posteriors)
    return Choice(places, np.array(list(gains.values())), float(before), float(after))


@dataclass(frozen=True, eq=False)
class Design:
    """Pairs to measure next.

    Attributes
    ----------
    table : DataFrame, (k,)
        `rank`, `cell_type`, `sm_name` (dose and time where there are any), `gain`, `share` of the variance of all pairs
        of interest as it is now, and `sd`, that of the pair's own prediction now.
    candidates, others : int
        Distinct pairs that could be chosen, and pairs of interest that are left.
    before, after : float
        Their summed variance now, and when all pairs of the table have been measured.
    member : str
        Whose uncertainty it is.
    weight : float
        What the member counts in the blend.
    """

    table: pd.DataFrame
    candidates: int
    others: int
    before: float
    after: float
    member: str
    weight: float

    @property
    def sentences(self) -> list[str]:
        """What a reader should know."""
        fall = 1 - self.after / self.before if self.before else 0.0
        return [
            f"{len(self.table)} of {self.candidates} candidates, in the order to measure them. The summed variance of "
            f"the {self.others} other pairs of interest falls from {self.before:.4g} to {self.after:.4g} "
            f"(−{fall:.1%}), in the square of the responses' unit",
            f"The variance is that of the member {self.member} (weight {self.weight:.2f} in the blend). Its kernel is "
            "held fixed: the better response profiles that measurements also bring are not counted",
        ]


def read_design(run: Path, pairs: Path | None, candidates: Path | None, count: int) -> Design:
    """Return the pairs to measure next for a run folder or a saved model.

    Parameters
    ----------
    run : Path
    pairs : Path, optional
        A file of the pairs of interest; by default those that the run predicted.
    candidates : Path, optional
        A file of the pairs that can be measured; by default the pairs of interest.
    count : int

    Raises
    ------
    InputError
        There is no model or file of pairs, or as `design`.
    """
    folder = model_folder(run)
    if pairs is None and not (run / PREDICTIONS).is_file():
        raise InputError(f"--run {run}: has no {PREDICTIONS}; give the folder of a run, or --pairs FILE")
    model = load_model(folder)
    asked = pairs_in(run) if pairs is None else pairs
    interest = predictor_of(model, asked, str(folder))
    return design(
        interest, interest if candidates is None else predictor_of(model, candidates, str(folder)), count
    )


def design(interest: PairPredictor, candidates: PairPredictor, count: int) -> Design:
    """Return the pairs to measure next, of the candidates, for the pairs of interest; both of one model.

    Raises
    ------
    InputError
        The model has no member whose uncertainty is known, or its covariances take too much memory or time.
    """
    form, model = _form(interest.model)
    member, both = form.member, (interest, candidates)
    assert isinstance(member, CompositeMember)
    obs = pd.concat([one.batch.table.assign(sm_name=one.batch.known_as) for one in both], ignore_index=True)
    _, first, place = np.unique(contexts_of(obs), return_index=True, return_inverse=True)
    n = len(interest.metadata)
    wanted, can = np.bincount(place[:n], minlength=len(first)) > 0, np.unique(place[n:])
    labels = Pairs.of(Rows(obs.iloc[first].reset_index(drop=True), {}))
    _parts(member, model, labels, len(can), count)  # what is too much is refused before molecules are read
    rows, more = interest.rows(first[first < n]), first[first >= n] - n
    pairs = Pairs.of(Rows.joined(rows, candidates.rows(more)) if len(more) else rows, model.encoders)
    parts = _parts(member, model, pairs, len(can), count)  # now with those of an atlas
    posteriors, variance = [], np.zeros(len(pairs))
    for config, part, served in parts:
        found, w = posterior(config, part, pairs, served & wanted, can)
        variance += served * (found.variance @ w)
        posteriors.append(found)
    total = float(variance[wanted].sum())
    choice = greedy(posteriors, count)
    chosen = can[choice.places]
    every = pd.concat([one.metadata for one in both], ignore_index=True).iloc[first[chosen]]
    table = every[[name for name in (*PAIR, DOSE, TIME) if name in every.columns]].reset_index(drop=True)
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    table["gain"], table["share"] = choice.gains, choice.gains / (total or 1.0)
    table["sd"] = np.sqrt(np.maximum(variance[chosen], 0))
    wanted[chosen] = False
    share = interest.model.stack.weights.weights.get(form.name, 0.0)
    return Design(table, len(can), int(wanted.sum()), choice.before, choice.after, form.name, share)


def _parts(
    member: CompositeMember, model: CompositeModel, pairs: Pairs, p: int, count: int
) -> list[tuple[KernelModelConfig, KernelModel, Mask]]:
    """Return the kernel models that predict some of the pairs, and which; errors as `_require_known`."""
    every = zip(member.fitted(model), model.serving(pairs), strict=True)
    parts = [(config, part, served) for config, (part, served) in every if served.any()]
    for config, part, _ in parts:
        _require_known(config, part, len(pairs), p, count, len(parts))
    return parts


def posterior(
    config: KernelModelConfig, model: KernelModel, pairs: Pairs, counted: Mask, candidates: Indices
) -> tuple[Posterior, Float64]:
    """Return the posterior of a kernel model at pairs, of which some count, and the w of one that does, (g,)."""
    like, space = np.empty(0), model.space
    K, prior = model.kernel.gram(like), model.kernel.between(pairs, like, others=pairs)
    to_rows = model.kernel.between(pairs, like)
    assert model.noise is not None
    coef = model.dual_coef.astype(np.float64)  # u β
    square = space.unit_**2  # 1/T'(0)²
    if model.by_genes:
        penalty = np.full(len(square), config.penalty)
    else:
        penalty = config.penalty * (space.singular_values[0] / space.singular_values) ** config.penalty_growth
        square = _components(space) ** 2 @ square
    # s² u² = (u β)ᵀ (K + λ H) (u β) / (n − 1), since 1ᵀβ = 0
    scale = (np.einsum("ij,ij->j", coef, K @ coef) + penalty * (model.noise @ coef**2)) / (len(K) - 1)
    penalties, group = np.unique(penalty, return_inverse=True)
    w = np.bincount(group, scale * square) / len(space.unit_)
    return Posterior(K, model.noise, penalties, to_rows, prior, np.outer(counted, w), candidates), w


def _components(space: TargetSpace) -> Float64:
    """Return V of a space of targets, (q, t)."""
    assert space.svd_ is not None
    return np.asarray(space.svd_.components_, dtype=np.float64)


def _form(model: SavedModel) -> tuple[Form, CompositeModel]:
    """Return the composite member that counts most in the blend, and its fitted model."""
    recipe, weights = model.config.recipe, model.stack.weights.weights
    forms = [one for one in recipe.forms if isinstance(model.stack.models.get(one.name), CompositeModel)]
    if not forms:
        raise InputError(
            f"the recipe {quoted(recipe.name)} has no composite kernels, whose uncertainty is known; give a run of a "
            "recipe that has, such as `best`"
        )
    measured = [one for one in forms if not one.labelled]
    if not measured:
        raise InputError(
            f"the member {forms[0].name} learns from pseudo-labels, which say nothing of its uncertainty; run with "
            "pseudo_labels off"
        )
    form = max(measured, key=lambda one: weights.get(one.name, 0.0))
    found = model.stack.models[form.name]
    assert isinstance(found, CompositeModel)
    return form, found


def _require_known(
    config: KernelModelConfig, model: KernelModel, u: int, p: int, count: int, n_models: int
) -> None:
    """Raise InputError where the covariances of u pairs, p of them candidates, are not known or take too much.

    All models' covariances are held at once, so each of them may take its part of the memory.
    """
    n = len(model.kernel.rows)
    g = 1 if model.by_genes or not config.penalty_growth else len(model.intercept)
    if config.engine != "ridge":
        raise InputError(
            f"a kernel model solved by engine {config.engine} has no uncertainty that is known: squared errors have; "
            "run a recipe with engine = 'ridge'"
        )
    if model.landmarks is not None:
        raise InputError(
            f"the model is solved on landmarks, since the Gram matrix of its {n:,} training rows is too large, and "
            "its uncertainty takes all of it; train on fewer rows, such as those of fewer cell types"
        )
    if model.noise is None:
        raise InputError(
            "the model was saved by an older version, which did not keep the rows' noise; run again"
        )
    count = min(count, p)
    needed = n_models * 8 * (4 * n**2 + 3 * u**2 + 2 * u * n + (count + 6) * u * g)
    operations = n_models * (9.0 * n**3 + 2.0 * g * u * (n * p + count * u))
    if needed > SHARE * host_bytes() or operations > MOST_OPERATIONS:
        raise InputError(
            f"the covariances of {u:,} pairs, {p:,} of them candidates, by {n:,} training rows take "
            f"{gigabytes(needed)} of memory and {operations:.0e} operations; give fewer in --pairs and --candidates"
        )
