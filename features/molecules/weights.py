"""Weights of language models: where they are, the hash that names them, and a reading that believes none of them.

    RAPIDS_PERTURB_WEIGHTS=FOLDER[:FOLDER…]     weights that their user trusts, besides what --molecules names

Weights come from strangers, and a saved model or a recipe that names weights may, too. So

- only regular files at the top of the folder count, and no link of theirs leads out of it (the hub's cache links from
  its snapshots to its blobs);
- transformers never sees the folder. It is given `believed` copies of the small files, without what names code,
  files, places or repositories; tensors are read here, from safetensors, or from a pickle that may hold tensors only;
- the memory that config.json asks for is bounded by what the tensors have;
- a saved model knows the hash of the weights it was trained with, and reads new compounds with no others (`recorded`).

Nothing of this opens a connection but `model_folder`, for a hub id that the user or this program named.
"""

import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from features.molecules import DEFAULT_CHEMBERTA, WEIGHTS_VARIABLE, reads_structures, trusted_weights
from features.molecules.smiles import VOCABULARIES, loaded, one_line, require_package
from rapids_pipeline.backend.errors import InputError, PerturbError, UnavailableError
from rapids_pipeline.backend.files import sha256_of

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_TIMEOUT_S = 5.0
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
REMEDY = "give a local folder with the weights (--molecules FOLDER) or use --molecules morgan"
SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLE_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json")

CONFIG, TOKENIZER_CONFIG, SPECIAL_TOKENS = "config.json", "tokenizer_config.json", "special_tokens_map.json"
AS_THEY_ARE = (*VOCABULARIES, "merges.txt", "added_tokens.json")
"""Small files of vocabularies, which name nothing."""
LARGEST_TEXT = 64 * 2**20
"""Bytes of a small file."""
TOO_MUCH = 4
"""How many times as many numbers as the tensors have config.json may ask for; and `SPARE` more."""
SPARE = 2**24

PLACE = re.compile(r"[/\\:~$%]|\.\.|\x00")
"""What a string has that may name a file, a repository or a variable."""
NEVER = re.compile(
    r"_.*|auto_map|name_or_path|base_model.*|trust_remote_code|revision|gguf_file|init_inputs|vocab|merges|from_slow"
    r"|.*_files?|.*_paths?|.*_templates?|custom_.*|.*implementation|.*kernel.*|adapter.*|transformers_weights"
    r"|sp_model_kwargs|tokenizer_object|.*_config|tools|local_files_only|is_local|subfolder|token|cache_dir"
)
"""Settings of a configuration or of a tokenizer that name code, files or repositories, or other settings."""
TOKENS = re.compile(r".*_tokens?|added_tokens_decoder")
"""Settings that are tokens: texts in which anything may stand."""


def model_folder(name: str, ask_hub: bool = True) -> Path:
    """Return the folder of a model, with configuration, weights and tokenizer.

    The hub is asked for a hub id only, and not where `ask_hub` is false or the environment says HF_HUB_OFFLINE or
    TRANSFORMERS_OFFLINE: then its local cache alone counts.

    Raises
    ------
    InputError
        The folder does not exist or lacks a file.
    UnavailableError
        The hub's files cannot be had.
    """
    try:
        folder = Path(name).expanduser()
        found = folder.is_dir()
    except (ValueError, OSError, RuntimeError):  # a NUL, too long for a file, a home of nobody
        raise InputError(f"--molecules {name[:80]!r}: no name of a folder") from None
    if not found:
        if not HUB_ID.fullmatch(name):
            raise InputError(f"--molecules {name}: no such folder, and no hub id (organisation/model)")
        folder = _fetch(name, ask_hub)
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder}: not a model folder, config.json is missing")
    for kind, files in (("weights are", SAFE_WEIGHTS + PICKLE_WEIGHTS), ("tokenizer is", VOCABULARIES)):
        if not any((folder / file).is_file() for file in files):
            raise InputError(f"{folder}: the {kind} missing; expected one of {', '.join(files)}")
    return folder


def chosen_encoder(name: str) -> tuple[str, str]:
    """Return the encoder (or `NONE`, or a table of embeddings) that `--molecules` means, and in words why.

    "auto" takes "chemberta" where PyTorch, transformers and the weights are on this machine (the network is not
    asked), and "morgan" elsewhere. Errors for other names as `molecule_encoder`.
    """
    if name != "auto":
        from features.molecules.encoders import molecule_encoder

        if reads_structures(name):
            molecule_encoder(name)  # is there such a one?
        return name, "asked for"
    missing = [package for package in ("torch", "transformers") if find_spec(package) is None]
    if missing:
        return "morgan", f"auto: ChemBERTa needs {' and '.join(missing)}; pip install '.[chemberta]'"
    try:
        model_folder(DEFAULT_CHEMBERTA, ask_hub=False)
    except PerturbError:
        return "morgan", "auto: the weights of ChemBERTa are not here; --molecules chemberta fetches them"
    return "chemberta", "auto: its weights are on this machine"


