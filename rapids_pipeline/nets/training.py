"""The training of R nets at once on the same rows, each in an order of its own.

    an epoch    every net goes through all n rows once, in batches of its own random order
    a step      the gradient of the sum over nets of each net's mean loss: no net's gradient depends on another net

Every optimizer here works entry by entry, so one step on the stacked parameters is a step of every net. One generator
draws everything (initial weights, orders, dropout, masks, noise): equal seeds give equal nets, to the bit on one
machine, and the nets of a run differ in all of these.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rapids_pipeline.backend.errors import DivergedError
from rapids_pipeline.nets.layers import prepare
from rapids_pipeline.nets.losses import loss_of_rows
from rapids_pipeline.nets.settings import Training

NULL_FLOOR = 1e-3
"""Least u of the noise ½ log10(u)."""

_threads: list[int] = []
_users, _lock = [0], threading.Lock()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread a call: fits run side by side, and no bit depends on the number of processors.

    Numbers too small for a normal float32, such as averages of gradients that have died away, count as 0: processors
    take many times as long for them.
    """
    with _lock:
        if not _users[0]:
            _threads[:] = [torch.get_num_threads()]
        _users[0] += 1
        torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        with _lock:
            _users[0] -= 1
            if not _users[0]:
                torch.set_num_threads(_threads[0])


class Lion(torch.optim.Optimizer):
    """u = sign(β₁ m + (1 − β₁) g),  w ← w (1 − lr λ) − lr u,  m ← β₂ m + (1 − β₂) g.

    Source: Chen et al., Symbolic discovery of optimization algorithms (2023), algorithm 2.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, betas: tuple[float, float], weight_decay: float
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def step(self, closure: Any = None) -> None:
        """Move all parameters."""
        with torch.no_grad():
            for group in self.param_groups:
                self._move(group)

    def _move(self, group: dict[str, Any]) -> None:
        (beta1, beta2), lr = group["betas"], group["lr"]
        for w in group["params"]:
            m = self.state[w].setdefault("m", torch.zeros_like(w))
            w.mul_(1 - lr * group["weight_decay"]).sub_(torch.lerp(w.grad, m, beta1).sign_(), alpha=lr)
            m.lerp_(w.grad, 1 - beta2)


def optimizer_of(settings: Training, parameters: list[Tensor]) -> torch.optim.Optimizer:
    """Return the optimizer."""
    lr, betas, eps, decay = settings.learning_rate, settings.betas, settings.eps, settings.weight_decay
    if settings.optimizer == "lion":
        return Lion(parameters, lr, betas, decay)
    if settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr, alpha=betas[1], eps=eps)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr, betas, eps, decay, fused=True)
    return torch.optim.Adam(parameters, lr, betas, eps, fused=True)


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs (n, …), targets (n, k) and what each row counts (n,), on one device."""

    inputs: Tensor
    targets: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.targets)


def trained(
    net: nn.Module,
    examples: Examples,
    settings: Training,
    seed: int,
    judges: Examples | None = None,
    name: str = "net",
) -> nn.Module:
    """Train nets that are not initialised yet, in place, and return them.

    Parameters
    ----------
    net : Module
        R nets at once, on the device of the examples.
    examples : Examples
    settings : Training
    seed : int
    judges : Examples, optional
        Rows that choose each net's epoch where `settings.checkpoint` is "best".
    name : str
        What messages call it.

    Raises
    ------
    DivergedError
        The loss is no finite number; the epoch is named, and nothing is kept.
    """
    with one_thread():
        return _Run(net, examples, settings, seed, judges, name).trained()


