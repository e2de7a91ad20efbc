"""The command line: `rapids-perturb SUBCOMMAND`, the same program as `python -m rapids_pipeline`.

Exit codes: 0 done, 2 bad input or usage (one message on stderr), 3 something asked for is not available here,
130 interrupted, 143 terminated.
"""

import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rapids_pipeline import __version__
from rapids_pipeline.backend.errors import InputError, exits_cleanly
from rapids_pipeline.commands.options import (
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
from rapids_pipeline.data.columns import DEFAULT_LAYER

MODULES = ("predict", "cv", "tune", "screen", "submit", "start", "doctor")
"""Subcommands that are modules of the same name, with a function `command`; imported when they are asked for."""


class Subcommands(TyperGroup):
    """The subcommands of this module, and those that are modules of their own."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all subcommands, in the order of the help."""
        return [*super().list_commands(ctx), *MODULES]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a subcommand by its name; its module is imported now."""
        if cmd_name not in MODULES:
            return super().get_command(ctx, cmd_name)
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        single.command(cmd_name)(import_module(f"rapids_pipeline.commands.{cmd_name}").command)
        return typer.main.get_command(single)


app = typer.Typer(
    name="rapids-perturb",
    cls=Subcommands,
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
    recipe: RecipeOption = "best",
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
    from rapids_pipeline.commands import terminal
    from rapids_pipeline.commands.run_options import RecipeChanges, run_config
    from rapids_pipeline.data.problem import ProblemFiles

    extra = names_in(metadata_columns)
    changes = RecipeChanges(folds, engine, boosting_engine, svr_features, boosting_features)
    config = run_config(_recipe_named(recipe, quick), changes, molecules, seed)
    terminal.run(ProblemFiles(train, test, layer, extra), out, config, device, overwrite)


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
    from rapids_pipeline.commands import terminal

    terminal.evaluate(prediction, truth, train, layer, as_json, names_in(metadata_columns), perturbations)


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
    from rapids_pipeline.reports.run import feature_set_table, feature_sets_table

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

    from rapids_pipeline.reports.run import recipe_table, recipes_table
    from rapids_pipeline.stack.named_recipes import RECIPES, recipe, to_toml

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
    recipe: RecipeOption = "best",
    quick: QuickOption = False,
    seed: Annotated[int, typer.Option(help="Seed of the simulation, the folds and the boosting.")] = 0,
    genes: Annotated[
        int | None, typer.Option(help="Only the first so many genes; default all 18,211.")
    ] = None,
    data_only: Annotated[bool, typer.Option(help="Only write the simulated files.")] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Simulate a data set in the competition's layout, run the pipeline on it and score the hidden truth."""
    from rapids_pipeline.commands import terminal
    from rapids_pipeline.commands.run_options import RecipeChanges, run_config

    config = run_config(_recipe_named(recipe, quick), RecipeChanges(), molecules, seed)
    terminal.demo(out, config, device, seed=seed, genes=genes, data_only=data_only, overwrite=overwrite)


def _recipe_named(name: str, quick: bool) -> str:
    """Return the recipe asked for, by name or by --quick."""
    return "quick" if quick else name


def _terminate(number: int, _: object) -> None:
    """End on SIGTERM as on any other stop: open files are closed, half-written folders removed."""
    sys.stderr.write("terminated\n")
    raise SystemExit(128 + number)


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, _terminate)
    app()
