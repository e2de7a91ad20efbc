"""`genes`: which genes a pair is predicted to move, up and down."""

from typing import Annotated

import typer

from rapids_pipeline.commands import options


def command(
    run: options.ResponsesOption,
    pair: options.PairOption = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="How many genes of each pair to list. Default: 50, or with --out all."),
    ] = None,
    out: options.CsvOption = None,
    overwrite: options.ReplaceOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """List the genes that pairs are predicted to move most, as a table or as a long CSV."""
    from rapids_pipeline.backend.files import refuse_existing
    from rapids_pipeline.predictions.readouts import gene_table, long_tables, read_responses_of, write_table
    from rapids_pipeline.reports.page import print_json, print_report
    from rapids_pipeline.reports.run import frame_table

    if out is not None:
        refuse_existing(out, overwrite)
    found = read_responses_of(run)
    rows = found.chosen(pair or (), all_pairs=out is not None)
    if out is not None:
        write_table(out, long_tables(found, rows, top))
        print_report(f"{len(rows)} pairs written: {out}")
        return
    tables = {found.names[row]: gene_table(found, int(row), top or 50) for row in rows}
    if as_json:
        print_json({name: table.to_dict("records") for name, table in tables.items()})
        return
    for name, table in tables.items():
        print_report(
            f"{name}: {len(table)} of {len(found.genes)} genes, by the size of the response",
            frame_table(table[["rank", "value", "gene"]]),
        )
