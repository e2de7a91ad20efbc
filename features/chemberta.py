"""Language models of SMILES: from a model's name to one embedding per molecule.

Functions only; the estimator is `features.molecules.ChemBERTaEncoder`. What can go wrong in silence with
such models is checked: weights that a checkpoint lacks (`_load_encoder`), and tokenizers that do not know
SMILES (`features.smiles_tokenizer`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from features.smiles_tokenizer import (
    VOCABULARIES,
    load_part,
    load_tokenizer,
    one_line,
    quiet_libraries,
    require_package,
    token_counts,
)
from rapids_pipeline.backend.errors import InputError, UnavailableError

Pooling = Literal["mean", "cls"]

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_TIMEOUT_S = 5.0
REMEDY = "give a local folder with the weights (--molecules FOLDER) or use --molecules morgan"
SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLE_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class LanguageModel:
    """A loaded SMILES language model.

    `encoder` (torch module, float32, eval mode) and `tokenizer` (transformers), the `folder` they came from,
    the `device` they run on, the number of values per molecule `width`, and `max_tokens`, the most tokens
    of a molecule that the encoder reads, [CLS] and [SEP] included.
    """

    encoder: Any
    tokenizer: Any
    folder: Path
    device: str
    width: int
    max_tokens: int


def load_language_model(
    name: str, max_length: int = 150, device: str = "cpu", local_files_only: bool = False
) -> LanguageModel:
    """Load a SMILES language model from a local folder or from the Hugging Face hub.

    Parameters
    ----------
    name : str
        A folder, or a hub id "organisation/model" (from the hub's local cache where it has been fetched).
    max_length : int
        Most tokens per molecule; an encoder with room for fewer lowers it (`LanguageModel.max_tokens`).
    device : str
        A torch device, "cpu" or "cuda".
    local_files_only : bool
        Look for a hub id only in the local cache.

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
        folder = model_folder(name, local_files_only)
        tokenizer = load_tokenizer(folder)
        encoder = _load_encoder(folder).to(device)
    return LanguageModel(
        encoder=encoder,
        tokenizer=tokenizer,
        folder=folder,
        device=device,
        width=int(encoder.config.hidden_size),
        max_tokens=min(max_length, _room(encoder)),
    )


def model_folder(name: str, local_files_only: bool = False) -> Path:
    """Return the local folder of a model, fetched from the hub where `name` is a hub id.

    Raises InputError where a folder lacks a needed file or `name` is neither, UnavailableError where the
    hub's files cannot be had.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if not HUB_ID.fullmatch(name):
            raise InputError(f"--molecules {name}: no such folder, and no hub id (organisation/model)")
        folder = _fetch(name, local_files_only)
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: not a model folder, config.json is missing")
    for kind, files in (("weights are", SAFE_WEIGHTS + PICKLE_WEIGHTS), ("tokenizer is", VOCABULARIES)):
        if not any((folder / file).is_file() for file in files):
            raise InputError(f"{folder}: the {kind} missing; expected one of {', '.join(files)}")
    return folder


def embed(
    model: LanguageModel,
    smiles: Sequence[str],
    pooling: Pooling = "mean",
    normalize: bool = True,
    batch_size: int = 64,
) -> NDArray[np.float32]:
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
    batch_size : int
        Molecules per forward pass. Batches are filled in order of length; padding is masked, so that a row
        does not depend on its batch (to about 1e-6, the rounding of float32).

    Returns
    -------
    ndarray of shape (n, width), float32, C-contiguous, rows in the order of `smiles`.
    """
    torch = require_package("torch")
    rows = np.empty((len(smiles), model.width), dtype=np.float32)
    order = np.argsort(token_counts(model.tokenizer, smiles), kind="stable")
    for start in range(0, len(order), batch_size):
        index = order[start : start + batch_size]
        tokens = model.tokenizer(
            [smiles[i] for i in index],
            padding=True,
            truncation=True,
            max_length=model.max_tokens,
            return_tensors="pt",
        )
        ids, mask = tokens["input_ids"].to(model.device), tokens["attention_mask"].to(model.device)
        if int(ids.max()) >= model.encoder.config.vocab_size:
            raise InputError(
                f"{model.folder}: tokenizer and weights do not belong together (unknown token id)"
            )
        with torch.no_grad():
            hidden = model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            pooled = _mean(hidden, mask) if pooling == "mean" else hidden[:, 0]
            if normalize:
                pooled = torch.nn.functional.normalize(pooled, dim=1)
        rows[index] = pooled.cpu().numpy()
    return rows


def _mean(hidden: Any, mask: Any) -> Any:
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(dim=1) / weight.sum(dim=1)


def _load_encoder(folder: Path) -> Any:
    """Load the encoder's weights; every weight that `embed` uses must come from the checkpoint."""
    auto = require_package("transformers").AutoModel
    options = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # reported below, by name
    encoder, info = load_part(auto.from_pretrained, folder, "weights", **options)
    lacking = {*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])}
    used = sorted(key for key in lacking if not key.startswith("pooler."))  # no pooling here goes through it
    if used:
        raise InputError(
            f"{folder}: {len(used)} weights of the encoder are not in the checkpoint, or in another shape "
            f"({used[0]}, ...), and would be random; do config.json and the weights belong together?"
        )
    if encoder.config.is_encoder_decoder or not hasattr(encoder.config, "hidden_size"):
        raise InputError(f"{folder}: a {encoder.config.model_type} model is no encoder of single sequences")
    return encoder.float().eval()


def _room(encoder: Any) -> int:
    """Return how many tokens the encoder has positions for (RoBERTa's begin after the padding id)."""
    positions = getattr(encoder.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return 2**31
    offset = getattr(getattr(encoder, "embeddings", None), "padding_idx", None)
    return positions if offset is None else positions - offset - 1


def _fetch(name: str, local_files_only: bool) -> Path:
    """Return the local snapshot of a hub id: from the hub within `HUB_TIMEOUT_S`, else from its cache.

    The first question to the hub carries a time limit and is asked once; huggingface_hub's own file downloads
    repeat theirs for 23 s where there is no network.
    """
    hub = require_package("huggingface_hub")
    reason: Exception | None = None
    if not local_files_only:
        try:
            found = hub.HfApi().model_info(name, timeout=HUB_TIMEOUT_S)
            files = _needed_files([entry.rfilename for entry in found.siblings or []])
            return Path(hub.snapshot_download(name, allow_patterns=files))
        except Exception as error:  # no network, no such model, a private one: the cache is the last chance
            reason = error
    try:
        return Path(hub.snapshot_download(name, local_files_only=True, allow_patterns=["config.json"]))
    except Exception as error:
        raise UnavailableError(
            f"--molecules {name}: its weights are not on this machine and cannot be fetched "
            f"({one_line(reason or error)}); {REMEDY}"
        ) from (reason or error)


def _needed_files(files: Sequence[str]) -> list[str]:
    """Choose a repository's files to fetch: top level, weights as safetensors or else as pickle."""
    top = [file for file in files if "/" not in file]
    suffix = ".safetensors" if any(file in SAFE_WEIGHTS for file in top) else ".bin"
    return [
        file
        for file in top
        if file.endswith((".json", ".txt", ".model"))
        or (file.endswith(suffix) and file.startswith(("model", "pytorch_model")))
    ]
