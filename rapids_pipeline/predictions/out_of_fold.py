"""What several runs score on their training rows, and what their combination scores, out-of-fold.

Other seeds deal the training rows into other folds, but each run predicts every row by models that never saw it.
The median of those predictions has not seen it either, so its score is out-of-fold like each run's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.frames import require_file
from rapids_pipeline.data.columns import PAIR
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.predictions.combination import aggregate
from rapids_pipeline.predictions.table import BLOCK_VALUES

REMEDY = "it is not as a run leaves it"


@dataclass(frozen=True)
class OutOfFoldScores:
    """MRRMSE of the training rows, out-of-fold.

    Attributes
    ----------
    n_rows : int
        Training rows.
    single : list of float
        Of each run, in their order.
    combination : float
        Of the median or mean of the runs' predictions.
    """

    n_rows: int
    single: list[float]
    combination: float


def out_of_fold_scores(
    files: Sequence[Path], truth: PerturbationData, train: Path, how: str
) -> OutOfFoldScores:
    """Return the MRRMSE of out-of-fold predictions and of their combination.

    Predictions are read a block of genes at a time, so that the memory does not grow with the number of runs.

    Parameters
    ----------
    files : sequence of Path
        `oof.parquet` of each run: the rows of the training file in its order.
    truth : PerturbationData
        The training file.
    train : Path
        Where `truth` is from, for messages.
    how : {"median", "mean"}

    Raises
    ------
    InputError
        A file that cannot be read, or has other rows or genes than the training file, or a value that is not finite.
    """
    opened = [_opened(path, truth, train) for path in files]
    squares = np.zeros((len(files) + 1, len(truth.Y)))
    for columns in _gene_blocks(len(truth.Y) * len(files), len(truth.genes)):
        genes = truth.genes[columns]
        tables = [_values(path, file, genes) for path, file in zip(files, opened, strict=True)]
        for total, table in zip(squares, [*tables, aggregate(tables, how)], strict=True):
            difference = table - truth.Y[:, columns].astype(np.float64)
            total += np.einsum("ij,ij->i", difference, difference)
    *single, combination = np.sqrt(squares / len(truth.genes)).mean(axis=1).tolist()
    return OutOfFoldScores(len(truth.Y), single, combination)


def _gene_blocks(n_values: int, n_genes: int) -> Iterator[slice]:
    """Return slices of genes that have at most `BLOCK_VALUES` values, or one gene; `n_values` are those of a gene."""
    step = max(1, BLOCK_VALUES // n_values)
    return (slice(start, min(start + step, n_genes)) for start in range(0, n_genes, step))


def _opened(path: Path, truth: PerturbationData, train: Path) -> Any:
    """Return an open `oof.parquet` that has the rows of `truth`, in their order, and its genes."""
    from pyarrow.parquet import ParquetFile

    require_file(path)
    try:
        file = ParquetFile(path)
        names = set(file.schema_arrow.names)
        absent = [name for name in (*PAIR, *truth.genes) if name not in names]
        pairs = [] if absent else _pairs(file)
    except Exception as error:  # pyarrow has many errors for a broken file
        raise _unreadable(path, error) from error
    if absent:
        raise InputError(f"{path}: lacks {len(absent)} column(s) of {train} ({absent[0]!r}); {REMEDY}")
    expected = list(truth.obs[PAIR].itertuples(index=False, name=None))
    if len(pairs) != len(expected):
        raise InputError(f"{path}: has {len(pairs)} rows, {train} has {len(expected)}; {REMEDY}")
    for number, (found, pair) in enumerate(zip(pairs, expected, strict=True), start=1):
        if found != pair:
            raise InputError(f"{path}: row {number} is {found}, but {pair} in {train}; {REMEDY}")
    return file


def _pairs(file: Any) -> list[tuple[str, ...]]:
    table = file.read(columns=PAIR)
    columns = [[str(value) for value in table.column(name).to_pylist()] for name in PAIR]
    return list(zip(*columns, strict=True))


def _values(path: Path, file: Any, genes: Sequence[str]) -> NDArray[np.float32]:
    """Return the predictions of some genes: float32, (n_rows, n_genes)."""
    try:
        table = file.read(columns=list(genes))
        values = np.column_stack([table.column(gene).to_numpy() for gene in genes]).astype(np.float32)
    except Exception as error:  # as in `_opened`
        raise _unreadable(path, error) from error
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, gene = bad[0]
        raise InputError(f"{path}: row {row + 1}, gene {genes[gene]} is {values[row, gene]}; {REMEDY}")
    return values


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200]
    return InputError(f"{path}: cannot be read as Parquet ({reason}); is the file complete?")
