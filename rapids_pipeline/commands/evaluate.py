"""`evaluate`: score a prediction file against the truth, beside the baselines."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from rapids_pipeline.commands import option_groups, options
from rapids_pipeline.data.columns import AS_OURS, TableOptions


@option_groups.with_several
def command(
    prediction: Annotated[Path, typer.Option(help="The prediction file, such as DIR/submission.csv.")],
    truth: Annotated[Path, typer.Option(help="The file with the measured responses of the same pairs.")],
    train: Annotated[
        Path | None,
        typer.Option(
            help="The training file, for the baselines. The one in the prediction's manifest is the default."
        ),
    ] = None,
    id_map: Annotated[
        Path | None,
        typer.Option(
            help="The pairs of the prediction's rows, as id_map.csv: by its ids, or in its order where it has none."
        ),
    ] = None,
    how: TableOptions = AS_OURS,
    perturbations: Annotated[
        bool,
        typer.Option(
            "--perturbations",
            help="Also score how well single perturbations are told apart (docs/guide/evaluation.md).",
        ),
    ] = False,
    replicates: options.ReplicatesOption = "mean",
    as_json: options.JsonOption = False,
) -> None:
    """Score a prediction file against the truth, beside the baselines."""
    from rapids_pipeline.evaluation.evaluate import evaluate_files
    from rapids_pipeline.reports.page import print_found
    from rapids_pipeline.reports.run import evaluation_report

    scored: dict[str, Any] = {"perturbations": perturbations, "replicates": replicates}
    found = evaluate_files(prediction, truth, train, id_map=id_map, options=how, **scored)
    print_found(asdict(found), as_json, *evaluation_report(prediction, truth, found))
