"""The ids and genes a submission should have, in their order, from files."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.frames import (
    TABLE_SUFFIXES,
    column_names,
    read_table,
    require_file,
    table_suffix,
)
from rapids_pipeline.data.checks import as_text, require_columns, some_of
from rapids_pipeline.data.columns import PAIR, TEST_COLUMNS
from rapids_pipeline.data.tables import split_table
from rapids_pipeline.predictions.open_problems import genes_of_h5ad


@dataclass(frozen=True)
class IdMap:
    """The rows of a submission in order.

    Attributes
    ----------
    ids : list of str
    pairs : pandas.DataFrame or None
        `cell_type` and `sm_name` of the rows, as text, where the file has them.
    """

    ids: list[str]
    pairs: pd.DataFrame | None = None


def read_id_map(path: Path) -> IdMap:
    """Read ids in order: any table with a column `id`, such as `id_map.csv` or a sample submission.

    Raises
    ------
    InputError
        As `read_table`; no column `id`, a row without one, or an id twice.
    """
    table = read_table(path, text=TEST_COLUMNS)
    pairs = table.select([name for name in TEST_COLUMNS if name in table.columns]).to_arrow().to_pandas()
    require_columns(path, pairs, ["id"])
    return id_map_of(path, pairs)


def id_map_of(path: Path, pairs: pd.DataFrame) -> IdMap:
    """Return the rows of a table with `id` and maybe `cell_type` and `sm_name`; `path` is for messages."""
    ids = [str(value) for value in pairs["id"]]
    _refuse_repeated(path, "id", ids)
    if not set(PAIR) <= set(pairs.columns):
        return IdMap(ids)
    return IdMap(ids, as_text(path, pairs, PAIR)[PAIR].reset_index(drop=True))


def read_gene_list(path: Path) -> list[str]:
    """Read gene names in order: a text file with one a line, or the genes of a table or .h5ad file.

    Raises
    ------
    InputError
        As `read_table` and `split_table`; no names; a name twice.
    """
    require_file(path)
    suffix = table_suffix(path)
    if suffix == ".h5ad":
        genes = genes_of_h5ad(path)
    elif suffix in TABLE_SUFFIXES:
        if len(column_names(path)) == 1:
            raise InputError(
                f"{path}: is a table of one column; a list of genes is a .txt file, one name a line"
            )
        genes = split_table(path, read_table(path, text=TEST_COLUMNS))[2]
    else:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: is no text; a list of genes has one name a line") from error
        genes = [line.strip() for line in lines if line.strip()]
    if not genes:
        raise InputError(f"{path}: names no genes")
    _refuse_repeated(path, "gene", genes)
    return genes


def _refuse_repeated(path: Path, what: str, names: Sequence[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise InputError(f"{path}: duplicate {what}: {some_of(repeated)}; every {what} may occur once")
