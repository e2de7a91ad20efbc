"""The watch of the attacks sees what it is for, and the attacks are many."""

import os
import pickle
import socket
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("rdkit")

from tests.journeys.watched import PAYLOAD, Bomb, code, secrets, watching


def by_a_library(place):
    from safetensors import safe_open

    with pytest.raises(Exception, match="header"):
        safe_open(place / "outside" / "model.safetensors", "numpy")


@pytest.mark.parametrize(
    "deed",
    [
        lambda p: (p / "outside" / "secret.json").read_text(),
        lambda p: Path("/etc/passwd").read_text(),
        lambda p: subprocess.run(["true"], check=True),
        lambda p: os.system("true"),
        lambda p: socket.socket().connect_ex(("127.0.0.1", 9)),
        lambda p: exec(compile(code(p), f"{PAYLOAD}.py", "exec")),
        lambda p: pickle.loads(pickle.dumps(Bomb(p))),
        by_a_library,
    ],
    ids=["file outside", "file of the system", "program", "shell", "connection", "code", "pickle", "library"],
)
def test_the_watch_sees_what_it_is_for(deed, tmp_path):
    outside = secrets(tmp_path)
    with pytest.raises(AssertionError), watching(outside, tmp_path):
        deed(tmp_path)


def test_the_attacks_are_at_least_sixty():
    from tests.journeys.test_trust_data import DATA
    from tests.journeys.test_trust_models import MODELS
    from tests.journeys.test_trust_settings import FILES
    from tests.journeys.test_trust_weights import ATTACKS

    assert len(MODELS) + len(FILES) + len(DATA) + len(ATTACKS) >= 60
