"""Response transfer: a compound's response in one cell type, from its responses in the others.

With s(a, c) the mean score of compound c's training rows in cell type a, in a space of the targets, and B(a, t) a ridge
regression over the compounds that both cell types have:

    ŷ(t, c) = inverse of the space ( mean over cell types a ≠ t that have c of z̄_at + (s(a, c) − x̄_at) B(a, t) )

with x̄_at and z̄_at the means of s(a, ·) and s(t, ·) over the common compounds. The penalty of each B(a, t) is the one
with the least leave-one-compound-out error, or a given one.

Leave-one-out has a closed form, e = (z − ẑ)/(1 − h), with h the diagonal of the regression's hat matrix. A pair without
a source has the mean of its cell type's compounds, one of an unknown cell type the mean of the compound over cell
types, one with neither the mean over all cell types. Doses and times of a compound are averaged over.

It is what the autoencoder of the notebook "0720" comes down to, which the fourth place of the competition blended in:
there s(a, c) is a code of 512 numbers, and the penalty 55.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from features.rows import Rows, numbered, places
from rapids_pipeline.backend.arrays import Float32, Float64, Indices, Mask
from rapids_pipeline.backend.settings import bounded
from rapids_pipeline.backend.state import State, StateReader
from rapids_pipeline.stack.compact import Compact, Part
from rapids_pipeline.stack.members.member import MOST_COMPONENTS, Fits, Member, TrainingSet
from rapids_pipeline.stack.target_space import SCALES, TargetSpace, TransformName

PENALTIES: Float64 = 10.0 ** np.arange(-3.0, 4.5, 0.5)
"""Tried where none is given, times the mean square of the centred scores' singular values."""
LEAST_COMMON = 4
"""Compounds that two cell types must share for one to be a source of the other."""


class ResponseTransferMember(Member):
    """Ridge regressions from each cell type's responses to each other's; it knows pairs by their names alone.

    `n_components` leading components of the targets are transferred, after a `transform`. `penalty` is that of the
    ridge, in squares of scores; "auto" finds it for every two cell types.
    """

    kind: Literal["response_transfer"] = "response_transfer"
    transform: TransformName = "asinh"
    transform_scale: Annotated[float, bounded(*SCALES, "it counts root mean squares")] = 2.0
    n_components: Annotated[int, bounded(1, MOST_COMPONENTS)] = 40
    penalty: Annotated[float | Literal["auto"], bounded(1e-12, 1e12, words=["auto"])] = "auto"

    @property
    def default_name(self) -> str:
        """The kind's name."""
        return "response_transfer"

    @property
    def by_names(self) -> bool:
        """Say that it tells pairs apart by names alone."""
        return True

    @property
    def space(self) -> TargetSpace:
        """The space of the targets, not learnt yet."""
        return TargetSpace(self.n_components, self.transform, self.transform_scale, products="float32")

    def side_by_side(self, n: int) -> bool:
        """Say that fits run side by side: the regressions are small."""
        return True

    def prepare(self, data: TrainingSet) -> "TransferFits":
        """Return its fits."""
        return TransferFits(self, data)

    def model_from_state(self, reader: StateReader) -> "Transferred":
        """Make a fitted model of its state."""
        space = self.space.restore(reader.part("space"))
        assert space.svd_ is not None
        cells, compounds = tuple(reader.levels("cell_types")), tuple(reader.levels("compounds"))
        shape = len(cells) + 1, len(compounds) + 1, space.svd_.components_.shape[0]
        return Transferred(space, cells, compounds, reader.array("scores", np.float32, shape))


@dataclass(frozen=True, eq=False)
class Transferred:
    """What is predicted for every known cell type and compound; the last of both is an unknown one.

    `scores` is (cell types + 1, compounds + 1, components).
    """

    space: TargetSpace
    cell_types: tuple[str, ...]
    compounds: tuple[str, ...]
    scores: Float32

    def scores_of(self, rows: Rows) -> Float32:
        """Return the scores of rows, (m, k); place −1, of a name that is not known, is the last."""
        cell = places(rows.obs["cell_type"].to_numpy(str), self.cell_types)
        return self.scores[cell, places(rows.obs["sm_name"].to_numpy(str), self.compounds)]

    def predict(self, rows: Rows) -> Float32:
        """Return the predictions of rows, (m, t) float32; a row's do not depend on the others, to rounding."""
        return self.space.inverse_transform(self.scores_of(rows))

    def state(self) -> State:
        """Return what was learnt."""
        names = {"cell_types": list(self.cell_types), "compounds": list(self.compounds)}
        return {**names, "space": self.space.state(), "scores": self.scores}


