"""The command line: `rapids-perturb SUBCOMMAND`, the same program as `python -m rapids_pipeline`.

A subcommand is the function `command` of a file here, or a function of a file of several, and listed in `PLACES`. It is
imported when it is asked for, and imports what is heavy when it runs. All of them have --quiet and --verbose, before
and after their name.

Exit codes: 0 done, 2 bad input or usage (one message on stderr), 3 something asked for is not available here,
130 interrupted, 143 terminated.
"""

import functools
import inspect
import io
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from rapids_pipeline.backend.devices import VERSION
from rapids_pipeline.backend.errors import (
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    InputError,
    exits_cleanly,
    meant,
    one_line,
)
from rapids_pipeline.backend.progress import DETAIL, Detail, detail_of
from rapids_pipeline.commands.options import with_home

PLACES = (
    "run evaluate predict report genes pathways rank next submit cv tune atlas screen catalogue.recipes "
    "catalogue.features demo start catalogue.doctor"
).split()
"""FILE, or FILE.FUNCTION, of every subcommand, in the order of the help."""
SUBCOMMANDS = {place.rpartition(".")[2]: place for place in PLACES}
HELP = {"help_option_names": ["-h", "--help"]}
Misused: Any = typer.BadParameter.__mro__[2]
"""What a wrong command line raises: click's ClickException, of which recent versions of typer have a copy."""


class InOneLine:
    """A command that says in one line what is wrong with its words, as it does of all else."""

    def main(self, *words: Any, standalone_mode: bool = True, **how: Any) -> Any:
        """Run the command; end the program with its exit code, unless it is part of another one."""
        if not standalone_mode:
            return super().main(*words, standalone_mode=False, **how)  # type: ignore[misc]
        try:
            ended = super().main(*words, standalone_mode=False, **how)  # type: ignore[misc]
        except typer.Abort:
            raise SystemExit(EXIT_INTERRUPTED) from None
        except Misused as wrong:
            message, called = wrong.format_message(), getattr(wrong, "ctx", None)
            if not message or type(wrong).__name__ == "NoArgsIsHelpError":
                wrong.show()
            else:
                hint = f" (`{called.command_path} --help` says more)" if called is not None else ""
                plain = message.replace("Input should be", "it must be").replace("Value error, ", "")
                told = one_line(plain, 400)
                sys.stderr.write(f"error: {told}{hint}\n")
            raise SystemExit(wrong.exit_code) from None
        raise SystemExit(ended if isinstance(ended, int) else 0)


class Command(InOneLine, TyperCommand):
    """One subcommand."""


QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print results, warnings and errors only.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Also print engines, and what each fit and the command took.")
]


def detail_asked(quiet: QuietOption = False, verbose: VerboseOption = False) -> Detail:
    """Return how much is said: what is asked for here, otherwise what was asked for before."""
    if quiet and verbose:
        raise InputError("--quiet and --verbose exclude each other; give one of them")
    return Detail.QUIET if quiet else Detail.VERBOSE if verbose else DETAIL.get()


def with_detail(command: Any) -> Any:
    """Give a command the options of `detail_asked`; a verbose one ends with its seconds and memory."""
    own, more = inspect.signature(command), inspect.signature(detail_asked).parameters

    @functools.wraps(command)
    def called(**given: Any) -> Any:
        began = time.perf_counter()
        with detail_of(detail_asked(*(given.pop(name) for name in more))):
            ended = command(**given)
            if DETAIL.get() >= Detail.VERBOSE:
                from rapids_pipeline.backend.parallel import peak_bytes

                took = time.perf_counter() - began
                sys.stderr.write(f"done: {took:.1f} s, at most {peak_bytes() / 2**20:.0f} MiB of memory\n")
        return ended

    every = [*own.parameters.values(), *more.values()]
    called.__signature__ = own.replace(parameters=every)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in every}
    return called


def subcommand(name: str) -> Any:
    """Return a subcommand by its name; its module is imported now."""
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    file, _, function = SUBCOMMANDS[name].partition(".")
    command = getattr(import_module(f"rapids_pipeline.commands.{file}"), function or "command")
    single.command(name, cls=Command, context_settings=HELP)(exits_cleanly(with_detail(with_home(command))))
    return typer.main.get_command(single)


