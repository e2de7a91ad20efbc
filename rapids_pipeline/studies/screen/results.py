"""What a screen found: one row a candidate, and the document that screen.json holds."""

from dataclasses import asdict, dataclass, field
from typing import Any

FORMAT = 1
BASELINE = "mean"
"""The candidate without features: predicts the mean of its training rows."""


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
