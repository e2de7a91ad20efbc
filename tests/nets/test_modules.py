"""The nets: numbers of parameters at the published sizes, rows that do not see each other, what unknown levels get."""

import pytest
import torch

from rapids_pipeline.nets.layers import prepare
from rapids_pipeline.nets.modules import net_of, predicted
from rapids_pipeline.nets.settings import Block, EmbeddingMlp, Mlp
from rapids_pipeline.stack.named_recipes import STAGE_1, STAGE_2

PUBLISHED = {1: 331_842, 2: 582_572, 3: 553_567, 5: 360_007, 6: 297_282, 7: 529_740, 8: 257_500}
"""Trainable parameters of the nets of stage 1 of the third place."""
NETS = {
    "embedding_mlp": (EmbeddingMlp(embedding=4, norm=True, blocks=(Block(width=9, dropout=0.3),)), [4, 6]),
    "mlp": (Mlp(blocks=(Block(width=9, dropout=0.3), Block(width=8, order="linear relu norm drop"))), [5]),
}


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def made(name, nets=3, k=7, seed=0):
    settings, width = NETS[name]
    net = net_of(settings, nets, width, k)
    prepare(net, torch.Generator().manual_seed(seed))
    with torch.no_grad():  # running values as after training
        for key, value in net.state_dict().items():
            if "running" in key:
                value.uniform_(0.5, 1.5)
    return net


def rows_of(name, n=11, seed=1):
    g = torch.Generator().manual_seed(seed)
    if name == "mlp":
        return torch.randn(n, 5, generator=g)
    return torch.stack([torch.randint(4, (n,), generator=g), 4 + torch.randint(6, (n,), generator=g)], 1)


@pytest.mark.parametrize("number", PUBLISHED)
def test_published_nets_have_the_published_numbers_of_parameters(number):
    member = STAGE_1[number]
    with torch.device("meta"):
        net = net_of(member.architecture, 1, [6, 146], member.n_components)
        ten = net_of(member.architecture, 10, [6, 146], member.n_components)
    assert parameters(net) == PUBLISHED[number]
    assert parameters(ten) == 10 * PUBLISHED[number]


def test_nets_of_the_second_stage_have_between_258_and_661_thousand_parameters():
    with torch.device("meta"):
        sizes = [parameters(net_of(m.architecture, 1, [6, 146], m.n_components)) for m in STAGE_2.values()]
    assert len(sizes) == 20
    assert round(min(sizes) / 1000) == 258 and round(max(sizes) / 1000) == 661


@pytest.mark.parametrize("name", NETS)
def test_a_row_is_predicted_alone_as_in_a_batch_in_any_order(name):
    net, rows = made(name), rows_of(name)
    together = predicted(net, rows)
    assert together.shape == (3, len(rows), 7)
    alone = torch.cat([predicted(net, rows[i : i + 1]) for i in range(len(rows))], dim=1)
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(predicted(net, rows[order]), together[:, order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NETS)
def test_nets_made_together_are_nets_made_alone(name):
    net, rows = made(name), rows_of(name)
    for r in range(3):
        one = net_of(NETS[name][0], 1, NETS[name][1], 7)
        one.load_state_dict({key: value[r : r + 1] for key, value in net.state_dict().items()})
        torch.testing.assert_close(predicted(one, rows)[0], predicted(net, rows)[r], atol=1e-6, rtol=0)


def test_what_is_unknown_gets_the_mean_vector_of_its_column():
    net = made("embedding_mlp")
    weight = net[0].weight.detach().clone()
    net.learn_unknown([4, 6])
    torch.testing.assert_close(net[0].weight[:, 3], weight[:, :3].mean(1))
    torch.testing.assert_close(net[0].weight[:, 9], weight[:, 4:9].mean(1))
    known = [0, 1, 2, *range(4, 9)]
    assert torch.equal(net[0].weight[:, known], weight[:, known])
