"""`tune`: find the settings of a member of a recipe that are best on rows like the pairs to predict."""

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
            help="The pairs to predict: each model that they need is tuned on held-out rows like them."
        ),
    ] = None,
    out: options.OutOption = Path("runs/tune"),
    recipe: options.RecipeOption = "best",
    member: Annotated[
        str | None,
        typer.Option(
            help="The member to tune: composite kernels, a booster or a net. Default: the first, in this order."
        ),
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0, max=1e6, help="The time for trials in this session.")
    ] = 10.0,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1_000_000,
            help="End after this many trials, earlier sessions included. Default: when the time is over.",
        ),
    ] = None,
    split: options.SplitOption = "auto",
    seed: options.SeedOption = 0,
    molecules: options.MoleculesOption = "auto",
    device: options.DeviceOption = "auto",
    how: TableOptions = AS_OURS,
    replicates: options.ReplicatesOption = "mean",
    where: option_groups.Where = option_groups.HERE,
    as_json: options.JsonOption = False,
) -> None:
    """Tune a member of a recipe on held-out rows like the pairs to predict; leaves a recipe for run."""
    from rapids_pipeline.backend.locks import locked
    from rapids_pipeline.backend.store import FOLDER
    from rapids_pipeline.data.problem import ProblemFiles
    from rapids_pipeline.reports import tune as report
    from rapids_pipeline.reports.page import LiveStages, print_found
    from rapids_pipeline.stack.changes import RecipeChanges, run_config
    from rapids_pipeline.studies.tune.study import TuneRequest, tune, tuned_member

    config = run_config(recipe, RecipeChanges(), molecules, seed)
    tuned_member(config.recipe, member)  # a mistyped one is refused before any work
    request = TuneRequest(split, seed, minutes, trials, member)
    stages = LiveStages(drawn=report.drawn, logged=report.logged)
    chosen = options.announced(stages, device, config)
    files = ProblemFiles(train, test, how, replicates).for_molecules(config.molecules)
    with locked(out), where.executor() as executor:
        problem = options.ingest(files, chosen.name, stages, config.recipe)
        given = problem.data, problem.pairs, request, config, chosen, out
        named: dict[str, Any] = {"source": problem.source, "table": problem.table}
        again = "the same command continues (with --trials 1 it only reports)"
        with options.resumable(stages, out / FOLDER, "trials", again):
            found, tuned = tune(*given, **named, stages=stages, executor=executor)
        found.provenance.update(problem.recorded)
        report.write_tuning(found, tuned, out)
    written = f"written: {out}/{', '.join(report.FILES)}"
    print_found(asdict(found), as_json, *report.tables(found), *report.sentences(found), written)
    pairs = test or Path("id_map.csv")
    words = options.words_of_run(train, pairs, config, str(out / report.RECIPE), how, replicates)
    options.suggest(stages, "predictions by the tuned recipe", *words, "--out", "runs/tuned")
