"""Settings that a person writes: TOML files, and the bounds of numbers and names in them.

A file is read whole (`read_toml`) and checked by its pydantic class (`by_name_or_toml`), whose fields have bounds with
their reason. What is wrong is said of the first fault, by the place of its key (`first_fault`):

    mine.toml: members[1].n_seeds: must be a whole number from 1 to 1,000, not 1,000,000,000: each is a booster
"""

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rapids_pipeline.backend.errors import InputError, meant, quoted, shown, visible
from rapids_pipeline.backend.files import FOLDER

if TYPE_CHECKING:
    from pydantic import AfterValidator, BaseModel, PlainValidator, ValidationError

S = TypeVar("S", bound="BaseModel")

LARGEST_TOML = 2**20
"""Bytes of a file of settings."""
MOST_DOTS = 200
"""Dots in a line of TOML: a key is a table in a table in a table at each, and the parser takes time by their square."""
NAME_LENGTH, WORDS_LENGTH = 100, 2000
"""Characters of a name, and of a description."""
LARGEST_SEED = 2**31 - 1
"""Every generator takes seeds up to here, and the sums of them that members draw by."""


def names_in(text: str) -> tuple[str, ...]:
    """Return the names in a text, which are separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def by_name_or_toml(name: str | Path, known: Mapping[str, S], settings: type[S], what: str) -> S:
    """Return the settings of a known name, or those that a TOML file has, checked by their pydantic class.

    Validators see in their context the `FOLDER` of the file: what it names must lie there (`within`).

    Raises
    ------
    InputError
        No such name (the message lists them, and calls them `what`) or file, or a file with other content (the
        message names the key).
    """
    from pydantic import ValidationError

    if str(name) in known:
        return known[str(name)]
    path = Path(name)
    if path.suffix != ".toml":
        listed = ", ".join(known)
        near = meant(str(name), known)
        raise InputError(f"no {what} {quoted(str(name))}{near}; choose among {listed}, or name a .toml file")
    content = read_toml(path)
    try:
        return settings.model_validate(content, context={FOLDER: path.parent})
    except ValidationError as error:
        raise InputError(f"{shown(path)}: {first_fault(error)}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file; a byte order mark at its beginning is left out.

    Raises
    ------
    InputError
        There is no such file, it is a folder, a pipe or a device, has more than `LARGEST_TOML` bytes or more than
        `MOST_DOTS` dots in a line, is no UTF-8 or no TOML, or nests deeper or has longer numbers than Python reads.
    """
    import tomllib

    called = shown(path)
    try:
        text = _regular_file(path).decode("utf-8-sig")
        lines = enumerate(text.split("\n"), 1)
        dotted = next((number for number, line in lines if line.count(".") > MOST_DOTS), None)
        if dotted is not None:
            raise InputError(
                f"{called}: line {dotted} has more than {MOST_DOTS} dots; write it in several lines"
            )
        return tomllib.loads(text)
    except OSError as error:
        raise InputError(f"{called}: {error.strerror or error}") from None
    except RecursionError:
        raise InputError(f"{called}: not a TOML file that can be read: it is nested too deeply") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{called}: not a TOML file ({shown(error, 160)})") from None
    except InputError:
        raise
    except (
        ValueError
    ):  # Python reads no decimal integer of more than some thousand digits, and opens no name with NUL
        reason = "its name has a NUL" if "\0" in str(path) else "it has an integer of thousands of digits"
        raise InputError(f"{called}: not a TOML file that can be read: {reason}") from None


