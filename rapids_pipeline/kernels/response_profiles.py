"""How a compound acts in the *other* cell types, and how alike the cell types' responses are.

With a_j the scores of training row j (a row of the targets, reduced), c_j its cell type and m_j its compound,

    r_j      = a_j − Σ_{c_i = c_j} a_i / (n_c + SHRINKAGE)
    p(c, m)  = Σ_{m_j = m, c_j ≠ c} r_j / (number of such rows + κ)
    S(c, c') = (n ρ + PRIOR ρ̄) / (n + PRIOR),   ρ = Σ_m ⟨r̄_cm, r̄_c'm⟩ / √(Σ_m |r̄_cm|² Σ_m |r̄_c'm|²)

with the sums of ρ over the n compounds measured in both cell types, r̄ the mean of a pair's rows, and ρ̄ the mean of ρ,
weighted by n. The profile p of a pair never uses a row of the pair's own cell type, so neither the row itself nor its
replicates: it is the same function of training rows for a training row and for a new one. A compound without rows in
other cell types has no profile. An unseen cell type has S = ρ̄ with all others.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.rows import Pairs, places
from rapids_pipeline.backend.arrays import Float64, Mask

SHRINKAGE = 5.0
"""Rows of mean 0 that every cell type's mean is drawn by."""
PRIOR = 10.0
"""Compounds of mean correlation that every correlation of two cell types is drawn by."""


@dataclass(frozen=True, eq=False)
class ResponseProfiles:
    """Profiles of any pairs from n training rows.

    Attributes
    ----------
    rows : Pairs
        The training rows.
    residuals : ndarray of float64, (n, q)
        r_j.
    shrinkage : float
        κ.
    """

    rows: Pairs
    residuals: Float64
    shrinkage: float

    @classmethod
    def learn(cls, rows: Pairs, scores: Float64, shrinkage: float) -> "ResponseProfiles":
        """Make them of the scores (n, q) of training rows."""
        return cls(rows, residuals_of(rows, scores), shrinkage)

    def of(self, pairs: Pairs) -> tuple[Float64, Mask]:
        """Return the profiles of pairs, (m, q), and which of them have one; a pair without one gets zeros."""
        n_cells, n_compounds = len(self.rows.levels.cell_types), len(self.rows.levels.compounds)
        compound = places(pairs.levels.compounds, self.rows.levels.compounds)[pairs.compound]
        cell = places(pairs.levels.cell_types, self.rows.levels.cell_types)[pairs.cell_type]
        by_compound, rows_of_compound = _sums(self.rows.compound, self.residuals, n_compounds)
        pair = self.rows.compound.astype(np.intp) * n_cells + self.rows.cell_type
        known, number = np.unique(pair, return_inverse=True)
        by_pair, rows_of_pair = _sums(number, self.residuals, len(known))
        total, count = by_compound[compound], rows_of_compound[compound]
        asked = compound * n_cells + cell
        place = np.minimum(np.searchsorted(known, asked), len(known) - 1)
        own = (known[place] == asked) & (cell >= 0) & (compound >= 0)
        total[own] -= by_pair[place[own]]
        count[own] -= rows_of_pair[place[own]]
        count[compound < 0] = 0
        present = count > 0
        total[~present] = 0.0
        return total / np.maximum(count + self.shrinkage, 1e-12)[:, None], present


def residuals_of(rows: Pairs, scores: Float64) -> Float64:
    """Return the scores less the drawn mean of their cell type, (n, q)."""
    sums, counts = _sums(rows.cell_type, scores, len(rows.levels.cell_types))
    return np.asarray(scores - (sums / (counts + SHRINKAGE)[:, None])[rows.cell_type], dtype=np.float64)


def correlation_of_cell_types(rows: Pairs, scores: Float64) -> tuple[Float64, float]:
    """Return S between the cell types of the rows' levels, (n_cells, n_cells), and ρ̄, which unseen ones have.

    S is made positive semidefinite (negative eigenvalues set to 0) with ones on its diagonal. A cell type without rows
    has ρ̄ with all others.
    """
    cross, power, counts = _shared_compounds(rows, residuals_of(rows, scores))
    scale = np.sqrt(power * power.T)
    rho = np.divide(cross, scale, out=np.zeros_like(cross), where=scale > 0)
    np.fill_diagonal(counts, 0)
    mean = float((rho * counts).sum() / counts.sum()) if counts.sum() else 0.0
    mean = max(mean, 0.0)
    S = (counts * rho + PRIOR * mean) / (counts + PRIOR)
    np.fill_diagonal(S, 1.0)
    values, vectors = np.linalg.eigh(S)
    S = (vectors * np.maximum(values, 1e-9)) @ vectors.T
    diagonal = np.sqrt(np.diag(S))
    return np.asarray(S / diagonal[:, None] / diagonal[None, :], dtype=np.float64), mean


def _shared_compounds(rows: Pairs, residuals: Float64) -> tuple[Float64, Float64, Float64]:
    """Return sums over the compounds that two cell types share: of products, of squares in the first, their number."""
    n_cells = len(rows.levels.cell_types)
    pair = rows.compound.astype(np.intp) * n_cells + rows.cell_type
    known, number = np.unique(pair, return_inverse=True)
    sums, counts = _sums(number, residuals, len(known))
    means = sums / counts[:, None]
    compound, cell = known // n_cells, known % n_cells
    present, squares = np.zeros((2, len(rows.levels.compounds), n_cells))
    present[compound, cell], squares[compound, cell] = 1.0, np.einsum("ij,ij->i", means, means)
    cross = np.zeros((n_cells, n_cells))
    starts = np.flatnonzero(np.diff(compound, prepend=-1))
    for begin, end in zip(starts, [*starts[1:], len(compound)], strict=True):
        block = means[begin:end]
        cross[np.ix_(cell[begin:end], cell[begin:end])] += block @ block.T
    return cross, squares.T @ present, present.T @ present


def _sums(groups: NDArray[np.signedinteger], values: Float64, n_groups: int) -> tuple[Float64, Float64]:
    """Return the sum of the rows of each group, (n_groups, q), and how many there are."""
    order = np.argsort(groups, kind="stable")
    sums = np.zeros((n_groups, values.shape[1]))
    present, starts = np.unique(groups[order], return_index=True)
    if len(present):
        sums[present] = np.add.reduceat(values[order], starts, axis=0)
    return sums, np.bincount(groups, minlength=n_groups).astype(np.float64)
