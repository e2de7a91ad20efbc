"""The command line: `rapids-perturb SUBCOMMAND`, the same program as `python -m rapids_pipeline`.

A subcommand is the function `command` of a file here, or a function of a file of several, and listed in `PLACES`. It is
imported when it is asked for, and imports what is heavy when it runs.

Exit codes: 0 done, 2 bad input or usage (one message on stderr), 3 something asked for is not available here,
130 interrupted, 143 terminated.
"""

import os
import signal
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import rapids_pipeline
from rapids_pipeline.backend.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, exits_cleanly
from rapids_pipeline.commands.options import with_home

PLACES = (
    "run evaluate predict submit cv tune screen catalogue.recipes catalogue.features demo start catalogue.doctor"
).split()
"""FILE, or FILE.FUNCTION, of every subcommand, in the order of the help."""
SUBCOMMANDS = {place.rpartition(".")[2]: place for place in PLACES}
STOPPED = (EXIT_INTERRUPTED, 128 + signal.SIGTERM)
"""Exit codes of a run that was interrupted or terminated; everything it had open is closed by then."""
HELP = {"help_option_names": ["-h", "--help"]}


def subcommand(name: str) -> Any:
    """Return a subcommand by its name; its module is imported now."""
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    file, _, function = SUBCOMMANDS[name].partition(".")
    command = getattr(import_module(f"rapids_pipeline.commands.{file}"), function or "command")
    single.command(name, context_settings=HELP)(exits_cleanly(with_home(command)))
    return typer.main.get_command(single)


class Subcommands(TyperGroup):
    """The subcommands by name."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all subcommands, in the order of the help."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a subcommand by its name, None where there is none."""
        return subcommand(cmd_name) if cmd_name in SUBCOMMANDS else None


app = typer.Typer(name="rapids-perturb", add_completion=False, pretty_exceptions_enable=False)


def print_version(asked: bool) -> None:
    """Print the version and end, where that is asked for."""
    if asked:
        typer.echo(f"rapids-perturb {rapids_pipeline.__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
]


@app.callback(cls=Subcommands, no_args_is_help=True, context_settings=HELP)
def program(_version: Version = False) -> None:
    """Predict how a small molecule changes the expression of every gene in a cell type."""


def main(name: str | None = None) -> None:
    """Run the command line, or one subcommand of it."""
    signal.signal(signal.SIGTERM, _terminate)
    found = find_spec("features")
    if found is not None and Path(str(found.origin)).parents[1] != Path(rapids_pipeline.__file__).parents[1]:
        sys.stderr.write(f"error: {found.origin} hides the package features of this program; rename it\n")
        raise SystemExit(EXIT_BAD_INPUT)
    try:
        (app if name is None else subcommand(name))()
    except SystemExit as end:
        if end.code in STOPPED:
            _leave(end.code)
        raise


def _terminate(number: int, _: object) -> None:
    """End on SIGTERM as on any other stop: open files are closed, half-written folders removed."""
    sys.stderr.write("terminated\n")
    raise SystemExit(128 + number)


def _leave(code: int) -> None:
    """End at once: threads of Arrow may still be reading, and crash when Python takes its memory down around them."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
