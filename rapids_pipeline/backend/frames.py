"""Tables from files, through one narwhals code path for pandas, polars and cuDF.

The library that reads is chosen by name (`library_for(device)`: pandas on a CPU, cuDF on a GPU). What comes
back is a narwhals DataFrame, so no caller knows which library read it.
"""

import csv
import gzip
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import narwhals as nw
import pandas as pd

from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.errors import InputError, PerturbError, one_line, quoted, shown
from rapids_pipeline.backend.limits import refuse_large, require_file

FrameLibrary = Literal["pandas", "polars", "cudf"]
PARQUET_SUFFIXES = (".parquet", ".pq")
DELIMITERS = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t", ".txt": "\t", ".txt.gz": "\t"}
"""The delimiter that a suffix names, where a file's own header does not say another."""
LONGEST_LINE, MOST_COLUMNS = 2**25, 1_000_000
"""Characters and columns of a text file's first lines."""
TABLE_SUFFIXES = (*PARQUET_SUFFIXES, *DELIMITERS)


class TextLayout(NamedTuple):
    """How a text file writes a table: column names, repeated ones included; "," ";" or tab; "." or ","."""

    names: list[str]
    delimiter: str
    decimal: str


def library_for(device: DeviceName) -> FrameLibrary:
    """Return the frame library of a device: pandas on "cpu", cuDF on "cuda"."""
    return "cudf" if device == "cuda" else "pandas"


@contextmanager
def readable_as(kind: str, path: Path) -> Iterator[None]:
    """Turn whatever a reader raises about a broken file into an InputError; `kind` is what the file should be."""
    try:
        yield
    except PerturbError:
        raise
    except Exception as error:  # every reader has its own errors
        reason = one_line(str(error), 200)
        raise InputError(f"{path}: cannot be read as {kind} ({reason}); is the file complete?") from error


def table_suffix(path: Path) -> str:
    """Return the suffix that names the table format of `path`, ".csv.gz" included, in lower case."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return "".join(suffixes[-2:]) if suffixes[-1:] == [".gz"] else "".join(suffixes[-1:])


def read_table(
    path: Path, library: FrameLibrary = "pandas", *, text: Callable[[str], bool] = lambda _: False
) -> nw.DataFrame[Any]:
    """Read a Parquet, CSV or TSV file.

    Parameters
    ----------
    path : Path
        A file ending in .parquet, .pq, .csv, .tsv or .txt (the last three also with .gz). Of a text file the delimiter
        (comma, semicolon, tab) and the decimal sign (point, comma) are those that its first lines have.
    library : {"pandas", "polars", "cudf"}
        The library that reads it; Parquet is read by pyarrow for pandas.
    text : callable
        Says by its name whether a column of a text file stays text where it looks like numbers ("007").

    Returns
    -------
    narwhals.DataFrame
        Column names verbatim. Decimal numbers of text files are read exactly (to the nearest float64), by cuDF to
        within some units of its last place. Row labels without a name, such as pandas writes them, are left out;
        those with one are a column.

    Raises
    ------
    InputError
        The file is missing, empty, unreadable, of an unknown kind, UTF-16 text, has no rows, or repeats a column name.
    """
    require_file(path)
    suffix = table_suffix(path)
    if suffix not in TABLE_SUFFIXES:
        raise InputError(f"{path}: unknown file type; expected one of {', '.join(TABLE_SUFFIXES)}")
    with readable_as("Parquet" if suffix in PARQUET_SUFFIXES else "CSV/TSV", path):
        table = (
            _read_parquet(path, library) if suffix in PARQUET_SUFFIXES else _read_text(path, library, text)
        )
    if len(table) == 0:
        raise InputError(f"{path}: the table has a header but no rows")
    return table


def as_pandas(table: nw.DataFrame[Any]) -> pd.DataFrame:
    """Return a table of any library as pandas, with rows numbered from 0; here data leave the device."""
    made: pd.DataFrame = table.to_arrow().replace_schema_metadata(None).to_pandas()
    return made


def without_row_labels(table: nw.DataFrame[Any]) -> nw.DataFrame[Any]:
    """Return a table whose rows have no labels: pandas' and cuDF's named ones become columns, others go."""
    native = nw.to_native(table)
    named = [name for name in getattr(getattr(native, "index", None), "names", []) if name is not None]
    if named:
        table = nw.from_native(native.reset_index(level=named), eager_only=True)
    table = nw.maybe_reset_index(table)
    return table.drop([name for name in table.columns if _is_row_label(name)])


def refuse_repeated_columns(name: str, columns: Sequence[str]) -> None:
    """Raise InputError where a column name of the table called `name` occurs twice."""
    repeated = [column for column, count in Counter(columns).items() if count > 1]
    if repeated:
        shown = ", ".join(repr(column) for column in repeated[:5])
        more = f" and {len(repeated) - 5} more" if len(repeated) > 5 else ""
        raise InputError(
            f"{name}: duplicate column names: {shown}{more}; every gene and column may occur once"
        )


def opened_parquet(path: Path) -> Any:
    """Return an open `pyarrow.parquet.ParquetFile`; InputError where it declares more than such a file can hold.

    Also where a column holds no single values, such as lists or bytes.
    """
    from pyarrow.parquet import ParquetFile

    file = ParquetFile(path, memory_map=True)
    about = file.metadata
    groups = [about.row_group(k) for k in range(about.num_row_groups)]
    chunks = [group.column(k) for group in groups for k in range(group.num_columns)]
    values = max(about.num_rows * about.num_columns, sum(chunk.num_values for chunk in chunks))
    refuse_large(
        path, max(4 * values, sum(chunk.total_uncompressed_size for chunk in chunks)), "what it declares"
    )
    for column in file.schema_arrow:
        if not _is_plain(column.type):
            raise InputError(
                f"{path}: column {quoted(column.name)} holds {shown(column.type)}, expected text, numbers or dates; "
                "make it one of these, or drop it"
            )
    return file


def _is_plain(kind: Any) -> bool:
    """Say whether values of an Arrow type are single, and text, numbers, truth values or dates."""
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    raw = types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    return not (raw or types.is_nested(kind) or types.is_binary_view(kind))


def column_names(path: Path) -> list[str]:
    """Return a table's column names as the file has them, repeated ones included, reading only its head."""
    if table_suffix(path) in PARQUET_SUFFIXES:
        return list(opened_parquet(path).schema_arrow.names)
    return text_layout(path).names


