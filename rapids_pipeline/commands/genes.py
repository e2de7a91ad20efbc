"""`genes`: which genes a pair is predicted to move, up and down."""

import json
from pathlib import Path
from typing import Annotated

import typer

from rapids_pipeline.commands import options


def command(
    run: Annotated[
        Path, typer.Option(help="The folder of a run, or a Parquet file or folder that predict wrote.")
    ],
    pair: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CELL TYPE,COMPOUND",
            help='A pair, such as "NK cells,Vorinostat"; may be repeated. Default: the pair of the strongest response, '
            "or with --out all pairs.",
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="So many genes of each pair. Default: 50, or with --out all.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A CSV (.csv or .csv.gz) with a row a pair and gene: value, and rank by size."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a file that exists.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """List the genes that pairs are predicted to move most, as a table or as a long CSV."""
    import numpy as np

    from rapids_pipeline.backend.files import refuse_existing
    from rapids_pipeline.predictions.readouts import gene_table, read_responses_of, strongest, write_long
    from rapids_pipeline.reports.page import print_report
    from rapids_pipeline.reports.run import frame_table

    if out is not None:
        refuse_existing(out, overwrite)
    found = read_responses_of(run)
    rows = np.concatenate([found.rows_of(one) for one in pair]) if pair else None
    if out is not None:
        rows = np.arange(len(found.Y)) if rows is None else rows
        write_long(out, found, rows, top)
        print_report(f"{len(rows)} pairs written: {out}")
        return
    rows = strongest(found, 1) if rows is None else rows
    tables = {found.names[row]: gene_table(found, int(row), top or 50) for row in rows}
    if as_json:
        typer.echo(json.dumps({name: table.to_dict("records") for name, table in tables.items()}, indent=2))
        return
    for name, table in tables.items():
        print_report(
            f"{name}: {len(table)} of {len(found.genes)} genes, by the size of the response",
            frame_table(table[["rank", "value", "gene"]]),
        )
