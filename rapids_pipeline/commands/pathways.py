"""`pathways`: which gene sets a pair is predicted to move."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rapids_pipeline.commands import option_groups, options

if TYPE_CHECKING:
    from rich.console import RenderableType


@option_groups.with_several
def command(
    run: options.ResponsesOption,
    gmt: Annotated[Path, typer.Option(help="Gene sets: a GMT file, such as those of MSigDB or Reactome.")],
    method: Annotated[
        Literal["ulm", "gsea"],
        typer.Option(
            help="ulm: a linear model for each set. gsea: running sums over the genes in the order of their response, "
            "against random sets; slower."
        ),
    ] = "ulm",
    pair: options.PairOption = None,
    top: Annotated[int, typer.Option(min=1, help="How many sets of each pair to list.")] = 20,
    min_genes: Annotated[
        int, typer.Option(min=2, help="Leave sets out that have fewer of the genes than this.")
    ] = 5,
    readout: option_groups.Readout = option_groups.TO_TERMINAL,
) -> None:
    """Score gene sets by the responses of pairs, with adjusted p-values."""
    from rapids_pipeline.predictions.gene_sets import STRENGTH, abridged, pathway_table, read_gmt, usable_sets
    from rapids_pipeline.predictions.readouts import read_responses_of
    from rapids_pipeline.reports.run import frame_table

    sets, found = read_gmt(gmt), read_responses_of(run)
    rows = found.chosen(pair or (), all_pairs=readout.out is not None)
    sizes, weights, notes = usable_sets(sets, found.genes, min_genes, gmt)
    table = pathway_table(found.take(rows), sizes, weights, method)
    if readout.written([table], f"{len(rows)} pairs × {len(sizes)} sets", notes):
        return
    scores = table[table.columns[table.columns.get_loc("set") :]]
    tables = [scores[start : start + top] for start in range(0, len(table), len(sizes))]
    parts: list[RenderableType] = []
    for row, one in zip(rows, tables, strict=True):
        head = f"{found.names[row]}: {len(one)} of {len(sizes)} sets, by the size of {STRENGTH[method]}"
        parts += [head, frame_table(abridged(one))]
    readout.show({"pairs": found.told(rows, "sets", tables)}, parts, notes)
