"""`pathways`: which gene sets a pair is predicted to move."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from rapids_pipeline.commands import options


def command(
    run: Annotated[
        Path, typer.Option(help="The folder of a run, or a Parquet file or folder that predict wrote.")
    ],
    gmt: Annotated[Path, typer.Option(help="Gene sets: a GMT file, such as those of MSigDB or Reactome.")],
    method: Annotated[
        Literal["ulm", "gsea"],
        typer.Option(
            help="ulm: a linear model for each set. gsea: running sums over the genes in the order of their response, "
            "against random sets; slower."
        ),
    ] = "ulm",
    pair: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CELL TYPE,COMPOUND",
            help="A pair; may be repeated. Default: the pair of the strongest response, or with --out all pairs.",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="So many sets of each pair in the table.")] = 20,
    min_genes: Annotated[
        int, typer.Option(min=2, help="Leave sets out that have fewer of the genes than this.")
    ] = 5,
    out: Annotated[
        Path | None, typer.Option(help="A CSV (.csv or .csv.gz) with a row a pair and set, all of them.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a file that exists.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Score gene sets by the responses of pairs, with adjusted p-values."""
    import numpy as np

    from rapids_pipeline.backend.files import refuse_existing
    from rapids_pipeline.predictions.gene_sets import STRENGTH, pathway_table, read_gmt, usable_sets
    from rapids_pipeline.predictions.readouts import read_responses_of, strongest, write_table
    from rapids_pipeline.reports.page import print_report
    from rapids_pipeline.reports.run import frame_table

    if out is not None:
        refuse_existing(out, overwrite)
    sets, found = read_gmt(gmt), read_responses_of(run)
    rows = np.concatenate([found.rows_of(one) for one in pair]) if pair else None
    sizes, weights, notes = usable_sets(sets, found.genes, min_genes, gmt)
    if rows is None:
        rows = np.arange(len(found.Y)) if out is not None else strongest(found, 1)
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
        typer.echo(json.dumps(told, indent=2))
        return
    for name, one in zip(names, shown, strict=True):
        head = f"{name}: {len(one)} of {len(sizes)} sets, by the size of {STRENGTH[method]}"
        print_report(head, frame_table(one[columns]))
    print_report(*notes)
