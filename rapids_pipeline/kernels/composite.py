"""Composite kernels: a weighted sum of products of factors, learnt from training rows, between any rows.

    K(x, x') = Σ_term w ∏ factor(x, x')

What a factor learns, it learns from training rows alone: the correlation of cell types and the response profiles from
their scores (`rapids_pipeline.kernels.response_profiles`), the scale of rbf(ENCODER) from their molecules. A kernel of
profiles is 0 wherever one of the two rows has none; the scale of the profiles' kernels is their mean square over the
training rows that have one:

    profile_linear   ⟨p, p'⟩ / mean |p|²        profile_cosine   ⟨p, p'⟩ / (|p| |p'|)
    profile_rbf      exp(−|p − p'|² / mean |p|²)
    rbf(ENCODER)     exp(−|f − f'|² / mean |f_i − f_j|²), the mean over pairs of distinct training molecules
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.molecules import fitted_in_fold
from features.rows import Levels, Pairs, places
from rapids_pipeline.backend.arrays import Array, Codes, Float64, Mask, namespace
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import State, StateReader
from rapids_pipeline.kernels.response_profiles import ResponseProfiles, correlation_of_cell_types
from rapids_pipeline.kernels.terms import MOLECULES, Factor, terms_of


@dataclass(frozen=True)
class CompositeKernel:
    """A kernel by its weights; `learn` makes it one between rows.

    Attributes
    ----------
    weights : mapping of str to float
        Products of factors and their weights (`rapids_pipeline.kernels.terms`).
    profile_shrinkage : float
        κ of the response profiles: rows of no response that every profile is drawn by.
    """

    weights: Mapping[str, float]
    profile_shrinkage: float = 1.0

    def __post_init__(self) -> None:
        terms_of(self.weights)
        if not 0 <= self.profile_shrinkage < np.inf:
            raise InputError(f"profile_shrinkage must be finite and ≥ 0, not {self.profile_shrinkage}")

    @property
    def encoders(self) -> tuple[str, ...]:
        """The molecule encoders that its factors read, sorted."""
        found = {factor.encoder for term in terms_of(self.weights) for factor in term.factors}
        return tuple(sorted(name for name in found if name is not None))

    @property
    def of_profiles(self) -> bool:
        """Whether any factor compares response profiles."""
        return any(factor.of_profiles for term in terms_of(self.weights) for factor in term.factors)

    def with_molecules(self, encoder: str) -> "CompositeKernel":
        """Return the kernel with `encoder` for rbf(molecules); where that makes two products one, their sum."""
        renamed: dict[str, float] = {}
        for name, weight in self.weights.items():
            new = name.replace(f"rbf({MOLECULES})", f"rbf({encoder})")
            renamed[new] = renamed.get(new, 0.0) + weight
        return CompositeKernel(renamed, self.profile_shrinkage)

    def learn(self, rows: Pairs, scores: Float64) -> "LearntKernel":
        """Learn from training rows (n) and their scores (n, q).

        Raises
        ------
        InputError
            The rows lack the molecule features that a factor reads.
        """
        present = rows.alone()
        correlation = correlation_of_cell_types(present, scores)
        profiles = ResponseProfiles.learn(rows, scores, self.profile_shrinkage)
        return LearntKernel(self, profiles, present.levels.cell_types, *correlation)


@dataclass(frozen=True, eq=False)
class LearntKernel:
    """A kernel between any pairs of cell type and compound.

    Attributes
    ----------
    kernel : CompositeKernel
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

    @property
    def rows(self) -> Pairs:
        """The training rows."""
        return self.profiles.rows

    def gram(self, like: Array) -> Array:
        """Return K between the training rows, (n, n) float64; see `between`."""
        return self.between(self.rows, like)

    def between(self, pairs: Pairs, like: Array) -> Array:
        """Return K between pairs and the training rows, (m, n) float64.

        Matrices between distinct cell types and molecules are made on the host; they are spread over the rows,
        multiplied and summed in the library and on the device of `like`.
        """
        xp, place = namespace(like), _Place(like)
        training = _Side(self, self.rows, place)
        sides = training if pairs is self.rows else _Side(self, pairs, place), training
        K = xp.zeros((len(pairs), len(self.rows)), dtype=xp.float64, device=like.device)
        for term in terms_of(self.kernel.weights):
            product: Array = None
            for factor in term.factors:
                part = self._factor(factor, *sides)
                product = part if product is None else product * part
            K = K + term.weight * product
        return K

    def has_profile(self, pairs: Pairs) -> Mask:
        """Say which pairs have a response profile: their compound was measured in another cell type, (m,)."""
        return self.profiles.of(pairs)[1]

    def _factor(self, factor: Factor, pairs: "_Side", training: "_Side") -> Array:
        if factor.of_profiles:
            found = self._profile_factor(factor.name, pairs, training)
        else:
            found = pairs.spread(training, _level_of(factor), self._level_matrix(factor, pairs, training))
        return found if factor.power == 1 else found**factor.power

    def _level_matrix(self, factor: Factor, pairs: "_Side", training: "_Side") -> Float64:
        here, there = pairs.rows.levels, training.rows.levels
        if factor.name == "correlation":
            return self._correlation(here, there)
        if factor.name == "tanimoto" or factor.encoder is None:
            return here.between(there, factor.name, lambda: _fixed(factor.name, here, there))
        from sklearn.metrics.pairwise import euclidean_distances

        used = np.unique(self.rows.molecule)
        if fitted_in_fold(factor.encoder):
            A, B = self._standardised(used, here, there)
            return _rbf(euclidean_distances(A, B, squared=True), B[used])
        A, B = (levels.molecules[factor.encoder].astype(np.float64) for levels in (here, there))
        return _rbf(
            here.between(there, factor.name, lambda: euclidean_distances(A, B, squared=True)), B[used]
        )

    def _correlation(self, here: Levels, there: Levels) -> Float64:
        rows, columns = (places(levels.cell_types, self.cell_types) for levels in (here, there))
        S = self.correlation[np.ix_(np.maximum(rows, 0), np.maximum(columns, 0))]
        S[(rows < 0)[:, None] | (columns < 0)[None, :]] = self.unseen_correlation
        return np.asarray(np.where(_equal(here.cell_types, there.cell_types) > 0, 1.0, S))

    def _standardised(self, used: Codes, here: Levels, there: Levels) -> tuple[Float64, Float64]:
        if not (here.smiles and there.smiles):
            raise InputError("the rows have no column SMILES, which rbf(descriptors) reads")
        from features.molecules.descriptors import DescriptorEncoder

        encoder = DescriptorEncoder().fit([there.smiles[k] for k in used])
        A, B = (encoder.transform(list(levels.smiles)).astype(np.float64) for levels in (here, there))
        return A, B

    def _profile_factor(self, name: str, pairs: "_Side", training: "_Side") -> Array:
        xp = namespace(pairs.profiles)
        products = pairs.profiles @ xp.matrix_transpose(training.profiles)
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
        profiles = ResponseProfiles(rows, residuals, kernel.profile_shrinkage)
        unseen = reader.number("unseen_correlation")
        return cls(kernel, profiles, rows.levels.cell_types, correlation, unseen)


