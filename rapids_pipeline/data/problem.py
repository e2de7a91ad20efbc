"""The problem of a run or a study: its files, read and checked, with rows in an order of their own.

    (data, pairs) = files, both sorted by (cell_type, sm_name), and what tells rows of one pair apart

No result therefore depends on the order of the rows in a file.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from features.molecules import is_table, reads_structures
from features.molecules.atlas import Atlas, read_atlas
from features.molecules.table import EmbeddingTable, read_embedding_table
from features.rows import BATCH, DOSE, REPLICATE, TIME, context_numbers, contexts_of, labels_of, varying
from rapids_pipeline.backend.arrays import Float64, Indices
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import MANIFEST, describe_input
from rapids_pipeline.backend.frames import FrameLibrary, library_for
from rapids_pipeline.data import demo
from rapids_pipeline.data.columns import TRAINING_COLUMNS, TableOptions
from rapids_pipeline.data.labels import refuse_near
from rapids_pipeline.data.pairs import context_notes, name_of, read_pairs, with_smiles
from rapids_pipeline.data.tables import PerturbationData, read_training, training_from_frame

Replicates = Literal["mean", "keep"]
CELLS, WEIGHT = "n_cells", "weight"
"""Columns that say what a row counts among its replicates: the first of `weight` and `n_cells` that there is."""
PRIOR_REPLICATES = 4.0
"""Replicates of mean spread that every context's spread is drawn by."""


@dataclass(frozen=True)
class ProblemFiles:
    """The files of a problem, or tables in memory in their place, and how to read them.

    Attributes
    ----------
    train : Path or table, optional
        The training file, or what `training_from_frame` takes; None stands for the demonstration data, which are
        simulated.
    test : Path or table, optional
        The pairs to predict; the demonstration data have their own.
    options : TableOptions
        How they are read.
    replicates : {"mean", "keep"}
        What becomes of several rows of one compound and context: their mean (`averaged`), or rows of their own.
        Identical ones are counted once either way (`without_copies`).
    table : Path, optional
        Embeddings of perturbations (`features.molecules.table`).
    atlas : Path, optional
        The folder of an atlas (`features.molecules.atlas`).
    """

    train: Any
    test: Any = None
    options: TableOptions = field(default_factory=TableOptions)
    replicates: Replicates = "mean"
    table: Path | None = None
    atlas: Path | None = None

    def for_molecules(self, molecules: str) -> "ProblemFiles":
        """Return the files as `--molecules` needs them read: with a table, or without structures."""
        options = replace(self.options, structures=reads_structures(molecules))
        table = Path(molecules) if is_table(molecules) else None
        return replace(self, options=options, table=table)

    def described(self) -> dict[str, Any]:
        """Return what a manifest says of the files (`Problem.inputs`); those that are none are left out."""
        named = {
            "train": self.train,
            "test": self.test,
            "genes": self.options.genes,
            "molecules": self.table,
            "atlas": self.atlas and self.atlas / MANIFEST,
        }
        return {
            name: describe_input(path)
            for name, path in named.items()
            if isinstance(path, Path) and os.path.isfile(path)  # noqa: PTH113 (takes names of any length)
        }


@dataclass(frozen=True, eq=False)
class Problem:
    """Training rows and pairs to predict, both in canonical order (`canonical_order`).

    Attributes
    ----------
    data : PerturbationData
        The n training rows.
    pairs : pandas.DataFrame or None
        The m pairs to predict: `id`, `cell_type`, `sm_name` and `SMILES`; None where no file names any.
    table : EmbeddingTable or None
        Which has a row of every compound.
    atlas : Atlas or None
    file_order, pairs_file_order : ndarray of intp, (n,) and (m,)
        Positions that lead from canonical order to the order of the files.
    source : str
        Where the training rows are from.
    inputs : dict
        What a manifest says of the files: path, size and SHA-256, by "train", "test", "genes", "molecules" and "atlas"
        (its manifest).
    notes : list of str
        What a person should know of how the files were read, and of replicates and doses.
    """

    data: PerturbationData
    pairs: pd.DataFrame | None
    table: EmbeddingTable | None
    file_order: Indices
    pairs_file_order: Indices
    source: str
    inputs: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    atlas: Atlas | None = None

    @property
    def asked(self) -> pd.DataFrame:
        """The pairs to predict, a table without rows where no file names any."""
        if self.pairs is not None:
            return self.pairs
        return self.data.obs[TRAINING_COLUMNS].head(0).assign(id=[])

    @property
    def recorded(self) -> dict[str, Any]:
        """What a report records of the files: `inputs`, and `notes` where there are any."""
        return {"inputs": self.inputs} | ({"notes": self.notes} if self.notes else {})

    @property
    def shape(self) -> dict[str, int]:
        """Training rows, test rows and genes."""
        return {
            "training_rows": len(self.data.obs),
            "test_rows": len(self.pairs_file_order),
            "genes": len(self.data.genes),
        }


