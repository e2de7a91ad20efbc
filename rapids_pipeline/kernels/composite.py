"""Composite kernels: a weighted sum of products of factors, learnt from training rows, between any rows.

    K(x, x') = Σ_term w ∏ factor(x, x')

What a factor learns, it learns from training rows alone: the correlation of cell types and the response profiles from
their scores (`rapids_pipeline.kernels.response_profiles`), the scale of rbf(ENCODER) from their molecules. A kernel of
profiles is 0 wherever one of the two rows has none; the scale of the profiles' kernels is their mean square over the
training rows that have one:

    profile_linear   ⟨p, p'⟩ / mean |p|²        profile_cosine   ⟨p, p'⟩ / (|p| |p'|)
    profile_rbf      exp(−|p − p'|² / mean |p|²)
    rbf(ENCODER)     exp(−|f − f'|² / mean |f_i − f_j|²), the mean over pairs of distinct training molecules; the
                     columns of `descriptors` and of a `table` are standardised by these molecules first
    atlas_linear     ⟨e, e'⟩, e of the atlas (`features.molecules.atlas`), 0 where the atlas lacks one of the compounds
    atlas_rbf        exp(−|e − e'|²), 0 there, too
    dose, time       exp(−Δ² / 2l²), Δ of log10 (0 lies one decade below the least positive training value); a missing
                     value is 1 with a missing one and 0 with others; 1 where the training rows do not differ in it

How terms are written: `rapids_pipeline.kernels.terms`.

Every factor is positive semidefinite, so are products and powers of them entry by entry (Schur), and so is a sum with
weights that are not negative.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import mul
from typing import Any

import numpy as np

from features.molecules import ATLAS, TABLE, fitted_in_fold
from features.rows import Levels, Pairs, places
from rapids_pipeline.backend.arrays import (
    ROWS_AT_ONCE,
    Array,
    Codes,
    Float32,
    Float64,
    Indices,
    Mask,
    namespace,
    row_blocks,
    to_host,
)
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import State, StateReader
from rapids_pipeline.kernels.response_profiles import (
    DOSE_LENGTH,
    TIME_LENGTH,
    ResponseProfiles,
    correlation_of_cell_types,
)
from rapids_pipeline.kernels.sides import Side, each_block
from rapids_pipeline.kernels.terms import Factor, renamed, terms_of

ENTRIES_AT_ONCE = 2**23
"""Entries of a kernel that are made in one piece: 64 MB, and as much for each factor of a product."""
BLOCK_ENTRIES = 2**21
"""Entries of a block of rows of a larger one."""


@dataclass(frozen=True)
class CompositeKernel:
    """A kernel by its weights; `learn` makes it one between rows.

    Attributes
    ----------
    weights : mapping of str to float
        Products of factors, in words, and their weights.
    profile_shrinkage : float
        κ of the response profiles: rows of no response that every profile is drawn by.
    dose_length, time_length : float
        l of the factors `dose` and `time`, and of the nearness of the rows of a profile: decades.

    Examples
    --------
    >>> import pandas as pd
    >>> from features.rows import Pairs, Rows
    >>> rows = Pairs.of(Rows(pd.DataFrame({"cell_type": ["B", "B", "T"], "sm_name": ["one", "another", "one"]})))
    >>> kernel = CompositeKernel({"cell_type": 1.0, "compound": 0.5}).learn(rows, scores=np.zeros((3, 1)))
    >>> kernel.gram(like=np.empty(0))
    array([[1.5, 1. , 0.5],
           [1. , 1.5, 0. ],
           [0.5, 0. , 1.5]])
    """

    weights: Mapping[str, float]
    profile_shrinkage: float = 1.0
    dose_length: float = DOSE_LENGTH
    time_length: float = TIME_LENGTH

    def __post_init__(self) -> None:
        terms_of(self.weights)
        if not 0 <= self.profile_shrinkage < np.inf:
            raise InputError(f"profile_shrinkage must be finite and ≥ 0, not {self.profile_shrinkage}")
        if not all(0 < length < np.inf for length in self.lengths):
            raise InputError(f"dose_length and time_length must be finite and above 0, not {self.lengths}")

    @property
    def lengths(self) -> tuple[float, float]:
        """The lengths of dose and time."""
        return self.dose_length, self.time_length

    @property
    def encoders(self) -> tuple[str, ...]:
        """The molecule encoders that its factors read, sorted."""
        found = {factor.encoder for _, factors in terms_of(self.weights) for factor in factors}
        return tuple(sorted(name for name in found if name is not None))

    @property
    def of_profiles(self) -> bool:
        """Whether any factor compares response profiles."""
        return any(factor.of_profiles for _, factors in terms_of(self.weights) for factor in factors)

    @property
    def of_contexts(self) -> bool:
        """Whether any factor compares doses or times."""
        return any(f.name in ("dose", "time") for _, factors in terms_of(self.weights) for f in factors)

    def with_molecules(self, encoder: str) -> "CompositeKernel":
        """Return the kernel with `encoder` for rbf(molecules); see `renamed`."""
        return replace(self, weights=renamed(self.weights, encoder))

    def learn(self, rows: Pairs, scores: Float64) -> "LearntKernel":
        """Learn from training rows (n) and their scores (n, q).

        Raises
        ------
        InputError
            The rows lack the molecule features that a factor reads.
        """
        present = rows.alone()
        correlation = correlation_of_cell_types(present, scores)
        profiles = ResponseProfiles.learn(rows, scores, self.profile_shrinkage, self.lengths)
        return LearntKernel(self, profiles, present.levels.cell_types, *correlation)


@dataclass(frozen=True, eq=False)
class LearntKernel:
    """A kernel between any pairs of cell type and compound.

    Attributes
    ----------
    kernel : CompositeKernel
        Its weights.
    profiles : ResponseProfiles
        Which hold the training rows, too.
    cell_types : tuple of str
        Those of the training rows.
    correlation : ndarray of float64, (n_cells, n_cells)
        S between them.
    unseen_correlation : float
        S of an unseen cell type with any other.
    """

    kernel: CompositeKernel
    profiles: ResponseProfiles
    cell_types: tuple[str, ...]
    correlation: Float64
    unseen_correlation: float
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def rows(self) -> Pairs:
        """The training rows."""
        return self.profiles.rows

    def _side(self, rows: Pairs, like: Array) -> Side:
        """Return rows as one side of the kernel, in the library and on the device of `like`."""
        return Side(rows, like, self.profiles if self.kernel.of_profiles else None)

    def gram(self, like: Array, dtype: Any = None) -> Array:
        """Return K between the training rows, (n, n), float64 or `dtype`.

        Of many rows one half is made, and mirrored.
        """
        xp, side = namespace(like), self._side(self.rows, like)
        dtype = xp.float64 if dtype is None else dtype
        if len(self.rows) ** 2 <= ENTRIES_AT_ONCE:
            return xp.astype(self._block(side, side), dtype, copy=False)
        return self._by_blocks(side, side, dtype, mirrored=True)

    def between(
        self,
        pairs: Pairs,
        like: Array,
        columns: Indices | None = None,
        dtype: Any = None,
        others: Pairs | None = None,
    ) -> Array:
        """Return K between m pairs and the n training rows, some `columns` of them, or `others`; float64 or `dtype`.

        Matrices between distinct cell types and molecules are made on the host; they are spread over the rows,
        multiplied and summed in float64 in the library and on the device of `like`; of a large K a block of rows at a
        time, in NumPy on as many processors as there are.
        """
        xp, training = namespace(like), self._side(self.rows, like)
        here = training if pairs is self.rows else self._side(pairs, like)
        there = training if columns is None else training.take(columns)
        if others is not None:
            there = here if others is pairs else self._side(others, like)
            there.mean_square = training.mean_square
        dtype = xp.float64 if dtype is None else dtype
        if len(pairs) * len(there.rows) <= ENTRIES_AT_ONCE:
            return xp.astype(self._block(here, there), dtype, copy=False)
        return self._by_blocks(here, there, dtype)

    def products(self, pairs: Pairs, coef: Float64, columns: Indices | None = None) -> Float32:
        """Return K(pairs, training rows or some `columns` of them) times coefficients, (m, q), on the host."""
        like = np.empty(0)
        training = self._side(self.rows, like)
        there = training if columns is None else training.take(columns)
        found = np.empty((len(pairs), coef.shape[1]), dtype=np.float32)
        here = self._side(pairs, like)
        many = len(pairs.levels.compounds) > ROWS_AT_ONCE
        there = there.alone() if many else there

        def make(some: slice) -> None:
            block = here.take(some)
            found[some] = self._block(block.alone() if many else block, there) @ coef

        step = min(ROWS_AT_ONCE, max(1, ENTRIES_AT_ONCE // len(there.rows)))
        each_block(make, row_blocks(len(pairs), step), like)
        return found

    def _by_blocks(self, here: Side, there: Side, dtype: Any, mirrored: bool = False) -> Array:
        """Return K by blocks of rows; `mirrored` where both sides are the same, of which one half is then made."""
        xp, like, m = namespace(here.like), here.like, len(here.rows)
        K = xp.empty((m, len(there.rows)), dtype=dtype, device=like.device)
        blocks, start = list[slice](), 0
        while start < m:
            width = min(start + ROWS_AT_ONCE, m) if mirrored else len(there.rows)
            blocks.append(slice(start, min(start + min(ROWS_AT_ONCE, max(1, BLOCK_ENTRIES // width)), m)))
            start = blocks[-1].stop
        # Where there are many compounds, matrices between distinct molecules are no larger than the block.
        many = len(here.rows.levels.compounds) > BLOCK_ENTRIES // max(len(there.rows), 1)
        if many:
            there = there.alone()

        def make(rows: slice) -> None:
            block, other = here.take(rows), there.take(slice(0, rows.stop)) if mirrored else there
            made = xp.astype(self._block(block.alone() if many else block, other), dtype, copy=False)
            K[rows, : made.shape[1]] = made
            if mirrored:
                K[: rows.start, rows] = xp.matrix_transpose(made[:, : rows.start])

        each_block(make, blocks, K)
        return K

    def diagonal(self, like: Array) -> Float64:
        """Return K_ii of the training rows, (n,), on the host."""
        side = self._side(self.rows, like)
        found = np.zeros(len(self.rows))
        for weight, factors in terms_of(self.kernel.weights):
            part = np.full(len(self.rows), weight)
            for factor in factors:
                if factor.of_profiles:
                    linear = factor.name == "profile_linear"
                    part *= (
                        to_host(side.squares / side.mean_square if linear else side.present) ** factor.power
                    )
            found += part
        return found

    def _block(self, here: Side, there: Side) -> Array:
        """Return K between the rows of two sides, float64."""
        xp, like = namespace(here.like), here.like
        K = xp.zeros((len(here.rows), len(there.rows)), dtype=xp.float64, device=like.device)
        made: dict[str, Array] = {}  # what several terms share
        for weight, factors in terms_of(self.kernel.weights):
            K += weight * reduce(mul, (self._factor(factor, here, there, made) for factor in factors))
        return K

    def is_known(self, pairs: Pairs) -> Mask:
        """Say of which pairs the compound was measured in another context, (m,).

        That is in another cell type, so that the pair has a response profile; for a kernel that compares doses or times
        another dose or time in the same cell type is another context, too.
        """
        if self.kernel.of_contexts:
            return self.profiles.measured_elsewhere(pairs)
        return self.profiles.of(pairs)[1]

    def _factor(self, factor: Factor, pairs: Side, training: Side, made: dict[str, Array]) -> Array:
        if factor.name not in made:
            if factor.of_profiles:
                found = self._profile_factor(factor.name, pairs, training, made)
            else:
                found = pairs.spread(training, _level_of(factor), self._level_matrix(factor, pairs, training))
            made[factor.name] = found
        return made[factor.name] if factor.power == 1 else made[factor.name] ** factor.power

    def _level_matrix(self, factor: Factor, pairs: Side, training: Side) -> Float64:
        here, there, learnt = pairs.rows.levels, training.rows.levels, self.rows.levels
        if factor.name == "correlation":
            return self._correlation(here, there)
        if factor.name in ("dose", "time"):
            return self.profiles.nearness(pairs.rows, factor.name, training.rows)
        if factor.name == "tanimoto":
            from features.molecules.morgan import tanimoto

            bits = here.molecules["morgan"], there.molecules["morgan"]
            return here.between(there, "tanimoto", lambda: tanimoto(*bits).astype(np.float64))
        if factor.of_atlas:
            return here.between(
                there,
                factor.name,
                lambda: _of_atlas(factor.name, *(x.molecules[ATLAS] for x in (here, there))),
            )
        if factor.encoder is None:
            name = "batches" if factor.name == "batch" else f"{factor.name}s"
            return _equal(*(getattr(levels, name) for levels in (here, there)))
        from sklearn.metrics.pairwise import euclidean_distances

        used, name = np.unique(self.rows.molecule), factor.encoder
        if fitted_in_fold(factor.encoder) or factor.encoder == TABLE:
            scaled, own = self._once(name, lambda: self._scale(name, used))
            # `there` is kept, too, so that no other levels get its number
            B, _ = self._once((name, id(there)), lambda: (scaled(there), there))
            return _rbf(euclidean_distances(scaled(here), B, squared=True), own)
        A, B, own = (x.molecules[factor.encoder].astype(np.float64) for x in (here, there, learnt))
        return _rbf(
            here.between(there, factor.name, lambda: euclidean_distances(A, B, squared=True)), own[used]
        )

    def _correlation(self, here: Levels, there: Levels) -> Float64:
        rows, columns = (places(levels.cell_types, self.cell_types) for levels in (here, there))
        S = self.correlation[np.ix_(np.maximum(rows, 0), np.maximum(columns, 0))]
        S[(rows < 0)[:, None] | (columns < 0)[None, :]] = self.unseen_correlation
        return np.asarray(np.where(_equal(here.cell_types, there.cell_types) > 0, 1.0, S))

    def _scale(self, encoder: str, used: Codes) -> tuple[Callable[[Levels], Float64], Float64]:
        """Return what standardises molecules' features by those of the `used` training molecules, and these."""
        learnt = self.rows.levels
        scale: Callable[[Any], Float32] | None = None
        if encoder == TABLE:
            from features.molecules.table import Standardisation

            scale = Standardisation.of(learnt.molecules[TABLE][used]).transform
        elif learnt.smiles:
            from features.molecules.descriptors import DescriptorEncoder

            scale = DescriptorEncoder().fit([learnt.smiles[k] for k in used]).transform

        def scaled(levels: Levels) -> Float64:
            if scale is None or (encoder != TABLE and not levels.smiles):
                raise InputError("the rows have no column SMILES, which rbf(descriptors) reads")
            found = scale(levels.molecules[TABLE] if encoder == TABLE else list(levels.smiles))
            return np.asarray(found, dtype=np.float64)

        return scaled, scaled(learnt)[used]

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what was made for a key before, or make it."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def _profile_factor(self, name: str, pairs: Side, training: Side, made: dict[str, Array]) -> Array:
        xp = namespace(pairs.profiles)
        if "products" not in made:
            made["products"] = pairs.profiles @ xp.matrix_transpose(training.profiles)
        products = made["products"]
        squares, own_squares = pairs.squares[:, None], training.squares[None, :]
        scale = training.mean_square
        if name == "profile_linear":
            return products / scale
        if name == "profile_cosine":
            lengths = xp.sqrt(squares * own_squares)
            return products / xp.where(lengths > 0, lengths, xp.ones_like(lengths))
        distances = squares + own_squares - 2 * products
        distances = xp.where(distances > 0, distances, xp.zeros_like(distances))
        return xp.exp(-distances / scale) * pairs.present[:, None] * training.present[None, :]

    def state(self) -> State:
        """Return what was learnt, as plain data; the weights are saved apart."""
        return {
            "rows": self.rows.alone().state(),
            "residuals": self.profiles.residuals,
            "correlation": self.correlation,
            "unseen_correlation": self.unseen_correlation,
        }

    @classmethod
    def from_state(cls, kernel: CompositeKernel, reader: StateReader) -> "LearntKernel":
        """Make it of its state and the kernel it was learnt by; InputError where they do not fit together."""
        rows = Pairs.from_state(reader.part("rows"))
        lacking = sorted(
            name for name in kernel.encoders if not fitted_in_fold(name) and name not in rows.levels.molecules
        )
        if lacking:
            raise reader.fault(f"there are no molecule features of {lacking[0]}")
        residuals = reader.array("residuals", np.float64, (len(rows), None))
        cells = len(rows.levels.cell_types)
        correlation = reader.array("correlation", np.float64, (cells, cells))
        profiles = ResponseProfiles(rows, residuals, kernel.profile_shrinkage, kernel.lengths)
        unseen = reader.number("unseen_correlation")
        return cls(kernel, profiles, rows.levels.cell_types, correlation, unseen)


