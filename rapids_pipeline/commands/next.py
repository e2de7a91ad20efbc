"""`next`: which pairs to measure next."""

from pathlib import Path
from typing import Annotated

import typer

from rapids_pipeline.commands import option_groups


@option_groups.with_several
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
    readout: option_groups.Readout = option_groups.TO_TERMINAL,
) -> None:
    """List the pairs whose measurement makes the other predictions least uncertain, as a batch."""
    from rapids_pipeline.predictions.design import read_design
    from rapids_pipeline.reports.run import frame_table

    found = read_design(run, pairs, candidates, top)
    if readout.written([found.table], f"{len(found.table)} pairs", found.sentences):
        return
    told = {"pairs": found.table.to_dict("records"), "others": found.others}
    told |= {"before": found.before, "after": found.after}
    readout.show(told, [frame_table(found.table)], found.sentences)
