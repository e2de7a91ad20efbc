"""Molecules as rows of numbers: Morgan fingerprints and embeddings of a SMILES language model.

Both encoders turn SMILES strings into float32 rows, work on canonical SMILES (two spellings of one molecule
give one row) and compute each distinct molecule once. `molecule_encoder` turns `--molecules NAME|FOLDER` into
one of them.
"""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from features import chemberta
from features.smiles_tokenizer import require_known, token_counts, unknown_share
from rapids_pipeline.backend.errors import InputError, UnavailableError

DEFAULT_CHEMBERTA = "DeepChem/ChemBERTa-10M-MTR"
POOLINGS = ("mean", "cls")
UNKNOWN_WARNING = 0.1


def canonical_smiles(smiles: str) -> str | None:
    """Return RDKit's canonical SMILES of a molecule, None where RDKit cannot read it.

    White space around the string is ignored. The empty string, anything that is not a string, and a SMILES
    followed by a name or an extension block are invalid.
    """
    chem, blocked = _rdkit()
    options = chem.SmilesParserParams()
    options.parseName = False
    options.allowCXSMILES = False
    if not isinstance(smiles, str) or not smiles.strip():
        return None
    with blocked():
        molecule = chem.MolFromSmiles(smiles.strip(), options)
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


class MorganEncoder(TransformerMixin, BaseEstimator):
    """Morgan fingerprints: bit b is 1 where some circular substructure of the molecule hashes to b.

    Substructures are all neighbourhoods of an atom up to `radius` bonds (radius 2 corresponds to ECFP4),
    folded to `n_bits`. Needs no fitting: `transform` works at once.

    Parameters
    ----------
    n_bits : int
        Length of the fingerprint.
    radius : int
        Largest neighbourhood, in bonds.

    Source: Rogers & Hahn 2010, J. Chem. Inf. Model. 50, 742; RDKit `rdFingerprintGenerator`.
    """

    def __init__(self, n_bits: int = 1024, radius: int = 2) -> None:
        self.n_bits = n_bits
        self.radius = radius

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, smiles: Iterable[str], y: object = None) -> "MorganEncoder":
        """Check the parameters and that every SMILES is valid (InputError)."""
        self._generator()
        distinct_molecules(smiles)
        return self

    def transform(self, smiles: Iterable[str]) -> NDArray[np.float32]:
        """Return the fingerprints, of shape (n, n_bits), float32 of 0 and 1 (InputError: invalid SMILES)."""
        generator = self._generator()
        chem, _ = _rdkit()
        distinct, row = distinct_molecules(smiles)
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
        _rdkit()
        from rdkit.Chem import rdFingerprintGenerator

        return rdFingerprintGenerator.GetMorganGenerator(radius=self.radius, fpSize=self.n_bits)


