r"""How much an atlas counts for new compounds: chosen by the errors of training rows whose compound is left out.

With K the kernel of `new_compounds`, A that of the terms of the atlas, and H = diag(λ h_i)
(`rapids_pipeline.svr.kernel_ridge`), a model of strength s has the kernel K + s A, and with

    G = (K + s A + H)⁻¹,   P = G − G 1 1ᵀG / 1ᵀG 1,   β = P y

the residuals of the rows g of a compound, by the model fitted to all other rows, are exactly

    e_g = (P_gg)⁻¹ β_g

so one factorisation gives the errors of all compounds. They are those of the rows whose compound the atlas has. The
strength of the least mean error is taken where its gain over s = 0 is more than `STANDARD_ERRORS` standard errors,
compounds drawn; else 0. All of it is learnt from the training rows of the fit.

Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), section 5.4.2, for groups of rows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from features.molecules import ATLAS
from features.rows import Pairs
from rapids_pipeline.backend.arrays import Codes, Float32, Float64, Indices, Mask, to_device, to_host
from rapids_pipeline.backend.state import State, StateReader
from rapids_pipeline.stack.members.kernel_model import KernelModelConfig, learn_space, row_noise

STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""What the weights of an atlas's terms are multiplied by."""
STANDARD_ERRORS = 2.0
"""Of the gain, which must exceed so many to be believed."""
LEAST_COMPOUNDS = 10
"""Training compounds that an atlas must have; fewer are no evidence."""
MOST_ROWS = 1500
"""Training rows that the evidence is taken from, whole compounds drawn; a factorisation of more takes seconds."""


@dataclass(frozen=True)
class Strength:
    """A strength, and what it rests on.

    Attributes
    ----------
    value : float
        s, one of `STRENGTHS`.
    compounds : int
        Training compounds that the atlas has.
    error, error_without : float
        Mean RMSE of their rows, compound left out, at s and at 0; in the transformed unit of the targets. NaN where
        there are too few compounds.
    """

    value: float
    compounds: int
    error: float = float("nan")
    error_without: float = float("nan")

    def said(self) -> str:
        """Return it in words."""
        if self.compounds < LEAST_COMPOUNDS:
            least = f"{LEAST_COMPOUNDS} are needed to tell whether it helps"
            return f"the atlas counts nothing: it has {self.compounds} training compounds, and {least}"
        what = f"with each of {self.compounds} training compounds left out in turn"
        if not self.value:
            return f"the atlas counts nothing for new compounds: {what} it does not make the error smaller for sure"
        return (
            f"the atlas counts {self.value:g} times its weights for new compounds that it has: {what} the error of "
            f"their rows is {self.error:.4f}, and {self.error_without:.4f} without it"
        )

    def state(self) -> State:
        """Return the numbers; errors only where there are any."""
        found: State = {"value": self.value, "compounds": self.compounds}
        errors = {"error": self.error, "error_without": self.error_without}
        return found if np.isnan(self.error) else {**found, **errors}

    @classmethod
    def from_state(cls, reader: StateReader) -> "Strength":
        """Make it of its state; InputError where that is damaged."""
        value, compounds = reader.number("value"), reader.integer("compounds")
        if value not in STRENGTHS or compounds < 0:
            raise reader.fault("the strength of the atlas is none of those that are tried")
        errors = [reader.number(name) for name in ("error", "error_without") if name in reader.names()]
        return cls(value, compounds, *errors)


