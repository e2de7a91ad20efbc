"""Dose–response curves: a page of chosen genes, and the part of a page of predictions about its strongest pairs.

NAME.doses.html   all of it in one file that needs no network: what moves each gene most, a chart for each gene and cell
                  type with a panel for each time, and the numbers
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from features.rows import DOSE, TIME, context_numbers, log10_of
from rapids_pipeline.backend.arrays import Float64
from rapids_pipeline.data.columns import PAIR
from rapids_pipeline.predictions.dose_response import Curves, curves_of
from rapids_pipeline.predictions.predict import Predicted, predictor_of
from rapids_pipeline.reports import page
from rapids_pipeline.reports.page import GREY, Page, Section, Sheet, number, short, signed
from rapids_pipeline.stack.saved import SavedModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

MARKERS = "osD^vP*X<>"
"""One a curve of a chart: colours alone do not tell ten lines apart for everyone."""
COLUMNS, TICKS, NAMED = 3, 7, 3
"""Panels beside each other, doses that are marked on an axis, and curves that a verdict names."""
PAIRS, GENES = 3, 5
"""Pairs of a page of predictions whose curves are drawn, and genes of each."""
SIZE = "size of the response"
"""What stands in the place of a gene: the root mean square over all genes."""


@dataclass(frozen=True, eq=False)
class _Curve:
    """A curve: its compound in a cell type at a time (NaN where there is none), and k doses with their responses."""

    gene: str
    cell_type: str
    compound: str
    time: float
    dose: Float64
    response: Float64
    trained_doses: tuple[float, ...]

    @property
    def peak(self) -> int:
        """The place of the strongest response."""
        return int(np.argmax(np.abs(self.response)))

    @property
    def where(self) -> str:
        """The cell type, and the time where there is one."""
        return self.cell_type + ("" if np.isnan(self.time) else f", {self.time:g} h")


def write_doses(predicted: Predicted) -> str:
    """Write the page of the curves of a prediction, whole or not at all; return a sentence for the terminal.

    Parameters
    ----------
    predicted : Predicted
        With `curves`, and the `page` to write.
    """
    if predicted.curves is None or predicted.page is None:
        raise ValueError("no curves were asked for")
    curves = list(_curves(predicted.curves))
    made = page.page_of(_page(predicted, predicted.curves, curves))
    page.write_files(predicted.page.parent, {predicted.page.name: made})
    return f"{len(curves)} curves of {len(predicted.curves.genes)} genes drawn: {predicted.page}"


def _curves(curves: Curves) -> Iterator[_Curve]:
    """Yield the curves of the first gene, by cell type, time and compound, then those of the others."""
    points = curves.points
    grouped = points.groupby(["cell_type", TIME, "sm_name"], dropna=False, sort=False).indices.values()
    for gene, response in zip(curves.genes, curves.response.T.astype(np.float64), strict=True):
        for rows in grouped:
            first = points.iloc[rows[0]]
            what = gene, first["cell_type"], first["sm_name"], float(first[TIME])
            dose = points[DOSE].to_numpy(np.float64)[rows]
            yield _Curve(*what, dose, response[rows], first["trained_doses"])


# --- words and numbers ------------------------------------------------------------------------------------


def verdict(curves: list[_Curve], decimals: int) -> str:
    """Return in words which compounds move a gene most, where, and at which dose; each by its strongest response."""
    strongest: dict[str, _Curve] = {}
    for one in sorted(curves, key=lambda one: -abs(one.response[one.peak])):
        strongest.setdefault(one.compound, one)
    found = []
    for one in list(strongest.values())[:NAMED]:
        dose, known = one.dose[one.peak], one.trained_doses or (np.inf,)
        beyond = "" if min(known) <= dose <= max(known) else ", outside the doses of its training rows"
        response = signed(one.response[one.peak], decimals)
        found.append(f"{short(one.compound)} ({response} at {dose:g} µM; {one.where}{beyond})")
    return f"{curves[0].gene} is moved most by {', then '.join(found)}"


def _page(predicted: Predicted, curves: Curves, drawn: list[_Curve]) -> Page:
    decimals = min(page.decimals_for(np.abs(curves.response).ravel().tolist()), 4)
    points = curves.points
    times = [f"{time:g}" for time in sorted(points[TIME].dropna().unique())]
    facts = {
        "genes": ", ".join(curves.genes),
        "compounds": f"{points['sm_name'].nunique():,}",
        "cell types": f"{points['cell_type'].nunique():,}",
        "doses (µM)": ", ".join(f"{dose:g}" for dose in np.unique(points[DOSE])),
    } | ({"times (h)": ", ".join(times)} if times else {})
    sections: list[Section] = []
    doses = points[DOSE].to_numpy(np.float64)
    for gene in curves.genes:
        for cell_type in dict.fromkeys(points["cell_type"]):
            some = [one for one in drawn if (one.gene, one.cell_type) == (gene, cell_type)]
            sections.append(_section(f"curves-{len(sections)}", some, doses, decimals))
    return Page(
        title=f"Dose–response: {', '.join(curves.genes)}",
        lead="predictions of a saved model; 0 is no response, in the unit of the training file",
        facts=facts,
        sentences=[
            *(verdict([one for one in drawn if one.gene == gene], decimals) for gene in curves.genes),
            "filled points: the model was trained on the compound in this cell type at this time and dose; "
            "hollow: it was not, and the curve is the model's guess there",
        ],
        sections=[*sections, Section("notes", "Notes", items=predicted.notes) if predicted.notes else None],
        provenance=predicted.identity,
    )


def _section(name: str, curves: list[_Curve], doses: Float64, decimals: int) -> Section:
    """Return the chart and the numbers of a gene in a cell type, the strongest responses first."""
    first = curves[0]
    heading = f"{first.gene} in {first.cell_type}"
    headings = [
        "compound",
        "time (h)",
        "strongest",
        "at dose (µM)",
        "at the lowest",
        "at the highest",
        "trained on (µM)",
    ]
    timed = any(not np.isnan(one.time) for one in curves)
    rows = []
    for one in sorted(curves, key=lambda one: -abs(one.response[one.peak])):
        values = [signed(one.response[place], decimals) for place in (one.peak, 0, -1)]
        known = ", ".join(f"{dose:g}" for dose in one.trained_doses) or page.UNKNOWN
        rows.append([one.compound, f"{one.time:g}", values[0], f"{one.dose[one.peak]:g}", *values[1:], known])
    if not timed:
        headings, rows = headings[:1] + headings[2:], [row[:1] + row[2:] for row in rows]
    label = f"{heading}: {len(curves)} dose–response curves; the table has the numbers"
    chart = page.svg(lambda: _chart(curves, doses), name, label)
    return Section(name, heading, chart=chart, sheet=Sheet(headings, rows, text=["trained on (µM)"]))


# --- the strongest pairs of a page of predictions ---------------------------------------------------------


def dose_section(model: SavedModel, pairs: pd.DataFrame) -> Section | None:
    """Return how the size of the response and the strongest genes change with the dose; None without learnt doses.

    Parameters
    ----------
    model : SavedModel
    pairs : pandas.DataFrame
        Predicted pairs, the strongest first: the first `PAIRS` cell types and compounds are drawn.
    """
    if DOSE not in model.obs.columns:
        return None
    drawn = [_pair_curves(model, pair) for _, pair in pairs.drop_duplicates(PAIR).head(PAIRS).iterrows()]
    doses = np.concatenate([one[0].dose for one in drawn])
    rows = []
    for size, *genes in drawn:
        trained = _trained(size)
        for place, dose in enumerate(size.dose):
            values = [f"{one.gene}\N{NO-BREAK SPACE}{signed(one.response[place], 2)}" for one in genes]
            known = "yes" if trained[place] else ""
            rows.append(
                [
                    f"{size.cell_type}, {size.compound}",
                    f"{dose:g}",
                    number(size.response[place], 3),
                    known,
                    ", ".join(values),
                ]
            )
    headings = ["pair", "dose (µM)", "size", "trained on", "genes"]
    return Section(
        "doses",
        "Dose and response",
        "The strongest pairs at other doses: the size of the response (root mean square over genes), and the genes "
        "that respond most. Filled points: the model was trained on this compound in this cell type at this dose. "
        "Hollow: it was not, and the curve is the model's guess there.",
        page.svg(lambda: _pair_chart(drawn, doses), "doses", "Dose and response; the table has the numbers"),
        Sheet(headings, rows, text=["genes"]),
    )


def _pair_curves(model: SavedModel, pair: pd.Series) -> list[_Curve]:
    """Return the curve of the size of a pair's response, then those of the strongest genes where that is largest."""
    same = (model.obs[PAIR].astype(str) == pair[PAIR].astype(str)).all(axis=1)
    doses = _doses_of(context_numbers(model.obs, DOSE)[:, 0], same.to_numpy())
    asked = pd.DataFrame([pair[[name for name in (*PAIR, "SMILES", TIME) if name in pair.index]]])
    work = predictor_of(model, asked.reset_index(drop=True), "the model", doses=doses)
    Y = work.predict_rows(np.arange(len(doses)))
    size = np.sqrt(np.mean(np.square(Y, dtype=np.float64), axis=1))
    strongest = np.argsort(-np.abs(Y[np.argmax(size)]), kind="stable")[:GENES]
    curves = curves_of(work.batch, model.obs, model.genes, [model.genes[gene] for gene in strongest])
    genes = list(_curves(curves.filled(Y[curves.rows])))
    return [replace(genes[0], gene=SIZE, response=size[curves.rows]), *genes]


