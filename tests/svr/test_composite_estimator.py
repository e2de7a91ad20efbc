"""`MultiTargetSVR` on composite kernels: pairs in, and the same solution as on the Gram matrix by hand."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import KFold, cross_val_predict

from features.rows import Rows
from rapids_pipeline.backend.arrays import to_host
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.demo import simulate
from rapids_pipeline.kernels.composite import CompositeKernel
from rapids_pipeline.svr import cross_validation
from rapids_pipeline.svr.estimator import MultiTargetSVR, pairs_of

KERNEL = CompositeKernel({"cell_type": 1.0, "tanimoto": 0.5, "correlation * profile_linear": 2.0})
COLUMNS = ["cell_type", "sm_name", "SMILES"]


@pytest.fixture(scope="module")
def data():
    frame = simulate(0, 6).de_train.iloc[:150].reset_index(drop=True)
    genes = [column for column in frame.columns if frame[column].dtype == np.float32]
    return frame[COLUMNS], frame[genes]


def by_hand(pairs, Y, asked, **how):
    """Learn the kernel from the centred targets, and solve on its Gram matrix."""
    Y = Y.to_numpy(np.float64)
    learnt = KERNEL.learn(pairs_of(pairs, KERNEL), Y - Y.mean(axis=0))
    model = MultiTargetSVR(kernel="precomputed", **how).fit(learnt.gram(Y), Y)
    return model.predict(learnt.between(pairs_of(asked, KERNEL), Y))


@pytest.mark.parametrize(
    "how", [{"engine": "douglas-rachford"}, {"engine": "smo"}, {"engine": "ridge", "epsilon": 0.0}]
)
def test_it_solves_on_the_kernels_gram_matrix(data, how):
    X, Y = data
    model = MultiTargetSVR(kernel=KERNEL, **how).fit(X.iloc[:120], Y.iloc[:120])
    found, expected = model.predict(X.iloc[120:]), by_hand(X.iloc[:120], Y.iloc[:120], X.iloc[120:], **how)
    assert found.shape == (30, 6) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=5e-3)
    assert model.converged_.all()


def test_rows_data_frames_and_other_libraries_are_taken(data):
    X, Y = data
    frame = MultiTargetSVR(kernel=KERNEL, engine="douglas-rachford").fit(X, Y)
    molecules = {"morgan": pairs_of(X, KERNEL).levels.molecules["morgan"][pairs_of(X, KERNEL).molecule]}
    rows = MultiTargetSVR(kernel=KERNEL, engine="douglas-rachford").fit(Rows(X, molecules), Y)
    assert np.array_equal(frame.predict(X), rows.predict(Rows(X, molecules)))
    tensor = MultiTargetSVR(kernel=KERNEL).fit(X, torch.asarray(Y.to_numpy()))
    found = tensor.predict(X)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(to_host(found), frame.predict(X), atol=5e-3)
    one = MultiTargetSVR(kernel=KERNEL).fit(X, Y.iloc[:, 0])
    assert one.predict(X).shape == (150,)


def test_scikit_learns_cross_validation_learns_the_kernel_in_every_fold(data):
    X, Y = data
    model = MultiTargetSVR(kernel=KERNEL, engine="ridge", epsilon=0.0)
    folds = KFold(3, shuffle=True, random_state=0)
    before = cross_val_predict(model, X, Y, cv=folds)
    inside, outside = next(iter(folds.split(X)))
    expected = clone(model).fit(X.iloc[inside], Y.iloc[inside]).predict(X.iloc[outside])
    np.testing.assert_allclose(before[outside], expected, atol=1e-6)
    changed = Y.copy()
    changed.iloc[outside] += 1000
    after = cross_val_predict(model, X, changed, cv=folds)
    np.testing.assert_allclose(after[outside], before[outside], atol=1e-6)
    assert np.abs(after - before).max() > 1


def test_what_cannot_be_used_is_named(data):
    X, Y = data
    with pytest.raises(InputError, match="needs a data frame of pairs"):
        MultiTargetSVR(kernel=KERNEL).fit(np.zeros((150, 2)), Y)
    with pytest.raises(InputError, match="no column SMILES, which morgan reads"):
        MultiTargetSVR(kernel=KERNEL).fit(X[["cell_type", "sm_name"]], Y)
    with pytest.raises(InputError, match="use scikit-learn's cross_val_predict"):
        cross_validation.cross_val_predict(MultiTargetSVR(kernel=KERNEL), X, Y, np.arange(150) % 3)
