"""What a screen found: the candidates that are finished, their ranks and intervals, and whether the genes agree.

    ρ_g = Spearman's correlation over candidates between the RMSE of gene g and the mean RMSE of all other genes

A gene that agrees with the panel (ρ near 1) may stand for it. A gene with ρ below zero turns the order round.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from scipy.stats import rankdata

from rapids_pipeline.backend.arrays import Float64, Indices
from rapids_pipeline.evaluation.uncertainty import (
    LEVEL,
    Intervals,
    paired_intervals,
    replicate_weights,
    row_losses,
)

FORMAT = 1
BASELINE = "mean"
"""The candidate without features: predicts the mean of its training rows."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MOST_NAMED = 20
MOST_IN_HEAT_MAP = 60


@dataclass(frozen=True)
class ScreenedSet:
    """How one candidate did.

    Attributes
    ----------
    feature_set, description : str
    rank : int
        1 is the lowest score.
    score : float
        Held-out RMSE with one gene, MRRMSE with several, pooled over folds and repeats; in the targets' unit.
    score_low, score_high : float
        Its bootstrap interval.
    difference, difference_low, difference_high : float
        `score` minus that of the reference set, with the paired bootstrap interval; below zero is better.
    genes_improved : float or None
        Share of genes whose RMSE is lower than with the reference set; None with one gene.
    columns : int
        Columns of the feature table (of the first fold).
    seconds : float
        Wall-clock time.
    """

    feature_set: str
    description: str
    rank: int
    score: float
    score_low: float
    score_high: float
    difference: float
    difference_low: float
    difference_high: float
    genes_improved: float | None
    columns: int
    seconds: float


@dataclass(frozen=True)
class Agreement:
    """Whether genes agree on the order of the candidates (Spearman's correlation of their RMSEs with the panel's).

    Attributes
    ----------
    gene : str
        The gene asked about: A1BG where the panel has it, otherwise the first.
    correlation : float
        Between the gene's RMSEs and the mean RMSEs of all other genes of the panel; NaN where either is constant.
    quantiles : dict of str to float
        5 %, 25 %, 50 %, 75 % and 95 % of that correlation over all genes.
    turned_round : list of (gene, correlation)
        Genes whose correlation is below zero, the lowest first, at most 20.
    n_turned_round : int
        How many there are.
    """

    gene: str
    correlation: float
    quantiles: dict[str, float]
    turned_round: list[tuple[str, float]]
    n_turned_round: int


@dataclass(frozen=True)
class GeneRmse:
    """RMSE of single genes with every candidate, for the heat map: at most 60 genes of the panel.

    Attributes
    ----------
    genes : list of str
        Evenly spaced through the panel in the order of their mean RMSE.
    feature_sets : list of str
        In the order of their rank.
    relative : list of list of float, (genes, feature_sets)
        RMSE divided by that of the reference set.
    """

    genes: list[str]
    feature_sets: list[str]
    relative: list[list[float]]


@dataclass(frozen=True)
class Screen:
    """A screen, best candidate first.

    Attributes
    ----------
    search : str
        "compare", "forward" or "ablation".
    target : str
        As asked for: a gene, a list, "random:200", "variable:500" or "all".
    genes : list of str
        The panel; its first 50 names in the document.
    metric : str
        "RMSE" with one gene, "MRRMSE" with several.
    reference : str
        Feature set that differences are taken from.
    level : float
        Of the intervals, 0.95.
    rows, folds, repeats, seed : int
    split : str
        Name of the split, as `rapids_pipeline.evaluation.splits` has it.
    split_in_words : str
    model : str
    molecules, source : str
    sets : list of ScreenedSet
    agreement : Agreement or None
        None with one gene.
    gene_rmse : GeneRmse or None
    notes : list of str
        What a reader should know.
    selection : list of dict
        Forward selection: one entry a step (`block`, `score`, `difference`), all rows; and how often each block was
        selected in the outer folds (`share`).
    complete : bool
        False where the screen was interrupted: only the finished candidates are here.
    provenance : dict
        Versions, hashes, settings, machine, time.
    """

    search: str
    target: str
    genes: list[str]
    metric: str
    reference: str
    level: float
    rows: int
    folds: int
    repeats: int
    seed: int
    split: str
    split_in_words: str
    model: str
    molecules: str
    source: str
    sets: list[ScreenedSet]
    agreement: Agreement | None = None
    gene_rmse: GeneRmse | None = None
    notes: list[str] = field(default_factory=list)
    selection: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = True
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def document(self) -> dict[str, Any]:
        """The content of screen.json."""
        return {"format": FORMAT, "n_genes": len(self.genes)} | asdict(self) | {"genes": self.genes[:50]}


