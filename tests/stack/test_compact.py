"""Predictions as scores: against their dense sum, row by row, and kept and read back."""

import numpy as np
import pytest

from rapids_pipeline.backend import arrays
from rapids_pipeline.stack.compact import Compact, Part, SideBySide, keep, kept
from rapids_pipeline.stack.target_space import TargetSpace


def spaces_and_scores(rng, shapes):
    """Two spaces of 12 targets, of 3 and 5 components, and scores of so many rows and components."""
    Y = rng.normal(size=(30, 12)).astype(np.float32)
    spaces = TargetSpace(3, "asinh", 2.0, centre=True, products="float32"), TargetSpace(5)
    for space in spaces:
        space.components_for(Y)
    return spaces, [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def test_kept_predictions_are_what_the_spaces_make_of_their_scores():
    """Two groups share a space, one has another space and plain targets, too; every row is where it belongs."""
    rng = np.random.default_rng(0)
    (one, other), scores = spaces_and_scores(rng, ((4, 3), (2, 3), (3, 5)))
    plain = rng.normal(size=(1, 12)).astype(np.float32)
    rows = np.array([5, 0, 2]), np.array([1, 4]), np.array([3])
    groups = [
        Compact(4, 12, [Part(np.arange(4), scores[0], one)]),
        Compact(
            6, 12, [Part(rows[0], scores[2], other), Part(rows[1], scores[1], one), Part(rows[2], plain)]
        ),
    ]
    fit = keep(groups)
    assert len([name for name in fit.arrays if name.endswith("components")]) == 2, (
        "a shared space is kept once"
    )
    first, second = (found[:] for found in kept(fit))
    np.testing.assert_array_equal(first, one.inverse_transform(scores[0]))
    np.testing.assert_array_equal(second[rows[0]], other.inverse_transform(scores[2]))
    np.testing.assert_array_equal(second[rows[1]], one.inverse_transform(scores[1]))
    np.testing.assert_array_equal(second[rows[2]], plain)


@pytest.fixture
def made():
    """Seven rows: 2 and 5 by one model, 0, 5 and 6 by a third of another, row 1 as it is; and the same, dense."""
    rng = np.random.default_rng(1)
    (one, other), scores = spaces_and_scores(rng, ((2, 3), (3, 5)))
    plain = rng.normal(size=(1, 12)).astype(np.float32)
    groups = [
        (np.array([5, 2]), Compact(2, 12, [Part(np.arange(2), scores[0], one)]), 1),
        (np.array([0, 5, 6]), Compact(3, 12, [Part(np.arange(3), scores[1], other)]), 3),
        (np.array([1]), Compact.of(plain), 1),
    ]
    dense = np.zeros((7, 12), dtype=np.float32)
    for row, z in zip((5, 2), scores[0], strict=True):
        dense[row] += one.inverse_transform(z[None])[0]
    for row, z in zip((0, 5, 6), scores[1], strict=True):
        dense[row] += other.inverse_transform(z[None])[0] / 3
    dense[1] = plain[0]
    return Compact.placed(7, 12, groups), dense


def test_predictions_are_the_sums_of_their_parts(made):
    found, dense = made
    assert found.shape == dense.shape
    np.testing.assert_allclose(found[:], dense, atol=1e-5)
    np.testing.assert_allclose(np.asarray(found), dense, atol=1e-5)


@pytest.mark.parametrize("rows", [slice(1, 4), np.array([6, 0, 5]), np.arange(7) % 2 == 0, np.arange(0)])
def test_some_rows_are_those_of_all(made, rows):
    found, dense = made
    np.testing.assert_allclose(found[rows], dense[rows], atol=1e-5)
    which = np.arange(7)[rows]
    np.testing.assert_allclose(found.take(which)[:], dense[which], atol=1e-5)
    beside = SideBySide([found, Compact.of(dense)])
    expected = np.hstack([dense, dense])[which]
    assert beside.shape == (7, 24)
    for one in (beside[rows], beside.take(which)[:]):
        np.testing.assert_allclose(one, expected, atol=1e-5)


def test_many_rows_are_led_back_in_blocks(monkeypatch, made):
    found, dense = made
    monkeypatch.setattr(arrays.row_blocks, "__defaults__", (2,))
    np.testing.assert_allclose(found[:], dense, atol=1e-5)