def _level_of(factor: Factor) -> str:
    """Return what a factor that is no profile's compares, as an attribute of `Pairs`."""
    if factor.encoder is not None:
        return "molecule"
    return factor.name if factor.name in ("compound", "dose", "time", "batch") else "cell_type"


def _equal(A: Sequence[str], B: Sequence[str]) -> Float64:
    same = np.array(A, dtype=str)[:, None] == np.array(B, dtype=str)[None, :]
    return np.asarray(same, dtype=np.float64)


def _of_atlas(name: str, here: Float32, there: Float32) -> Float64:
    """Return atlas_linear or atlas_rbf between embeddings (m, p) and (n, p); rows of zeros are absent compounds."""
    from sklearn.metrics.pairwise import euclidean_distances

    A, B = here.astype(np.float64), there.astype(np.float64)
    if name == "atlas_linear":
        return np.asarray(A @ B.T)
    present = (A != 0).any(axis=1, keepdims=True) & (B != 0).any(axis=1, keepdims=True).T
    return np.asarray(np.where(present, np.exp(-euclidean_distances(A, B, squared=True)), 0.0))


def _rbf(squares: Float64, training: Float64) -> Float64:
    """Return exp(−squares / scale), the scale the mean squared distance of two different `training` molecules."""
    n, spread = len(training), float(((training - training.mean(axis=0)) ** 2).sum())
    return np.asarray(np.exp(-squares / (2 * spread / (n - 1) if spread > 0 else 1.0)), dtype=np.float64)
