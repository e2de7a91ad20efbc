"""Matrix formats, whose files keep samples, genes and numbers apart: `.h5ad` and AnnData objects, GCT, GCTX.

Each reader returns metadata (a row a sample), Y of float32 (samples × genes, C-contiguous) and the genes' names.

    .h5ad          the layer asked for, X where it is the only matrix; names of var or a column of it
    .gct, .gct.gz  versions 1.2 and 1.3: genes are rows there; sample ids become the column id
    .gctx          the same as HDF5, with the matrix as samples × genes
"""

import gzip
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rapids_pipeline.backend.arrays import Float32
from rapids_pipeline.backend.errors import InputError, UnavailableError, quoted
from rapids_pipeline.backend.frames import readable_as, table_suffix
from rapids_pipeline.backend.limits import refuse_large, require_file
from rapids_pipeline.data.checks import refuse_long, refuse_repeated, some_of
from rapids_pipeline.data.columns import DEFAULT_LAYER, PAIR, PREDICTION_LAYER, TableOptions, meaning_of

Matrix = tuple[pd.DataFrame, Float32, list[str]]
"""Metadata (a row a sample), Y and the genes."""

LONGEST_HEAD = 100_000
"""Characters of a GCT file's first two lines, which have blank cells where a spreadsheet wrote them."""


def read_matrix(path: Path, options: TableOptions) -> Matrix:
    """Read a file of one of `READERS`.

    Raises
    ------
    InputError
        Missing or unreadable file; no such layer or gene column; a gene's name twice, or that of a metadata column too.
    UnavailableError
        anndata and h5py are not installed.
    """
    return READERS[table_suffix(path)](path, options)


def require_anndata(path: Path) -> Any:
    """Return anndata; UnavailableError, with what to install, where it is missing. `path` is for the message."""
    try:
        import anndata
        import h5py  # noqa: F401
    except ImportError as error:
        kind = table_suffix(path) or ".h5ad"
        raise UnavailableError(f"{path}: {kind} needs anndata; pip install '.[h5ad]'") from error
    return anndata


@contextmanager
def opened_h5ad(path: Path) -> Iterator[Any]:
    """Yield an open h5py file; InputError, naming `path`, for whatever fails inside, as `require_anndata` before."""
    require_file(path)
    require_anndata(path)
    import h5py

    with readable_as(table_suffix(path), path):
        _require_sound(path)
    with readable_as(table_suffix(path), path), h5py.File(path, "r") as file:
        _require_whole(path, file)
        yield file


PROBE = """
import sys, h5py
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
except ImportError:
    pass
def look(name, part):
    for key in part.attrs:
        part.attrs[key]
    if isinstance(part, h5py.Dataset) and part.dtype.kind == "O" and not (part.external or part.is_virtual):
        part[:10_000_000] if part.ndim == 1 else None
with h5py.File(sys.argv[1], "r") as file:
    file.visititems(look)
"""
"""Reads all attributes and texts of an HDF5 file, nothing that lies in another file, in so many bytes of memory."""
PROBE_S, PROBE_BYTES = 5.0, 2**30


def _require_sound(path: Path) -> None:
    """Raise an error where the HDF5 library fails, crashes or never ends on the attributes and texts of a file.

    Another process tries, since nothing stops the library in this one.
    """
    size = path.stat().st_size
    argv = [sys.executable, "-P", "-c", PROBE, str(path), str(PROBE_BYTES + 20 * size)]
    try:
        ended = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=PROBE_S + size / 1e8
        )
    except subprocess.TimeoutExpired:
        raise ValueError("the HDF5 library does not end on it") from None
    if ended.returncode < 0:
        raise ValueError("the HDF5 library crashes on it")
    if ended.returncode:
        raise ValueError(
            ended.stderr.strip().rpartition("\n")[2].partition(": ")[2] or "its texts are damaged"
        )


