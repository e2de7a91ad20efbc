"""Language models of SMILES: their files, the hub, weights, and how batches are cut when memory is short."""

import dataclasses
import functools
import hashlib
import http.server
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("rdkit")

from features.molecules import language_model  # noqa: E402
from features.molecules.encoders import ChemBERTaEncoder, molecule_encoder  # noqa: E402
from features.molecules.language_model import load_language_model  # noqa: E402
from features.molecules.weights import (  # noqa: E402
    OFFLINE_VARIABLES,
    content_hash,
    model_folder,
    needed_files,
)
from rapids_pipeline.backend.errors import InputError, UnavailableError  # noqa: E402

uncached = functools.partial(ChemBERTaEncoder, cache=None)
MOLECULES = ["C" * n for n in range(1, 21)] + ["CC(=O)Oc1ccccc1C(=O)O", "Cn1cnc2c1c(=O)n(C)c(=O)n2C"]


class LittleMemory(torch.nn.Module):
    """An encoder on a device that holds `room` tokens, padding included, and no more."""

    def __init__(self, encoder, room):
        super().__init__()
        self.encoder, self.room, self.config = encoder, room, encoder.config
        self.fitted, self.refused = [], []
        self.error = torch.OutOfMemoryError("CUDA out of memory.")

    def forward(self, input_ids, attention_mask):
        if input_ids.numel() > self.room:
            self.refused.append(tuple(input_ids.shape))
            raise self.error
        self.fitted.append(tuple(input_ids.shape))
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask)


@pytest.fixture(scope="module")
def roberta(roberta_folder):
    return uncached(str(roberta_folder)).load()


def squeezed(encoder, room):
    """Give an encoder little memory."""
    small = LittleMemory(encoder.language_model_.encoder, room)
    encoder.language_model_ = dataclasses.replace(encoder.language_model_, encoder=small)
    return small


@pytest.mark.parametrize("budget", [1, 50, 200, 10**6])
def test_an_adaptive_batch_has_as_many_molecules_as_the_budget_allows(roberta_folder, monkeypatch, budget):
    encoder = uncached(str(roberta_folder)).load()
    expected = encoder.set_params(batch_size=1).transform(MOLECULES)
    monkeypatch.setitem(language_model.TOKENS_PER_BATCH, "cpu", budget)
    watched = squeezed(encoder.set_params(batch_size="auto"), room=10**9)
    np.testing.assert_allclose(encoder.transform(MOLECULES), expected, atol=1e-5)
    batches = watched.fitted
    assert sum(size for size, _ in batches) == len(MOLECULES)
    assert all(size * length <= budget or size == 1 for size, length in batches)
    for (size, _), (_, following) in itertools.pairwise(batches):
        assert (size + 1) * following > budget  # one molecule more would have been too many
    assert len(batches) == (1 if budget == 10**6 else len(MOLECULES) if budget == 1 else len(batches))


@pytest.mark.parametrize("batch_size", ["auto", 16])
def test_batches_are_halved_until_memory_suffices(roberta_folder, batch_size):
    encoder = uncached(str(roberta_folder), batch_size=batch_size).load()
    expected = encoder.transform(MOLECULES)
    small = squeezed(encoder, room=60)
    np.testing.assert_allclose(encoder.transform(MOLECULES), expected, atol=1e-5)
    assert small.refused
    assert sum(size for size, _ in small.fitted) == len(MOLECULES)
    assert any(size > 1 for size, _ in small.fitted)  # halved, not given up
    assert len(small.refused) < 5  # later batches start small: no failure for every one of them


def test_one_molecule_too_long_for_the_memory_is_named(roberta_folder):
    encoder = uncached(str(roberta_folder)).load()
    squeezed(encoder, room=10)
    with pytest.raises(UnavailableError, match=r"device cpu: .* one molecule of \d+ tokens.*smaller model"):
        encoder.transform(MOLECULES)


def test_other_errors_of_the_encoder_are_not_taken_for_a_lack_of_memory(roberta_folder):
    encoder = uncached(str(roberta_folder)).load()
    squeezed(encoder, room=10).error = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        encoder.transform(MOLECULES)


def test_batches_are_filled_by_length_whatever_the_order(roberta_folder):
    encoder = uncached(str(roberta_folder), batch_size=3).load()
    expected = encoder.transform(MOLECULES)
    watched = squeezed(encoder, room=10**9)
    shuffled = np.random.default_rng(1).permutation(len(MOLECULES))
    np.testing.assert_array_equal(encoder.transform([MOLECULES[i] for i in shuffled]), expected[shuffled])
    lengths = [length for _, length in watched.fitted]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 3


def test_padding_that_is_not_masked_would_be_seen(roberta):
    """The tests above can fail: without the mask, a short molecule depends on its batch."""
    model = roberta.language_model_
    blind = lambda input_ids, attention_mask: model.encoder(input_ids=input_ids)  # noqa: E731
    blind.config = model.encoder.config
    unmasked = dataclasses.replace(model, encoder=blind)
    alone = language_model.embed(unmasked, ["C"])
    batched = language_model.embed(unmasked, ["C", "C" * 20])[:1]
    assert np.abs(alone - batched).max() > 1e-4


def test_weights_that_give_no_finite_embedding_are_refused(roberta_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(roberta_folder, tmp_path / "broken"))
    weights = load_file(folder / "model.safetensors")
    weights["roberta.embeddings.LayerNorm.weight"][:] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    encoder = ChemBERTaEncoder(str(folder), cache=tmp_path / "kept").load()
    with pytest.raises(InputError, match=r"broken: its weights give no finite embedding of CCO"):
        encoder.transform(["CCO"])
    assert not (tmp_path / "kept").exists()


