"""The spaces of targets: against naive sums and scikit-learn, round trips, and their states."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.decomposition import TruncatedSVD as SklearnTruncatedSVD
from sklearn.exceptions import NotFittedError

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import StateReader
from rapids_pipeline.stack.target_space import TARGET_SPACES, AsinhTargets, TargetSpace, target_space


def targets(n=60, t=150, seed=0):
    rng = np.random.default_rng(seed)
    Y = rng.normal(size=(n, 12)) @ rng.normal(size=(12, t)) + 3 * rng.normal(size=t) + rng.normal(size=(n, t))
    return Y.astype(np.float32)


def stretched(Y, scale=2.0):
    return np.arcsinh(Y.astype(float) / scale)


@pytest.mark.parametrize("name", TARGET_SPACES)
def test_all_components_give_the_targets_back(name):
    Y, other = targets(), targets(20, seed=1)
    space = target_space(name, 1000)
    scores = space.components_for(Y)
    assert scores.dtype == np.float32 and len(scores) == 60
    back = space.inverse_transform(scores)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, Y, atol=2e-4)
    assert space.explained_share_ == pytest.approx(1.0)
    np.testing.assert_allclose(space.transform(Y), scores, atol=1e-4)
    assert space.inverse_transform(space.transform(other)).shape == other.shape


def test_pca_asinh_is_the_pca_of_scikit_learn():
    Y, other = targets(), targets(20, seed=1)
    space, reference = target_space("pca_asinh", 5), PCA(5, svd_solver="full").fit(stretched(Y))
    scores, theirs = space.components_for(Y), reference.transform(stretched(Y))
    signs = np.sign(np.sum(scores * theirs, axis=0))
    np.testing.assert_allclose(scores, theirs * signs, atol=1e-4)
    np.testing.assert_allclose(
        space.transform(other), reference.transform(stretched(other)) * signs, atol=1e-4
    )
    assert space.explained_share_ == pytest.approx(reference.explained_variance_ratio_.sum(), rel=1e-6)
    back = 2.0 * np.sinh(reference.inverse_transform(theirs))
    np.testing.assert_allclose(space.inverse_transform(scores), back, rtol=1e-3, atol=1e-3)


def test_svd_is_that_of_scikit_learn():
    Y = targets()
    space, reference = target_space("svd", 5), SklearnTruncatedSVD(5, algorithm="arpack", random_state=0)
    scores, theirs = space.components_for(Y), reference.fit_transform(Y.astype(float))
    signs = np.sign(np.sum(scores * theirs, axis=0))
    np.testing.assert_allclose(scores, theirs * signs, atol=1e-3)
    assert type(space) is TargetSpace


def test_pca_asinh_by_naive_sums():
    Y = targets(8, 5)
    space = AsinhTargets(2, scale=0.5)
    scores = space.components_for(Y)
    z = np.array([[np.log(v + np.sqrt(v * v + 1)) for v in row] for row in Y.astype(float) / 0.5])
    mean = [sum(column) / len(z) for column in z.T]
    V = space.svd_.components_.astype(float)
    for row, found in zip(z, scores, strict=True):
        for k in range(2):
            assert found[k] == pytest.approx(sum((row[g] - mean[g]) * V[k, g] for g in range(5)), abs=1e-5)
    back = space.inverse_transform(scores)
    for i in range(len(Y)):
        for g in range(5):
            value = sum(scores[i, k] * V[k, g] for k in range(2)) + mean[g]
            assert back[i, g] == pytest.approx(0.5 * (np.exp(value) - np.exp(-value)) / 2, rel=1e-4, abs=1e-5)


def test_pca_asinh_comes_back_smaller_than_the_mean_response():
    """The stated bias: sinh of an expected z is below the expected sinh by about exp(−σ²/2)."""
    rng = np.random.default_rng(0)
    z = 3.0 + 0.5 * rng.normal(size=(200_000, 1))
    Y = (2.0 * np.sinh(z)).astype(np.float32)
    space = target_space("pca_asinh", 1)
    space.components_for(Y)
    predicted = space.inverse_transform(np.zeros((1, 1), np.float32))[0, 0]
    assert predicted / Y.mean() == pytest.approx(np.exp(-0.5 * 0.5**2), rel=1e-2)


@pytest.mark.parametrize("name", TARGET_SPACES)
def test_a_state_gives_the_same_bits(name):
    Y, other = targets(), targets(20, seed=1)
    space = target_space(name, 7)
    scores = space.components_for(Y)
    read = type(space).from_state(StateReader(space.state(), "test"))
    assert np.asarray(read.transform(other)).tobytes() == np.asarray(space.transform(other)).tobytes()
    assert read.inverse_transform(scores).tobytes() == space.inverse_transform(scores).tobytes()
    assert read.explained_share_ == space.explained_share_


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": np.zeros(3, np.float32)}, r"mean must be float32 \(150\)"),
        ({"mean": np.full(150, np.nan, np.float32)}, "mean holds values that are not finite"),
        ({"scale": 0.0}, r"scale 0\.0 is not above 0"),
        ({"scale": "2"}, "scale is no finite number"),
        ({"svd": None}, "svd has no parts"),
    ],
)
def test_damaged_states_are_refused_in_one_line(change, message):
    space = target_space("pca_asinh", 3)
    space.components_for(targets())
    with pytest.raises(InputError, match=message) as caught:
        AsinhTargets.from_state(StateReader(dict(space.state()) | change, "DIR/model"))
    assert "\n" not in str(caught.value) and "DIR/model" in str(caught.value)


def test_other_refusals():
    with pytest.raises(InputError, match="no target space 'ica'; choose among svd, none, pca_asinh"):
        target_space("ica", 3)
    with pytest.raises(InputError, match="a space of targets as they are has no mean"):
        TARGET_SPACES["none"].from_state(StateReader({"mean": 0}, "DIR/model"))
    with pytest.raises(InputError, match="the scale of pca_asinh must be above 0, not -1"):
        AsinhTargets(3, scale=-1).components_for(targets())
    with pytest.raises(NotFittedError):
        target_space("pca_asinh", 3).inverse_transform(np.zeros((1, 3)))
