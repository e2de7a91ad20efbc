"""Language models of SMILES: from a model's name to its files and to one embedding per molecule.

Functions only; the estimator is `features.molecules.encoders.ChemBERTaEncoder`. What can go wrong in silence with
such models is checked: weights that a checkpoint lacks (`features.molecules.weights`, which also says what of a
stranger's weights is believed), and tokenizers that do not know SMILES (`features.molecules.smiles`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from features.molecules.smiles import (
    PROBE_MOLECULES,
    load_tokenizer,
    loaded,
    quiet_libraries,
    require_package,
    token_counts,
)
from features.molecules.weights import believed, content_hash, model_folder, read_encoder
from rapids_pipeline.backend.arrays import Float32
from rapids_pipeline.backend.errors import InputError, UnavailableError

Pooling = Literal["mean", "cls"]

TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 65536}
"""Tokens of a batch, padding included, where its size adapts.

On one CPU core the 12-layer ALBERT of rxnmapper was fastest at 200 to 1,000 tokens and 5 % slower at 2,000. On a GPU
65,536 tokens keep the widest activations of a base-size encoder (3,072 values a token) under 1 GB.
"""


@dataclass(frozen=True)
class LanguageModel:
    """A loaded SMILES language model.

    `encoder` (torch module, float32, eval mode) and `tokenizer` (transformers), the `folder` they came from,
    the `device` they run on, the number of values per molecule `width`, `max_tokens`, the most tokens of a
    molecule that the encoder reads, [CLS] and [SEP] included, and the SHA-256 of its files `content_hash`.
    """

    encoder: Any
    tokenizer: Any
    folder: Path
    device: str
    width: int
    max_tokens: int
    content_hash: str


def load_language_model(name: str, max_length: int = 150, device: str = "cpu") -> LanguageModel:
    """Load a SMILES language model from a local folder or from the Hugging Face hub.

    Parameters
    ----------
    name : str
        A folder, or a hub id "organisation/model" (from the hub's local cache where it has been fetched).
    max_length : int
        Most tokens per molecule; an encoder with room for fewer lowers it (`LanguageModel.max_tokens`).
    device : str
        A torch device, "cpu" or "cuda".

    Raises
    ------
    InputError
        A folder lacks a file, the weights are incomplete or broken, or the tokenizer does not know SMILES.
    UnavailableError
        torch or transformers is missing, CUDA is asked for and missing, or a hub id cannot be fetched.
    """
    torch = require_package("torch")
    require_package("transformers")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UnavailableError(f"device {device}: this PyTorch sees no CUDA device; use --device cpu")
    with quiet_libraries():
        folder = model_folder(name)
        digest = content_hash(folder)
        with believed(folder) as place:
            tokenizer = load_tokenizer(place, folder)
            encoder = read_encoder(place, folder).to(device)
        model = LanguageModel(
            encoder=encoder,
            tokenizer=tokenizer,
            folder=folder,
            device=device,
            width=int(encoder.config.hidden_size),
            max_tokens=min(max_length, _room(encoder)),
            content_hash=digest,
        )
        loaded(
            _forward, model, folder, "weights", smiles=[PROBE_MOLECULES[0]], pooling="mean", normalize=False
        )
    return model


def embed(
    model: LanguageModel,
    smiles: Sequence[str],
    pooling: Pooling = "mean",
    normalize: bool = True,
    batch_size: int | Literal["auto"] = "auto",
) -> Float32:
    """Embed molecules, each as one vector e.

    With h_1..h_T the last hidden states of a molecule's T tokens (at most `model.max_tokens`, special tokens
    included, padding excluded): e = (1/T) Σ h_t ("mean") or e = h_1 ("cls"); normalised, e / ‖e‖₂.

    Parameters
    ----------
    model : LanguageModel
    smiles : sequence of n str
    pooling : {"mean", "cls"}
    normalize : bool
        Scale every row to unit length.
    batch_size : int or "auto"
        Molecules per forward pass; "auto": as many as have `TOKENS_PER_BATCH` tokens. Where the device's
        memory is too small, the batch is halved and tried again, and later ones stay that small.

    Returns
    -------
    ndarray of shape (n, width), float32, C-contiguous, rows in the order of `smiles`. Batches are filled in
    order of length, then of the alphabet, so that the result depends on the set of molecules and not on their
    order; padding is masked, so that a row depends on its batch by no more than float32's rounding (about
    1e-6), and not at all with `batch_size=1`.

    Raises
    ------
    InputError
        Tokenizer and weights do not belong together, or the weights give values that are not finite.
    UnavailableError
        The device's memory is too small for a single molecule.
    """
    torch = require_package("torch")
    rows = np.empty((len(smiles), model.width), dtype=np.float32)
    lengths = [min(count, model.max_tokens) for count in token_counts(model.tokenizer, smiles)]
    order = sorted(range(len(smiles)), key=lambda i: (lengths[i], smiles[i]))
    most = len(smiles) if batch_size == "auto" else batch_size
    budget = TOKENS_PER_BATCH[_device_type(model)] if batch_size == "auto" else 2**62
    start = 0
    while start < len(order):
        index = _next_batch(order[start : start + most], lengths, budget)
        try:
            rows[index] = _forward(model, [smiles[i] for i in index], pooling, normalize)
            start += len(index)
            continue
        except torch.OutOfMemoryError:
            pass  # go on outside, where the error no longer holds the batch's tensors
        budget = _halved(model, index, lengths)
    unsound = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(unsound):
        raise InputError(f"{model.folder}: its weights give no finite embedding of {smiles[unsound[0]]}")
    return rows


def _next_batch(candidates: list[int], lengths: Sequence[int], budget: int) -> list[int]:
    """Return the first molecules, at least one, that padded to the last one's length fit into the budget."""
    for size, i in enumerate(candidates, start=1):
        if size > 1 and size * lengths[i] > budget:
            return candidates[: size - 1]
    return candidates


