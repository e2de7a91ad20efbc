"""`rank`: which pairs mimic or reverse a signature."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.commands import option_groups

if TYPE_CHECKING:
    from rich.console import RenderableType


@option_groups.with_several
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
    readout: option_groups.Readout = option_groups.TO_TERMINAL,
) -> None:
    """Rank pairs by how their responses match a signature: those that mimic it, and those that reverse it."""
    from features.rows import DOSE, TIME
    from rapids_pipeline.data.columns import PAIR
    from rapids_pipeline.predictions.readouts import measured_responses, of_cell_type, responses_in
    from rapids_pipeline.predictions.signatures import rank_table, read_signature
    from rapids_pipeline.reports.run import frame_table

    source = run if measured is None else measured
    if source is None or None not in (run, measured):
        raise InputError("give either --run, predicted responses, or --measured, a training file")
    wanted = read_signature(signature)
    parts = responses_in(source) if run is not None else [measured_responses(source)]
    table, notes = rank_table(of_cell_type(parts, cell_type, source), wanted, signature)
    if readout.written([table], f"{len(table)} pairs", notes):
        return
    ends = {"mimic": table.head(top), "reverse": table.tail(top).iloc[::-1]}
    columns = [name for name in (*PAIR, DOSE, TIME, "score", "z", "p", "fdr") if name in table]
    shown: list[RenderableType] = []
    for (name, one), sign in zip(ends.items(), (1, -1), strict=True):
        if (sign * one["score"] > 0).any():
            head = f"{len(one)} of {len(table)} pairs that {name} the signature most:"
        else:
            head = f"no pair {name}s the signature; {len(one)} of {len(table)} that come nearest to it:"
        shown += [head, frame_table(one[columns])]
    readout.show({name: one.to_dict("records") for name, one in ends.items()}, shown, notes)
