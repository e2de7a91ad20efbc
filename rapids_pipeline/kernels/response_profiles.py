"""How a compound acts in the *other* cell types, and how alike the cell types' responses are.

With a_j the scores of training row j (a row of the targets, reduced), c_j its cell type and m_j its compound,

    r_j      = a_j − Σ_{c_i = c_j} a_i / (n_c + SHRINKAGE)
    p(x)     = Σ_{m_j = m, c_j ≠ c} w_j r_j / (Σ w_j + κ),   x of compound m in cell type c
    w_j      = exp(−Δdose²/2l_d²) exp(−Δtime²/2l_t²),   Δ of log10 between x and row j; 1 where no rows differ
    S(c, c') = (n ρ + PRIOR ρ̄) / (n + PRIOR),   ρ = Σ_m ⟨r̄_cm, r̄_c'm⟩ / √(Σ_m |r̄_cm|² Σ_m |r̄_c'm|²)

with the sums of ρ over the n compounds measured in both cell types, r̄ the mean of a pair's rows, and ρ̄ the mean of ρ,
weighted by n. The profile p of a pair never uses a row of the pair's own cell type, so neither the row itself nor its
replicates: it is the same function of training rows for a training row and for a new one. A compound without rows in
other cell types has no profile. An unseen cell type has S = ρ̄ with all others.

A profile leaves out the compound's rows at other doses and times in the pair's own cell type, too: these enter a kernel
by the factors `dose` and `time`. In a prototype on Open TG-GATEs, profiles that had them made unseen doses worse.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.rows import Pairs, log10_of, places
from rapids_pipeline.backend.arrays import Float64, Indices, Mask

SHRINKAGE = 5.0
"""Rows of mean 0 that every cell type's mean is drawn by."""
PRIOR = 10.0
"""Compounds of mean correlation that every correlation of two cell types is drawn by."""
DOSE_LENGTH, TIME_LENGTH = 0.6, 0.3
"""Decades of dose and of time over which responses stay alike (chosen on unseen doses and times of Open TG-GATEs)."""
NEAR = 1e-6
"""Sum of the weights w_j below which a pair has no profile: all rows are of quite other doses or times."""


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
    lengths : tuple of float
        l_d and l_t.
    """

    rows: Pairs
    residuals: Float64
    shrinkage: float
    lengths: tuple[float, float] = (DOSE_LENGTH, TIME_LENGTH)

    @classmethod
    def learn(
        cls,
        rows: Pairs,
        scores: Float64,
        shrinkage: float,
        lengths: tuple[float, float] = (DOSE_LENGTH, TIME_LENGTH),
    ) -> "ResponseProfiles":
        """Make them of the scores (n, q) of training rows."""
        return cls(rows, residuals_of(rows, scores), shrinkage, lengths)

    def of(self, pairs: Pairs) -> tuple[Float64, Mask]:
        """Return the profiles of pairs, (m, q), and which of them have one; a pair without one gets zeros."""
        compound = places(pairs.levels.compounds, self.rows.levels.compounds)[pairs.compound]
        cell = places(pairs.levels.cell_types, self.rows.levels.cell_types)[pairs.cell_type]
        near = [self.nearness(pairs, name) for name in ("dose", "time")]
        asked, number = np.unique(pairs.dose.astype(np.intp) * len(near[1]) + pairs.time, return_inverse=True)
        profiles = np.zeros((len(pairs), self.residuals.shape[1]))
        present = np.zeros(len(pairs), dtype=np.bool_)
        for group, key in enumerate(asked.tolist()):
            dose, time = divmod(key, len(near[1]))
            some = np.flatnonzero(number == group)
            weight = near[0][dose, self.rows.dose] * near[1][time, self.rows.time]
            used = slice(None) if len(asked) == 1 else np.isin(self.rows.compound, compound[some])
            profiles[some], present[some] = self._weighted(compound[some], cell[some], weight, used)
        return profiles, present

    def nearness(self, pairs: Pairs, name: str, others: Pairs | None = None) -> Float64:
        """Return how near the levels of "dose" or "time" are to those of the training rows, or of others, 0 to 1.

        Training rows that do not differ in it tell none apart: 1 throughout, also for pairs that lack the column.
        """
        own = np.array(getattr(self.rows.levels, f"{name}s"))
        here, there = (np.array(getattr(x.levels, f"{name}s")) for x in (pairs, others or self.rows))
        training = own[np.unique(getattr(self.rows, name))]
        if len(training) < 2:
            return np.ones((len(here), len(there)))
        length = dict(zip(("dose", "time"), self.lengths, strict=True))[name]
        return nearness(here, there, training, length)

    def measured_elsewhere(self, pairs: Pairs) -> Mask:
        """Say of which pairs a training row has the compound in another context: cell type, dose or time, (m,)."""
        names = ("cell_type", "dose", "time")
        there, here = (x.compound.astype(np.intp) for x in (self.rows, pairs))
        here = places(pairs.levels.compounds, self.rows.levels.compounds)[here]
        of_compound = np.bincount(there, minlength=len(self.rows.levels.compounds))[here]
        known = here >= 0
        same = known.copy()
        for name in names:
            levels, asked = (getattr(x.levels, f"{name}s") for x in (self.rows, pairs))
            place = places(asked, levels)[getattr(pairs, name)]
            same &= place >= 0
            there, here = there * len(levels) + getattr(self.rows, name), here * len(levels) + place
        contexts, rows = np.unique(there, return_counts=True)
        found = np.minimum(np.searchsorted(contexts, here), len(contexts) - 1)
        own = np.where(same & (contexts[found] == here), rows[found], 0)
        return np.asarray(known & (of_compound > own), dtype=np.bool_)

    def _weighted(
        self, compound: Indices, cell: Indices, weight: Float64, used: slice | Mask
    ) -> tuple[Float64, Mask]:
        """Return the profiles of pairs of one dose and time from the `used` rows, and which pairs have one."""
        n_cells, n_compounds = len(self.rows.levels.cell_types), len(self.rows.levels.compounds)
        weight, of_row = weight[used], self.rows.compound[used]
        responses = self.residuals[used] * weight[:, None]
        by_compound, rows_of_compound = _sums(of_row, responses, n_compounds, weight)
        pair = of_row.astype(np.intp) * n_cells + self.rows.cell_type[used]
        known, number = np.unique(pair, return_inverse=True)
        by_pair, rows_of_pair = _sums(number, responses, len(known), weight)
        total, count = by_compound[compound], rows_of_compound[compound]
        if len(known):
            asked = compound * n_cells + cell
            place = np.minimum(np.searchsorted(known, asked), len(known) - 1)
            own = (known[place] == asked) & (cell >= 0) & (compound >= 0)
            total[own] -= by_pair[place[own]]
            count[own] -= rows_of_pair[place[own]]
        count[compound < 0] = 0
        present = count > NEAR
        total[~present] = 0.0
        return total / np.maximum(count + self.shrinkage, 1e-12)[:, None], present


def nearness(here: Float64, there: Float64, training: Float64, length: float) -> Float64:
    """Return exp(−Δ²/2l²) between doses or times, Δ of their log10, (m, n); a missing one is like missing ones only.

    0 lies one decade below the least positive value of `training`.
    """
    A, B = log10_of(here, training), log10_of(there, training)
    K = np.exp(-((A[:, None] - B[None, :]) ** 2) / (2 * length**2))
    missing = np.isnan(A)[:, None] & np.isnan(B)[None, :]
    return np.asarray(np.where(missing, 1.0, np.nan_to_num(K, nan=0.0)), dtype=np.float64)


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


def _sums(
    groups: NDArray[np.signedinteger], values: Float64, n_groups: int, weight: Float64 | None = None
) -> tuple[Float64, Float64]:
    """Return the sum of the rows of each group, (n_groups, q), and how many there are or the sum of their weights."""
    order = np.argsort(groups, kind="stable")
    sums = np.zeros((n_groups, values.shape[1]))
    present, starts = np.unique(groups[order], return_index=True)
    if len(present):
        sums[present] = np.add.reduceat(values[order], starts, axis=0)
    return sums, np.bincount(groups, weight, minlength=n_groups).astype(np.float64)
