"""Submission files: written whole or not at all, and byte-identical for equal input.

The Kaggle format is a CSV with the header `id` and the genes, and one row an id.
"""

import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import written_atomically
from rapids_pipeline.backend.frames import table_suffix
from rapids_pipeline.evaluation.evaluate import PREDICTION_LAYER, match_genes
from rapids_pipeline.ingest import PerturbationData, read_responses

CSV_SUFFIXES = (".csv", ".csv.gz")
BLOCK_VALUES = 2**22
"""Values a block of rows holds, which bounds the memory beside the predictions themselves (16 MB of them)."""


def write_kaggle_csv(
    path: Path,
    ids: Sequence[Any] | NDArray[Any],
    genes: Sequence[str],
    predictions: NDArray[np.floating[Any]],
) -> None:
    """Write predictions as a Kaggle submission.

    Every value is the shortest decimal that reads back as the same float32 (−0 is written as 0). Equal input
    gives equal bytes, gzip included.

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

    Raises
    ------
    InputError
        Another suffix, no rows, shapes that do not fit, an id or gene twice, a value that is not finite, or a
        place where no file can be written. Nothing is written then, and an existing file stays as it was.
    """
    names = [str(name) for name in ids]
    _check(path, names, list(genes), predictions)
    try:
        with written_atomically(path) as temporary, _byte_sink(temporary) as sink:
            sink.write(_header(genes))
            _write_rows(sink, names, genes, predictions)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); choose another place"
        ) from error


def read_predictions(
    path: Path, genes: Sequence[str] | None = None, *, layer: str = PREDICTION_LAYER
) -> PerturbationData:
    """Read a prediction file: a submission, `oof.parquet` or an Open Problems `.h5ad`.

    Parameters
    ----------
    path : Path
        .csv, .tsv (also .gz), .parquet or .h5ad.
    genes : sequence of str, optional
        The genes the file must have, no more and no fewer; the columns come back in this order.
    layer : str
        The layer of a .h5ad file.

    Returns
    -------
    PerturbationData
        `Y` float32, (n_rows, n_genes); `obs` has the columns that are not genes, such as `id`.

    Raises
    ------
    InputError
        As `ingest.read_responses`; or genes missing or unknown.
    """
    data = read_responses(path, layer=layer)
    if genes is None:
        return data
    columns = match_genes(path, data.genes, "the list asked for", genes)
    return PerturbationData(data.obs, np.ascontiguousarray(data.Y[:, columns]), tuple(genes))


def require_csv(path: Path) -> None:
    """Raise InputError where `path` is no name for a Kaggle submission."""
    if table_suffix(path) not in CSV_SUFFIXES:
        raise InputError(f"{path}: a Kaggle submission is a CSV; name it {' or '.join(CSV_SUFFIXES)}")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file")


def _check(
    path: Path, ids: Sequence[str], genes: Sequence[str], predictions: NDArray[np.floating[Any]]
) -> None:
    require_csv(path)
    if not ids or not genes:
        raise InputError(f"{path}: nothing to write ({len(ids)} ids, {len(genes)} genes)")
    if predictions.shape != (len(ids), len(genes)):
        raise InputError(
            f"{path}: not written: the predictions have shape {predictions.shape}, expected "
            f"{(len(ids), len(genes))} for {len(ids)} ids and {len(genes)} genes"
        )
    _refuse_repeated(path, "id", ids)
    _refuse_repeated(path, "gene", ["id", *genes])
    for rows in _blocks(*predictions.shape):
        bad = np.argwhere(~np.isfinite(_as_float32(predictions[rows])))
        if len(bad):
            row, gene = int(bad[0][0]) + rows.start, int(bad[0][1])
            raise InputError(
                f"{path}: not written: the prediction of id {ids[row]} (row {row + 1}) for gene "
                f"{genes[gene]} is {predictions[row, gene]}; every value must be a finite float32"
            )


def _refuse_repeated(path: Path, what: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for position, name in enumerate(names):
        if name in seen:
            raise InputError(
                f"{path}: not written: {what} {name!r} occurs twice (again at position "
                f"{position + (what == 'id')}); {what}s must be unique"
                + (', and none may be named "id"' if what == "gene" else "")
            )
        seen.add(name)


@contextmanager
def _byte_sink(path: Path) -> Iterator[BinaryIO]:
    with path.open("wb") as file:
        if path.suffix.lower() != ".gz":
            yield file
            return
        # No time and no (temporary) file name in the gzip header: equal input, equal bytes.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as compressed:
            yield compressed  # type: ignore[misc]


def _header(genes: Sequence[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(["id", *genes])
    return line.getvalue().encode()


def _write_rows(
    sink: BinaryIO, ids: Sequence[str], genes: Sequence[str], predictions: NDArray[np.floating[Any]]
) -> None:
    import pyarrow as pa
    from pyarrow.csv import CSVWriter, WriteOptions

    schema = pa.schema([("id", pa.string()), *((gene, pa.float32()) for gene in genes)])
    plain = not any(set(name) & set(',"\r\n') for name in ids)  # pyarrow's "needed" quotes every text
    options = WriteOptions(include_header=False, quoting_style="none" if plain else "needed")
    with CSVWriter(sink, schema, write_options=options) as writer:
        for rows in _blocks(*predictions.shape):
            by_gene = np.ascontiguousarray(_as_float32(predictions[rows]).T) + np.float32(0)  # −0 → 0
            columns = [pa.array(ids[rows], pa.string()), *map(pa.array, by_gene)]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _as_float32(values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # becomes inf, which is refused by name
        return values.astype(np.float32, copy=False)


def _blocks(n_rows: int, n_genes: int) -> Iterator[slice]:
    step = max(1, BLOCK_VALUES // n_genes)
    return (slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step))
