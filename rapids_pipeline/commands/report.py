"""`report`: make the page of a run anew, with what a cross-validation says."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Option(help="The folder of a run.")],
    cv: Annotated[
        Path | None,
        typer.Option(
            help="The folder of a cross-validation (`rapids-perturb cv`) of the same recipe and training file, which "
            "says what error to expect."
        ),
    ] = None,
    prediction: Annotated[
        Path | None,
        typer.Option(
            help="A folder of Parquet parts that predict wrote by the run's model: the page is about these pairs."
        ),
    ] = None,
    pair: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CELL TYPE,COMPOUND",
            help="A pair to show in detail: its genes in order, and the training rows behind it; may be repeated. "
            "Default: the pairs of the strongest responses.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where the page goes. Default: report.html in the run's folder, NAME.report.html beside a prediction."
        ),
    ] = None,
) -> None:
    """Write the page of a run: what to expect, which pairs respond, by which genes, how far to trust it."""
    from rapids_pipeline.backend.files import REPORT, written
    from rapids_pipeline.predictions.parts import named_beside
    from rapids_pipeline.reports.page import print_report
    from rapids_pipeline.reports.predicted import verdict, write_page
    from rapids_pipeline.reports.run_facts import read_run

    facts = read_run(run, cv, prediction, pair or ())
    place = out or (run / REPORT if prediction is None else named_beside(prediction, "report", ".html"))
    with written(place) as path:
        write_page(facts, path)
    print_report(verdict(facts), f"written: {place}")
