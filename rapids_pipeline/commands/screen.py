"""`screen`: which features help to predict one gene, some genes, or all (`python -m rapids_pipeline.screen`)."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rapids_pipeline.backend.errors import shown
from rapids_pipeline.commands import option_groups, options
from rapids_pipeline.data.columns import AS_OURS, TableOptions


@option_groups.with_several
def command(
    target: Annotated[
        str,
        typer.Option(help="A gene, several (A,B,C), random:N, variable:N (the N most variable), or all."),
    ] = "A1BG",
    train: Annotated[Path | None, typer.Option(help="Training file. Default: the built-in data.")] = None,
    features: Annotated[
        str,
        typer.Option(help="Feature sets or .toml files, separated by commas, or all that need no weights."),
    ] = "all",
    search: Annotated[
        Literal["compare", "forward", "ablation"],
        typer.Option(
            help="compare takes the sets as they are. ablation takes one set without each of its blocks. forward adds "
            "blocks one by one."
        ),
    ] = "compare",
    reference: Annotated[
        str | None,
        typer.Option(help="From which set differences are taken, or mean. Default: onehot, or the first."),
    ] = None,
    model: Annotated[Literal["svr", "ridge", "boosting"], typer.Option(help="What is fitted.")] = "svr",
    split: options.GivenSplitOption = "random",
    test: Annotated[
        Path | None,
        typer.Option(help="The pairs to predict, for --split scarce or made_scarce with --train."),
    ] = None,
    molecules: options.MoleculesOption = "auto",
    folds: options.SplitFoldsOption = 5,
    repeats: options.RepeatsOption = 1,
    seed: options.SeedOption = 0,
    how: TableOptions = AS_OURS,
    replicates: options.ReplicatesOption = "mean",
    where: option_groups.Where = option_groups.HERE,
    out: Annotated[Path | None, typer.Option(help="Result folder. Default: runs/screen-TARGET.")] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Compare feature sets: cross-validated error on one gene or many, with intervals, as a table and a report."""
    from features.molecules.weights import chosen_encoder
    from rapids_pipeline.backend.locks import locked
    from rapids_pipeline.backend.settings import names_in
    from rapids_pipeline.data.problem import ProblemFiles
    from rapids_pipeline.reports import screen as report
    from rapids_pipeline.reports.page import LiveStages, print_found
    from rapids_pipeline.studies.screen.candidates import sets_left_out
    from rapids_pipeline.studies.screen.study import ScreenRequest, screen

    folder = out or options.folder_of("screen", target)
    stages, (encoder, because) = LiveStages(None, report.drawn, report.logged), chosen_encoder(molecules)
    stages.say(f"molecules: {shown(encoder)} ({because})")
    files = ProblemFiles(train, test, how, replicates).for_molecules(encoder)
    names = names_in(features) if features != "all" else ()
    request = ScreenRequest(target, names, search, reference, model, split, folds, repeats, seed, encoder)
    with locked(folder), where.executor() as executor:
        problem = options.ingest(files, "cpu", stages)
        given: dict[str, Any] = {"pairs": problem.pairs, "source": problem.source, "table": problem.table}
        try:
            found = screen(problem.data, request, **given, folder=folder, stages=stages, executor=executor)
        except KeyboardInterrupt:
            stages.say(report.write_finished_sets(stages.latest, folder))
            raise
        report.write_screen(found, folder)
    left_out = [] if names else sets_left_out(encoder, problem.data.obs)
    sentences = *left_out, *report.sentences(found), f"written: {folder}/{', '.join(report.FILES)}"
    print_found(found.document, as_json, report.screen_table(found), *sentences)
    for why, words in report.next_steps(found, features, train, len(problem.data.genes)):
        options.suggest(stages, why, *words, *options.words_of(how))
