"""Fingerprints of molecules: which circular substructures they have."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.smiles import MoleculeEncoder, rdkit_chem
from rapids_pipeline.backend.errors import InputError


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
        See `features.smiles.MoleculeEncoder`.

    Source: Rogers & Hahn 2010, J. Chem. Inf. Model. 50, 742; RDKit `rdFingerprintGenerator`.
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

    def transform(self, smiles: Iterable[str]) -> NDArray[np.float32]:
        """Return the fingerprints, of shape (n, n_bits), float32 of 0 and 1 (InputError: invalid SMILES)."""
        generator = self._generator()
        chem, _ = rdkit_chem()
        distinct, row = self._distinct(smiles)
        bits = np.empty((len(distinct), self.n_bits), dtype=np.float32)
        for number, string in enumerate(distinct):
            bits[number] = generator.GetFingerprintAsNumPy(chem.MolFromSmiles(string))
        return bits[row]

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
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
