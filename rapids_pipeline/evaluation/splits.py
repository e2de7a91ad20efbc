"""Splits by name: each answers another question about new data (`SPLITS` says in words what it holds out)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from features.group_statistics import random_folds as dealt_folds
from features.molecules.smiles import distinct_molecules, murcko_scaffolds
from features.rows import DOSE, TIME, context_numbers, contexts_of, numbered
from rapids_pipeline.backend.arrays import Float32, Indices, Labels, Mask
from rapids_pipeline.backend.errors import InputError, meant
from rapids_pipeline.data.untested import imputed

PUBLISHED_CELL_TYPES = ("B cells", "Myeloid cells")
PUBLISHED_FOLDS = 3
OF_COMPOUNDS = ("compound", "scaffold", "joint", "dose", "time", "scarce", "made_scarce")
N_CLUSTERS, LEAST_IN_CLUSTER, N_COMPONENTS = 10, 20, 45


@dataclass(frozen=True)
class Split:
    """Rows to train on and rows to predict, by position; `name` says what was held out."""

    name: str
    training: Indices
    held_out: Indices


@dataclass(frozen=True)
class Task:
    """What a split is made from; `seed` is that of the repeat."""

    obs: pd.DataFrame
    n_folds: int
    seed: int
    pairs: pd.DataFrame | None
    Y: Float32 | None

    def labels(self, column: str) -> Labels:
        """Return a column of `obs` as text."""
        return self.obs[column].to_numpy(str)


def named_splits(
    name: str,
    obs: pd.DataFrame,
    *,
    n_folds: int = 5,
    repeats: int = 1,
    seed: int = 0,
    pairs: pd.DataFrame | None = None,
    Y: Float32 | None = None,
) -> list[list[Split]]:
    """Return the splits of every repeat.

    Parameters
    ----------
    name : str
        One of `SPLITS`.
    obs : DataFrame, (n,)
        `cell_type`, `sm_name` and `SMILES` of the rows.
    n_folds : int
        Ignored by cell_type, made_scarce and published, whose number of splits follows from the rows.
    repeats, seed : int
        How often to deal anew, with seeds `seed`, `seed` + 1, …; cell_type is the same every time.
    pairs : DataFrame, optional
        `cell_type` and `sm_name` of the pairs to predict; scarce and made_scarce need them.
    Y : ndarray of float32, (n, t), optional
        Responses; cluster needs them.

    Raises
    ------
    InputError
        Unknown name, too few groups for the folds, or something missing that the split needs.
    UnavailableError
        scaffold without RDKit.
    """
    if name not in _SPLITS:
        raise InputError(f"--split {name}{meant(name, _SPLITS)}: choose among {', '.join(_SPLITS)}")
    made, _ = _SPLITS[name]
    return [made(Task(obs, n_folds, seed + repeat, pairs, Y)) for repeat in range(repeats)]


def bootstrap_units(name: str, obs: pd.DataFrame) -> Indices:
    """Return one number a row of `obs`, (n,): a bootstrap of a split's scores resamples those of a number together.

    They are the rows of one compound where compounds are held out: those are no independent evidence about new ones.
    """
    if name not in OF_COMPOUNDS:
        return np.arange(len(obs))
    return numbered(obs["sm_name"].to_numpy(str))[1]


class NamedSplit:
    """A split by name as a scikit-learn splitter: pass it as `cv`, with X the DataFrame of `named_splits`.

    Parameters
    ----------
    name, n_folds, repeats, seed, pairs
        As `named_splits`; its Y is the y of `split`.

    Examples
    --------
    >>> obs = pd.DataFrame({"cell_type": [*"BBTT"], "sm_name": ["A", "B"] * 2, "SMILES": ["CCO", "CCC"] * 2})
    >>> for training, held_out in NamedSplit("compound", n_folds=2).split(obs):
    ...     print(training, held_out)
    [1 3] [0 2]
    [0 2] [1 3]
    """

    def __init__(
        self,
        name: str,
        n_folds: int = 5,
        repeats: int = 1,
        seed: int = 0,
        pairs: pd.DataFrame | None = None,
    ) -> None:
        self.name, self.n_folds, self.repeats, self.seed, self.pairs = name, n_folds, repeats, seed, pairs

    def split(
        self, X: pd.DataFrame, y: Any = None, groups: object = None
    ) -> Iterator[tuple[Indices, Indices]]:
        """Yield the positions of training rows and held-out rows, repeat after repeat."""
        for split in self._splits(X, y):
            yield split.training, split.held_out

    def get_n_splits(self, X: pd.DataFrame, y: Any = None, groups: object = None) -> int:
        """Return how many splits `split` yields."""
        return len(self._splits(X, y))

    def _splits(self, X: pd.DataFrame, y: Any) -> list[Split]:
        Y = None if y is None else np.asarray(y, dtype=np.float32).reshape(len(X), -1)
        repeats = named_splits(
            self.name, X, n_folds=self.n_folds, repeats=self.repeats, seed=self.seed, pairs=self.pairs, Y=Y
        )
        return [split for splits in repeats for split in splits]


def random_folds(n_rows: int, n_folds: int, seed: int) -> Indices:
    """Return the fold, 0 … n_folds-1, of every row: a seeded shuffle dealt out evenly.

    InputError where there are fewer than two folds, or fewer than two rows a fold.
    """
    if n_folds < 2 or n_rows < 2 * n_folds:
        raise InputError(f"{n_folds} folds of {n_rows} training rows: at least 2 folds of 2 rows are needed")
    return dealt_folds(n_rows, n_folds, seed)


def context_folds(obs: pd.DataFrame, n_folds: int, seed: int) -> Indices:
    """Return the fold of every row as `random_folds` deals them, with replicates in one fold.

    Contexts are dealt, not rows: rows of one compound at one dose and time in one cell type stay together. Where every
    row has a context of its own, these are the folds of `random_folds`.
    """
    contexts = contexts_of(obs)
    return random_folds(int(contexts.max(initial=-1)) + 1, n_folds, seed)[contexts]


def judging_folds(name: str, obs: pd.DataFrame, Y: Float32, n_folds: int, seed: int) -> Indices:
    """Return the folds of rows by which a model that is trained on the others is judged; −1: never.

    Parameters
    ----------
    name : {"rows", "clusters", "scarce", "most_measured"}
        rows: all, as `context_folds`. clusters: as the split cluster. scarce: compounds within the cell types that have
        at most half as many as the one with the most, where others have them, too. most_measured: likewise within the
        cell type that has the most. As rows, where there are fewer than two such compounds, or too few for a cluster.
    obs : DataFrame, (n,)
    Y : ndarray of float32, (n, t)
    n_folds, seed : int
        No more folds than compounds to deal; InputError where there are too few rows.
    """
    cells, compounds = obs["cell_type"].to_numpy(str), obs["sm_name"].to_numpy(str)
    if name == "clusters" and len(Y) >= LEAST_IN_CLUSTER:
        folds = np.full(len(obs), -1, dtype=np.intp)
        for number, split in enumerate(_cluster(Task(obs, n_folds, seed, None, Y))):
            folds[split.held_out] = number
        return folds
    measured = obs.groupby("cell_type", observed=True)["sm_name"].nunique()
    few = list(measured.index[measured <= measured.max() / 2])
    wanted: dict[str, list[Any]] = {"scarce": few, "most_measured": [measured.idxmax()]}
    inside = np.isin(cells, wanted.get(name, []))
    inside &= np.isin(compounds, compounds[~inside])
    n_compounds = len(np.unique(compounds[inside]))
    if n_compounds < 2:
        return context_folds(obs, n_folds, seed)
    return _folds_among(inside, numbered(compounds)[1], min(n_folds, n_compounds), seed, "compounds")


def same_compound(names: Labels, smiles: Labels) -> Indices:
    """Return one number a compound: rows of the same name or the same molecule (canonical SMILES) have the same.

    An empty SMILES is no molecule: such rows are told apart by their names.
    """
    by_name = np.unique(names, return_inverse=True)[1]
    drawn = np.flatnonzero(smiles != "")
    by_molecule = distinct_molecules(smiles[drawn].tolist())[1]
    n_names = int(by_name.max()) + 1
    size = n_names + int(by_molecule.max(initial=-1)) + 1
    ends = by_name[drawn], n_names + by_molecule
    edges = coo_array((np.ones(len(drawn)), ends), shape=(size, size))
    return np.asarray(connected_components(edges, directed=False)[1][by_name], dtype=np.intp)


def scaffolds_of(smiles: Labels) -> list[str]:
    """Return the Bemis–Murcko scaffold of every row (`murcko_scaffolds`), "" where the structure is not known."""
    drawn = np.flatnonzero(smiles != "")
    found = [""] * len(smiles)
    for row, scaffold in zip(drawn, murcko_scaffolds(smiles[drawn].tolist()), strict=True):
        found[row] = scaffold
    return found


def group_folds(groups: Indices, n_folds: int, seed: int, what: str) -> Indices:
    """Return the fold of every row, with whole groups in a fold and folds about even in rows.

    Groups are shuffled and dealt, each to the fold with the fewest rows so far; folds differ by no more rows than the
    largest group has.

    Raises
    ------
    InputError
        Fewer than two folds, or fewer groups than folds.
    """
    sizes = np.bincount(groups)
    present = np.flatnonzero(sizes)
    if not 2 <= n_folds <= len(present):
        raise InputError(f"{n_folds} folds of {len(present)} {what}: take from 2 to {len(present)} folds")
    fold_of_group = np.zeros(len(sizes), dtype=np.intp)
    filled = np.zeros(n_folds, dtype=np.intp)
    for group in np.random.default_rng(seed).permutation(present):
        fold_of_group[group] = np.argmin(filled)
        filled[fold_of_group[group]] += sizes[group]
    return fold_of_group[groups]


def _random(task: Task) -> list[Split]:
    return _of_folds(context_folds(task.obs, task.n_folds, task.seed), "rows")


def _compound(task: Task) -> list[Split]:
    return _of_folds(_compound_folds(task), "compounds")


def _compound_folds(task: Task) -> Indices:
    compounds = same_compound(task.labels("sm_name"), task.labels("SMILES"))
    return group_folds(compounds, task.n_folds, task.seed, "compounds")


def _scaffold(task: Task) -> list[Split]:
    """Hold out Bemis–Murcko scaffolds; a molecule without rings is its own scaffold, a compound stays whole.

    A compound without a structure is a series of its own.
    """
    if not (task.labels("SMILES") != "").any():
        raise InputError(
            "--split scaffold: no row has a SMILES, which scaffolds are read off; take --split compound"
        )
    series = same_compound(task.labels("sm_name"), np.array(scaffolds_of(task.labels("SMILES")), str))
    return _of_folds(group_folds(series, task.n_folds, task.seed, "scaffolds"), "scaffolds")


def _cell_type(task: Task) -> list[Split]:
    cell_types = task.labels("cell_type")
    levels = np.unique(cell_types)
    if len(levels) < 2:
        raise InputError(f"--split cell_type: all rows are of one cell type ({levels[0]})")
    return [_holding_out(cell_types == level, str(level)) for level in levels]


def _joint(task: Task) -> list[Split]:
    cell_types, folds = task.labels("cell_type"), _compound_folds(task)
    splits = []
    for level in np.unique(cell_types):
        for k in range(task.n_folds):
            held_out = np.flatnonzero((cell_types == level) & (folds == k))
            training = np.flatnonzero((cell_types != level) & (folds != k))
            if len(held_out) and len(training):
                splits.append(Split(f"{level}, compounds {k}", training, held_out))
    if not splits:
        raise InputError("--split joint: needs at least two cell types")
    return splits


def _levels(column: str, what: str, task: Task) -> list[Split]:
    """Deal the doses or times of every compound to successive folds, in an order drawn for each.

    So no fold holds all that a compound has. A compound with one of them, and rows where it is missing, are never held
    out: −1.
    """
    compounds = same_compound(task.labels("sm_name"), task.labels("SMILES"))
    values, rng = context_numbers(task.obs, column)[:, 0], np.random.default_rng(task.seed)
    folds, turn = np.full(len(values), -1, dtype=np.intp), 0
    for compound in rng.permutation(np.unique(compounds)):
        rows = np.flatnonzero((compounds == compound) & ~np.isnan(values))
        levels = rng.permutation(np.unique(values[rows]))
        if len(levels) > 1:
            folds[rows] = (
                turn + np.argsort(levels)[np.searchsorted(np.sort(levels), values[rows])]
            ) % task.n_folds
            turn += len(levels)
    if not 2 <= task.n_folds <= turn:
        raise InputError(
            f"--split {column.split('_')[0]}: {task.n_folds} folds of {turn} {what} of compounds that have several in "
            f"the column {column}: take from 2 to {turn} folds, or another split"
        )
    return _of_folds(folds, f"{what} of known compounds")


def _scarce(task: Task) -> list[Split]:
    """Hold out compounds within the cell types of the pairs to predict, where another cell type has the compound.

    All other rows are trained on: those of other cell types, of the same compounds too.
    """
    cell_types = task.labels("cell_type")
    scarce = np.isin(cell_types, np.unique(_pairs_of(task, "scarce")["cell_type"].to_numpy(str)))
    compounds = same_compound(task.labels("sm_name"), task.labels("SMILES"))
    held_out = scarce & np.isin(compounds, compounds[~scarce])
    if not held_out.any():
        raise InputError(
            "--split scarce: no split imitates these pairs: none of their cell types has a training row whose compound "
            "another cell type has, too; take --split cell_type, compound or random"
        )
    what = "compounds of the pairs' cell types"
    return _of_folds(_folds_among(held_out, compounds, task.n_folds, task.seed, what), what)


def _made_scarce(task: Task) -> list[Split]:
    """Make other cell types scarce: one split for each cell type that the pairs to predict do not have.

    The cell types of the pairs are the scarce ones; let k be the mean number of their training rows. Each other cell
    type with more than 2k rows is made scarce in turn: k of its rows stay in training, drawn at random among those
    whose compound the scarce cell types have (then among the others), and the rest is held out, but for rows whose
    compound no other training row has: those would be another, harder task, and stay.
    """
    cell_types, compounds = task.labels("cell_type"), task.labels("sm_name")
    scarce = np.isin(cell_types, np.unique(_pairs_of(task, "made_scarce")["cell_type"].to_numpy(str)))
    kept = round(scarce.sum() / max(len(np.unique(cell_types[scarce])), 1))
    rng = np.random.default_rng(task.seed)
    splits = []
    for name in np.unique(cell_types[~scarce]):
        rows = rng.permutation(np.flatnonzero(cell_types == name))
        first = rows[np.argsort(~np.isin(compounds[rows], compounds[scarce]), kind="stable")][:kept]
        elsewhere = np.isin(compounds[rows], compounds[cell_types != name])
        held_out = np.sort(np.setdiff1d(rows[elsewhere], first))
        if kept and len(rows) > 2 * kept and len(held_out):
            splits.append(Split(str(name), np.setdiff1d(np.arange(len(cell_types)), held_out), held_out))
    if not splits:
        raise InputError(
            "no split imitates these pairs: that takes cell types with few training rows among the pairs, and others "
            f"with more than twice as many ({kept}) that are not"
        )
    return splits


def _pairs_of(task: Task, name: str) -> pd.DataFrame:
    if task.pairs is None:
        raise InputError(
            f"--split {name}: needs the pairs to predict (--test FILE), whose cell types are the scarce ones"
        )
    return task.pairs


def _published(task: Task) -> list[Split]:
    cell_types = task.labels("cell_type")
    held_out = np.isin(cell_types, PUBLISHED_CELL_TYPES)
    if not held_out.any():
        known = ", ".join(np.unique(cell_types))
        raise InputError(
            f"--split published: needs {' and '.join(PUBLISHED_CELL_TYPES)}; the rows are of {known}: take another"
        )
    compounds = same_compound(task.labels("sm_name"), task.labels("SMILES"))
    folds = _folds_among(held_out, compounds, PUBLISHED_FOLDS, task.seed, "compounds")
    return _of_folds(folds, "B and Myeloid cells")


def _cluster(task: Task) -> list[Split]:
    """Deal the rows of every cluster of responses evenly; those of small clusters stay in training.

    Responses decide which rows go together, not what a model of them sees.
    """
    from sklearn.cluster import KMeans  # takes a second to load, and no other split needs it

    from features.reduction import TruncatedSVD

    if task.Y is None:
        raise InputError("--split cluster: needs the responses")
    Y = imputed(task.Y, task.labels("cell_type")).astype(np.float64)
    if Y.shape[1] > N_COMPONENTS:
        Y = np.asarray(TruncatedSVD(N_COMPONENTS).fit(Y).transform(Y), dtype=np.float64)
    n_clusters = min(N_CLUSTERS, max(1, len(Y) // LEAST_IN_CLUSTER))
    clusters = KMeans(n_clusters, n_init=10, random_state=task.seed).fit_predict(Y)
    folds, rng = np.full(len(Y), -1, dtype=np.intp), np.random.default_rng(task.seed)
    first = 0
    for cluster in range(n_clusters):
        rows = rng.permutation(np.flatnonzero(clusters == cluster))
        if len(rows) >= LEAST_IN_CLUSTER:
            folds[rows] = (first + np.arange(len(rows))) % task.n_folds
            first += len(rows)
    if len(np.unique(folds[folds >= 0])) < max(task.n_folds, 2):
        raise InputError(f"--split cluster: too few rows ({len(Y)}) for {task.n_folds} folds")
    return _of_folds(folds, "rows of every cluster")


def _folds_among(rows: Mask, groups: Indices, n_folds: int, seed: int, what: str) -> Indices:
    """Return the fold of some rows, as `group_folds`, and −1 of all others."""
    folds = np.full(len(groups), -1, dtype=np.intp)
    folds[rows] = group_folds(groups[rows], n_folds, seed, what)
    return folds


def _of_folds(folds: Indices, what: str) -> list[Split]:
    """Return one split a fold; rows of fold −1 are always trained on."""
    return [_holding_out(folds == k, f"{what}, fold {k}") for k in range(int(folds.max()) + 1)]


def _holding_out(held_out: Mask, name: str) -> Split:
    return Split(name, np.flatnonzero(~held_out), np.flatnonzero(held_out))


_SPLITS: dict[str, tuple[Callable[[Task], list[Split]], str]] = {
    "random": (_random, "random rows, which share compounds and cell types with the training rows"),
    "compound": (_compound, "compounds that no training row has"),
    "scaffold": (_scaffold, "scaffolds that no training row has"),
    "cell_type": (_cell_type, "a cell type that no training row has"),
    "joint": (_joint, "compounds and a cell type that no training row has"),
    "dose": (partial(_levels, DOSE, "doses"), "doses of a compound that training rows have at other doses"),
    "time": (partial(_levels, TIME, "times"), "times of a compound that training rows have at other times"),
    "scarce": (
        _scarce,
        "compounds within the cell types of the pairs to predict, known from other cell types",
    ),
    "made_scarce": (
        _made_scarce,
        "most rows of another cell type, their compounds known from elsewhere",
    ),
    "published": (_published, "B and Myeloid cells by compound, as the competition's fourth place did"),
    "cluster": (_cluster, "random rows, each kind of response in every fold"),
}

SPLITS: dict[str, str] = {name: words for name, (_, words) in _SPLITS.items()}
"""What each split holds out, in words."""
