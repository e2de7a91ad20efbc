"""The contrast of a blend: against loops, alone as in a batch, saved and read."""

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import StateReader
from rapids_pipeline.stack.contrast import (
    CELL_TYPE_PENALTY,
    COMPONENTS,
    COMPOUND_PENALTY,
    Choice,
    Contrast,
    Effects,
    evened,
)
from tests.stack_example import example

CHOICE = Choice(1.3, 0.4, 0.3, 0.25)


@pytest.fixture(scope="module")
def rows():
    train, test, Y = example()
    return train.obs, test.obs, Y


@pytest.fixture(scope="module")
def effects(rows):
    return Effects.of(rows[0], rows[2])


def naive_means(obs, Y):
    """m + a_c of the ridge model, with its indicators written out."""
    cells, compounds = sorted(set(obs["cell_type"])), sorted(set(obs["sm_name"]))
    Z = np.array(
        [
            [*(c == cell for cell in cells), *(s == one for one in compounds)]
            for c, s in zip(obs["cell_type"], obs["sm_name"], strict=True)
        ],
        dtype=float,
    )
    penalty = np.diag([CELL_TYPE_PENALTY] * len(cells) + [COMPOUND_PENALTY] * len(compounds))
    mean = Y.astype(float).mean(axis=0)
    found = np.linalg.solve(Z.T @ Z + penalty, Z.T @ (Y - mean))
    return dict(zip(cells, mean + found[: len(cells)], strict=True)), mean


def naive(obs, Y, blended, pairs, choice, scale, radius):
    """Formula by formula, a row at a time."""
    means, overall = naive_means(obs, Y)
    residual = np.array([y - means[c] for y, c in zip(Y.astype(float), obs["cell_type"], strict=True)])
    _, s, Vt = np.linalg.svd(residual, full_matrices=False)
    s, Vt = s[:COMPONENTS] / s[0], Vt[:COMPONENTS]
    found = []
    for p, c, name in zip(blended.astype(float), pairs["cell_type"], pairs["sm_name"], strict=True):
        m = means.get(c, overall)
        own = residual[(obs["sm_name"] == name).to_numpy()]
        d = own.mean(axis=0) if len(own) else np.zeros(len(m))
        inside = sum(s[k] ** -choice.gain * Vt[k] * (Vt[k] @ (p - m)) for k in range(len(s)))
        outside = (p - m - Vt.T @ (Vt @ (p - m))) * s[-1] ** -choice.gain
        v = choice.amplitude * (inside + outside) / scale + choice.weight * d
        r = np.sqrt(np.mean(v**2))
        found.append(m + v * (r / radius) ** -choice.evenness)
    return np.array(found)


def asked(pairs):
    """Pairs, one of a new cell type and one of a new compound among them."""
    return pd.concat(
        [
            pairs,
            pd.DataFrame({"cell_type": ["cell 1", "a new one"], "sm_name": ["a new one", "drug 03"]}),
        ],
        ignore_index=True,
    )


@pytest.mark.parametrize("choice", [CHOICE, Choice(2.0), Choice(1.0, 0.5), Choice(1.0, 0.0, 0.0, 0.5)])
def test_is_its_formula(rows, effects, choice):
    obs, test, Y = rows
    pairs = asked(test)
    blended = np.random.default_rng(1).normal(size=(len(pairs), Y.shape[1])).astype(np.float32)
    found = Contrast(choice, effects, 1.7, 0.8).apply(blended, pairs)
    expected = naive(obs, Y, blended, pairs, choice, 1.7, 0.8)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)
    assert found.dtype == np.float32


def test_no_contrast_leaves_predictions_as_they_are(rows, effects):
    blended = np.random.default_rng(1).normal(size=(len(rows[1]), rows[2].shape[1])).astype(np.float32)
    np.testing.assert_allclose(
        Contrast(Choice(), effects, 1.0, 1.0).apply(blended, rows[1]), blended, atol=1e-6
    )


def test_a_row_alone_is_the_row_in_a_batch(rows, effects):
    pairs = asked(rows[1])
    blended = np.random.default_rng(2).normal(size=(len(pairs), rows[2].shape[1])).astype(np.float32)
    contrast = Contrast(CHOICE, effects, 1.2, 0.9)
    alone = [contrast.apply(blended[[k]], pairs.iloc[[k]])[0] for k in range(len(pairs))]
    np.testing.assert_allclose(alone, contrast.apply(blended, pairs), rtol=0, atol=1e-5)


def test_weak_rows_are_amplified_more_than_strong_ones():
    factors = evened(np.array([0.0, 0.5, 1.0, 2.0]), 1.0, 0.5)
    np.testing.assert_allclose(factors, [1, 2**0.5, 1, 2**-0.5])


def test_is_read_as_it_was_saved(rows, effects):
    contrast = Contrast(CHOICE, effects, 1.2, 0.9)
    n = rows[2].shape[1]
    read = Contrast.from_state(StateReader(contrast.state(), "model"), n)
    blended = np.random.default_rng(3).normal(size=(len(rows[1]), n)).astype(np.float32)
    np.testing.assert_array_equal(read.apply(blended, rows[1]), contrast.apply(blended, rows[1]))
    assert read.choice == CHOICE


@pytest.mark.parametrize(
    "changed",
    [{"choice": [1.0]}, {"radius": 0.0}, {"means": np.zeros((1, 2), np.float32)}, {"sizes": np.zeros(3)}],
)
def test_a_damaged_one_is_refused(rows, effects, changed):
    state = Contrast(CHOICE, effects, 1.2, 0.9).state() | changed
    with pytest.raises(InputError, match="model"):
        Contrast.from_state(StateReader(state, "model"), rows[2].shape[1])
