"""`predict`: new pairs by a saved model, on a CPU; in Python `rapids_pipeline.predictions.predict.predict_file`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rapids_pipeline.commands import option_groups, options


@option_groups.with_several
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
    block_rows: options.BlockRowsOption = None,
    doses: options.DosesOption = "",
    times: options.TimesOption = "",
    draw: options.DrawOption = "",
    report: Annotated[bool, typer.Option(help="Write a page about them, NAME.report.html.")] = True,
    column: options.ColumnOption = None,
    columns: options.ColumnsOption = None,
    where: option_groups.Where = option_groups.HERE,
    overwrite: Annotated[
        bool,
        typer.Option(
            help="Replace files that exist, or a folder that holds another prediction. Pages and tables about the old "
            "predictions are removed with them, also by --no-report."
        ),
    ] = False,
) -> None:
    """Predict new pairs by a trained model, on a CPU; nothing is fitted again."""
    from rapids_pipeline.backend.locks import locked_file
    from rapids_pipeline.backend.settings import names_in
    from rapids_pipeline.data.columns import chosen_columns
    from rapids_pipeline.predictions.parts import manifest_beside, named_beside, others_beside
    from rapids_pipeline.predictions.predict import predict_file
    from rapids_pipeline.reports.doses import write_doses
    from rapids_pipeline.reports.page import LiveStages, print_report
    from rapids_pipeline.reports.predicted import write_prediction_report

    stages = LiveStages()
    asked: dict[str, Any] = {"block_rows": block_rows, "overwrite": overwrite}
    asked |= {"doses": options.numbers_in("--doses", doses), "times": options.numbers_in("--times", times)}
    asked |= {"columns": chosen_columns(column or (), columns), "draw": names_in(draw)}
    try:
        beside = [manifest_beside(out), named_beside(out, "applicability"), *others_beside(out, as_csv=True)]
        with locked_file(out, beside) as journal, where.executor() as executor:
            asked |= {"stages": stages, "executor": executor, "journal": journal}
            found = predict_file(model, pairs, out, **asked)
            drawn = [] if found.curves is None else [write_doses(found)]
            pages = [write_prediction_report(found, model, out, stages)] if report else []
    except KeyboardInterrupt as stopped:
        for sentence in stopped.args:
            stages.say(sentence)
        raise
    for note in [*found.notes, *drawn]:
        stages.say(note)
    names = ", ".join(path.name for path in [found.beside, *pages])
    print_report(f"{found.n_pairs} pairs × {found.n_genes} genes written: {out}; beside it {names}")
    if out.is_dir():
        options.suggest(stages, "the genes that a pair moves most", "genes", "--run", out)
    else:
        parts = out.parent / f"{pairs.stem}-predicted"
        words = "predict", "--model", model, "--pairs", pairs, "--out", parts
        options.suggest(stages, "as Parquet, which genes, pathways, rank and report read", *words)