def choose_strength(
    config: KernelModelConfig,
    atlas_weights: Mapping[str, float],
    pairs: Pairs,
    targets: Callable[[], Float32],
    weight: Float64 | None = None,
) -> Strength:
    """Choose the strength of an atlas from n training rows.

    Parameters
    ----------
    config : KernelModelConfig
        Of `new_compounds`, without the atlas.
    atlas_weights : mapping of str to float
        Terms of the atlas.
    pairs : Pairs
        The training rows, with their compounds' embeddings.
    targets : callable
        Returns their targets, (n, t) float32; not called where the atlas has too few compounds.
    weight : ndarray of float64, (n,), optional
        What each row counts.
    """
    known = in_atlas(pairs)
    compounds = len(np.unique(pairs.compound[known]))
    if compounds < LEAST_COMPOUNDS:
        return Strength(0.0, compounds)
    rows = _drawn(pairs.compound, known)
    some, known = pairs.take(rows), known[rows]
    counts = np.ones(len(rows)) if weight is None else weight[rows]
    errors = left_out_errors(config, atlas_weights, some, targets()[rows], counts)[:, known]
    of_compound = np.unique(some.compound[known], return_inverse=True)[1]
    best = int(errors.mean(axis=1).argmin())
    gain = errors[0] - errors[best]
    # Σ over a compound's rows of what exceeds the mean gain: rows of one compound are not independent
    apart = np.bincount(of_compound, gain - gain.mean())
    if gain.mean() <= STANDARD_ERRORS * np.sqrt((apart**2).sum()) / len(gain):
        best = 0
    return Strength(STRENGTHS[best], compounds, float(errors[best].mean()), float(errors[0].mean()))


def in_atlas(pairs: Pairs) -> Mask:
    """Say of which pairs the atlas has the compound, (m,); of none where the pairs have no atlas."""
    embeddings = pairs.levels.molecules.get(ATLAS)
    if embeddings is None:
        return np.zeros(len(pairs), dtype=np.bool_)
    present: Mask = (embeddings != 0).any(axis=1)
    return present[pairs.molecule]


def left_out_errors(
    config: KernelModelConfig,
    atlas_weights: Mapping[str, float],
    pairs: Pairs,
    Y: Float32,
    counts: Float64,
) -> Float64:
    """Return the RMSE of every row, its compound left out, at every strength, (len(STRENGTHS), n).

    In the transformed unit of the targets; what the components leave of a row is part of its error.
    """
    space, z, reduced = learn_space(config, to_device(Y, "cpu"))
    scores, singular = to_host(reduced).astype(np.float64), space.singular_values
    learnt, host = config.kernel.learn(pairs, scores), np.empty(0)
    of_atlas = replace(learnt, kernel=replace(learnt.kernel, weights=dict(atlas_weights)))
    K, A = np.asarray(learnt.gram(host)), np.asarray(of_atlas.gram(host))
    noise = row_noise(scores, config.noise_exponent) / counts
    growth = (singular[0] / singular) ** (0.0 if config.targets == "genes" else config.penalty_growth)
    left = (to_host(z).astype(np.float64) ** 2).sum(axis=1) - (scores**2).sum(axis=1)
    errors = np.empty((len(STRENGTHS), len(Y)))
    for place, strength in enumerate(STRENGTHS):
        residual = np.empty_like(scores)
        for factor in np.unique(growth):
            columns, penalty = growth == factor, config.penalty * factor * noise
            residual[:, columns] = left_out(K + strength * A, penalty, scores[:, columns], pairs.compound)
        errors[place] = np.sqrt(((residual**2).sum(axis=1) + left.clip(min=0)) / Y.shape[1])
    return errors


def left_out(K: Float64, penalty: Float64, y: Float64, groups: Codes) -> Float64:
    """Return the residuals of ridge regression with an intercept, each group of rows left out in turn, (n, q).

    K is (n, n), `penalty` (n,) is λ h, y is (n, q); there are at least two groups.
    """
    from scipy.linalg import cho_factor, cho_solve  # which listings of recipes do without

    factor = cho_factor(K + np.diag(penalty), lower=True, overwrite_a=True)
    G = cho_solve(factor, np.eye(len(K)))
    ones = G.sum(axis=1)
    P = G - np.outer(ones, ones) / ones.sum()
    beta, found = P @ y, np.empty_like(y)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        found[rows] = np.linalg.solve(P[np.ix_(rows, rows)], beta[rows])
    return found


def _drawn(compound: Codes, known: Mask) -> Indices:
    """Return all rows, or those of drawn compounds, `MOST_ROWS` at most; compounds that the atlas has come first."""
    if len(compound) <= MOST_ROWS:
        return np.arange(len(compound))
    distinct, place, rows = np.unique(compound, return_inverse=True, return_counts=True)
    has = np.bincount(place, known) > 0
    order = np.lexsort([np.random.default_rng(0).permutation(len(distinct)), ~has])
    fitting = int((np.cumsum(rows[order]) <= MOST_ROWS).sum())
    return np.flatnonzero(np.isin(place, order[: max(fitting, 2)]))
