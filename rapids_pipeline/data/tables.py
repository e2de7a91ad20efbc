"""Files → `PerturbationData`: metadata and targets, checked before anything is computed.

Training files are the Kaggle `de_train.parquet`, the Open Problems `de_train.h5ad`, or CSV/TSV with the same
columns; test files list the pairs to predict (`id, cell_type, sm_name`, optionally `SMILES`). Whatever the
number and order of the metadata columns, a column is a *gene* when it is numeric and not one of the metadata
names that the two harnesses use (`METADATA_COLUMNS`); position never matters.

Row numbers in messages count data rows from 1, header excluded.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
from narwhals.typing import IntoDataFrame

from rapids_pipeline.backend.arrays import Float32, Indices
from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.backend.frames import (
    FrameLibrary,
    read_table,
    readable_as,
    refuse_repeated_columns,
    require_file,
    table_suffix,
    without_row_labels,
)
from rapids_pipeline.data.checks import (
    as_text,
    check_smiles,
    refuse_non_finite,
    refuse_repeated_pairs,
    refuse_text_among_numbers,
    some_of,
)
from rapids_pipeline.data.columns import (
    DEFAULT_LAYER,
    METADATA_COLUMNS,
    PAIR,
    PREDICTION_LAYER,
    TRAINING_COLUMNS,
)


@dataclass(frozen=True)
class PerturbationData:
    """Measured responses: one row a (cell type, compound) pair, one column a gene.

    Attributes
    ----------
    obs : pandas.DataFrame
        Metadata, (n_samples, any number of columns), index 0 … n_samples-1 in file order; has at least
        `cell_type`, `sm_name` and `SMILES`.
    Y : numpy.ndarray of float32, (n_samples, n_targets), C-contiguous
        The responses, in the unit of the file (sign(logFC)·−log10 p, z-scores, …); all finite.
    genes : tuple of str
        The n_targets column names of `Y`.
    """

    obs: pd.DataFrame
    Y: Float32
    genes: tuple[str, ...]

    def take(self, rows: Indices) -> "PerturbationData":
        """Return the data of some rows, in the order asked for."""
        return PerturbationData(
            self.obs.iloc[rows].reset_index(drop=True), np.ascontiguousarray(self.Y[rows]), self.genes
        )


def read_training(
    path: Path,
    *,
    layer: str = DEFAULT_LAYER,
    library: FrameLibrary = "pandas",
    extra_metadata: Sequence[str] = (),
) -> PerturbationData:
    """Read and check a training file.

    Parameters
    ----------
    path : Path
        .parquet, .csv, .tsv (also .gz) or .h5ad.
    layer : str
        The layer of a .h5ad file that holds the responses ("X" for its main matrix).
    library : {"pandas", "polars", "cudf"}
        What reads the tables.
    extra_metadata : sequence of str
        Numeric columns that are not genes and not in `METADATA_COLUMNS`.

    Raises
    ------
    InputError
        Missing, empty or unreadable file; missing column or value; duplicate gene names; text among the
        numbers of a gene; non-finite target; duplicate pairs; one compound with two SMILES; invalid SMILES.
    UnavailableError
        A .h5ad file without anndata installed, or RDKit missing.
    """
    return _checked_training(
        path, read_responses(path, layer=layer, library=library, extra_metadata=extra_metadata)
    )


def training_from_frame(
    frame: IntoDataFrame, name: str, *, extra_metadata: Sequence[str] = ()
) -> PerturbationData:
    """Check a training table that is already in memory: a pandas, polars, cuDF or pyarrow table.

    `name` stands for the file in messages; columns and errors as in `read_training`.
    """
    path = Path(name)
    columns = list(getattr(frame, "column_names", None) or getattr(frame, "columns", []))  # pyarrow, others
    refuse_repeated_columns(name, columns)
    if not all(isinstance(column, str) for column in columns):
        raise InputError(f"{name}: every column name must be text")
    table = without_row_labels(nw.from_native(frame, eager_only=True))
    if len(table) == 0:
        raise InputError(f"{name}: the table has no rows")
    obs, Y, genes = split_table(path, table, extra_metadata)
    refuse_non_finite(path, obs, Y, genes)
    return _checked_training(path, PerturbationData(obs, Y, tuple(genes)))


def read_responses(
    path: Path,
    *,
    layer: str = DEFAULT_LAYER,
    library: FrameLibrary = "pandas",
    extra_metadata: Sequence[str] = (),
) -> PerturbationData:
    """Read any file with a number for each gene (training, truth or prediction); only numbers are checked.

    Parameters and errors as in `read_training`, less the checks of its metadata. The row names of a .h5ad file
    (the index of its `obs`) become the column `id` where it has none and they are named `id`, or where the layer
    read is `prediction` and `obs` has no pairs either: the rows of an Open Problems prediction are named by
    their ids. Other row names, such as "0", "1", … or barcodes, are left out.
    """
    if table_suffix(path) == ".h5ad":
        obs, Y, genes = _read_h5ad(path, layer)
    else:
        obs, Y, genes = split_table(path, read_table(path, library, text=TRAINING_COLUMNS), extra_metadata)
    refuse_non_finite(path, obs, Y, genes)
    return PerturbationData(obs, Y, tuple(genes))


def split_table(
    path: Path, table: nw.DataFrame[Any], extra_metadata: Sequence[str] = ()
) -> tuple[pd.DataFrame, Float32, list[str]]:
    """Split a table of any frame library into metadata and targets; here data leave the device.

    Returns
    -------
    obs : pandas.DataFrame
        All columns that are not genes.
    Y : numpy.ndarray of float32, (n_samples, n_targets)
        Missing values are NaN.
    genes : list of str
        The numeric columns that are not metadata, in file order.

    Raises
    ------
    InputError
        No gene columns, or a column in which most values are numbers and some are text.
    """
    metadata = METADATA_COLUMNS | set(extra_metadata)
    genes = [name for name, dtype in table.schema.items() if dtype.is_numeric() and name not in metadata]
    taken = set(genes)
    obs = table.select([name for name in table.columns if name not in taken]).to_arrow().to_pandas()
    for name in obs.columns:
        if name not in metadata:
            refuse_text_among_numbers(path, name, obs[name])
    if not genes:
        shown = ", ".join(table.columns[:8])[:200]
        raise InputError(
            f"{path}: no gene columns: none of its {len(table.columns)} columns is numeric and not metadata; "
            f"the first are: {shown}"
        )
    by_gene = np.empty((len(genes), len(table)), dtype=np.float32)
    with np.errstate(over="ignore"):  # a value beyond float32 becomes inf, which is refused by name later
        for row, column in zip(by_gene, table.select(genes).to_arrow().itercolumns(), strict=True):
            row[:] = column.to_numpy()
    return obs, np.ascontiguousarray(by_gene.T), genes


def _checked_training(path: Path, data: PerturbationData) -> PerturbationData:
    obs = as_text(path, data.obs, TRAINING_COLUMNS)
    refuse_repeated_pairs(path, obs)
    check_smiles(path, obs)
    return PerturbationData(obs, data.Y, data.genes)


def require_anndata(path: Path) -> Any:
    """Return anndata; UnavailableError, with what to install, where it is missing. `path` is for the message."""
    try:
        import anndata
        import h5py  # noqa: F401
    except ImportError as error:
        raise UnavailableError(f"{path}: .h5ad needs anndata; pip install '.[h5ad]'") from error
    return anndata


@contextmanager
def opened_h5ad(path: Path) -> Iterator[Any]:
    """Yield an open h5py file; InputError, naming `path`, for whatever fails inside, as `require_anndata` before."""
    require_file(path)
    require_anndata(path)
    import h5py

    with readable_as(".h5ad", path), h5py.File(path, "r") as file:
        yield file


def h5ad_genes(file: Any) -> list[str]:
    """Return the gene names of an open .h5ad file."""
    from anndata.io import read_elem

    return [str(name) for name in read_elem(file["var"]).index]


def _read_h5ad(path: Path, layer: str) -> tuple[pd.DataFrame, Float32, list[str]]:
    with opened_h5ad(path) as file:
        from anndata.io import read_elem

        places = {name: f"layers/{name}" for name in sorted(file.get("layers", []))} | {"X": "X"}
        if layer not in places:
            raise InputError(f"{path}: no layer {layer!r}; --layer can be {', '.join(places)}")
        matrix = read_elem(file[places[layer]]) if places[layer] in file else None
        if matrix is None:  # anndata may leave its main matrix out
            raise InputError(f"{path}: layer {layer!r} is empty; --layer can be {', '.join(places)}")
        obs, genes = read_elem(file["obs"]), h5ad_genes(file)
        dense = matrix.toarray() if hasattr(matrix, "toarray") else matrix
        with np.errstate(over="ignore"):  # as in `split_table`
            Y = np.ascontiguousarray(dense, dtype=np.float32)
    unnamed = layer == PREDICTION_LAYER and not set(PAIR) <= set(obs.columns)
    if "id" not in obs.columns and (obs.index.name == "id" or unnamed):
        obs = obs.rename_axis(index="id").reset_index()
    repeated = pd.Index(genes)[pd.Index(genes).duplicated()]
    if len(repeated):
        raise InputError(f"{path}: duplicate gene names: {some_of(list(dict.fromkeys(repeated)))}")
    if Y.size == 0:
        raise InputError(f"{path}: layer {layer!r} is empty ({Y.shape[0]} rows, {Y.shape[1]} genes)")
    both = [name for name in genes if name in obs.columns]
    if both:
        raise InputError(f"{path}: {some_of(both)} names both a gene and a metadata column; rename one")
    return obs.reset_index(drop=True), Y, genes
