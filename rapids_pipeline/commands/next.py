"""`next`: which pairs to measure next."""

from pathlib import Path
from typing import Annotated

import typer

from rapids_pipeline.commands import options


def command(
    run: Annotated[
        Path, typer.Option(help="The folder of a run; with --pairs also that of a trained model (DIR/model).")
    ],
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="The pairs of interest, whose predictions should become less uncertain: a file as `predict` takes. "
            "Default: the pairs that the run predicted."
        ),
    ] = None,
    candidates: Annotated[
        Path | None,
        typer.Option(help="The pairs that can be measured: such a file. Default: the pairs of interest."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many pairs to list, as one batch.")] = 20,
    out: options.CsvOption = None,
    overwrite: options.ReplaceOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """List the pairs whose measurement makes the other predictions least uncertain, as a batch."""
    from rapids_pipeline.backend.files import refuse_existing
    from rapids_pipeline.predictions.design import read_design
    from rapids_pipeline.predictions.readouts import write_table
    from rapids_pipeline.reports.page import print_found, print_report
    from rapids_pipeline.reports.run import frame_table

    if out is not None:
        refuse_existing(out, overwrite)
    found = read_design(run, pairs, candidates, top)
    if out is not None:
        write_table(out, [found.table])
        print_report(*found.sentences, f"{len(found.table)} pairs written: {out}")
        return
    told = {"pairs": found.table.to_dict("records"), "others": found.others}
    told |= {"before": found.before, "after": found.after, "notes": found.sentences}
    print_found(told, as_json, frame_table(found.table), *found.sentences)
