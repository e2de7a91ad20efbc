"""Models of the Hugging Face hub: fetched once, read from the local cache, and the message where they are missing."""

import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("rdkit")

from features.molecules.encoders import ChemBERTaEncoder, molecule_encoder
from features.molecules.language_model import needed_files
from rapids_pipeline.backend.errors import UnavailableError

uncached = functools.partial(ChemBERTaEncoder, cache=None)
MOLECULES = ["CC(=O)Oc1ccccc1C(=O)O", "Cn1cnc2c1c(=O)n(C)c(=O)n2C"]


def test_weights_that_cannot_be_had_name_both_remedies_at_once():
    started = time.monotonic()
    with pytest.raises(UnavailableError) as caught:
        molecule_encoder("no-such-organisation-zq/no-such-model").load()
    assert time.monotonic() - started < 20  # a limit on hanging, no measurement
    message = str(caught.value)
    assert "\n" not in message
    assert "a local folder with the weights (--molecules FOLDER) or use --molecules morgan" in message


def test_a_hub_model_is_read_from_the_local_cache(roberta_folder, tmp_path, monkeypatch):
    import huggingface_hub

    sha = "0" * 40
    cached = tmp_path / "models--organisation--model"
    shutil.copytree(roberta_folder, cached / "snapshots" / sha)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(sha)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    encoder = uncached("organisation/model", local_files_only=True).fit(MOLECULES)
    expected = uncached(str(roberta_folder)).fit(MOLECULES).transform(MOLECULES)
    np.testing.assert_array_equal(encoder.transform(MOLECULES), expected)


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
    files = [
        "config.json",
        "vocab.txt",
        "pytorch_model.bin",
        "training_args.bin",
        "onnx/model.onnx",
        "README.md",
    ]
    assert needed_files(files) == ["config.json", "vocab.txt", "pytorch_model.bin"]
    assert needed_files([*files, "model.safetensors"]) == [
        "config.json",
        "vocab.txt",
        "model.safetensors",
    ]