class TransferFits(Fits[ResponseTransferMember]):
    """Fits of all regressions."""

    def fit(self, training: Indices) -> Transferred:
        """Fit to some rows."""
        data, space = self.data, self.member.space
        scores = space.components_for(data.targets(training)).astype(np.float64)
        weight = np.ones(len(training)) if data.weight is None else data.weight[training]
        obs = data.rows.obs.iloc[training]
        cells, cell = numbered(obs["cell_type"].to_numpy(str))
        compounds, compound = numbered(obs["sm_name"].to_numpy(str))
        sums = np.zeros((len(cells), len(compounds), scores.shape[1] + 1))
        np.add.at(sums, (cell, compound), np.column_stack([scores, np.ones(len(scores))]) * weight[:, None])
        measured = sums[..., -1] > 0
        S = sums[..., :-1] / np.where(measured, sums[..., -1], 1.0)[..., None]
        found = transferred(S, measured, self.member)
        return Transferred(space, tuple(cells), tuple(compounds), found.astype(np.float32))

    def fit_compact(self, training: Indices, groups: Sequence[Indices]) -> list[Compact]:
        """Return the predictions of groups of rows as scores."""
        model = self.fit(training)
        t = len(model.space.unit_)
        found = [model.scores_of(self.data.take(group)) for group in groups]
        return [Compact(len(z), t, [Part(np.arange(len(z)), z, model.space)]) for z in found]


def transferred(S: Float64, measured: Mask, member: ResponseTransferMember) -> Float64:
    """Return what is predicted for every cell type and compound, and in the last places for unknown ones.

    Parameters
    ----------
    S : ndarray, (c, m, k)
        Mean scores of m compounds in c cell types.
    measured : ndarray of bool, (c, m)
        Where there are any.
    member : ResponseTransferMember

    Returns
    -------
    ndarray of float64, (c + 1, m + 1, k)
    """
    c, m, k = S.shape
    means = S.sum(axis=1) / measured.sum(axis=1)[:, None]
    found = np.empty((c + 1, m + 1, k))
    found[:c], found[c, m] = means[:, None], means.mean(axis=0)
    found[c, :m] = S.sum(axis=0) / measured.sum(axis=0)[:, None]
    for t in range(c):
        sums, sources = np.zeros((m, k)), np.zeros(m)
        for a in range(c):
            common = measured[a] & measured[t]
            if a != t and common.sum() >= LEAST_COMMON:
                sums[measured[a]] += ridge(S[a, common], S[t, common], S[a, measured[a]], member.penalty)
                sources[measured[a]] += 1
        served = sources > 0
        found[t, :m][served] = sums[served] / sources[served, None]
    return found


def ridge(X: Float64, Z: Float64, asked: Float64, penalty: float | Literal["auto"]) -> Float64:
    """Regress Z on X, both centred, and return what the regression gives for `asked`.

    X and Z are (n, k), `asked` is (q, k), the result (q, k).
    """
    x, z, n = X.mean(axis=0), Z.mean(axis=0), len(X)
    U, s, Vt = np.linalg.svd(X - x, full_matrices=False)
    UZ, squares = U.T @ (Z - z), s**2
    tried = PENALTIES * max(float(squares.mean()), np.finfo(float).tiny) if penalty == "auto" else [penalty]
    errors = []
    for alpha in tried:
        kept = squares / (squares + alpha)
        # h below 1 by rounding at least: a compound that alone spans a direction is no evidence
        h = np.minimum(1 / n + U**2 @ kept, 1 - 1e-6)
        left_out = (Z - z - U @ (kept[:, None] * UZ)) / (1 - h)[:, None]
        errors.append(float(np.mean(left_out**2)))
    B = Vt.T @ ((s / (squares + tried[int(np.argmin(errors))]))[:, None] * UZ)
    return np.asarray(z + (asked - x) @ B)
