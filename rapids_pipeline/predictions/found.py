"""Submission files as they are found, faults and all, so that every fault can be told at once."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.frames import column_names, require_file, table_suffix
from rapids_pipeline.predictions.open_problems import open_prediction
from rapids_pipeline.predictions.table import CSV_SUFFIXES, require_submission

LONGEST_ROW = 2**26
"""Bytes a row of a CSV may have, at most."""
NUMBER = re.compile(r"\s*[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf(inity)?|nan)\s*", re.IGNORECASE)
Strings = list[str | None]


@dataclass
class Found:
    """A submission file as it is.

    Attributes
    ----------
    ids : list of str or None
        The ids of the rows that could be read, "" where there is none; None without a column `id`.
    columns : list of str
        The other columns, in the order of the file: genes, and whatever else there may be, also twice.
    Y : numpy.ndarray of float64, (n_rows, n_columns), or None
        NaN where there is no number, 0 where there is text; None where the file has no predictions at all.
    text : list of (row, column, value)
        Text in the place of a number, by position in `Y`.
    rows : list of int
        The number of each row in the file, from 1, header excluded.
    broken : list of str
        The ids of rows with too few or too many values, which are not among `ids`.
    faults : list of str
        What is wrong with the file as such, a line each.
    """

    ids: list[str] | None
    columns: list[str]
    Y: NDArray[np.float64] | None
    rows: list[int]
    text: list[tuple[int, int, str]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def read_found(path: Path) -> Found:
    """Read a submission: .csv, .csv.gz, .parquet or .h5ad.

    Raises
    ------
    InputError
        The file is missing, empty, of an unknown kind, or cannot be read at all.
    UnavailableError
        A .h5ad file without anndata installed.
    """
    require_submission(path)
    require_file(path)
    suffix = table_suffix(path)
    if suffix == ".h5ad":
        ids, genes, values, faults = open_prediction(path)
        texts = [id_text(value) for value in ids]
        return Found(texts, genes, values, _numbers(len(texts)), faults=faults)
    try:
        return _read_csv(path) if suffix in CSV_SUFFIXES else _read_parquet(path)
    except InputError:
        raise
    except Exception as error:  # pyarrow, gzip and the csv module have their own errors for a broken file
        reason = " ".join(str(error).split())[:200]
        kind = "CSV" if suffix in CSV_SUFFIXES else "Parquet"
        raise InputError(f"{path}: cannot be read as {kind} ({reason}); is the file complete?") from error


def id_text(value: Any) -> str:
    """Return an id as text, "" for None."""
    return "" if value is None else str(value)


def _numbers(n: int) -> list[int]:
    return list(range(1, n + 1))


def _id_column(columns: Sequence[str], *, must_be_first: bool) -> tuple[int | None, list[str]]:
    """Return the position of `id`, and what is wrong with it."""
    places = [k for k, name in enumerate(columns) if name == "id"]
    if not places:
        shown = ", ".join(columns[:3])[:100]
        return None, [f"missing column 'id' (its first columns are: {shown}); name the column of row ids so"]
    faults = []
    if must_be_first and places[0] != 0:
        faults.append(f"column 'id' is column {places[0] + 1}; it must be the first")
    return places[0], faults


# --- CSV --------------------------------------------------------------------------------------------------


def _read_csv(path: Path) -> Found:
    columns = column_names(path)
    place, faults = _id_column(columns, must_be_first=True)
    others = [k for k in range(len(columns)) if k != place]
    table, invalid = _parse(path, len(columns), place)
    rows, broken = _numbers(table.num_rows), []
    if invalid:
        numbers = {row.number - 1 for row in invalid}  # from 1, the header included
        rows = [k for k in range(1, table.num_rows + len(numbers) + 1) if k not in numbers]
        broken = [next(csv.reader([row.text]))[place] if place is not None else "" for row in invalid[:]]
        first = invalid[0]
        faults.append(
            f"wrong number of values in {len(invalid)} row(s): row {first.number - 1} (id {broken[0]}) has "
            f"{first.actual_columns}, the header {first.expected_columns}"
        )
    ids = None if place is None else [id_text(value) for value in table.column(place).to_pylist()]
    values = np.empty((len(others), table.num_rows))
    text: list[tuple[int, int, str]] = []
    for k, column in enumerate(others):
        values[k] = _numeric(table.column(column), k, text)
    return Found(ids, [columns[k] for k in others], values.T, rows, text, broken, faults)


def _parse(path: Path, n_columns: int, place: int | None) -> tuple[Any, list[Any]]:
    """Return the body of a CSV as an Arrow table, and its rows with another number of values than the header.

    Columns are named by position, since their own names may repeat. All but the ids are numbers, or all are text
    where one of them does not read as numbers.
    """
    import pyarrow as pa

    number = {str(k): pa.float64() for k in range(n_columns) if k != place}
    text = {str(k): pa.string() for k in range(n_columns)}
    try:
        return _parse_as(path, n_columns, text | number, text_is_null=False)
    except pa.ArrowInvalid as error:
        if "conversion error to double" not in str(error):
            raise
    table, invalid = _parse_as(path, n_columns, text, text_is_null=True)
    if place is not None:  # where "NA" is an id as good as any
        ids, _ = _parse_as(path, n_columns, text, text_is_null=False, columns=[str(place)])
        table = table.set_column(place, str(place), ids.column(0))
    return table, invalid


def _parse_as(
    path: Path, n_columns: int, types: dict[str, Any], *, text_is_null: bool, columns: Sequence[str] = ()
) -> tuple[Any, list[Any]]:
    import pyarrow as pa
    from pyarrow import csv as arrow

    def read(use_threads: bool) -> tuple[Any, list[Any]]:
        invalid: list[Any] = []

        def skip(row: Any) -> str:
            invalid.append(row)
            return "skip"

        names = [str(k) for k in range(n_columns)]
        with pa.input_stream(
            str(path), compression="gzip" if table_suffix(path).endswith(".gz") else None
        ) as file:
            table = arrow.read_csv(
                file,
                arrow.ReadOptions(
                    column_names=names,
                    skip_rows_after_names=1,
                    use_threads=use_threads,
                    block_size=LONGEST_ROW,
                ),
                arrow.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
                arrow.ConvertOptions(
                    column_types=types, strings_can_be_null=text_is_null, include_columns=list(columns)
                ),
            )
        return table, invalid

    table, invalid = read(use_threads=True)
    return read(use_threads=False) if invalid else (table, invalid)  # only one thread knows row numbers


# --- Parquet ----------------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> Found:
    from pyarrow.parquet import ParquetFile

    table = ParquetFile(path).read()
    labels = [k for k, name in enumerate(table.column_names) if name.startswith("__index_level_")]
    columns = list(table.column_names)
    place, faults = _id_column(columns, must_be_first=False)
    others = [k for k in range(len(columns)) if k != place and k not in labels]
    ids = None if place is None else [id_text(value) for value in table.column(place).to_pylist()]
    values = np.empty((len(others), table.num_rows))
    text: list[tuple[int, int, str]] = []
    for k, column in enumerate(others):
        values[k] = _numeric(table.column(column), k, text)
    return Found(ids, [columns[k] for k in others], values.T, _numbers(table.num_rows), text, faults=faults)


# --- Columns ----------------------------------------------------------------------------------------------


def _numeric(column: Any, position: int, text: list[tuple[int, int, str]]) -> NDArray[np.float64]:
    """Return an Arrow column as numbers; text among them is added to `text`."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return np.asarray(column.to_numpy(), dtype=np.float64)
    numbers = np.full(len(column), np.nan)
    for row, value in enumerate(column.to_pylist()):
        if isinstance(value, str) and NUMBER.fullmatch(value) and pa.types.is_string(kind):
            numbers[row] = float(value)
        elif value is not None:
            numbers[row] = 0.0
            text.append((row, position, str(value)))
    return numbers
