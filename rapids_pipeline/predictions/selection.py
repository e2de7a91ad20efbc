"""Which of the predictions at hand a submission has, and in which order."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.checks import some_of
from rapids_pipeline.predictions.expected import IdMap


@dataclass(frozen=True, eq=False)
class Predicted:
    """Predictions to submit.

    Attributes
    ----------
    source : Path
        What predicted them, for messages.
    rows : IdMap
        Ids, and pairs where they are known.
    rows_from : Path
        The file that has `rows`, for messages.
    genes : list of str
    Y : numpy.ndarray of float32, (n_rows, n_genes)
    notes : list of str
        What a reader should know.
    """

    source: Path
    rows: IdMap
    rows_from: Path
    genes: list[str]
    Y: NDArray[np.float32]
    notes: list[str] = field(default_factory=list)


def with_rows(predicted: Predicted, rows: IdMap, source: Path) -> Predicted:
    """Return the predictions of `rows`, those of the file `source`, in their order.

    Pairs come from `rows`, or from the predictions where `rows` has none.

    Raises
    ------
    InputError
        The two do not have the same ids, or an id is another (cell type, compound) pair in `rows`.
    """
    positions = positions_of(predicted.rows.ids, predicted.source, rows.ids, source, "id")
    _refuse_other_pairs(source, rows, predicted.rows_from, predicted.rows)
    if rows.pairs is None and predicted.rows.pairs is not None:
        rows = replace(rows, pairs=predicted.rows.pairs.iloc[positions].reset_index(drop=True))
    return replace(predicted, rows=rows, rows_from=source, Y=predicted.Y[positions])


def with_genes(predicted: Predicted, genes: Sequence[str], source: Path) -> Predicted:
    """Return the predictions of `genes`, those of the file `source`, in their order.

    Raises
    ------
    InputError
        The two do not have the same genes.
    """
    columns = positions_of(predicted.genes, predicted.source, genes, source, "gene")
    return replace(predicted, genes=list(genes), Y=predicted.Y[:, columns])


def positions_of(
    have: Sequence[str], source: Path, wanted: Sequence[str], of: Path, what: str
) -> NDArray[np.intp]:
    """Return the position in `have`, which `source` predicts, of every name in `wanted`, those of the file `of`.

    Raises
    ------
    InputError
        The two do not have the same names.
    """
    place = {name: k for k, name in enumerate(have)}
    missing = [name for name in wanted if name not in place]
    remedy = f"give the {what}s that were predicted"
    if missing:
        raise InputError(
            f"{of}: {len(missing)} of its {what}s are not in {source} ({some_of(missing)}); {remedy}"
        )
    if len(wanted) != len(have):
        known = set(wanted)
        left = [name for name in have if name not in known]
        raise InputError(
            f"{of}: has {len(wanted)} {what}s, {source} has {len(have)}; it lacks {some_of(left)}; {remedy}"
        )
    return np.array([place[name] for name in wanted], dtype=np.intp)


def _refuse_other_pairs(one: Path, first: IdMap, other: Path, second: IdMap) -> None:
    if first.pairs is None or second.pairs is None:
        return
    known = dict(zip(second.ids, second.pairs.itertuples(index=False, name=None), strict=True))
    for name, pair in zip(first.ids, first.pairs.itertuples(index=False, name=None), strict=True):
        if known[name] != pair:
            raise InputError(
                f"{one}: id {name} is {pair}, but {known[name]} in {other}, which was predicted; use the id map of "
                "that test file"
            )
