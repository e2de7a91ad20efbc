"""Dose–response curves: how the predictions of chosen genes change with the dose.

A *curve* is what a compound does to a gene in a cell type at a time; a *chart* holds the curves of all compounds. A
saved model does not keep measured responses, but it knows at which doses it was trained: these are told apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from features.rows import DOSE, TIME, context_numbers
from rapids_pipeline.backend.arrays import Float32, Indices
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.genes import gene_index
from rapids_pipeline.data.pairs import PairBatch

COMPOUNDS, CHARTS = 10, 60
"""The most curves of a chart whose colours can be told apart, and the most charts of a page."""
CHART = ["cell_type", TIME]
"""Columns whose values a chart has in common, besides the gene."""


@dataclass(frozen=True, eq=False)
class Curves:
    """Points of the curves of g genes.

    Attributes
    ----------
    genes : tuple of str, (g,)
    columns : ndarray of intp, (g,)
        Their places among the model's genes.
    rows : ndarray of intp, (n,)
        The pairs of the batch that are the points.
    points : pandas.DataFrame, (n,)
        `cell_type`, `sm_name`, `dose_uM`, `time_h` (NaN where there is none), and `trained_doses`: those of training
        rows of the compound in this cell type at this time, a sorted tuple. Sorted by chart, compound and dose.
    response : ndarray of float32, (n, g)
        Predicted; empty until `filled`.
    """

    genes: tuple[str, ...]
    columns: Indices
    rows: Indices
    points: pd.DataFrame
    response: Float32

    def filled(self, predicted: Float32) -> "Curves":
        """Return the curves with what is predicted for `rows`, (n, number of the model's genes)."""
        return replace(self, response=np.ascontiguousarray(predicted[:, self.columns], np.float32))


def curves_of(batch: PairBatch, training: pd.DataFrame, genes: Sequence[str], draw: Sequence[str]) -> Curves:
    """Return the curves of the genes `draw` among the pairs of a batch, without their responses.

    Pairs without a dose are left out, and of equal pairs all but the first.

    Parameters
    ----------
    batch : PairBatch
    training : pandas.DataFrame
        `cell_type`, `sm_name`, and maybe `dose_uM` and `time_h` of the model's training rows.
    genes : sequence of str
        The model's genes.
    draw : sequence of str

    Raises
    ------
    InputError
        The model has no such gene or tells no doses apart; no compound is at two doses; more curves than can be read.
    """
    chosen = tuple(dict.fromkeys(draw))
    columns = np.array([gene_index(genes, name, "--draw") for name in chosen], np.intp)
    if DOSE not in training.columns:
        raise InputError(
            "--draw: the model's training rows do not differ in dose_uM, so there is no dose–response to draw; "
            "leave the option out, or train on rows that have the column"
        )
    points = batch.table[["cell_type", "sm_name"]].astype(str)
    points[[DOSE, TIME]] = context_numbers(batch.table, DOSE, TIME)
    points["known_as"] = batch.known_as
    points = points[points[DOSE].notna()].drop_duplicates(["cell_type", "sm_name", DOSE, TIME])
    if points.groupby([*CHART, "sm_name"], dropna=False).size().max() < 2 or not len(points):
        raise InputError(
            "--draw: no compound is to be predicted at two doses or more; give some, such as --doses 0.1,1,10, or a "
            "column dose_uM in the file of pairs"
        )
    points = points.sort_values([*CHART, "sm_name", DOSE], kind="stable")
    _refuse_unreadable(points, len(chosen))
    trained: dict[tuple[str, ...], set[float]] = {}
    for key, dose in zip(_keys(training, "sm_name"), context_numbers(training, DOSE)[:, 0], strict=True):
        trained.setdefault(key, set()).update([] if np.isnan(dose) else [float(dose)])
    known = [tuple(sorted(trained.get(key, ()))) for key in _keys(points, "known_as")]
    return Curves(
        chosen,
        columns,
        points.index.to_numpy(np.intp),
        points.drop(columns="known_as")
        .assign(trained_doses=pd.Series(known, points.index))
        .reset_index(drop=True),
        np.empty((0, len(chosen)), np.float32),
    )


def _keys(obs: pd.DataFrame, compound: str) -> list[tuple[str, ...]]:
    """Return cell type, compound and time of every row, as text."""
    times = [f"{time:.6g}" for time in context_numbers(obs, TIME)[:, 0]]
    return list(zip(obs["cell_type"].astype(str), obs[compound].astype(str), times, strict=True))


def _refuse_unreadable(points: pd.DataFrame, n_genes: int) -> None:
    """Raise InputError for more curves in a chart, or more charts, than can be read."""
    charts = points.groupby(CHART, dropna=False)["sm_name"].nunique()
    if charts.max() > COMPOUNDS:
        raise InputError(
            f"--draw: {charts.max()} compounds would be in one chart, and no more than {COMPOUNDS} can be told apart; "
            "give --pairs a file with fewer compounds"
        )
    if n_genes * len(charts) > CHARTS:
        raise InputError(
            f"--draw: {n_genes} genes × {len(charts)} cell types and times are {n_genes * len(charts)} charts, and a "
            f"page has {CHARTS} at most; name fewer genes, or give --pairs a file with fewer cell types or times"
        )
