"""Tables from files, through one narwhals code path for pandas, polars and cuDF.

The library that reads is chosen by name (`library_for(device)`: pandas on a CPU, cuDF on a GPU). What comes
back is a narwhals DataFrame, so no caller knows which library read it.
"""

import csv
import gzip
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import narwhals as nw

from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.errors import InputError

FrameLibrary = Literal["pandas", "polars", "cudf"]
PARQUET_SUFFIXES = (".parquet", ".pq")
DELIMITERS = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
TABLE_SUFFIXES = (*PARQUET_SUFFIXES, *DELIMITERS)


def library_for(device: DeviceName) -> FrameLibrary:
    """Return the frame library of a device: pandas on "cpu", cuDF on "cuda"."""
    return "cudf" if device == "cuda" else "pandas"


def require_file(path: Path) -> None:
    """Raise InputError where `path` is missing, a folder, empty or not readable."""
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a file")
    try:
        with path.open("rb") as stream:
            first = stream.read(1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if not first:
        raise InputError(f"{path}: the file is empty (0 bytes)")


def table_suffix(path: Path) -> str:
    """Return the suffix that names the table format of `path`, ".csv.gz" included, in lower case."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return "".join(suffixes[-2:]) if suffixes[-1:] == [".gz"] else "".join(suffixes[-1:])


def read_table(path: Path, library: FrameLibrary = "pandas") -> nw.DataFrame[Any]:
    """Read a Parquet, CSV or TSV file.

    Parameters
    ----------
    path : Path
        A file ending in .parquet, .pq, .csv, .tsv, .csv.gz or .tsv.gz.
    library : {"pandas", "polars", "cudf"}
        The library that reads it.

    Returns
    -------
    narwhals.DataFrame
        Column names verbatim. Decimal numbers of text files are read exactly (to the nearest float64).

    Raises
    ------
    InputError
        The file is missing, empty, unreadable, of an unknown kind, has no rows, or repeats a column name.
    """
    require_file(path)
    suffix = table_suffix(path)
    if suffix not in TABLE_SUFFIXES:
        raise InputError(f"{path}: unknown file type; expected one of {', '.join(TABLE_SUFFIXES)}")
    try:
        _refuse_repeated_columns(path, column_names(path))
        table = _read(path, suffix, library)
    except InputError:
        raise
    except Exception as error:  # every reader has its own errors for a broken file
        kind = "Parquet" if suffix in PARQUET_SUFFIXES else "CSV/TSV"
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be read as {kind} ({reason}); is the file complete?") from error
    if len(table) == 0:
        raise InputError(f"{path}: the table has a header but no rows")
    return table


def column_names(path: Path) -> list[str]:
    """Return a table's column names as the file has them, repeated ones included, reading only its head."""
    suffix = table_suffix(path)
    if suffix in PARQUET_SUFFIXES:
        from pyarrow.parquet import read_schema

        names = list(read_schema(path).names)
        return [name for name in names if not name.startswith("__index_level_")]
    opener: Any = gzip.open if suffix.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8-sig", newline="") as stream:
        return next(csv.reader(stream, delimiter=DELIMITERS[suffix]), [])


def _read(path: Path, suffix: str, library: FrameLibrary) -> nw.DataFrame[Any]:
    if suffix in PARQUET_SUFFIXES:
        return nw.read_parquet(str(path), backend=library)
    options: dict[str, Any] = {}
    if library == "pandas":
        options.update(float_precision="round_trip", low_memory=False)  # exact decimals, one type a column
    return nw.read_csv(str(path), backend=library, separator=DELIMITERS[suffix], **options)


def _refuse_repeated_columns(path: Path, names: list[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        shown = ", ".join(repr(name) for name in repeated[:5])
        more = f" and {len(repeated) - 5} more" if len(repeated) > 5 else ""
        raise InputError(
            f"{path}: duplicate column names: {shown}{more}; every gene and column may occur once"
        )
