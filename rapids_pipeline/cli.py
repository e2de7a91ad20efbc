"""The command line: `rapids-perturb SUBCOMMAND`, the same program as `python -m rapids_pipeline`.

Exit codes: 0 done, 2 bad input or usage (one message on stderr), 3 something asked for is not available here,
130 interrupted.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rapids_pipeline import __version__
from rapids_pipeline.backend.errors import InputError, exits_cleanly
from rapids_pipeline.command_options import (
    BoostingEngineOption,
    BoostingFeaturesOption,
    DeviceOption,
    EngineOption,
    LayerOption,
    MetadataOption,
    MoleculesOption,
    OverwriteOption,
    QuickOption,
    RecipeOption,
    SvrFeaturesOption,
    names_in,
)
from rapids_pipeline.doctor import command as doctor_command
from rapids_pipeline.predict import command as predict_command
from rapids_pipeline.run_inputs import DEFAULT_LAYER, RunInputs

if TYPE_CHECKING:
    from rapids_pipeline.config import RunConfig

app = typer.Typer(
    name="rapids-perturb",
    help="Predict how a small molecule changes the expression of every gene in a cell type.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def version(show: bool) -> None:
    """Print the version and end."""
    if show:
        typer.echo(f"rapids-perturb {__version__}")
        raise typer.Exit


@app.callback()
def program(
    _version: Annotated[bool, typer.Option("--version", callback=version, is_eager=True)] = False,
) -> None:
    """Predict how a small molecule changes the expression of every gene in a cell type."""


@app.command()
@exits_cleanly
def run(
    train: Annotated[Path, typer.Option(help="Training file: .parquet, .h5ad, .csv or .tsv.")],
    test: Annotated[Path, typer.Option(help="Pairs to predict: id, cell_type, sm_name and maybe SMILES.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    molecules: MoleculesOption = "chemberta",
    device: DeviceOption = "auto",
    recipe: RecipeOption = "standard",
    quick: QuickOption = False,
    folds: Annotated[int | None, typer.Option(help="Outer folds, 3 to 20. Default: the recipe's.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of folds and boosting.")] = 0,
    engine: EngineOption = None,
    boosting_engine: BoostingEngineOption = None,
    svr_features: SvrFeaturesOption = None,
    boosting_features: BoostingFeaturesOption = None,
    layer: LayerOption = DEFAULT_LAYER,
    metadata_columns: MetadataOption = "",
    overwrite: OverwriteOption = False,
) -> None:
    """Train, predict every test pair, and leave submission.csv, oof.parquet, scores.json, manifest.json and model/."""
    from rapids_pipeline.run_options import RecipeChanges, run_config

    extra = names_in(metadata_columns)
    changes = RecipeChanges(folds, engine, boosting_engine, svr_features, boosting_features)
    config = run_config(_recipe_named(recipe, quick), changes, molecules, seed)
    _run(RunInputs(train, test, layer, extra), out, config, device, overwrite)


app.command("predict")(predict_command)
app.command("doctor")(doctor_command)


@app.command()
@exits_cleanly
def evaluate(
    prediction: Annotated[Path, typer.Option(help="Prediction file, such as DIR/submission.csv.")],
    truth: Annotated[Path, typer.Option(help="File with the measured responses of the same pairs.")],
    train: Annotated[
        Path | None,
        typer.Option(help="Training file for the baselines; default: the one in the prediction's manifest."),
    ] = None,
    layer: LayerOption = DEFAULT_LAYER,
    metadata_columns: MetadataOption = "",
    perturbations: Annotated[
        bool,
        typer.Option(
            "--perturbations",
            help="Also score how well single perturbations are told apart (docs/evaluation.md).",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Score a prediction file against the truth, beside the baselines."""
    _evaluate(prediction, truth, train, layer, as_json, names_in(metadata_columns), perturbations)


@app.command()
@exits_cleanly
def features(
    name: Annotated[
        str | None, typer.Argument(help="A feature set or a .toml file; default: list all.")
    ] = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print the set as TOML, to copy and change.")] = False,
) -> None:
    """List the feature sets, or show one: its blocks and what each is fitted on."""
    from rich.console import Console

    from features.feature_sets import FEATURE_SETS, feature_set
    from rapids_pipeline.report import feature_set_table, feature_sets_table

    if toml and name is None:
        raise InputError("--toml needs the name of a feature set")
    if name is None:
        Console().print(feature_sets_table(FEATURE_SETS))
    elif toml:
        typer.echo(feature_set(name).to_toml(), nl=False)
    else:
        Console().print(feature_set_table(feature_set(name)))