class _Place:
    """Copies host arrays to the library and device of `like`."""

    def __init__(self, like: Array) -> None:
        self._xp, self._device = namespace(like), like.device

    def __call__(self, x: NDArray[Any]) -> Array:
        return self._xp.asarray(np.ascontiguousarray(x), device=self._device)


class _Side:
    """One side of a kernel: rows, with their profiles in the library that the kernel is computed in."""

    def __init__(self, learnt: LearntKernel, rows: Pairs, place: _Place) -> None:
        self.rows, self._place = rows, place
        if not learnt.kernel.of_profiles:
            return
        profiles, present = learnt.profiles.of(rows)
        squares = np.einsum("ij,ij->i", profiles, profiles)
        self.mean_square = max(float(squares[present].mean()), 1e-12) if present.any() else 1.0
        self.profiles, self.squares = place(profiles), place(squares)
        self.present = place(present.astype(np.float64))

    def spread(self, other: "_Side", level: str, matrix: Float64) -> Array:
        """Return a matrix between distinct ones as one between these rows and others."""
        placed = self._place(matrix)
        xp = namespace(placed)
        rows, columns = (self._place(getattr(side.rows, level).astype(np.int64)) for side in (self, other))
        return xp.take(xp.take(placed, rows, axis=0), columns, axis=1)


def _level_of(factor: Factor) -> str:
    if factor.encoder is not None:
        return "molecule"
    return "compound" if factor.name == "compound" else "cell_type"


def _fixed(name: str, here: Levels, there: Levels) -> Float64:
    """Return the matrix of a factor that learns nothing, between distinct ones."""
    if name == "tanimoto":
        from features.molecules.morgan import tanimoto

        return tanimoto(here.molecules["morgan"], there.molecules["morgan"]).astype(np.float64)
    if name == "compound":
        return _equal(here.compounds, there.compounds)
    return _equal(here.cell_types, there.cell_types)


def _equal(A: Sequence[str], B: Sequence[str]) -> Float64:
    same = np.array(A, dtype=str)[:, None] == np.array(B, dtype=str)[None, :]
    return np.asarray(same, dtype=np.float64)


def _rbf(squares: Float64, training: Float64) -> Float64:
    """Return exp(−squares / scale), the scale the mean squared distance of two different `training` molecules."""
    n, spread = len(training), float(((training - training.mean(axis=0)) ** 2).sum())
    return np.asarray(np.exp(-squares / (2 * spread / (n - 1) if spread > 0 else 1.0)), dtype=np.float64)