class ChemBERTaEncoder(TransformerMixin, BaseEstimator):
    """Embeddings of molecules by a pretrained transformer that reads SMILES (formula: `chemberta.embed`).

    Nothing is learnt from the molecules: `fit` loads the weights and checks that the tokenizer knows the
    molecules' SMILES. `load` does the former alone, so that a run can fail before it does any work. A row
    depends on its own molecule only.

    Parameters
    ----------
    model : str
        A local folder (config.json, weights, tokenizer) or a hub id "organisation/model".
    max_length : int
        Most tokens read per molecule, special tokens included; the rest is cut off, counted and warned of.
    pooling : {"mean", "cls"}
        Mean of the last hidden states over the molecule's tokens, or the first token's.
    normalize : bool
        Scale every row to unit Euclidean length.
    batch_size : int
        Distinct molecules per forward pass.
    device : str
        Torch device, "cpu" or "cuda".
    local_files_only : bool
        Never ask the hub; its local cache still counts.

    Attributes
    ----------
    language_model_ : chemberta.LanguageModel
    n_truncated_ : int
        Distinct molecules cut to `max_length` tokens in the last `transform`.
    unknown_share_ : float
        Share of SMILES characters outside the vocabulary in the last `fit` or `transform`; more than 10 % in
        a `transform` gives a warning, more than 50 % in a `fit` an error.

    Source: Ahmad et al. 2022, "ChemBERTa-2: Towards Chemical Foundation Models", arXiv:2209.01712.
    """

    def __init__(
        self,
        model: str = DEFAULT_CHEMBERTA,
        max_length: int = 150,
        pooling: chemberta.Pooling = "mean",
        normalize: bool = True,
        batch_size: int = 64,
        device: str = "cpu",
        local_files_only: bool = False,
    ) -> None:
        self.model = model
        self.max_length = max_length
        self.pooling = pooling
        self.normalize = normalize
        self.batch_size = batch_size
        self.device = device
        self.local_files_only = local_files_only

    def load(self) -> "ChemBERTaEncoder":
        """Load weights and tokenizer (errors: `chemberta.load_language_model`; InputError: a parameter)."""
        if self.pooling not in POOLINGS:
            raise InputError(f"pooling={self.pooling!r}: choose one of {', '.join(POOLINGS)}")
        if self.batch_size < 1 or self.max_length < 3:
            raise InputError(f"batch_size={self.batch_size} must be >= 1, max_length={self.max_length} >= 3")
        _rdkit()
        self.language_model_ = chemberta.load_language_model(
            str(self.model), self.max_length, self.device, self.local_files_only
        )
        return self

    def fit(self, smiles: Iterable[str], y: object = None) -> "ChemBERTaEncoder":
        """Load the model and check the molecules (InputError: invalid SMILES, or over 50 % unknown)."""
        distinct, _ = distinct_molecules(smiles)
        self.load()
        loaded = self.language_model_
        self.unknown_share_ = require_known(loaded.tokenizer, distinct, loaded.folder)
        return self

    def transform(self, smiles: Iterable[str]) -> NDArray[np.float32]:
        """Return the embeddings, of shape (n, width), float32 (InputError: invalid SMILES)."""
        check_is_fitted(self, "language_model_")
        distinct, row = distinct_molecules(smiles)
        self._diagnose(distinct)
        return self.embed(distinct)[row]

    def embed(self, canonical: list[str]) -> NDArray[np.float32]:
        """Return the embeddings of distinct canonical SMILES, of shape (m, width): all the costly work."""
        check_is_fitted(self, "language_model_")
        return chemberta.embed(self.language_model_, canonical, self.pooling, self.normalize, self.batch_size)

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Return "chemberta_0", "chemberta_1", ... (NotFittedError before `load` or `fit`)."""
        check_is_fitted(self, "language_model_")
        return np.array([f"chemberta_{i}" for i in range(self.language_model_.width)], dtype=object)

    def _diagnose(self, canonical: list[str]) -> None:
        loaded = self.language_model_
        counts = token_counts(loaded.tokenizer, canonical)
        self.n_truncated_ = sum(count > loaded.max_tokens for count in counts)
        self.unknown_share_ = unknown_share(loaded.tokenizer, canonical)
        if self.n_truncated_:
            warnings.warn(
                f"{self.n_truncated_} of {len(canonical)} molecules have more than {loaded.max_tokens} "
                "tokens and were cut off there",
                stacklevel=4,
            )
        if self.unknown_share_ > UNKNOWN_WARNING:
            warnings.warn(
                f"{self.unknown_share_:.1%} of the SMILES characters are unknown to the tokenizer of "
                f"{self.model}; the embedding does not see them",
                stacklevel=4,
            )


def molecule_encoder(name: str, device: str = "cpu") -> MorganEncoder | ChemBERTaEncoder:
    """Return the encoder that `--molecules NAME|FOLDER` asks for.

    Parameters
    ----------
    name : str
        "morgan", "chemberta" (DeepChem/ChemBERTa-10M-MTR), a local model folder, or a hub id
        "organisation/model". A local folder goes before a hub id of the same spelling.
    device : str
        Torch device of a language model; fingerprints are computed on the CPU.

    Raises
    ------
    InputError
        `name` is none of these.
    """
    if name == "morgan":
        return MorganEncoder()
    if name == "chemberta":
        return ChemBERTaEncoder(device=device)
    if name and (Path(name).expanduser().is_dir() or chemberta.HUB_ID.fullmatch(name)):
        return ChemBERTaEncoder(model=name, device=device)
    raise InputError(
        f"--molecules {name}: choose morgan, chemberta, an existing folder with a SMILES language model, or "
        f"a hub id such as {DEFAULT_CHEMBERTA}"
    )


def _rdkit() -> tuple[Any, Any]:
    """Return (rdkit.Chem, context manager that keeps RDKit's log quiet), UnavailableError without RDKit."""
    try:
        from rdkit import Chem, rdBase
    except ImportError as error:
        raise UnavailableError("molecules need RDKit: pip install 'rapids-perturb[chem]'") from error
    return Chem, rdBase.BlockLogs
