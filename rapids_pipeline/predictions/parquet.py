"""Submissions as Parquet: a column `id`, then one float32 column a gene."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rapids_pipeline.predictions.table import Predictions, as_float32, require_complete, written_submission


def write_parquet(path: Path, ids: Sequence[Any], genes: Sequence[str], predictions: Predictions) -> None:
    """Write predictions as Parquet; equal input gives equal bytes.

    `id` is int64 where every id is an integer as `str(int)` writes it, otherwise text. Parameters and errors as
    `kaggle.write_kaggle_csv`.
    """
    import pyarrow as pa
    from pyarrow.parquet import write_table

    names = [str(name) for name in ids]
    require_complete(path, names, list(genes), predictions)
    by_gene = np.ascontiguousarray(as_float32(predictions).T)
    column = pa.array([int(name) for name in names], pa.int64()) if all(map(is_integer, names)) else names
    table = pa.table([column, *map(pa.array, by_gene)], names=["id", *genes])
    with written_submission(path) as temporary:
        write_table(table, temporary)


def is_integer(name: str) -> bool:
    """Say whether `name` is a 64-bit integer as Python writes it: 0, 12, -3; not 007, 1.0 or 1e3."""
    return re.fullmatch(r"0|-?[1-9]\d{0,17}", name) is not None
