"""What is wrong with settings that pydantic refused, in one line."""

from pydantic import ValidationError

__all__ = ["first_fault"]


def first_fault(error: ValidationError) -> str:
    """Return the first thing that is wrong with validated settings, as "svrs[1].C: …"."""
    found = error.errors()[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in found["loc"]).lstrip(".")
    message = found["msg"].removeprefix("Value error, ")
    return f"{place or 'the file'}: {message[0].lower()}{message[1:]}"
