"""The contrast of a blend: deviations from the mean of a cell type, amplified.

Shrinkage makes the predictions of one cell type alike. That is good for MRRMSE and bad for discrimination: a prediction
is then hardly nearer to its own truth than to those of other compounds. A contrast pulls them apart again. With p the
blend's prediction of cell type c and compound s,

    v  = a S(p − m_c) + w d_s
    p' = m_c + v (r / ρ)^(−γ),     r = root mean square of v over the genes

    m_c   the mean response of the cell type: m + a_c of the model y = m + a_c + b_s, ridge penalties 20 and 1
    d_s   the compound's deviation: the mean of y − m_c over its training rows; 0 where it has none
    S     Σ_k (σ_k/σ_1)^(−α) u_k u_kᵀ, u_k and σ_k the leading singular vectors and values of the training rows'
          deviations y − m_c. What is outside of these has the factor of the last. S is divided by a number that keeps
          the root mean square of p − m_c over the rows that judge
    ρ     the median of r over the rows that judge

The amplitude a, the weight w of the compound's deviation, the evenness γ (which amplifies weak rows more than strong
ones) and the gain α (which amplifies weak components more) are chosen by `rapids_pipeline.stack.objective`. All is
learnt from training rows, so the prediction of a fitted model for a row does not depend on the others that are asked
for. Only which training rows are held out to choose a, w, γ and α depends on the pairs that the run predicts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from features.reduction import TruncatedSVD
from rapids_pipeline.backend.arrays import Float32, Float64, Indices
from rapids_pipeline.backend.state import State, StateReader

CELL_TYPE_PENALTY, COMPOUND_PENALTY = 20.0, 1.0
"""Chosen on training rows of lincs_lung, as `COMPONENTS` was."""
COMPONENTS = 120


class Choice(NamedTuple):
    """a, w, γ and α."""

    amplitude: float = 1.0
    weight: float = 0.0
    evenness: float = 0.0
    gain: float = 0.0


@dataclass(frozen=True, eq=False)
class Effects:
    """What training rows say of cell types and compounds; t targets.

    Attributes
    ----------
    cell_types, compounds : list of str
    means : ndarray of float32, (n_cell_types + 1, t)
        m_c; the last is m, for other cell types.
    deviations : ndarray of float32, (n_compounds + 1, t)
        d_s; the last is 0, for other compounds.
    components : ndarray of float32, (k, t)
        u_k.
    sizes : ndarray of float64, (k,)
        σ_k/σ_1.
    """

    cell_types: list[str]
    compounds: list[str]
    means: Float32
    deviations: Float32
    components: Float32
    sizes: Float64

    @classmethod
    def of(cls, obs: pd.DataFrame, Y: Float32) -> "Effects":
        """Learn them from rows with `cell_type` and `sm_name`, and their responses (n, t) without NaN.

        The compounds are eliminated from the normal equations, so that a system of the cell types' size is solved.
        """
        cells, cell = np.unique(obs["cell_type"].to_numpy(str), return_inverse=True)
        names, compound = np.unique(obs["sm_name"].to_numpy(str), return_inverse=True)
        mean = Y.mean(axis=0, dtype=np.float64)
        centred = Y - mean
        counts = np.zeros((len(cells), len(names)))
        np.add.at(counts, (cell, compound), 1.0)
        shares = counts / (counts.sum(axis=0) + COMPOUND_PENALTY)
        left = np.diag(counts.sum(axis=1) + CELL_TYPE_PENALTY) - shares @ counts.T
        effects = np.linalg.solve(
            left, _sums(centred, cell, len(cells)) - shares @ _sums(centred, compound, len(names))
        )
        residual = centred - effects[cell]
        deviations = _sums(residual, compound, len(names)) / counts.sum(axis=0)[:, None]
        found = TruncatedSVD(COMPONENTS).fit(residual)
        sizes = np.asarray(found.singular_values_, dtype=np.float64)
        return cls(
            cells.tolist(),
            names.tolist(),
            np.vstack([mean + effects, mean]).astype(np.float32),
            np.vstack([deviations, np.zeros_like(mean)]).astype(np.float32),
            np.asarray(found.components_, dtype=np.float32),
            sizes / sizes[0] if len(sizes) else sizes,
        )

    def means_of(self, obs: pd.DataFrame) -> Float32:
        """Return m_c of every row, (n, t)."""
        return self.means[_places(self.cell_types, obs["cell_type"])]

    def deviations_of(self, obs: pd.DataFrame) -> Float32:
        """Return d_s of every row, (n, t)."""
        return self.deviations[_places(self.compounds, obs["sm_name"])]

    def amplified(self, deviations: Float32, gain: float) -> Float32:
        """Return S x of every row x of `deviations`, (n, t), without the division."""
        if not gain or not len(self.sizes):
            return deviations
        factors = self.sizes**-gain
        inside = deviations @ self.components.T
        return np.asarray(
            factors[-1] * deviations + (inside * (factors - factors[-1])) @ self.components, dtype=np.float32
        )


def _sums(values: Float64, level: Indices, n_levels: int) -> Float64:
    """Return the sums of the rows of every level, (n_levels, t)."""
    from scipy.sparse import csr_array

    indicator = csr_array((np.ones(len(level)), (level, np.arange(len(level)))), (n_levels, len(level)))
    return np.asarray(indicator @ values)


def _places(levels: Sequence[str], labels: "pd.Series[Any]") -> Indices:
    """Return the place of every label among levels; that after the last for others."""
    found = pd.Index(levels).get_indexer(pd.Index(labels.to_numpy(str)))
    return np.where(found < 0, len(levels), found)


@dataclass(frozen=True, eq=False)
class Contrast:
    """A fitted contrast: maps blends to p'.

    Attributes
    ----------
    choice : Choice
    effects : Effects
        Of all training rows.
    scale : float
        What S is divided by.
    radius : float
        ρ.
    """

    choice: Choice
    effects: Effects
    scale: float
    radius: float

    def apply(self, blended: Float32, obs: pd.DataFrame) -> Float32:
        """Return p' of every row, (n, t) float32; `obs` has the rows' `cell_type` and `sm_name`."""
        means = self.effects.means_of(obs)
        own = self.effects.amplified(blended - means, self.choice.gain)
        deviation = np.float32(self.choice.amplitude / self.scale) * own
        if self.choice.weight:
            deviation += np.float32(self.choice.weight) * self.effects.deviations_of(obs)
        sizes = np.sqrt(np.mean(np.square(deviation, dtype=np.float64), axis=1))
        factors = evened(sizes, self.radius, self.choice.evenness)
        return np.asarray(means + factors.astype(np.float32)[:, None] * deviation, dtype=np.float32)

    def state(self) -> State:
        """Return what it has learnt."""
        return {
            "choice": list(self.choice),
            "scale": self.scale,
            "radius": self.radius,
            "cell_types": self.effects.cell_types,
            "compounds": self.effects.compounds,
            "means": self.effects.means,
            "deviations": self.effects.deviations,
            "components": self.effects.components,
            "sizes": self.effects.sizes,
        }

    @classmethod
    def from_state(cls, reader: StateReader, n_targets: int) -> "Contrast":
        """Make it of its state; InputError where that is damaged."""
        choice, scale, radius = reader.numbers("choice"), reader.number("scale"), reader.number("radius")
        if len(choice) != len(Choice._fields) or min(scale, radius) <= 0:
            raise reader.fault("it has four numbers of a choice, and a scale and a radius above 0")
        cell_types, compounds = reader.levels("cell_types"), reader.levels("compounds")
        sizes = reader.array("sizes", np.float64, (None,))
        if len(sizes) and sizes.min() <= 0:
            raise reader.fault("its sizes of components must be above 0")
        effects = Effects(
            cell_types,
            compounds,
            reader.array("means", np.float32, (len(cell_types) + 1, n_targets)),
            reader.array("deviations", np.float32, (len(compounds) + 1, n_targets)),
            reader.array("components", np.float32, (len(sizes), n_targets)),
            sizes,
        )
        return cls(Choice(*choice), effects, scale, radius)


def evened(sizes: Float64, radius: float, evenness: float) -> Float64:
    """Return (r/ρ)^(−γ) of every row; 1 where r is 0."""
    safe = np.where(sizes > 0, sizes / radius, 1.0)
    return np.asarray(safe**-evenness)
