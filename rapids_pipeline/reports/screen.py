"""The report of a screen: a table and sentences for the terminal, files, and a page with charts.

screen.html  all of it in one file that needs no network
screen.csv   every candidate in a row
screen.json  every number, with settings and versions
screen.png   the score of every candidate with its interval
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.table import Table

from rapids_pipeline.backend.errors import visible
from rapids_pipeline.reports import page
from rapids_pipeline.reports.charts import Mark, interval_chart
from rapids_pipeline.reports.page import (
    BETTER,
    GREY,
    PLAIN,
    UNDECIDED,
    WORSE,
    Page,
    Section,
    Sheet,
    number,
    percent,
    short,
    signed,
)
from rapids_pipeline.studies.screen.results import (
    BASELINE,
    Agreement,
    GeneRmse,
    Screen,
    ScreenedSet,
    Standings,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = ("screen.html", "screen.csv", "screen.json", "screen.png")
MANY = 200
"""Genes to screen after a single one."""
NAME_WIDTH = 20
"""Letters of a name on one line of the terminal table."""
SEARCHES = {
    "compare": "feature sets compared",
    "forward": "forward selection",
    "ablation": "blocks left out in turn",
}


def write_finished_sets(standings: Standings | None, folder: Path) -> str:
    """Write the report of a screen that was stopped, None: before a set was finished; return what to say of it."""
    if standings is None:
        return "no set was finished"
    write_screen(standings.screen(), folder)
    n = len(standings.entries)
    return f"the {n} finished sets: {folder}/screen.html; the same command continues"


def write_screen(screen: Screen, folder: Path) -> None:
    """Leave the files of `FILES` in a folder, each written whole or not at all.

    All are made before the first is written. The same screen gives the same bytes.
    """
    rows, target = [asdict(one) for one in screen.sets], short(_target(screen), 36)
    contents: dict[str, str | bytes] = {
        "screen.csv": page.csv_text(rows, [column.name for column in fields(ScreenedSet)]),
        "screen.json": page.json_text(screen.document),
        "screen.html": page.page_of(_page(screen)),
        "screen.png": page.png(lambda: _score_chart(screen, f"Which features help to predict {target}")),
    }
    page.write_files(folder, contents)


def screen_table(screen: Screen) -> Table:
    """Return a terminal table with one row for each candidate, best first.

    The column "verdict" says "better" or "worse" where the interval of the difference excludes zero.
    """
    title = page.words(f"{screen.metric} of {screen.target}; ref.: {screen.reference}")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    several = len(screen.genes) > 1
    interval = f"{percent(screen.level)} interval"
    headings = ["rank", "feature set", "cols", screen.metric, "minus\nref.", interval, "verdict"]
    for heading in [*headings, *(["genes\nbetter"] if several else []), "seconds"]:
        # Where the terminal is narrow, intervals take several lines; all else stays whole.
        justify: Literal["left", "right"] = "left" if heading in ("feature set", "verdict") else "right"
        table.add_column(page.words(heading), justify=justify, overflow="fold", no_wrap=heading != interval)
    styles = {"better": "bold green", "worse": "red"}
    for row in _rows(screen):
        name, style = visible(row["name"]), styles.get(row["verdict"], "")
        folded = "\n".join(name[k : k + NAME_WIDTH] for k in range(0, len(name), NAME_WIDTH))
        interval = ", ".join(filter(None, (row["low"], row["high"])))
        verdict = "ref." if row["verdict"] == "reference" else row["verdict"]
        cells = map(page.words, (row["rank"], folded, row["columns"], row["score"]))
        judged = (page.words(cell, style) for cell in (row["difference"], interval, verdict))
        table.add_row(*cells, *judged, *(page.words(row[k]) for k in ("improved", "seconds") if k in row))
    return table


def next_steps(
    screen: Screen, features: str, train: Path | None, n_genes: int
) -> list[tuple[str, list[str]]]:
    """Return what is worth doing after a screen, why and as words of a command line: nothing, or one thing.

    After one of the `n_genes` genes many; after many a whole recipe with the best set, where its rows are the user's
    own.
    """
    given, best = ["--train", str(train)] if train else [], screen.sets[0]
    if len(screen.genes) == 1:
        asked = [
            "--search",
            screen.search,
            "--features",
            features,
            "--target",
            "all" if n_genes <= MANY else f"variable:{MANY}",
        ]
        return [("does it hold for many genes?", ["screen", *given, *asked])]
    if train is None or screen.search != "compare" or best.feature_set == BASELINE:
        return []
    words = ["cv", *given, "--recipe", "standard", "--svr-features", best.feature_set]
    return [("a whole recipe with the best set", words)]


def drawn(standings: Standings) -> Table:
    """Return what a terminal shows while the screen runs."""
    return screen_table(standings.screen())


def logged(standings: Standings) -> str:
    """Return the line that a log gets for the candidate that was finished last."""
    last = standings.entries[-1]
    return f"{last.name:<22} {last.losses.score:9.4f} {last.seconds:7.1f} s"


def sentences(screen: Screen) -> list[str]:
    """Return what the numbers say, in words, for the terminal; `Screen.notes` are not among them."""
    trust, decimals = screen.agreement, _decimals(screen)
    steps = [
        f"{step['block']} ({number(step['score'], decimals)}; in {percent(step['share'])} of the folds)"
        for step in screen.selection
    ]
    return [
        *([] if screen.complete else ["interrupted: only the finished candidates are here"]),
        *_findings(screen),
        *([f"selected by all rows, with scores that are too good: {', '.join(steps)}"] if steps else []),
        *([f"may I trust {trust.gene}? {_trust(trust, len(screen.genes))}"] if trust else []),
    ]


# --- words and numbers ------------------------------------------------------------------------------------


def verdict(screen: Screen) -> str:
    """Return the first line of the page: which feature set predicts best, and its score beside the reference's."""
    if not screen.sets:
        return f"No feature set was finished for {_target(screen)}"
    best, *others = _rows(screen)
    told = f"{best['name']} predicts {_target(screen)} best: {screen.metric} {best['score']} ({best['interval']})"
    reference = next((row for row in others if row["verdict"] == "reference"), None)
    return told if reference is None else f"{told}; {reference['name']}: {reference['score']}"


