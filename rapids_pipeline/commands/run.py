"""`run`: train on one file, predict the pairs of another, and leave a run folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rapids_pipeline.commands import options
from rapids_pipeline.data.columns import AS_OURS, TableOptions

if TYPE_CHECKING:
    from rapids_pipeline.data.problem import ProblemFiles
    from rapids_pipeline.stack.recipe import RunConfig


@options.with_several
def command(
    train: options.TrainOption,
    test: options.TestOption,
    out: options.OutOption,
    molecules: options.MoleculesOption = "auto",
    device: options.DeviceOption = "auto",
    recipe: options.RecipeOption = "best",
    quick: options.QuickOption = False,
    folds: options.FoldsOption = None,
    seed: options.SeedOption = 0,
    engine: options.EngineOption = None,
    boosting_engine: options.BoostingEngineOption = None,
    svr_features: options.SvrFeaturesOption = None,
    boosting_features: options.BoostingFeaturesOption = None,
    how: TableOptions = AS_OURS,
    replicates: options.ReplicatesOption = "mean",
    where: options.Where = options.HERE,
    overwrite: options.OverwriteOption = False,
    yes: options.YesOption = False,
) -> None:
    """Train, predict every test pair, and leave a folder of results: submission.csv, report.html, model/ and others."""
    from rapids_pipeline.data.problem import ProblemFiles

    changes = options.RecipeChanges(folds, engine, boosting_engine, svr_features, boosting_features)
    config = options.run_config("quick" if quick else recipe, changes, molecules, seed)
    files = ProblemFiles(train, test, how, replicates)
    run_files(files, out, config, device, overwrite, where, yes)


def run_files(
    files: "ProblemFiles",
    out: Path,
    config: "RunConfig",
    device: str,
    overwrite: bool,
    where: options.Where = options.HERE,
    long: bool = True,
) -> None:
    """Run the pipeline on files and print what came of it; errors as `pipeline.run`'s and `resolve_device`'s."""
    from rapids_pipeline import pipeline
    from rapids_pipeline.backend.devices import resolve_device
    from rapids_pipeline.backend.files import KEPT
    from rapids_pipeline.reports.page import LiveStages, print_report
    from rapids_pipeline.reports.predicted import write_run_report
    from rapids_pipeline.reports.run import result_sentences, stack_table

    chosen, stages = resolve_device(device), LiveStages()
    options.announce(stages, chosen, config)
    try:
        with where.executor() as executor:
            how: dict[str, Any] = {"overwrite": overwrite, "stages": stages, "executor": executor}
            result = pipeline.run(files, out, config, chosen, **how, long=long, report=write_run_report)
    except (KeyboardInterrupt, SystemExit):
        if (out / KEPT).exists():
            stages.say(f"finished fits are kept in {out}/{KEPT}; the same command goes on from them")
        raise
    if result.made:
        stages.say(f"nothing to do: {out} holds the results of this run since {result.made}")
    heading, table = "MRRMSE on training rows that were held out:", stack_table(result.document)
    print_report(heading, table, *result_sentences(result.document), *result.notes)
    verb = "are in" if result.made else "written:"
    print_report(
        f"{result.shape['test_rows']} pairs × {result.shape['genes']} genes {verb} {out}/submission.csv; beside it "
        "report.html, predictions.parquet, oof.parquet, scores.json, manifest.json, model/"
    )
