"""Layers of R nets at once: every parameter has a leading axis of nets, and so has every activation.

    x (R, b, d)   R nets, each with a batch of its own of b rows
    Linear        x W + c          W (R, d, o), c (R, 1, o)
    BatchNorm     (x − μ)/√(v + ε) γ + β        μ, v over the b rows of a net's own batch
    Dropout       x m / (1 − p)    m is 0 with probability p
    PRelu         max(x, 0) + a min(x, 0)       a (R, 1, d)
    Embedding     rows of a table  (R, levels, e)
    LayerNorm     (x − μ)/√(v + ε) γ + β        μ, v over the d numbers of a row
    Convolution, Recurrence     PyTorch's functions, net by net: these are large enough to be called one by one

The nets of the winners are small. Stacked, a layer is one batched product. No layer but BatchNorm lets the rows of a
batch see each other, and that only in training.

All randomness, of initial weights and of dropout, comes from one generator that `prepare` hands to the layers.
PyTorch's own dropout draws from a generator of the whole process, which fits side by side would share.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Initial = Literal["torch", "keras"]
"""What initial weights are drawn from. torch: U(±1/√d), biases too; keras: Glorot's U(±√(6/(d + o))), biases 0."""
LEVELS = 2**16
"""A probability of dropout is a multiple of 1/LEVELS: a mask costs 16 random bits an entry."""


class Layer(nn.Module):
    """A layer with initial values to draw, and a generator to draw from while it is trained."""

    generator: torch.Generator | None = None

    def draw(self, generator: torch.Generator) -> None:
        """Draw the initial parameters."""


def prepare(net: nn.Module, generator: torch.Generator) -> None:
    """Draw the initial parameters of all layers, in their order, and let them draw from the generator henceforth."""
    for layer in net.modules():
        if isinstance(layer, Layer):
            layer.draw(generator)
            layer.generator = generator


class Linear(Layer):
    """x W + c for each of R nets: (R, b, d) → (R, b, o)."""

    def __init__(self, nets: int, d: int, o: int, initial: Initial = "torch", *, bias: bool = True) -> None:
        super().__init__()
        self.initial = initial
        self.weight = nn.Parameter(torch.empty(nets, d, o))
        self.bias = nn.Parameter(torch.empty(nets, 1, o)) if bias else None

    def draw(self, generator: torch.Generator) -> None:
        """Draw the initial parameters."""
        _, d, o = self.weight.shape
        bound = 1 / math.sqrt(d) if self.initial == "torch" else math.sqrt(6 / (d + o))
        with torch.no_grad():
            self.weight.uniform_(-bound, bound, generator=generator)
            if self.bias is not None and self.initial == "torch":
                self.bias.uniform_(-bound, bound, generator=generator)
            elif self.bias is not None:
                self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Return the products."""
        return torch.bmm(x, self.weight) if self.bias is None else torch.baddbmm(self.bias, x, self.weight)


class Embedding(Layer):
    """A vector for each level: codes (R, b, c) → (R, b, c · e), the vectors side by side; drawn from U(±0.05)."""

    def __init__(self, nets: int, levels: int, e: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(nets, levels, e))

    def draw(self, generator: torch.Generator) -> None:
        """Draw the initial vectors."""
        with torch.no_grad():
            self.weight.uniform_(-0.05, 0.05, generator=generator)

    def forward(self, codes: Tensor) -> Tensor:
        """Return the vectors."""
        nets = torch.arange(len(self.weight), device=codes.device)[:, None, None]
        return self.weight[nets, codes].flatten(2)


class _Normalised(torch.autograd.Function):
    """y = (x − μ) r γ + β with r = 1/√(v + ε), μ and v over axis 1; few passes over x, since these bound its time."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean = x.mean(1, keepdim=True)
        centred = x - mean
        variance = (centred * centred).mean(1, keepdim=True)
        r = (variance + eps).rsqrt()
        ctx.save_for_backward(centred, r, gamma)
        ctx.mark_non_differentiable(mean, variance)
        return torch.addcmul(beta, centred, r * gamma), mean, variance

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        centred, r, gamma = ctx.saved_tensors
        b = g.shape[1]
        to_beta = g.sum(1, keepdim=True)
        to_gamma = (g * centred).sum(1, keepdim=True) * r
        # ∂x = γ r (g − Σg/b − x̂ Σ(g x̂)/b),  x̂ = centred · r
        scale = gamma * r
        to_x = torch.addcmul(
            torch.addcmul(-scale * to_beta / b, g, scale), centred, -scale * r * to_gamma / b
        )
        return to_x, to_gamma, to_beta, None