def _findings(screen: Screen) -> list[str]:
    folds = f"{screen.folds} folds" + (f", {screen.repeats} times" if screen.repeats > 1 else "")
    found = [
        f"split: {screen.split_in_words}; {screen.rows:,} rows, {folds}, seed {screen.seed}",
        f"reference: {screen.reference}; differences below zero are better; "
        f"intervals: {percent(screen.level)}, paired bootstrap over folds and rows",
    ]
    if screen.sets:
        best = _rows(screen)[0]
        found.append(f"lowest {screen.metric}: {best['name']} with {best['score']} ({best['interval']})")
    verdicts = [_verdict(one, screen.reference) for one in screen.sets if one.feature_set != screen.reference]
    if verdicts:
        counts = [verdicts.count(verdict) for verdict in ("better", "worse", "")]
        found.append(
            f"of {len(verdicts)} other candidates {counts[0]} are better than {screen.reference}, {counts[1]} worse; "
            f"of {counts[2]} the interval has zero in it"
        )
    return found


def _trust(agreement: Agreement, n_genes: int) -> str:
    """Return the answer to "may I trust this gene?"."""
    parts = ["cannot be said: every set does equally well on it"]
    if math.isfinite(agreement.correlation):
        rho = _rho(agreement.correlation)
        parts = [f"its order of the sets has a rank correlation of {rho} with the panel's"]
    _, low, _, high, _ = agreement.quantiles.values()
    if math.isfinite(low) and math.isfinite(high):
        parts.append(f"the middle half of all genes have {_rho(low)} to {_rho(high)}")
    turned = agreement.n_turned_round
    if not turned:
        return "; ".join([*parts, "no gene turns the order round"])
    named = [f"{gene} {_rho(value)}" for gene, value in agreement.turned_round[:5]]
    the_most = ", ".join([*named, *(["…"] if turned > len(named) else [])])
    verb = "turns" if turned == 1 else "turn"
    return "; ".join(
        [*parts, f"{turned:,} of {n_genes:,} genes {verb} the order round (the most: {the_most})"]
    )


def _verdict(one: ScreenedSet, reference: str) -> str:
    if one.feature_set == reference:
        return "reference"
    if one.difference_high < 0:
        return "better"
    return "worse" if one.difference_low > 0 else ""


