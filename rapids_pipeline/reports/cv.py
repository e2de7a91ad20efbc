"""What a person looks at after a cross-validation: tables, sentences, and the files of the result folder.

cv.html      all of it in one file that needs no network
cv.json      every number, with settings and versions
cv.csv       a row a method
cv.png       MRRMSE of every method with its interval
cv.parquet   predictions of the held-out rows: metadata columns, then genes
"""

import base64
import csv
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.table import Table

from rapids_pipeline.backend.files import written_atomically
from rapids_pipeline.evaluation.metrics import METRICS
from rapids_pipeline.reports.run import bar_chart
from rapids_pipeline.studies.cv import CrossValidation, Method

FILES = ("cv.html", "cv.csv", "cv.json", "cv.png", "cv.parquet")
SHORT = {
    name: "MRRMSE" if name == "mean_rowwise_rmse" else name.removeprefix("mean_rowwise_") for name in METRICS
}


def method_table(found: CrossValidation) -> Table:
    """Return a table with a row a method, narrow enough for a terminal; cv.csv and cv.html have all metrics."""
    table = Table()
    table.add_column("method", no_wrap=True)
    expects = found.pipeline.expected is not None
    for heading in ("MRRMSE", "95 % interval", *(["your pairs"] if expects else []), "pearson"):
        table.add_column(heading, justify="right", no_wrap=True)
    best = min(one.scores["mean_rowwise_rmse"] for one in found.methods)
    for number, one in enumerate(found.methods):
        if one.baseline and not found.methods[number - 1].baseline:
            table.add_section()
        error = one.scores["mean_rowwise_rmse"]
        cells = [f"[bold]{error:.4f}[/bold]" if error == best else f"{error:.4f}", _interval(one)]
        if one.expected is not None:
            cells.append(f"{one.expected.error:.4f}")
        table.add_row(one.name, *cells, f"{one.scores['mean_rowwise_pearson']:.4f}")
    return table


def audit_table(found: CrossValidation) -> Table:
    """Return a table with a row a figure of the audit."""
    table = Table()
    table.add_column("the held-out rows and their training rows")
    table.add_column("held out", justify="right")
    table.add_column("your pairs", justify="right")
    for row in found.audit_rows:
        table.add_row(*row)
    return table


def sentences(found: CrossValidation) -> list[str]:
    """Return in words what the tables say and what a reader must know."""
    pipeline, baseline = found.pipeline, found.best_baseline
    settings = found.settings
    lines = [
        f"split: {found.split}: {found.split_in_words}{f' ({found.reason})' if found.reason else ''}; "
        f"{found.n_rows} rows × {found.n_genes} genes held out, {len(found.by_split)} fits of the whole recipe "
        f"{settings['recipe']}, seed {settings['seed']}"
    ]
    gain = 1 - pipeline.scores["mean_rowwise_rmse"] / baseline.scores["mean_rowwise_rmse"]
    against = f"{baseline.name}, the best baseline"
    lines.append(
        f"the pipeline's MRRMSE is {abs(gain):.1%} {'below' if gain > 0 else 'ABOVE'} that of {against}"
        f" ({_difference(baseline)} for {baseline.name} minus the pipeline)"
    )
    expected = pipeline.expected
    if expected is not None:
        lines.append(
            f"expected on your pairs: MRRMSE {expected.error:.4f} ({expected.low:.4f} to {expected.high:.4f}); as they "
            f"are, the held-out rows give {expected.held_out:.4f}. By the training rows, the pairs' responses are "
            f"{_compared(expected.strength, expected.held_out_strength)} those of the held-out rows "
            f"({expected.strength:.3f} and {expected.held_out_strength:.3f}), and a row's error grows by "
            f"{expected.slope:.2f} a unit"
        )
        if expected.outside > 0.25:
            lines.append(
                f"{expected.outside:.0%} of the pairs are weaker or stronger than every held-out row: the expected "
                "error is extrapolated"
            )
    return [*lines, *found.notes]


def write_cross_validation(
    found: CrossValidation,
    folder: Path,
    obs: pd.DataFrame,
    genes: tuple[str, ...],
    predicted: NDArray[np.float32],
) -> None:
    """Write the files of `FILES`, each whole or not at all; `obs` and `predicted` are the held-out rows'."""
    folder.mkdir(parents=True, exist_ok=True)
    with written_atomically(folder / "cv.parquet") as path:
        table = pd.concat([obs.reset_index(drop=True), pd.DataFrame(predicted, columns=list(genes))], axis=1)
        table.to_parquet(path, index=False)
    with written_atomically(folder / "cv.csv") as path:
        _write_csv(found, path)
    with written_atomically(folder / "cv.json") as path:
        path.write_text(json.dumps(asdict(found), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    picture = _picture(found)
    with written_atomically(folder / "cv.png") as path:
        path.write_bytes(picture)
    with written_atomically(folder / "cv.html") as path:
        path.write_text(_page(found, picture), encoding="utf-8")


def _write_csv(found: CrossValidation, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        expects = ["expected_on_pairs", "expected_low", "expected_high"]
        difference = ["minus_pipeline", "minus_pipeline_low", "minus_pipeline_high"]
        writer.writerow(["method", "baseline", *METRICS, "mrrmse_low", "mrrmse_high", *difference, *expects])
        for one in found.methods:
            row = [one.name, one.baseline, *one.scores.values(), one.low, one.high]
            row += [one.difference, one.difference_low, one.difference_high]
            expected = one.expected
            row += ["", "", ""] if expected is None else [expected.error, expected.low, expected.high]
            writer.writerow(row)


def _picture(found: CrossValidation) -> bytes:
    methods = found.methods
    errors = [one.scores["mean_rowwise_rmse"] for one in methods]
    below = [max(error - one.low, 0.0) for error, one in zip(errors, methods, strict=True)]
    above = [max(one.high - error, 0.0) for error, one in zip(errors, methods, strict=True)]
    expected = found.pipeline.expected
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cv.png"
        bar_chart(
            path,
            [one.name for one in methods],
            errors,
            list(zip(below, above, strict=True)),
            title=f"Cross-validated error, split {found.split}",
            axis="MRRMSE of held-out rows (lower is better); whiskers: 95 % bootstrap interval",
            reference=None if expected is None else expected.error,
            reference_name="pipeline, expected on your pairs",
        )
        return path.read_bytes()


def _page(found: CrossValidation, picture: bytes) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rapids_pipeline.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("cv.html.j2").render(
        found=found,
        sentences=sentences(found),
        metrics=SHORT,
        interval=_interval,
        difference=_difference,
        picture=base64.b64encode(picture).decode(),
        provenance=json.dumps(found.provenance, indent=2, ensure_ascii=False),
    )


def _interval(one: Method) -> str:
    return f"{one.low:.4f} to {one.high:.4f}"


def _difference(one: Method) -> str:
    return f"{one.difference:+.4f}, {one.difference_low:+.4f} to {one.difference_high:+.4f}"


def _compared(ours: float, theirs: float) -> str:
    change = ours / theirs - 1
    if abs(change) < 0.005:
        return "as strong as"
    return f"{abs(change):.0%} {'stronger' if change > 0 else 'weaker'} than"
