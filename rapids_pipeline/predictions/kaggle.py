"""Kaggle submissions: a CSV with the header `id` and the genes, and one row an id; equal input, equal bytes."""

import csv
import gzip
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.frames import table_suffix
from rapids_pipeline.predictions.table import (
    CSV_SUFFIXES,
    Predictions,
    as_float32,
    blocks,
    require_complete,
    written_submission,
)


def write_kaggle_csv(
    path: Path,
    ids: Sequence[Any] | NDArray[Any],
    genes: Sequence[str],
    predictions: Predictions,
    *,
    float_format: str | None = None,
) -> None:
    """Write predictions as a Kaggle submission.

    Every value is the shortest decimal that reads back as the same float32, or has the digits of
    `float_format`; −0 is written as 0 either way. Equal input gives equal bytes, gzip included.

    Parameters
    ----------
    path : Path
        Ends in .csv, or in .csv.gz for a gzip file. Its folder is made; an existing file is replaced.
    ids : sequence, (n_rows,)
        Unique row ids, written in this order.
    genes : sequence of str, (n_genes,)
        Unique names, other than "id".
    predictions : numpy.ndarray, (n_rows, n_genes)
        Written as float32; all finite as such.
    float_format : str, optional
        As `format_spec` takes it: "6" for six significant digits, or "%.4f".

    Raises
    ------
    InputError
        Another suffix, no rows, shapes that do not fit, an id or gene twice, a value that is not finite, a
        format that is none, or a place where no file can be written. Nothing is written then, and an existing
        file stays as it was.
    """
    spec = None if float_format is None else format_spec(float_format)
    names = [str(name) for name in ids]
    require_csv(path)
    require_complete(path, names, list(genes), predictions)
    with written_submission(path) as temporary, _byte_sink(temporary) as sink:
        sink.write(_line(["id", *genes]))
        if spec is None:
            _write_rows(sink, names, genes, predictions)
        else:
            _write_formatted_rows(sink, names, predictions, spec)


def require_csv(path: Path) -> None:
    """Raise InputError where `path` is no name for a Kaggle submission."""
    if table_suffix(path) not in CSV_SUFFIXES:
        raise InputError(f"{path}: a Kaggle submission is a CSV; name it {' or '.join(CSV_SUFFIXES)}")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file")


def format_spec(float_format: str) -> str:
    """Return Python's format specification of "6" (significant digits) or "%.6g", "%.4f", "%.3e".

    Raises
    ------
    InputError
        Anything else, no significant digit, or more than 17 digits.
    """
    found = re.fullmatch(r"(?:(\d{1,2})|%\.(\d{1,2})([efg]))", float_format.strip())
    if found:
        digits, kind = (found[1], "g") if found[1] else (found[2], found[3])
        if (kind != "g" or int(digits) >= 1) and int(digits) <= 17:
            return f"z.{int(digits)}{kind}"  # z: what rounds to −0 is 0
    raise InputError(
        f"--float-format {float_format}: is no format; give a number of significant digits (1 to 17), or a format "
        "such as %.6g, %.4f or %.3e"
    )


@contextmanager
def _byte_sink(path: Path) -> Iterator[BinaryIO]:
    with path.open("wb") as file:
        if path.suffix.lower() != ".gz":
            yield file
            return
        # No time and no (temporary) file name in the gzip header: equal input, equal bytes.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as compressed:
            yield compressed  # type: ignore[misc]


def _line(fields: Sequence[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(fields)
    return line.getvalue().encode()


def _quoted(ids: Sequence[str]) -> bool:
    return any(set(name) & set(',"\r\n') for name in ids)


def _write_rows(sink: BinaryIO, ids: Sequence[str], genes: Sequence[str], predictions: Predictions) -> None:
    import pyarrow as pa
    from pyarrow.csv import CSVWriter, WriteOptions

    schema = pa.schema([("id", pa.string()), *((gene, pa.float32()) for gene in genes)])
    style = "needed" if _quoted(ids) else "none"  # pyarrow's "needed" quotes every text
    options = WriteOptions(include_header=False, quoting_style=style)
    with CSVWriter(sink, schema, write_options=options) as writer:
        for rows in blocks(*predictions.shape):
            by_gene = np.ascontiguousarray(as_float32(predictions[rows]).T) + np.float32(0)  # −0 → 0
            columns = [pa.array(ids[rows], pa.string()), *map(pa.array, by_gene)]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _write_formatted_rows(sink: BinaryIO, ids: Sequence[str], predictions: Predictions, spec: str) -> None:
    template = ",".join([f"{{:{spec}}}"] * predictions.shape[1])
    for rows in blocks(*predictions.shape):
        for name, values in zip(ids[rows], as_float32(predictions[rows]), strict=True):
            sink.write(_line([name])[:-1] + f",{template.format(*values.tolist())}\n".encode())
