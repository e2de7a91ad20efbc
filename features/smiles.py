"""SMILES strings: canonical spelling, distinct molecules, salts, and the base of the encoders that read them."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from rapids_pipeline.backend.errors import InputError, UnavailableError


def rdkit_chem() -> tuple[Any, Any]:
    """Return (rdkit.Chem, context manager that keeps RDKit's log quiet), UnavailableError without RDKit."""
    try:
        from rdkit import Chem, rdBase
    except ImportError as error:
        raise UnavailableError("molecules need RDKit: pip install 'rapids-perturb[chem]'") from error
    return Chem, rdBase.BlockLogs


def canonical_smiles(smiles: str) -> str | None:
    """Return RDKit's canonical SMILES of a molecule, None where RDKit cannot read it.

    White space around the string is ignored. The empty string, anything that is not a string, and a SMILES
    followed by a name or an extension block are invalid.
    """
    rdkit_chem()
    if not isinstance(smiles, str) or not smiles.strip():
        return None
    return _canonical(smiles.strip())


@lru_cache(maxsize=100_000)
def _canonical(smiles: str) -> str | None:
    """Return what `canonical_smiles` does; kept, as the same molecules are asked for again and again."""
    chem, blocked = rdkit_chem()
    options = chem.SmilesParserParams()
    options.parseName = False
    options.allowCXSMILES = False
    with blocked():
        molecule = chem.MolFromSmiles(smiles, options)
        return None if molecule is None else str(chem.MolToSmiles(molecule))


def invalid_smiles(smiles: Iterable[str]) -> list[int]:
    """Return the positions of the strings that are no valid SMILES, in order; each string is read once."""
    known: dict[str, bool] = {}
    positions = []
    for position, string in enumerate(smiles):
        if string not in known:
            known[string] = canonical_smiles(string) is not None
        if not known[string]:
            positions.append(position)
    return positions


def distinct_molecules(smiles: Iterable[str]) -> tuple[list[str], NDArray[np.intp]]:
    """Find the distinct molecules among n SMILES strings.

    Returns
    -------
    distinct : list of m str
        Canonical SMILES, in order of first occurrence.
    row : ndarray of shape (n,), intp
        `distinct[row[i]]` is the molecule of string i.

    Raises
    ------
    InputError
        A string is no valid SMILES; the message names its position (from 0) and the string.
    """
    if isinstance(smiles, str):
        raise InputError("expected a sequence of SMILES strings, got one string")
    strings = list(smiles)
    canonical: dict[str, str] = {}
    numbers: dict[str, int] = {}
    row = np.empty(len(strings), dtype=np.intp)
    for position, string in enumerate(strings):
        if string not in canonical:
            found = canonical_smiles(string)
            if found is None:
                raise InputError(f"SMILES at position {position} (from 0) is not valid: {string!r}")
            canonical[string] = found
        row[position] = numbers.setdefault(canonical[string], len(numbers))
    return list(numbers), row


def murcko_scaffolds(smiles: Iterable[str]) -> list[str]:
    """Return the Bemis–Murcko scaffold (ring systems and what links them) of every molecule, as canonical SMILES.

    A molecule without rings has none: it stands for itself. InputError: invalid SMILES.

    Source: Bemis and Murcko, J. Med. Chem. 39 (1996) 2887; RDKit `MurckoScaffold`.
    """
    distinct, row = distinct_molecules(smiles)
    _, blocked = rdkit_chem()
    from rdkit.Chem.Scaffolds import MurckoScaffold

    scaffold_of: Any = MurckoScaffold.MurckoScaffoldSmiles
    with blocked():
        scaffolds = [str(scaffold_of(smiles=whole)) or whole for whole in distinct]
    return [scaffolds[number] for number in row]


def is_salt(canonical: str) -> bool:
    """Say whether a molecule (canonical SMILES) has several fragments: a salt, a solvate or a mixture."""
    return "." in canonical


def largest_fragment(canonical: str) -> str:
    """Return the canonical SMILES of a molecule's largest organic fragment; a single fragment is returned as it is.

    Organic (with carbon) goes before inorganic, then the number of atoms, then the weight. Charges stay: the
    largest fragment of sodium acetate is acetate, not acetic acid.

    Source: RDKit `rdMolStandardize.LargestFragmentChooser(preferOrganic=True)`.
    """
    if not is_salt(canonical):
        return canonical
    chem, blocked = rdkit_chem()
    from rdkit.Chem.MolStandardize import rdMolStandardize

    with blocked():
        chooser = rdMolStandardize.LargestFragmentChooser(preferOrganic=True)
        return str(chem.MolToSmiles(chooser.choose(chem.MolFromSmiles(canonical))))


def salts(smiles: Iterable[str]) -> list[tuple[str, str]]:
    """Return (canonical SMILES, its largest organic fragment) of every distinct molecule of several fragments.

    In order of first occurrence (InputError: invalid SMILES).
    """
    return [(whole, largest_fragment(whole)) for whole in distinct_molecules(smiles)[0] if is_salt(whole)]


class MoleculeEncoder(TransformerMixin, BaseEstimator):
    """Base of the encoders of molecules, which compute each distinct molecule once.

    Parameters
    ----------
    desalt : bool
        Encode a molecule of several fragments as its largest organic fragment alone (`largest_fragment`).

    Attributes
    ----------
    n_molecules_ : int
        Distinct molecules in the last `fit` or `transform`, salts and their parent compounds told apart.
    n_salts_ : int
        Those of several fragments.
    """

    desalt: bool

    def notes(self) -> list[str]:
        """Return what a reader of scores should know about the last `transform`, one sentence each."""
        if not getattr(self, "n_salts_", 0):
            return []
        note = f"{self.n_salts_} of {self.n_molecules_} molecules are salts (several fragments)"
        return [f"{note}; the largest organic fragment was encoded" if self.desalt else note]

    def _distinct(self, smiles: Iterable[str]) -> tuple[list[str], NDArray[np.intp]]:
        """As `distinct_molecules`, of largest fragments where `desalt`; counts molecules and salts."""
        whole, row = distinct_molecules(smiles)
        self.n_molecules_, self.n_salts_ = len(whole), sum(map(is_salt, whole))
        if not self.desalt:
            return whole, row
        parents, number = distinct_molecules([largest_fragment(molecule) for molecule in whole])
        return parents, number[row]
