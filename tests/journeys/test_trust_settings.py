"""Recipes and feature sets from a stranger: they name no file, repository or weights outside of their own folder."""

import os
import pickle

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("rdkit")

from features.molecules.weights import WEIGHTS_VARIABLE
from rapids_pipeline.stack.members.svr import SvrMember
from tests.command_line import invoke, succeed
from tests.journeys.watched import PAYLOAD, Bomb, secrets, told, watching

MEMBER = '[[members]]\nkind = "{kind}"\n{settings}\n'
SET = 'name = "mine"\n[[blocks]]\nkind = "molecules"\nencoder = "{}"\n'
KERNEL = "weights = {{ 'rbf({})' = 1.0 }}\n"


def recipe(settings, kind="svr"):
    return 'name = "mine"\n' + MEMBER.format(kind=kind, settings=settings)


def kernels(encoder):
    both = "\n".join(
        f"[members.{name}]\n{KERNEL.format(encoder)}" for name in ("known_compounds", "new_compounds")
    )
    return recipe(both, "composite")


FILES = {
    "recipe that names a feature set by an absolute path": lambda p: recipe(
        f"features = '{p / 'outside/secret.toml'}'"
    ),
    "recipe that names a feature set by ../": lambda p: recipe("features = '../outside/secret.toml'"),
    "recipe that names a feature set by a link": lambda p: (
        (p / "mine" / "link.toml").symlink_to(p / "outside" / "secret.toml"),
        recipe("features = 'link.toml'"),
    )[1],
    "recipe that names a feature set in a home": lambda p: recipe("features = '~/secret.toml'"),
    "recipe that names a feature set in a variable": lambda p: recipe(
        "features = '$HOME/outside/secret.toml'"
    ),
    "recipe that names a feature set by a NUL": lambda p: recipe('features = "a\\u0000.toml"'),
    "recipe that names a feature set by 5,000 letters": lambda p: recipe(f"features = '{'a' * 5000}.toml'"),
    "recipe that names a repository": lambda p: kernels("pwned-organisation/pwned-model"),
    "recipe that names a folder of weights": lambda p: kernels(f"{p}/outside"),
    "recipe that names a variable as weights": lambda p: kernels("$HF_TOKEN"),
    "recipe of a kind that is a module": lambda p: recipe("", "os.system"),
    "recipe with a setting of code": lambda p: recipe(f"engine = 'auto'\n__class__ = '{PAYLOAD}'"),
    "feature set that names a repository": lambda p: SET.format("pwned-organisation/pwned-model"),
    "feature set that names a folder of weights": lambda p: SET.format(f"{p}/outside"),
    "feature set that names ../ as weights": lambda p: SET.format("../outside"),
    "feature set of a kind that is a module": lambda p: 'name = "mine"\n[[blocks]]\nkind = "os.system"\n',
    "recipe that is a pickle": lambda p: pickle.dumps(Bomb(p), protocol=0).decode(),
    "recipe of escape codes": lambda p: recipe('features = "\\u001b]0;pwned\\u0007"'),
}


@pytest.mark.parametrize("attack", FILES)
def test_settings_in_a_file_read_no_other_place(attack, tmp_path, monkeypatch):
    secrets(tmp_path), (tmp_path / "mine").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "outside"))
    monkeypatch.chdir(tmp_path / "mine")
    (tmp_path / "mine" / "mine.toml").write_text(FILES[attack](tmp_path))
    command = "features" if attack.startswith("feature") else "recipes"
    with watching(tmp_path / "outside", tmp_path):
        told(invoke(command, tmp_path / "mine" / "mine.toml"), (2,))


def test_a_recipe_may_name_a_feature_set_beside_it_and_weights_that_are_trusted(tmp_path, monkeypatch):
    (tmp_path / "set.toml").write_text('name = "mine"\n[[blocks]]\nkind = "onehot"\ncolumn = "cell_type"\n')
    (tmp_path / "recipe.toml").write_text(recipe("features = 'set.toml'"))
    succeed("recipes", tmp_path / "recipe.toml")
    (tmp_path / "kernels.toml").write_text(kernels("mine/weights"))
    assert WEIGHTS_VARIABLE in told(invoke("recipes", tmp_path / "kernels.toml"), (2,))
    monkeypatch.setenv(WEIGHTS_VARIABLE, f"/elsewhere{os.pathsep}mine/weights")
    succeed("recipes", tmp_path / "kernels.toml")
    assert (
        SvrMember(features=str(tmp_path / "set.toml")).features.name == "mine"
    )  # in Python any file may be named
