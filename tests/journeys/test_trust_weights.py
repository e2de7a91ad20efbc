"""Weights from a stranger: attacks on what reads them, each refused in one line or without effect."""

import io
import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("rdkit")

from safetensors.torch import load_file, save_file  # noqa: E402

from features.molecules.language_model import embed, load_language_model  # noqa: E402
from features.molecules.weights import PICKLE_WEIGHTS, SAFE_WEIGHTS  # noqa: E402
from rapids_pipeline.backend.errors import PerturbError  # noqa: E402
from tests.journeys.watched import PAYLOAD, SECRET, Bomb, code, secrets, watching  # noqa: E402
from tests.smiles_models import roberta_folder  # noqa: E402, F401 (a fixture)

HARMLESS, REFUSED, EITHER = "harmless", "refused", "either"
WEIGHTS = "model.safetensors"
HUB = "pwned-organisation/pwned-model"


@pytest.fixture
def place(roberta_folder, tmp_path):  # noqa: F811 (the fixture)
    """A copy of a small model, and beside it what it must not lead to."""
    secrets(tmp_path)
    return Path(shutil.copytree(roberta_folder, tmp_path / "weights"))


@pytest.fixture(scope="module")
def expected(roberta_folder):  # noqa: F811 (the fixture)
    """The embeddings of the model before anything was changed; what is imported late is imported now."""
    return embed(load_language_model(str(roberta_folder)), ["CCO", "c1ccccc1"])


def settings(place, file, **changes):
    """Change settings of a JSON file of the folder."""
    path = place / file
    found = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(found | changes))


def module(place):
    """Put a module beside the weights that tells when it is run."""
    for name in (f"{PAYLOAD}.py", "__init__.py", "sitecustomize.py", "conftest.py"):
        (place / name).write_text(code(place))


def vocabulary(place):
    """Turn the tokenizer into files of a vocabulary and merges, as older models have them."""
    model = json.loads((place / "tokenizer.json").read_text())["model"]
    (place / "tokenizer.json").unlink()
    (place / "vocab.json").write_text(json.dumps(model["vocab"]))
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (place / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs))
    settings(place, "tokenizer_config.json", tokenizer_class="RobertaTokenizer")


def linked(place, name, target):
    """Put a link in a file's place."""
    (place / name).unlink()
    (place / name).symlink_to(target)


def indexed(place, shard):
    """Name the weights by an index."""
    tensors = load_file(place / WEIGHTS)
    (place / WEIGHTS).rename(place / "model-1.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, shard)}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))


def header(place, text, data=b""):
    """Write a safetensors file of a header and data."""
    (place / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data)


def replaced(place, **entry):
    """Change what the header of the weights says of the first array."""
    content = (place / WEIGHTS).read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    found = json.loads(content[8 : 8 + size])
    first = next(name for name in found if name != "__metadata__")
    found[first] |= entry
    header(place, json.dumps(found).encode(), content[8 + size :])


def pickled(place, thing, file=PICKLE_WEIGHTS[0]):
    """Write a pickle in the weights' place."""
    (place / WEIGHTS).unlink()
    (place / file).write_bytes(thing)


def saved(thing):
    """Return what torch.save writes."""
    stream = io.BytesIO()
    torch.save(thing, stream)
    return stream.getvalue()


def adapter(place, base):
    (place / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(base)})
    )


def fifo(place, name):
    (place / name).unlink(missing_ok=True)
    os.mkfifo(place / name)