def _rows(screen: Screen) -> list[dict[str, str]]:
    """Return the cells of every candidate, as the terminal and the page show them."""
    decimals, rows = _decimals(screen), []
    for one in screen.sets:
        is_reference, improved = one.feature_set == screen.reference, one.genes_improved
        score = [number(x, decimals) for x in (one.score, one.score_low, one.score_high)]
        difference = [signed(x, decimals) for x in (one.difference, one.difference_low, one.difference_high)]
        row = {"name": one.feature_set, "rank": str(one.rank), "columns": f"{one.columns:,}"}
        row |= {"score": score[0], "interval": " to ".join(score[1:])}
        row |= {"difference": "", "low": "", "high": ""}
        row |= {} if is_reference else dict(zip(("difference", "low", "high"), difference, strict=True))
        row["verdict"] = _verdict(one, screen.reference)
        if len(screen.genes) > 1:
            row["improved"] = "" if improved is None or is_reference else percent(improved)
        rows.append(row | {"seconds": number(one.seconds, 1)})
    return rows


def _decimals(screen: Screen) -> int:
    return page.decimals_for(one.score for one in screen.sets)


def _rho(correlation: float) -> str:
    return number(correlation, 2).replace("-", "−")


# --- the page ---------------------------------------------------------------------------------------------


def _page(screen: Screen) -> Page:
    facts = {
        "metric": screen.metric,
        "genes": f"{len(screen.genes):,}",
        "rows": f"{screen.rows:,}",
        "folds": f"{screen.folds}" + (f" × {screen.repeats} repeats" if screen.repeats > 1 else ""),
        "split": screen.split,
        "model": screen.model,
        "molecules": screen.molecules,
    }
    steps = _steps(screen.selection, _decimals(screen))
    notes = Section("notes", "Notes", items=screen.notes) if screen.notes else None
    return Page(
        title=verdict(screen),
        lead=f"feature screen of {_target(screen)}: {SEARCHES[screen.search]}; data: {screen.source}",
        banner="" if screen.complete else "interrupted: only the finished candidates",
        facts=facts,
        sentences=_findings(screen),
        sections=[*_charts(screen), _numbers(screen), _trusted(screen), _genes(screen), steps, notes],
        provenance=screen.provenance,
    )


def _charts(screen: Screen) -> list[Section]:
    """Return the charts of scores and differences; those that have nothing to show are missing."""
    level, reference = percent(screen.level), screen.reference
    others = [one for one in screen.sets if one.feature_set != reference]
    found = []
    if screen.sets:
        label = f"{screen.metric} of {len(screen.sets)} candidates with their intervals; the table has the numbers"
        words = (
            f"Points: {screen.metric} on rows that were held out, in the target's unit, the best on top. Whiskers: "
            f"{level} bootstrap interval. Dashed: the reference. Grey: the mean of the training rows, without "
            "features."
        )
        chart = page.svg(lambda: _score_chart(screen), "scores", label)
        found.append(Section("scores", "Scores", words, chart))
    if any(math.isfinite(one.difference) for one in others):
        label = f"Difference of {len(others)} candidates from {reference}; the table has the numbers"
        words = (
            f"Each candidate's {screen.metric} minus that of the reference, on the same rows. Blue: the {level} "
            "interval lies below zero (better); red: above (worse); hollow: zero is in it."
        )
        chart = page.svg(lambda: _difference_chart(screen, others), "differences", label)
        found.append(Section("differences", f"Differences from {reference}", words, chart))
    return found


def _numbers(screen: Screen) -> Section:
    level, improved = f"{percent(screen.level)} interval", ["genes improved"] * (len(screen.genes) > 1)
    headings = ["feature set", "rank", "columns", screen.metric, level, f"minus {screen.reference}", level]
    rows = []
    for row in _rows(screen):
        low, high = row.pop("low"), row.pop("high")
        between = f"{low} to {high}" if low else ""
        name, rank, columns, score, interval, difference, *others = row.values()
        rows.append([name, rank, columns, score, interval, difference, between, *others])
    notes = [one.description for one in screen.sets]
    sheet = Sheet([*headings, "verdict", *improved, "seconds"], rows, notes, text=["verdict"])
    return Section("table", "All numbers", sheet=sheet)


