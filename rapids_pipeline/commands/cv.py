"""`cv`: cross-validate a whole recipe."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rapids_pipeline.commands import options
from rapids_pipeline.data.columns import AS_OURS, TableOptions


@options.with_several
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
    device: options.DeviceOption = "auto",
    recipe: options.RecipeOption = "best",
    quick: options.QuickOption = False,
    engine: options.EngineOption = None,
    boosting_engine: options.BoostingEngineOption = None,
    svr_features: options.SvrFeaturesOption = None,
    boosting_features: options.BoostingFeaturesOption = None,
    how: TableOptions = AS_OURS,
    replicates: options.ReplicatesOption = "mean",
    where: options.Where = options.HERE,
    yes: options.YesOption = False,
) -> None:
    """Cross-validate the whole recipe: scores with intervals, baselines beside them, an audit of the split."""
    from rapids_pipeline.backend.devices import resolve_device
    from rapids_pipeline.backend.locks import locked
    from rapids_pipeline.backend.store import FOLDER
    from rapids_pipeline.data.problem import ProblemFiles
    from rapids_pipeline.reports import cv as report
    from rapids_pipeline.reports.page import LiveStages, print_report
    from rapids_pipeline.studies.cv import CvRequest, cross_validate

    changes = options.RecipeChanges(None, engine, boosting_engine, svr_features, boosting_features)
    config = options.run_config("quick" if quick else recipe, changes, molecules, seed)
    request = CvRequest(split, folds, repeats, seed)
    chosen, stages = resolve_device(device), LiveStages()
    options.announce(stages, chosen, config)
    files = ProblemFiles(train, test, how, replicates).for_molecules(config.molecules)
    with locked(out), where.executor() as executor:
        problem = options.ingest(files, chosen.name, stages)
        given = problem.data, problem.pairs, request, config, chosen
        named: dict[str, Any] = {"source": problem.source, "table": problem.table, "long": yes}
        try:
            found, predicted = cross_validate(*given, **named, folder=out, stages=stages, executor=executor)
        except KeyboardInterrupt:
            stages.say(f"finished splits are kept in {out}/{FOLDER}; the same command continues")
            raise
        found.provenance.update(problem.recorded)
        report.write_cross_validation(found, predicted, out)
    written = f"written: {out}/{', '.join(report.FILES)}"
    print_report(report.audit_table(found), report.method_table(found), *report.sentences(found), written)
