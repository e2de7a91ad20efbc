"""`cv`: cross-validate a whole recipe."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from rapids_pipeline.commands import option_groups, options
from rapids_pipeline.data.columns import AS_OURS, TableOptions


@option_groups.with_several
def command(
    train: options.TrainOption,
    test: Annotated[
        Path | None,
        typer.Option(
            help="The pairs to predict. They choose the split that is most like them, and the scores then say what to "
            "expect of them."
        ),
    ] = None,
    out: options.OutOption = Path("runs/cv"),
    split: options.SplitOption = "auto",
    folds: options.SplitFoldsOption = 5,
    repeats: options.RepeatsOption = 1,
    seed: options.SeedOption = 0,
    molecules: options.MoleculesOption = "auto",
    atlas: options.AtlasOption = None,
    device: options.DeviceOption = "auto",
    recipe: options.RecipeOption = "best",
    quick: options.QuickOption = False,
    objective: options.ObjectiveOption = None,
    engine: options.EngineOption = None,
    boosting_engine: options.BoostingEngineOption = None,
    svr_features: options.SvrFeaturesOption = None,
    boosting_features: options.BoostingFeaturesOption = None,
    how: TableOptions = AS_OURS,
    replicates: options.ReplicatesOption = "mean",
    where: option_groups.Where = option_groups.HERE,
    yes: options.YesOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Cross-validate the whole recipe: scores with intervals, baselines beside them, an audit of the split."""
    from rapids_pipeline.backend.locks import locked
    from rapids_pipeline.backend.store import FOLDER
    from rapids_pipeline.data.problem import ProblemFiles
    from rapids_pipeline.reports import cv as report
    from rapids_pipeline.reports.page import LiveStages, print_found
    from rapids_pipeline.stack.changes import RecipeChanges, run_config
    from rapids_pipeline.studies.cv import CvRequest, cross_validate

    changes = RecipeChanges(None, engine, boosting_engine, svr_features, boosting_features, objective)
    config = run_config("quick" if quick else recipe, changes, molecules, seed)
    request = CvRequest(split, folds, repeats, seed)
    stages = LiveStages(drawn=report.logged, logged=report.logged)
    chosen = options.announced(stages, device, config)
    files = ProblemFiles(train, test, how, replicates, atlas=atlas).for_molecules(config.molecules)
    with locked(out), where.executor() as executor:
        problem = options.ingest(files, chosen.name, stages, config.recipe)
        given = problem.data, problem.pairs, request, config, chosen
        named: dict[str, Any] = {"source": problem.source, "table": problem.table, "atlas": problem.atlas}
        with options.resumable(stages, out / FOLDER, "splits"):
            found, predicted = cross_validate(
                *given, **named, long=yes, folder=out, stages=stages, executor=executor
            )
        found.provenance.update(problem.recorded)
        report.write_cross_validation(found, predicted, out)
    tables = report.audit_table(found), report.method_table(found)
    written = f"written: {out}/{', '.join(report.FILES)}"
    print_found(asdict(found), as_json, *tables, *report.sentences(found), written)
    if test is None:
        options.suggest(stages, "settings for your data", "tune", "--train", train, *options.words_of(how))
    else:
        words = options.words_of_run(train, test, config, "quick" if quick else recipe, how, replicates)
        words += [] if atlas is None else ["--atlas", str(atlas)]
        options.suggest(stages, "predictions of the pairs", *words, "--out", "runs/run")
