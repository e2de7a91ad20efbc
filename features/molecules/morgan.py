"""Fingerprints of molecules: which circular substructures they have, and how alike two molecules are in them."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from features.molecules.encoders import MoleculeEncoder
from features.molecules.smiles import rdkit_chem
from rapids_pipeline.backend.arrays import Float32, Indices, Labels
from rapids_pipeline.backend.errors import InputError

BLOCK_VALUES = 2**24
"""Similarities a block holds (64 MB of float32)."""


class MorganEncoder(MoleculeEncoder):
    """Morgan fingerprints: bit b is 1 where some circular substructure of the molecule hashes to b.

    Substructures are all neighbourhoods of an atom up to `radius` bonds (radius 2 corresponds to ECFP4),
    folded to `n_bits`. Needs no fitting: `transform` works at once.

    Parameters
    ----------
    n_bits : int
        Length of the fingerprint.
    radius : int
        Largest neighbourhood, in bonds.
    desalt : bool
        Encode a molecule of several fragments as its largest organic fragment alone.

    Attributes
    ----------
    n_molecules_, n_salts_ : int
        See `features.molecules.encoders.MoleculeEncoder`.

    Notes
    -----
    Source: Rogers & Hahn 2010, J. Chem. Inf. Model. 50, 742; RDKit `rdFingerprintGenerator`.

    Examples
    --------
    >>> bits = MorganEncoder().transform(["CCO", "OCC", "c1ccccc1"])
    >>> bits.shape
    (3, 1024)
    >>> bool((bits[0] == bits[1]).all())  # two spellings of ethanol
    True
    """

    def __init__(self, n_bits: int = 1024, radius: int = 2, desalt: bool = False) -> None:
        self.n_bits = n_bits
        self.radius = radius
        self.desalt = desalt

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, smiles: Iterable[str], y: object = None) -> "MorganEncoder":
        """Check the parameters and that every SMILES is valid (InputError)."""
        self._generator()
        self._distinct(smiles)
        return self

    def transform(self, smiles: Iterable[str]) -> Float32:
        """Return the fingerprints, of shape (n, n_bits), float32 of 0 and 1 (InputError: invalid SMILES)."""
        generator = self._generator()
        chem, _ = rdkit_chem()
        distinct, row = self._distinct(smiles)
        bits = np.empty((len(distinct), self.n_bits), dtype=np.float32)
        for number, string in enumerate(distinct):
            bits[number] = generator.GetFingerprintAsNumPy(chem.MolFromSmiles(string))
        return bits[row]

    def get_feature_names_out(self, input_features: object = None) -> Labels:
        """Return "morgan_0", "morgan_1", ..."""
        return np.array([f"morgan_{bit}" for bit in range(self.n_bits)], dtype=object)

    def _generator(self) -> Any:
        if self.n_bits < 1 or self.radius < 0:
            raise InputError(
                f"Morgan fingerprint: n_bits={self.n_bits} must be >= 1, radius={self.radius} >= 0"
            )
        rdkit_chem()
        from rdkit.Chem import rdFingerprintGenerator

        return rdFingerprintGenerator.GetMorganGenerator(radius=self.radius, fpSize=self.n_bits)


def fingerprints(smiles: Sequence[str]) -> Float32:
    """Return the Morgan fingerprints (radius 2, 1,024 bits) of n rows, float32; zeros where a SMILES is empty."""
    encoder, drawn = MorganEncoder(), np.array([string != "" for string in smiles], dtype=np.bool_)
    bits = np.zeros((len(smiles), encoder.n_bits), dtype=np.float32)
    if drawn.any():
        bits[drawn] = encoder.transform([string for string in smiles if string != ""])
    return bits


def tanimoto(A: Float32, B: Float32) -> Float32:
    """Return |a ∧ b| / |a ∨ b| of every row of A with every row of B: float32, (n, m), in [0, 1].

    Parameters
    ----------
    A, B : ndarray, (n, p), (m, p)
        Fingerprints of 0 and 1, as `MorganEncoder.transform` makes them. Counts of shared bits come from one matrix
        product in float32, which holds them exactly.

    Raises
    ------
    InputError
        The fingerprints differ in length.

    Notes
    -----
    Two fingerprints without any bit have the similarity 0, as in RDKit's `BulkTanimotoSimilarity`. Source: Rogers and
    Tanimoto, Science 132 (1960) 1115.

    Examples
    --------
    >>> tanimoto(np.array([[1, 1, 0, 0]]), np.array([[1, 1, 0, 0], [1, 0, 1, 0]])).round(2)
    array([[1.  , 0.33]], dtype=float32)
    """
    if A.ndim != 2 or B.ndim != 2 or A.shape[1] != B.shape[1]:
        raise InputError(f"fingerprints of shapes {A.shape} and {B.shape} cannot be compared: lengths differ")
    A, B = A.astype(np.float32, copy=False), B.astype(np.float32, copy=False)
    shared = A @ B.T
    either = A.sum(axis=1)[:, None] + B.sum(axis=1)[None, :] - shared
    similarity: Float32 = np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)
    return similarity


def nearest(A: Float32, B: Float32) -> tuple[Indices, Float32]:
    """Return, for every row of A, the most similar row of B (the first of equals) and its similarity, (n,) each.

    Worked on in blocks of rows, so memory stays bounded; errors as `tanimoto`, and InputError without any row in B.
    """
    if len(B) == 0:
        raise InputError("there is no fingerprint to be near to")
    rows = max(1, BLOCK_VALUES // len(B))
    index, similarity = np.empty(len(A), dtype=np.intp), np.empty(len(A), dtype=np.float32)
    for start in range(0, len(A), rows):
        block = tanimoto(A[start : start + rows], B)
        best = block.argmax(axis=1)
        index[start : start + rows] = best
        similarity[start : start + rows] = block[np.arange(len(block)), best]
    return index, similarity
