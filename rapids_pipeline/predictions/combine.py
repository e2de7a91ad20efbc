"""Several runs' predictions of the same pairs as one: the median or the mean of every value, and what it scores.

    out_ij = median over runs r of Y^r_ij          (or the mean)

Other seeds deal the training rows into other folds, but each run predicts every training row by models that never saw
it. The median of those predictions has not seen it either, so its score is out-of-fold like each run's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rapids_pipeline.backend.arrays import Float32, Indices
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import manifest_part, read_manifest, recorded_hash
from rapids_pipeline.backend.frames import opened_parquet, readable_as
from rapids_pipeline.backend.limits import require_file
from rapids_pipeline.data.checks import some_of
from rapids_pipeline.data.columns import PAIR
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.predictions.formats import blocks

COMBINATIONS = ("median", "mean")
DEFAULT_COMBINATION = "median"
REMEDY = "it is not as a run leaves it"


@dataclass(frozen=True)
class IdMap:
    """The rows of a submission in order.

    Attributes
    ----------
    source : Path
        The file that has them, for messages.
    ids : list of str
        Each once.
    pairs : pandas.DataFrame or None
        `cell_type` and `sm_name` of the rows, as text, where the file has them.
    """

    source: Path
    ids: list[str]
    pairs: pd.DataFrame | None = None


@dataclass(frozen=True, eq=False)
class Submission:
    """Predictions to submit.

    Attributes
    ----------
    source : Path
        What predicted them, for messages.
    rows : IdMap
    genes : list of str
    Y : numpy.ndarray of float32, (n_rows, n_genes)
    notes : list of str
        What a reader should know.
    """

    source: Path
    rows: IdMap
    genes: list[str]
    Y: Float32
    notes: list[str] = field(default_factory=list)

    def in_order_of(
        self, rows: IdMap | None = None, genes: tuple[Path, list[str]] | None = None
    ) -> "Submission":
        """Return the predictions in the order of an id map, and of the genes of a file.

        Pairs come from `rows`, or from the predictions where `rows` has none.

        Raises
        ------
        InputError
            The two do not have the same ids or genes, or an id is another (cell type, compound) pair in `rows`.
        """
        made = self
        if rows is not None:
            remedy = "give the ids that were predicted"
            ids = positions_of("id", rows.source, rows.ids, self.source, self.rows.ids, remedy)
            remedy = ", which was predicted; use the id map of that test file"
            _refuse_other_pairs(rows.source, rows, self.rows.source, self.rows, ids, remedy)
            if rows.pairs is None and self.rows.pairs is not None:
                rows = replace(rows, pairs=self.rows.pairs.iloc[ids].reset_index(drop=True))
            made = replace(made, rows=rows, Y=made.Y[ids])
        if genes is not None:
            source, names = genes
            remedy = "give the genes that were predicted"
            columns = positions_of("gene", source, names, self.source, self.genes, remedy)
            made = replace(made, genes=list(names), Y=made.Y[:, columns])
        return made


def aggregate(tables: Sequence[Float32], how: str) -> Float32:
    """Return the median or the mean over tables of every value.

    Computed in float64 and rounded once, a block of rows at a time.

    Parameters
    ----------
    tables : sequence of numpy.ndarray of float32, (n_rows, n_columns)
    how : {"median", "mean"}

    Returns
    -------
    numpy.ndarray of float32, (n_rows, n_columns)
    """
    middle = np.median if how == "median" else np.mean
    n_rows, n_columns = tables[0].shape
    out = np.empty((n_rows, n_columns), np.float32)
    for rows in blocks(n_rows, n_columns * len(tables)):
        out[rows] = middle(np.stack([table[rows] for table in tables], dtype=np.float64), axis=0)
    return out


def positions_of(
    what: str, path: Path, names: Sequence[str], reference: Path, known: Sequence[str], remedy: str
) -> Indices:
    """Return the position among `known`, those of the file `reference`, of every name of the file `path`.

    Raises
    ------
    InputError
        The two do not have the same names; `path` is at fault.
    """
    place, mine = {name: k for k, name in enumerate(known)}, set(names)
    lacking = [name for name in known if name not in mine]
    extra = [name for name in names if name not in place]
    differences = [
        *([f"lacks {len(lacking)} of the {what}s of {reference} ({some_of(lacking)})"] if lacking else []),
        *([f"has {len(extra)} {what}s that {reference} lacks ({some_of(extra)})"] if extra else []),
    ]
    if differences:
        raise InputError(f"{path}: {' and '.join(differences)}; {remedy}")
    return np.array([place[name] for name in names], dtype=np.intp)


def values_like(first: Submission, other: Submission) -> Float32:
    """Return the values of `other` in the order of rows and genes of `first`.

    Raises
    ------
    InputError
        `other` has other ids or genes, or another pair under an id; the message has the first difference.
    """
    remedy = "runs that are combined must have the same"
    rows = positions_of("id", other.source, other.rows.ids, first.source, first.rows.ids, f"{remedy} ids")
    pairs = "; runs that are combined must predict the same pairs under the same ids"
    _refuse_other_pairs(other.source, other.rows, first.source, first.rows, rows, pairs)
    columns = positions_of("gene", other.source, other.genes, first.source, first.genes, f"{remedy} genes")
    return other.Y[np.argsort(rows)][:, np.argsort(columns)]


def _refuse_other_pairs(
    path: Path, rows: IdMap, reference: Path, known: IdMap, positions: Indices, remedy: str
) -> None:
    """Raise InputError where an id of `path` is another pair in `reference`, at those positions.

    Nothing is compared where one of the two has no pairs.
    """
    if rows.pairs is None or known.pairs is None:
        return
    mine, theirs = rows.pairs.to_numpy(), known.pairs.to_numpy()[positions]
    for k in np.flatnonzero((mine != theirs).any(axis=1))[:1]:
        raise InputError(
            f"{path}: id {rows.ids[k]} is {tuple(mine[k])}, but {tuple(theirs[k])} in {reference}{remedy}"
        )


# --- Settings and scores of the runs -----------------------------------------------------------------------------


def recorded_settings(manifest: Path) -> dict[str, Any]:
    """Return what, besides the test file, determined a run's predictions, as its manifest has it.

    These are the hash of the training file, recipe, molecules, seed, options of reading and the device, by name; None
    or absent where there is no manifest.
    """
    content = read_manifest(manifest)
    config, options = manifest_part(content, "config"), manifest_part(content, "options")
    device = {"device": content.get("device")}
    return {"training file": recorded_hash(manifest, "train")} | config | options | device


def remarks_on(names: Sequence[str], settings: Sequence[dict[str, Any]]) -> list[str]:
    """Return what makes a combination of runs questionable: other settings than the first's, or a run that is twice.

    `settings` are those of the runs, which are called by `names`.
    """
    first, remarks = settings[0], []
    for number, (name, found) in enumerate(zip(names, settings, strict=True)):
        unlike = [key for key in first | found if key != "seed" and first.get(key) != found.get(key)]
        if unlike:
            remarks.append(f"{name} differs from {names[0]} in more than the seed: {', '.join(unlike)}")
        if found in settings[:number]:
            twin = names[settings.index(found)]
            remarks.append(
                f"{name} has the training file, settings and seed of {twin}: the same run counts twice"
            )
    return remarks


@dataclass(frozen=True)
class OutOfFoldScores:
    """MRRMSE of the `n_rows` training rows, out-of-fold: of each run, and of their combination."""

    n_rows: int
    single: list[float]
    combination: float

    def text(self, runs: Sequence[Path], how: str) -> str:
        """Return the scores as lines to print: one for each of the runs, one for their median or mean."""
        names = [*map(str, runs), f"their {how}"]
        width = max(map(len, names))
        scores = zip(names, [*self.single, self.combination], strict=True)
        lines = [f"  {name:{width}}  {score:.4f}" for name, score in scores]
        title = f"MRRMSE of {self.n_rows} training rows, out-of-fold:"
        closing = f"no run saw the rows it predicts here, whatever its folds: their {how} is out-of-fold, too"
        return "\n".join([title, *lines, closing])


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
    squares, counts = np.zeros((len(files) + 1, len(truth.Y))), np.isfinite(truth.Y).sum(axis=1)
    for columns in blocks(len(truth.genes), len(truth.Y) * len(files)):
        genes = truth.genes[columns]
        tables = [_values(path, file, genes) for path, file in zip(files, opened, strict=True)]
        for total, table in zip(squares, [*tables, aggregate(tables, how)], strict=True):
            difference = table - truth.Y[:, columns].astype(np.float64)
            difference[np.isnan(difference)] = 0.0  # not tested there
            total += np.einsum("ij,ij->i", difference, difference)
    *single, combination = np.sqrt(squares / counts).mean(axis=1).tolist()
    return OutOfFoldScores(len(truth.Y), single, combination)


def _opened(path: Path, truth: PerturbationData, train: Path) -> Any:
    """Return an open `oof.parquet` that has the rows of `truth`, in their order, and its genes."""
    require_file(path)
    with readable_as("Parquet", path):
        file = opened_parquet(path)
        names = set(file.schema_arrow.names)
        absent = [name for name in (*PAIR, *truth.genes) if name not in names]
        if absent:
            raise InputError(f"{path}: lacks {len(absent)} column(s) of {train} ({absent[0]!r}); {REMEDY}")
        pairs = file.read(columns=PAIR).to_pandas().astype(str).to_numpy()
    expected = truth.obs[PAIR].to_numpy()
    if len(pairs) != len(expected):
        raise InputError(f"{path}: has {len(pairs)} rows, {train} has {len(expected)}; {REMEDY}")
    unlike = np.flatnonzero((pairs != expected).any(axis=1))
    if len(unlike):
        row = unlike[0]
        raise InputError(
            f"{path}: row {row + 1} is {tuple(pairs[row])}, but {tuple(expected[row])} in {train}; {REMEDY}"
        )
    return file


def _values(path: Path, file: Any, genes: Sequence[str]) -> Float32:
    """Return the predictions of some genes: float32, (n_rows, n_genes)."""
    with readable_as("Parquet", path):
        table = file.read(columns=list(genes))
        values = np.column_stack([table.column(gene).to_numpy() for gene in genes]).astype(np.float32)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, gene = bad[0]
        raise InputError(f"{path}: row {row + 1}, gene {genes[gene]} is {values[row, gene]}; {REMEDY}")
    return values
