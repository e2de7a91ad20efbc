"""`evaluate`: score a prediction file against the truth, beside the baselines."""

import json
from pathlib import Path
from typing import Annotated

import typer

from rapids_pipeline.commands import options
from rapids_pipeline.data.columns import DEFAULT_LAYER


def command(
    prediction: Annotated[Path, typer.Option(help="The prediction file, such as DIR/submission.csv.")],
    truth: Annotated[Path, typer.Option(help="The file with the measured responses of the same pairs.")],
    train: Annotated[
        Path | None,
        typer.Option(
            help="The training file, for the baselines. The one in the prediction's manifest is the default."
        ),
    ] = None,
    layer: options.LayerOption = DEFAULT_LAYER,
    metadata_columns: options.MetadataOption = "",
    perturbations: Annotated[
        bool,
        typer.Option(
            "--perturbations",
            help="Also score how well single perturbations are told apart (docs/guide/evaluation.md).",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Score a prediction file against the truth, beside the baselines."""
    score_files(prediction, truth, train, layer, as_json, options.names_in(metadata_columns), perturbations)


def score_files(
    prediction: Path,
    truth: Path,
    train: Path | None,
    layer: str = DEFAULT_LAYER,
    as_json: bool = False,
    metadata_columns: tuple[str, ...] = (),
    perturbations: bool = False,
) -> None:
    """Score a prediction file and print the scores, as a table or as JSON; errors as `evaluate_files`'s."""
    from rich.console import Console

    from rapids_pipeline.evaluation.evaluate import evaluate_files
    from rapids_pipeline.reports.run import evaluation_sentences, perturbation_table, score_table

    found = evaluate_files(
        prediction, truth, train, layer=layer, extra_metadata=metadata_columns, perturbations=perturbations
    )
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    console = Console()
    title = f"{prediction} against {truth}: {found.n_rows} pairs × {found.n_genes} genes"
    console.print(f"{title}:", highlight=False, soft_wrap=True)
    console.print(score_table(found.scores))
    if found.perturbation_scores:
        console.print(perturbation_table(found.perturbation_scores))
    for sentence in evaluation_sentences(found):
        console.print(sentence, highlight=False, soft_wrap=True)
