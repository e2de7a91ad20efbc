"""Submission files in three formats, checked before a byte of them is written.

    .csv, .csv.gz   Kaggle: the header `id` and the genes, then one row for each id
    .parquet        the column `id`, then one float32 column for each gene
    .h5ad           Open Problems: the layer `prediction`, the ids in the index of `obs`

Every id (row) and gene (column) has a finite float32, −0 is written as 0 in a CSV, and equal input gives equal bytes
(in an .h5ad equal arrays).

The contract of the .h5ad is `src/api/file_prediction.yaml` of openproblems-bio/task_perturbation_prediction, commit
2fa4446: a layer `prediction`, and `dataset_id` and `method_id`, texts, in `uns`; nothing else is required. Their own
methods (`src/control_methods/zeros/script.py` there) put the ids of `id_map.csv` into the index of `obs`, as text,
under the name `id`, and the gene names into that of `var`, and leave X out. Their metric
(`src/metrics/mean_rowwise_error/script.R`) takes rows by position, so they must stand in the order of `id_map.csv`,
and genes by name.
"""

import csv
import gzip
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pandas as pd

from rapids_pipeline.backend.arrays import Float32, Floats
from rapids_pipeline.backend.devices import processor_count
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import written
from rapids_pipeline.backend.frames import table_suffix
from rapids_pipeline.data.checks import refuse_repeated
from rapids_pipeline.data.columns import PAIR, PREDICTION_LAYER
from rapids_pipeline.data.readers import opened_h5ad, require_anndata

if TYPE_CHECKING:
    from anndata import AnnData

CSV_SUFFIXES = (".csv", ".csv.gz")
SUBMISSION_SUFFIXES = (*CSV_SUFFIXES, ".parquet", ".h5ad")
BLOCK_VALUES = 2**22
"""Values a block of rows holds, which bounds the memory beside the predictions themselves (16 MB of them)."""
LINES_VALUES = 2**19
"""Values whose lines of CSV one thread makes at a time."""
DATASET_ID = "neurips-2023-data"
"""The benchmark's data set (`scripts/create_resources/neurips-2023-data.sh`)."""
METHOD_ID = "rapids_perturb"


def as_anndata(
    predicted: Float32, metadata: pd.DataFrame, genes: Sequence[str], notes: Sequence[str]
) -> "AnnData":
    """Return predictions as AnnData: `obs` has the pairs and their applicability, `uns` the notes."""
    anndata = require_anndata(Path("output='anndata'"))
    obs = metadata.set_index("id")
    obs.index = obs.index.astype(str)
    return anndata.AnnData(predicted, obs, pd.DataFrame(index=list(genes)), uns={"notes": list(notes)})


@dataclass(frozen=True)
class FormatOptions:
    """How numbers are written in a CSV, and what an `.h5ad` is labelled with; None for the defaults."""

    float_format: str | None = None
    dataset_id: str | None = None
    method_id: str | None = None

    def require_for(self, out: Path) -> None:
        """Raise InputError for an option that the format of `out` has no use for, or a wrong number format.

        And UnavailableError where anndata is missing for an .h5ad.
        """
        require_submission(out)
        suffix = table_suffix(out)
        if suffix == ".h5ad":
            require_anndata(out)
        if self.float_format is not None:
            if suffix not in CSV_SUFFIXES:
                raise InputError(f"--float-format is for .csv and .csv.gz; --out is {out}")
            format_spec(self.float_format)
        for option, value in (("--dataset-id", self.dataset_id), ("--method-id", self.method_id)):
            if value is not None and suffix != ".h5ad":
                raise InputError(f"{option} is for .h5ad; --out is {out}")


