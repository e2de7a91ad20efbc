"""Saved models, recipes, data and caches from a stranger: attacks on `predict` and on readers of files."""

import hashlib
import json
import os
import pickle
import shutil
import struct
from copy import deepcopy
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("rdkit")

from features.molecules.encoders import ChemBERTaEncoder
from features.molecules.weights import WEIGHTS_VARIABLE, content_hash
from rapids_pipeline.backend.bundle import read_bundle, write_bundle
from rapids_pipeline.stack.members.svr import SvrMember
from tests.backend.test_bundle import replaced, rewritten
from tests.command_line import invoke, succeed
from tests.journeys.watched import PAYLOAD, SECRET, Bomb, code, secrets, told, watching
from tests.smiles_models import roberta_folder  # noqa: F401 (a fixture)

if find_spec("anndata"):
    # It imports Dask, which reads the user's own settings of Dask when it starts: before anything is watched.
    import_module("anndata")

HARMLESS, REFUSED = "harmless", "refused"
NEW = "CCCCCCCCN"
"""A compound that no training row has."""
RECIPE = """name = "tiny"
n_folds = 3
[[members]]
kind = "svr"
features = "svr_shared"
[[members]]
kind = "booster"
name = "trees"
stacks_on = []
features = "onehot_loo"
n_estimators = 3
n_components = 4
"""


