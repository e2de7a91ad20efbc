"""The command `cv`: cross-validation of a whole recipe."""

from pathlib import Path
from typing import Annotated

import typer

from rapids_pipeline.backend.devices import resolve_device
from rapids_pipeline.backend.errors import exits_cleanly
from rapids_pipeline.backend.run_folder import require_writable
from rapids_pipeline.commands.options import (
    BoostingEngineOption,
    BoostingFeaturesOption,
    DeviceOption,
    EngineOption,
    LayerOption,
    MetadataOption,
    MoleculesOption,
    QuickOption,
    RecipeOption,
    SvrFeaturesOption,
    announce,
    names_in,
)
from rapids_pipeline.commands.run_options import RecipeChanges, run_config
from rapids_pipeline.data.columns import DEFAULT_LAYER
from rapids_pipeline.data.problem import ProblemFiles, open_problem
from rapids_pipeline.evaluation.splits import SPLITS
from rapids_pipeline.reports import cv as report
from rapids_pipeline.reports.page import LiveStages, print_report
from rapids_pipeline.studies.cv import AUTO, CvRequest, cross_validate
from rapids_pipeline.studies.store import FOLDER


@exits_cleanly
def command(
    train: Annotated[Path, typer.Option(help="Training file: .parquet, .h5ad, .csv or .tsv.")],
    test: Annotated[
        Path | None,
        typer.Option(
            help="Pairs to predict: chooses the split that is most like them, and says what to expect."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/cv"),
    split: Annotated[
        str, typer.Option(help=f"What is held out: {', '.join(SPLITS)}; or auto, most like --test.")
    ] = AUTO,
    folds: Annotated[int, typer.Option(help="Folds of the split.")] = 5,
    repeats: Annotated[int, typer.Option(help="How often to deal the folds anew.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of folds and boosting.")] = 0,
    molecules: MoleculesOption = "auto",
    device: DeviceOption = "auto",
    recipe: RecipeOption = "best",
    quick: QuickOption = False,
    engine: EngineOption = None,
    boosting_engine: BoostingEngineOption = None,
    svr_features: SvrFeaturesOption = None,
    boosting_features: BoostingFeaturesOption = None,
    layer: LayerOption = DEFAULT_LAYER,
    metadata_columns: MetadataOption = "",
) -> None:
    """Cross-validate the whole recipe: scores with intervals, baselines beside them, an audit of the split."""
    changes = RecipeChanges(None, engine, boosting_engine, svr_features, boosting_features)
    config = run_config("quick" if quick else recipe, changes, molecules, seed)
    request = CvRequest(split, folds, repeats, seed)
    chosen, stages = resolve_device(device), LiveStages()
    announce(stages, chosen, config)
    require_writable(out)
    with stages.stage("ingest"):
        problem = open_problem(ProblemFiles(train, test, layer, names_in(metadata_columns)), chosen.name)
    given = problem.data, problem.pairs, request, config, chosen
    try:
        outcome = cross_validate(*given, source=problem.source, folder=out, stages=stages)
    except KeyboardInterrupt:
        stages.say(f"finished splits are kept in {out}/{FOLDER}; the same command continues")
        raise
    found = outcome.found
    found.provenance["inputs"] = problem.inputs
    report.write_cross_validation(outcome, problem.data.genes, out)
    written = f"written: {out}/{', '.join(report.FILES)}"
    print_report([report.audit_table(found), report.method_table(found)], [*report.sentences(found), written])
