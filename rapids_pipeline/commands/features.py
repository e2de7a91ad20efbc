"""`features`: the feature sets by name, or the blocks of one."""

from typing import Annotated

import typer

from rapids_pipeline.backend.errors import InputError


def command(
    name: Annotated[
        str | None, typer.Argument(help="A feature set or a .toml file. Without one, all sets are listed.")
    ] = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print the set as TOML, to copy and change.")] = False,
) -> None:
    """List the feature sets, or show one: its blocks, and what each of them is fitted on."""
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
