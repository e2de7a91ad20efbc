"""Batch submission: a file for Kaggle or Open Problems from runs or a saved model, and a check of any such file.

    rapids-perturb submit --run runs/mine --out submission.h5ad
    rapids-perturb submit --run runs/seed-0 --run runs/seed-1 --run runs/seed-2 --out submission.csv
    rapids-perturb submit --check submission.csv --id-map id_map.csv --genes de_train.parquet

`rapids_pipeline.predictions.submit` is the same in Python.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rapids_pipeline.backend.errors import EXIT_BAD_INPUT, InputError


def command(
    run: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of a run, whose predictions to submit. Repeat it to combine runs."),
    ] = None,
    combine: Annotated[
        str | None,
        typer.Option(help="How to combine the values of several runs: median (default) or mean."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Folder of a run, or of its trained model (DIR/model); needs --pairs."),
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="Pairs for --model: id, cell_type, sm_name and maybe SMILES.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write: .csv or .csv.gz (Kaggle), .parquet, or .h5ad (an Open Problems prediction)."
        ),
    ] = None,
    id_map: Annotated[
        Path | None,
        typer.Option(
            help="Table with the ids of the submission in order. Default: the run's test file, or --pairs."
        ),
    ] = None,
    genes: Annotated[
        Path | None,
        typer.Option(
            help="The genes of the submission in order: a text file, one name a line, or a table or .h5ad with them. "
            "Default: all predicted."
        ),
    ] = None,
    float_format: Annotated[
        str | None,
        typer.Option(
            help="Digits of a CSV: 6 (significant digits), or a format such as %.4f. Default: the shortest that read "
            "back as the same float32."
        ),
    ] = None,
    dataset_id: Annotated[
        str | None,
        typer.Option(
            help="dataset_id of an .h5ad. Default: that of the run's .h5ad training file, else neurips-2023-data."
        ),
    ] = None,
    method_id: Annotated[
        str | None, typer.Option(help="method_id of an .h5ad. Default: rapids_perturb.")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            help="Write nothing, but check this submission file against --id-map and --genes (or those of --run)."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
) -> None:
    """Write a checked submission for Kaggle or Open Problems, or check one that exists."""
    from rapids_pipeline.predictions.formats import Labels
    from rapids_pipeline.predictions.submit import Asked, check_submission, write_submission

    runs = tuple(run or ())
    if check is not None:
        others = {"--out": out, "--model": model, "--pairs": pairs, "--float-format": float_format}
        others |= {"--dataset-id": dataset_id, "--method-id": method_id, "--combine": combine}
        _refuse_options("--check", others)
        _report(check, *check_submission(check, runs, id_map, genes))
        return
    if out is None:
        raise InputError("give --out FILE to write a submission, or --check FILE to check one")
    asked = Asked(runs, combine, model, pairs, id_map, genes)
    labels = Labels(float_format, dataset_id, method_id)
    made, scores = write_submission(out, asked, labels, overwrite=overwrite)
    for note in made.notes:
        typer.echo(note, err=True)
    if scores is not None:
        typer.echo(scores.text(asked.runs, asked.combination))
    typer.echo(f"{len(made.rows.ids)} rows × {len(made.genes)} genes written: {out}")


def _report(path: Path, faults: Sequence[str], fine: str) -> None:
    for fault in faults:
        typer.echo(f"error: {path}: {fault}", err=True)
    if faults:
        raise typer.Exit(EXIT_BAD_INPUT)
    typer.echo(fine)


def _refuse_options(option: str, others: dict[str, Any]) -> None:
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise InputError(f"{option} writes nothing; leave out {', '.join(given)}")