def require_pairs(problem: Problem) -> None:
    """Raise InputError where a problem has no pairs to predict."""
    if problem.pairs is None:
        raise InputError("there are no pairs to predict; give a file of them with --test")


def open_problem(files: ProblemFiles, device: DeviceName = "cpu") -> Problem:
    """Read and check the files of a problem, or its tables, by the frame library of a device.

    Raises
    ------
    InputError, UnavailableError
        As `read_training`, `read_pairs`, `with_smiles`, `read_embedding_table`, `EmbeddingTable.require`, `read_atlas`
        and `Atlas.refuse_source`; without structures also as `refuse_near`, for compounds. All training rows are alike.
    """
    library, train, test = library_for(device), _called(files.train), _called(files.test)
    if files.replicates not in get_args(Replicates):
        raise InputError(f"--replicates {files.replicates}: choose mean or keep")
    read, pairs = _training(files, library)
    measured, copies = without_copies(read)
    data = averaged(measured) if files.replicates == "mean" else measured
    if len(data.Y) > 1 and (data.Y == data.Y[:1]).all():
        raise InputError(
            f"{train}: every gene has one value in all rows, so there is nothing to learn from it"
        )
    notes = [*data.notes, *copies]
    if files.test is not None:
        pairs, said = read_pairs(files.test, data.obs, files.options, library=library)
        notes += said
    elif pairs is not None:
        pairs = with_smiles(pairs, data.obs, Path("the demo's id_map"), files.options.structures)
    table = None if files.table is None else read_embedding_table(files.table, files.options.combine)
    if table is not None:
        table.require(list(data.obs["sm_name"]), str(train))
        table.require([] if pairs is None else list(pairs["sm_name"]), str(test))
    elif files.test is not None and pairs is not None and not files.options.structures:
        # Nothing but its name tells such a compound apart.
        refuse_near(test, "sm_name", pairs["sm_name"], data.obs["sm_name"])
    atlas = None if files.atlas is None else read_atlas(files.atlas)
    if atlas is not None and "train" in files.described():
        atlas.refuse_source(train, files.described()["train"]["sha256"])
    order = canonical_order(data.obs)
    pairs_order = np.arange(0) if pairs is None else canonical_order(pairs)
    return Problem(
        data.take(order),
        None if pairs is None else pairs.iloc[pairs_order].reset_index(drop=True),
        table,
        np.argsort(order),
        np.argsort(pairs_order),
        "demo data (simulated)" if files.train is None else str(train),
        files.described(),
        [*notes, *_notes(measured, data, pairs, files.replicates)],
        atlas,
    )


def without_copies(data: PerturbationData) -> tuple[PerturbationData, list[str]]:
    """Return the data with rows of one compound, context and responses once, and a note where there are any.

    Two measurements hardly agree in every gene, so such rows are one that was copied. The first in canonical order
    stays; untested genes must be the same ones. The data themselves are returned where no row is a copy.
    """
    context, order = contexts_of(data.obs), canonical_order(data.obs)
    first: dict[tuple[int, bytes], int] = {}
    copies: dict[int, int] = {}
    for row in order[np.bincount(context)[context[order]] > 1].tolist():
        kept = first.setdefault((int(context[row]), (data.Y[row] + 0).tobytes()), row)  # no −0
        if kept != row:
            copies[row] = kept
    if not copies:
        return data, []
    row, kept = next(iter(copies.items()))
    note = (
        f"{len(copies)} rows are identical copies of another row of their compound and context, such as row {row + 1} "
        f"of row {kept + 1}; each is counted once"
    )
    return data.take(np.setdiff1d(np.arange(len(context)), list(copies))), [note]