def _require_whole(path: Path, file: Any) -> None:
    """Raise InputError where a part of an open HDF5 file lies in another file, or the parts declare too much.

    A part elsewhere could be any file of the reader.
    """
    import h5py

    declared = 0

    def look(name: str, link: Any) -> str | None:
        nonlocal declared
        if isinstance(link, h5py.HardLink):
            found = file[name]
            away = isinstance(found, h5py.Dataset) and (found.external or found.is_virtual)
            declared += (found.size or 0) * found.dtype.itemsize if isinstance(found, h5py.Dataset) else 0
        else:
            away = isinstance(link, h5py.ExternalLink)
        return name if away else None

    elsewhere = file.visititems_links(look)
    if elsewhere is not None:
        raise InputError(
            f"{path}: {elsewhere[:80]!r} lies in another file, and other files are not followed; write it into this one"
        )
    refuse_large(path, declared, "what it declares")


def to_dense(path: Path, matrix: Any) -> Any:
    """Return a matrix of an AnnData file as an array.

    Raises
    ------
    InputError
        It is sparse, and its rows or columns do not exist (scipy would read beyond its memory), or there are too many.
    """
    if not hasattr(matrix, "toarray"):
        return np.asarray(matrix)
    if path.exists():
        refuse_large(path, 4.0 * math.prod(matrix.shape), "its sparse matrix")
    if hasattr(matrix, "check_format"):
        with readable_as("a sparse matrix", path):
            matrix.check_format(full_check=True)
    return matrix.toarray()


def h5ad_genes(file: Any) -> list[str]:
    """Return the gene names of an open .h5ad file."""
    from anndata.io import read_elem

    return [str(name) for name in read_elem(file["var"]).index]


def matrix_of_anndata(path: Path, data: Any, options: TableOptions) -> Matrix:
    """Return the parts of an AnnData object; as from a .h5ad file."""
    places = {name: data.layers[name] for name in sorted(data.layers)} | {"X": data.X}
    return _annotated(path, places, data.obs, data.var, options)


def _read_h5ad(path: Path, options: TableOptions) -> Matrix:
    with opened_h5ad(path) as file:
        from anndata.io import read_elem

        places = {name: file[f"layers/{name}"] for name in sorted(file.get("layers", []))}
        places["X"] = file.get("X")
        return _annotated(path, places, read_elem(file["obs"]), read_elem(file["var"]), options, read_elem)


def _annotated(
    path: Path,
    places: Mapping[str, Any],
    obs: pd.DataFrame,
    var: pd.DataFrame,
    options: TableOptions,
    read: Callable[[Any], Any] = lambda matrix: matrix,
) -> Matrix:
    """Return the matrix asked for, with its metadata; `places` has None where the main matrix was left out."""
    layer = "X" if options.layer == DEFAULT_LAYER and list(places) == ["X"] else options.layer
    if layer not in places:
        raise InputError(f"{path}: no layer {layer!r}; --layer can be {', '.join(places)}")
    if places[layer] is None:  # anndata may leave its main matrix out
        raise InputError(f"{path}: layer {layer!r} is empty; --layer can be {', '.join(places)}")
    if any(_is_label(name) for name in var.columns) and not any(_is_label(name) for name in obs.columns):
        raise InputError(
            f"{path}: looks transposed: var has cell types or compounds; write data.T, samples as rows"
        )
    dense = to_dense(path, read(places[layer]))
    unnamed = layer == PREDICTION_LAYER and not set(PAIR) <= set(obs.columns)
    if "id" not in obs.columns and (obs.index.name == "id" or unnamed):
        obs = obs.rename_axis(index="id").reset_index()
    made = _checked(path, obs.reset_index(drop=True), dense, var, options)
    if made[1].size == 0:
        raise InputError(f"{path}: layer {layer!r} is empty ({len(made[1])} rows, {len(made[2])} genes)")
    return made