class BatchNorm(Layer):
    """Batch normalisation of each net's own batch; rows are predicted with running means, so independently.

    Running values move by `momentum` of the difference to a batch's (variance with b − 1, as PyTorch's).
    """

    def __init__(self, nets: int, d: int, momentum: float = 0.1, eps: float = 1e-3) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight, self.bias = nn.Parameter(torch.ones(nets, 1, d)), nn.Parameter(torch.zeros(nets, 1, d))
        self.register_buffer("running_mean", torch.zeros(nets, 1, d))
        self.register_buffer("running_var", torch.ones(nets, 1, d))

    def draw(self, generator: torch.Generator) -> None:
        """Start from γ = 1 and β = 0."""
        with torch.no_grad():
            for value, start in (
                (self.weight, 1),
                (self.bias, 0),
                (self.running_mean, 0),
                (self.running_var, 1),
            ):
                value.fill_(start)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised activations."""
        if not self.training:
            scale = self.weight * (self.running_var + self.eps).rsqrt()
            return torch.addcmul(self.bias - self.running_mean * scale, x, scale)
        y, mean, variance = _Normalised.apply(x, self.weight, self.bias, self.eps)
        b = x.shape[1]
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (b / max(b - 1, 1)), self.momentum)
        return y


class Dropout(Layer):
    """Dropout by the generator that `prepare` handed over; nothing happens where rows are predicted."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.dropped = round(p * LEVELS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations, some of them 0."""
        if not self.training or not self.dropped:
            return x
        # Four masks of 16 bits to a random number of 64: drawing them one by one takes as long as a product.
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device)
        bits = words.random_(-(2**63), None, generator=self.generator).view(torch.int16)
        mask = torch.empty_like(x, requires_grad=False)
        torch.ge(bits[: x.numel()].view(x.shape), self.dropped - LEVELS // 2, out=mask)
        return x * mask.mul_(LEVELS / (LEVELS - self.dropped))


class PRelu(Layer):
    """max(x, 0) + a min(x, 0) with a slope a of each column's own, (R, 1, d), which starts from 1/4."""

    def __init__(self, nets: int, d: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(nets, 1, d))

    def draw(self, generator: torch.Generator) -> None:
        """Start from 1/4."""
        with torch.no_grad():
            self.weight.fill_(0.25)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations."""
        return torch.where(x > 0, x, self.weight * x)


class LayerNorm(Layer):
    """Normalisation of each row over its last axis: (R, …, d)."""

    def __init__(self, nets: int, d: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.ones(nets, d)), nn.Parameter(torch.zeros(nets, d))

    def draw(self, generator: torch.Generator) -> None:
        """Start from γ = 1 and β = 0."""
        with torch.no_grad():
            self.weight.fill_(1), self.bias.fill_(0)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised activations."""
        shape = (len(x), *[1] * (x.ndim - 2), x.shape[-1])
        normal = functional.layer_norm(x, x.shape[-1:], eps=self.eps)
        return torch.addcmul(self.bias.view(shape), normal, self.weight.view(shape))


class Convolution(Layer):
    """A convolution over one or two axes for each of R nets: (R, b, c, …) → (R, b, o, …); U(±1/√(c · kernel))."""

    def __init__(
        self,
        nets: int,
        c: int,
        o: int,
        kernel: int,
        axes: int = 1,
        stride: int = 1,
        padding: int = 0,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(nets, o, c, *[kernel] * axes))
        self.bias = nn.Parameter(torch.empty(nets, o)) if bias else None
        self.how: dict[str, int] = {"stride": stride, "padding": padding}
        self.convolved = functional.conv1d if axes == 1 else functional.conv2d

    def draw(self, generator: torch.Generator) -> None:
        """Draw the initial parameters."""
        bound = 1 / math.sqrt(self.weight[0, 0].numel())
        with torch.no_grad():
            self.weight.uniform_(-bound, bound, generator=generator)
            if self.bias is not None:
                self.bias.uniform_(-bound, bound, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved rows."""
        biases = [None] * len(x) if self.bias is None else self.bias
        found = [self.convolved(*parts, **self.how) for parts in zip(x, self.weight, biases, strict=True)]
        return torch.stack(found)


class Recurrence(Layer):
    """An LSTM or a GRU for each of R nets: steps (R, b, L, D) → outputs of the top layer (R, b, L, h), last hidden
    states of all layers (R, b, layers · h); drawn from U(±1/√h).
    """

    def __init__(self, nets: int, cell: Literal["lstm", "gru"], d: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.cell, self.hidden, self.layers = cell, hidden, layers
        gates = {"lstm": 4, "gru": 3}[cell] * hidden
        shapes = [
            shape
            for layer in range(layers)
            for shape in ((gates, hidden if layer else d), (gates, hidden), (gates,), (gates,))
        ]
        self.parts = nn.ParameterList(nn.Parameter(torch.empty(nets, *shape)) for shape in shapes)

    def draw(self, generator: torch.Generator) -> None:
        """Draw the initial parameters."""
        bound = 1 / math.sqrt(self.hidden)
        with torch.no_grad():
            for part in self.parts:
                part.uniform_(-bound, bound, generator=generator)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs and the last hidden states."""
        start, outputs, states = x.new_zeros(self.layers, x.shape[1], self.hidden), [], []
        first, run = ((start, start), torch.lstm) if self.cell == "lstm" else (start, torch.gru)
        for net, rows in enumerate(x):
            weights = [part[net] for part in self.parts]
            found = run(rows, first, weights, True, self.layers, 0.0, self.training, False, True)
            outputs.append(found[0])
            # (layers, b, h): the batch comes first, or a row would get the states of others
            states.append(found[1].transpose(0, 1).flatten(1))
        return torch.stack(outputs), torch.stack(states)
