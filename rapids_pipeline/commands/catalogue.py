"""What there is to choose from: `recipes`, `features`, and by `doctor` what this machine can run.

rapids-perturb recipes                all recipes; with a name its members and settings
rapids-perturb features               all feature sets; with a name its blocks
rapids-perturb doctor                 driver, GPUs, versions and engines; it changes nothing and works on any machine
rapids-perturb doctor --device cuda   exit code 3, and one line for each problem, where a GPU run cannot start
"""

import json
from typing import Annotated

import typer

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.commands import options

RecipeArgument = Annotated[
    str | None, typer.Argument(help="A recipe or a .toml file. Without one, all recipes are listed.")
]
SetArgument = Annotated[
    str | None, typer.Argument(help="A feature set or a .toml file. Without one, all sets are listed.")
]
TomlOption = Annotated[bool, typer.Option("--toml", help="Print it as TOML, to copy and change.")]
Needed = Annotated[
    str, typer.Option(help="cuda: end with exit code 3 where a GPU run cannot start. auto, cpu: only tell.")
]


def recipes(name: RecipeArgument = None, toml: TomlOption = False) -> None:
    """List the recipes, or show one: its members and settings."""
    from rapids_pipeline.reports.page import print_report
    from rapids_pipeline.reports.run import recipe_table, recipes_table
    from rapids_pipeline.stack.named_recipes import RECIPES, recipe
    from rapids_pipeline.stack.recipe import to_toml

    if name is None:
        _refuse_toml(toml, "recipe")
        print_report(recipes_table(RECIPES))
    elif toml:
        typer.echo(to_toml(recipe(name)), nl=False)
    else:
        print_report(recipe_table(recipe(name)))


def features(name: SetArgument = None, toml: TomlOption = False) -> None:
    """List the feature sets, or show one: its blocks, and what each of them is fitted on."""
    from features.feature_sets import FEATURE_SETS, feature_set
    from rapids_pipeline.reports.page import print_report
    from rapids_pipeline.reports.run import feature_set_table, feature_sets_table

    if name is None:
        _refuse_toml(toml, "feature set")
        print_report(feature_sets_table(FEATURE_SETS))
    elif toml:
        typer.echo(feature_set(name).to_toml(), nl=False)
    else:
        print_report(feature_set_table(feature_set(name)))


def doctor(device: Needed = "auto", as_json: options.JsonOption = False) -> None:
    """Show what this machine can run: driver, GPUs, versions, engines and why some are not available."""
    from rapids_pipeline.backend.devices import resolve_device
    from rapids_pipeline.reports.doctor import diagnose, print_diagnosis

    found = diagnose()
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        print_diagnosis(found)
    resolve_device(device)


def _refuse_toml(toml: bool, what: str) -> None:
    if toml:
        raise InputError(f"--toml needs the name of a {what}")
