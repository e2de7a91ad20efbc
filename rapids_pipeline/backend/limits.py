"""What a file may be before any of it is read: a regular file, of a size that it can honestly have.

A few kilobytes can unpack into, or declare, more than any machine holds. What a file expands to is therefore found out
first: by unpacking it piece by piece (gzip), or from what it declares (Parquet, HDF5). A file is refused where it

    expands to more than EXPANSION times its own size, and to more than SMALL
    needs more memory than the machine can give

Tables of measurements shrink by 2 to 20 times in gzip and Parquet. The environment variable
RAPIDS_PERTURB_EXPANSION raises the first limit, such as to 10000.
"""

import gzip
import os
import stat
import zlib
from pathlib import Path

from rapids_pipeline.backend.arrays import gigabytes, host_bytes
from rapids_pipeline.backend.errors import InputError, shown

VARIABLE = "RAPIDS_PERTURB_EXPANSION"
EXPANSION = 100.0
SMALL = 2**28
"""Bytes to which any file may expand."""
PIECE = 2**20


def require_file(path: Path) -> None:
    """Raise InputError where `path` is missing, empty, not readable, no regular file, or too large.

    Pipes, sockets and devices are not opened, since reading them might never end. Of a file that ends in .gz the size
    is the one unpacked.
    """
    called = shown(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{called}: is a folder, expected a file")
        if not stat.S_ISREG(mode):
            raise InputError(
                f"{called}: is a pipe, a socket or a device, expected a file; save it as a file first"
            )
        with path.open("rb") as stream:
            first = stream.read(1)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{called}: no such file") from None
    except OSError as error:
        raise InputError(f"{called}: cannot be read ({error.strerror}); check its permissions") from None
    except InputError:
        raise
    except ValueError:  # Python opens no name with NUL
        raise InputError(f"{called}: no such file") from None
    if not first:
        raise InputError(f"{called}: the file is empty (0 bytes)")
    refuse_large(path, _unpacked(path) if path.suffix.lower() == ".gz" else path.stat().st_size)


def refuse_large(path: Path, size: float, what: str = "its content") -> None:
    """Raise InputError where a file's content, of `size` bytes in memory, is more than may be read."""
    if size > most_bytes(path):
        raise InputError(
            f"{shown(path)}: {what} takes {gigabytes(size)} or more, over {expansion():g} times the file's size, "
            f"as no table of measurements is; if it is right, set {VARIABLE}=10000"
        )
    if size > host_bytes():
        raise InputError(
            f"{shown(path)}: {what} takes {gigabytes(size)}, and {gigabytes(host_bytes())} of memory are left here"
        )


def most_bytes(path: Path) -> float:
    """Return the bytes to which a file may expand."""
    return max(SMALL, expansion() * path.stat().st_size)


def expansion() -> float:
    """Return how many times its own size a file may expand to; InputError where the variable is no such number."""
    text = os.environ.get(VARIABLE, str(EXPANSION))
    try:
        times = float(text)
    except ValueError:
        times = 0.0
    if not times >= 1.0:
        raise InputError(f"{VARIABLE}={shown(text, 40)}: must be a number of at least 1")
    return times


def _unpacked(path: Path) -> int:
    """Return the bytes that a gzip file expands to, or some more than `most_bytes`; damage is the reader's to name."""
    most, size = most_bytes(path), 0
    try:
        with gzip.open(path, "rb") as stream:
            while size <= most and (piece := stream.read(PIECE)):
                size += len(piece)
    except (OSError, EOFError, zlib.error):
        pass
    return size