def recorded(name: str, sha256: str) -> Path:
    """Return the folder of the weights that a saved model was trained with.

    Parameters
    ----------
    name : str
        Of the encoder, as the saved model has it: "chemberta", a folder, or a hub id. The hub is asked for the first
        alone; weights that only a saved model names are read, never fetched.
    sha256 : str
        `content_hash` of the weights at training. Those of `RAPIDS_PERTURB_WEIGHTS` are looked through first.

    Raises
    ------
    UnavailableError
        No folder has this hash; the message names those that were looked at.
    """
    own = name == "chemberta"
    said = []
    for place in [*trusted_weights(), DEFAULT_CHEMBERTA if own else name]:
        try:
            folder = model_folder(place, ask_hub=own and place == DEFAULT_CHEMBERTA)
            found = content_hash(folder)
        except (InputError, UnavailableError) as error:
            said.append(one_line(error, kind=False))
            continue
        if found == sha256:
            return folder
        said.append(f"{folder} has other weights (sha256 {found[:12]})")
    raise UnavailableError(
        f"the weights of {name[:60]!r} that it was trained with (sha256 {sha256[:12]}) are not to be had: "
        f"{'; '.join(said)[:200]}; set {WEIGHTS_VARIABLE}=FOLDER to the folder that has them"
    )


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


