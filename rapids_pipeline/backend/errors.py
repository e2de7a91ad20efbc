"""The two ways a request can be refused, each with its exit code.

Both carry one message meant for a person: what is wrong, where (file, column or row) and the remedy.
The command line prints that message on stderr without a traceback; `ProblemsError` has several, a line each.
"""

import functools
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

EXIT_BAD_INPUT = 2
EXIT_UNAVAILABLE = 3
EXIT_INTERRUPTED = 130


class PerturbError(Exception):
    """Base of the errors that end a command with one line instead of a traceback."""

    exit_code = 1

    @property
    def lines(self) -> list[str]:
        """Return what a person is told, a line a problem."""
        return [" ".join(str(self).splitlines())]


class InputError(PerturbError, ValueError):
    """A file, column, row or option that cannot be used (exit code 2)."""

    exit_code = EXIT_BAD_INPUT


class UnavailableError(PerturbError, RuntimeError):
    """Something asked for by name that is not available on this machine (exit code 3)."""

    exit_code = EXIT_UNAVAILABLE


class ProblemsError(UnavailableError):
    """Several things that are missing at once: a line each, the remedy in it."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)

    @property
    def lines(self) -> list[str]:
        """Return one line a problem."""
        return [" ".join(problem.splitlines()) for problem in self.problems]


def exits_cleanly(command: Callable[P, T]) -> Callable[P, T]:
    """Make a command end with one line on stderr and its exit code where it would raise a `PerturbError`.

    An interrupt (Ctrl-C) ends it with code 130. Python warnings become lines on stderr, too.
    """

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _print_warning
                return command(*args, **kwargs)
        except PerturbError as error:
            sys.stderr.writelines(f"error: {line}\n" for line in error.lines)
            raise SystemExit(error.exit_code) from None
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            raise SystemExit(EXIT_INTERRUPTED) from None

    return guarded


def _print_warning(message: Warning | str, *_: object, **__: object) -> None:
    sys.stderr.write(f"warning: {message}\n")