def _trusted(screen: Screen) -> Section | None:
    agreement = screen.agreement
    if agreement is None:
        return None
    sheet = Sheet(
        ["quantile over all genes", *agreement.quantiles],
        [["rank correlation with the panel", *map(_rho, agreement.quantiles.values())]],
    )
    named = ", ".join(f"{gene} ({_rho(value)})" for gene, value in agreement.turned_round)
    more = agreement.n_turned_round > len(agreement.turned_round)
    some = f", the {len(agreement.turned_round)} lowest of {agreement.n_turned_round:,}" if more else ""
    return Section(
        "trust",
        f"May I trust {agreement.gene}?",
        f"Taken alone: {_trust(agreement, len(screen.genes))}.",
        sheet=sheet,
        remark=f"Genes that turn the order round{some}: {named}" if named else "",
    )


def _genes(screen: Screen) -> Section | None:
    shown = screen.gene_rmse
    if shown is None or not shown.genes:
        return None
    label = f"RMSE of {len(shown.genes)} genes relative to that with {screen.reference}"
    words = (
        f"RMSE of single genes divided by that with {screen.reference}: blue is better than the reference, red worse, "
        "white the same. Columns in the order of their rank."
    )
    chart = page.svg(lambda: _gene_map(shown, screen.reference), "genes", label)
    return Section("genes", "Gene by gene", words, chart)


def _steps(selection: Sequence[dict[str, Any]], decimals: int) -> Section | None:
    """Return the steps of a forward selection; None where nothing was selected."""
    if not selection:
        return None
    headings, rows = ["step", "block", "score", "difference", "share"], []
    for place, step in enumerate(selection, 1):
        numbers = number(step["score"], decimals), signed(step["difference"], decimals)
        rows.append([str(place), step["block"], *numbers, percent(step["share"])])
    remark = (
        "By all rows, so the scores are optimistic. difference: from the step before; share: of the outer folds that "
        "selected the block."
    )
    return Section("steps", "Forward selection", sheet=Sheet(headings, rows), remark=remark)


# --- charts -----------------------------------------------------------------------------------------------


def _target(screen: Screen) -> str:
    return "all genes" if screen.target == "all" else screen.target


def _score_chart(screen: Screen, title: str = "") -> "Figure":
    """Draw every candidate's score with its interval, the best on top."""
    decimals, marks = _decimals(screen), []
    for one in screen.sets:
        colour = GREY if one.feature_set == BASELINE else PLAIN
        values = one.score, one.score_low, one.score_high
        marks.append(Mark(one.feature_set, *values, number(one.score, decimals), colour))
    reference = [one.score for one in screen.sets if one.feature_set == screen.reference]
    line = (reference[0], f"reference: {short(screen.reference)}", "reference") if reference else None
    axis = f"{screen.metric}, in the target's unit (lower is better)"
    axis = f"{axis};\nwhiskers: {percent(screen.level)} bootstrap interval"
    return interval_chart(marks, axis, line, title)


def _difference_chart(screen: Screen, others: Sequence[ScreenedSet]) -> "Figure":
    """Draw every other candidate's difference from the reference with its interval."""
    decimals, colours = _decimals(screen), {"better": BETTER, "worse": WORSE, "": UNDECIDED}
    marks = []
    for one in others:
        colour = colours[_verdict(one, screen.reference)]
        values = one.difference, one.difference_low, one.difference_high
        text = signed(one.difference, decimals)
        marks.append(Mark(one.feature_set, *values, text, colour, hollow=colour == UNDECIDED))
    axis = (
        f"{screen.metric} minus that of {short(screen.reference)} (below zero is better);\n"
        f"whiskers: {percent(screen.level)} interval"
    )
    return interval_chart(marks, axis, (0.0, "", "zero"))


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
    cells: dict[str, Any] = {"edgecolors": "white", "linewidth": 0.4}
    shown, norm = np.ma.masked_invalid(relative), CenteredNorm(1.0, reach)
    mesh = axes.pcolormesh(shown, cmap="RdBu_r", norm=norm, **cells)
    axes.invert_yaxis()
    axes.set_yticks(np.arange(n_genes) + 0.5, [short(gene) for gene in gene_rmse.genes], fontsize=8)
    names = [short(name) for name in gene_rmse.feature_sets]
    axes.set_xticks(np.arange(n_sets) + 0.5, names, rotation=40, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_ylabel("genes, the lowest mean RMSE on top")
    bar = figure.colorbar(mesh, ax=axes, location="top", aspect=50, shrink=0.8, pad=0.01, extend="both")
    bar.set_label(f"RMSE relative to that with {short(reference)} (blue, below 1: better)")
    return figure
