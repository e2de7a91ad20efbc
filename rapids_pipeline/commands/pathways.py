"""`pathways`: which gene sets a pair is predicted to move."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from rapids_pipeline.commands import options


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
    out: options.CsvOption = None,
    overwrite: options.ReplaceOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Score gene sets by the responses of pairs, with adjusted p-values."""
    from rapids_pipeline.backend.files import refuse_existing
    from rapids_pipeline.predictions.gene_sets import STRENGTH, pathway_table, read_gmt, usable_sets
    from rapids_pipeline.predictions.readouts import read_responses_of, write_table
    from rapids_pipeline.reports.page import print_json, print_report
    from rapids_pipeline.reports.run import frame_table

    if out is not None:
        refuse_existing(out, overwrite)
    sets, found = read_gmt(gmt), read_responses_of(run)
    rows = found.chosen(pair or (), all_pairs=out is not None)
    sizes, weights, notes = usable_sets(sets, found.genes, min_genes, gmt)
    table = pathway_table(found.take(rows), sizes, weights, method)
    if out is not None:
        write_table(out, [table])
        print_report(*notes, f"{len(rows)} pairs × {len(sizes)} sets written: {out}")
        return
    names = [found.names[row] for row in rows]
    shown = [table[start : start + top] for start in range(0, len(table), len(sizes))]
    columns = list(table.columns[table.columns.get_loc("set") :])
    if as_json:
        told = {name: one[columns].to_dict("records") for name, one in zip(names, shown, strict=True)}
        print_json(told)
        return
    for name, one in zip(names, shown, strict=True):
        head = f"{name}: {len(one)} of {len(sizes)} sets, by the size of {STRENGTH[method]}"
        print_report(head, frame_table(one[columns]))
    print_report(*notes)
