"""What all candidates of a screen share: the genes, the models that are fitted to columns, and the losses they leave.

The genes are one, some by name, a random or the most variable part, or all.

Columns and Gram matrices are made block by block, once for every split. Candidates share blocks, and both halves of a
Gram matrix's cost are shared, too: the squared distances of a union of blocks are the sum of the blocks' squared
distances, and so are the sums that `gamma="scale"` needs,

    ‖x − z‖² = Σ_b ‖x_b − z_b‖²        γ = 1 / (p Var(X)),  p = Σ_b p_b,  Var from Σ_b Σ x and Σ_b Σ x².

Whatever a block learns comes from the training rows of the split. Target encodings see the panel's genes where these
are few. Otherwise they see the genes' leading components, again of the training rows, as level 2 of a run does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from zlib import crc32

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

from features.blocks import Block, Maker
from features.feature_sets import FeatureSet
from features.rows import Rows
from rapids_pipeline.backend.arrays import Float32, Float64, Indices
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.backend.store import Recent
from rapids_pipeline.data.genes import gene_index
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.data.untested import Imputed, has_gaps, tested_mean, tested_range
from rapids_pipeline.evaluation.splits import Split
from rapids_pipeline.stack.members.booster import BoosterMember, booster_of
from rapids_pipeline.stack.members.svr import SvrMember
from rapids_pipeline.stack.target_space import TargetSpace
from rapids_pipeline.studies.screen.results import Losses
from rapids_pipeline.svr.dual import squared_distances
from rapids_pipeline.svr.engines import fit_on_table
from rapids_pipeline.svr.own_target import estimator as own_target
from rapids_pipeline.svr.own_target.statistics import sides_of

ANCHOR = "A1BG"
"""The gene that published work screened on."""
ModelName = Literal["svr", "ridge", "boosting"]
SVR, BOOSTING = SvrMember(), BoosterMember(stacks_on=("svr_shared",))
SVR_ENGINE = "smo"
"""A screen has many fits of few genes: SMO's start is paid once, where "auto" judges single fits."""
PENALTIES = np.logspace(-1, 5, 13)
GENES_AT_ONCE = 2048
MOST_ENCODED = 45
"""Genes up to which target encodings see every gene; of more, as many components."""
MOST_KEPT_BYTES = 1 << 30
"""Of columns and distances."""


@dataclass(frozen=True, eq=False)
class Panel:
    """The genes of a screen.

    Attributes
    ----------
    genes : list of str
    Y : ndarray of float32, (n, len(genes))
        Their responses.
    constant : list of str
        Genes that were asked for by a rule and left out, as they have the same value in every row.
    """

    genes: list[str]
    Y: Float32
    constant: list[str]

    @classmethod
    def of(cls, data: PerturbationData, chosen: Indices, constant: list[str]) -> "Panel":
        """Take genes by position."""
        return cls([data.genes[gene] for gene in chosen], np.ascontiguousarray(data.Y[:, chosen]), constant)

    @property
    def anchor(self) -> int:
        """The position of the gene whose agreement with the others is asked about."""
        return self.genes.index(ANCHOR) if ANCHOR in self.genes else 0


def choose_panel(target: str, data: PerturbationData, seed: int = 0) -> Panel:
    """Return the genes that `--target` names.

    Parameters
    ----------
    target : str
        A gene; several, separated by commas; "random:N", N genes drawn with `seed`; "variable:N", the N genes of
        largest standard deviation; or "all".
    data : PerturbationData
    seed : int

    Raises
    ------
    InputError
        Unknown gene (the nearest names are given), a named gene that is constant, or a number out of range.
    """
    low, high = tested_range(data.Y)
    spread = high - low
    rule, _, number = target.partition(":")
    if target in data.genes or (target != "all" and rule not in ("random", "variable")):
        named = dict.fromkeys(
            name.strip() for name in ([target] if target in data.genes else target.split(","))
        )
        chosen = [gene_index(data.genes, name, "--target") for name in named]
        for gene in chosen:
            if spread[gene] == 0:
                raise InputError(
                    f"--target {data.genes[gene]}: is {low[gene] + 0.0:g} in every row; there is nothing to predict"
                )
        return Panel.of(data, np.array(chosen), [])
    usable = np.flatnonzero(spread > 0)
    constant = [data.genes[gene] for gene in np.flatnonzero(spread == 0)]
    if not len(usable):
        raise InputError(f"--target {target}: every gene is constant; there is nothing to predict")
    if target == "all":
        return Panel.of(data, usable, constant)
    if not number.isascii() or not number.isdigit() or not 1 <= int(number) <= len(usable):
        raise InputError(
            f"--target {target}: takes a number of genes from 1 to {len(usable)} after the colon"
        )
    if rule == "random":
        chosen_genes = np.random.default_rng(seed).choice(usable, int(number), replace=False)
    else:
        deviation = np.nanstd if has_gaps(data.Y) else np.std
        deviations = deviation(data.Y[:, usable], axis=0, dtype=np.float64)
        chosen_genes = usable[np.argsort(-deviations, kind="stable")[: int(number)]]
    return Panel.of(data, np.sort(chosen_genes), constant)