@pytest.fixture(scope="module")
def trained(small_files, roberta_folder, tmp_path_factory):  # noqa: F811 (the fixture)
    """A model that reads molecules by a language model, trained by the program."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(roberta_folder, folder / "weights")
    (folder / "recipe.toml").write_text(RECIPE)
    words = "--train", small_files.train, "--test", small_files.test, "--molecules", folder / "weights"
    succeed("run", *words, "--recipe", folder / "recipe.toml", "--out", folder / "run", "--device", "cpu")
    return folder


class Place:
    """A copy of the model to be changed, pairs to predict, and beside them what must not be read."""

    def __init__(self, trained, tmp_path):
        self.folder, self.outside = tmp_path, secrets(tmp_path)
        self.model, self.weights = tmp_path / "model", trained / "weights"
        shutil.copytree(trained / "run" / "model", self.model)
        self.pairs, self.out = tmp_path / "pairs.csv", tmp_path / "out.csv"
        obs = read_bundle(self.model).state.part("pairs")
        self.known = {name: obs.strings(name)[0] for name in ("cell_type", "sm_name", "SMILES")}
        self.asks(self.known)

    def asks(self, *pairs):
        """Write the pairs to predict."""
        pd.DataFrame(pairs).assign(id=range(len(pairs))).to_csv(self.pairs, index=False)

    def asks_new(self):
        """Ask for a compound that only the language model can read."""
        self.asks(self.known | {"sm_name": "new", "SMILES": NEW})

    def changed(self, change):
        """Write the model again after changing its state and what is said about it: all hashes fit."""
        bundle = read_bundle(self.model)
        state, about = deepcopy(bundle.state._state), deepcopy(bundle.about)
        change(state, about["config"])
        shutil.rmtree(self.model)
        write_bundle(self.model, state, about)

    def predict(self, **environment):
        """Predict by the command."""
        words = "--model", self.model, "--pairs", self.pairs, "--out", self.out, "--overwrite"
        return invoke("predict", *words, env=environment)


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.chdir(tmp_path)
    return Place(trained, tmp_path)


def member(**changes):
    return lambda place: place.changed(lambda state, config: config["recipe"]["members"][0].update(changes))


def trees(**changes):
    def change(state, config):
        found = state["member_1"]["seed_0"]["trees"]
        found |= {name: make(found[name].copy()) for name, make in changes.items()}

    return lambda place: place.changed(change)


def at(place, value):
    def put(array):
        array[place] = value
        return array

    return put


def encoder(name, digest=None, new=True):
    """Let the model name other weights: in its blocks and among its embeddings."""

    def attack(place):
        named = name(place) if callable(name) else name

        def change(state, config):
            for one in config["recipe"]["members"]:
                for block in one["features"]["blocks"]:
                    if block["kind"] == "molecules":
                        block["encoder"] = named
            part = state["embeddings"]["encoder_0"]
            part["encoder"] = named
            if digest is not None:
                part["weights"] = digest(place) if callable(digest) else digest

        place.changed(change)
        if new:
            place.asks_new()

    return attack


def other_weights(place):
    """Return a folder of weights that are not those of training, with a module that would be run."""
    folder = shutil.copytree(place.weights, place.folder / "other")
    (folder / f"{PAYLOAD}.py").write_text(code(place.folder))
    config = json.loads((folder / "config.json").read_text())
    auto = {"AutoModel": f"{PAYLOAD}.M", "AutoConfig": f"{PAYLOAD}.C"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": auto}))
    return str(folder)


def piped(place):
    os.mkfifo(place.folder / "config.json")
    return str(place.folder)


def check_of_new(state, config):
    state["check"]["SMILES"] = [NEW] * len(state["check"]["SMILES"])


def linked(name, target):
    def attack(place):
        (place.model / name).unlink()
        (place.model / name).symlink_to(target(place) if callable(target) else target)

    return attack


def hard_linked(place):
    (place.model / "state.json").unlink()
    os.link(place.outside / "secret.json", place.model / "state.json")


def piped_part(place):
    (place.model / "genes.safetensors").unlink(missing_ok=True)
    os.mkfifo(place.model / "genes.safetensors")
    rewritten(
        place.model,
        lambda m: m["files"].append({"name": "genes.safetensors", "bytes": 0, "sha256": "0" * 64}),
    )


def file_name(name):
    return lambda place: rewritten(place.model, lambda manifest: manifest["files"][0].update(name=name))


def file_content(name, content):
    return lambda place: replaced(place.model, name, content(place) if callable(content) else content)


def header(text, data=b""):
    return struct.pack("<Q", len(text)) + text + data


def array(**entry):
    blank = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    return header(json.dumps({"x": blank | entry}).encode(), bytes(4))


def npy(place):
    path = place.folder / "x.npy"
    np.save(path, np.array([Bomb(place.folder)], object), allow_pickle=True)
    return path.read_bytes()


def modules(place):
    for name in ("__init__.py", f"{PAYLOAD}.py", "sitecustomize.py", "conftest.py", "setup.cfg"):
        (place.model / name).write_text(code(place.folder))
    (place.model / f"{PAYLOAD}.pkl").write_bytes(pickle.dumps(Bomb(place.folder)))
    (place.model / "unlisted.safetensors").symlink_to(place.outside / "model.safetensors")


def outside(name):
    return lambda place: place.outside / name


ARRAYS = "blend.safetensors"
DOUBLE = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'

MODELS = {
    # settings
    "feature set named by an absolute path": (
        REFUSED,
        lambda p: member(features=str(p.outside / "secret.toml"))(p),
    ),
    "feature set named by ../": (REFUSED, member(features="outside/../outside/secret.toml")),
    "feature set named by a link": (
        REFUSED,
        lambda p: (
            (p.model / "mine.toml").symlink_to(p.outside / "secret.toml"),
            member(features=f"{p.model}/mine.toml")(p),
        ),
    ),
    "feature set named by a variable": (REFUSED, member(features="$HOME/secret.toml")),
    "feature set named by a NUL": (REFUSED, member(features="secret.toml\0.toml")),
    "feature set named at all": (REFUSED, member(features="onehot")),
    "kind that is a module": (REFUSED, member(kind="os.system")),
    "engine that is a module": (HARMLESS, lambda p: (modules(p), member(engine=f"{PAYLOAD}.fit")(p))),
    "unknown setting": (REFUSED, member(hook=f"import {PAYLOAD}")),
    "recipe's name with escape codes": (
        REFUSED,
        lambda p: p.changed(lambda s, c: c["recipe"].update(name="\x1b]0;pwned\x07", members=[])),
    ),
    "molecules that name a table outside": (
        HARMLESS,
        lambda p: p.changed(lambda s, c: c.update(molecules=str(p.outside / "table.csv"))),
    ),
    "table whose source is outside": (
        HARMLESS,
        lambda p: p.changed(
            lambda s, c: s.update(
                table={
                    "source": str(p.outside / "table.csv"),
                    "names": [p.known["sm_name"]],
                    "columns": ["a"],
                    "values": np.zeros((1, 1), np.float32),
                    "combine": "sum",
                }
            )
        ),
    ),
    "10^9 seeds": (
        REFUSED,
        lambda p: p.changed(lambda s, c: c["recipe"]["members"][1].update(n_seeds=10**9)),
    ),
    # encoders
    "encoder of another folder": (REFUSED, encoder(other_weights)),
    "encoder of another folder, known compound": (
        HARMLESS,
        encoder(other_weights, new=False),
    ),
    "encoder of a repository": (REFUSED, encoder("pwned-organisation/pwned-model")),
    "encoder of a repository whose hash is right": (
        REFUSED,
        encoder("pwned-organisation/pwned-model", lambda p: content_hash(p.weights)),
    ),
    "encoder without a hash": (REFUSED, encoder(lambda p: str(p.weights), "")),
    "encoder whose hash is a pattern": (REFUSED, encoder(lambda p: str(p.weights), "*" * 64)),
    "encoder whose hash is a path": (REFUSED, encoder(lambda p: str(p.weights), "../outside/secret.json")),
    "encoder of a folder with a pipe": (REFUSED, encoder(piped)),
    "encoder that is a device": (REFUSED, encoder("/dev/zero")),
    "encoder that is a NUL": (REFUSED, encoder("a\0b")),
    "encoder of 5,000 letters": (REFUSED, encoder("a/" * 2500)),
    "encoder in a home": (REFUSED, encoder("~nobody-of-this-name/weights")),
    "encoder in a variable": (REFUSED, encoder("$HOME/weights")),
    "encoder with escape codes": (REFUSED, encoder("\x1b[2J\x1b]0;pwned\x07/x")),
    "check pairs that need weights": (REFUSED, lambda p: p.changed(check_of_new)),
    # files
    "state linked to outside": (REFUSED, linked("state.json", outside("secret.json"))),
    "manifest linked to outside": (REFUSED, linked("manifest.json", outside("secret.json"))),
    "arrays linked to outside": (REFUSED, linked(ARRAYS, outside("model.safetensors"))),
    "arrays linked within the folder": (REFUSED, linked(ARRAYS, "member_0.safetensors")),
    "arrays linked to a device": (REFUSED, linked(ARRAYS, "/dev/zero")),
    "state as a hard link to outside": (REFUSED, hard_linked),
    "part that is a pipe": (REFUSED, piped_part),
    "file named ../": (REFUSED, file_name("../outside/secret.json")),
    "file named absolutely": (REFUSED, file_name("/etc/passwd")),
    "file named with a NUL": (REFUSED, file_name("state.json\0")),
    "file named with a backslash": (REFUSED, file_name("..\\outside\\secret.json")),
    "file named by a device": (REFUSED, file_name("con.safetensors:stream")),
    "modules, pickles and links beside it": (HARMLESS, modules),
    # content
    "pickle as arrays": (REFUSED, file_content(ARRAYS, lambda p: pickle.dumps(Bomb(p.folder)))),
    "pickle as state": (REFUSED, file_content("state.json", lambda p: pickle.dumps(Bomb(p.folder)))),
    "array of objects as arrays": (REFUSED, file_content(ARRAYS, npy)),
    "header beyond the file": (REFUSED, file_content(ARRAYS, struct.pack("<Q", 10**6) + b"{}")),
    "header of 2^63 bytes": (REFUSED, file_content(ARRAYS, struct.pack("<Q", 2**63) + b"{}")),
    "header that names an array twice": (REFUSED, file_content(ARRAYS, header(DOUBLE, bytes(4)))),
    "header of deep nesting": (REFUSED, file_content(ARRAYS, header(b"[" * 100_000))),
    "offsets beyond the file": (REFUSED, file_content(ARRAYS, array(data_offsets=[0, 2**40]))),
    "offsets that are negative": (REFUSED, file_content(ARRAYS, array(data_offsets=[-4, 4]))),
    "type of objects": (REFUSED, file_content(ARRAYS, array(dtype="O"))),
    "shape whose size overflows": (REFUSED, file_content(ARRAYS, array(shape=[2**62, 2**62]))),
    "state of deep nesting": (REFUSED, file_content("state.json", b'{"genes":' * 100_000)),
    "state with a huge number": (
        REFUSED,
        file_content("state.json", b'{"genes": {"n": ' + b"9" * 10**5 + b"}}"),
    ),
    "state with a name twice": (REFUSED, file_content("state.json", b'{"genes": {}, "genes": {}}')),
    "state with NaN": (REFUSED, file_content("state.json", b'{"genes": {"n": NaN}}')),
    "state in UTF-16": (REFUSED, file_content("state.json", '{"genes": {}}'.encode("utf-16"))),
    "state with __proto__ and $array": (
        REFUSED,
        file_content("state.json", b'{"genes": {"__proto__": {"$array": "../x"}}}'),
    ),
    "manifest of deep nesting": (
        REFUSED,
        lambda p: (p.model / "manifest.json").write_text('{"about":' * 10**5),
    ),
    # memory
    "tree in a circle": (REFUSED, trees(children=at((0, 0), 0))),
    "tree with a child beyond": (REFUSED, trees(children=at((0, 0), 2**31 - 1))),
    "tree with a leaf beyond": (REFUSED, trees(children=at((0, 0), -(2**31)))),
    "tree that reads a column beyond": (REFUSED, trees(feature=at(0, 2**31 - 1))),
    "tree that reads a column before": (REFUSED, trees(feature=at(0, -1))),
    "trees that begin beyond": (REFUSED, trees(node_offset=at(0, -5))),
    "trees of more columns than there are": (REFUSED, trees(n_features=at(0, 2**40))),
    "support of other rows": (
        REFUSED,
        lambda p: p.changed(lambda s, c: s["member_0"].update(support=np.zeros((1, 1), np.float32))),
    ),
    "codes of cell types beyond": (
        REFUSED,
        lambda p: p.changed(
            lambda s, c: s.update(
                untested={
                    "cell_types": ["B"],
                    "cell_type": np.array([2**30], np.int32),
                    "gene": np.array([0], np.int32),
                }
            )
        ),
    ),
}


@pytest.mark.parametrize("attack", MODELS)
def test_a_saved_model_executes_nothing_reads_nothing_outside_and_reaches_nothing(attack, place):
    outcome, change = MODELS[attack]
    change(place)
    with watching(place.outside, place.folder, place.weights, os.environ["RAPIDS_PERTURB_CACHE"]):
        result = place.predict()
    if outcome == REFUSED:
        told(result)
        assert not place.out.exists()
    else:
        assert result.exit_code == 0, result.output
        assert SECRET not in place.out.read_text() + result.output


def test_a_new_compound_is_read_with_the_weights_of_training_and_the_line_says_which(place):
    place.asks_new()
    with watching(place.outside, place.folder, place.weights, os.environ["RAPIDS_PERTURB_CACHE"]):
        result = place.predict()
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    assert (
        f"read by {place.weights}, with the weights of training (sha256:{content_hash(place.weights)[:12]})"
        in said
    )


def test_weights_that_moved_are_named_by_the_environment_and_changed_ones_are_not_loaded(
    place, trained, monkeypatch
):
    place.asks_new()
    moved = shutil.copytree(place.weights, place.folder / "moved")
    encoder(str(place.folder / "gone"))(place)
    assert f"set {WEIGHTS_VARIABLE}=FOLDER" in told(place.predict(), (3,))
    assert place.predict(**{WEIGHTS_VARIABLE: f"/nowhere{os.pathsep}{moved}"}).exit_code == 0
    (moved / "config.json").write_text((moved / "config.json").read_text() + " ")
    monkeypatch.setattr(ChemBERTaEncoder, "load", lambda *_: pytest.fail("loaded"))
    line = told(place.predict(**{WEIGHTS_VARIABLE: str(moved)}), (3,))
    assert f"{moved} has other weights (sha256 {content_hash(moved)[:12]})" in line
    assert f"trained with (sha256 {content_hash(place.weights)[:12]})" in line


def test_a_cache_of_embeddings_is_not_unpickled(place):
    place.asks_new()
    cache = place.folder / "cache"
    assert place.predict(RAPIDS_PERTURB_CACHE=str(cache)).exit_code == 0
    expected = place.out.read_text()
    (kept,) = cache.rglob("*.npz")
    np.savez(kept, key=np.array([Bomb(place.folder)], object), smiles=np.zeros(1), rows=np.zeros(1))
    with watching(place.outside, place.folder, place.weights):
        result = place.predict(RAPIDS_PERTURB_CACHE=str(cache))
    assert "is damaged, embeddings are computed anew" in result.stderr
    assert place.out.read_text() == expected


def test_settings_of_a_saved_model_are_complete(trained):
    """The refusals above are not for another reason: the model as it is says everything about its feature sets."""
    config = read_bundle(trained / "run" / "model").about["config"]
    assert all(isinstance(one["features"], dict) for one in config["recipe"]["members"])
    digest = read_bundle(trained / "run" / "model").state.part("embeddings").part("encoder_0").text("weights")
    assert digest == content_hash(trained / "weights") != hashlib.sha256().hexdigest()
    with pytest.raises(ValueError, match="complete by themselves"):
        SvrMember.model_validate({"features": "onehot"}, context={"folder": None})