def text_layout(path: Path) -> TextLayout:
    """Return how a text file writes its table, by its first lines; InputError where it is UTF-16."""
    suffix = table_suffix(path)
    opener: Any = gzip.open if suffix.endswith(".gz") else open
    with opener(path, "rb") as stream:
        start = stream.read(4)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in start:
        raise InputError(f"{path}: is UTF-16 text; save it as UTF-8 (in Excel: CSV UTF-8)")
    with opener(path, "rt", encoding="utf-8-sig", newline="") as stream:
        lines = list(filter(None, (stream.readline(LONGEST_LINE) for _ in range(4))))
    if any(len(line) == LONGEST_LINE for line in lines):
        raise InputError(f"{path}: a line of it has more than {LONGEST_LINE:,} characters; is it a table?")
    bare = re.sub(r'"[^"]*"', "", lines[0] if lines else "")
    usual = DELIMITERS[suffix]
    delimiter = max(usual, *",;\t", key=bare.count)  # of equals the first
    if bare.count(delimiter) > MOST_COLUMNS:
        raise InputError(f"{path}: has more than {MOST_COLUMNS:,} columns; is it a table?")
    with opener(path, "rt", encoding="utf-8-sig", newline="") as stream:
        names = next(csv.reader(stream, delimiter=delimiter), [])
    found = [] if delimiter == "," and not any('"' in line for line in lines) else lines[1:]
    values = [value for row in csv.reader(found, delimiter=delimiter) for value in row]
    commas = any(re.fullmatch(r"\s*[-+]?\d*,\d+(e[-+]?\d+)?\s*", value, re.I) for value in values)
    points = any(re.fullmatch(r"\s*[-+]?\d*\.\d+(e[-+]?\d+)?\s*", value, re.I) for value in values)
    return TextLayout(names, delimiter, "," if commas and not points else ".")


def first_labels(path: Path) -> "pd.Series[Any]":
    """Return the row labels of a table file without a name, otherwise its first column."""
    if table_suffix(path) in PARQUET_SUFFIXES:
        file = opened_parquet(path)
        labels = [name for name in file.schema_arrow.names if _is_row_label(name)] or file.schema_arrow.names[
            :1
        ]
        return pd.Series(file.read(columns=labels[:1]).column(0).to_pylist())
    layout = text_layout(path)
    return pd.read_csv(path, sep=layout.delimiter, usecols=[0], dtype="str").iloc[:, 0]


def _read_parquet(path: Path, library: FrameLibrary) -> nw.DataFrame[Any]:
    file = opened_parquet(path)
    if library != "pandas":
        refuse_repeated_columns(str(path), file.schema_arrow.names)
        return without_row_labels(nw.read_parquet(str(path), backend=library))
    native = file.read()
    refuse_repeated_columns(str(path), native.column_names)
    return without_row_labels(nw.from_native(native, eager_only=True))


def _read_text(path: Path, library: FrameLibrary, text: Callable[[str], bool]) -> nw.DataFrame[Any]:
    layout = text_layout(path)
    refuse_repeated_columns(str(path), layout.names)
    kept = [name for name in layout.names if text(name)]
    options: dict[str, Any] = {"dtype": dict.fromkeys(kept, "str"), "decimal": layout.decimal}
    if library == "pandas":
        options["low_memory"] = False  # one type a column
        if [int(part) for part in metadata.version("pandas").split(".")[:2]] < [3, 1]:
            options["float_precision"] = "round_trip"  # exact decimals, which pandas 3.1 reads by itself
    elif library == "polars":
        import polars as pl

        options = {"schema_overrides": dict.fromkeys(kept, pl.String), "infer_schema_length": None}
        options["decimal_comma"] = layout.decimal == ","
    table = nw.read_csv(str(path), backend=library, separator=layout.delimiter, **options)
    stripped = {name: name.strip() for name in table.columns if name != name.strip()}
    return without_row_labels(table.rename(stripped) if stripped else table)


def _is_row_label(name: str) -> bool:
    """Say whether a column is pandas' unnamed row labels, as each library that reads them calls it."""
    return name in ("", "Unnamed: 0") or name.startswith("__index_level_")