@dataclass(frozen=True, eq=False)
class Piece:
    """What a block contributes to a Gram matrix over some rows, the training rows first.

    `distances` are squared, (n, n); `n_entries`, `total` and `squares` are the number, sum and sum of squares of the
    entries of the training rows.
    """

    distances: Float64
    n_columns: int
    n_entries: int
    total: float
    squares: float

    @classmethod
    def of(cls, columns: Float32, n_training: int) -> "Piece":
        """Make it of a block's columns."""
        X = columns.astype(np.float64)
        training = X[:n_training]
        return cls(
            squared_distances(X, X),
            X.shape[1],
            training.size,
            float(training.sum()),
            float((training**2).sum()),
        )


class SummedGram:
    """An RBF Gram matrix with gamma="scale", from the pieces of its blocks."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._distances = sum((piece.distances for piece in pieces[1:]), start=pieces[0].distances)
        entries = sum(piece.n_entries for piece in pieces)
        mean = sum(piece.total for piece in pieces) / entries
        variance = sum(piece.squares for piece in pieces) / entries - mean**2
        columns = sum(piece.n_columns for piece in pieces)
        self._gamma = 1.0 / (columns * variance) if variance > 0 else 1.0

    def gamma_of(self, training_rows: Indices) -> float:
        """Return γ, of the rows that the pieces call training rows."""
        return self._gamma

    def gram(self, rows: Indices, columns: Indices, gamma: float) -> Float64:
        """Return K over rows × columns."""
        return np.asarray(np.exp(-gamma * self._distances[np.ix_(rows, columns)]))


class FoldFeatures:
    """Columns and Gram matrices of any blocks in any of the splits.

    Parameters
    ----------
    rows : Rows
        n rows with the molecules that the blocks name.
    Y : ndarray of float32, (n, t)
        The panel's responses.
    splits : sequence of Split
    sigma : float
        Noise of leave-one-out encodings of training rows.
    seed : int
    weight : ndarray of float64, (n,), optional
        What each row counts in fits.
    """

    def __init__(
        self,
        rows: Rows,
        Y: Float32,
        splits: Sequence[Split],
        sigma: float = 0.0,
        seed: int = 0,
        weight: Float64 | None = None,
    ) -> None:
        self.rows, self.Y, self.splits, self._weight = rows, Y, splits, weight
        self._measured = Imputed(Y, rows.obs["cell_type"])
        self._sigma, self.seed = sigma, seed
        self._recent = Recent(MOST_KEPT_BYTES, _size)

    def columns(self, features: FeatureSet, number: int) -> tuple[Float32, Float32]:
        """Return the columns of a feature set in split `number`: training rows', held-out rows'."""
        parts = [self._columns(block, number) for block in features.blocks]
        n_training = len(self.splits[number].training)
        joined = np.hstack(parts, dtype=np.float32)
        return joined[:n_training], joined[n_training:]

    def gram(self, features: FeatureSet, number: int) -> SummedGram:
        """Return the Gram matrix over the training rows, then the held-out rows."""
        return SummedGram([self._piece(block, number) for block in features.blocks])

    def width(self, features: FeatureSet) -> int:
        """Return the number of columns that a model has, in the first split."""
        if features.own_target and self.Y.shape[1] > 1:
            return FoldFeatures(self.rows, self.Y[:, :1], self.splits[:1]).width(features)
        return sum(self._columns(block, 0).shape[1] for block in features.blocks)

    def targets(self, number: int) -> Float32:
        """Return the training rows' responses in split `number`, untested ones imputed from these rows."""
        return self._measured.of(self.splits[number].training)

    def weight(self, number: int) -> Float64 | None:
        """Return what each training row of split `number` counts in fits; None where all are alike."""
        return None if self._weight is None else self._weight[self.splits[number].training]

    def encoded(self, number: int) -> Float32:
        """Return what target encodings of the training rows are made of, (n_training, at most 45)."""
        training = self.targets(number)
        if self.Y.shape[1] <= MOST_ENCODED:
            return training
        return self._recent.once(
            ("encoded", number), lambda: TargetSpace(MOST_ENCODED).components_for(training)
        )

    def _columns(self, block: Block, number: int) -> Float32:
        def make() -> Float32:
            split, maker = self.splits[number], self._maker_of(block)
            fitted = maker.fit_transform(self.rows.take(split.training), self.encoded(number))
            return np.vstack([fitted, maker.transform(self.rows.take(split.held_out))], dtype=np.float32)

        return self._recent.once(("columns", block, number), make)

    def _piece(self, block: Block, number: int) -> Piece:
        split = self.splits[number]
        n_training = len(split.training)

        def make() -> Piece:
            if block.fitted_on != "nothing":
                return Piece.of(self._columns(block, number), n_training)
            order = np.concatenate([split.training, split.held_out])
            whole, sums, squares = self._recent.once(("whole", block), lambda: self._whole(block))
            inside = split.training
            return Piece(
                whole.distances[np.ix_(order, order)],
                whole.n_columns,
                n_training * whole.n_columns,
                float(sums[inside].sum()),
                float(squares[inside].sum()),
            )

        return self._recent.once(("piece", block, number), make)

    def _maker_of(self, block: Block) -> Maker:
        """Return a new maker of a block, whose draws are its own, whatever the feature set it stands in."""
        return block.maker(self._sigma, (self.seed + crc32(block.name.encode())) % (1 << 32))

    def _whole(self, block: Block) -> tuple[Piece, Float64, Float64]:
        """Return the piece of a block that learns nothing, over all rows, and each row's sum and sum of squares."""
        X = self._maker_of(block).fit_transform(self.rows, self.Y[:, :1])
        squares = (X.astype(np.float64) ** 2).sum(axis=1)
        return Piece.of(X, len(X)), X.sum(axis=1, dtype=np.float64), squares


