"""A new kind of member is one file and one line: settings, fit, predict and state of a toy, run in a recipe."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest

from features.rows import Rows
from rapids_pipeline.data.tables import read_responses
from rapids_pipeline.stack.fit import fit_stack
from rapids_pipeline.stack.members import KINDS
from rapids_pipeline.stack.members.member import Fits, Member
from rapids_pipeline.stack.named_recipes import recipe as named_recipe
from rapids_pipeline.stack.recipe import Recipe, to_toml
from tests.command_line import succeed
from tests.stack_example import N_FOLDS, SVR, assert_leak_free, booster, example, folded, moved


class MeanMember(Member):
    """The mean response of a cell type, drawn by `shrinkage` rows to that of all rows."""

    kind: Literal["cell_type_mean"] = "cell_type_mean"
    shrinkage: float = 1.0

    @property
    def default_name(self):
        return "means"

    def prepare(self, data):
        return MeanFits(self, data)

    def model_from_state(self, reader):
        cells = reader.levels("cells")
        return MeanModel(tuple(cells), reader.array("means", np.float32, (len(cells) + 1, None)))


class MeanFits(Fits):
    def fit(self, training):
        cells, Y = self.data.rows.obs["cell_type"].to_numpy(str)[training], self.data.Y[training]
        weight = np.ones(len(Y)) if self.data.weight is None else self.data.weight[training]
        overall = np.average(Y, axis=0, weights=weight)
        names, means, shrinkage = sorted(set(cells)), [], self.member.shrinkage
        for name in names:
            mine = (cells == name) * weight
            means.append((mine @ Y + shrinkage * overall) / (mine.sum() + shrinkage))
        return MeanModel(tuple(names), np.array([*means, overall], np.float32))


@dataclass(frozen=True)
class MeanModel:
    cells: tuple[str, ...]
    means: np.ndarray

    def predict(self, rows: Rows):
        place = {name: number for number, name in enumerate(self.cells)}
        return self.means[[place.get(cell, len(self.cells)) for cell in rows.obs["cell_type"].astype(str)]]

    def state(self):
        return {"cells": list(self.cells), "means": self.means}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(KINDS, "cell_type_mean", MeanMember)  # the one line of the registry


TOML = """name = "toy"
n_folds = 3
[[members]]
kind = "cell_type_mean"
shrinkage = 2.0
[[members]]
kind = "svr"
features = "onehot"
[[members]]
kind = "booster"
stacks_on = ["means", "onehot"]
n_estimators = 10
pseudo_labels = { teacher = ["means"] }
"""


def test_it_is_fitted_saved_loaded_and_predicts_by_the_command(small_files, tmp_path):
    (tmp_path / "toy.toml").write_text(TOML)
    toy = named_recipe(tmp_path / "toy.toml")
    assert toy.members[0] == MeanMember(shrinkage=2.0)
    (tmp_path / "again.toml").write_text(to_toml(toy))
    assert named_recipe(tmp_path / "again.toml") == toy
    files = ["--train", small_files.train, "--test", small_files.test, "--molecules", "morgan"]
    succeed("run", *files, "--out", tmp_path / "run", "--recipe", tmp_path / "toy.toml")
    out = tmp_path / "predicted.csv"
    succeed("predict", "--model", tmp_path / "run" / "model", "--pairs", small_files.test, "--out", out)
    one, other = read_responses(tmp_path / "run" / "submission.csv"), read_responses(out)
    np.testing.assert_allclose(one.Y, other.Y, atol=1e-5)


def test_nothing_leaks_through_it_with_and_without_pseudo_labels():
    train, test, Y = example()
    folds = folded(Y)
    toy = MeanMember(pseudo_labels={"use": "auto"})
    which = Recipe(name="toy", n_folds=N_FOLDS, members=(toy, SVR, booster("means", "svr_shared")))

    def predict(y):
        found = fit_stack(train, test, y, folds, which, 0, "cpu")
        assert set(found.members) == {"means", "svr_shared", "boosting", "means_pseudo"}
        return {"blend": found.oof} | {name: made[:] for name, made in found.members.items()}

    assert_leak_free(moved(Y, [20], predict), [20], folds)
