"""Weights: which files are believed and what of them, and where those of a saved model are looked for.

Attacks on them are in tests/journeys/test_trust_weights.py.
"""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from features.molecules import WEIGHTS_VARIABLE
from features.molecules.weights import believed, content_hash, files_of, read_tensors, recorded
from rapids_pipeline.backend.errors import InputError, UnavailableError


def test_what_is_believed_are_numbers_words_and_tokens(roberta_copy):
    config = json.loads((roberta_copy / "config.json").read_text())
    places = {
        "a": "x/y",
        "b": ["c:\\d"],
        "e": {"f": "~"},
        "auto_map": {},
        "_name_or_path": "x",
        "kernel_size": 3,
    }
    (roberta_copy / "config.json").write_text(
        json.dumps(config | places | {"words": "kept", "list": [1, "two"]})
    )
    tokens = {
        "unk_token": "</?>",
        "added_tokens_decoder": {"9": {"content": "a/b"}},
        "vocab_file": "x",
        "x_path": "y",
    }
    (roberta_copy / "tokenizer_config.json").write_text(json.dumps(tokens))
    with believed(roberta_copy) as place:
        assert sorted(path.name for path in place.iterdir()) == [
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
        found = json.loads((place / "config.json").read_text())
        left = {key: value for key, value in config.items() if not key.startswith("_")}
        assert found == left | {"kernel_size": 3, "words": "kept", "list": [1, "two"]}
        kept = json.loads((place / "tokenizer_config.json").read_text())
        assert kept.keys() == {"unk_token", "added_tokens_decoder"}
    assert not place.exists()


def test_without_a_temporary_folder_the_variable_is_named(roberta_copy, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(roberta_copy / "none"))
    with (
        pytest.raises(UnavailableError, match="set TMPDIR to a folder with some room"),
        believed(roberta_copy),
    ):
        pass


def test_shards_are_read_together(roberta_copy):
    from safetensors.torch import load_file, save_file

    whole = load_file(roberta_copy / "model.safetensors")
    (roberta_copy / "model.safetensors").unlink()
    parts = {"model-1.safetensors": list(whole)[:10], "model-2.safetensors": list(whole)[10:]}
    for name, keys in parts.items():
        save_file({key: whole[key] for key in keys}, roberta_copy / name)
    index = {"weight_map": {key: name for name, keys in parts.items() for key in keys}}
    (roberta_copy / "model.safetensors.index.json").write_text(json.dumps(index))
    found = read_tensors(roberta_copy)
    assert found.keys() == whole.keys() and all((found[key] == whole[key]).all() for key in whole)


def test_weights_are_found_by_their_hash(roberta_copy, tmp_path, monkeypatch):
    digest, other = content_hash(roberta_copy), shutil.copytree(roberta_copy, tmp_path / "other")
    (other / "extra.json").write_text("{}")
    assert recorded(str(roberta_copy), digest) == roberta_copy
    monkeypatch.setenv(WEIGHTS_VARIABLE, os.pathsep.join(["", str(other), str(roberta_copy)]))
    assert recorded("gone/away", digest) == roberta_copy
    assert recorded(str(roberta_copy), content_hash(other)) == other
    with pytest.raises(
        UnavailableError, match=r"other weights \(sha256 .*; set RAPIDS_PERTURB_WEIGHTS=FOLDER"
    ) as caught:
        recorded("gone/away", "0" * 64)
    assert str(other) in str(caught.value)


def test_a_file_that_is_too_large_is_named(roberta_copy):
    os.truncate(roberta_copy / "tokenizer_config.json", 2**30)
    with pytest.raises(InputError, match=r"tokenizer_config\.json: has 1073741824 bytes"):
        files_of(roberta_copy)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_file_that_may_not_be_read_is_named(roberta_copy, monkeypatch, name):
    """Whoever reads first: the copies of small files, or the hash of all of them."""
    opened = Path.open

    def refuse(path, *how, **more):
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *how, **more)

    monkeypatch.setattr(Path, "open", refuse)
    message = rf"{re.escape(name)}: cannot be read \(Permission denied\); change its permissions, or copy the weights"
    with pytest.raises(InputError, match=message):
        content_hash(roberta_copy)
    if name != "model.safetensors":
        with pytest.raises(InputError, match=message), believed(roberta_copy):
            pytest.fail("it was read")
