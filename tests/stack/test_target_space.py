"""Spaces of targets: formulas, naive sums, scikit-learn, there and back, their bias and their states."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.decomposition import TruncatedSVD as SklearnTruncatedSVD

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import StateReader
from rapids_pipeline.stack.target_space import TRANSFORMS, TargetSpace

SPACES = {
    "svd": {},
    "genes": {"n_components": None},
    "pca": {"centre": True},
    "asinh": {"transform": "asinh", "scale": 2.0, "centre": True, "products": "float32"},
    "asinh, not centred": {"transform": "asinh", "scale": 0.7},
    "gene_scale": {"transform": "gene_scale", "centre": True},
    "gene_scale of genes": {"transform": "gene_scale", "n_components": None, "centre": True},
}


def targets(n=60, t=150, seed=0):
    rng = np.random.default_rng(seed)
    Y = rng.normal(size=(n, 12)) @ rng.normal(size=(12, t)) + 3 * rng.normal(size=t) + rng.normal(size=(n, t))
    return Y.astype(np.float32)


def uneven(seed=0, n=30, t=7):
    rng = np.random.default_rng(seed)
    return (rng.standard_t(3, size=(n, t)) * np.geomspace(0.1, 10, t)).astype(np.float32)


def genes(transform, scale=1.0):
    """A space of the transformed genes alone."""
    return TargetSpace(None, transform, scale)


@pytest.mark.parametrize("name", SPACES)
def test_all_components_give_the_targets_back(name):
    Y, other = targets(), targets(20, seed=1)
    space = TargetSpace(**{"n_components": 1000} | SPACES[name])
    scores = space.components_for(Y)
    assert scores.dtype == np.float32 and len(scores) == 60
    back = space.inverse_transform(scores)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, Y, atol=3e-3)
    assert space.explained_share_ == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(space.transform(Y), scores, atol=1e-4)
    assert space.inverse_transform(space.transform(other)).shape == other.shape


def test_svd_is_that_of_scikit_learn():
    Y = targets()
    space, reference = TargetSpace(5), SklearnTruncatedSVD(5, algorithm="arpack", random_state=0)
    scores, theirs = space.components_for(Y), reference.fit_transform(Y.astype(float))
    signs = np.sign(np.sum(scores * theirs, axis=0))
    np.testing.assert_allclose(scores, theirs * signs, atol=1e-3)
    np.testing.assert_allclose(space.singular_values, reference.singular_values_, rtol=1e-6)


@pytest.mark.parametrize("products", ["float64", "float32"])
def test_centred_components_of_asinh_are_the_pca_of_scikit_learn(products):
    Y, other = targets(), targets(20, seed=1)
    unit = 2.0 * np.sqrt((Y.astype(float) ** 2).mean())
    space = TargetSpace(5, "asinh", 2.0, centre=True, products=products)
    reference = PCA(5, svd_solver="full").fit(np.arcsinh(Y.astype(float) / unit))
    scores, theirs = space.components_for(Y), reference.transform(np.arcsinh(Y.astype(float) / unit))
    signs = np.sign(np.sum(scores * theirs, axis=0))
    np.testing.assert_allclose(scores, theirs * signs, atol=1e-4)
    expected = reference.transform(np.arcsinh(other.astype(float) / unit)) * signs
    np.testing.assert_allclose(space.transform(other), expected, atol=1e-4)
    assert space.explained_share_ == pytest.approx(reference.explained_variance_ratio_.sum(), rel=1e-5)
    back = unit * np.sinh(reference.inverse_transform(theirs))
    np.testing.assert_allclose(space.inverse_transform(scores), back, rtol=1e-3, atol=1e-3)


def test_centred_components_by_naive_sums():
    Y = targets(8, 5)
    space = TargetSpace(2, "asinh", 0.5, centre=True)
    z, scores = space.learn(Y)
    unit = 0.5 * (sum(float(y) ** 2 for y in Y.flat) / Y.size) ** 0.5
    naive = [[np.log(v + np.sqrt(v * v + 1)) for v in row] for row in Y.astype(float) / unit]
    mean = [sum(column) / len(naive) for column in zip(*naive, strict=True)]
    V = space.svd_.components_.astype(float)
    for row, centred, found in zip(naive, z, scores, strict=True):
        assert list(centred) == pytest.approx([row[g] - mean[g] for g in range(5)], abs=1e-5)
        for k in range(2):
            assert found[k] == pytest.approx(sum((row[g] - mean[g]) * V[k, g] for g in range(5)), abs=1e-5)
    back = space.inverse_transform(scores)
    for i in range(len(Y)):
        for g in range(5):
            value = sum(scores[i, k] * V[k, g] for k in range(2)) + mean[g]
            expected = unit * (np.exp(value) - np.exp(-value)) / 2
            assert back[i, g] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_formulas_of_the_transforms():
    Y = uneven()
    rms = np.sqrt((Y.astype(float) ** 2).mean())
    np.testing.assert_allclose(genes("asinh", 2.0).components_for(Y), np.arcsinh(Y / (2 * rms)), rtol=1e-5)
    by_gene = (Y.astype(float) ** 2).mean(axis=0)
    expected = Y / (by_gene / by_gene.mean()) ** 0.25
    np.testing.assert_allclose(genes("gene_scale").components_for(Y), expected, rtol=1e-5)
    assert np.array_equal(genes("none").components_for(Y), Y)


@given(st.floats(1e-3, 1e3), st.sampled_from(["asinh", "gene_scale"]))
def test_the_unit_of_the_targets_does_not_matter(unit, name):
    Y = uneven()
    there = genes(name, 1.5).components_for(Y)
    scaled = genes(name, 1.5).components_for(Y * np.float32(unit))
    np.testing.assert_allclose(
        scaled, there * (unit if name == "gene_scale" else 1), rtol=1e-4, atol=1e-5 * unit
    )


def test_the_way_back_from_asinh_is_nearer_to_zero_than_the_mean_response():
    """With z normal of spread σ about its expectation, sinh E[z] = E[sinh z] · exp(−σ²/2)."""
    rng = np.random.default_rng(0)
    z = 1.2 + 0.5 * rng.normal(size=200_000)
    space = genes("asinh", 2.0)
    space.learn(np.ones((2, 1), dtype=np.float32))
    mean_response = (2 * np.sinh(z)).mean()
    predicted = float(space.back(np.array([[z.mean()]]))[0, 0])
    assert predicted == pytest.approx(mean_response * np.exp(-(0.5**2) / 2), rel=0.01)


def test_constant_and_zero_targets_stay_finite():
    for Y in (np.zeros((4, 3), np.float32), np.array([[0, 1], [0, 1]], np.float32)):
        for name in TRANSFORMS:
            space = genes(name)
            np.testing.assert_allclose(space.back(space.components_for(Y)), Y, atol=1e-6)


@pytest.mark.parametrize("name", SPACES)
def test_a_state_gives_the_same_bits(name):
    Y, other = targets(), targets(20, seed=1)
    settings = {"n_components": 7} | SPACES[name]
    space = TargetSpace(**settings)
    scores = space.components_for(Y)
    read = TargetSpace(**settings).restore(StateReader(space.state(), "test"))
    assert read.transform(other).tobytes() == space.transform(other).tobytes()
    assert read.inverse_transform(scores).tobytes() == space.inverse_transform(scores).tobytes()
    assert read.explained_share_ == space.explained_share_


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": np.zeros(3, np.float32)}, r"mean must be float32 \(150\)"),
        ({"mean": np.full(150, np.nan, np.float32)}, "mean holds values that are not finite"),
        ({"unit": np.zeros(150)}, "a unit of the targets is not above 0"),
        ({"unit": np.ones(7)}, "mean must be float32"),
        ({"svd": None}, "svd has no parts"),
        ({"scale": 2.0}, "this space of targets has no scale"),
    ],
)
def test_damaged_states_are_refused_in_one_line(change, message):
    settings = {"n_components": 3, "transform": "asinh", "centre": True}
    space = TargetSpace(**settings)
    space.components_for(targets())
    with pytest.raises(InputError, match=message) as caught:
        TargetSpace(**settings).restore(StateReader(dict(space.state()) | change, "DIR/model"))
    assert "\n" not in str(caught.value) and "DIR/model" in str(caught.value)


def test_components_of_other_targets_are_refused():
    one, other = TargetSpace(3), TargetSpace(3)
    one.components_for(targets(t=20)), other.components_for(targets(t=30))
    with pytest.raises(InputError, match="the components are of 30 targets"):
        TargetSpace(3).restore(StateReader({**one.state(), "svd": other.state()["svd"]}, "DIR/model"))


def test_what_cannot_be_used_is_named():
    with pytest.raises(InputError, match="no target transform 'log'; choose among none, asinh, gene_scale"):
        TargetSpace(3, "log")
    with pytest.raises(InputError, match="scale of a target transform must be above 0"):
        TargetSpace(3, "asinh", 0.0)
