"""`recipes`: the recipes by name, or the members and settings of one."""

from typing import Annotated

import typer

from rapids_pipeline.backend.errors import InputError


def command(
    name: Annotated[
        str | None, typer.Argument(help="A recipe or a .toml file. Without one, all recipes are listed.")
    ] = None,
    toml: Annotated[
        bool, typer.Option("--toml", help="Print the recipe as TOML, to copy and change.")
    ] = False,
) -> None:
    """List the recipes, or show one: its members and settings."""
    from rich.console import Console

    from rapids_pipeline.reports.run import recipe_table, recipes_table
    from rapids_pipeline.stack.recipe import RECIPES, recipe, to_toml

    if toml and name is None:
        raise InputError("--toml needs the name of a recipe")
    if name is None:
        Console().print(recipes_table(RECIPES))
    elif toml:
        typer.echo(to_toml(recipe(name)), nl=False)
    else:
        Console().print(recipe_table(recipe(name)))