class Subcommands(InOneLine, TyperGroup):
    """The subcommands by name."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all subcommands, in the order of the help."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a subcommand by its name, None where there is none."""
        return subcommand(cmd_name) if cmd_name in SUBCOMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the subcommand that the words begin with; the message of a mistyped one has the nearest name."""
        try:
            return super().resolve_command(ctx, args)
        except Misused as wrong:
            wrong.message = wrong.message.rstrip(".") + meant(args[0], SUBCOMMANDS)
            raise


app = typer.Typer(name="rapids-perturb", pretty_exceptions_enable=False)


def print_version(asked: bool) -> None:
    """Print the version and end, where that is asked for."""
    if asked:
        typer.echo(f"rapids-perturb {VERSION}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
]


@app.callback(cls=Subcommands, no_args_is_help=True, context_settings=HELP)
@exits_cleanly
def program(
    ctx: typer.Context, quiet: QuietOption = False, verbose: VerboseOption = False, _version: Version = False
) -> None:
    """Predict how a small molecule changes the expression of every gene in a cell type."""
    ctx.with_resource(detail_of(detail_asked(quiet, verbose)))


class Output(io.TextIOWrapper):
    """Text that goes to stdout or stderr: where nobody reads it any more it goes nowhere, and the work goes on.

    Characters that its encoding lacks are spelled out.

    Raises
    ------
    InputError
        Of `write` and `flush`: stdout cannot be written, such as to a full disk.
    """

    replaced: Any = None

    @classmethod
    def of(cls, stream: Any) -> Any:
        """Return the same output as an object of this class; what is no plain file's text stays what it is."""
        if type(stream) is not io.TextIOWrapper:
            return stream
        made = cls(stream.buffer, stream.encoding, "backslashreplace", None, stream.line_buffering)
        made.reconfigure(write_through=stream.write_through)
        made.replaced = stream  # which closes what both write to where nobody has it any more
        return made

    def write(self, text: str) -> int:
        """Write text."""
        if text != "":  # click tries whether it may write, and nobody would hear of an error then
            with self._forgiven():
                super().write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        with self._forgiven():
            super().flush()

    @contextmanager
    def _forgiven(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self._to_nowhere()
        except OSError as error:
            self._to_nowhere()
            if self is sys.stdout:
                raise InputError(
                    f"stdout: the output cannot be written ({error.strerror}); make room there"
                ) from None

    def _to_nowhere(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        super().flush()


asked_to_stop: list[int] = []
"""The signals that asked this process to stop."""


def main(name: str | None = None) -> None:
    """Run the command line, or one subcommand of it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    sys.unraisablehook = _unraisable
    _open_closed_outputs()
    sys.stdout, sys.stderr = Output.of(sys.stdout), Output.of(sys.stderr)
    found = find_spec("features")
    if found is not None and Path(str(found.origin)).parents[1] != Path(__file__).parents[2]:
        hides = f"{found.origin} hides the package features of this program; rename it"
        sys.stderr.write(f"error: {one_line(hides)}\n")
        raise SystemExit(EXIT_BAD_INPUT)
    try:
        exits_cleanly(app if name is None else subcommand(name))()
    except SystemExit:
        if asked_to_stop:
            _leave(128 + asked_to_stop[0])
        for number in (signal.SIGINT, signal.SIGTERM):  # all is done; Python's own end would die of one
            signal.signal(number, signal.SIG_IGN)
        raise


def _stop(number: int, _: object) -> None:
    """End: open files are closed, half-written ones removed."""
    asked_to_stop.append(number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if len(asked_to_stop) == 1:
        sys.stderr.write("terminated\n")
    raise SystemExit(128 + number)


def _unraisable(what: Any) -> None:
    """Stop once more, a moment later, where the first time was in a function whose errors Python drops."""
    if asked_to_stop and isinstance(what.exc_value, KeyboardInterrupt | SystemExit):
        signal.signal(signal.SIGALRM, lambda *_: _stop(asked_to_stop[0], None))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
    else:
        sys.__unraisablehook__(what)


def _open_closed_outputs() -> None:
    """Let closed standard files lead nowhere: the next files that are opened would get their numbers, and output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _leave(code: int) -> None:
    """End at once: threads of Arrow may still be reading, and crash when Python takes its memory down around them."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)