def _size(made: Any) -> int:
    if isinstance(made, tuple):
        return sum(map(_size, made))
    return int(made.distances.nbytes if isinstance(made, Piece) else made.nbytes)


def require_usable(features: FeatureSet, model: ModelName, n_genes: int) -> None:
    """Raise InputError where a model cannot take a feature set.

    A table for all genes has no room for columns of each gene's own; only the SVR of several genes can do without one.
    """
    if features.own_target and n_genes > 1 and model != "svr":
        raise InputError(
            f"feature set {features.name} gives every gene columns of its own: screen it with --model svr, or one gene"
        )
    if features.own_target and n_genes > 1:
        sides_of(features)  # InputError where they cannot be told apart


def svr(tables: FoldFeatures, features: FeatureSet, number: int) -> Float32:
    """The SVR of a run's first level: RBF, C = 1, ε = 0.1, gamma="scale"."""
    split, Y = tables.splits[number], tables.targets(number)
    how: dict[str, Any] = {"C": SVR.C, "epsilon": SVR.epsilon, "tol": SVR.tol, "max_iter": SVR.max_iter}
    how["sample_weight"] = tables.weight(number)
    if features.own_target and Y.shape[1] > 1:
        rows = tables.rows.take(split.training), tables.rows.take(split.held_out)
        tested = np.isfinite(tables.Y[split.training])
        how |= {"seed": tables.seed, "tested": None if tested.all() else tested}
        return own_target.fit_predict(features, rows[0], Y, rows[1], **how)
    gram = tables.gram(features, number)
    training = np.arange(len(split.training))
    held_out = np.arange(len(training), len(training) + len(split.held_out))
    fit = fit_on_table(gram, Y, training, [held_out], engine_name=SVR_ENGINE, **how)
    return np.asarray(fit.predictions[0], dtype=np.float32)