def _halved(model: LanguageModel, index: Sequence[int], lengths: Sequence[int]) -> int:
    """Return half the tokens of a batch that did not fit into memory, and free what is held in reserve."""
    torch = require_package("torch")
    if len(index) == 1:
        raise UnavailableError(
            f"device {model.device}: its memory does not hold one molecule of {lengths[index[0]]} tokens; "
            "use --device cpu or a smaller model"
        )
    if _device_type(model) == "cuda":
        torch.cuda.empty_cache()
    return len(index) * lengths[index[-1]] // 2


def _forward(model: LanguageModel, smiles: list[str], pooling: Pooling, normalize: bool) -> Float32:
    """Embed one batch."""
    torch = require_package("torch")
    tokens = model.tokenizer(
        smiles, padding=True, truncation=True, max_length=model.max_tokens, return_tensors="pt"
    )
    ids, mask = tokens["input_ids"].to(model.device), tokens["attention_mask"].to(model.device)
    if int(ids.max()) >= model.encoder.config.vocab_size:
        raise InputError(f"{model.folder}: tokenizer and weights do not belong together (unknown token id)")
    with torch.no_grad():
        hidden = model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * weight).sum(dim=1) / weight.sum(dim=1) if pooling == "mean" else hidden[:, 0]
        if normalize:
            pooled = torch.nn.functional.normalize(pooled, dim=1)
    return np.asarray(pooled.cpu().numpy(), dtype=np.float32)


def _device_type(model: LanguageModel) -> str:
    """Return "cpu" or "cuda", without the number of the device."""
    return model.device.split(":")[0]


def _room(encoder: Any) -> int:
    """Return how many tokens the encoder has positions for (RoBERTa's begin after the padding id)."""
    positions = getattr(encoder.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return 2**31
    offset = getattr(getattr(encoder, "embeddings", None), "padding_idx", None)
    return positions if offset is None else positions - offset - 1