def averaged(data: PerturbationData) -> PerturbationData:
    """Return one row a compound and context, the mean of its replicates; the data themselves where no row has any.

    With c_j what a row counts (`weight`, else `n_cells`, else 1), n_i the rows of context i, v_i their variance, the
    mean over genes, and v̄ that of all replicates, the mean ȳ_i = Σ c_j y_j / Σ c_j counts in fits

        w_i ∝ Σ c_j / s_i,   s_i = (PRIOR_REPLICATES v̄ + (n_i − 1) v_i) / (PRIOR_REPLICATES + n_i − 1),   mean w = 1

    so a context of few or unlike replicates counts less. A gene's mean is that of the rows in which it was tested (not
    NaN). Rows are in the order of first occurrence, with the metadata of their first row; a batch or replicate that is
    not that of all rows is left out, `n_cells` and `weight` are sums.

    Raises
    ------
    InputError
        A weight or number of cells is missing or not above 0.
    """
    context = contexts_of(data.obs)
    n = np.bincount(context)
    if (n <= 1).all():
        return data
    counts = replicate_counts(data.obs)
    groups = csr_array((np.ones(len(context)), (context, np.arange(len(context)))))
    tested = np.isfinite(data.Y)
    filled = np.where(tested, data.Y, 0).astype(np.float64)
    weights = groups @ (counts[:, None] * tested)
    Y = np.divide(
        groups @ (counts[:, None] * filled), weights, out=np.full_like(weights, np.nan), where=weights > 0
    )
    away = np.where(tested, filled - np.nan_to_num(Y)[context], 0)
    spread = groups @ np.einsum("ij,ij->i", away, away) / away.shape[1]
    degrees = n - 1
    pooled = float(spread.sum() / degrees.sum())
    noise = np.ones(len(n))
    if pooled > 0:
        noise = (PRIOR_REPLICATES + spread / pooled) / (PRIOR_REPLICATES + degrees)
    weight = groups @ counts / noise
    first = np.unique(context, return_index=True)[1]
    obs = data.obs.iloc[first].reset_index(drop=True)
    for column in (BATCH, REPLICATE):
        if column in obs.columns:
            of_row = data.obs[column].astype(object)
            obs[column] = (
                of_row.iloc[first]
                .where(of_row.groupby(context).nunique(dropna=False).to_numpy() == 1)
                .to_numpy()
            )
    for column in (CELLS, WEIGHT):
        if column in obs.columns:
            obs[column] = np.bincount(context, data.obs[column].to_numpy(np.float64))
    return replace(data, obs=obs, Y=np.ascontiguousarray(Y, np.float32), weight=weight / weight.mean())


def replicate_counts(obs: pd.DataFrame) -> Float64:
    """Return what each row counts among its replicates, (n,): `weight`, else `n_cells`, else 1.

    Raises
    ------
    InputError
        A weight or number of cells is missing or not above 0.
    """
    column = next((name for name in (WEIGHT, CELLS) if name in obs.columns), None)
    if column is None:
        return np.ones(len(obs))
    counts = context_numbers(obs, column)[:, 0]
    bad = np.flatnonzero(~(np.isfinite(counts) & (counts > 0)))
    if len(bad):
        raise InputError(
            f"column {column}, row {bad[0] + 1}: {counts[bad[0]]:g} is missing or not above 0, and replicates are "
            f"averaged by it; fill it, drop the column, or give --replicates keep"
        )
    return counts


def _notes(
    measured: PerturbationData, data: PerturbationData, pairs: pd.DataFrame | None, replicates: Replicates
) -> tuple[str, ...]:
    """Return what a reader should know of replicates, and of pairs without the dose or time that training rows have."""
    notes, n = [], int(contexts_of(measured.obs).max(initial=-1)) + 1
    if n < len(measured.obs):
        what = {
            "mean": "replicates are averaged",
            "keep": "replicates stay rows of their own, in one fold (--replicates keep)",
        }
        notes.append(
            f"{len(measured.obs)} rows measure {n} contexts (compound, cell type, dose, time): {what[replicates]}"
        )
    if pairs is not None:
        notes += context_notes(pairs, data.obs[[*varying(data.obs)]])
    return tuple(notes)


def canonical_order(obs: pd.DataFrame) -> Indices:
    """Return the row order that makes results independent of the file's order.

    By cell_type, sm_name, dose_uM, time_h, batch and replicate, so far as there are such columns; missing values last.
    """
    keys = [obs["cell_type"].to_numpy(str), obs["sm_name"].to_numpy(str), *context_numbers(obs, DOSE, TIME).T]
    keys += [labels_of(obs, name) for name in (BATCH, REPLICATE)]
    return np.lexsort(keys[::-1])


def _training(files: ProblemFiles, library: FrameLibrary) -> tuple[PerturbationData, pd.DataFrame | None]:
    """Return the training rows in file order, and the pairs that come with them."""
    if files.train is None:
        made = demo.simulate()
        return training_from_frame(made.de_train, "demo"), made.id_map
    if isinstance(files.train, Path):
        return read_training(files.train, files.options, library=library), None
    return training_from_frame(files.train, str(name_of(files.train)), files.options), None


def _called(source: Any) -> Path:
    return Path("the demo") if source is None else name_of(source)
