"""TruncatedSVD: against a naive power iteration, scikit-learn, and the properties of the decomposition."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import TruncatedSVD as SklearnTruncatedSVD
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator

from features import reduction
from features.reduction import TruncatedSVD
from rapids_pipeline.backend import arrays
from rapids_pipeline.backend.arrays import RowSource, to_host


def matrix(n, p, decay=None):
    """A matrix with singular values of 50 times the decay, by default falling by 0.7 each."""
    rng = np.random.default_rng(0)
    decay = 0.7 ** np.arange(min(n, p)) if decay is None else decay
    left, right = np.linalg.qr(rng.normal(size=(n, n)))[0], np.linalg.qr(rng.normal(size=(p, p)))[0]
    return (left[:, : len(decay)] * decay * 50) @ right[:, : len(decay)].T


WIDE_AND_TALL = pytest.mark.parametrize(("n", "p"), [(20, 60), (60, 20), (25, 25)])


def naive_svd(A, n_components):
    """Power iteration with deflation; the entry of largest magnitude made positive."""
    A = A.copy()
    vectors, values = [], []
    for _ in range(n_components):
        v = np.ones(A.shape[1])
        for _ in range(400):
            v = A.T @ (A @ v)
            v /= np.sqrt(sum(x * x for x in v))
        v = v if v[np.argmax(np.abs(v))] > 0 else -v
        vectors.append(v)
        values.append(np.sqrt(np.sum((A @ v) ** 2)))
        A -= np.outer(A @ v, v)
    return np.array(vectors), np.array(values)


@WIDE_AND_TALL
def test_equals_power_iteration(n, p):
    A = matrix(n, p)
    vectors, values = naive_svd(A, 4)
    svd = TruncatedSVD(4).fit(A)
    np.testing.assert_allclose(svd.components_, vectors, atol=1e-5)
    np.testing.assert_allclose(svd.singular_values_, values, rtol=1e-8)


@WIDE_AND_TALL
def test_equals_scikit_learn(n, p):
    A = matrix(n, p)
    svd, reference = TruncatedSVD(6).fit(A), SklearnTruncatedSVD(6, algorithm="arpack", random_state=0).fit(A)
    np.testing.assert_allclose(svd.singular_values_, reference.singular_values_, rtol=1e-8)
    signs = np.sign(np.sum(svd.components_ * reference.components_, axis=1))[:, None]
    np.testing.assert_allclose(svd.components_, reference.components_ * signs, atol=1e-5)
    np.testing.assert_allclose(svd.transform(A), reference.transform(A) * signs.T, atol=1e-4)
    kept = np.sum(reference.transform(A) ** 2) / np.sum(A**2)
    assert svd.explained_share_ == pytest.approx(kept, abs=1e-6)
    back, theirs = (model.inverse_transform(model.transform(A)) for model in (svd, reference))
    np.testing.assert_allclose(back, theirs, atol=1e-4)


@pytest.mark.parametrize("transposed", [False, True])
def test_no_null_component_is_kept(transposed):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(10, 3)) @ rng.normal(size=(3, 40))
    svd = TruncatedSVD(8).fit(A.T if transposed else A)
    assert svd.components_.shape[0] == 3
    assert svd.get_feature_names_out().tolist() == ["svd_0", "svd_1", "svd_2"]


def test_zeros_have_no_component():
    svd = TruncatedSVD(4).fit(np.zeros((5, 7)))
    assert svd.explained_share_ == 0.0
    assert svd.transform(np.zeros((2, 7))).shape == (2, 0)
    np.testing.assert_array_equal(svd.inverse_transform(svd.transform(np.zeros((2, 7)))), np.zeros((2, 7)))


def test_one_row_alone_equals_its_row_in_a_batch():
    A = matrix(20, 60)
    svd = TruncatedSVD(4).fit(A)
    alone = np.vstack([svd.transform(row[None]) for row in A])
    np.testing.assert_allclose(alone, svd.transform(A), atol=1e-5)


def test_refusals():
    with pytest.raises(ValueError, match="n_components must be at least 1, not 0"):
        TruncatedSVD(0).fit(np.ones((3, 3)))
    with pytest.raises(ValueError, match="solver must be auto, exact or randomized, not 'arpack'"):
        TruncatedSVD(1, solver="arpack").fit(np.ones((3, 3)))
    with pytest.raises(ValueError, match="NaN"):
        TruncatedSVD(2).fit(np.array([[1.0, np.nan], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="features"):
        TruncatedSVD(1).fit(np.ones((3, 3))).transform(np.ones((2, 4)))
    with pytest.raises(NotFittedError):
        TruncatedSVD(2).transform(np.ones((2, 2)))


def test_a_scikit_learn_transformer():
    model = TruncatedSVD(7).fit(matrix(20, 60))
    given = {"n_components": 7, "solver": "auto", "random_state": 0, "products": "float64"}
    assert model.get_params() == clone(model).get_params() == given
    check_estimator(TruncatedSVD(2))


@pytest.mark.parametrize(("n", "p"), [(40, 300), (300, 40)])
def test_products_in_float32_span_the_same_space(n, p):
    A = matrix(n, p).astype(np.float32)
    exact, quick = TruncatedSVD(10).fit(A), TruncatedSVD(10, products="float32").fit(A)
    np.testing.assert_allclose(quick.singular_values_, exact.singular_values_, rtol=1e-4)
    back, wanted = (model.inverse_transform(model.transform(A)) for model in (quick, exact))
    np.testing.assert_allclose(back, wanted, atol=1e-3 * np.abs(A).max())
    assert quick.explained_share_ == pytest.approx(exact.explained_share_, rel=1e-4)
    low = np.outer(np.arange(1, n + 1), np.ones(p)).astype(np.float32)
    assert len(TruncatedSVD(10, products="float32").fit(low).singular_values_) == 1
    with pytest.raises(ValueError, match="products must be float64 or float32"):
        TruncatedSVD(10, products="float16").fit(A)


@pytest.mark.parametrize(("n", "p"), [(150, 400), (400, 150)])
def test_randomized_equals_exact_where_the_spectrum_decays(n, p):
    A = matrix(n, p, decay=1 / np.arange(1, min(n, p) + 1))
    exact, found = TruncatedSVD(10, "exact").fit(A), TruncatedSVD(10, "randomized", random_state=3).fit(A)
    np.testing.assert_allclose(found.singular_values_, exact.singular_values_, rtol=1e-6)
    np.testing.assert_allclose(found.components_, exact.components_, atol=1e-4)
    assert found.explained_share_ == pytest.approx(exact.explained_share_, rel=1e-6)
    for seed in (3, 4):
        again = TruncatedSVD(10, "randomized", random_state=seed).fit(A)
        assert (again.components_.tobytes() == found.components_.tobytes()) == (seed == 3)


def test_auto_is_randomized_where_both_sides_are_large(monkeypatch):
    A, asked = matrix(40, 60), []
    original = reduction._leading_columns
    monkeypatch.setattr(
        reduction, "_leading_columns", lambda *arguments: asked.append(1) or original(*arguments)
    )
    exact = TruncatedSVD(3).fit(A).components_
    assert not asked
    monkeypatch.setattr(reduction, "EXACT_UP_TO", 39)
    np.testing.assert_allclose(TruncatedSVD(3).fit(A).components_, exact, atol=1e-5)
    assert asked


@pytest.mark.parametrize("solver", ["exact", "randomized"])
@pytest.mark.parametrize("library", ["array_api_strict", "torch"])
@WIDE_AND_TALL
def test_every_array_library_runs_the_same_lines(n, p, library, solver):
    xp = pytest.importorskip(library)
    A = matrix(n, p)
    svd, reference = TruncatedSVD(4, solver), TruncatedSVD(4, solver).fit(A)
    scores = svd.fit(xp.asarray(A)).transform(xp.asarray(A))
    for made in (scores, svd.components_):
        assert isinstance(made, type(xp.asarray(A))) and made.dtype == xp.float32
    np.testing.assert_allclose(to_host(svd.components_), reference.components_, atol=1e-5)
    np.testing.assert_allclose(to_host(scores), reference.transform(A), atol=1e-4)
    back = svd.inverse_transform(scores)
    np.testing.assert_allclose(to_host(back), reference.inverse_transform(reference.transform(A)), atol=1e-4)
    with pytest.raises(ValueError, match="features"):
        svd.transform(xp.asarray(A[:, :3]))
    with pytest.raises(ValueError, match="finite"):
        svd.fit(xp.asarray(A * np.nan))


class Made(RowSource):
    """A matrix that is made when its rows are asked for, and says how many at once at most."""

    def __init__(self, A):
        self.A, self.most = A, 0

    @property
    def shape(self):
        return self.A.shape

    def __getitem__(self, rows):
        found = self.A[rows]
        self.most = max(self.most, len(found))
        return found

    def take(self, which):
        return Made(self.A[which])


@pytest.mark.parametrize("products", ["float64", "float32"])
def test_a_large_matrix_is_read_by_blocks_and_need_not_be_there(monkeypatch, products):
    """Its components and scores are those of the exact way, on all of it at once."""
    A = matrix(90, 70).astype(np.float32)
    exact = TruncatedSVD(4, products=products).fit(A)
    monkeypatch.setattr(reduction, "EXACT_UP_TO", 10)
    monkeypatch.setattr(arrays.row_blocks, "__defaults__", (16,))
    for given in (A, made := Made(A)):
        found = TruncatedSVD(4, products=products).fit(given)
        np.testing.assert_allclose(found.components_, exact.components_, atol=2e-5)
        np.testing.assert_allclose(found.singular_values_, exact.singular_values_, rtol=1e-5)
        assert found.explained_share_ == pytest.approx(exact.explained_share_, rel=1e-5)
        np.testing.assert_allclose(found.transform(given), exact.transform(A), atol=1e-3)
    assert made.most == 16
    monkeypatch.setattr(reduction, "EXACT_UP_TO", 70)
    again = TruncatedSVD(4, products=products).fit(Made(A))
    assert again.components_.tobytes() == exact.components_.tobytes(), "a small one is made whole"