def cached(place):
    """Lay the folder out as the hub's cache does: links from a snapshot to blobs."""
    repository = place.parent / "models--organisation--model"
    snapshot, blobs = repository / "snapshots" / ("0" * 40), repository / "blobs"
    snapshot.mkdir(parents=True), blobs.mkdir()
    for number, path in enumerate(sorted(place.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    place.rmdir()
    place.symlink_to(snapshot)


DEEP = "[" * 200_000
AUTO = {"AutoConfig": f"{PAYLOAD}.C", "AutoModel": f"{PAYLOAD}.M", "AutoTokenizer": [f"{PAYLOAD}.T", None]}
REMOTE = dict.fromkeys(("AutoConfig", "AutoModel"), f"{HUB}--{PAYLOAD}.C")

ATTACKS = {
    # code
    "auto_map of an unknown architecture": (
        REFUSED,
        lambda p: (module(p), settings(p, "config.json", model_type="mine", auto_map=AUTO)),
    ),
    "auto_map of a known architecture": (
        HARMLESS,
        lambda p: (module(p), settings(p, "config.json", auto_map=AUTO)),
    ),
    "auto_map of another repository": (HARMLESS, lambda p: settings(p, "config.json", auto_map=REMOTE)),
    "auto_map of the tokenizer": (
        HARMLESS,
        lambda p: (module(p), settings(p, "tokenizer_config.json", auto_map=AUTO)),
    ),
    "trust_remote_code in the configuration": (
        HARMLESS,
        lambda p: (
            module(p),
            settings(p, "config.json", trust_remote_code=True, auto_map=AUTO),
            settings(p, "tokenizer_config.json", trust_remote_code=True, auto_map=AUTO),
        ),
    ),
    "custom_pipelines and custom_generate": (
        HARMLESS,
        lambda p: (
            module(p),
            settings(p, "config.json", custom_pipelines={"x": {"impl": f"{PAYLOAD}.P"}}),
            (p / "custom_generate").mkdir(),
            (p / "custom_generate" / "generate.py").write_text(code(p)),
        ),
    ),
    "attn_implementation of a repository": (
        HARMLESS,
        lambda p: settings(p, "config.json", attn_implementation=HUB, _attn_implementation=HUB),
    ),
    "experts and kernels of a repository": (
        HARMLESS,
        lambda p: settings(
            p, "config.json", experts_implementation=HUB, use_kernels=True, kernel_config={"a": HUB}
        ),
    ),
    "chat template that leaves its sandbox": (
        HARMLESS,
        lambda p: (
            settings(
                p, "tokenizer_config.json", chat_template="{{ cycler.__init__.__globals__.os.system('id') }}"
            ),
            (p / "chat_template.jinja").write_text("{{ lipsum.__globals__['os'].popen('id').read() }}"),
        ),
    ),
    "class of the tokenizer from a module": (
        EITHER,
        lambda p: (module(p), settings(p, "tokenizer_config.json", tokenizer_class=f"{PAYLOAD}.T")),
    ),
    "modules beside the weights": (HARMLESS, module),
    "pickle that runs code": (REFUSED, lambda p: pickled(p, pickle.dumps(Bomb(p)))),
    "torch file that runs code": (REFUSED, lambda p: pickled(p, saved({"a": Bomb(p)}))),
    "torch file of a module": (REFUSED, lambda p: pickled(p, saved(torch.nn.Linear(2, 2)))),
    "torch file of no tensors": (REFUSED, lambda p: pickled(p, saved({"a": [1, "b"]}))),
    "pickle that is called safetensors": (
        REFUSED,
        lambda p: (p / WEIGHTS).write_bytes(pickle.dumps(Bomb(p))),
    ),
    "pickle beside safetensors": (
        HARMLESS,
        lambda p: (p / PICKLE_WEIGHTS[0]).write_bytes(pickle.dumps(Bomb(p))),
    ),
    "other pickles at the top": (
        HARMLESS,
        lambda p: [
            (p / n).write_bytes(pickle.dumps(Bomb(p))) for n in ("training_args.bin", "optimizer.pt", "a.pkl")
        ],
    ),
    # places outside
    "index that names ../": (REFUSED, lambda p: indexed(p, "../outside/model.safetensors")),
    "index that names an absolute path": (REFUSED, lambda p: indexed(p, str(p.parent / "outside" / WEIGHTS))),
    "index that names a NUL": (REFUSED, lambda p: indexed(p, "model-1.safetensors\0.txt")),
    "index that names its configuration": (REFUSED, lambda p: indexed(p, "config.json")),
    "index of lists": (REFUSED, lambda p: indexed(p, ["model-1.safetensors"])),
    "index of a subfolder": (
        REFUSED,
        lambda p: (
            (p / "sub").mkdir(),
            shutil.copy(p / WEIGHTS, p / "sub" / WEIGHTS),
            indexed(p, f"sub/{WEIGHTS}"),
        ),
    ),
    "index of pickles that runs code": (
        REFUSED,
        lambda p: (
            pickled(p, saved({"a": Bomb(p)}), "pytorch_model-1.bin"),
            (p / PICKLE_WEIGHTS[1]).write_text(json.dumps({"weight_map": {"a": "pytorch_model-1.bin"}})),
        ),
    ),
    "index of no shards": (REFUSED, lambda p: (indexed(p, "x"), settings(p, SAFE_WEIGHTS[1], weight_map={}))),
    "link of the weights to outside": (REFUSED, lambda p: linked(p, WEIGHTS, f"../outside/{WEIGHTS}")),
    "link of the configuration to outside": (
        REFUSED,
        lambda p: linked(p, "config.json", p.parent / "outside" / "secret.json"),
    ),
    "link of the tokenizer to outside": (
        REFUSED,
        lambda p: linked(p, "tokenizer.json", "../outside/tokenizer.json"),
    ),
    "link in a circle": (REFUSED, lambda p: linked(p, "tokenizer_config.json", "tokenizer_config.json")),
    "link to a device": (REFUSED, lambda p: linked(p, WEIGHTS, "/dev/zero")),
    "link to another file of the folder": (
        HARMLESS,
        lambda p: ((p / WEIGHTS).rename(p / "real"), (p / WEIGHTS).symlink_to("real")),
    ),
    "links of the hub's cache": (HARMLESS, cached),
    "pipe as the configuration": (REFUSED, lambda p: fifo(p, "config.json")),
    "pipe as a further file": (REFUSED, lambda p: fifo(p, "extra.json")),
    "pipe as the weights": (REFUSED, lambda p: fifo(p, WEIGHTS)),
    "folder as the weights": (REFUSED, lambda p: ((p / WEIGHTS).unlink(), (p / WEIGHTS).mkdir())),
    "vocab_file of tokenizer_config.json": (
        EITHER,
        lambda p: (
            vocabulary(p),
            settings(p, "tokenizer_config.json", vocab_file=str(p.parent / "outside" / "vocab.txt")),
        ),
    ),
    "tokenizer_file of tokenizer_config.json": (
        EITHER,
        lambda p: (
            vocabulary(p),
            settings(p, "tokenizer_config.json", tokenizer_file=str(p.parent / "outside" / "tokenizer.json")),
        ),
    ),
    "vocab_file of special_tokens_map.json": (
        EITHER,
        lambda p: (
            vocabulary(p),
            settings(
                p,
                "special_tokens_map.json",
                vocab_file=str(p.parent / "outside" / "vocab.txt"),
                merges_file=str(p.parent / "outside" / "vocab.txt"),
                tokenizer_file=str(p.parent / "outside" / "tokenizer.json"),
            ),
        ),
    ),
    "fast_tokenizer_files that lead out": (
        HARMLESS,
        lambda p: (
            (p.parent / "outside" / "tokenizer.4.0.0.json").write_text(SECRET),
            settings(p, "tokenizer_config.json", fast_tokenizer_files=["../outside/tokenizer.4.0.0.json"]),
        ),
    ),
    "vocab and merges as paths": (
        HARMLESS,
        lambda p: settings(
            p,
            "tokenizer_config.json",
            vocab=str(p.parent / "outside" / "vocab.txt"),
            merges=str(p.parent / "outside" / "vocab.txt"),
        ),
    ),
    "init_inputs of paths": (
        HARMLESS,
        lambda p: settings(p, "tokenizer_config.json", init_inputs=[str(p.parent / "outside" / "vocab.txt")]),
    ),
    "gguf_file that leads out": (
        HARMLESS,
        lambda p: [
            settings(p, file, gguf_file="../outside/secret.json")
            for file in ("config.json", "tokenizer_config.json")
        ],
    ),
    "name_or_path of a repository": (
        HARMLESS,
        lambda p: [
            settings(p, file, name_or_path=HUB, _name_or_path=HUB, _commit_hash="0" * 40)
            for file in ("config.json", "tokenizer_config.json")
        ],
    ),
    "transformers_weights that leads out": (
        HARMLESS,
        lambda p: settings(p, "config.json", transformers_weights=f"../outside/{WEIGHTS}"),
    ),
    "adapter of a folder outside": (HARMLESS, lambda p: adapter(p, p.parent / "outside")),
    "adapter of a repository": (HARMLESS, lambda p: adapter(p, HUB)),
    "quantised by a library": (
        REFUSED,
        lambda p: settings(p, "config.json", quantization_config={"quant_method": "bitsandbytes"}),
    ),
    # headers
    "header beyond the file": (REFUSED, lambda p: header(p, b"{}" + b" " * 8, b"")),
    "header of 2^62 bytes": (REFUSED, lambda p: (p / WEIGHTS).write_bytes(struct.pack("<Q", 2**62) + b"{}")),
    "header that is no JSON": (REFUSED, lambda p: header(p, b"\xff" * 64)),
    "header of deep nesting": (REFUSED, lambda p: header(p, DEEP.encode())),
    "offsets beyond the file": (REFUSED, lambda p: replaced(p, data_offsets=[0, 2**40])),
    "offsets that overlap": (REFUSED, lambda p: replaced(p, data_offsets=[8, 72])),
    "offsets that are negative": (REFUSED, lambda p: replaced(p, data_offsets=[-8, 64])),
    "shape of 2^62 numbers": (REFUSED, lambda p: replaced(p, shape=[2**62, 4])),
    "type of none": (REFUSED, lambda p: replaced(p, dtype="PICKLE")),
    "type of another width": (REFUSED, lambda p: replaced(p, dtype="F64")),
    "array named twice": (
        REFUSED,
        lambda p: header(
            p,
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            bytes(4),
        ),
    ),
    "empty weights": (REFUSED, lambda p: save_file({}, p / WEIGHTS)),
    # JSON
    "configuration of deep nesting": (REFUSED, lambda p: (p / "config.json").write_text(DEEP)),
    "configuration with a huge number": (
        REFUSED,
        lambda p: (p / "config.json").write_text(
            '{"model_type": "roberta", "vocab_size": ' + "9" * 5000 + "}"
        ),
    ),
    "configuration with NaN": (
        EITHER,
        lambda p: settings(p, "config.json", hidden_dropout_prob=float("nan"), layer_norm_eps=float("nan")),
    ),
    "configuration that is a list": (REFUSED, lambda p: (p / "config.json").write_text("[1]")),
    "configuration that is no text": (REFUSED, lambda p: (p / "config.json").write_bytes(b"\xff\xfe\0")),
    "configuration that is sparse and huge": (REFUSED, lambda p: os.truncate(p / "config.json", 2**36)),
    "vocabulary that is sparse and huge": (REFUSED, lambda p: os.truncate(p / "tokenizer.json", 2**30)),
    "tokenizer of deep nesting": (REFUSED, lambda p: (p / "tokenizer.json").write_text(DEEP)),
    "tokenizer of another kind": (REFUSED, lambda p: (p / "tokenizer.json").write_text('{"version": "1.0"}')),
    "added token of number 10^12": (
        EITHER,
        lambda p: (vocabulary(p), (p / "added_tokens.json").write_text(json.dumps({"<x>": 10**12}))),
    ),
    "special tokens that are numbers": (
        EITHER,
        lambda p: settings(p, "special_tokens_map.json", unk_token=3, pad_token={"content": 4}),
    ),
    # memory and time
    "10^9 layers": (REFUSED, lambda p: settings(p, "config.json", num_hidden_layers=10**9)),
    "layers in words": (REFUSED, lambda p: settings(p, "config.json", num_hidden_layers="9" * 9)),
    "10^12 tokens": (REFUSED, lambda p: settings(p, "config.json", vocab_size=10**12)),
    "hidden states of 48 million numbers": (
        REFUSED,
        lambda p: settings(p, "config.json", hidden_size=48 * 10**6),
    ),
    "positions that there are not": (
        REFUSED,
        lambda p: settings(p, "config.json", max_position_embeddings=2),
    ),
    "no token types": (REFUSED, lambda p: settings(p, "config.json", type_vocab_size=0)),
    "architecture of images": (REFUSED, lambda p: settings(p, "config.json", model_type="clip")),
    "architecture that is a path": (REFUSED, lambda p: settings(p, "config.json", model_type="../outside")),
    "activation that is code": (REFUSED, lambda p: settings(p, "config.json", hidden_act="os.system")),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_weights_execute_nothing_read_nothing_outside_and_reach_nothing(attack, place, expected, monkeypatch):
    outcome, change = ATTACKS[attack]
    change(place)
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    error = None
    with watching(place.parent / "outside", place.parent):
        try:
            found = embed(load_language_model(str(place)), ["CCO", "c1ccccc1"])
        except PerturbError as refused:
            error = str(refused)
    if error is not None:
        assert outcome in (REFUSED, EITHER), error
        assert SECRET not in error and str(place) in error and len(error) <= 500 and "\n" not in error
    else:
        assert outcome in (HARMLESS, EITHER), "it was loaded"
        if outcome == HARMLESS:
            assert (found == expected).all()
