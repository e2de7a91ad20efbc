"""Open Problems prediction files (`.h5ad`), as their benchmark's contract has them.

The contract is `src/api/file_prediction.yaml` of openproblems-bio/task_perturbation_prediction, commit 2fa4446: a layer
`prediction`, and `dataset_id` and `method_id`, texts, in `uns`; nothing else is required. Their own methods
(`src/control_methods/zeros/script.py` there) put the ids of `id_map.csv` into the index of `obs`, as text, under the
name `id`, and the gene names into that of `var`, and leave X out. Their metric
(`src/metrics/mean_rowwise_error/script.R`) takes rows by position, so they must stand in the order of `id_map.csv`,
and genes by name.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.data.columns import PAIR, PREDICTION_LAYER
from rapids_pipeline.predictions.table import Predictions, as_float32, require_complete, written_submission

DATASET_ID = "neurips-2023-data"
"""The benchmark's data set (`scripts/create_resources/neurips-2023-data.sh`)."""
METHOD_ID = "rapids_perturb"
REQUIRED_UNS = ("dataset_id", "method_id")


def write_prediction_h5ad(
    path: Path,
    ids: Sequence[Any],
    genes: Sequence[str],
    predictions: Predictions,
    *,
    dataset_id: str = DATASET_ID,
    method_id: str = METHOD_ID,
    pairs: pd.DataFrame | None = None,
) -> None:
    """Write predictions as an Open Problems prediction; equal input gives equal arrays.

    Parameters
    ----------
    path : Path
        The .h5ad file. Its folder is made; an existing file is replaced.
    ids, genes, predictions
        As in `kaggle.write_kaggle_csv`; the layer `prediction` holds them as dense float32, rows in this order.
    dataset_id, method_id : str
        The two texts of `uns`.
    pairs : pandas.DataFrame, optional
        `cell_type` and `sm_name` of the rows, which `obs` then has beside the ids: their `de_test.h5ad` has
        pairs and no ids. The contract neither asks for them nor forbids them.

    Raises
    ------
    InputError
        As `kaggle.write_kaggle_csv`; an empty `dataset_id` or `method_id`. Nothing is written then.
    UnavailableError
        anndata is not installed.
    """
    names = [str(name) for name in ids]
    require_complete(path, names, list(genes), predictions)
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
    with written_submission(path) as temporary:
        made.write_h5ad(temporary, compression="gzip")


def open_prediction(path: Path) -> tuple[list[Any], list[str], NDArray[np.float64] | None, list[str]]:
    """Read a prediction file, checked against the contract only.

    Returns
    -------
    ids : list
        `obs["id"]`, or the index of `obs` where there is no such column.
    genes : list of str
        The index of `var`.
    values : numpy.ndarray of float64, (n_rows, n_genes), or None
        The layer `prediction`; None where there is none.
    faults : list of str
        What the contract asks for and the file lacks, a line each.

    Raises
    ------
    InputError
        It is no .h5ad file, or damaged.
    UnavailableError
        anndata is not installed.
    """
    require_anndata(path)
    import h5py
    from anndata.io import read_elem

    faults = []
    try:
        with h5py.File(path, "r") as file:
            obs, genes = read_elem(file["obs"]), [str(name) for name in read_elem(file["var"]).index]
            layers = sorted(file.get("layers", []))
            values = None
            if PREDICTION_LAYER in layers:
                matrix = read_elem(file[f"layers/{PREDICTION_LAYER}"])
                values = np.asarray(
                    matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype=np.float64
                )
            else:
                shown = ", ".join(layers) or "none"
                faults.append(f"missing layer {PREDICTION_LAYER!r}; its layers are: {shown}")
            faults += [
                f"missing uns[{name!r}], a text" for name in REQUIRED_UNS if uns_text(file, name) is None
            ]
    except Exception as error:  # h5py and anndata have many ways to fail on a broken file
        raise _unreadable(path, error) from error
    return list(obs["id"] if "id" in obs.columns else obs.index), genes, values, faults


def genes_of_h5ad(path: Path) -> list[str]:
    """Return the gene names of any `.h5ad` file; errors as in `open_prediction`."""
    require_anndata(path)
    import h5py
    from anndata.io import read_elem

    try:
        with h5py.File(path, "r") as file:
            return [str(name) for name in read_elem(file["var"]).index]
    except Exception as error:  # as in `open_prediction`
        raise _unreadable(path, error) from error


def dataset_id_of(path: Path) -> str | None:
    """Return `uns["dataset_id"]` of a `.h5ad` file, None where it has none."""
    require_anndata(path)
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return uns_text(file, "dataset_id")
    except OSError as error:
        raise _unreadable(path, error) from error


def uns_text(file: Any, name: str) -> str | None:
    """Return a text of `uns` in an open h5py file, None where it is absent, no text or empty."""
    import h5py

    found = file.get(f"uns/{name}")
    if not isinstance(found, h5py.Dataset) or h5py.check_string_dtype(found.dtype) is None or found.size != 1:
        return None
    value = np.asarray(found.asstr()[()]).item()
    return str(value) if str(value).strip() else None


def require_anndata(path: Path) -> Any:
    """Return anndata; UnavailableError, with what to install, where it is missing. `path` is for the message."""
    try:
        import anndata
        import h5py  # noqa: F401
    except ImportError as error:
        raise UnavailableError(f"{path}: .h5ad needs anndata; pip install 'rapids-perturb[h5ad]'") from error
    return anndata


def h5ad_parts(path: Path) -> tuple[list[str], list[str], NDArray[Any], dict[str, str]]:
    """Return ids (a column `id` of `obs`, otherwise its index), genes, the layer `prediction` and the texts of `uns`.

    Raises
    ------
    InputError
        The file cannot be read or has no layer `prediction`.
    UnavailableError
        anndata is not installed.
    """
    require_anndata(path)
    import h5py
    from anndata.io import read_elem

    try:
        with h5py.File(path, "r") as file:
            layers = sorted(file.get("layers", []))
            if PREDICTION_LAYER not in layers:
                raise InputError(
                    f"{path}: no layer {PREDICTION_LAYER!r} (its layers: {', '.join(layers) or 'none'}); the benchmark "
                    "reads that one"
                )
            obs, var = read_elem(file["obs"]), read_elem(file["var"])
            matrix = read_elem(file[f"layers/{PREDICTION_LAYER}"])
            uns = {name: text for name in file.get("uns", []) if (text := uns_text(file, name)) is not None}
    except InputError:
        raise
    except Exception as error:  # h5py and anndata have many ways to fail on a broken file
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be read as .h5ad ({reason}); is the file complete?") from error
    ids = obs["id"] if "id" in obs.columns else obs.index
    dense = matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix)
    return [str(name) for name in ids], [str(name) for name in var.index], dense, uns


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200]
    return InputError(f"{path}: cannot be read as .h5ad ({reason}); is the file complete?")