def test_missing_weights_are_refused_and_a_missing_pooler_is_not(roberta_copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(roberta_copy / "model.safetensors")
    assert not any("pooler" in name for name in weights)  # as in ChemBERTa: nothing here uses it
    uncached(str(roberta_copy)).load()
    del weights["roberta.encoder.layer.1.output.dense.weight"]
    save_file(weights, roberta_copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"1 weights .*encoder\.layer\.1\.output\.dense\.weight.*random"):
        uncached(str(roberta_copy)).load()


def test_weights_of_another_shape_or_broken_are_refused(roberta_copy):
    config = json.loads((roberta_copy / "config.json").read_text())
    (roberta_copy / "config.json").write_text(json.dumps(config | {"intermediate_size": 32}))
    with pytest.raises(InputError, match=r"6 weights .*another shape .*layer\.0\.intermediate.*random"):
        uncached(str(roberta_copy)).load()
    (roberta_copy / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(InputError, match="its weights cannot be loaded"):
        uncached(str(roberta_copy)).load()


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("", "no such folder"),
        ("config.json", "config.json is missing"),
        ("model.safetensors", "weights are missing; expected one of model.safetensors"),
        ("tokenizer.json", "tokenizer is missing; expected one of tokenizer.json"),
    ],
)
def test_an_incomplete_folder_is_named_with_the_missing_file(roberta_copy, absent, message):
    (roberta_copy / absent).unlink() if absent else shutil.rmtree(roberta_copy)
    with pytest.raises(InputError, match=message) as caught:
        uncached(str(roberta_copy)).load()
    assert str(roberta_copy) in str(caught.value)


def test_an_encoder_with_few_positions_lowers_the_limit(roberta_folder):
    encoder = uncached(str(roberta_folder)).load()
    assert encoder.language_model_.max_tokens == 64  # 66 positions less RoBERTa's padding id 1, less 1
    with pytest.warns(UserWarning, match="more than 64 tokens"):
        assert np.isfinite(encoder.transform(["N(O)" * 60 + "C"])).all()


def test_loading_is_silent_and_leaves_the_libraries_as_they_were(rxn_folder, capfd):
    logging = transformers.utils.logging
    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    load_language_model(str(rxn_folder))
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_missing_package_says_what_to_install(package, monkeypatch, roberta_folder):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(UnavailableError, match=rf"{package}: pip install '\.\[chemberta\]'"):
        uncached(str(roberta_folder)).load()


def test_cuda_that_is_not_there_is_refused(roberta_folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnavailableError, match="--device cpu"):
        uncached(str(roberta_folder), device="cuda").load()


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


@pytest.mark.parametrize("offline", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", None])
def test_offline_means_that_the_hub_is_not_asked(offline, questions, monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for variable in OFFLINE_VARIABLES:
        monkeypatch.setenv(variable, "1" if variable == offline else "0")
    absent = "organisation/model: its weights are not on this machine"
    with pytest.raises(UnavailableError, match=absent) as caught:
        model_folder("organisation/model")
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
    there, here = (uncached(model).fit(MOLECULES) for model in ("organisation/model", str(roberta_folder)))
    np.testing.assert_array_equal(there.transform(MOLECULES), here.transform(MOLECULES))
    assert questions == []


def test_weights_that_cannot_be_had_name_both_remedies_at_once():
    started = time.monotonic()
    with pytest.raises(UnavailableError) as caught:
        molecule_encoder("no-such-organisation-zq/no-such-model").load()
    assert time.monotonic() - started < 20  # a limit on hanging, no measurement
    message = str(caught.value)
    assert "\n" not in message
    assert "a local folder with the weights (--molecules FOLDER) or use --molecules morgan" in message


def serve_as_hub(folder):
    """Serve a folder as the hub would serve the model "organisation/model"."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    digests = {name: hashlib.sha1(content).hexdigest() for name, content in files.items()}
    siblings = [{"rfilename": name} for name in files]
    tree = [{"type": "file", "path": n, "size": len(c), "oid": digests[n]} for n, c in files.items()]
    info = {"id": "organisation/model", "sha": "a" * 40, "siblings": siblings, "private": False, "tags": []}

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.split("?")[0]
            name = path.rsplit("/", 1)[1]
            if path.startswith("/api/models/organisation/model"):
                self.reply(json.dumps(tree if "/tree/" in path else info).encode(), {})
            elif "/resolve/" in path and name in files:
                self.reply(files[name], {"ETag": f'"{digests[name]}"', "X-Repo-Commit": "a" * 40})
            else:
                self.send_error(404)

        do_HEAD = do_GET

        def reply(self, content, headers):
            self.send_response(200)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.mark.slow
def test_a_hub_model_is_fetched_once_and_then_read_without_the_hub(roberta_folder, tmp_path):
    program = (
        "import sys; from features.molecules.encoders import molecule_encoder; "
        "print(molecule_encoder(sys.argv[1]).load().language_model_.width)"
    )

    def load(endpoint):
        environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-c", program, "organisation/model"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout, done.stderr

    server = serve_as_hub(roberta_folder)
    endpoint = f"http://127.0.0.1:{server.server_port}"
    assert load(endpoint) == ("48\n", "")
    server.shutdown()
    server.server_close()
    assert load(endpoint) == ("48\n", "")


def test_only_the_needed_files_are_fetched():
    files = "config.json vocab.txt pytorch_model.bin training_args.bin onnx/model.onnx README.md".split()
    assert needed_files(files) == ["config.json", "vocab.txt", "pytorch_model.bin"]
    assert needed_files([*files, "model.safetensors"]) == ["config.json", "vocab.txt", "model.safetensors"]
