"""What every submission file must be before a byte of it is written: a finite float32 for each id and gene."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import written_atomically
from rapids_pipeline.backend.frames import table_suffix

CSV_SUFFIXES = (".csv", ".csv.gz")
SUBMISSION_SUFFIXES = (*CSV_SUFFIXES, ".parquet", ".h5ad")
BLOCK_VALUES = 2**22
"""Values a block of rows holds, which bounds the memory beside the predictions themselves (16 MB of them)."""

Predictions = NDArray[np.floating[Any]]


def require_submission(path: Path) -> None:
    """Raise InputError where the name of `path` is that of no submission format."""
    if table_suffix(path) not in SUBMISSION_SUFFIXES:
        raise InputError(
            f"{path}: unknown submission format; name it {', '.join(SUBMISSION_SUFFIXES[:-1])} "
            f"or {SUBMISSION_SUFFIXES[-1]}"
        )
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file")


def require_complete(path: Path, ids: Sequence[str], genes: Sequence[str], predictions: Predictions) -> None:
    """Raise InputError unless `predictions` are a finite float32 for every id (row) and gene (column).

    Ids and genes must be unique, and no gene may be named "id". `path` is what would be written, for messages.
    """
    if not ids or not genes:
        raise InputError(f"{path}: nothing to write ({len(ids)} ids, {len(genes)} genes)")
    if predictions.shape != (len(ids), len(genes)):
        raise InputError(
            f"{path}: not written: the predictions have shape {predictions.shape}, expected "
            f"{(len(ids), len(genes))} for {len(ids)} ids and {len(genes)} genes"
        )
    _refuse_repeated(path, "id", ids)
    _refuse_repeated(path, "gene", ["id", *genes])
    for rows in blocks(*predictions.shape):
        bad = np.argwhere(~np.isfinite(as_float32(predictions[rows])))
        if len(bad):
            row, gene = int(bad[0][0]) + rows.start, int(bad[0][1])
            raise InputError(
                f"{path}: not written: the prediction of id {ids[row]} (row {row + 1}) for gene "
                f"{genes[gene]} is {predictions[row, gene]}; every value must be a finite float32"
            )


@contextmanager
def written_submission(path: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` on success; a place that cannot be written is an InputError."""
    try:
        with written_atomically(path) as temporary:
            yield temporary
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); choose another place"
        ) from error


def as_float32(values: Predictions) -> NDArray[np.float32]:
    """Return `values` as float32; what is too large becomes infinite, without a warning."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def blocks(n_rows: int, n_genes: int) -> Iterator[slice]:
    """Return slices of rows that hold at most `BLOCK_VALUES` values each, or one row."""
    step = max(1, BLOCK_VALUES // n_genes)
    return (slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step))


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
