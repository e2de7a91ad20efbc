"""The files of a SMILES language model: found in a folder or on the Hugging Face hub, checked and hashed."""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from features.smiles_tokenizer import VOCABULARIES, one_line, require_package
from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.backend.files import sha256_of

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_TIMEOUT_S = 5.0
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
REMEDY = "give a local folder with the weights (--molecules FOLDER) or use --molecules morgan"
SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLE_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def model_folder(name: str, local_files_only: bool = False) -> Path:
    """Return the folder of a model, with configuration, weights and tokenizer.

    The hub is asked for a hub id only, and not where `local_files_only` is set or the environment says
    HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE: then its local cache alone counts.

    Raises
    ------
    InputError
        The folder does not exist or lacks a file.
    UnavailableError
        The hub's files cannot be had.
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


def needed_files(files: Sequence[str]) -> list[str]:
    """Choose the files of a model that count: top level, weights as safetensors or else as pickle."""
    top = [file for file in files if "/" not in file]
    suffix = ".safetensors" if any(file in SAFE_WEIGHTS for file in top) else ".bin"
    return [
        file
        for file in top
        if file.endswith((".json", ".txt", ".model"))
        or (file.endswith(suffix) and file.startswith(("model", "pytorch_model")))
    ]


def content_hash(folder: Path) -> str:
    """Return the SHA-256 over names and contents of a model's `needed_files`, 64 hexadecimal digits.

    Two folders have the same hash where they hold the same configuration, weights and tokenizer, wherever
    they lie and however they are called.
    """
    total = hashlib.sha256()
    names = needed_files(sorted(path.name for path in folder.iterdir() if path.is_file()))
    for name in names:
        total.update(f"{name}\0{sha256_of(folder / name)}\n".encode())
    return total.hexdigest()


def _fetch(name: str, local_files_only: bool) -> Path:
    """Return the local snapshot of a hub id: from the hub within `HUB_TIMEOUT_S`, else from its cache.

    The first question to the hub carries a time limit and is asked once; huggingface_hub's own file downloads
    repeat theirs for 23 s where there is no network.
    """
    hub = require_package("huggingface_hub")
    offline = local_files_only or _is_offline(hub)
    reason: Exception | None = None
    if not offline:
        try:
            found = hub.HfApi().model_info(name, timeout=HUB_TIMEOUT_S)
            files = needed_files([entry.rfilename for entry in found.siblings or []])
            return Path(hub.snapshot_download(name, allow_patterns=files))
        except Exception as error:  # no network, no such model, a private one: the cache is the last chance
            reason = error
    try:
        return Path(hub.snapshot_download(name, local_files_only=True, allow_patterns=["config.json"]))
    except Exception as error:
        why = "the hub is not asked: offline mode" if offline else one_line(reason or error)
        raise UnavailableError(
            f"--molecules {name}: its weights are not on this machine and cannot be fetched ({why}); {REMEDY}"
        ) from (reason or error)


def _is_offline(hub: Any) -> bool:
    """Say whether the environment, now or when huggingface_hub was imported, keeps it off the network."""
    said = {os.environ.get(variable, "").upper() for variable in OFFLINE_VARIABLES}
    return bool(hub.constants.HF_HUB_OFFLINE or said & {"1", "ON", "YES", "TRUE"})
