"""`run`: train on one file, predict the pairs of another, and leave a run folder."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from rapids_pipeline.commands.options import (
    BoostingEngineOption,
    BoostingFeaturesOption,
    DeviceOption,
    EngineOption,
    FoldsOption,
    LayerOption,
    MetadataOption,
    MoleculesOption,
    OutOption,
    OverwriteOption,
    QuickOption,
    RecipeOption,
    SeedOption,
    SvrFeaturesOption,
    TestOption,
    TrainOption,
    announce,
    names_in,
)
from rapids_pipeline.data.columns import DEFAULT_LAYER

if TYPE_CHECKING:
    from rapids_pipeline.data.problem import ProblemFiles
    from rapids_pipeline.stack.recipe import RunConfig


def command(
    train: TrainOption,
    test: TestOption,
    out: OutOption,
    molecules: MoleculesOption = "auto",
    device: DeviceOption = "auto",
    recipe: RecipeOption = "best",
    quick: QuickOption = False,
    folds: FoldsOption = None,
    seed: SeedOption = 0,
    engine: EngineOption = None,
    boosting_engine: BoostingEngineOption = None,
    svr_features: SvrFeaturesOption = None,
    boosting_features: BoostingFeaturesOption = None,
    layer: LayerOption = DEFAULT_LAYER,
    metadata_columns: MetadataOption = "",
    overwrite: OverwriteOption = False,
) -> None:
    """Train, predict every test pair, and leave submission.csv, oof.parquet, scores.json, manifest.json and model/."""
    from rapids_pipeline.commands.run_options import RecipeChanges, run_config
    from rapids_pipeline.data.problem import ProblemFiles

    changes = RecipeChanges(folds, engine, boosting_engine, svr_features, boosting_features)
    config = run_config("quick" if quick else recipe, changes, molecules, seed)
    run_files(ProblemFiles(train, test, layer, names_in(metadata_columns)), out, config, device, overwrite)


def run_files(files: "ProblemFiles", out: Path, config: "RunConfig", device: str, overwrite: bool) -> None:
    """Run the pipeline on files and print what came of it; errors as `pipeline.run`'s and `resolve_device`'s."""
    from rich.console import Console

    from rapids_pipeline import pipeline
    from rapids_pipeline.backend.devices import resolve_device
    from rapids_pipeline.reports.page import LiveStages
    from rapids_pipeline.reports.run import print_result

    chosen, stages = resolve_device(device), LiveStages()
    announce(stages, chosen, config)
    result = pipeline.run(files, out, config, chosen, overwrite=overwrite, stages=stages)
    print_result(Console(), result.document, result.notes)
    typer.echo(
        f"{result.shape['test_rows']} pairs × {result.shape['genes']} genes written: {out}/submission.csv; "
        "beside it oof.parquet, scores.json, manifest.json, model/"
    )