def _regular_file(path: Path) -> bytes:
    """Return the bytes of a file of settings; errors as `read_toml`. Pipes and devices are not even opened."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise InputError(f"{shown(path)}: is {what}, expected a TOML file")
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        content = stream.read(LARGEST_TOML + 1)
    if len(content) > LARGEST_TOML:
        raise InputError(f"{shown(path)}: has more than {LARGEST_TOML:,} bytes: that is no file of settings")
    return content


# --- bounds of fields -------------------------------------------------------------------------------------


def bounded(
    low: float, high: float, why: str = "", *, words: Iterable[str] = (), optional: bool = False
) -> "PlainValidator":
    """Return what a field's `Annotated` type needs to be a number from `low` to `high`, whole where both are.

    Parameters
    ----------
    low, high : int or float
        Both are allowed; NaN and infinity never are.
    why : str
        The reason, which ends the message.
    words : iterable of str
        Texts that may stand in the place of the number.
    optional : bool
        Whether None may, too.
    """
    from pydantic import PlainValidator

    return PlainValidator(Bounds(low, high, why, tuple(words), optional))


@dataclass(frozen=True)
class Bounds:
    """The check of a number, as `bounded` describes it."""

    low: float
    high: float
    why: str = ""
    words: tuple[str, ...] = ()
    optional: bool = False

    def __call__(self, value: Any) -> Any:
        """Return the number, or a word in its place; ValueError where it is neither."""
        if (isinstance(value, str) and value in self.words) or (self.optional and value is None):
            return value
        number, whole = is_number(value), isinstance(self.low, int) and isinstance(self.high, int)
        if not number or not self.low <= value <= self.high or (whole and value != int(value)):
            ends = " to ".join(f"{end:,}" if whole else f"{end:g}" for end in (self.low, self.high))
            wanted = f"a {'whole ' * whole}number from {ends}" + "".join(f" or '{w}'" for w in self.words)
            why = f": {self.why}" * bool(self.why and number)
            raise ValueError(f"must be {wanted}, not {_given(value)}{why}")
        return int(value) if whole else float(value)


def bounds_of(settings: "BaseModel", name: str) -> Bounds | None:
    """Return the bounds of a field of settings, None where it is no number or has none."""
    checks = (getattr(check, "func", None) for check in type(settings).model_fields[name].metadata)
    return next((check for check in checks if isinstance(check, Bounds)), None)


def is_number(value: Any) -> bool:
    """Say whether a setting is a number; true and false are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _given(value: Any) -> str:
    """Return a setting as TOML writes it, or what it is."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) < 10**30:
        return f"{value:,}"
    if isinstance(value, dict | list | tuple):
        return "a table" if isinstance(value, dict) else "a list"
    return quoted(value)


def named() -> "AfterValidator":
    """Return what a field's `Annotated` type needs to be a name: short, visible, without blanks at its ends."""
    from pydantic import AfterValidator

    def checked(name: str) -> str:
        if not name or name != name.strip():
            raise ValueError(f"must be a name without blanks at its ends, not {quoted(name)}")
        if len(name) > NAME_LENGTH:
            raise ValueError(
                f"a name has at most {NAME_LENGTH} characters, and {quoted(name)} has {len(name):,}"
            )
        if visible(name) != name:
            raise ValueError(f"{quoted(name)} has characters that cannot be seen; a name is seen in tables")
        return name

    return AfterValidator(checked)


def words() -> "AfterValidator":
    """Return what a field's `Annotated` type needs to be a description: visible, of a paragraph at most."""
    from pydantic import AfterValidator

    def checked(text: str) -> str:
        if len(text) > WORDS_LENGTH:
            raise ValueError(f"has {len(text):,} characters, and a description at most {WORDS_LENGTH:,}")
        if visible(text, but="\n") != text:
            raise ValueError(
                f"{quoted(text)} has characters that cannot be seen; a description is seen in tables"
            )
        return text

    return AfterValidator(checked)


# --- what is wrong ----------------------------------------------------------------------------------------

PLAIN = {
    "missing": "is missing",
    "extra_forbidden": "there is no such setting",
    "string_type": "must be a text, in quotation marks",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "tuple_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "literal_error": "must be {expected}",
    "too_short": "must have at least {min_length}",
    "too_long": "has more than {max_length}",
    "string_too_long": "has more than {max_length} characters",
    "union_tag_not_found": "has no {discriminator}",
    "union_tag_invalid": "no kind {tag}; choose among {expected_tags}",
}
"""What is wrong, in plain words, by pydantic's type of the error."""


def first_fault(error: "ValidationError") -> str:
    """Return the first thing that is wrong with settings that pydantic refused, as "members[1].C: …"."""
    found = error.errors(include_url=False)[0]
    parts = (f"[{part}]" if isinstance(part, int) else f".{shown(part, 40)}" for part in found["loc"])
    return f"{shown(''.join(parts).lstrip('.')) or 'the file'}: {message_of(found)}"


def message_of(found: Mapping[str, Any]) -> str:
    """Return what an error of pydantic says, in plain words."""
    message = str(found["msg"]).removeprefix("Value error, ")
    context = {key: quoted(value) if key == "tag" else value for key, value in found.get("ctx", {}).items()}
    if found["type"] in PLAIN:
        message = PLAIN[found["type"]].format(**context)
        if found["type"] in ("literal_error", "bool_parsing", "bool_type", "string_type"):
            message += f", not {_given(found['input'])}"
    return f"{message[:1].lower()}{message[1:]}"
