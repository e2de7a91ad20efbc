"""What there is to choose from: `recipes`, `features`, and by `doctor` what this machine can run.

rapids-perturb recipes                all recipes; with a name its members and settings
rapids-perturb features               all feature sets; with a name its blocks
rapids-perturb doctor                 driver, GPUs, versions and engines; it changes nothing and works on any machine
rapids-perturb doctor --device cuda   exit code 3, and one line for each problem, where a GPU run cannot start
"""

from typing import Annotated

import typer

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.commands import options

SetArgument = Annotated[
    str | None, typer.Argument(help="A feature set or a .toml file. Without one, all sets are listed.")
]
TomlOption = Annotated[bool, typer.Option("--toml", help="Print it as TOML, to copy and change.")]
Needed = Annotated[
    str, typer.Option(help="cuda: end with exit code 3 where a GPU run cannot start. auto, cpu: only tell.")
]


def recipes(
    name: options.RecipeArgument = None, toml: TomlOption = False, as_json: options.JsonOption = False
) -> None:
    """List the recipes, or show one: its members and settings."""
    from rapids_pipeline.reports.page import print_found
    from rapids_pipeline.reports.run import recipe_table, recipes_table
    from rapids_pipeline.stack.named_recipes import RECIPES, recipe
    from rapids_pipeline.stack.recipe import to_toml

    _refuse_toml(toml, name, as_json, "recipe")
    found = [recipe(name)] if name else list(RECIPES.values())
    if toml:
        typer.echo(to_toml(found[0]), nl=False)
        return
    table = recipe_table(found[0]) if name else recipes_table(RECIPES)
    print_found([one.model_dump(mode="json") for one in found], as_json, table)


def features(name: SetArgument = None, toml: TomlOption = False, as_json: options.JsonOption = False) -> None:
    """List the feature sets, or show one: its blocks, and what each of them is fitted on."""
    from features.feature_sets import FEATURE_SETS, feature_set
    from rapids_pipeline.reports.page import print_found
    from rapids_pipeline.reports.run import feature_set_table, feature_sets_table

    _refuse_toml(toml, name, as_json, "feature set")
    found = [feature_set(name)] if name else list(FEATURE_SETS.values())
    if toml:
        typer.echo(found[0].to_toml(), nl=False)
        return
    table = feature_set_table(found[0]) if name else feature_sets_table(FEATURE_SETS)
    print_found([one.model_dump(mode="json") for one in found], as_json, table)


def doctor(device: Needed = "auto", as_json: options.JsonOption = False) -> None:
    """Show what this machine can run: driver, GPUs, versions, engines and why some are not available."""
    from rapids_pipeline.backend.devices import resolve_device
    from rapids_pipeline.reports.doctor import diagnose, print_diagnosis
    from rapids_pipeline.reports.page import print_json

    found = diagnose()
    if as_json:
        print_json(found.to_json())
    else:
        print_diagnosis(found)
    resolve_device(device)


def _refuse_toml(toml: bool, name: str | None, as_json: bool, what: str) -> None:
    if toml and name is None:
        raise InputError(f"--toml needs the name of a {what}")
    if toml and as_json:
        raise InputError("--toml and --json exclude each other; give one of them")
