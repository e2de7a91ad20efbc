"""Encoders of molecules by name: fingerprints, descriptors and embeddings of a SMILES language model.

The encoders turn SMILES strings into float32 rows, work on canonical SMILES (two spellings of one molecule
give one row) and compute each distinct molecule once. `molecule_encoder` turns `--molecules NAME|FOLDER` into
one of them. Most learn nothing from molecules, so `encode_molecules` makes their columns once, before there are folds.
One that does (`descriptors`, standardised) is fitted by its block, on the training rows of each fold.
"""

import json
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from features.molecules import (
    ATLAS,
    DEFAULT_CHEMBERTA,
    NONE,
    TABLE,
    WITHOUT_WEIGHTS,
    fitted_in_fold,
    language_model,
)
from features.molecules.cache import MoleculeCache, cache_folder, computed_through
from features.molecules.smiles import (
    distinct_molecules,
    is_salt,
    largest_fragment,
    rdkit_chem,
    require_known,
    token_counts,
    unknown_share,
)
from features.molecules.weights import HUB_ID
from rapids_pipeline.backend.arrays import Float32, Indices, Labels
from rapids_pipeline.backend.errors import InputError, meant

POOLINGS = ("mean", "cls")
UNKNOWN_WARNING = 0.1


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

    def _distinct(self, smiles: Iterable[str]) -> tuple[list[str], Indices]:
        """As `distinct_molecules`, of largest fragments where `desalt`; counts molecules and salts."""
        whole, row = distinct_molecules(one_column(smiles))
        self.n_molecules_, self.n_salts_ = len(whole), sum(map(is_salt, whole))
        if not self.desalt:
            return whole, row
        parents, number = distinct_molecules([largest_fragment(molecule) for molecule in whole])
        return parents, number[row]


def one_column(smiles: Any) -> Any:
    """Return the SMILES of a data frame or matrix of one column, as a ColumnTransformer hands it over.

    Raises
    ------
    InputError
        It has several columns, or none.
    """
    if getattr(smiles, "ndim", 1) != 2:
        return smiles
    if smiles.shape[1] != 1:
        raise InputError(f"SMILES must be one column, and there are {smiles.shape[1]}")
    return np.asarray(smiles)[:, 0]


class ChemBERTaEncoder(MoleculeEncoder):
    """Embeddings of molecules by a pretrained transformer that reads SMILES (formula: `language_model.embed`).

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
    batch_size : int or "auto"
        Distinct molecules per forward pass; "auto" as fits the device (`language_model.embed`). Either is halved
        where memory is too small.
    device : str
        Torch device, "cpu" or "cuda".
    desalt : bool
        Encode a molecule of several fragments as its largest organic fragment alone.
    cache : path, "auto" or None
        Folder that keeps embeddings between runs (`MoleculeCache`); "auto": the user's cache
        folder, see `cache_folder`.

    Attributes
    ----------
    language_model_ : language_model.LanguageModel
        Weights and tokenizer.
    n_molecules_, n_salts_ : int
        See `features.molecules.smiles.MoleculeEncoder`.
    n_cached_ : int
        Distinct molecules whose embedding came from the cache in the last `transform`.
    n_truncated_ : int
        Distinct molecules cut to `max_length` tokens in the last `transform`.
    unknown_share_ : float
        Share of SMILES characters outside the vocabulary in the last `fit` or `transform`; more than 10 % in
        a `transform` gives a warning, more than 50 % in a `fit` an error.

    Notes
    -----
    Source: Ahmad et al. 2022, "ChemBERTa-2: Towards Chemical Foundation Models", arXiv:2209.01712.
    """

    def __init__(
        self,
        model: str = DEFAULT_CHEMBERTA,
        max_length: int = 150,
        pooling: language_model.Pooling = "mean",
        normalize: bool = True,
        batch_size: int | Literal["auto"] = "auto",
        device: str = "cpu",
        desalt: bool = False,
        cache: str | os.PathLike[str] | None = "auto",
    ) -> None:
        self.model = model
        self.max_length = max_length
        self.pooling = pooling
        self.normalize = normalize
        self.batch_size = batch_size
        self.device = device
        self.desalt = desalt
        self.cache = cache

    def load(self) -> "ChemBERTaEncoder":
        """Load weights and tokenizer (errors: `language_model.load_language_model`; InputError: a parameter)."""
        self._check_parameters()
        rdkit_chem()
        self.language_model_ = language_model.load_language_model(
            str(self.model), self.max_length, self.device
        )
        return self

    def fit(self, smiles: Iterable[str], y: object = None) -> "ChemBERTaEncoder":
        """Load the model and check the molecules (InputError: invalid SMILES, or over 50 % unknown)."""
        distinct, _ = self._distinct(smiles)
        self.load()
        loaded = self.language_model_
        self.unknown_share_ = require_known(loaded.tokenizer, distinct, loaded.folder)
        return self

    def transform(self, smiles: Iterable[str]) -> Float32:
        """Return the embeddings, of shape (n, width), float32 (InputError: invalid SMILES)."""
        check_is_fitted(self, "language_model_")
        distinct, row = self._distinct(smiles)
        self._check_parameters()
        self._diagnose(distinct)
        cache, self.n_cached_ = self._open_cache(), 0
        if cache is None:
            return self._computed(distinct)[row]
        rows, self.n_cached_ = computed_through(cache, distinct, self._computed)
        return rows[row]

    def get_feature_names_out(self, input_features: object = None) -> Labels:
        """Return "chemberta_0", "chemberta_1", ... (NotFittedError before `load` or `fit`)."""
        check_is_fitted(self, "language_model_")
        return np.array([f"chemberta_{i}" for i in range(self.language_model_.width)], dtype=object)

    def notes(self) -> list[str]:
        """As `MoleculeEncoder.notes`, with the molecules that were cut off."""
        truncated = getattr(self, "n_truncated_", 0)
        sentence = f"{truncated} molecules were longer than the encoder reads and were cut off"
        return [*super().notes(), *([sentence] if truncated else [])]

    def _check_parameters(self) -> None:
        if self.pooling not in POOLINGS:
            raise InputError(f"pooling={self.pooling!r}: choose one of {', '.join(POOLINGS)}")
        size: object = self.batch_size
        if size != "auto" and not (isinstance(size, int | np.integer) and size >= 1):
            raise InputError(f"batch_size={size!r} must be >= 1 or 'auto'")
        if self.max_length < 3:
            raise InputError(f"max_length={self.max_length} must be >= 3")

    def _computed(self, canonical: Sequence[str]) -> Float32:
        """Return embeddings fresh from the model."""
        return language_model.embed(
            self.language_model_, canonical, self.pooling, self.normalize, self.batch_size
        )

    def _open_cache(self) -> MoleculeCache | None:
        """Return the cache of these weights and options: of all that changes an embedding beyond rounding."""
        folder = cache_folder(self.cache)
        if folder is None:
            return None
        loaded = self.language_model_
        key = json.dumps(
            {
                "model": loaded.content_hash,
                "max_tokens": loaded.max_tokens,
                "pooling": self.pooling,
                "normalize": bool(self.normalize),
                "precision": "float32",
                "device": loaded.device.split(":")[0],
                "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers")},
            },
            sort_keys=True,
        )
        return MoleculeCache(folder, key, loaded.width)

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