@app.command()
@exits_cleanly
def recipes(
    name: Annotated[str | None, typer.Argument(help="A recipe or a .toml file; default: list all.")] = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print it as TOML, to copy and change.")] = False,
) -> None:
    """List the recipes, or show one: its members and settings."""
    from rich.console import Console

    from rapids_pipeline.recipes import RECIPES, recipe, to_toml
    from rapids_pipeline.report import recipe_table, recipes_table

    if toml and name is None:
        raise InputError("--toml needs the name of a recipe")
    if name is None:
        Console().print(recipes_table(RECIPES))
    elif toml:
        typer.echo(to_toml(recipe(name)), nl=False)
    else:
        Console().print(recipe_table(recipe(name)))


@app.command()
@exits_cleanly
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the simulated data and the results.")] = Path(
        "runs/demo"
    ),
    molecules: MoleculesOption = "morgan",
    device: DeviceOption = "auto",
    recipe: RecipeOption = "published",
    quick: QuickOption = False,
    seed: Annotated[int, typer.Option(help="Seed of the simulation, the folds and the boosting.")] = 0,
    genes: Annotated[
        int | None, typer.Option(help="Only the first so many genes; default all 18,211.")
    ] = None,
    data_only: Annotated[bool, typer.Option(help="Only write the simulated files.")] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Simulate a data set in the competition's layout, run the pipeline on it and score the hidden truth."""
    from rapids_pipeline.backend.devices import resolve_device
    from rapids_pipeline.demo import write_demo
    from rapids_pipeline.report import LiveStages
    from rapids_pipeline.run_options import RecipeChanges, run_config
    from rapids_pipeline.runs import MANIFEST, require_writable

    config = run_config(_recipe_named(recipe, quick), RecipeChanges(), molecules, seed)
    resolve_device(device)  # before anything is written
    require_writable(out)
    if (out / MANIFEST).exists() and not overwrite:  # its results must not lose the data they were made from
        raise InputError(f"--out {out}: holds a run's results; choose another folder or add --overwrite")
    stages = LiveStages()
    with stages.stage("simulate"):
        files = write_demo(out / "data", seed, genes)
    if data_only:
        typer.echo(f"written: {files.train}, {files.test}, {files.truth}")
        return
    _run(RunInputs(files.train, files.test), out, config, device, overwrite)
    _evaluate(out / "submission.csv", files.truth, files.train, "X", as_json=False)


def _recipe_named(name: str, quick: bool) -> str:
    """Return the recipe asked for, by name or by --quick."""
    return "quick" if quick else name


def _run(inputs: RunInputs, out: Path, config: "RunConfig", device: str, overwrite: bool) -> None:
    from rich.console import Console

    from rapids_pipeline import pipeline
    from rapids_pipeline.backend.devices import resolve_device
    from rapids_pipeline.report import LiveStages, print_result

    chosen = resolve_device(device)
    stages = LiveStages()
    stages.console.print(f"device: {chosen.name} ({chosen.reason})", highlight=False, soft_wrap=True)
    result = pipeline.run(inputs, out, config, chosen, overwrite=overwrite, stages=stages)
    print_result(Console(), result.document, result.notes)
    typer.echo(
        f"{result.shape['test_rows']} pairs × {result.shape['genes']} genes written: {out}/submission.csv; "
        "beside it oof.parquet, scores.json, manifest.json, model/"
    )


def _evaluate(
    prediction: Path,
    truth: Path,
    train: Path | None,
    layer: str,
    as_json: bool,
    metadata_columns: tuple[str, ...] = (),
    perturbations: bool = False,
) -> None:
    import json

    from rich.console import Console

    from rapids_pipeline.evaluation.evaluate import evaluate_files
    from rapids_pipeline.report import evaluation_sentences, perturbation_table, score_table

    evaluation = evaluate_files(
        prediction, truth, train, layer=layer, extra_metadata=metadata_columns, perturbations=perturbations
    )
    if as_json:
        typer.echo(json.dumps(evaluation.to_json(), indent=2))
        return
    console = Console()
    title = f"{prediction} against {truth}: {evaluation.n_rows} pairs × {evaluation.n_genes} genes"
    console.print(f"{title}:", highlight=False, soft_wrap=True)
    console.print(score_table(evaluation.scores))
    if evaluation.perturbation_scores:
        console.print(perturbation_table(evaluation.perturbation_scores))
    for sentence in evaluation_sentences(evaluation):
        console.print(sentence, highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line."""
    from rapids_pipeline.cv import command as cv_command
    from rapids_pipeline.screen import command as screen_command
    from rapids_pipeline.submit import command as submit_command

    app.command("cv")(cv_command)
    app.command("submit")(submit_command)
    app.command("screen")(screen_command)
    app()
