"""Transforms of the targets: there and back, what they learn, and the bias of the way back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import StateReader
from rapids_pipeline.stack.target_transforms import TRANSFORMS, TargetTransform


def targets(seed=0, n=30, t=7):
    rng = np.random.default_rng(seed)
    return (rng.standard_t(3, size=(n, t)) * np.geomspace(0.1, 10, t)).astype(np.float32)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_way_back_gives_the_targets(name):
    Y = targets()
    transform = TargetTransform(name, 0.7).fit(Y)
    np.testing.assert_allclose(transform.back(transform.forward(Y)), Y, rtol=1e-5, atol=1e-6)
    again = TargetTransform(name, 0.7).restore(StateReader(transform.state(), "saved"), 7)
    assert np.array_equal(again.back(transform.forward(Y)), transform.back(transform.forward(Y)))


def test_formulas():
    Y = targets()
    rms = np.sqrt((Y.astype(float) ** 2).mean())
    np.testing.assert_allclose(
        TargetTransform("asinh", 2.0).fit(Y).forward(Y), np.arcsinh(Y / (2 * rms)), rtol=1e-5
    )
    by_gene = (Y.astype(float) ** 2).mean(axis=0)
    expected = Y / (by_gene / by_gene.mean()) ** 0.25
    np.testing.assert_allclose(TargetTransform("gene_scale").fit(Y).forward(Y), expected, rtol=1e-5)
    assert np.array_equal(TargetTransform("none").fit(Y).forward(Y), Y)


@given(st.floats(1e-3, 1e3), st.sampled_from(["asinh", "gene_scale"]))
def test_the_unit_of_the_targets_does_not_matter(unit, name):
    Y = targets()
    there = TargetTransform(name, 1.5).fit(Y).forward(Y)
    scaled = TargetTransform(name, 1.5).fit(Y * np.float32(unit)).forward(Y * np.float32(unit))
    np.testing.assert_allclose(
        scaled, there * (unit if name == "gene_scale" else 1), rtol=1e-4, atol=1e-5 * unit
    )


def test_the_way_back_from_asinh_is_nearer_to_zero_than_the_mean_response():
    """With z normal of spread σ about its expectation, sinh E[z] = E[sinh z] · exp(−σ²/2)."""
    rng = np.random.default_rng(0)
    z = 1.2 + 0.5 * rng.normal(size=200_000)
    transform = TargetTransform("asinh", 2.0).fit(np.ones((2, 1), dtype=np.float32))
    mean_response = (2 * np.sinh(z)).mean()
    predicted = float(transform.back(np.array([[z.mean()]]))[0, 0])
    assert predicted == pytest.approx(mean_response * np.exp(-(0.5**2) / 2), rel=0.01)


def test_constant_and_zero_targets_stay_finite():
    for Y in (np.zeros((4, 3), np.float32), np.array([[0, 1], [0, 1]], np.float32)):
        for name in TRANSFORMS:
            transform = TargetTransform(name).fit(Y)
            np.testing.assert_allclose(transform.back(transform.forward(Y)), Y, atol=1e-6)


def test_what_cannot_be_used_is_named():
    with pytest.raises(InputError, match="no target transform 'log'; choose among none, asinh, gene_scale"):
        TargetTransform("log")
    with pytest.raises(InputError, match="scale of a target transform must be above 0"):
        TargetTransform("asinh", 0.0)
    with pytest.raises(InputError, match="unit of the targets is not above 0"):
        TargetTransform("none").restore(StateReader({"unit": np.zeros(3)}, "saved"), 3)
