"""`genes`: which genes a pair is predicted to move, up and down."""

from typing import TYPE_CHECKING, Annotated

import typer

from rapids_pipeline.commands import option_groups, options

if TYPE_CHECKING:
    from rich.console import RenderableType


@option_groups.with_several
def command(
    run: options.ResponsesOption,
    pair: options.PairOption = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="How many genes of each pair to list. Default: 50, or with --out all."),
    ] = None,
    readout: option_groups.Readout = option_groups.TO_TERMINAL,
) -> None:
    """List the genes that pairs are predicted to move most, as a table or as a long CSV."""
    from rapids_pipeline.predictions.readouts import gene_table, long_tables, read_responses_of
    from rapids_pipeline.reports.run import frame_table

    found = read_responses_of(run)
    rows = found.chosen(pair or (), all_pairs=readout.out is not None)
    if readout.written(long_tables(found, rows, top), f"{len(rows)} pairs"):
        return
    tables = [gene_table(found, int(row), top or 50)[["rank", "value", "gene"]] for row in rows]
    parts: list[RenderableType] = []
    for row, table in zip(rows, tables, strict=True):
        head = f"{found.names[row]}: {len(table)} of {len(found.genes)} genes, by the size of the response"
        parts += [head, frame_table(table)]
    readout.show({"pairs": found.told(rows, "genes", tables)}, parts)