def _doses_of(doses: Float64, same: "np.ndarray[Any, np.dtype[np.bool_]]") -> list[float]:
    """Return at which doses a pair is drawn: those of its training rows, and some between the least and the largest.

    Without two training rows of its own at different doses, those of all training rows count.
    """
    known = np.unique(doses[~np.isnan(doses)])
    own = np.unique(doses[same & ~np.isnan(doses)])
    own = own if len(own) > 1 else known
    marked = own if len(own) <= TICKS else own[np.linspace(0, len(own) - 1, TICKS).astype(int)]
    above = own[own > 0]
    between = np.geomspace(above[0], above[-1], TICKS)[1:-1] if len(own) < 4 and len(above) > 1 else above[:0]
    return [float(dose) for dose in np.unique([float(f"{dose:.2g}") for dose in between] + marked.tolist())]


def _pair_chart(drawn: list[list[_Curve]], doses: Float64) -> "Figure":
    """Draw a row for each pair: the size of its response, and its genes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 2 * len(drawn) + 0.5), layout="constrained")
    panels = figure.subplots(len(drawn), 2, squeeze=False, sharex=True, width_ratios=[1, 1.1])
    for row, (size, *genes) in enumerate(drawn):
        left, right = panels[row]
        left.sharey(panels[0, 0])
        _axis(left, doses)
        _axis(right, doses)
        _line(left, size, 0, doses, f"size-{row}")
        lines = [
            _line(right, one, place + 1, doses, f"gene-{row}-{place}") for place, one in enumerate(genes)
        ]
        left.set_title(short(f"{size.compound}, {size.where}", 60), fontsize=8, loc="left")
        left.set_ylabel("size", fontsize=8)
        right.set_ylabel("genes", fontsize=8)
        names = [
            f" {short(one.gene, 14)}" for one in genes
        ]  # matplotlib leaves out names that begin with "_"
        right.legend(lines, names, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
        for panel in (left, right):
            panel.tick_params(labelsize=8)
    figure.supxlabel("dose (µM)", fontsize=9)
    return figure


# --- charts -----------------------------------------------------------------------------------------------


def _chart(curves: list[_Curve], doses: Float64) -> "Figure":
    """Draw a line for each compound in a panel for each time; `doses` are all of the page, for a common axis."""
    from matplotlib.figure import Figure

    times = list(dict.fromkeys(f"{one.time:g}" for one in curves))
    compounds = sorted({one.compound for one in curves})
    n_columns = min(len(times), COLUMNS)
    n_rows = -(-len(times) // COLUMNS)
    figure = Figure(figsize=(2.9 * n_columns + 3.2, 2.6 * n_rows + 0.7), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).ravel()
    lines: dict[str, Line2D] = {}
    for panel, time in zip(panels, times, strict=False):
        _axis(panel, doses)
        panel.set_title("" if time == "nan" else f"{time} h", fontsize=10)
        for place, one in enumerate(curves):
            if f"{one.time:g}" == time:
                number = compounds.index(one.compound)
                lines[one.compound] = _line(panel, one, number, doses, f"trained-{place}")
    for panel in panels[len(times) :]:
        panel.set_visible(False)
    names = [f" {short(name)}" for name in compounds]  # matplotlib leaves out names that begin with "_"
    shown = [lines[name] for name in compounds]
    figure.legend(shown, names, loc="outside right upper", frameon=False, fontsize=9)
    figure.supxlabel("dose (µM)", fontsize=10)
    figure.supylabel(f"{short(curves[0].gene)}, predicted response", fontsize=10)
    return figure


def _axis(panel: "Axes", doses: Float64) -> None:
    """Mark the doses on a log axis, a dose of 0 one decade below the least other one, and the line of no response."""
    panel.set_xscale("log")
    marked: list[float] = []
    places = log10_of(np.array([np.min(doses), np.max(doses)]), doses)
    for dose in np.unique(doses):  # as many as stand clear of each other
        here = log10_of(np.array([*marked[-1:], dose]), doses)
        if not marked or here[-1] - here[0] >= (places[1] - places[0]) / TICKS:
            marked.append(float(dose))
    panel.set_xticks(_places(np.array(marked), doses), [f"{dose:g}" for dose in marked])
    panel.minorticks_off()
    panel.grid(color="#e3e6ea", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.axhline(0.0, color=GREY, linewidth=1.0, zorder=1)


def _line(panel: "Axes", curve: _Curve, number: int, doses: Float64, gid: str) -> "Line2D":
    """Draw a curve and return its line; points at doses that the model was trained on are filled, and called `gid`."""
    from matplotlib import colormaps

    colour, x, trained = colormaps["tab10"](number), _places(curve.dose, doses), _trained(curve)
    style: dict[str, Any] = {"color": colour, "marker": MARKERS[number], "markersize": 5}
    [line] = panel.plot(x, curve.response, markerfacecolor="white", **style)
    panel.plot(x[trained], curve.response[trained], linestyle="", gid=gid, **style)
    return line


def _trained(curve: _Curve) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Say at which points of a curve the model was trained."""
    known = np.array(curve.trained_doses)[None, :]
    return np.asarray(np.isclose(curve.dose[:, None], known, rtol=1e-6, atol=0).any(axis=1))


def _places(dose: Float64, doses: Float64) -> Float64:
    """Return where doses stand on a log axis."""
    return np.asarray(10.0 ** log10_of(dose, doses), np.float64)
