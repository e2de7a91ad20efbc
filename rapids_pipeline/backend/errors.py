"""Errors: the two ways in which a request can be refused, each with its exit code.

Both carry one message meant for a person: what is wrong, where (file, column or row) and the remedy.
The command line prints that message on stderr without a traceback. `ProblemsError` has several, one on each line.

What a message quotes is the user's: of any length, with escape codes that a terminal would obey. `quoted` and `shown`
cut it and make it visible; `one_line` does the same to whatever is printed, as a last resort.
"""

import difflib
import errno
import functools
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

MOST_QUOTED, MOST_SHOWN, LONGEST_LINE = 80, 200, 490
"""Characters of a value in a message, of a name or path in one, and of a whole message without the word before it."""

EXIT_BAD_INPUT = 2
EXIT_UNAVAILABLE = 3
EXIT_INTERRUPTED = 130


def visible(text: str, but: str = "") -> str:
    r"""Return a text as it can be printed: what a terminal obeys or hides is spelled out (\x1b), except `but`.

    These are control characters and escape codes, marks of the direction of text, blanks of no width, and the halves of
    surrogate pairs that stand for bytes of a path that are no UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() or sign in but else sign.encode("unicode_escape").decode() for sign in text
    )


def shown(value: object, most: int = MOST_SHOWN) -> str:
    """Return a user's name or path for a message: visible, and cut in its middle where it is longer than `most`."""
    try:
        text = str(value)
    except ValueError:  # Python writes no integer of more than some thousand digits
        return "an integer of thousands of digits"
    return _cut(visible(_cut(text, 2 * most)), most)


def quoted(value: object, most: int = MOST_QUOTED) -> str:
    """Return a user's value for a message: `shown`, a text in quotation marks."""
    return f"'{shown(value, most)}'" if isinstance(value, str) else shown(value, most)


def one_line(text: str, most: int = LONGEST_LINE) -> str:
    """Return a message as one visible line of at most `most` characters, cut in its middle."""
    return _cut(visible(" ".join(_cut(text, 4 * most).split("\n")).rstrip()), most)


def meant(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'best'?)" with the known name nearest to a mistyped one; nothing where none is near."""
    spelled = {one.casefold(): one for one in known}
    near = difflib.get_close_matches(name[:MOST_QUOTED].casefold(), spelled, n=1)
    return f" (did you mean '{spelled[near[0]]}'?)" if near else ""


def _cut(text: str, most: int) -> str:
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - half]}…{text[len(text) - half :]}"


class PerturbError(Exception):
    """Base of the errors that end a command with one line instead of a traceback."""

    exit_code = 1

    @property
    def lines(self) -> list[str]:
        """Return what a person is told, one line for each problem."""
        return [one_line(str(self))]


class InputError(PerturbError, ValueError):
    """A file, column, row or option that cannot be used (exit code 2)."""

    exit_code = EXIT_BAD_INPUT


class DivergedError(InputError):
    """A training whose loss is no finite number."""


class UnavailableError(PerturbError, RuntimeError):
    """Something asked for by name that is not available on this machine (exit code 3)."""

    exit_code = EXIT_UNAVAILABLE


class ProblemsError(UnavailableError):
    """Several things that are missing at once: one line for each, with its remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)

    @property
    def lines(self) -> list[str]:
        """Return one line for each problem."""
        return [one_line(problem) for problem in self.problems]


class OutOfMemoryError(InputError):
    """Work that takes more memory than there is."""

    def __init__(self, what: str, error: MemoryError) -> None:
        said = f" ({error})" if str(error) else ""
        super().__init__(
            f"{what}: out of memory{said}; allow more, or take fewer rows, genes or --block-rows"
        )


OF_THE_MACHINE = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.EROFS: "choose another place",
    errno.EIO: "look after that disk",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "allow more open files (ulimit -n)",
}
"""Errors of the system that can come wherever a file is opened or written, and what helps."""


NO_THREAD = "can't start new thread"
"""What Python says where the system gives it no thread, mostly for want of memory."""


def exits_cleanly(command: Callable[P, T]) -> Callable[P, T]:
    """Make a command end with one line on stderr and its exit code where it would raise a `PerturbError`.

    So do errors of the machine: no memory, no room on a disk, no more files or threads. An
    interrupt (Ctrl-C) ends it with code 130. Python warnings become lines on stderr, too.
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
        except MemoryError as error:
            sys.stderr.write(f"error: {OutOfMemoryError('this machine', error)}\n")
            raise SystemExit(EXIT_BAD_INPUT) from None
        except RuntimeError as error:
            if NO_THREAD not in str(error):
                raise
            sys.stderr.write(
                "error: this machine: no room for another thread; allow more memory or threads (ulimit -v, -u)\n"
            )
            raise SystemExit(EXIT_BAD_INPUT) from None
        except OSError as error:
            if error.errno not in OF_THE_MACHINE:
                raise
            why, remedy = error.strerror or error, OF_THE_MACHINE[error.errno]
            sys.stderr.write(f"error: {error.filename or 'a file'}: {why}; {remedy}\n")
            raise SystemExit(EXIT_BAD_INPUT) from None
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            raise SystemExit(EXIT_INTERRUPTED) from None

    return guarded


def _print_warning(message: Warning | str, *_: object, **__: object) -> None:
    sys.stderr.write(f"warning: {one_line(str(message))}\n")
