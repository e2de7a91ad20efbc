"""Untested genes: NaN among the targets, and what stands there where a fit needs a number.

NaN means "not tested there". Scores count tested entries only. A fit imputes inside its own training rows: with μ_g the
mean of gene g's tested entries, and X = Y − μ, it minimises over Z

    ½ Σ_tested (x_ig − z_ig)² + λ ‖Z‖_*        ‖Z‖_* the sum of singular values        ("soft-impute")

by filling the gaps with Z, taking the singular values s of what is filled down to max(s − λ, 0), and again. The first
filling is the effect of the row's cell type, Σ x_ig / (n_cg + SHRINKAGE) over its n_cg rows tested in the gene. λ alone
sets the rank: λ = LEVEL · σ (√n + √t), with σ the root mean square of the tested x and σ (√n + √t) about the largest
singular value that an (n, t) matrix of independent noise has. LEVEL is the best of 0.05 to 1 on lincs_lung, where
0.2 to 0.35 are alike. A gene without a tested entry among the rows gets 0, no response.

Z comes from the eigenvectors of the filled matrix times its transpose, (n, n): no larger matrix than the targets is
made. The result depends on the given rows only, and not on chance.

Source: Mazumder, Hastie and Tibshirani, Spectral regularization algorithms for learning large incomplete matrices
(2010), algorithm 1.
"""

import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from rapids_pipeline.backend.arrays import Float32, Float64, Floats, Indices, Mask

if TYPE_CHECKING:
    from rapids_pipeline.data.tables import PerturbationData

SHRINKAGE = 5.0
"""Rows without effect that every cell type's effect on a gene is drawn by."""
LEVEL = 0.35
"""λ in units of σ (√n + √t)."""
TOLERANCE = 1e-3
"""The filling is done where a step changes the filled gaps by less than this, relative to their size."""
MOST_STEPS = 200
"""Steps after which it ends in any case: 15 to 33 were needed on lincs_lung with 30 % of the entries missing."""


def has_gaps(Y: Floats) -> bool:
    """Say whether any target is NaN."""
    return bool(np.isnan(Y).any())


def imputed(Y: Float32, cell_types: ArrayLike) -> Float32:
    """Return targets (n, t) with every NaN filled, float32; `Y` itself where nothing is missing.

    Parameters
    ----------
    Y : ndarray of float32, (n, t)
        Tested entries are returned as they are.
    cell_types : array-like, (n,)
        Labels or numbers.
    """
    gaps = np.isnan(Y)
    if not gaps.any():
        return Y
    mean = tested_mean(Y)
    X = np.where(gaps, 0.0, Y - mean)
    n, t = X.shape
    tested = gaps.size - int(gaps.sum())
    level = LEVEL * np.sqrt((X**2).sum() / max(tested, 1)) * (np.sqrt(n) + np.sqrt(t))
    X[gaps] = _cell_type_effects(X, gaps, cell_types)[gaps]
    for _ in range(MOST_STEPS):
        before = X[gaps]
        X[gaps] = after = _shrunk(X, level)[gaps]
        if np.linalg.norm(after - before) <= TOLERANCE * np.linalg.norm(after):
            break
    return np.where(gaps, X + mean, Y).astype(np.float32)


def additive_fill(Y: Floats, cell_types: ArrayLike) -> Float64:
    """Return targets (n, t) with every NaN at its gene's mean plus the effect of the row's cell type, float64."""
    gaps = np.isnan(Y)
    if not gaps.any():
        return Y.astype(np.float64)
    mean = tested_mean(Y)
    effects = _cell_type_effects(np.where(gaps, 0.0, Y - mean), gaps, cell_types)
    return np.where(gaps, mean + effects, Y)


def _cell_type_effects(X: Float64, gaps: Mask, cell_types: ArrayLike) -> Float64:
    """Return the drawn mean of the tested x of each row's cell type, (n, t); X is 0 in the gaps."""
    codes = np.unique(np.asarray(cell_types), return_inverse=True)[1]
    effects = np.empty_like(X)
    for code in range(codes.max() + 1):
        rows = codes == code
        effects[rows] = X[rows].sum(axis=0) / ((~gaps[rows]).sum(axis=0) + SHRINKAGE)
    return effects


def _shrunk(X: Float64, level: float) -> Float64:
    """Return U max(S − level, 0) Vᵀ of X = U S Vᵀ."""
    squares, U = np.linalg.eigh(X @ X.T)
    s = np.sqrt(np.maximum(squares, 0.0))
    kept = s > level
    U, s = U[:, kept], s[kept]
    return np.asarray((U * (1 - level / s)) @ (U.T @ X))