def molecule_encoder(name: str, device: str = "cpu") -> MoleculeEncoder:
    """Return the encoder that `--molecules NAME|FOLDER` asks for.

    Parameters
    ----------
    name : str
        One of `features.molecules.WITHOUT_WEIGHTS`, "chemberta" (DeepChem/ChemBERTa-10M-MTR), a local model folder,
        or a hub id "organisation/model". A local folder goes before a hub id of the same spelling.
    device : str
        Torch device of a language model; fingerprints and descriptors are computed on the CPU.

    Raises
    ------
    InputError
        `name` is none of these.

    Examples
    --------
    >>> molecule_encoder("morgan")
    MorganEncoder()
    """
    if name == TABLE:
        raise InputError(f"{TABLE} stands for a table of embeddings; name its file: --molecules FILE.parquet")
    if name == ATLAS:
        raise InputError(
            f"{ATLAS} is read by the factors atlas_linear and atlas_rbf; name its folder with --atlas"
        )
    if name in WITHOUT_WEIGHTS:
        module, _, encoder = WITHOUT_WEIGHTS[name].rpartition(".")
        return cast(MoleculeEncoder, getattr(import_module(module), encoder)())
    if name == "chemberta":
        return ChemBERTaEncoder(device=device)
    if name and (os.path.isdir(Path(name).expanduser()) or HUB_ID.fullmatch(name)):  # noqa: PTH112
        return ChemBERTaEncoder(model=name, device=device)
    near = meant(name, ("auto", "chemberta", NONE, *WITHOUT_WEIGHTS))
    raise InputError(
        f"--molecules {name}{near}: choose auto, {', '.join(WITHOUT_WEIGHTS)}, chemberta, an existing folder with a "
        f"SMILES language model, a hub id such as {DEFAULT_CHEMBERTA}, {NONE}, or a table of embeddings (.parquet, "
        ".csv, .tsv)"
    )


@dataclass(frozen=True)
class MoleculeColumns:
    """Columns by encoder, float32: `training` rows, `others`; what a reader should know; hashes of language models."""

    training: dict[str, Float32] = field(default_factory=dict)
    others: dict[str, Float32] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    weights: dict[str, str] = field(default_factory=dict)


def encode_molecules(
    encoders: Sequence[str], training: Sequence[str], others: Sequence[str] = (), device: str = "cpu"
) -> MoleculeColumns:
    """Encode the SMILES of training rows and of other rows.

    Parameters
    ----------
    encoders : sequence of str
        As `molecule_encoder`; those fitted in-fold are checked and left out of the result.
    training, others : sequence of str
        SMILES of each row.
    device : str
        Torch device of language models.

    Raises
    ------
    InputError, UnavailableError
        As `molecule_encoder` and the encoders.
    """
    found = MoleculeColumns()
    for name in dict.fromkeys(encoders):
        encoder = molecule_encoder(name, device).fit(training)
        if not fitted_in_fold(name):
            values = encoder.transform([*training, *others])
            found.training[name], found.others[name] = values[: len(training)], values[len(training) :]
        if isinstance(encoder, ChemBERTaEncoder):
            found.weights[name] = encoder.language_model_.content_hash
        found.notes.extend(note for note in encoder.notes() if note not in found.notes)
    return found