class _Run:
    """One training."""

    def __init__(
        self,
        net: nn.Module,
        examples: Examples,
        settings: Training,
        seed: int,
        judges: Examples | None,
        name: str,
    ) -> None:
        self.net, self.examples, self.settings, self.judges, self.name = net, examples, settings, judges, name
        self.generator = torch.Generator(examples.targets.device).manual_seed(seed)
        prepare(net, self.generator)
        self.parameters = list(net.parameters())
        self.nets = len(self.parameters[0])
        self.optimizer = optimizer_of(settings, self.parameters)

    def trained(self) -> nn.Module:
        best = _Best(self.net, self.nets)
        schedule = self._schedule()
        for epoch in range(1, self.settings.epochs + 1):
            loss = self._finite(self._epoch(), epoch)
            schedule(float(loss.mean()))
            if self.judges is not None:
                best.saw(epoch, self._finite(self._judged(self.judges), epoch))
            if self.settings.patience is not None and epoch - best.latest >= self.settings.patience:
                break
        if self.judges is not None:
            best.restore()
        return self.net.eval()

    def _finite(self, loss: Tensor, epoch: int) -> Tensor:
        """Return each net's loss; DivergedError where one is not finite."""
        if bool(torch.isfinite(loss).all()):
            return loss
        raise DivergedError(
            f"{self.name}: the loss is not finite in epoch {epoch} of {self.settings.epochs}; lower its "
            "learning_rate, or set clip_norm"
        )

    def _schedule(self) -> Callable[[float], None]:
        """Return what changes the learning rate after an epoch, given its mean loss."""
        settings, schedulers = self.settings, torch.optim.lr_scheduler
        if settings.schedule == "plateau":
            how = {"factor": settings.factor, "patience": settings.plateau_patience}
            plateau = schedulers.ReduceLROnPlateau(self.optimizer, **how, min_lr=settings.least_learning_rate)
            return lambda loss: plateau.step(loss)
        if settings.schedule == "linear":
            linear = schedulers.LambdaLR(self.optimizer, lambda epoch: 1 - epoch / settings.epochs)
            return lambda _: linear.step()
        return lambda _: None

    def _epoch(self) -> Tensor:
        """Go through all rows once; return each net's mean loss, (R,)."""
        self.net.train()
        n, device = len(self.examples), self.examples.targets.device
        order = torch.rand(self.nets, n, generator=self.generator, device=device).argsort(1)
        total = torch.zeros(self.nets, device=device)
        for rows in _batches(order, self.settings.batch_size):
            x, y = self._augmented(self.examples.inputs[rows], self.examples.targets[rows])
            losses = (loss_of_rows(self.net(x), y, self.settings.loss) * self.examples.weight[rows]).mean(1)
            self.optimizer.zero_grad()
            losses.sum().backward()
            if self.settings.clip_norm is not None:
                self._clip(self.settings.clip_norm)
            self.optimizer.step()
            total += losses.detach() * (rows.shape[1] / n)
        return total

    def _augmented(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        settings, draw = self.settings, {"generator": self.generator, "device": y.device}
        if settings.masking:
            places = torch.rand(x.shape, **draw).argsort(-1)
            x = x.masked_fill(places < int(settings.masking * x.shape[-1]), 0)
        if settings.input_noise:
            x = x + settings.input_noise * torch.randn(x.shape, **draw)
        if settings.target_noise:
            u = torch.rand(y.shape, **draw) * (1 - NULL_FLOOR) + NULL_FLOOR
            sign = torch.randint(2, y.shape, **draw) * 2 - 1
            y = y + settings.target_noise * 0.5 * sign * u.log10()
        return x, y

    def _clip(self, most: float) -> None:
        """Scale each net's gradient so that its norm is at most `most`."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
        scale = (most / (norm + 1e-6)).clamp_max(1.0)
        for g in gradients:
            g.mul_(scale.view(-1, *[1] * (g.ndim - 1)))

    def _judged(self, judges: Examples) -> Tensor:
        """Return each net's loss on rows that it does not learn from, (R,)."""
        self.net.eval()
        with torch.no_grad():
            y = self.net(judges.inputs.expand(self.nets, *judges.inputs.shape))
            targets = judges.targets.expand_as(y)
            return (loss_of_rows(y, targets, self.settings.loss) * judges.weight).mean(1)


class _Best:
    """Parameters and running values of each net after its best epoch so far, copied."""

    def __init__(self, net: nn.Module, nets: int) -> None:
        self.net, self.latest = net, 0
        self.losses = torch.full((nets,), torch.inf)
        self.kept: dict[str, Tensor] = {}

    def saw(self, epoch: int, losses: Tensor) -> None:
        self.losses = self.losses.to(losses.device)
        better = losses < self.losses
        if not bool(better.any()):
            return
        self.latest, self.losses = epoch, torch.where(better, losses, self.losses)
        now = self.net.state_dict()
        for name, value in now.items():
            if name not in self.kept:
                self.kept[name] = value.clone()
            self.kept[name][better] = value[better]

    def restore(self) -> None:
        self.net.load_state_dict(self.kept)


def _batches(order: Tensor, size: int) -> list[Tensor]:
    """Return each net's rows in batches; a last one of a single row, which has no variance, joins the one before."""
    parts = list(order.split(size, dim=1))
    if len(parts) > 1 and parts[-1].shape[1] == 1:
        parts[-2:] = [torch.cat(parts[-2:], dim=1)]
    return parts
