"""Losses of nets: against plain NumPy, with finite gradients, and the identity of MRRMSE in components."""

import numpy as np
import pytest
import torch

from rapids_pipeline.nets.losses import LOSSES, loss_of_rows

ERRORS = (0.0, 0.1, -0.1, 20.0, -20.0, 300.0, -300.0)


def entropy_with_logits(logit, label):
    return max(logit, 0) - logit * label + np.log1p(np.exp(-abs(logit)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x)) if x > -700 else 0.0


NAIVE = {
    "mse": lambda y, t: (y - t) ** 2,
    "mae": lambda y, t: abs(y - t),
    "huber": lambda y, t: 0.5 * (y - t) ** 2 if abs(y - t) <= 1 else abs(y - t) - 0.5,
    "log_cosh": lambda y, t: np.logaddexp((y - t) / 3, -(y - t) / 3) - np.log(2),
    "sigmoid_bce": lambda y, t: entropy_with_logits(y, sigmoid(t)) - entropy_with_logits(t, sigmoid(t)),
}


@pytest.mark.parametrize("name", NAIVE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_each_loss_is_that_of_plain_numpy_and_its_gradient_is_finite(name, dtype):
    for target in (0.0, 0.7, -2.0):
        for error in ERRORS:
            y = torch.tensor([[target + error, target]], dtype=dtype, requires_grad=True)
            found = LOSSES[name](y, torch.full((1, 2), target, dtype=dtype))
            naive = NAIVE[name](target + error, target) / 2
            assert found.item() == pytest.approx(
                naive, rel=2e-6, abs=1e-7 if dtype == torch.float32 else 1e-12
            )
            found.sum().backward()
            assert torch.isfinite(y.grad).all()


def test_the_gradient_of_sigmoid_bce_does_not_vanish_far_out():
    y = torch.tensor([[30.0]], requires_grad=True)
    LOSSES["sigmoid_bce"](y, torch.zeros(1, 1)).sum().backward()
    assert y.grad.item() == pytest.approx(0.5)


def test_mrrmse_is_the_root_of_the_rows_mean_square_and_smooth_at_zero_error():
    rng = np.random.default_rng(0)
    y, target = rng.normal(size=(2, 5, 8))
    found = LOSSES["mrrmse"](torch.tensor(y), torch.tensor(target))
    np.testing.assert_allclose(found.numpy(), np.sqrt(((y - target) ** 2).mean(1)), rtol=1e-9)
    zero = torch.zeros(1, 8, requires_grad=True)
    LOSSES["mrrmse"](zero, torch.zeros(1, 8)).sum().backward()
    assert torch.isfinite(zero.grad).all()


def test_mrrmse_in_orthonormal_components_is_that_of_the_genes_but_for_a_factor():
    rng = np.random.default_rng(1)
    k, t, n = 6, 40, 9
    V = np.linalg.qr(rng.normal(size=(t, k)))[0]
    z, target = rng.normal(size=(2, n, k))
    in_components = LOSSES["mrrmse"](torch.tensor(z), torch.tensor(target)).numpy()
    in_genes = np.sqrt((((z - target) @ V.T) ** 2).mean(1))
    np.testing.assert_allclose(in_components * np.sqrt(k / t), in_genes, rtol=1e-9)


def test_a_weighted_sum_is_the_sum_of_its_parts():
    y, target = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    published = {"mse": 0.32, "mae": 0.24, "log_cosh": 0.24, "sigmoid_bce": 0.2}
    expected = sum(weight * LOSSES[name](y, target) for name, weight in published.items())
    found = loss_of_rows(y, target, published)
    assert found.shape == (3, 4)
    torch.testing.assert_close(found, expected)