def write_kaggle_csv(
    path: Path,
    ids: Iterable[Any],
    genes: Sequence[str],
    predictions: Floats,
    *,
    float_format: str | None = None,
) -> None:
    """Write predictions as a Kaggle submission.

    Every value is the shortest decimal that reads back as the same float32, or has the digits of `float_format`.

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
    if table_suffix(path) not in CSV_SUFFIXES:
        raise InputError(f"{path}: a Kaggle submission is a CSV; name it {' or '.join(CSV_SUFFIXES)}")
    require_submission(path)
    names = _complete(path, ids, genes, predictions)
    with written(path) as temporary, _byte_sink(temporary) as sink:
        sink.write(_line(["id", *genes]))
        if spec is None:
            _write_rows(sink, names, predictions)
        else:
            _write_formatted_rows(sink, names, predictions, spec)


def write_parquet(path: Path, ids: Iterable[Any], genes: Sequence[str], predictions: Floats) -> None:
    """Write predictions as Parquet; parameters and errors as `write_kaggle_csv`.

    `id` is int64 where every id is an integer as `str(int)` writes it, otherwise text.
    """
    import pyarrow as pa
    from pyarrow.parquet import write_table

    names = _complete(path, ids, genes, predictions)
    by_gene = np.ascontiguousarray(as_float32(predictions).T)
    column = pa.array([int(name) for name in names], pa.int64()) if all(map(is_integer, names)) else names
    table = pa.table([column, *map(pa.array, by_gene)], names=["id", *genes])
    with written(path) as temporary:
        write_table(table, temporary, use_dictionary=False)  # there are no repeated values


def write_prediction_h5ad(
    path: Path,
    ids: Iterable[Any],
    genes: Sequence[str],
    predictions: Floats,
    *,
    dataset_id: str = DATASET_ID,
    method_id: str = METHOD_ID,
    pairs: pd.DataFrame | None = None,
) -> None:
    """Write predictions as an Open Problems prediction; parameters and errors as `write_kaggle_csv`, and these.

    Parameters
    ----------
    dataset_id, method_id : str
        The two texts of `uns`; InputError where one is empty.
    pairs : pandas.DataFrame, optional
        `cell_type` and `sm_name` of the rows, which `obs` then has beside the ids: their `de_test.h5ad` has
        pairs and no ids. The contract neither asks for them nor forbids them.

    Raises
    ------
    UnavailableError
        anndata is not installed.
    """
    names = _complete(path, ids, genes, predictions)
    for option, value in (("--dataset-id", dataset_id), ("--method-id", method_id)):
        if not value.strip():
            raise InputError(f"{option} is empty; the prediction file needs a name there")
    anndata = require_anndata(path)
    obs = pd.DataFrame(index=pd.Index(names, dtype=object, name="id"))
    if pairs is not None:
        for column in PAIR:  # categories of objects: anndata 0.12 writes no other strings of pandas 3
            values = np.array([str(value) for value in pairs[column]], dtype=object)
            levels, codes = np.unique(values, return_inverse=True)
            obs[column] = pd.Categorical.from_codes(codes, categories=pd.Index(levels, dtype=object))
    made = anndata.AnnData(
        obs=obs,
        var=pd.DataFrame(index=pd.Index(list(genes), dtype=object)),
        layers={PREDICTION_LAYER: np.ascontiguousarray(as_float32(predictions))},
        uns={"dataset_id": dataset_id, "method_id": method_id},
    )
    content = _in_memory(made)
    with written(path) as temporary:
        temporary.write_bytes(content)


def _in_memory(made: Any) -> bytes:
    """Return the content of an .h5ad file: HDF5 reports a disk that is full in ways that nobody can catch."""
    import h5py
    from anndata.io import write_elem

    with h5py.File("prediction", "w", driver="core", backing_store=False) as file:
        write_elem(file, "/", made, dataset_kwargs={"compression": "gzip"})
        file.pop("raw", None)  # their own files have none
        file.flush()
        content: bytes = file.id.get_file_image()
    return content


def dataset_id_of(path: Path) -> str | None:
    """Return `uns["dataset_id"]` of a `.h5ad` file, None where it has none."""
    with opened_h5ad(path) as file:
        return uns_text(file, "dataset_id")


def uns_text(file: Any, name: str) -> str | None:
    """Return a text of `uns` in an open h5py file, None where it is absent, no text or empty."""
    import h5py

    found = file.get(f"uns/{name}")
    if not isinstance(found, h5py.Dataset) or h5py.check_string_dtype(found.dtype) is None or found.size != 1:
        return None
    value = np.asarray(found.asstr()[()]).item()
    return str(value) if str(value).strip() else None


def require_submission(path: Path) -> None:
    """Raise InputError where the name of `path` is that of no submission format."""
    if table_suffix(path) not in SUBMISSION_SUFFIXES:
        raise InputError(
            f"{path}: unknown submission format; name it {', '.join(SUBMISSION_SUFFIXES[:-1])} "
            f"or {SUBMISSION_SUFFIXES[-1]}"
        )
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


def is_integer(name: str) -> bool:
    """Say whether `name` is a 64-bit integer as Python writes it: 0, 12, -3; not 007, 1.0 or 1e3."""
    return re.fullmatch(r"0|-?[1-9]\d{0,17}", name) is not None


def as_float32(values: Floats) -> Float32:
    """Return `values` as float32; what is too large becomes infinite, without a warning."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def blocks(n: int, width: int, values: int = BLOCK_VALUES) -> Iterator[slice]:
    """Return slices of n rows (or columns) of `width` values that hold at most so many values each, or one row."""
    step = max(1, values // width)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _complete(path: Path, ids: Iterable[Any], genes: Sequence[str], predictions: Floats) -> list[str]:
    """Return the ids as text; InputError unless there is a finite float32 for every id (row) and gene (column).

    Ids and genes must be unique, and no gene may be named "id". `path` is what would be written, for messages.
    """
    names = [str(name) for name in ids]
    n, t = len(names), len(genes)
    if not n or not t:
        raise InputError(f"{path}: nothing to write ({n} ids, {t} genes)")
    if predictions.shape != (n, t):
        raise InputError(
            f"{path}: not written: the predictions have shape {predictions.shape}, expected {(n, t)} for {n} ids and "
            f"{t} genes"
        )
    refuse_repeated(path, "id", names)
    refuse_repeated(path, "gene", genes)
    if "id" in genes:
        raise InputError(f"{path}: a gene is named id, as the column of row ids is; rename it")
    for rows in blocks(n, t):
        bad = np.argwhere(~np.isfinite(as_float32(predictions[rows])))
        if len(bad):
            row, gene = int(bad[0][0]) + rows.start, int(bad[0][1])
            raise InputError(
                f"{path}: not written: the prediction of id {names[row]} (row {row + 1}) for gene "
                f"{genes[gene]} is {predictions[row, gene]}; every value must be a finite float32"
            )
    return names


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


def _write_rows(sink: BinaryIO, names: Sequence[str], predictions: Floats) -> None:
    from joblib import Parallel, delayed

    n, width = predictions.shape
    calls = (delayed(_lines)(names[rows], predictions[rows]) for rows in blocks(n, width, LINES_VALUES))
    for lines in Parallel(processor_count(), prefer="threads", return_as="generator")(calls):
        sink.write(lines)


def _lines(names: Sequence[str], predictions: Floats) -> bytes:
    """Return the lines of some rows; every value is the shortest decimal that is the same float32."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = pa.array((as_float32(predictions) + np.float32(0)).ravel()).cast(pa.string())  # −0 → 0
    places = np.arange(0, predictions.size + 1, predictions.shape[1], dtype=np.int32)
    rows = pc.binary_join(pa.ListArray.from_arrays(places, values), ",").to_pylist()
    ids = (_line([name])[:-1] for name in names)
    return b"".join(b"%b,%b\n" % (name, row.encode()) for name, row in zip(ids, rows, strict=True))


def _write_formatted_rows(sink: BinaryIO, ids: Sequence[str], predictions: Floats, spec: str) -> None:
    template = ",".join([f"{{:{spec}}}"] * predictions.shape[1])
    for rows in blocks(*predictions.shape):
        for name, values in zip(ids[rows], as_float32(predictions[rows]), strict=True):
            sink.write(_line([name])[:-1] + f",{template.format(*values.tolist())}\n".encode())
