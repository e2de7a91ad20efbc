"""The report of a cross-validation: tables, sentences, and the files of the result folder.

cv.html      all of it in one file that needs no network
cv.json      every number, with settings and versions
cv.csv       every method in a row
cv.png       MRRMSE of every method with its interval
cv.parquet   predictions of the held-out rows: metadata columns, then genes
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.table import Column, Table
from rich.text import Text

from rapids_pipeline.backend.files import written
from rapids_pipeline.evaluation.baseline_names import called
from rapids_pipeline.evaluation.baselines import ALL_BASELINES, CONTEXT_BASELINES
from rapids_pipeline.evaluation.metrics import METRICS
from rapids_pipeline.reports import page
from rapids_pipeline.reports.charts import Mark, interval_chart
from rapids_pipeline.reports.page import GREY, PLAIN, Page, Section, Sheet, number, percent, signed
from rapids_pipeline.stack.recipe import PIPELINE
from rapids_pipeline.studies.cv import CrossValidation, HeldOut, Method

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = ("cv.html", "cv.csv", "cv.json", "cv.png", "cv.parquet")


def method_table(found: CrossValidation) -> Table:
    """Return a table of the methods, narrow enough for a terminal; cv.csv and cv.html have all metrics."""
    expects = ["your pairs"] if found.pipeline.expected else []
    headings = "MRRMSE", "95 % interval", *expects, "pearson"
    numbers = (Column(heading, justify="right", no_wrap=True) for heading in headings)
    table = Table(Column("method", no_wrap=True), *numbers)
    best = min(one.error for one in found.methods)
    for place, one in enumerate(found.methods):
        if one.baseline and not found.methods[place - 1].baseline:
            table.add_section()
        error = number(one.error)
        cells = [Text(error, "bold" if one.error == best else ""), Text(_interval(one))]
        cells += [] if one.expected is None else [Text(number(one.expected.error))]
        table.add_row(called(one.name), *cells, number(one.scores["mean_rowwise_pearson"]))
    return table


def audit_table(found: CrossValidation) -> Table:
    """Return a table of the audit's figures."""
    shares = (Column(heading, justify="right") for heading in ("held out", "your pairs"))
    table = Table("the held-out rows and their training rows", *shares)
    for row in found.audit_rows:
        table.add_row(*row)
    return table


def expectation(document: Mapping[str, Any], *, of_pairs: bool) -> str:
    """Return the error to expect in a line, beside that of the best simple method; `document` is that of cv.json.

    With `of_pairs` it is that of the pairs to predict, where the cross-validation knew them; else of held-out rows.
    """

    def told(method: Mapping[str, Any]) -> dict[str, Any]:
        expected = method["expected"] if of_pairs else None
        return expected or {
            "error": method["scores"]["mean_rowwise_rmse"],
            "low": method["low"],
            "high": method["high"],
        }

    ours, *others = (one for one in document["methods"] if one["name"] == PIPELINE or one["baseline"])
    simple = min(others, key=lambda one: told(one)["error"])
    error, low, high = (number(told(ours)[name]) for name in ("error", "low", "high"))
    where = "on your pairs" if of_pairs and ours["expected"] else f"by the split {document['split']}"
    named = called(simple["name"])
    return f"Expect MRRMSE {error} ({low} to {high}) {where}; {named}: {number(told(simple)['error'])}"


def logged(found: tuple[str, HeldOut]) -> str:
    """Return the line that a log gets for a split: its error beside that of the best baseline."""
    name, split = found
    errors = {method: float(scores[0].mean()) for method, scores in split.scores.items()}
    baselines = {**ALL_BASELINES, **CONTEXT_BASELINES}
    best = min((method for method in errors if method in baselines), key=errors.__getitem__)
    return f"{name:<12} MRRMSE {number(errors[PIPELINE])}; {called(best)} {number(errors[best])}"


def sentences(found: CrossValidation) -> list[str]:
    """Return in words what the tables say and what a reader must know."""
    pipeline, baseline = found.pipeline, found.best_baseline
    settings = found.settings
    lines = [
        f"split: {found.split}: {found.split_in_words}{f' ({found.reason})' if found.reason else ''}; "
        f"{found.n_rows} rows × {found.n_genes} genes held out, {len(found.by_split)} fits of the whole recipe "
        f"{settings['recipe']}, seed {settings['seed']}"
    ]
    gain, named = 1 - pipeline.error / baseline.error, called(baseline.name)
    lines.append(
        f"the pipeline's MRRMSE is {percent(abs(gain))} {'below' if gain > 0 else 'ABOVE'} that of {named}, the best "
        f"baseline ({_difference(baseline)} for {named} minus the pipeline)"
    )
    expected = pipeline.expected
    if expected is not None:
        strength, held_out = expected.strength, expected.held_out_strength
        lines.append(
            f"expected on your pairs: MRRMSE {number(expected.error)} ({number(expected.low)} to "
            f"{number(expected.high)}); as they are, the held-out rows give {number(expected.held_out)}. By the "
            f"training rows, the pairs' responses are {_compared(strength, held_out)} those of the held-out rows "
            f"({number(strength, 3)} and {number(held_out, 3)}), and a row's error grows by "
            f"{number(expected.slope, 2)} a unit"
        )
        if expected.outside > 0.25:
            lines.append(
                f"{percent(expected.outside)} of the pairs are weaker or stronger than every held-out row: the "
                "expected error is extrapolated"
            )
    return [*lines, *found.notes]


