"""Prediction files read back: submissions, `oof.parquet`, Open Problems predictions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rapids_pipeline.data.columns import PREDICTION_LAYER
from rapids_pipeline.data.tables import PerturbationData, read_responses
from rapids_pipeline.evaluation.evaluate import match_genes


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
