"""Whole flows as a person at a terminal sees them: what is chosen, stages, tables, what was written where."""

import json
from pathlib import Path

import typer
from rich.console import Console

from rapids_pipeline import pipeline
from rapids_pipeline.backend.devices import resolve_device
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.run_folder import MANIFEST, require_writable
from rapids_pipeline.data.demo import write_demo
from rapids_pipeline.data.problem import ProblemFiles
from rapids_pipeline.evaluation.evaluate import evaluate_files
from rapids_pipeline.reports.run import (
    LiveStages,
    evaluation_sentences,
    perturbation_table,
    print_result,
    score_table,
)
from rapids_pipeline.stack.recipe import RunConfig


def run(files: ProblemFiles, out: Path, config: RunConfig, device: str, overwrite: bool) -> None:
    """Run the pipeline on files and print what came of it; errors as `pipeline.run`'s and `resolve_device`'s."""
    chosen = resolve_device(device)
    stages = LiveStages()
    stages.console.print(f"device: {chosen.name} ({chosen.reason})", highlight=False, soft_wrap=True)
    result = pipeline.run(files, out, config, chosen, overwrite=overwrite, stages=stages)
    print_result(Console(), result.document, result.notes)
    typer.echo(
        f"{result.shape['test_rows']} pairs × {result.shape['genes']} genes written: {out}/submission.csv; "
        "beside it oof.parquet, scores.json, manifest.json, model/"
    )


def demo(
    out: Path,
    config: RunConfig,
    device: str,
    *,
    seed: int,
    genes: int | None,
    data_only: bool = False,
    overwrite: bool = False,
) -> None:
    """Simulate a data set in `out`/data and, unless only that is asked for, run the pipeline on it and score the truth.

    Raises
    ------
    InputError
        `out` cannot be written to or holds a run's results, or as `demo.write_demo`.
    """
    resolve_device(device)  # before anything is written
    require_writable(out)
    if (out / MANIFEST).exists() and not overwrite:  # its results must not lose the data they were made from
        raise InputError(f"--out {out}: holds a run's results; choose another folder or add --overwrite")
    stages = LiveStages()
    with stages.stage("simulate"):
        files = write_demo(out / "data", seed, genes)
    if data_only:
        typer.echo(f"written: {files.train}, {files.test}, {files.truth}")
        return
    run(ProblemFiles(files.train, files.test), out, config, device, overwrite)
    evaluate(out / "submission.csv", files.truth, files.train, "X", as_json=False)


def evaluate(
    prediction: Path,
    truth: Path,
    train: Path | None,
    layer: str,
    as_json: bool,
    metadata_columns: tuple[str, ...] = (),
    perturbations: bool = False,
) -> None:
    """Score a prediction file and print the scores, as a table or as JSON; errors as `evaluate_files`'s."""
    evaluation = evaluate_files(
        prediction, truth, train, layer=layer, extra_metadata=metadata_columns, perturbations=perturbations
    )
    if as_json:
        typer.echo(json.dumps(evaluation.to_json(), indent=2))
        return
    console = Console()
    title = f"{prediction} against {truth}: {evaluation.n_rows} pairs × {evaluation.n_genes} genes"
    console.print(f"{title}:", highlight=False, soft_wrap=True)
    console.print(score_table(evaluation.scores))
    if evaluation.perturbation_scores:
        console.print(perturbation_table(evaluation.perturbation_scores))
    for sentence in evaluation_sentences(evaluation):
        console.print(sentence, highlight=False, soft_wrap=True)