def write_cross_validation(found: CrossValidation, predicted: pd.DataFrame, folder: Path) -> None:
    """Write the files of `FILES`, each whole or not at all."""
    contents: dict[str, str | bytes] = {
        "cv.csv": page.csv_text([_csv_row(one) for one in found.methods]),
        "cv.json": page.json_text(asdict(found)),
        "cv.png": page.png(lambda: _chart(found, f"Cross-validated error, split {found.split}")),
        "cv.html": page.page_of(_page(found)),
    }
    with written(folder / "cv.parquet") as path:
        predicted.to_parquet(path, index=False)
    page.write_files(folder, contents)


def _csv_row(one: Method) -> dict[str, Any]:
    expected = one.expected
    bounds = {"mrrmse_low": one.low, "mrrmse_high": one.high, "minus_pipeline": one.difference}
    bounds |= {"minus_pipeline_low": one.difference_low, "minus_pipeline_high": one.difference_high}
    pairs = (None, None, None) if expected is None else (expected.error, expected.low, expected.high)
    names = "expected_on_pairs", "expected_low", "expected_high"
    named = {"method": one.name, "baseline": one.baseline}
    return named | one.scores | bounds | dict(zip(names, pairs, strict=True))


def _chart(found: CrossValidation, title: str = "") -> "Figure":
    """Draw the MRRMSE of every method with its interval, the lowest on top."""
    marks = [
        Mark(
            called(one.name), one.error, one.low, one.high, number(one.error), GREY if one.baseline else PLAIN
        )
        for one in sorted(found.methods, key=lambda one: one.error)
    ]
    expected = found.pipeline.expected
    line = None if expected is None else (expected.error, "pipeline, expected on your pairs", "expected")
    axis = "MRRMSE of held-out rows (lower is better);\nwhiskers: 95 % bootstrap interval; grey: baselines"
    return interval_chart(marks, axis, line, title)


def _page(found: CrossValidation) -> Page:
    chart = page.svg(lambda: _chart(found), "chart", "MRRMSE of every method with its interval")
    words = (
        "Means over the rows that were held out; each row is predicted by models that never saw its response. Lower is "
        "better for MRRMSE and mae, higher for the others."
    )
    audited = (
        "What held-out rows share with the rows they are predicted from, and your pairs with all training rows. A "
        "split that shares more than your pairs do is easier than your task."
    )
    splits = [
        [
            *(row["split"], str(row["repeat"]), str(row["trained_on"]), str(row["held_out"])),
            number(row["pipeline"]),
            f"{number(row['best_baseline_score'])} ({called(row['best_baseline'])})",
        ]
        for row in found.by_split
    ]
    headings = ["held out", "repeat", "trained on", "rows held out", "pipeline", "best baseline"]
    audit = Sheet(["", "held out", "your pairs"], found.audit_rows)
    return Page(
        title=expectation(asdict(found), of_pairs=True),
        lead=f"cross-validation, split {found.split}: {found.split_in_words}; data: {found.settings['source']}",
        sentences=sentences(found),
        sections=[
            Section("scores", "Scores", words, chart, _scores(found)),
            Section("audit", "Audit", audited, sheet=audit) if found.audit_rows else None,
            Section("splits", "Splits", sheet=Sheet(headings, splits)),
        ],
        provenance=found.provenance,
    )


def _scores(found: CrossValidation) -> Sheet:
    """Return the table of all metrics, the pipeline first."""
    others = [name for name in METRICS if name != "mean_rowwise_rmse"]
    expects = ["expected on your pairs"] if found.pipeline.expected else []
    headings = ["method", "MRRMSE", "95 % interval", "minus the pipeline, 95 % interval", *expects]
    rows = []
    for place, one in enumerate(found.methods):
        cells = [called(one.name), number(one.error), _interval(one), _difference(one) if place else ""]
        cells += [number(one.expected.error)] if one.expected else []
        rows.append([*cells, *(number(one.scores[name]) for name in others)])
    return Sheet([*headings, *(name.removeprefix("mean_rowwise_") for name in others)], rows, bold=[0])


def _interval(one: Method) -> str:
    return f"{number(one.low)} to {number(one.high)}"


def _difference(one: Method) -> str:
    return f"{signed(one.difference)}, {signed(one.difference_low)} to {signed(one.difference_high)}"


def _compared(ours: float, theirs: float) -> str:
    change = ours / theirs - 1
    if abs(change) < 0.005:
        return "as strong as"
    return f"{percent(abs(change))} {'stronger' if change > 0 else 'weaker'} than"
