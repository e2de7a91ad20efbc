"""The files of a language model: their hash, offline mode, and what is broken in them."""

import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("rdkit")

from features.molecules import language_model
from features.molecules.encoders import ChemBERTaEncoder
from features.molecules.language_model import content_hash, model_folder
from rapids_pipeline.backend.errors import InputError, UnavailableError


def test_the_content_hash_is_of_contents_and_names(roberta_folder, tmp_path):
    folder = Path(shutil.copytree(roberta_folder, tmp_path / "copy"))
    before = content_hash(folder)
    assert before == content_hash(roberta_folder)
    (folder / "training_args.bin").write_bytes(b"not read by anything here")
    assert content_hash(folder) == before
    (folder / "config.json").rename(folder / "other.json")
    assert content_hash(folder) != before
    (folder / "other.json").rename(folder / "config.json")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.5}))
    assert content_hash(folder) != before


@pytest.fixture
def questions(monkeypatch):
    """Hosts that anything in this process wants to reach; none is reached."""
    asked = []

    def refuse(host, *_, **__):
        asked.append(host)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: refuse(address))
    return asked


@pytest.mark.parametrize("offline", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "local_files_only", None])
def test_offline_means_that_the_hub_is_not_asked(offline, questions, monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for variable in language_model.OFFLINE_VARIABLES:
        monkeypatch.setenv(variable, "1" if variable == offline else "0")
    with pytest.raises(
        UnavailableError, match="organisation/model: its weights are not on this machine"
    ) as caught:
        model_folder("organisation/model", local_files_only=offline == "local_files_only")
    assert bool(questions) == (offline is None)  # asked where it may be: the test can fail
    assert ("offline mode" in str(caught.value)) == (offline is not None)
    assert "--molecules FOLDER" in str(caught.value)


def test_offline_a_model_in_the_local_cache_is_used(roberta_folder, questions, monkeypatch, tmp_path):
    import huggingface_hub

    cached = tmp_path / "models--organisation--model"
    shutil.copytree(roberta_folder, cached / "snapshots" / ("0" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = (
        ChemBERTaEncoder("organisation/model", cache=None)
        .fit(["CCO", "CC(=O)O"])
        .transform(["CCO", "CC(=O)O"])
    )
    np.testing.assert_array_equal(
        rows,
        ChemBERTaEncoder(str(roberta_folder), cache=None)
        .fit(["CCO", "CC(=O)O"])
        .transform(["CCO", "CC(=O)O"]),
    )
    assert questions == []


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("vocab.txt", b"C\n\xff\xfe", "vocab.txt: not UTF-8 text"),
        ("special_tokens_map.json", b"{", "special_tokens_map.json: not a map of special tokens"),
        ("special_tokens_map.json", b"[1]", "special_tokens_map.json: not a map of special tokens"),
        (
            "special_tokens_map.json",
            b'{"pad_token": "[NO]"}',
            r"special token \[NO\] is not in the vocabulary",
        ),
    ],
)
def test_broken_files_of_a_smiles_vocabulary_are_named(rxn_folder, tmp_path, file, content, message):
    folder = Path(shutil.copytree(rxn_folder, tmp_path / "copy"))
    (folder / file).write_bytes(content)
    with pytest.raises(InputError, match=message):
        ChemBERTaEncoder(str(folder)).load()
