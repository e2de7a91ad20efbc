"""What a person looks at after a screen: a table and sentences for the terminal, files, and a page with charts."""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich import box
from rich.table import Table
from rich.text import Text

from rapids_pipeline.backend.files import written_atomically
from rapids_pipeline.studies.screen.results import BASELINE, Agreement, GeneRmse, Screen, ScreenedSet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BETTER, WORSE, UNDECIDED, PLAIN, GREY = "#2166ac", "#b2182b", "#5b6673", "#2f7d8f", "#8a8f96"
UNKNOWN = "–"
NAME_WIDTH = 20
"""Letters of a name on one line of the terminal table."""
SEARCHES = {
    "compare": "feature sets compared",
    "forward": "forward selection",
    "ablation": "blocks left out in turn",
}


def write_screen(screen: Screen, folder: Path) -> None:
    """Leave screen.csv, screen.json, screen.html and screen.png in a folder, each written whole or not at all.

    All four are made before the first is written. The same screen gives the same bytes.

    Parameters
    ----------
    screen : Screen
    folder : Path
        Made where it is missing.
    """
    document = json.dumps(_without_nan(screen.document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    texts = {"screen.csv": _csv(screen.sets), "screen.json": document, "screen.html": _page(screen)}
    # A path that is no UTF-8 reaches us with surrogates in it; they are spelled out.
    contents = {name: text.encode("utf-8", "backslashreplace") for name, text in texts.items()}
    contents["screen.png"] = _score_png(screen)
    for name, content in contents.items():
        with written_atomically(folder / name) as path:
            path.write_bytes(content)


def screen_table(screen: Screen) -> Table:
    """Return a terminal table with one row a candidate, best first.

    The column "verdict" says "better" or "worse" where the interval of the difference excludes zero.

    Parameters
    ----------
    screen : Screen

    Returns
    -------
    Table
    """
    title = Text(f"{screen.metric} of {screen.target}; ref.: {screen.reference}")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    several = _has_several_genes(screen)
    interval = f"{_percent(screen.level)} interval"
    headings = ["rank", "feature set", "cols", screen.metric, "minus\nref.", interval, "verdict"]
    for heading in [*headings, *(["genes\nbetter"] if several else []), "seconds"]:
        # Where the terminal is narrow, intervals take several lines; all else stays whole.
        justify: Literal["left", "right"] = "left" if heading in ("feature set", "verdict") else "right"
        table.add_column(Text(heading), justify=justify, overflow="fold", no_wrap=heading != interval)
    styles = {"better": "bold green", "worse": "red"}
    for row in _rows(screen):
        style = styles.get(row.verdict, "")
        verdict = "ref." if row.verdict == "reference" else row.verdict
        cells = map(Text, (row.rank, _folded(row.feature_set), row.columns, row.score))
        judged = [Text(cell, style) for cell in (row.difference, ", ".join(row.difference_interval), verdict)]
        improved = [Text(row.genes_improved)] if several else []
        table.add_row(*cells, *judged, *improved, Text(row.seconds))
    return table


def sentences(screen: Screen) -> list[str]:
    """Return what the numbers say, in words, for the terminal; `Screen.notes` are not among them.

    Parameters
    ----------
    screen : Screen

    Returns
    -------
    list of str
    """
    trust = screen.agreement
    return [
        *([] if screen.complete else ["interrupted: only the finished candidates are here"]),
        *_findings(screen),
        *_selected(screen),
        *([f"may I trust {trust.gene}? {_trust(trust, len(screen.genes))}"] if trust else []),
    ]


# --- words and numbers ------------------------------------------------------------------------------------


def _findings(screen: Screen) -> list[str]:
    folds = f"{screen.folds} folds" + (f", {screen.repeats} times" if screen.repeats > 1 else "")
    found = [
        f"split: {screen.split_in_words}; {screen.rows:,} rows, {folds}, seed {screen.seed}",
        f"reference: {screen.reference}; differences below zero are better; "
        f"intervals: {_percent(screen.level)}, paired bootstrap over folds and rows",
    ]
    if screen.sets:
        best = _rows(screen)[0]
        found.append(
            f"lowest {screen.metric}: {best.feature_set} with {best.score} ({' to '.join(best.interval)})"
        )
    verdicts = [_verdict(one, screen.reference) for one in screen.sets if one.feature_set != screen.reference]
    if verdicts:
        counts = [verdicts.count(verdict) for verdict in ("better", "worse", "")]
        found.append(
            f"of {len(verdicts)} other candidates {counts[0]} are better than {screen.reference}, {counts[1]} worse; "
            f"of {counts[2]} the interval has zero in it"
        )
    return found


def _selected(screen: Screen) -> list[str]:
    """Return the steps of a forward selection, in words."""
    decimals = _decimals(screen.sets)
    steps = [
        f"{step['block']} ({_number(step['score'], decimals)}; in {_percent(step['share'])} of the folds)"
        for step in screen.selection
    ]
    return [f"selected by all rows, with scores that are too good: {', '.join(steps)}"] if steps else []


def _trust(agreement: Agreement, n_genes: int) -> str:
    """Return the answer to "may I trust this gene?"."""
    parts = ["cannot be said: every set does equally well on it"]
    if math.isfinite(agreement.correlation):
        parts = [
            f"its order of the sets has a rank correlation of {_minus(agreement.correlation)} with the panel's"
        ]
    _, low, _, high, _ = agreement.quantiles.values()
    if math.isfinite(low) and math.isfinite(high):
        parts.append(f"the middle half of all genes have {_minus(low)} to {_minus(high)}")
    turned = agreement.n_turned_round
    if turned:
        named = [f"{gene} {_minus(value)}" for gene, value in agreement.turned_round[:5]]
        the_most = ", ".join([*named, *(["…"] if turned > len(named) else [])])
        verb = "turns" if turned == 1 else "turn"
        parts.append(f"{turned:,} of {n_genes:,} genes {verb} the order round (the most: {the_most})")
    else:
        parts.append("no gene turns the order round")
    return "; ".join(parts)


def _verdict(one: ScreenedSet, reference: str) -> str:
    if one.feature_set == reference:
        return "reference"
    if one.difference_high < 0:
        return "better"
    return "worse" if one.difference_low > 0 else ""


@dataclass(frozen=True)
class _Row:
    """The cells of one candidate, as the terminal and the page show them."""

    rank: str
    feature_set: str
    description: str
    columns: str
    score: str
    interval: tuple[str, str]
    difference: str
    difference_interval: tuple[str, ...]
    verdict: str
    genes_improved: str
    seconds: str


def _rows(screen: Screen) -> list[_Row]:
    decimals = _decimals(screen.sets)
    rows = []
    for one in screen.sets:
        is_reference = one.feature_set == screen.reference
        low, high = _signed(one.difference_low, decimals), _signed(one.difference_high, decimals)
        improved = one.genes_improved
        rows.append(
            _Row(
                rank=str(one.rank),
                feature_set=one.feature_set,
                description=one.description,
                columns=f"{one.columns:,}",
                score=_number(one.score, decimals),
                interval=(_number(one.score_low, decimals), _number(one.score_high, decimals)),
                difference="" if is_reference else _signed(one.difference, decimals),
                difference_interval=() if is_reference else (low, high),
                verdict=_verdict(one, screen.reference),
                genes_improved="" if improved is None or is_reference else _percent(improved),
                seconds=_number(one.seconds, 1),
            )
        )
    return rows


def _headings(screen: Screen) -> list[str]:
    level = f"{_percent(screen.level)} interval"
    headings = [
        "rank",
        "feature set",
        "columns",
        screen.metric,
        level,
        f"minus {screen.reference}",
        level,
        "verdict",
    ]
    return [*headings, *(["genes improved"] if _has_several_genes(screen) else []), "seconds"]


def _has_several_genes(screen: Screen) -> bool:
    return len(screen.genes) > 1


def _decimals(sets: Iterable[ScreenedSet]) -> int:
    """Return how many decimals the scores take: 4 around one, fewer for large targets, more for small ones."""
    largest = max((one.score for one in sets if math.isfinite(one.score)), default=0.0)
    exponent = math.floor(math.log10(largest)) if largest > 0 else 0
    return max(4 - exponent - (exponent < 0), 0)


def _number(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else UNKNOWN


def _signed(value: float, decimals: int) -> str:
    return f"{value:+.{decimals}f}".replace("-", "−") if math.isfinite(value) else UNKNOWN


def _minus(correlation: float) -> str:
    return f"{correlation:.2f}".replace("-", "−") if math.isfinite(correlation) else UNKNOWN


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %" if math.isfinite(share) else UNKNOWN


def _folded(name: str) -> str:
    """Return a name on lines of at most `NAME_WIDTH` letters."""
    return "\n".join(name[start : start + NAME_WIDTH] for start in range(0, len(name), NAME_WIDTH))


def _short(name: str, width: int = 26) -> str:
    """Return a name that fits beside a chart, without characters that no font or XML has."""
    printable = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    half = width // 2
    return printable if len(printable) <= width else f"{printable[:half]}…{printable[1 - half :]}"


# --- files ------------------------------------------------------------------------------------------------


def _csv(sets: Iterable[ScreenedSet]) -> str:
    text = StringIO()
    writer = csv.DictWriter(text, [column.name for column in fields(ScreenedSet)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_without_nan(asdict(one)) for one in sets)
    return text.getvalue()


def _without_nan(value: Any) -> Any:
    """Return a document with None in place of NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _page(screen: Screen) -> str:
    environment = Environment(
        loader=PackageLoader("rapids_pipeline.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    agreement = screen.agreement
    decimals = _decimals(screen.sets)
    return environment.get_template("screen.html.j2").render(
        screen=screen,
        search=SEARCHES.get(screen.search, screen.search),
        level=_percent(screen.level),
        findings=_findings(screen),
        trust=_trust(agreement, len(screen.genes)) if agreement else "",
        quantiles={name: _minus(value) for name, value in agreement.quantiles.items()} if agreement else {},
        turned_round=[(gene, _minus(value)) for gene, value in agreement.turned_round] if agreement else [],
        headings=_headings(screen),
        rows=_rows(screen),
        several_genes=_has_several_genes(screen),
        steps=_steps(screen.selection, decimals),
        charts=_charts(screen),
        provenance=json.dumps(_without_nan(screen.provenance), indent=2, ensure_ascii=False, default=str),
    )


def _steps(selection: Sequence[dict[str, Any]], decimals: int) -> list[list[str]]:
    """Return the table of a forward selection, its headings first; none where nothing was selected."""
    columns = list(dict.fromkeys(name for step in selection for name in step))

    def cell(name: str, value: Any) -> str:
        if value is None or not isinstance(value, float):
            return UNKNOWN if value is None else str(value)
        if name == "share":
            return _percent(value)
        return (_signed if name == "difference" else _number)(value, decimals)

    rows = [[cell(name, step.get(name)) for name in columns] for step in selection]
    return [["step", *columns], *([str(number), *row] for number, row in enumerate(rows, 1))] if rows else []


# --- charts -----------------------------------------------------------------------------------------------


def _charts(screen: Screen) -> dict[str, Markup]:
    """Return the page's charts as SVG; those that have nothing to show are missing."""
    others = [one for one in screen.sets if one.feature_set != screen.reference]
    charts = {}
    with _chart_style():
        if screen.sets:
            label = f"{screen.metric} of {len(screen.sets)} candidates with their intervals; the table has the numbers"
            charts["scores"] = _svg(_score_chart(screen, ""), "scores", label)
        if any(math.isfinite(one.difference) for one in others):
            label = (
                f"Difference of {len(others)} candidates from {screen.reference}; the table has the numbers"
            )
            charts["differences"] = _svg(_difference_chart(screen, others), "differences", label)
        if screen.gene_rmse is not None and screen.gene_rmse.genes:
            label = f"RMSE of {len(screen.gene_rmse.genes)} genes relative to that with {screen.reference}"
            charts["genes"] = _svg(_gene_map(screen.gene_rmse, screen.reference), "genes", label)
    return charts


@contextmanager
def _chart_style() -> Iterator[None]:
    """Draw with matplotlib's defaults whatever the user's are; a dollar sign in a name is a dollar sign."""
    from matplotlib import style

    settings = {"svg.fonttype": "none", "svg.hashsalt": "rapids-perturb", "text.parse_math": False}
    with style.context(["default", settings]):
        yield


def _score_png(screen: Screen) -> bytes:
    content = BytesIO()
    with _chart_style():
        what = "all genes" if screen.target == "all" else screen.target
        title = f"Which features help to predict {_short(what, 36)}"
        _score_chart(screen, title).savefig(content, format="png", dpi=150)
    return content.getvalue()


def _score_chart(screen: Screen, title: str) -> "Figure":
    """Draw every candidate's score with its interval, the best on top."""
    figure, axes = _one_line_a_set(screen.sets)
    decimals = _decimals(screen.sets)
    for row, one in enumerate(screen.sets):
        is_baseline = one.feature_set == BASELINE
        _point(axes, row, (one.score, one.score_low, one.score_high), GREY if is_baseline else PLAIN)
        axes.text(
            1.01,
            row,
            _number(one.score, decimals),
            transform=axes.get_yaxis_transform(),
            va="center_baseline",
        )
    reference = [one.score for one in screen.sets if one.feature_set == screen.reference]
    if reference and math.isfinite(reference[0]):
        axes.axvline(reference[0], color=WORSE, linestyle="--", linewidth=1.2, gid="reference", zorder=1)
        above = axes.get_xaxis_transform()
        name = f"reference: {_short(screen.reference)}"
        axes.text(
            reference[0], 1.01, name, color=WORSE, transform=above, ha="center", va="bottom", fontsize=9
        )
    axes.set_xlabel(
        f"{screen.metric}, in the target's unit (lower is better);\n"
        f"whiskers: {_percent(screen.level)} bootstrap interval"
    )
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return figure


def _difference_chart(screen: Screen, others: Sequence[ScreenedSet]) -> "Figure":
    """Draw every other candidate's difference from the reference with its interval."""
    figure, axes = _one_line_a_set(others)
    decimals, colours = _decimals(screen.sets), {"better": BETTER, "worse": WORSE, "": UNDECIDED}
    for row, one in enumerate(others):
        colour = colours[_verdict(one, screen.reference)]
        values = one.difference, one.difference_low, one.difference_high
        _point(axes, row, values, colour, hollow=colour == UNDECIDED)
        axes.text(
            1.01,
            row,
            _signed(one.difference, decimals),
            transform=axes.get_yaxis_transform(),
            va="center_baseline",
        )
    axes.axvline(0, color="#222222", linewidth=1.2, gid="zero", zorder=1)
    axes.set_xlabel(
        f"{screen.metric} minus that of {_short(screen.reference)} (below zero is better);\n"
        f"whiskers: {_percent(screen.level)} interval"
    )
    return figure


def _one_line_a_set(sets: Sequence[ScreenedSet]) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 0.34 * len(sets) + 1.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yticks(range(len(sets)), [_short(one.feature_set) for one in sets])
    axes.set_ylim(max(len(sets), 1) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=6)
    axes.grid(axis="x", color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure, axes


def _point(
    axes: "Axes", row: int, values: tuple[float, float, float], colour: str, *, hollow: bool = False
) -> None:
    """Draw a value and its interval (value, low, high); the value need not lie inside."""
    value, low, high = values
    axes.plot(
        [low, high], [row, row], color=colour, linewidth=1.6, marker="|", markersize=8, gid=f"interval-{row}"
    )
    face = "white" if hollow else colour
    axes.plot(
        [value], [row], "o", color=colour, markerfacecolor=face, markersize=7, gid=f"value-{row}", zorder=3
    )


def _gene_map(gene_rmse: GeneRmse, reference: str) -> "Figure":
    """Draw RMSEs relative to the reference set, genes by candidates; white is 1, blue is better."""
    import numpy as np
    from matplotlib.colors import CenteredNorm
    from matplotlib.figure import Figure

    relative = np.asarray(gene_rmse.relative, dtype=np.float64)
    n_genes, n_sets = relative.shape
    off = np.abs(relative[np.isfinite(relative)] - 1)
    reach = max(float(np.quantile(off, 0.98)), 1e-6) if len(off) else 1.0
    figure = Figure(figsize=(6.4, 0.17 * n_genes + 2.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("#d0d4d9")
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(relative),
        cmap="RdBu_r",
        norm=CenteredNorm(1.0, reach),
        edgecolors="white",
        linewidth=0.4,
    )
    axes.invert_yaxis()
    axes.set_yticks(np.arange(n_genes) + 0.5, [_short(gene) for gene in gene_rmse.genes], fontsize=8)
    names = [_short(name) for name in gene_rmse.feature_sets]
    axes.set_xticks(np.arange(n_sets) + 0.5, names, rotation=40, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_ylabel("genes, the lowest mean RMSE on top")
    bar = figure.colorbar(mesh, ax=axes, location="top", aspect=50, shrink=0.8, pad=0.01, extend="both")
    bar.set_label(f"RMSE relative to that with {_short(reference)} (blue, below 1: better)")
    return figure


def _svg(figure: "Figure", name: str, label: str) -> Markup:
    """Return a figure as an `svg` element for a page: no namespaces, no metadata, ids that begin with `name`."""
    content = BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(content.getvalue())
    for metadata in root.findall("{*}metadata"):
        root.remove(metadata)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {
            _local(key): value.replace("url(#", f"url(#{name}-") for key, value in element.attrib.items()
        }
        if "id" in element.attrib:
            element.set("id", f"{name}-{element.attrib['id']}")
        if element.get("href", "").startswith("#"):
            element.set("href", f"#{name}-{element.attrib['href'][1:]}")
    root.set("role", "img")
    root.set("aria-label", label)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _local(name: str) -> str:
    return name.rpartition("}")[2]