def _read_gct(path: Path, options: TableOptions) -> Matrix:
    """Read GCT 1.2 (name, description, samples) or 1.3 (any annotations of rows and columns)."""
    require_file(path)
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    with readable_as("GCT", path):
        with opener(path, "rt", encoding="utf-8-sig") as stream:
            version = stream.readline(LONGEST_HEAD).strip()
            sizes = [int(size) for size in stream.readline(LONGEST_HEAD).split()]
        if version not in ("#1.2", "#1.3"):
            raise InputError(f"{path}: starts with {version[:20]!r}; GCT 1.2 and 1.3 (#1.3) are read")
        n_genes, n_samples, n_row, n_column = [*sizes, 1, 0][:4] if version == "#1.2" else sizes
        first = 1 + n_row
        how: dict[str, Any] = {"sep": "\t", "quoting": 3, "keep_default_na": False, "na_values": [""]}
        head = pd.read_csv(path, skiprows=2, nrows=n_column, dtype="str", **how)
        if head.shape[1] != first + n_samples:
            raise ValueError(f"{head.shape[1] - first} samples instead of {n_samples}")
        types = dict.fromkeys(range(first), "str") | dict.fromkeys(range(first, first + n_samples), "float32")
        how["na_values"] = ["", "NA", "NaN", "nan", "na", "-666"]
        body = pd.read_csv(path, skiprows=3 + n_column, header=None, dtype=types, **how)
        if body.shape != (n_genes, first + n_samples):
            raise ValueError(
                f"{body.shape[0]} genes × {body.shape[1] - first} samples instead of {sizes[:2]}"
            )
    samples = head.iloc[:, first:]
    obs = samples.T.set_axis(list(head.iloc[:, 0]), axis=1).reset_index(drop=True)
    var = body.iloc[:, 1:first].set_axis(list(head.columns[1:first]), axis=1).set_axis(body[0], axis=0)
    return _checked(path, _with_ids(obs, samples.columns), body.iloc[:, first:].to_numpy().T, var, options)


def _read_gctx(path: Path, options: TableOptions) -> Matrix:
    """Read GCTX: `/0/DATA/0/matrix` (samples × genes), `/0/META/ROW` and `/0/META/COL`."""
    with opened_h5ad(path) as file:
        tables = [
            pd.DataFrame({name: _texts(values[:]) for name, values in file[f"0/META/{axis}"].items()})
            for axis in ("ROW", "COL")
        ]
        matrix = file["0/DATA/0/matrix"][:]
    for axis, table in zip(("ROW", "COL"), tables, strict=True):
        if "id" not in table.columns:
            raise InputError(f"{path}: /0/META/{axis} has no id; is the file complete?")
    var, obs = tables[0].set_index("id"), tables[1]
    return _checked(path, _with_ids(obs, obs["id"]), matrix, var, options)


READERS: dict[str, Callable[[Path, TableOptions], Matrix]] = {
    ".h5ad": _read_h5ad,
    ".gct": _read_gct,
    ".gct.gz": _read_gct,
    ".gctx": _read_gctx,
}
"""The reader of each matrix format."""


def _checked(path: Path, obs: pd.DataFrame, matrix: Any, var: pd.DataFrame, options: TableOptions) -> Matrix:
    """Name the genes, and make the matrix float32."""
    numbers = np.asarray(matrix)
    if numbers.dtype.kind not in "fiub":
        raise InputError(f"{path}: its matrix holds {quoted(numbers.dtype)}, expected numbers")
    with np.errstate(over="ignore"):  # a value beyond float32 becomes inf, which is refused by name later
        Y = np.ascontiguousarray(numbers, dtype=np.float32)
    column = options.gene_column
    if column is not None and column not in var.columns:
        shown = ", ".join(map(str, var.columns)) or "none"
        raise InputError(f"{path}: no gene column {column!r}; --gene-column can be {shown[:300]}")
    genes = [str(name) for name in (var.index if column is None else var[column])]
    if Y.shape != (len(obs), len(genes)):
        raise InputError(
            f"{path}: its matrix is {' × '.join(map(str, Y.shape)) or 'one number'}, and it names {len(obs)} rows and "
            f"{len(genes)} genes; is the file complete?"
        )
    refuse_repeated(path, "gene", genes)
    refuse_long(path, "gene", genes)
    both = [name for name in genes if name in obs.columns]
    if both:
        raise InputError(f"{path}: {some_of(both)} names both a gene and a metadata column; rename one")
    return obs, Y, genes


def _with_ids(obs: pd.DataFrame, ids: Any) -> pd.DataFrame:
    """Return sample annotations with the ids as the column `id`, which wins over an annotation of that name."""
    return obs.drop(columns="id", errors="ignore").assign(id=list(ids))


def _texts(values: Any) -> Any:
    return [value.decode() if isinstance(value, bytes) else value for value in values]


def _is_label(name: Any) -> bool:
    return (meaning_of(str(name)) or ("",))[0] in PAIR
