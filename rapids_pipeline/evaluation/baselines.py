"""Baselines: what any model must beat before its structure is worth anything.

The four of the Open Problems benchmark, under its names:

    zeros                  0
    mean_outcome           per gene, the mean over all training rows
    mean_across_celltypes  per cell type and gene, the mean over that cell type's training rows
    mean_across_compounds  per compound and gene, the mean over that compound's training rows

The names mislead: `mean_across_celltypes` is the mean *of a cell type*, over all its compounds, and
`mean_across_compounds` the mean *of a compound*, over all its cell types. They are kept as published, so that a score
here can be set beside the published one (mean_rowwise_rmse 0.8925 and 0.9428 on the competition data). The scripts
fail on a cell type or compound without training rows; here such a pair gets `mean_outcome`.

Four that learn a little:

    shrunken_compound_mean   the compound's mean over cell types, drawn towards the mean of all rows
    additive                 an effect of the cell type and one of the compound
    ridge                    linear in cell type and Morgan fingerprint
    tanimoto_neighbours      weighted mean of the most similar training compounds

A NaN among the responses was not tested. Means are of tested entries; a level without any in a gene has that gene's
`mean_outcome`, and a gene without any 0. The other four read an untested entry as its gene's mean plus the effect of
the row's cell type (`rapids_pipeline.data.untested.additive_fill`).

Two that read doses and times, listed where the training rows differ in either:

    nearest_context   the same compound's nearest row: in the same cell type first, then by dose and time
    context_mean      the mean of a cell type's rows of the same dose class and time

Each is a function (training data, pairs) → predictions: float32, (n_pairs, n_genes). What they choose, they choose by
leave-one-out on training rows, all genes together. A pair's prediction depends on nothing but training rows and the
pair. Leave-one-out of a linear smoother Ŷ = H Y has a closed form, e_i = (y_i − ŷ_i)/(1 − H_ii). With H = Z M Zᵀ, Z of
p columns, C = Zᵀ Y and m_i a row of Z M, the squares of y_i − ŷ_i sum to |y_i|² − 2 m_i C y_i + m_i C Cᵀ m_iᵀ over the
genes. So a choice costs products of n × p and p × p matrices, whatever the number of genes.

Sources: openproblems-bio/task_perturbation_prediction, commit 2fa44462, `src/control_methods/*/script.py`; Cook and
Weisberg, Residuals and Influence in Regression (1982), section 2.2; Rifkin and Lippert, Notes on Regularized Least
Squares (2007).
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from features.rows import DOSE, TIME, context_numbers, decades_apart, log10_of, varying
from rapids_pipeline.backend.arrays import Float32, Float64, Indices, row_blocks
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.data.untested import additive_fill, has_gaps, tested_mean

Baseline = Callable[[PerturbationData, pd.DataFrame], Float32]

PENALTIES = tuple(float(x) for x in 10.0 ** np.arange(-2.0, 4.5, 0.5))
NEIGHBOURS = 5
GENES_AT_ONCE = 1024
CHOICE_VALUES = 2**23
NULL = 1e-12
"""Eigenvalues below this share of the largest are rounding."""


def zeros(training: PerturbationData, pairs: pd.DataFrame) -> Float32:
    """Return 0 for every pair and gene: float32, (n_pairs, n_genes); only the number of genes is used."""
    return np.zeros((len(pairs), len(training.genes)), dtype=np.float32)


def mean_outcome(training: PerturbationData, pairs: pd.DataFrame) -> Float32:
    """Return, for every pair, 1/n Σ_i Y_i over all n training rows: float32, (n_pairs, n_genes)."""
    return np.repeat(tested_mean(training.Y).astype(np.float32)[None], len(pairs), axis=0)


def mean_across_celltypes(training: PerturbationData, pairs: pd.DataFrame) -> Float32:
    """Return, for every pair, the mean response of its cell type over all the compounds measured in it.

    Parameters
    ----------
    training : PerturbationData
        The rows to average, n_genes targets; means are accumulated in float64.
    pairs : pandas.DataFrame
        The n_pairs pairs to predict, with a column `cell_type`.

    Returns
    -------
    numpy.ndarray of float32, (n_pairs, n_genes)
        A cell type without training rows gets `mean_outcome`.

    Raises
    ------
    InputError
        `pairs` or the training metadata have no column `cell_type`.
    """
    return _level_means(training, pairs, "cell_type")


def mean_across_compounds(training: PerturbationData, pairs: pd.DataFrame) -> Float32:
    """Return, for every pair, the mean response of its compound over all the cell types it was measured in.

    As `mean_across_celltypes`, by the column `sm_name`; a compound without training rows gets `mean_outcome`.
    """
    return _level_means(training, pairs, "sm_name")


def shrunken_compound_mean(training: PerturbationData, pairs: pd.DataFrame) -> Float32:
    """Return m + n_c/(n_c + k) (m_c − m), with m the mean of all rows and m_c that of the compound's n_c rows.

    k is chosen among `PENALTIES` by leave-one-out: row i is predicted by the mean of the other rows of its compound,
    shrunken by (n_c − 1)/(n_c − 1 + k), and by the mean of all other rows.

    Parameters
    ----------
    training : PerturbationData
        The rows to average.
    pairs : DataFrame, (n_pairs,)
        With a column `sm_name`.

    Returns
    -------
    ndarray of float32, (n_pairs, n_genes)
        A compound without training rows gets m.
    """
    _require(training, pairs, "sm_name")
    names, compound, count = np.unique(
        training.obs["sm_name"].to_numpy(str), return_inverse=True, return_counts=True
    )
    Y = _complete(training)
    mean = Y.mean(axis=0)
    sums = _sums(Y, compound, len(names))
    k = _shrinkage(Y, sums, compound, count)
    shrunken = (count / (count + k))[:, None] * (sums / count[:, None] - mean)
    place = pd.Index(names).get_indexer(pd.Index(pairs["sm_name"].to_numpy(str)))
    out = np.repeat(mean[None], len(pairs), axis=0)
    out[place >= 0] += shrunken[place[place >= 0]]
    return out.astype(np.float32)


def additive(training: PerturbationData, pairs: pd.DataFrame) -> Float32:
    """Return m + a_cell + b_compound, with a penalty on each kind of effect.

    Minimises Σ_i |y_i − m − a − b|² + λ_a Σ|a|² + λ_b Σ|b|² (m is free); both penalties are chosen by leave-one-out,
    among every other of `PENALTIES`, on some genes where there are over `CHOICE_VALUES` responses. Parameters and
    result as `shrunken_compound_mean`; `cell_type` is read, too; an unseen cell type or compound has the effect 0.
    """
    for column in (kinds := ("cell_type", "sm_name")):
        _require(training, pairs, column)
    levels = [pd.Index(np.unique(training.obs[column].to_numpy(str))) for column in kinds]
    rows, asked = (
        [one.get_indexer(x[column].to_numpy(str)) for one, column in zip(levels, kinds, strict=True)]
        for x in (training.obs, pairs)
    )
    Y = _complete(training)
    few, many = np.argsort([len(one) for one in levels], kind="stable")
    fit = _AdditiveFit(rows[few], rows[many], len(levels[few]), len(levels[many]))
    short = Y[:, :: -(-Y.size // CHOICE_VALUES)]
    if len(Y) < Y.shape[1] and len(Y) ** 2 <= CHOICE_VALUES:
        vectors, values = _spectrum(Y)  # residuals are as long in coordinates of the rows' own space
        short = vectors * np.sqrt(values)
    choices = [(a, b) for a in PENALTIES[::2] for b in PENALTIES[::2]]
    errors = [fit.leave_one_out_error(short, choice[few], choice[many]) for choice in choices]
    best = choices[int(np.argmin(errors))]
    # A row of zeros last is what -1, an unseen level, gets.
    mean, of_few, of_many = (np.pad(x, ((0, 1), (0, 0))) for x in fit.effects(Y, best[few], best[many])[:3])
    return np.asarray(mean[0] + of_few[asked[few]] + of_many[asked[many]], dtype=np.float32)


class _AdditiveFit:
    """Normal equations of an intercept and two kinds of effects, of which the one of more levels is eliminated.

        [P + λ_f  Q      ] [m, a]   [right_f]
        [Qᵀ       N + λ_m] [b   ] = [right_m]        S = P + λ_f − Q (N + λ_m)⁻¹ Qᵀ

    N, the rows of each of the many levels, is diagonal, so only S, of the few levels and the intercept, is solved.
    """

    def __init__(self, few: Indices, many: Indices, n_few: int, n_many: int) -> None:
        self.few, self.many = few, many
        self.Q = np.zeros((1 + n_few, n_many))
        np.add.at(self.Q, (1 + few, many), 1.0)
        self.P = np.diag(np.concatenate([[0.0], self.Q.sum(axis=1)[1:]]))
        self.P[0] = self.P[:, 0] = np.concatenate([[len(few)], self.P.diagonal()[1:]])
        self.Q[0] = self.Q.sum(axis=0)

    def effects(self, Y: Float64, of_few: float, of_many: float) -> tuple[Float64, ...]:
        """Return m (1, t), the effects of the few and of the many levels, and h = u_iᵀ S⁻¹ u_i + 1/(N + λ_m), (n,)."""
        diagonal = self.Q[0] + of_many
        shares = self.Q / diagonal
        S = self.P + np.diag([0.0] + [of_few] * (len(self.P) - 1)) - shares @ self.Q.T
        sums = _sums(Y, self.many, len(diagonal))
        right = np.vstack([Y.sum(axis=0), _sums(Y, self.few, len(S) - 1)])
        top = np.asarray(np.linalg.solve(S, right - shares @ sums), dtype=np.float64)
        u = -shares.T[self.many]  # what the elimination leaves of each row's (1, its few level)
        u[:, 0] += 1.0
        u[np.arange(len(u)), 1 + self.few] += 1.0
        h = np.einsum("ij,ij->i", u, np.linalg.solve(S, u.T).T) + 1.0 / diagonal[self.many]
        return top[:1], top[1:], (sums - self.Q.T @ top) / diagonal[:, None], h

    def leave_one_out_error(self, Y: Float64, of_few: float, of_many: float) -> float:
        """Return Σ_i |y_i − ŷ_i|² / (1 − h_i)²."""
        mean, a, b, h = self.effects(Y, of_few, of_many)
        left = Y - mean - a[self.few] - b[self.many]
        return float((np.einsum("ij,ij->i", left, left) / np.maximum(1 - h, 1e-12) ** 2).sum())


def ridge(training: PerturbationData, pairs: pd.DataFrame) -> Float32:
    """Return ridge regression on the cell type (one-hot) and the Morgan fingerprint, with an intercept.

    The penalty is chosen among `PENALTIES` by leave-one-out, all genes together, as scikit-learn's `RidgeCV` does.
    Parameters and result as `shrunken_compound_mean`; `cell_type` and `SMILES` are read.

    Raises
    ------
    UnavailableError
        RDKit is not installed.
    """
    from features.molecules.morgan import fingerprints  # loads scikit-learn, which takes a second

    for column in ("cell_type", "SMILES"):
        _require(training, pairs, column)
    levels = np.unique(training.obs["cell_type"].to_numpy(str))

    def columns(rows: pd.DataFrame) -> Float64:
        cells = rows["cell_type"].to_numpy(str)[:, None] == levels[None, :]
        return np.hstack([cells, fingerprints(list(rows["SMILES"]))]).astype(np.float64)

    X, asked = columns(training.obs), columns(pairs)
    mean, centre = training.Y.mean(axis=0, dtype=np.float64), X.mean(axis=0)
    if has_gaps(training.Y):
        mean = (filled := _complete(training)).mean(axis=0)
        Y = filled - mean
    else:
        Y = training.Y - mean
    vectors, values = _spectrum(X - centre)  # of (X − centre)(X − centre)ᵀ: H = V diag(s/(s + λ)) Vᵀ + 1/n
    shares = (values / (values + penalty) for penalty in PENALTIES)
    errors = leave_one_out_errors(Y, vectors, (vectors * share for share in shares), 1 / len(X))
    penalty = PENALTIES[int(np.argmin(errors))]
    dual = vectors @ ((vectors.T @ Y) / (values + penalty)[:, None])
    return np.asarray(mean + (asked - centre) @ ((X - centre).T @ dual), dtype=np.float32)


def tanimoto_neighbours(training: PerturbationData, pairs: pd.DataFrame) -> Float32:
    """Return the mean of the `NEIGHBOURS` most similar training compounds, weighted by Tanimoto similarity.

    A compound stands for its response in the pair's cell type where that was measured, otherwise for its mean over
    cell types. The pair's own compound, known from other cell types, has similarity 1. Of equally similar ones the
    first by name is taken. Parameters and result as `shrunken_compound_mean`; without any similarity the mean of all
    rows.

    Raises
    ------
    UnavailableError
        RDKit is not installed.
    """
    from features.molecules.morgan import fingerprints, tanimoto

    for column in ("cell_type", "sm_name", "SMILES"):
        _require(training, pairs, column)
    obs = training.obs
    names, first, compound = np.unique(obs["sm_name"].to_numpy(str), return_index=True, return_inverse=True)
    bits = fingerprints(list(obs["SMILES"].iloc[first]))
    similarity = tanimoto(fingerprints(list(pairs["SMILES"])), bits)
    known = pd.Index(names).get_indexer(pd.Index(pairs["sm_name"].to_numpy(str)))
    rows = np.flatnonzero(known >= 0)
    similarity[rows, known[rows]] = 1
    Y = _complete(training)
    mean = Y.mean(axis=0)
    by_compound = _sums(Y, compound, len(names))
    by_compound /= np.bincount(compound)[:, None]
    row_of = {
        (c, m): row for row, (c, m) in enumerate(zip(obs["cell_type"].astype(str), compound, strict=True))
    }
    out = np.empty((len(pairs), Y.shape[1]), dtype=np.float32)
    for pair, cell in enumerate(pairs["cell_type"].astype(str)):
        near = np.argsort(-similarity[pair], kind="stable")[:NEIGHBOURS]
        weight = similarity[pair, near].astype(np.float64)
        responses = [
            Y[row_of[cell, one]] if (cell, one) in row_of else by_compound[one] for one in near.tolist()
        ]
        out[pair] = weight @ np.stack(responses) / weight.sum() if weight.sum() > 0 else mean
    return out


def nearest_context(training: PerturbationData, pairs: pd.DataFrame) -> Float32:
    """Return, for every pair, the response of the compound's row that is nearest in |Δlog10 dose| + |Δlog10 time|.

    Rows of the pair's cell type come before those of others, however far; of equally near rows the mean is taken.
    Parameters and result as `shrunken_compound_mean`; `cell_type` is read, too, and `dose_uM` and `time_h` where there
    are such columns. A compound without training rows gets `mean_across_celltypes`.
    """
    out = mean_across_celltypes(training, pairs)
    _require(training, pairs, "sm_name")
    rows_of = training.obs.groupby(training.obs["sm_name"].astype(str)).indices
    cells, asked_cells = (x["cell_type"].to_numpy(str) for x in (training.obs, pairs))
    there, here = (context_numbers(x, DOSE, TIME) for x in (training.obs, pairs))
    for name, asked in pairs.groupby(pairs["sm_name"].astype(str)).indices.items():
        rows = rows_of.get(name, np.arange(0))
        apart = decades_apart(here[asked], there[rows], there)
        other = asked_cells[asked][:, None] != cells[rows][None, :]
        for place, pair in enumerate(asked if len(rows) else ()):
            some = np.flatnonzero(other[place] == other[place].min())
            near = some[apart[place, some] <= apart[place, some].min() + 1e-9]
            out[pair] = tested_mean(training.Y[rows[near]], out[pair])
    return out


def context_mean(training: PerturbationData, pairs: pd.DataFrame) -> Float32:
    """Return, for every pair, the mean over the training rows of its cell type, dose class and time.

    A dose class is a decade: log10 of the dose, rounded. Parameters and result as `nearest_context`; without such rows
    a pair gets `mean_across_celltypes`.
    """
    out = mean_across_celltypes(training, pairs)

    def classes(obs: pd.DataFrame) -> "pd.Series[Any]":
        dose, time = context_numbers(obs, DOSE, TIME).T
        decade = np.round(log10_of(dose, context_numbers(training.obs, DOSE)[:, 0])) + 0.0
        return pd.Series(zip(obs["cell_type"].astype(str), map(str, decade), map(str, time), strict=True))

    rows_of = pd.Series(np.arange(len(training.obs))).groupby(classes(training.obs)).indices
    for key, asked in pd.Series(np.arange(len(pairs))).groupby(classes(pairs)).indices.items():
        if key in rows_of:
            out[asked] = tested_mean(training.Y[rows_of[key]], out[asked[0]])
    return out


def leave_one_out_errors(
    Y: Float64, Z: Float64, mapped: Iterable[Float64], leverage: float = 0.0
) -> list[float]:
    """Return Σ_i |y_i − ŷ_i without row i|² = Σ_i |y_i − ŷ_i|² / (1 − h_i)² of smoothers Ŷ = Z M Zᵀ Y.

    Parameters
    ----------
    Y : ndarray of float64, (n, t)
    Z : ndarray of float64, (n, p)
    mapped : iterable of ndarray of float64, (n, p)
        Z M of each smoother.
    leverage : float
        What an intercept adds to every h_i, the diagonal of H, where Y has column means of 0.
    """
    C = Z.T @ Y
    crossed, gram, squares = Y @ C.T, C @ C.T, np.einsum("ij,ij->i", Y, Y)
    errors = []
    for ZM in mapped:
        left = squares - 2 * np.einsum("ij,ij->i", ZM, crossed) + np.einsum("ij,ij->i", ZM @ gram, ZM)
        h = np.einsum("ij,ij->i", ZM, Z) + leverage
        errors.append(float((np.maximum(left, 0) / np.maximum(1 - h, 1e-12) ** 2).sum()))
    return errors


def _level_means(training: PerturbationData, pairs: pd.DataFrame, column: str) -> Float32:
    _require(training, pairs, column)
    rows_of = training.obs.groupby(training.obs[column].astype(str)).indices
    out, everyone = mean_outcome(training, pairs), tested_mean(training.Y)
    for level, asked in pairs.groupby(pairs[column].astype(str)).indices.items():
        if level in rows_of:
            out[asked] = tested_mean(training.Y[rows_of[level]], everyone).astype(np.float32)
    return out


def _complete(training: PerturbationData) -> Float64:
    """Return the responses in float64, untested ones filled."""
    if not has_gaps(training.Y):
        return training.Y.astype(np.float64)
    return additive_fill(training.Y, training.obs["cell_type"].to_numpy(str))


def _sums(Y: Float64, level: Indices, count: int) -> Float64:
    """Return the sum of the rows of each of `count` levels, (count, t)."""
    from scipy.sparse import csr_array

    return np.asarray(csr_array((np.ones(len(Y)), (level, np.arange(len(Y)))), (count, len(Y))) @ Y)


def _spectrum(X: Float64) -> tuple[Float64, Float64]:
    """Return eigenvectors (n, r) and eigenvalues (r,) of X Xᵀ, X (n, p): all that are not 0, by the smaller side."""
    n, p = X.shape
    if n <= p:
        values, vectors = np.linalg.eigh(X @ X.T)
        return vectors, np.maximum(values, 0)
    values, right = np.linalg.eigh(X.T @ X)
    kept = values > values.max() * NULL
    return X @ (right[:, kept] / np.sqrt(values[kept])), values[kept]


def _shrinkage(Y: Float64, sums: Float64, compound: Indices, count: Indices) -> float:
    """Return the k of the least leave-one-out error; `sums` and `count` are those of each compound."""
    n = len(Y)
    if n < 2:
        return PENALTIES[-1]
    left, cross, square = count[compound] - 1, np.zeros(n), np.zeros(n)
    for genes in row_blocks(Y.shape[1], GENES_AT_ONCE):
        here = Y[:, genes]
        others = (here.sum(axis=0) - here) / (n - 1)
        of_compound = (sums[:, genes][compound] - here) / np.maximum(left, 1)[:, None] - others
        cross += np.einsum("ij,ij->i", here - others, of_compound)
        square += np.einsum("ij,ij->i", of_compound, of_compound)
    shares = [left / (left + k) for k in PENALTIES]
    errors = [float((share**2 * square - 2 * share * cross).sum()) for share in shares]
    return PENALTIES[int(np.argmin(errors))]


def _require(training: PerturbationData, pairs: pd.DataFrame, column: str) -> None:
    for what, rows in (("the training file", training.obs), ("the pairs", pairs)):
        if column not in rows.columns:
            raise InputError(f"{what}: missing column {column}, which the baseline reads")


BASELINES: dict[str, Baseline] = {
    "zeros": zeros,
    "mean_outcome": mean_outcome,
    "mean_across_celltypes": mean_across_celltypes,
    "mean_across_compounds": mean_across_compounds,
}
"""The baselines of Open Problems by their published names, in the order in which they are shown."""

ALL_BASELINES: dict[str, Baseline] = BASELINES | {
    "shrunken_compound_mean": shrunken_compound_mean,
    "additive": additive,
    "ridge": ridge,
    "tanimoto_neighbours": tanimoto_neighbours,
}
"""All baselines by name, in the order in which they are shown."""

CONTEXT_BASELINES: dict[str, Baseline] = {"nearest_context": nearest_context, "context_mean": context_mean}
"""The baselines that read doses and times."""


def context_baselines(obs: pd.DataFrame) -> dict[str, Baseline]:
    """Return `CONTEXT_BASELINES` where training rows differ in dose or time, otherwise none."""
    return CONTEXT_BASELINES if varying(obs) else {}


BASELINE_COLUMNS: dict[str, tuple[str, ...]] = {
    "zeros": (),
    "mean_outcome": (),
    "mean_across_celltypes": ("cell_type",),
    "mean_across_compounds": ("sm_name",),
    "shrunken_compound_mean": ("sm_name",),
    "additive": ("cell_type", "sm_name"),
    "ridge": ("cell_type", "SMILES"),
    "tanimoto_neighbours": ("cell_type", "sm_name", "SMILES"),
}
"""The columns of training rows and pairs that each baseline reads."""


def usable_baselines(obs: pd.DataFrame) -> dict[str, Baseline]:
    """Return `ALL_BASELINES`, less those that read SMILES where no row of `obs` has one."""
    if (obs["SMILES"] != "").any():
        return ALL_BASELINES
    return {name: one for name, one in ALL_BASELINES.items() if "SMILES" not in BASELINE_COLUMNS[name]}
