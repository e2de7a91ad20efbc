"""The nets themselves, R of one architecture at once: inputs (R, b, …) → outputs (R, b, k).

    EmbeddingMlpNet   codes (R, b, 2): numbers of cell type and compound, those of compounds after all cell types
    all others        features (R, b, p), whose columns are those of a feature set's blocks

Sizes come from the data. With the published sizes the numbers of parameters are the published ones, as tests show.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.nets.layers import (
    BatchNorm,
    Convolution,
    Dropout,
    Embedding,
    Initial,
    LayerNorm,
    Linear,
    PRelu,
    Recurrence,
)
from rapids_pipeline.nets.settings import (
    Architecture,
    Block,
    ConditionalEncoderDecoder,
    Conv1d,
    ConvResNet,
    EmbeddingMlp,
    Mlp,
    Recurrent,
    SampleGeneMlp,
    Tower,
    Transformer,
)

LEAST_COLUMNS = 77
"""Columns that the first place's convolutions need to leave one."""
FURTHER_TOWER = Tower(of="cell_type", widths=(32,))
"""Of a block that no tower is listed for."""


def dense(
    nets: int, width: int, blocks: Sequence[Block], initial: Initial, momentum: float
) -> tuple[list[nn.Module], int]:
    """Return the layers of blocks on `width` inputs, and the width of the last."""
    layers: list[nn.Module] = []
    for block in blocks:
        steps = {
            "linear": Linear(nets, width, block.width, initial),
            "norm": BatchNorm(nets, block.width, momentum),
            "relu": nn.ReLU(),
            "drop": Dropout(block.dropout),
        }
        layers += [steps[step] for step in block.order.split()]
        width = block.width
    return layers, width


class EmbeddingMlpNet(nn.Sequential):
    """Vectors of cell type and compound, blocks, a linear layer. Initial weights as Keras draws them."""

    def __init__(self, settings: EmbeddingMlp, nets: int, levels: int, columns: int, k: int) -> None:
        width = columns * settings.embedding
        norm = [BatchNorm(nets, width, settings.norm_momentum)] if settings.norm else []
        layers, last = dense(nets, width, settings.blocks, "keras", settings.norm_momentum)
        super().__init__(
            Embedding(nets, levels, settings.embedding), *norm, *layers, Linear(nets, last, k, "keras")
        )

    def learn_unknown(self, sizes: Sequence[int], codes: Tensor) -> None:
        """Give levels that no row of `codes` has the mean vector of those of their column that some row has."""
        weight = self[0].weight
        seen = torch.zeros(weight.shape[1], dtype=torch.bool, device=weight.device)
        seen[codes.to(weight.device).flatten()] = True
        with torch.no_grad():
            for part, here in zip(weight.split(list(sizes), dim=1), seen.split(list(sizes)), strict=True):
                if here.any():
                    part[:, ~here] = part[:, here].mean(1, keepdim=True)


class MlpNet(nn.Sequential):
    """Blocks on features, a linear layer. Initial weights as PyTorch draws them."""

    def __init__(self, settings: Mlp, nets: int, p: int, k: int) -> None:
        layers, last = dense(nets, p, settings.blocks, "torch", settings.norm_momentum)
        super().__init__(*layers, Linear(nets, last, k))


def head(nets: int, width: int, widths: Sequence[int], dropout: float, k: int) -> nn.Sequential:
    """Return the dense head of the first place's nets: linear, dropout, ReLU for each width, then a linear layer."""
    layers: list[nn.Module] = []
    for o in widths:
        layers += [Linear(nets, width, o), Dropout(dropout), nn.ReLU()]
        width = o
    return nn.Sequential(*layers, Linear(nets, width, k))