@dataclass(frozen=True, eq=False)
class Losses:
    """Held-out errors of a candidate.

    Attributes
    ----------
    row_mse : ndarray of float64, (repeats, n)
        Mean over genes of the squared errors of each row; NaN where a repeat did not hold the row out.
    gene_rmse : ndarray of float64, (t,)
        Over all held-out rows of all repeats.
    """

    row_mse: Float64
    gene_rmse: Float64

    @property
    def score(self) -> float:
        """RMSE with one gene, MRRMSE with several."""
        one_gene = len(self.gene_rmse) == 1
        mean = float(np.nanmean(row_losses(self.row_mse, one_gene)))
        return mean**0.5 if one_gene else mean


@dataclass(frozen=True, eq=False)
class Entry:
    """A finished candidate."""

    name: str
    description: str
    columns: int
    seconds: float
    losses: Losses


@dataclass(eq=False)
class Standings:
    """Ranks the finished candidates: the baseline and the reference, which come first, and the others.

    Parameters
    ----------
    blank : Screen
        The screen without its sets.
    anchor : int
        Position of the gene that agreement is asked for.
    folds : ndarray of int, (repeats, n)
    units : ndarray of int, (n,)
        Rows that are resampled together.
    entries : list of Entry
    """

    blank: Screen
    anchor: int
    folds: Indices
    units: Indices
    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._weights = replicate_weights(self.folds, self.units, seed=self.blank.seed)

    @property
    def has_reference(self) -> bool:
        """Whether differences can be taken."""
        return any(entry.name == self.blank.reference for entry in self.entries)

    def screen(self, complete: bool = False, **changes: Any) -> Screen:
        """Return the screen of the candidates so far, best first; with several genes and sets, their agreement."""
        names = [entry.name for entry in self.entries]
        reference, one_gene = names.index(self.blank.reference), len(self.blank.genes) == 1
        losses = np.stack([row_losses(entry.losses.row_mse, one_gene) for entry in self.entries])
        found = paired_intervals(losses, reference, self._weights, one_gene, LEVEL)
        rmse = np.stack([entry.losses.gene_rmse for entry in self.entries])
        order = np.argsort(found.score, kind="stable")
        sets = [self._set(rank, which, found, rmse, reference) for rank, which in enumerate(order, start=1)]
        if not one_gene and len(names) > 2:
            genes, ranked = self.blank.genes, [names[place] for place in order]
            changes["agreement"] = agreement_of(rmse, genes, self.anchor)
            changes["gene_rmse"] = heat_map(rmse[order], genes, ranked, ranked.index(names[reference]))
        return replace(self.blank, sets=sets, complete=complete, **changes)

    def _set(self, rank: int, which: int, found: Intervals, rmse: Float64, reference: int) -> ScreenedSet:
        entry = self.entries[which]
        names = "score", "score_low", "score_high", "difference", "difference_low", "difference_high"
        numbers = {name: float(getattr(found, name)[which]) for name in names}
        return ScreenedSet(
            feature_set=entry.name,
            description=entry.description,
            rank=rank,
            **numbers,
            genes_improved=None if rmse.shape[1] == 1 else float(np.mean(rmse[which] < rmse[reference])),
            columns=entry.columns,
            seconds=round(entry.seconds, 3),
        )


def correlations(rmse: Float64) -> Float64:
    """Return ρ of every gene, (t,), of RMSEs (k, t); NaN where a gene or its panel has equal values throughout."""
    others = (rmse.sum(axis=1, keepdims=True) - rmse) / (rmse.shape[1] - 1)
    own, panel = (rankdata(values, axis=0) for values in (rmse, others))
    own, panel = own - own.mean(axis=0), panel - panel.mean(axis=0)
    size = np.sqrt((own**2).sum(axis=0) * (panel**2).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(size > 0, (own * panel).sum(axis=0) / size, np.nan))


def agreement_of(rmse: Float64, genes: Sequence[str], anchor: int) -> Agreement:
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


def heat_map(rmse: Float64, genes: Sequence[str], names: Sequence[str], reference: int) -> GeneRmse:
    """Return the RMSEs of some genes relative to the reference's, the candidates in the order of `names`.

    Genes whose RMSE with the reference is zero are left out.
    """
    usable = np.flatnonzero(rmse[reference] > 0)
    ordered = usable[np.argsort(rmse[:, usable].mean(axis=0), kind="stable")]
    steps = np.linspace(0, len(ordered) - 1, min(len(ordered), MOST_IN_HEAT_MAP)).round().astype(int)
    shown = ordered[np.unique(steps)]
    relative = (rmse[:, shown] / rmse[reference, shown]).T
    return GeneRmse([genes[gene] for gene in shown], list(names), relative.tolist())
