"""Charts: scores with their intervals; of predicted responses a heat map of pairs and genes, and genes in order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rapids_pipeline.backend.arrays import Float64, Indices
from rapids_pipeline.predictions.readouts import Responses, gene_table
from rapids_pipeline.reports import page
from rapids_pipeline.reports.page import PLAIN, WORSE, short, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEAT_GENES = 40
"""Genes of a heat map: those that differ most between its pairs."""


@dataclass(frozen=True)
class Mark:
    """A line of a chart of intervals: a point with its whisker, and the number beside it."""

    name: str
    value: float
    low: float
    high: float
    text: str
    colour: str = PLAIN
    hollow: bool = False


def interval_chart(
    marks: Sequence[Mark], axis: str, line: tuple[float, str, str] | None = None, title: str = ""
) -> "Figure":
    """Draw a line for each mark, the first on top; `line` is a dashed reference: where it is, its name and its id."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 0.34 * len(marks) + 1.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yticks(range(len(marks)), [short(mark.name) for mark in marks])
    axes.set_ylim(max(len(marks), 1) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=6)
    axes.grid(axis="x", color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["left"]].set_visible(False)
    for row, mark in enumerate(marks):
        _draw(axes, row, mark)
    if line is not None and math.isfinite(line[0]):
        where, name, gid = line
        axes.axvline(where, color=WORSE, linestyle="--", linewidth=1.2, gid=gid, zorder=1)
        above = axes.get_xaxis_transform()
        axes.text(where, 1.01, name, color=WORSE, transform=above, ha="center", va="bottom", fontsize=9)
    axes.set_xlabel(axis)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return figure


def _draw(axes: "Axes", row: int, mark: Mark) -> None:
    """Draw the number, the whisker and the point of a mark; the point need not lie inside its whisker."""
    axes.text(1.01, row, mark.text, transform=axes.get_yaxis_transform(), va="center_baseline")
    whisker: dict[str, Any] = {"color": mark.colour, "linewidth": 1.6, "marker": "|", "markersize": 8}
    axes.plot([mark.low, mark.high], [row, row], gid=f"interval-{row}", **whisker)
    face = "white" if mark.hollow else mark.colour
    point: dict[str, Any] = {"color": mark.colour, "markerfacecolor": face, "markersize": 7, "zorder": 3}
    axes.plot([mark.value], [row], "o", gid=f"value-{row}", **point)


def heat_map(found: Responses, rows: Indices) -> "Figure":
    """Draw pairs × the genes that differ most between them, both in an order that puts like beside like."""
    from matplotlib.figure import Figure

    values, names = found.Y[rows], _names(found, rows)
    genes = np.argsort(-values.var(axis=0), kind="stable")[:HEAT_GENES]
    shown = values[:, genes].astype(np.float64)
    down, across = _order(shown), _order(shown.T)
    shown = shown[np.ix_(down, across)]
    height = max(0.22 * len(rows) + 1.2, 2.4)
    figure = Figure(figsize=(11, height))  # margins by hand: a layout engine takes longer than all else
    axes = figure.add_axes((0.25, 0.9 / height, 0.66, 1 - 1 / height))
    scale = figure.add_axes((0.925, 0.9 / height, 0.012, 1.2 / height))
    most = float(np.quantile(np.abs(shown), 0.98)) or 1.0
    drawn = axes.imshow(shown, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(rows)), [short(names[row], 40) for row in down], fontsize=7)
    called = [short(found.genes[gene], 14) for gene in genes[across]]
    axes.set_xticks(range(len(genes)), called, rotation=90, fontsize=7)
    axes.tick_params(length=0)
    figure.colorbar(drawn, cax=scale, label="predicted response")
    scale.tick_params(labelsize=7)
    return figure


def _names(found: Responses, rows: Indices) -> list[str]:
    """Return what pairs are called on a chart: without the cell type where all have the same."""
    cells = found.pairs["cell_type"].iloc[rows].astype(str)
    start = len(cells.iloc[0]) + len(", ") if cells.nunique() == 1 else 0
    return [found.names[row][start:] for row in rows]


def _order(rows: Float64) -> Indices:
    """Return an order of rows that puts like beside like: average linkage of cosine distances, optimal leaves."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import pdist

    if len(rows) < 3:
        return np.arange(len(rows))
    away = np.nan_to_num(pdist(rows, "cosine"), nan=1.0)
    return np.asarray(leaves_list(linkage(away, "average", optimal_ordering=True)), dtype=np.intp)


def ranked(found: Responses, rows: Indices) -> "Figure":
    """Draw the genes of some pairs in order of their response, the extreme ones named."""
    from matplotlib.figure import Figure

    lines = -(-len(rows) // 2)
    height = 2 * lines + 0.4
    figure = Figure(figsize=(6.4, height))
    figure.subplots_adjust(0.1, 0.4 / height, 0.985, 1 - 0.25 / height, 0.06, 0.2)
    panels = figure.subplots(lines, 2, squeeze=False, sharey=True).ravel()
    names = _names(found, rows)
    for panel, row, name in zip(panels, rows, names, strict=False):
        _ranked(panel, found, int(row))
        panel.set_title(short(name, 42), fontsize=8, loc="left")
    for panel in panels[len(rows) :]:
        panel.set_visible(False)
    figure.supylabel("predicted response", fontsize=9)
    figure.supxlabel("genes, in order", fontsize=9)
    return figure


def _ranked(axes: "Axes", found: Responses, row: int) -> None:
    values, table = np.sort(found.Y[row]), gene_table(found, row)
    places = np.arange(len(values))
    some = np.unique(np.linspace(0, len(values) - 1, min(len(values), 400)).astype(int))
    axes.axhline(0, color=page.GREY, linewidth=0.8)
    axes.plot(places[some], values[some], color=page.PLAIN, linewidth=1.5)
    for up in (True, False):
        side = table[(table["value"] > 0) == up].head(3)
        named = zip(side["gene"], side["value"], strict=True)
        words = "\n".join(f"{short(str(gene), 14)} {signed(float(value), 2)}" for gene, value in named)
        place = {
            "x": 0.03 if up else 0.97,
            "y": 0.95 if up else 0.05,
        }  # the corners that the line leaves free
        how = {"ha": "left" if up else "right", "va": "top" if up else "bottom"}
        axes.text(**place, s=words, transform=axes.transAxes, fontsize=7, **how)  # type: ignore[arg-type]
    axes.set_xticks([])
    axes.tick_params(labelsize=7)
