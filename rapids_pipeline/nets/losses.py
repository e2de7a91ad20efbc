"""Losses of nets, one number a row: the mean over the k outputs of what an output's error e = ŷ − y costs.

    mse           e²
    mae           |e|
    huber         e²/2 for |e| ≤ 1, else |e| − 1/2
    log_cosh      log cosh(e/3), as |x| + softplus(−2|x|) − log 2, which cannot overflow
    sigmoid_bce   cross-entropy of σ(ŷ) against σ(y), less the entropy of σ(y), so that it is 0 where ŷ = y
    mrrmse        √(mean of e² + 1e-12): the row's share of the MRRMSE; the floor keeps its gradient finite at e = 0

The constants are the published ones. A net's loss is a weighted sum of them (first place: 0.32 mse + 0.24 mae +
0.24 log_cosh + 0.2 sigmoid_bce). In a space of orthonormal components, mrrmse · √(k/t) is the MRRMSE of the t genes.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from rapids_pipeline.nets.settings import LossName

LOG_COSH_SCALE = 3.0
FLOOR = 1e-12


def _mse(y: Tensor, target: Tensor) -> Tensor:
    return (y - target).square().mean(-1)


def _mae(y: Tensor, target: Tensor) -> Tensor:
    return (y - target).abs().mean(-1)


def _huber(y: Tensor, target: Tensor) -> Tensor:
    return functional.huber_loss(y, target, reduction="none").mean(-1)


def _log_cosh(y: Tensor, target: Tensor) -> Tensor:
    x = (y - target).abs() / LOG_COSH_SCALE
    return (x + functional.softplus(-2 * x) - math.log(2)).mean(-1)


def _sigmoid_bce(y: Tensor, target: Tensor) -> Tensor:
    label = target.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(target, label, reduction="none")
    return (functional.binary_cross_entropy_with_logits(y, label, reduction="none") - entropy).mean(-1)


def _mrrmse(y: Tensor, target: Tensor) -> Tensor:
    return ((y - target).square().mean(-1) + FLOOR).sqrt()


LOSSES: dict[LossName, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": _mse,
    "mae": _mae,
    "huber": _huber,
    "log_cosh": _log_cosh,
    "sigmoid_bce": _sigmoid_bce,
    "mrrmse": _mrrmse,
}


def loss_of_rows(y: Tensor, target: Tensor, weights: Mapping[LossName, float]) -> Tensor:
    """Return the weighted sum of losses of each row: (…, k) and (…, k) → (…)."""
    parts = (weight * LOSSES[name](y, target) for name, weight in weights.items())
    return torch.stack(list(parts)).sum(0)
