"""The candidates that are finished so far, and the screen they make."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.evaluation.bootstrap import (
    LEVEL,
    Intervals,
    paired_intervals,
    replicate_weights,
    row_losses,
)
from rapids_pipeline.studies.screen.agreement import agreement_of, heat_map
from rapids_pipeline.studies.screen.losses import Losses
from rapids_pipeline.studies.screen.results import BASELINE, Screen, ScreenedSet


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
    """Collects candidates and ranks them.

    Parameters
    ----------
    blank : Screen
        The screen without its sets.
    genes : list of str
    anchor : int
        Position of the gene that agreement is asked for.
    folds : ndarray of int, (repeats, n)
    units : ndarray of int, (n,)
        Rows that are resampled together.
    """

    blank: Screen
    anchor: int
    folds: NDArray[np.intp]
    units: NDArray[np.intp]
    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._weights = replicate_weights(self.folds, self.units, seed=self.blank.seed)

    def add(self, entry: Entry) -> None:
        """Take a finished candidate in; the first are the baseline and the reference."""
        self.entries.append(entry)

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
        several = not one_gene and len(names) > 2
        return replace(
            self.blank,
            sets=sets,
            complete=complete,
            agreement=agreement_of(rmse, self.blank.genes, self.anchor) if several else None,
            gene_rmse=heat_map(
                rmse[order],
                self.blank.genes,
                [names[i] for i in order],
                int(np.flatnonzero(order == reference)[0]),
            )
            if several
            else None,
            **changes,
        )

    def _set(
        self, rank: int, which: int, found: Intervals, rmse: NDArray[np.float64], reference: int
    ) -> ScreenedSet:
        entry = self.entries[which]
        return ScreenedSet(
            feature_set=entry.name,
            description=entry.description,
            rank=rank,
            score=float(found.score[which]),
            score_low=float(found.score_low[which]),
            score_high=float(found.score_high[which]),
            difference=float(found.difference[which]),
            difference_low=float(found.difference_low[which]),
            difference_high=float(found.difference_high[which]),
            genes_improved=None if rmse.shape[1] == 1 else float(np.mean(rmse[which] < rmse[reference])),
            columns=entry.columns,
            seconds=round(entry.seconds, 3),
        )


def baseline_entry(losses: Losses, seconds: float) -> Entry:
    """Return the candidate without features."""
    return Entry(BASELINE, "no features: the mean of the training rows", 0, seconds, losses)
