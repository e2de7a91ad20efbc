"""Room in memory: what is refused before it begins, what is said, and that one choice serves all fits."""

import numpy as np
import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.stack import fit, nested, room
from rapids_pipeline.stack.members.member import TrainingSet
from rapids_pipeline.stack.named_recipes import recipe
from tests.stack_example import COMPOSITE, example, folded
from tests.stack_example import recipe as made_of

GIB = 2**30


@pytest.fixture
def memory(monkeypatch):
    """Set how much memory there is, in GiB."""

    def have(amount):
        for name in ("host_bytes", "available_bytes"):
            monkeypatch.setattr(room, name, lambda *_: int(amount * GIB))

    return have


@pytest.mark.parametrize(
    ("n", "t", "amount", "on_landmarks"),
    [
        (57_000, 978, 22, False),
        (57_000, 978, 12, True),
        (14_000, 13_000, 8, False),
        (1_000, 18_211, 0.1, False),
    ],
)
def test_the_gram_matrix_decides_over_landmarks(memory, n, t, amount, on_landmarks):
    memory(amount)
    assert room.needs_landmarks(n, t, "cpu") == on_landmarks
    assert (4 * n**2 > amount * GIB) <= on_landmarks


@pytest.mark.parametrize("name", ["best", "standard"])
def test_what_does_not_fit_is_refused_with_what_it_needs_and_what_fits(memory, name):
    memory(22)
    with pytest.raises(InputError) as refused:
        room.require(recipe(name), 700_000, 200_000, 978, "cpu")
    said = str(refused.value)
    assert "\n" not in said and len(said) <= 500
    assert said.startswith("700,000 training rows × 978 genes with 200,000 pairs to predict need ")
    fitting = int(said.partition("about ")[2].partition(" rows")[0].replace(",", ""))
    assert 1000 < fitting < 700_000
    room.require(recipe(name), fitting, fitting * 2 // 7, 978, "cpu")
    with pytest.raises(InputError):
        room.require(recipe(name), int(fitting * 1.2), fitting * 2 // 6, 978, "cpu")


def test_the_manifest_says_how_many_rows_are_solved():
    best = recipe("best")
    assert room.chosen(best, 614, False) == {}
    assert room.chosen(best, 57_000, False) == {"kernel models": "on all 57,000 rows"}
    assert "4,000 landmarks" in room.chosen(best, 57_000, True)["kernel models"]
    assert room.chosen(recipe("published"), 57_000, True) == {}


def test_one_choice_serves_all_fits_whatever_is_free_later(monkeypatch, memory):
    train, test, Y = example(n_genes=6)
    asked, seen = [], []
    monkeypatch.setattr(fit, "needs_landmarks", lambda *_: asked.append(1) or True)
    real = TrainingSet.__post_init__
    monkeypatch.setattr(
        TrainingSet, "__post_init__", lambda self: real(self) or seen.append(self.on_landmarks)
    )
    fit.fit_stack(train, test, Y, folded(Y), made_of(COMPOSITE), 0, "cpu")
    assert asked == [1] and seen and all(seen)
    rows = nested.FoldedRows(train, test, Y, folded(Y), 0, "cpu", on_landmarks=True)
    assert rows.training_set(None).on_landmarks
    assert not np.isnan(Y).any()