def ridge(tables: FoldFeatures, features: FeatureSet, number: int) -> Float32:
    """Ridge regression on standardised columns; every gene's penalty by its own leave-one-out error."""
    X, X_held_out = tables.columns(features, number)
    weight = tables.weight(number)
    scaler = StandardScaler().fit(X)
    X, X_held_out = scaler.transform(X), scaler.transform(X_held_out)
    Y = tables.targets(number)
    predicted = np.empty((len(X_held_out), Y.shape[1]), dtype=np.float32)
    for start in range(0, predicted.shape[1], GENES_AT_ONCE):
        genes = slice(start, start + GENES_AT_ONCE)
        fitted = RidgeCV(PENALTIES, alpha_per_target=True).fit(X, Y[:, genes], weight)
        predicted[:, genes] = fitted.predict(X_held_out).reshape(len(X_held_out), -1)
    return predicted


def boosting(tables: FoldFeatures, features: FeatureSet, number: int) -> Float32:
    """The booster of a run's second level, in the 45 leading components of the genes."""
    X, X_held_out = tables.columns(features, number)
    space = BOOSTING.space
    scores = space.components_for(tables.targets(number))
    booster = booster_of(BOOSTING, tables.seed, "cpu", BOOSTING.n_estimators)
    booster.fit(X, scores, tables.weight(number))
    return np.asarray(space.inverse_transform(booster.predict(X_held_out)))


MODELS: dict[str, Callable[[FoldFeatures, FeatureSet, int], Float32]] = {
    "svr": svr,
    "ridge": ridge,
    "boosting": boosting,
}


@dataclass(frozen=True, eq=False)
class Comparison:
    """Rows, responses and splits that all candidates are scored on; the same for all.

    Attributes
    ----------
    rows : Rows
        n rows, with the molecules that candidates name.
    Y : ndarray of float32, (n, t)
        NaN where a gene was not tested, but one tested gene a row at least: scores are of tested entries.
    repeats : sequence of sequences of Split
        The splits of every repeat.
    model : str
    seed : int
    weight : ndarray of float64, (n,), optional
        What each row counts in fits, not in scores; all alike by default.
    """

    rows: Rows
    Y: Float32
    repeats: Sequence[Sequence[Split]]
    model: ModelName = "svr"
    seed: int = 0
    weight: Float64 | None = None

    @property
    def splits(self) -> list[Split]:
        """The splits of all repeats, one repeat after the other."""
        return [split for splits in self.repeats for split in splits]

    @property
    def folds(self) -> Indices:
        """The split that holds a row out, (repeats, n); −1 for none."""
        folds = np.full((len(self.repeats), len(self.Y)), -1, dtype=np.intp)
        for repeat, splits in enumerate(self.repeats):
            for number, split in enumerate(splits):
                folds[repeat, split.held_out] = number
        return folds

    def tables(self) -> FoldFeatures:
        """Return the columns of all splits, to be shared by all candidates."""
        sigma = BOOSTING.encoder_sigma if self.model == "boosting" else 0.0
        return FoldFeatures(self.rows, self.Y, self.splits, sigma, self.seed, self.weight)


def losses_of(
    comparison: Comparison, predict: Callable[[int], Float32], progress: Progress | None = None
) -> Losses:
    """Return the losses of what `predict` says of the rows that split number 0, 1, … holds out, (m, t)."""
    progress = progress or Progress()
    row_mse = np.full((len(comparison.repeats), len(comparison.Y)), np.nan)
    squares, count, number = np.zeros(comparison.Y.shape[1]), np.zeros(comparison.Y.shape[1]), 0
    for repeat, splits in enumerate(comparison.repeats):
        for split in splits:
            errors = predict(number).astype(np.float64)
            errors -= comparison.Y[split.held_out]
            np.square(errors, out=errors)
            tested = np.isfinite(comparison.Y[split.held_out])
            if tested.all():
                row_mse[repeat, split.held_out] = errors.mean(axis=1)
            else:
                errors[~tested] = 0.0
                row_mse[repeat, split.held_out] = errors.sum(axis=1) / tested.sum(axis=1)
            squares += errors.sum(axis=0)
            count, number = count + tested.sum(axis=0), number + 1
            progress.advance()
    with np.errstate(invalid="ignore"):  # a gene that was tested in no row held out
        return Losses(row_mse, np.sqrt(squares / count))


def predictions(
    comparison: Comparison, tables: FoldFeatures, features: FeatureSet | None, number: int
) -> Float32:
    """Return what a candidate predicts of the rows that split `number` holds out, (m, t).

    Without features, that is the mean of the training rows.
    """
    split = tables.splits[number]
    if features is None:
        mean = tested_mean(comparison.Y[split.training]).astype(np.float32)
        return np.tile(mean, (len(split.held_out), 1))
    return MODELS[comparison.model](tables, features, number)
