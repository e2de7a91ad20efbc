"""`submit`: a file for Kaggle or Open Problems from runs or a saved model, and a check of any such file."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rapids_pipeline.backend.errors import EXIT_BAD_INPUT, InputError, one_line
from rapids_pipeline.commands import options


def command(
    run: Annotated[
        list[Path] | None, typer.Option(help="The folder of a run to submit. Repeat it to combine runs.")
    ] = None,
    combine: Annotated[
        str | None, typer.Option(help="How several runs are combined: median (the default) or mean.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="The folder of a run or of its model; it needs --pairs.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="The pairs for --model: id, cell_type, sm_name, maybe SMILES.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The file to write: .csv, .csv.gz (Kaggle), .parquet or .h5ad (Open Problems)."),
    ] = None,
    id_map: options.IdMapOption = None,
    genes: Annotated[
        Path | None,
        typer.Option(help="The genes in order: a table, an .h5ad, or a text file with one name a line."),
    ] = None,
    float_format: options.FloatFormatOption = None,
    dataset_id: Annotated[
        str | None, typer.Option(help="dataset_id of an .h5ad. Default: that of the .h5ad trained on.")
    ] = None,
    method_id: Annotated[
        str | None, typer.Option(help="method_id of an .h5ad. Default: rapids_perturb.")
    ] = None,
    check: options.CheckOption = None,
    overwrite: options.ReplaceOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Write a checked submission for Kaggle or Open Problems, or check one that exists."""
    from rapids_pipeline.predictions.formats import FormatOptions
    from rapids_pipeline.predictions.submit import Asked, check_submission, write_submission
    from rapids_pipeline.reports.page import LiveStages, print_found

    runs = tuple(run or ())
    if check is not None:
        others = {"--out": out, "--model": model, "--pairs": pairs, "--float-format": float_format}
        others |= {"--dataset-id": dataset_id, "--method-id": method_id, "--combine": combine}
        given = [name for name, value in others.items() if value is not None]
        if given:
            raise InputError(f"--check writes nothing; leave out {', '.join(given)}")
        faults, fine = check_submission(check, runs, id_map, genes)
        for fault in faults:
            typer.echo(f"error: {one_line(f'{check}: {fault}')}", err=True)
        if faults:
            raise typer.Exit(EXIT_BAD_INPUT)
        print_found({"checked": check, "told": fine}, as_json, fine)
        return
    if out is None:
        raise InputError("give --out FILE to write a submission, or --check FILE to check one")
    asked = Asked(runs, combine, model, pairs, id_map, genes)
    how = FormatOptions(float_format, dataset_id, method_id)
    made, scores = write_submission(out, asked, how, overwrite=overwrite)
    for note in made.notes:
        LiveStages().say(note)
    told = [] if scores is None else [scores.text(asked.runs, asked.combination)]
    document = {
        "out": out,
        "rows": len(made.rows.ids),
        "genes": len(made.genes),
        "scores": scores and asdict(scores),
    }
    written = f"{len(made.rows.ids)} rows × {len(made.genes)} genes written: {out}"
    print_found(document, as_json, *told, written)