class RecurrentNet(nn.Module):
    """An LSTM or a GRU over the folded columns, and a dense head."""

    def __init__(self, settings: Recurrent, nets: int, p: int, k: int) -> None:
        super().__init__()
        d = math.isqrt(p - 1) + 1
        self.steps, self.d = settings.fold or (-(-p // d), d)
        if self.steps * self.d < p:
            raise InputError(
                f"fold = {self.steps} steps of {self.d} columns are fewer than the {p} there are"
            )
        self.recurrence = Recurrence(nets, settings.cell, self.d, settings.hidden, settings.layers)
        width = settings.hidden * (self.steps + settings.layers)
        self.head = head(nets, width, settings.head, settings.dropout, k)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        folded = functional.pad(x, (0, self.steps * self.d - x.shape[2])).unflatten(2, (self.steps, self.d))
        outputs, states = self.recurrence(folded)
        found: Tensor = self.head(torch.cat([outputs.flatten(2), states], dim=2))
        return found


class Conv1dNet(nn.Module):
    """Convolutions over the columns, and a dense head."""

    def __init__(self, settings: Conv1d, nets: int, p: int, k: int) -> None:
        super().__init__()
        self.p, drop = max(p, LEAST_COLUMNS), settings.dropout
        self.first = nn.Sequential(
            *(Convolution(nets, 1, 8, 5), Dropout(drop), Convolution(nets, 8, 8, 5), nn.ReLU()),
            *(Convolution(nets, 8, 16, 5, stride=2), Dropout(drop)),
        )
        self.last = Convolution(nets, 16, 8, 3, stride=3)
        length = ((self.p - 8 - 5) // 2 + 1 - 11) // 11 + 1
        self.head = head(nets, 8 * ((length - 3) // 3 + 1), settings.head, drop, k)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        found = self.first(functional.pad(x, (0, self.p - x.shape[2])).unsqueeze(2))
        pooled = functional.avg_pool1d(found.flatten(0, 1), 11).unflatten(0, found.shape[:2])
        outputs: Tensor = self.head(self.last(pooled).flatten(2))
        return outputs


class EncoderLayer(nn.Module):
    """A layer of a transformer encoder, normalised after its steps: tokens (R, b, T, d) → the same; exact GELU."""

    def __init__(self, settings: Transformer, nets: int) -> None:
        super().__init__()
        d, self.heads = settings.width, settings.heads
        self.project, self.out = Linear(nets, d, 3 * d), Linear(nets, d, d)
        self.up, self.down = Linear(nets, d, settings.feed_forward), Linear(nets, settings.feed_forward, d)
        self.norms = nn.ModuleList([LayerNorm(nets, d), LayerNorm(nets, d)])
        self.drop = Dropout(settings.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens; those of a row read each other, and no other row's."""
        R, b, T, d = x.shape
        # q, k, v: (R, b, heads, T, d / heads)
        q, k, v = (
            self.project(x.flatten(1, 2))
            .view(R, b, T, 3, self.heads, d // self.heads)
            .permute(3, 0, 1, 4, 2, 5)
        )
        attention = self.drop((q @ k.transpose(-1, -2) / math.sqrt(d // self.heads)).softmax(-1))
        read = (attention @ v).transpose(2, 3).reshape(R, b * T, d)
        x = self.norms[0](x + self.drop(self.out(read)).view(R, b, T, d))
        inner = self.drop(functional.gelu(self.up(x.flatten(1, 2))))
        found: Tensor = self.norms[1](x + self.drop(self.down(inner)).view(R, b, T, d))
        return found


def grouped(blocks: Sequence[int], groups: Sequence[int]) -> Iterator[int]:
    """Yield the columns of groups of so many blocks that follow each other, then those of each further block."""
    at = 0
    for size in groups:
        if at + size > len(blocks):
            raise InputError(f"groups of {sum(groups)} blocks, and the feature set has {len(blocks)}")
        yield sum(blocks[at : at + size])
        at += size
    yield from blocks[at:]


class TransformerNet(nn.Module):
    """Projections of the blocks, joined or as tokens, an encoder, a linear layer. The last norm is the first one."""

    def __init__(self, settings: Transformer, nets: int, blocks: Sequence[int], k: int) -> None:
        super().__init__()
        d, self.blocks, self.single = (
            settings.width,
            list(grouped(blocks, settings.groups)),
            settings.tokens == "single",
        )
        self.projections = nn.ModuleList(Linear(nets, p, d) for p in self.blocks)
        self.joined = Linear(nets, d * len(self.blocks), d) if self.single else None
        self.norm = LayerNorm(nets, d)
        self.encoder = nn.Sequential(*(EncoderLayer(settings, nets) for _ in range(settings.layers)))
        self.out = Linear(nets, d, k)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        parts = zip(self.projections, x.split(self.blocks, dim=2), strict=True)
        tokens = torch.stack([project(part) for project, part in parts], dim=2)
        if self.joined is not None:
            tokens = self.joined(tokens.flatten(2)).unsqueeze(2)
        found: Tensor = self.out(self.norm(self.encoder(self.norm(tokens))).mean(2))
        return found


class Maps(nn.Module):
    """A convolution of images, normalised by its batch: (R, b, c, s, s) → (R, b, o, s', s')."""

    def __init__(self, nets: int, c: int, o: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.convolution = Convolution(nets, c, o, kernel, 2, stride, kernel // 2, bias=False)
        self.norm = BatchNorm(nets, o, 0.1, 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps; a channel is normalised over all pixels of a batch."""
        maps = self.convolution(x)
        pixels = maps.movedim(2, -1)
        normal: Tensor = self.norm(pixels.flatten(1, 3)).view(pixels.shape)
        return normal.movedim(-1, 2)


class Residual(nn.Module):
    """Two convolutions beside the identity, or beside a convolution of size 1 where shapes change (ResNet-18)."""

    def __init__(self, nets: int, c: int, o: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(Maps(nets, c, o, 3, stride), nn.ReLU(), Maps(nets, o, o, 3))
        self.beside = Maps(nets, c, o, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both ways."""
        return functional.relu(self.body(x) + self.beside(x))


class ConvResNetNet(nn.Module):
    """Convolutions over the columns, a linear layer to an image, a ResNet-18 of one channel.

    Source: He et al., Deep residual learning for image recognition (2016), table 1, 18 layers.
    """

    def __init__(self, settings: ConvResNet, nets: int, blocks: Sequence[int], k: int) -> None:
        super().__init__()
        p, channels, self.side = sum(blocks), (1, 16, 32, 64), settings.side
        self.in_turn = len(blocks) if settings.interleaved and len(set(blocks)) == 1 else 1
        self.columns = nn.Sequential(
            *(
                layer
                for c, o in pairwise(channels)
                for layer in (Convolution(nets, c, o, 3, padding=1), nn.ReLU(), Dropout(settings.dropout))
            )
        )
        self.image = Linear(nets, channels[-1] * p, self.side**2)
        self.stem = nn.Sequential(Maps(nets, 1, 64, 7, 2), nn.ReLU())
        stages = ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
        self.residual = nn.Sequential(
            *(
                part
                for c, o, stride in stages
                for part in (Residual(nets, c, o, stride), Residual(nets, o, o, 1))
            )
        )
        self.out = Linear(nets, 512, k)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        in_turn = x.unflatten(2, (self.in_turn, -1)).transpose(2, 3).flatten(2)
        columns = self.columns(in_turn.unsqueeze(2)).flatten(2)
        image = self.image(columns).unflatten(2, (1, self.side, self.side))
        maps = self.stem(image)
        pooled = functional.max_pool2d(maps.flatten(0, 1), 3, 2, 1).unflatten(0, maps.shape[:2])
        found: Tensor = self.out(self.residual(pooled).mean((3, 4)))
        return found


class SampleGeneMlpNet(nn.Module):
    """A net over all channels of all targets, and one that all targets share. Weights as Keras draws them."""

    def __init__(self, settings: SampleGeneMlp, nets: int, blocks: Sequence[int], k: int) -> None:
        super().__init__()
        if set(blocks) != {k}:
            raise InputError(
                f"sample_gene_mlp reads blocks of one column a target, {k} of them, and those of the feature set have "
                f"{', '.join(map(str, blocks))}"
            )
        self.channels = len(blocks)
        self.sample = slopes(nets, (k * self.channels, *settings.sample, k * self.channels))
        self.gene = slopes(nets, (2 * self.channels, *settings.gene, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        both = torch.cat([x, self.sample(x)], dim=2).unflatten(2, (2 * self.channels, -1))
        # (R, b, channels, k) → (R, b · k, channels): a target of a row is a row of the shared net
        found: Tensor = self.gene(both.transpose(2, 3).flatten(1, 2)).view(*x.shape[:2], -1)
        return found


def slopes(nets: int, widths: Sequence[int]) -> nn.Sequential:
    """Return linear layers without biases, with a PReLU between them."""
    layers: list[nn.Module] = []
    for d, o in pairwise(widths):
        layers += [Linear(nets, d, o, "keras", bias=False), PRelu(nets, o)]
    return nn.Sequential(*layers[:-1])


def exponential(
    settings: ConditionalEncoderDecoder, nets: int, width: int, widths: Sequence[int]
) -> nn.Sequential:
    """Return the layers of ScAPE, each dropout, normalisation, linear, ELU. Weights as Keras draws them."""
    layers: list[nn.Module] = []
    for d, o in pairwise((width, *widths)):
        norm = BatchNorm(nets, d, settings.norm_momentum)
        layers += [Dropout(settings.dropout), norm, Linear(nets, d, o, "keras"), nn.ELU()]
    return nn.Sequential(*layers)


class ConditionalEncoderDecoderNet(nn.Module):
    """Towers of compound and cell type, a code of both, and a decoder with towers of the cell type of its own."""

    def __init__(self, settings: ConditionalEncoderDecoder, nets: int, blocks: Sequence[int], k: int) -> None:
        super().__init__()
        further = [FURTHER_TOWER] * (len(blocks) - len(settings.towers))
        towers, layers = [*settings.towers, *further], partial(exponential, settings, nets)
        if len(towers) > len(blocks):
            raise InputError(f"there are {len(towers)} towers, and the feature set has {len(blocks)} blocks")
        self.blocks, self.of_cell = list(blocks), [tower.of == "cell_type" for tower in towers]
        parts = list(zip(blocks, towers, self.of_cell, strict=True))
        self.towers = nn.ModuleList(layers(p, tower.widths) for p, tower, _ in parts)
        self.conditions = nn.ModuleList(layers(p, tower.widths) for p, tower, of_cell in parts if of_cell)
        cell = sum(tower.widths[-1] for _, tower, of_cell in parts if of_cell)
        compound = sum(tower.widths[-1] for _, tower, of_cell in parts if not of_cell)
        self.compound = layers(compound, settings.compound)
        self.code = layers(cell + (compound, *settings.compound)[-1], settings.code)
        self.condition = layers(cell, settings.condition)
        read = (cell, *settings.condition)[-1] + settings.code[-1]
        self.decoder, last = layers(read, settings.decoder), (read, *settings.decoder)[-1]
        norm = BatchNorm(nets, last, settings.norm_momentum)
        self.out = nn.Sequential(Dropout(settings.last_dropout), norm, Linear(nets, last, k, "keras"))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        parts = x.split(self.blocks, dim=2)
        read = [tower(part) for tower, part in zip(self.towers, parts, strict=True)]
        of_cell = [part for part, cell in zip(read, self.of_cell, strict=True) if cell]
        of_compound = [part for part, cell in zip(read, self.of_cell, strict=True) if not cell]
        code = self.code(torch.cat([*of_cell, self.compound(torch.cat(of_compound, dim=2))], dim=2))
        cells = (part for part, cell in zip(parts, self.of_cell, strict=True) if cell)
        own = [tower(part) for tower, part in zip(self.conditions, cells, strict=True)]
        condition = self.condition(torch.cat(own, dim=2))
        outputs: Tensor = self.out(self.decoder(torch.cat([condition, code], dim=2)))
        return outputs


OF_BLOCKS: dict[type, Any] = {
    Transformer: TransformerNet,
    ConvResNet: ConvResNetNet,
    SampleGeneMlp: SampleGeneMlpNet,
    ConditionalEncoderDecoder: ConditionalEncoderDecoderNet,
}
"""Architectures that tell the blocks of a feature set apart."""
OF_COLUMNS: dict[type, Any] = {Mlp: MlpNet, Recurrent: RecurrentNet, Conv1d: Conv1dNet}


def net_of(settings: Architecture, nets: int, width: Sequence[int], k: int) -> nn.Module:
    """Return R nets with k outputs; `width`: levels of each column of codes, or columns of each block of features."""
    if isinstance(settings, EmbeddingMlp):
        return EmbeddingMlpNet(settings, nets, sum(width), len(width), k)
    if type(settings) in OF_BLOCKS:
        net: nn.Module = OF_BLOCKS[type(settings)](settings, nets, width, k)
    else:
        net = OF_COLUMNS[type(settings)](settings, nets, sum(width), k)
    return net


def predicted(net: nn.Module, inputs: Tensor) -> Tensor:
    """Return the outputs of all R nets for the same rows, (R, n, k); a row's do not depend on the others."""
    net.eval()
    first = next(net.parameters())
    with torch.inference_mode():
        outputs: Tensor = net(inputs.to(first.device).expand(len(first), *inputs.shape))
    return outputs
