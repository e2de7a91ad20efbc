"""`rank`: which pairs mimic or reverse a signature."""

from pathlib import Path
from typing import Annotated

import typer

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.commands import options


def command(
    signature: Annotated[
        str,
        typer.Option(
            metavar="UP.txt,DOWN.txt",
            help="The genes that go up, and those that go down, one a line; or a CSV with the columns gene and value.",
        ),
    ],
    run: Annotated[
        Path | None,
        typer.Option(
            help="The predicted responses: a run folder, or a Parquet file or folder that predict wrote."
        ),
    ] = None,
    measured: Annotated[
        Path | None, typer.Option(help="Measured responses in the place of predicted ones: a training file.")
    ] = None,
    cell_type: Annotated[str | None, typer.Option(help="Only pairs of this cell type.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many pairs to list at either end of the table.")] = 10,
    out: options.CsvOption = None,
    overwrite: options.ReplaceOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Rank pairs by how their responses match a signature: those that mimic it, and those that reverse it."""
    from features.rows import DOSE, TIME
    from rapids_pipeline.backend.files import refuse_existing
    from rapids_pipeline.data.columns import PAIR
    from rapids_pipeline.predictions.readouts import (
        measured_responses,
        of_cell_type,
        responses_in,
        write_table,
    )
    from rapids_pipeline.predictions.signatures import rank_table, read_signature
    from rapids_pipeline.reports.page import print_json, print_report
    from rapids_pipeline.reports.run import frame_table

    source = run if measured is None else measured
    if source is None or None not in (run, measured):
        raise InputError("give either --run, predicted responses, or --measured, a training file")
    if out is not None:
        refuse_existing(out, overwrite)
    wanted = read_signature(signature)
    parts = responses_in(source) if run is not None else [measured_responses(source)]
    table, notes = rank_table(of_cell_type(parts, cell_type, source), wanted, signature)
    if out is not None:
        write_table(out, [table])
        print_report(*notes, f"{len(table)} pairs written: {out}")
        return
    ends = {"mimic": table.head(top), "reverse": table.tail(top).iloc[::-1]}
    if as_json:
        print_json({name: one.to_dict("records") for name, one in ends.items()})
        return
    columns = [name for name in (*PAIR, DOSE, TIME, "score", "z", "p", "fdr") if name in table]
    for name, one in ends.items():
        head = f"{len(one)} of {len(table)} pairs that {name} the signature most:"
        print_report(head, frame_table(one[columns]))
    print_report(*notes)
