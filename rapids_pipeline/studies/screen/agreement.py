"""Do genes agree on which features help? Rank correlations between a gene's order of the candidates and the panel's.

    ρ_g = Spearman's correlation over candidates between RMSE of gene g and mean RMSE of all other genes

A gene that agrees with the panel (ρ near 1) may stand for it; below zero it turns the order round.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from rapids_pipeline.studies.screen.results import Agreement, GeneRmse

Floats = NDArray[np.float64]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MOST_NAMED = 20
MOST_IN_HEAT_MAP = 60


def correlations(rmse: Floats) -> Floats:
    """Return ρ of every gene, (t,), of RMSEs (k, t); NaN where a gene or its panel has equal values throughout."""
    others = (rmse.sum(axis=1, keepdims=True) - rmse) / (rmse.shape[1] - 1)
    own, panel = (rankdata(values, axis=0) for values in (rmse, others))
    own, panel = own - own.mean(axis=0), panel - panel.mean(axis=0)
    size = np.sqrt((own**2).sum(axis=0) * (panel**2).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(size > 0, (own * panel).sum(axis=0) / size, np.nan))


def agreement_of(rmse: Floats, genes: Sequence[str], anchor: int) -> Agreement:
    """Return how well genes agree on the candidates.

    Parameters
    ----------
    rmse : ndarray of float64, (k, t)
        Of every candidate and gene; at least two of each.
    genes : sequence of str, (t,)
    anchor : int
        Position of the gene asked about.
    """
    found = correlations(rmse)
    known = found[np.isfinite(found)]
    quantiles = np.quantile(known, QUANTILES) if len(known) else np.full(len(QUANTILES), np.nan)
    below = [gene for gene in np.argsort(found, kind="stable") if found[gene] < 0]
    return Agreement(
        gene=genes[anchor],
        correlation=float(found[anchor]),
        quantiles={f"{q:.0%}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
        turned_round=[(genes[gene], float(found[gene])) for gene in below[:MOST_NAMED]],
        n_turned_round=len(below),
    )


def heat_map(rmse: Floats, genes: Sequence[str], names: Sequence[str], reference: int) -> GeneRmse:
    """Return the RMSEs of some genes relative to the reference's, the candidates in the order of `names`.

    Genes whose RMSE with the reference is zero are left out.
    """
    usable = np.flatnonzero(rmse[reference] > 0)
    ordered = usable[np.argsort(rmse[:, usable].mean(axis=0), kind="stable")]
    steps = np.linspace(0, len(ordered) - 1, min(len(ordered), MOST_IN_HEAT_MAP)).round().astype(int)
    shown = ordered[np.unique(steps)]
    relative = (rmse[:, shown] / rmse[reference, shown]).T
    return GeneRmse([genes[gene] for gene in shown], list(names), relative.tolist())
