"""Kernel machines on CuPy are those on NumPy: learnt, solved and predicting. Stand-in: PyTorch on the CPU."""

import numpy as np
import pytest

from features.molecules.encoders import encode_molecules
from features.rows import Pairs, Rows
from rapids_pipeline.backend.arrays import is_on_cuda, to_host
from rapids_pipeline.data.demo import simulate
from rapids_pipeline.kernels.composite import CompositeKernel
from rapids_pipeline.stack.members import kernel_model as composite_model
from rapids_pipeline.stack.members.kernel_model import KernelModelConfig, fit_kernel_model
from rapids_pipeline.svr import kernel_ridge

KERNEL = CompositeKernel(
    {
        "cell_type": 1.0,
        "tanimoto": 0.5,
        "correlation * tanimoto^2": 1.0,
        "correlation * profile_linear": 3.0,
        "profile_cosine": 0.5,
        "correlation * profile_rbf": 1.0,
    }
)


@pytest.fixture(scope="module")
def data():
    frame = simulate(0, 60).de_train.iloc[::2].reset_index(drop=True)
    genes = [column for column in frame.columns if frame[column].dtype == np.float32]
    rows = Rows(frame, encode_molecules(KERNEL.encoders, list(frame["SMILES"])).training)
    return Pairs.of(rows, KERNEL.encoders), frame[genes].to_numpy(np.float32)


@pytest.mark.parametrize("transform", ["none", "asinh", "gene_scale"])
@pytest.mark.parametrize("targets", ["components", "genes"])
def test_a_machine(moved, monkeypatch, data, transform, targets):
    rows, Y = data
    config = KernelModelConfig(
        weights=dict(KERNEL.weights),
        n_components=20,
        transform=transform,
        targets=targets,
        noise_exponent=0.2,
    )
    some, others = np.arange(250), np.arange(250, len(Y))
    here = fit_kernel_model(config, rows.take(some), Y[some], "cpu").predict(rows.take(others))
    used = []
    monkeypatch.setattr(composite_model, "to_device", lambda x, _: used.append(moved(x)) or used[-1])
    there = fit_kernel_model(config, rows.take(some), Y[some], "cpu").predict(rows.take(others))
    assert used and all(is_on_cuda(x) == is_on_cuda(moved(Y)) and not isinstance(x, np.ndarray) for x in used)
    np.testing.assert_allclose(there, here, atol=2e-3 * np.abs(Y).max())


def test_kernel_ridge(moved, data):
    rows, Y = data
    K = KERNEL.learn(rows, Y.astype(np.float64)).gram(Y)
    C = np.geomspace(0.1, 10, Y.shape[1])[None, :] * np.linspace(0.5, 1, len(Y))[:, None]
    there = kernel_ridge.solve(moved(K), moved(Y), C=moved(C), epsilon=0.0)
    here = kernel_ridge.solve(K, Y, C=C, epsilon=0.0)
    assert is_on_cuda(there.dual_coef) == is_on_cuda(moved(K)) and to_host(there.converged).all()
    np.testing.assert_allclose(
        to_host(there.dual_coef), here.dual_coef, atol=1e-6 * np.abs(here.dual_coef).max()
    )
