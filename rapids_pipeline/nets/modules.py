"""The nets themselves, R of one architecture at once: inputs (R, b, …) → outputs (R, b, k).

    EmbeddingMlpNet   codes (R, b, 2): numbers of cell type and compound, those of compounds after all cell types
    MlpNet            features (R, b, p)

Sizes come from the data. With the published sizes the numbers of parameters are the published ones, as tests show.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rapids_pipeline.nets.layers import BatchNorm, Dropout, Embedding, Initial, Linear
from rapids_pipeline.nets.settings import Architecture, Block, EmbeddingMlp, Mlp


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

    def learn_unknown(self, sizes: Sequence[int]) -> None:
        """Give the last level of each column, which no row has, the mean vector of the others; `sizes` count it."""
        weight = self[0].weight
        with torch.no_grad():
            for known in weight.split(list(sizes), dim=1):
                known[:, -1] = known[:, :-1].mean(1)


class MlpNet(nn.Sequential):
    """Blocks on features, a linear layer. Initial weights as PyTorch draws them."""

    def __init__(self, settings: Mlp, nets: int, p: int, k: int) -> None:
        layers, last = dense(nets, p, settings.blocks, "torch", settings.norm_momentum)
        super().__init__(*layers, Linear(nets, last, k))


def net_of(settings: Architecture, nets: int, width: Sequence[int], k: int) -> nn.Module:
    """Return R nets with k outputs for inputs of a width: levels of each column of codes, or the number of features."""
    if isinstance(settings, EmbeddingMlp):
        return EmbeddingMlpNet(settings, nets, sum(width), len(width), k)
    return MlpNet(settings, nets, width[0], k)


def predicted(net: nn.Module, inputs: Tensor) -> Tensor:
    """Return the outputs of all R nets for the same rows, (R, n, k); a row's do not depend on the others."""
    net.eval()
    first = next(net.parameters())
    with torch.inference_mode():
        outputs: Tensor = net(inputs.to(first.device).expand(len(first), *inputs.shape))
    return outputs
