"""`run`: train on one file, predict the pairs of another, and leave a run folder."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rapids_pipeline.commands import option_groups, options
from rapids_pipeline.data.columns import AS_OURS, TableOptions

if TYPE_CHECKING:
    from rapids_pipeline.data.problem import ProblemFiles
    from rapids_pipeline.stack.recipe import RunConfig


@option_groups.with_several
def command(
    train: options.TrainOption,
    test: options.TestOption,
    out: options.OutOption,
    molecules: options.MoleculesOption = "auto",
    atlas: options.AtlasOption = None,
    device: options.DeviceOption = "auto",
    recipe: options.RecipeOption = "best",
    quick: options.QuickOption = False,
    objective: options.ObjectiveOption = None,
    folds: options.FoldsOption = None,
    seed: options.SeedOption = 0,
    engine: options.EngineOption = None,
    boosting_engine: options.BoostingEngineOption = None,
    svr_features: options.SvrFeaturesOption = None,
    boosting_features: options.BoostingFeaturesOption = None,
    how: TableOptions = AS_OURS,
    replicates: options.ReplicatesOption = "mean",
    where: option_groups.Where = option_groups.HERE,
    overwrite: options.OverwriteOption = False,
    yes: options.YesOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Train, predict every test pair, and leave a folder of results: submission.csv, report.html, model/ and others."""
    from rapids_pipeline.data.problem import ProblemFiles
    from rapids_pipeline.stack.changes import RecipeChanges, run_config

    changes = RecipeChanges(folds, engine, boosting_engine, svr_features, boosting_features, objective)
    config = run_config("quick" if quick else recipe, changes, molecules, seed)
    files = ProblemFiles(train, test, how, replicates, atlas=atlas)
    run_files(files, out, config, device, overwrite, where, yes, as_json=as_json)


def run_files(
    files: "ProblemFiles",
    out: Path,
    config: "RunConfig",
    device: str,
    overwrite: bool,
    where: option_groups.Where = option_groups.HERE,
    long: bool = True,
    truth: Path | None = None,
    as_json: bool = False,
) -> None:
    """Run the pipeline on files and print what came of it, and of a truth; errors as those of `pipeline.run`."""
    from rapids_pipeline import pipeline
    from rapids_pipeline.backend.files import KEPT
    from rapids_pipeline.evaluation.evaluate import evaluate_files
    from rapids_pipeline.reports.page import LiveStages, print_found
    from rapids_pipeline.reports.predicted import write_run_report
    from rapids_pipeline.reports.run import evaluation_report, run_report

    chosen = options.announced(stages := LiveStages(), device, config)
    with options.resumable(stages, out / KEPT, "fits"), where.executor() as executor:
        how: dict[str, Any] = {"overwrite": overwrite, "stages": stages, "executor": executor}
        result = pipeline.run(files, out, config, chosen, **how, long=long, report=write_run_report)
    if result.made:
        stages.say(f"nothing to do: {out} holds the results of this run since {result.made}")
    if truth is None or not as_json:
        print_found(result.document, as_json, *run_report(result, out))
    if truth is not None:
        scored = evaluate_files(out / "submission.csv", truth, files.train)
        both = {"run": result.document, "evaluation": asdict(scored)}
        print_found(both, as_json, *evaluation_report(out / "submission.csv", truth, scored))
    options.suggest(stages, "the genes that a pair moves most", "genes", "--run", out)