def files_of(folder: Path) -> dict[str, Path]:
    """Return a model's `needed_files` by name, sorted; InputError for one that is no regular file, or too large."""
    home = folder.resolve()
    homes = [home, *([home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [])]
    found = {name: folder / name for name in needed_files(sorted(path.name for path in folder.iterdir()))}
    for name, path in found.items():
        try:
            real = path.resolve(strict=True)
            regular = stat.S_ISREG(real.lstat().st_mode)
            size = real.stat().st_size
        except (OSError, RuntimeError):  # a link to nowhere, or in a circle
            regular, size = False, 0
        if not regular or not any(real.is_relative_to(place) for place in homes):
            raise InputError(
                f"{folder}: {name} is no regular file of this folder; copy the weights with their links followed "
                "(cp -rL)"
            )
        if size > LARGEST_TEXT and path.suffix not in (".safetensors", ".bin"):
            raise InputError(
                f"{path}: has {size} bytes, more than the {LARGEST_TEXT} that such a file may have"
            )
    return found


def content_hash(folder: Path) -> str:
    """Return the SHA-256 over names and contents of a model's `needed_files`, 64 hexadecimal digits.

    Two folders have the same hash where they hold the same configuration, weights and tokenizer, wherever
    they lie and however they are called.
    """
    total = hashlib.sha256()
    for name, path in files_of(folder).items():
        total.update(f"{name}\0{_hash(path)}\n".encode())
    return total.hexdigest()


def _hash(path: Path) -> str:
    """Return the SHA-256 of a file; InputError where it may not be read."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise InputError(_unreadable(path, error)) from None


def _unreadable(path: Path, error: OSError) -> str:
    why = error.strerror or error
    return f"{path}: cannot be read ({why}); change its permissions, or copy the weights to a folder of yours"


# --- What is believed -------------------------------------------------------------------------------------------


@contextmanager
def believed(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder with a model's configuration and tokenizer, for libraries to read.

    Raises
    ------
    InputError
        A file cannot be read, is too large, no JSON, or asks for what is not done: quantised weights, an architecture
        that comes as code.
    UnavailableError
        There is no room for temporary files.
    """
    files = files_of(folder)
    content: dict[str, bytes] = {name: _content(files[name]) for name in AS_THEY_ARE if name in files}
    content[CONFIG] = _json(_configuration(folder, _parsed(files[CONFIG])))
    if TOKENIZER_CONFIG in files:
        content[TOKENIZER_CONFIG] = _json(_harmless(_parsed(files[TOKENIZER_CONFIG])))
    if SPECIAL_TOKENS in files:
        named = _parsed(files[SPECIAL_TOKENS])
        content[SPECIAL_TOKENS] = _json({key: value for key, value in named.items() if TOKENS.fullmatch(key)})
    try:
        place = tempfile.TemporaryDirectory(prefix="weights-")
        for name, text in content.items():
            Path(place.name, name).write_bytes(text)
    except OSError as error:
        raise UnavailableError(
            f"{folder}: no temporary copies of its small files can be made ({error.strerror or error}); set TMPDIR to "
            "a folder with some room"
        ) from error
    with place as name:
        yield Path(name)


def _configuration(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return config.json without what leads elsewhere; InputError for what is not done."""
    if settings.get("quantization_config"):
        raise InputError(f"{folder}: config.json: quantised weights are not read; take the model without")
    known, kind = require_package("transformers").CONFIG_MAPPING, settings.get("model_type")
    if not isinstance(kind, str) or kind not in known:
        code = "; it comes as code (auto_map), which is never run" if "auto_map" in settings else ""
        raise InputError(
            f"{folder}: config.json: model_type {str(kind)[:40]!r} is no architecture of transformers{code}; use "
            "another model, or --molecules morgan"
        )
    return _harmless(settings)


def _harmless(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without those that name code, files or places."""
    return {
        key: value
        for key, value in settings.items()
        if TOKENS.fullmatch(key) or _is_number(value) or not (NEVER.fullmatch(key) or _leads_elsewhere(value))
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _leads_elsewhere(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_leads_elsewhere(one) for pair in value.items() for one in pair)
    if isinstance(value, list):
        return any(map(_leads_elsewhere, value))
    return isinstance(value, str) and PLACE.search(value) is not None


def _content(path: Path) -> bytes:
    """Return the bytes of a file; InputError where it may not be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(_unreadable(path, error)) from None


def _parsed(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_content(path).decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no usable JSON ({one_line(error)})") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: no JSON object")
    return found


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode()


# --- Tensors ----------------------------------------------------------------------------------------------------


def read_encoder(place: Path, folder: Path) -> Any:
    """Return the encoder of a folder whose small files are copied to `place`, a torch module in eval mode, float32.

    Raises
    ------
    InputError
        The weights are broken or not of the configuration, or a weight that embeddings need is missing.
    """
    transformers, torch = require_package("transformers"), require_package("torch")
    auto = transformers.AutoConfig.from_pretrained
    config = loaded(auto, str(place), folder, "weights", local_files_only=True, trust_remote_code=False)
    if config.is_encoder_decoder or not hasattr(config, "hidden_size"):
        raise InputError(f"{folder}: a {config.model_type} model is no encoder of single sequences")
    tensors = read_tensors(folder)
    _require_bounds(config, tensors, folder)
    with torch.device("meta"):  # shapes alone
        shapes = loaded(transformers.AutoModel.from_config, config, folder, "weights")
    asked = sum(tensor.numel() for tensor in shapes.parameters())
    if asked > TOO_MUCH * sum(tensor.numel() for tensor in tensors.values()) + SPARE:
        raise InputError(
            f"{folder}: config.json asks for {asked} numbers, far more than the weights have; they do not belong "
            "together"
        )
    options = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # reported below, by name
    load = type(shapes).from_pretrained
    encoder, info = loaded(load, None, folder, "weights", config=config, state_dict=tensors, **options)
    lacking = {*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])}
    used = sorted(key for key in lacking if not key.startswith("pooler."))  # no pooling here goes through it
    if used:
        raise InputError(
            f"{folder}: {len(used)} weights of the encoder are not in the checkpoint, or in another shape "
            f"({used[0]}, ...), and would be random; do config.json and the weights belong together?"
        )
    return encoder.float().eval()


def _require_bounds(config: Any, tensors: Mapping[str, Any], folder: Path) -> None:
    """Raise InputError where a configuration has more layers than there are tensors: building them would not end."""
    layers = getattr(config, "num_hidden_layers", 0)
    if not isinstance(layers, int) or layers > len(tensors):
        raise InputError(
            f"{folder}: config.json asks for {str(layers)[:20]} layers, and the weights have {len(tensors)} tensors; "
            "they do not belong together"
        )


def read_tensors(folder: Path) -> dict[str, Any]:
    """Return the tensors of a folder by name; InputError where its files hold anything else, or an index leads out."""
    files = files_of(folder)
    first = next(name for name in SAFE_WEIGHTS + PICKLE_WEIGHTS if name in files)
    names = [first]
    if first.endswith(".json"):
        shards = _parsed(files[first]).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise InputError(f"{folder}: {first} names no weights")
        names = sorted({str(shard) for shard in shards.values()})
        elsewhere = [name for name in names if name not in files or files[name].suffix == ".json"]
        if elsewhere:
            raise InputError(
                f"{folder}: {first} names {elsewhere[0][:80]!r}, which is no file of weights in this folder"
            )
    found: dict[str, Any] = {}
    for name in names:
        found |= loaded(_tensors_in, files[name], folder, "weights")
    return found


def _tensors_in(path: Path) -> dict[str, Any]:
    torch = require_package("torch")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    found = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in found.items()
    ):
        raise ValueError(f"{path.name} holds something besides named tensors")
    return dict(found)


# --- The hub ----------------------------------------------------------------------------------------------------


def _fetch(name: str, ask_hub: bool) -> Path:
    """Return the local snapshot of a hub id: from the hub within `HUB_TIMEOUT_S`, else from its cache.

    The first question to the hub carries a time limit and is asked once; huggingface_hub's own file downloads
    repeat theirs for 23 s where there is no network.
    """
    hub = require_package("huggingface_hub")
    offline = not ask_hub or _is_offline(hub)
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