class Imputed:
    """Targets of any choice of rows, imputed from these rows alone; every choice is imputed once.

    Parameters
    ----------
    Y : ndarray of float32, (n, t)
    cell_types : array-like, (n,)
    """

    def __init__(self, Y: Float32, cell_types: ArrayLike) -> None:
        self.Y, self._cell_types = Y, np.asarray(cell_types)
        self._gaps = has_gaps(Y)
        self._kept: dict[bytes, Float32] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process without what is kept: it is made again there."""
        return type(self), (self.Y, self._cell_types)

    def of(self, rows: Indices) -> Float32:
        """Return the targets of some rows without NaN, (len(rows), t)."""
        Y = self.Y[rows]
        if not self._gaps:
            return Y
        gaps, key = np.isnan(Y), np.asarray(rows, dtype=np.intp).tobytes()
        with self._lock:  # members side by side ask for the same rows
            if key not in self._kept:
                self._kept[key] = imputed(Y, self._cell_types[rows])[gaps]
        Y[gaps] = self._kept[key]
        return Y

    def tested(self, rows: Indices) -> Mask | None:
        """Return which targets of some rows are measured, (len(rows), t); None: all are."""
        return ~np.isnan(self.Y[rows]) if self._gaps else None


# --- statistics of tested entries -----------------------------------------------------------------------------


def tested_mean(Y: Floats, otherwise: Float64 | float = 0.0) -> Float64:
    """Return the mean of every gene's tested entries, (t,) float64; `otherwise` for a gene without any."""
    if not has_gaps(Y):
        return np.asarray(Y.mean(axis=0, dtype=np.float64))
    counts = np.sum(~np.isnan(Y), axis=0)
    sums = np.nansum(Y, axis=0, dtype=np.float64)
    return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1), otherwise))


def tested_range(Y: Float32) -> tuple[Float32, Float32]:
    """Return the least and the largest tested entry of every gene, (t,) each; of one without any NaN."""
    if not has_gaps(Y):
        return Y.min(axis=0), Y.max(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a gene without tested entries
        return np.nanmin(Y, axis=0), np.nanmax(Y, axis=0)


def never_tested(Y: Float32, cell_types: ArrayLike) -> dict[str, Indices]:
    """Return, by cell type, the positions of the genes that none of its rows was tested in; no entry: all were."""
    labels = np.asarray(cell_types).astype(str)
    found = {
        str(label): np.flatnonzero(np.isnan(Y[labels == label]).all(axis=0)) for label in np.unique(labels)
    }
    return {label: genes for label, genes in found.items() if len(genes)}


# --- what a reader should know --------------------------------------------------------------------------------


def untested_notes(data: "PerturbationData") -> list[str]:
    """Return in words how many targets are untested and where, and what is never tested in a cell type."""
    gaps = np.isnan(data.Y)
    if not gaps.any():
        return []
    labels = data.obs["cell_type"].to_numpy(str)
    shares = {str(label): float(gaps[labels == label].mean()) for label in np.unique(labels)}
    most = sorted(shares, key=lambda label: (-shares[label], label))
    named = ", ".join(f"{label} {_percent(shares[label])}" for label in most[:6] if shares[label])
    dots = ", …" if sum(share > 0 for share in shares.values()) > 6 else ""
    count = f"{int(gaps.sum()):,} of {gaps.size:,} targets ({_percent(float(gaps.mean()))})"
    notes = [
        f"not tested (NaN): {count}, by cell type: {named}{dots}; fits impute them, scores leave them out"
    ]
    never = never_tested(data.Y, labels)
    return notes + never_tested_notes({k: [data.genes[gene] for gene in v] for k, v in never.items()})


def never_tested_notes(genes_of: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a sentence on the genes that were never tested in a cell type, by cell type."""
    if not genes_of:
        return []
    parts = []
    for label in sorted(genes_of, key=lambda label: (-len(genes_of[label]), label)):
        names = genes_of[label]
        dots = ", …" if len(names) > 2 else ""
        parts.append(
            f"{label}: {len(names)} gene{'s' if len(names) > 1 else ''} ({', '.join(names[:2])}{dots})"
        )
    more = f"; and {len(parts) - 6} more cell types" if len(parts) > 6 else ""
    return [
        "UNTESTED: no training row of the cell type was tested in the gene, so predictions there rest on other cell "
        f"types alone: {'; '.join(parts[:6])}{more}"
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
