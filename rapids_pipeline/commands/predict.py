"""Prediction of new pairs by a saved model: nothing is fitted, on a CPU whatever the model was trained on.

    rapids-perturb predict --model DIR --pairs FILE --out OUT

`rapids_pipeline.predictions.predict.predict_file` is the same in Python.
"""

from pathlib import Path
from typing import Annotated

import typer

from rapids_pipeline.commands import options


def command(
    model: Annotated[Path, typer.Option(help="Folder of a run, or of its trained model (DIR/model).")],
    pairs: Annotated[
        Path,
        typer.Option(
            help="Pairs to predict: cell_type, and sm_name or SMILES (needed for compounds new to the model) or both; "
            "id where rows are not just numbered. .csv, .tsv (also .gz) or .parquet."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="NAME.csv or NAME.csv.gz (the applicability goes to NAME.applicability.csv), or a folder of Parquet "
            "parts, for any number of pairs: a name without a suffix, or in .parquet."
        ),
    ],
    block_rows: Annotated[
        int | None,
        typer.Option(help="Rows predicted at once, and in a Parquet part. Default: as many as take 256 MB."),
    ] = None,
    doses: Annotated[
        str,
        typer.Option(
            help="Predict every pair at each of these doses in micromolar, such as 0.1,1,10; ids get _0.1uM and so on. "
            "Default: the pairs' column dose_uM."
        ),
    ] = "",
    times: Annotated[
        str,
        typer.Option(help="The same for times in hours, such as 6,24. Default: the pairs' column time_h."),
    ] = "",
    column: options.ColumnOption = None,
    columns: options.ColumnsOption = None,
    overwrite: Annotated[
        bool, typer.Option(help="Replace files that exist, or a folder that holds another prediction.")
    ] = False,
) -> None:
    """Predict new pairs by a trained model, on a CPU; nothing is fitted again."""
    from rapids_pipeline.data.columns import chosen_columns
    from rapids_pipeline.predictions.predict import predict_file
    from rapids_pipeline.reports.page import LiveStages

    stages = LiveStages()
    contexts = {"doses": options.numbers_in("--doses", doses), "times": options.numbers_in("--times", times)}
    chosen = chosen_columns(column or (), columns)
    try:
        found = predict_file(
            model,
            pairs,
            out,
            block_rows=block_rows,
            overwrite=overwrite,
            columns=chosen,
            stages=stages,
            **contexts,
        )
    except KeyboardInterrupt as stopped:
        for sentence in stopped.args:
            stages.say(sentence)
        raise
    for note in found.notes:
        stages.say(note)
    typer.echo(f"{found.n_pairs} pairs × {found.n_genes} genes written: {out}; beside it {found.beside.name}")
