"""Columns and Gram matrices of all candidates, block by block, made once for every split.

Candidates share blocks, and both halves of a Gram matrix's cost do, too: squared distances of a union of blocks are
the sum of the blocks' squared distances, and so are the sums that `gamma="scale"` needs,

    ‖x − z‖² = Σ_b ‖x_b − z_b‖²        γ = 1 / (p Var(X)),  p = Σ_b p_b,  Var from Σ_b Σ x and Σ_b Σ x².

Whatever a block learns comes from the training rows of the split. Target encodings see the panel's genes where these
are few, otherwise their leading components, again the training rows' own, as level 2 of a run does.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from features.blocks import Block, Noise
from features.feature_sets import FeatureSet
from features.rows import Rows
from rapids_pipeline.evaluation.splits import Split
from rapids_pipeline.stack.target_space import TargetSpace
from rapids_pipeline.svr.gram import squared_distances

Matrix = NDArray[np.float32]
Floats = NDArray[np.float64]

MOST_ENCODED = 45
"""Genes up to which target encodings see every gene; of more, as many components."""
MOST_KEPT_BYTES = 1 << 30
"""Of columns and distances; those used longest ago are made again when they are wanted again."""


@dataclass(frozen=True, eq=False)
class Piece:
    """What a block contributes to a Gram matrix over some rows, the training rows first.

    `distances` are squared, (n, n); `n_entries`, `total` and `squares` are the number, sum and sum of squares of the
    entries of the training rows.
    """

    distances: Floats
    n_columns: int
    n_entries: int
    total: float
    squares: float

    @classmethod
    def of(cls, columns: Matrix, n_training: int) -> "Piece":
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

    def gamma_of(self, training_rows: NDArray[np.intp]) -> float:
        """Return γ, of the rows that the pieces call training rows."""
        return self._gamma

    def gram(self, rows: NDArray[np.intp], columns: NDArray[np.intp], gamma: float) -> Floats:
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
    """

    def __init__(
        self, rows: Rows, Y: Matrix, splits: Sequence[Split], sigma: float = 0.0, seed: int = 0
    ) -> None:
        self.rows, self.Y, self.splits = rows, Y, splits
        self._sigma, self.seed = sigma, seed
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._bytes = 0

    def columns(self, recipe: FeatureSet, number: int) -> tuple[Matrix, Matrix]:
        """Return the columns of a feature set in split `number`: training rows', held-out rows'."""
        parts = [self._columns(block, number) for block in recipe.blocks]
        n_training = len(self.splits[number].training)
        joined = np.hstack(parts, dtype=np.float32)
        return joined[:n_training], joined[n_training:]

    def gram(self, recipe: FeatureSet, number: int) -> SummedGram:
        """Return the Gram matrix over the training rows, then the held-out rows."""
        return SummedGram([self._piece(block, number) for block in recipe.blocks])

    def width(self, recipe: FeatureSet) -> int:
        """Return the number of columns that a model has, in the first split."""
        if recipe.own_target and self.Y.shape[1] > 1:
            return FoldFeatures(self.rows, self.Y[:, :1], self.splits[:1]).width(recipe)
        return sum(self._columns(block, 0).shape[1] for block in recipe.blocks)

    def encoded(self, number: int) -> Matrix:
        """Return what target encodings of the training rows are made of, (n_training, at most 45)."""
        training = self.Y[self.splits[number].training]
        if self.Y.shape[1] <= MOST_ENCODED:
            return training
        kept: Matrix = self._once(
            ("encoded", number), lambda: TargetSpace(MOST_ENCODED).components_for(training)
        )
        return kept

    def _columns(self, block: Block, number: int) -> Matrix:
        def make() -> Matrix:
            split, maker = self.splits[number], block.maker(self._noise_of(block))
            fitted = maker.fit_transform(self.rows.take(split.training), self.encoded(number))
            return np.vstack([fitted, maker.transform(self.rows.take(split.held_out))], dtype=np.float32)

        columns: Matrix = self._once(("columns", block, number), make)
        return columns

    def _piece(self, block: Block, number: int) -> Piece:
        split = self.splits[number]
        n_training = len(split.training)

        def make() -> Piece:
            if block.fitted_on != "nothing":
                return Piece.of(self._columns(block, number), n_training)
            order = np.concatenate([split.training, split.held_out])
            whole, sums, squares = self._once(("whole", block), lambda: self._whole(block))
            inside = split.training
            return Piece(
                whole.distances[np.ix_(order, order)],
                whole.n_columns,
                n_training * whole.n_columns,
                float(sums[inside].sum()),
                float(squares[inside].sum()),
            )

        piece: Piece = self._once(("piece", block, number), make)
        return piece

    def _noise_of(self, block: Block) -> Noise:
        """Return the draws of a block: its own, whatever the feature set it stands in."""
        return Noise(self._sigma, (self.seed + crc32(block.name.encode())) % (1 << 32))

    def _whole(self, block: Block) -> tuple[Piece, Floats, Floats]:
        """Return the piece of a block that learns nothing, over all rows, and each row's sum and sum of squares."""
        X = block.maker(self._noise_of(block)).fit_transform(self.rows, self.Y[:, :1])
        squares = (X.astype(np.float64) ** 2).sum(axis=1)
        return Piece.of(X, len(X)), X.sum(axis=1, dtype=np.float64), squares

    def _once(self, key: Hashable, make: Any) -> Any:
        """Return what was made for a key before, or make it; the oldest are dropped where there is no room."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        made = make()
        self._kept[key] = made
        self._bytes += _size(made)
        while self._bytes > MOST_KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= _size(self._kept.popitem(last=False)[1])
        return made


def _size(made: Any) -> int:
    if isinstance(made, tuple):
        return sum(map(_size, made))
    return int(made.distances.nbytes if isinstance(made, Piece) else made.nbytes)
