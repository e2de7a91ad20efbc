"""The command `cv`: cross-validation of a whole recipe."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

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
    names_in,
)
from rapids_pipeline.commands.run_options import RecipeChanges, run_config
from rapids_pipeline.data.columns import DEFAULT_LAYER
from rapids_pipeline.data.problem import ProblemFiles, open_problem
from rapids_pipeline.evaluation.splits import SPLITS
from rapids_pipeline.reports.cv import (
    FILES,
    audit_table,
    method_table,
    sentences,
    write_cross_validation,
)
from rapids_pipeline.reports.run import LiveStages
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
    require_writable(out)
    console = Console()
    with stages.stage("ingest"):
        problem = open_problem(ProblemFiles(train, test, layer, names_in(metadata_columns)), chosen.name)
    try:
        outcome = cross_validate(
            problem.data,
            problem.pairs,
            request,
            config,
            chosen,
            source=problem.source,
            folder=out,
            stages=stages,
        )
    except KeyboardInterrupt:
        stages.console.print(
            f"finished splits are kept in {out}/{FOLDER}; the same command continues", soft_wrap=True
        )
        raise
    outcome.found.provenance["inputs"] = problem.inputs
    write_cross_validation(outcome.found, out, outcome.obs, problem.data.genes, outcome.predicted)
    console.print(audit_table(outcome.found))
    console.print(method_table(outcome.found))
    for sentence in sentences(outcome.found):
        console.print(sentence, highlight=False, soft_wrap=True)
    console.print(f"written: {out}/{', '.join(FILES)}", highlight=False, soft_wrap=True)
