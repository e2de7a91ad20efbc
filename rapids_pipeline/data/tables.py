"""Files → `PerturbationData`: metadata and targets, checked before anything is computed.

Training files are the Kaggle `de_train.parquet`, the Open Problems `de_train.h5ad`, L1000's GCT, or any table with a
cell type, a compound and its SMILES under one of the names of `columns`; test files list the pairs to predict. Genes
are the numeric columns that are no metadata (`genes`); position never matters.

Row numbers in messages count data rows from 1, header excluded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
from narwhals.typing import IntoDataFrame

from rapids_pipeline.backend.arrays import Float32, Float64, Indices, row_blocks
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.frames import (
    FrameLibrary,
    as_pandas,
    first_labels,
    read_table,
    refuse_repeated_columns,
    table_suffix,
    without_row_labels,
)
from rapids_pipeline.data.checks import (
    as_text,
    check_smiles,
    refuse_long,
    refuse_non_finite,
    refuse_text_among_numbers,
    refuse_unusable,
    some_of,
    with_structures,
)
from rapids_pipeline.data.columns import (
    AS_OURS,
    PAIR,
    TRAINING_COLUMNS,
    TableOptions,
    meaning_of,
    read_as_text,
)
from rapids_pipeline.data.genes import check_genes, is_metadata, listed_genes, looks_like_gene
from rapids_pipeline.data.labels import with_known_labels
from rapids_pipeline.data.meanings import with_meanings
from rapids_pipeline.data.readers import READERS, Matrix, matrix_of_anndata, read_matrix

GENES_AT_ONCE = 256
"""Genes whose columns of a table become columns of the targets at a time."""


@dataclass(frozen=True)
class PerturbationData:
    """Measured responses: one row a (cell type, compound) pair, one column a gene.

    Attributes
    ----------
    obs : pandas.DataFrame
        Metadata, (n_samples, any number of columns), index 0 … n_samples-1 in file order; has at least
        `cell_type`, `sm_name` and `SMILES` ("" where the structure is not known); where the file has them `dose_uM`
        (µM), `time_h`, `n_cells`, `weight` (float64), `batch` and `replicate` (text).
    Y : numpy.ndarray of float32, (n_samples, n_targets), C-contiguous
        The responses, in the unit of the file (sign(logFC)·−log10 p, z-scores, …); finite, or NaN where a gene was
        not tested (`rapids_pipeline.data.untested`).
    genes : tuple of str
        The n_targets column names of `Y`.
    notes : tuple of str
        What a person should know of how the file was read.
    weight : numpy.ndarray of float64, (n_samples,), optional
        What each row counts in fits, 1 on average, where rows are means of replicates; all alike by default.
    """

    obs: pd.DataFrame
    Y: Float32
    genes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    weight: Float64 | None = None

    def take(self, rows: Indices) -> "PerturbationData":
        """Return the data of some rows, in the order asked for."""
        weight = None if self.weight is None else self.weight[rows]
        obs = self.obs.iloc[rows].reset_index(drop=True)
        return replace(self, obs=obs, Y=np.ascontiguousarray(self.Y[rows]), weight=weight)


def read_training(
    path: Path, options: TableOptions = AS_OURS, *, library: FrameLibrary = "pandas"
) -> PerturbationData:
    """Read and check a training file.

    Parameters
    ----------
    path : Path
        .parquet, .csv, .tsv, .txt (the last three also with .gz), .h5ad, .gct (also with .gz) or .gctx.
    options : TableOptions
    library : {"pandas", "polars", "cudf"}
        What reads the tables.

    Raises
    ------
    InputError
        Missing, empty or unreadable file; missing column or value; two columns for one meaning; duplicate gene names;
        numeric columns that seem to be no genes; text among the numbers of a gene; infinite target; a gene or a row
        without any target; one compound with two SMILES; invalid SMILES.
    UnavailableError
        A .h5ad or .gctx file without anndata installed, or RDKit missing.
    """
    apart = options.genes is not None or table_suffix(path) in READERS
    data = _with_columns(path, _matrix(path, options, library), options, True)
    return _checked_training(path, data, apart, options.structures)


def training_from_frame(
    frame: IntoDataFrame | Any, name: str, options: TableOptions = AS_OURS
) -> PerturbationData:
    """Check training data already in memory: a pandas, polars, cuDF or pyarrow table, or an AnnData object.

    `name` stands for the file in messages; columns, options and errors as in `read_training`.
    """
    path = Path(name)
    if hasattr(frame, "layers") and hasattr(frame, "var"):
        matrix = matrix_of_anndata(path, frame, options)
        data = _with_columns(path, _listed(path, matrix, options), options, True)
        return _checked_training(path, data, True, options.structures)
    columns = list(getattr(frame, "column_names", None) or getattr(frame, "columns", []))  # pyarrow, others
    refuse_repeated_columns(name, columns)
    if not all(isinstance(column, str) for column in columns):
        raise InputError(f"{name}: every column name must be text")
    table = without_row_labels(nw.from_native(frame, eager_only=True))
    if len(table) == 0:
        raise InputError(f"{name}: the table has no rows")
    refuse_transposed(path, columns, lambda: as_pandas(table.select(table.columns[:1])).iloc[:, 0])
    data = _with_columns(path, split_table(path, table, options), options, True)
    return _checked_training(path, data, options.genes is not None, options.structures)


def read_responses(
    path: Path, options: TableOptions = AS_OURS, *, library: FrameLibrary = "pandas", untested: bool = True
) -> PerturbationData:
    """Read any file with a number for each gene (training, truth or prediction); only numbers are checked.

    Parameters and errors as in `read_training`, less the checks of its metadata and gene names; `untested` says whether
    NaN is allowed, which in a prediction it is not. The row names of a .h5ad file (the index of its `obs`) become the
    column `id` where it has none and they are named `id`, or where the layer read is `prediction` and `obs` has no
    pairs either: the rows of an Open Problems prediction are named by their ids. Other row names, such as "0", "1", …
    or barcodes, are left out.
    """
    data = _with_columns(path, _matrix(path, options, library), options, False)
    check = refuse_unusable if untested else refuse_non_finite
    check(path, data.obs, data.Y, data.genes)
    return data


def split_table(path: Path, table: nw.DataFrame[Any], options: TableOptions = AS_OURS) -> Matrix:
    """Split a table of any frame library into metadata and targets; here data leave the device.

    Returns
    -------
    obs : pandas.DataFrame
        All columns that are not genes, as the file names them.
    Y : numpy.ndarray of float32, (n_samples, n_targets)
        Missing values are NaN.
    genes : list of str
        The columns that `options` list, or all numeric ones that are not metadata, in file order.

    Raises
    ------
    InputError
        No gene columns, a listed one that is missing, or a column in which most values are numbers and some are text.
    """
    named = {*options.metadata_columns, *options.columns.values()}
    numeric = [name for name, dtype in table.schema.items() if dtype.is_numeric()]
    if options.genes is not None:
        genes = listed_genes(path, table.columns, options.genes)
        text = [name for name in genes if name not in set(numeric)]
    else:
        genes = [name for name in numeric if name not in named and not is_metadata(name)]
        taken = {*genes, *named}
        text = [name for name in table.columns if name not in taken and not is_metadata(name)]
    taken = set(genes)
    obs = as_pandas(table.select([name for name in table.columns if name not in taken or name in text]))
    for name in text:
        refuse_text_among_numbers(path, name, obs[name], listed=name in taken, gene=looks_like_gene(name))
    if not genes:
        shown = ", ".join(table.columns[:8])[:200]
        raise InputError(
            f"{path}: no gene columns: none of its {len(table.columns)} columns is numeric and not metadata; "
            f"the first are: {shown}"
        )
    refuse_long(path, "gene", genes)
    Y, columns = np.empty((len(table), len(genes)), dtype=np.float32), table.select(genes).to_arrow().columns
    with np.errstate(over="ignore"):  # a value beyond float32 becomes inf, which is refused by name later
        for some in row_blocks(len(genes), GENES_AT_ONCE):
            by_gene = np.empty((some.stop - some.start, len(Y)), dtype=np.float32)
            for row, column in zip(by_gene, columns[some], strict=True):
                row[:] = column.to_numpy()
            Y[:, some] = by_gene.T
    return obs, Y, genes


def refuse_transposed(path: Path, columns: Sequence[str], labels: Callable[[], "pd.Series[Any]"]) -> None:
    """Raise InputError where a table without our columns has them, or genes, as the labels of its rows."""
    if any(meaning_of(name) is not None for name in columns):
        return
    found = labels()
    if not (pd.api.types.is_object_dtype(found) or pd.api.types.is_string_dtype(found)):
        return
    names = [str(name) for name in found.dropna()]
    ours = any((meaning_of(name) or ("",))[0] in PAIR for name in names)
    genes = [name for name in names if looks_like_gene(name) and not name.isdigit()]
    if ours or (len(set(names)) == len(names) > 1 and len(genes) > 0.8 * len(names)):
        raise InputError(
            f"{path}: looks transposed: its rows are {some_of(names)}; a row must be a sample and a column a gene; "
            "turn it round (pandas: table.T)"
        )


def _matrix(path: Path, options: TableOptions, library: FrameLibrary) -> Matrix:
    if table_suffix(path) in READERS:
        return _listed(path, read_matrix(path, options), options)
    table = read_table(path, library, text=read_as_text(options))
    refuse_transposed(path, table.columns, lambda: first_labels(path))
    return split_table(path, table, options)


def _listed(path: Path, matrix: Matrix, options: TableOptions) -> Matrix:
    """Return the genes of a matrix that `options` list, all without a list."""
    if options.genes is None:
        return matrix
    obs, Y, genes = matrix
    kept = listed_genes(path, genes, options.genes)
    place = {name: k for k, name in enumerate(genes)}
    return obs, np.ascontiguousarray(Y[:, [place[name] for name in kept]]), kept


def _with_columns(path: Path, matrix: Matrix, options: TableOptions, strict: bool) -> PerturbationData:
    obs, Y, genes = matrix
    obs, notes = with_meanings(path, obs, options, strict=strict)
    return PerturbationData(obs, Y, tuple(genes), tuple(notes))


def _checked_training(path: Path, data: PerturbationData, apart: bool, structures: bool) -> PerturbationData:
    """Check genes, metadata and molecules; `apart` where the format or the user says what genes are.

    `structures` says whether every row must have a SMILES.
    """
    notes = check_genes(path, data.genes, data.Y, apart)
    refuse_unusable(path, data.obs, data.Y, data.genes)
    named = set(PAIR) <= set(data.obs.columns)
    obs = as_text(path, data.obs, PAIR if named or not structures else TRAINING_COLUMNS)
    obs, changed = with_known_labels(str(path), obs, obs)
    obs = with_structures(path, obs, structures)
    check_smiles(path, obs)
    return replace(data, obs=obs, notes=(*data.notes, *changed, *notes))
