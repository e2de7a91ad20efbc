"""Layers of many nets at once: each net as PyTorch's own layer has it, gradients by differences, dropout's share."""

import math

import pytest
import torch
from torch import nn

from rapids_pipeline.nets.layers import (
    LEVELS,
    BatchNorm,
    Convolution,
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    Recurrence,
    prepare,
)
from rapids_pipeline.nets.modules import Maps

R, B, D, O = 3, 7, 5, 4  # noqa: E741


def drawn(layer, seed=0):
    prepare(layer, torch.Generator().manual_seed(seed))
    return layer


def inputs(*shape, seed=1, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_every_net_of_a_linear_layer_is_pytorchs():
    layer, x = drawn(Linear(R, D, O)), inputs(R, B, D)
    for r in range(R):
        expected = nn.functional.linear(x[r], layer.weight[r].T, layer.bias[r, 0])
        torch.testing.assert_close(layer(x)[r], expected)


@pytest.mark.parametrize(("initial", "bound"), [("torch", 1 / math.sqrt(50)), ("keras", math.sqrt(6 / 90))])
def test_initial_weights_are_uniform_within_the_published_bound(initial, bound):
    layer = drawn(Linear(4, 50, 40, initial))
    assert layer.weight.abs().max() <= bound and layer.weight.abs().max() > 0.99 * bound
    assert abs(float(layer.weight.detach().std()) - bound / math.sqrt(3)) < 0.02 * bound
    assert bool(layer.bias.any()) == (initial == "torch")
    assert (layer.weight[0] != layer.weight[1]).all(), "nets begin apart"


def test_vectors_of_codes_stand_side_by_side():
    layer, codes = drawn(Embedding(R, 6, 2)), torch.tensor([[0, 5], [3, 3], [5, 0]]).expand(R, 3, 2)
    found = layer(codes)
    for r in range(R):
        for b in range(3):
            naive = [value for code in codes[r, b] for value in layer.weight[r, code].tolist()]
            assert found[r, b].tolist() == naive
    assert layer.weight.abs().max() <= 0.05


def test_batch_normalisation_is_pytorchs_for_every_net_in_training_and_prediction():
    ours, x = drawn(BatchNorm(R, D, 0.01)), inputs(R, B, D) * 3 + 1
    with torch.no_grad():
        ours.weight.uniform_(0.5, 2), ours.bias.uniform_(-1, 1)
    theirs = [nn.BatchNorm1d(D, eps=1e-3, momentum=0.01) for _ in range(R)]
    for r, one in enumerate(theirs):
        one.load_state_dict({"weight": ours.weight[r, 0], "bias": ours.bias[r, 0]}, strict=False)
    for _ in range(4):
        for r, one in enumerate(theirs):
            torch.testing.assert_close(ours(x)[r], one(x[r]), atol=1e-5, rtol=1e-5)
        x = x + 0.1  # the running values of ours moved R times as often
    for r in range(R):
        with torch.no_grad():
            theirs[r].running_mean.copy_(ours.running_mean[r, 0])
            theirs[r].running_var.copy_(ours.running_var[r, 0])
        torch.testing.assert_close(ours.eval()(x)[r], theirs[r].eval()(x[r]), atol=1e-5, rtol=1e-5)


def test_running_values_move_as_pytorchs():
    ours, theirs, x = (
        drawn(BatchNorm(1, D, 0.01)),
        nn.BatchNorm1d(D, eps=1e-3, momentum=0.01),
        inputs(1, B, D),
    )
    for _ in range(5):
        ours(x), theirs(x[0])
    torch.testing.assert_close(ours.running_mean[0, 0], theirs.running_mean)
    torch.testing.assert_close(ours.running_var[0, 0], theirs.running_var)


def test_the_gradient_of_batch_normalisation_is_that_of_differences():
    layer = BatchNorm(2, 3).double()
    with torch.no_grad():
        layer.weight.copy_(inputs(2, 1, 3, dtype=torch.float64)), layer.bias.copy_(layer.weight + 1)
    x = inputs(2, 5, 3, dtype=torch.float64).requires_grad_()

    def normalised(x, weight, bias):
        from rapids_pipeline.nets.layers import _Normalised

        return _Normalised.apply(x, weight, bias, 1e-3)[0]

    assert torch.autograd.gradcheck(normalised, (x, layer.weight, layer.bias))


def test_a_batch_of_one_row_is_normalised_to_the_bias():
    layer = drawn(BatchNorm(R, D))
    assert torch.equal(layer(inputs(R, 1, D)), torch.zeros(R, 1, D))


@pytest.mark.parametrize("p", [0.0111, 0.3, 0.4903])
def test_dropout_keeps_the_mean_and_drops_its_share(p):
    layer, x = drawn(Dropout(p)), torch.ones(R, 400, 333)
    found = layer.train()(x)
    share = float((found == 0).float().mean())
    assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / x.numel()) + 1 / LEVELS
    assert abs(float(found.mean()) - 1) < 0.01
    assert found.unique().numel() == 2
    assert torch.equal(layer.eval()(x), x)


def test_dropouts_gradient_passes_where_the_row_passed():
    layer, x = drawn(Dropout(0.5)).train(), torch.ones(R, 20, 30, requires_grad=True)
    found = layer(x)
    found.sum().backward()
    assert torch.equal(x.grad, found.detach())


def test_layers_draw_from_their_generator_and_from_no_other():
    net = nn.Sequential(Linear(R, D, O), Dropout(0.5))

    def run(seed):
        prepare(net, torch.Generator().manual_seed(seed))
        return net.train()(inputs(R, B, D)).detach().clone()

    before = torch.random.get_rng_state()
    one, again, other = run(3), run(3), run(4)
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_layer_normalisation_is_pytorchs():
    layer, x = drawn(LayerNorm(R, D)), inputs(R, B, 2, D)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2), layer.bias.uniform_(-1, 1)
    for r in range(R):
        expected = nn.functional.layer_norm(x[r], (D,), layer.weight[r], layer.bias[r])
        torch.testing.assert_close(layer(x)[r], expected)


@pytest.mark.parametrize("axes", [1, 2])
def test_every_net_of_a_convolution_is_pytorchs(axes):
    layer, x = drawn(Convolution(R, 3, 4, 3, axes, stride=2, padding=1)), inputs(R, B, 3, *[9] * axes)
    convolved = nn.functional.conv1d if axes == 1 else nn.functional.conv2d
    for r in range(R):
        expected = convolved(x[r], layer.weight[r], layer.bias[r], stride=2, padding=1)
        torch.testing.assert_close(layer(x)[r], expected)
    bound = 1 / math.sqrt(3 * 3**axes)
    assert layer.weight.abs().max() <= bound and layer.weight.abs().max() > 0.9 * bound


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_every_net_of_a_recurrence_is_pytorchs_and_each_row_has_its_own_last_states(cell):
    layer, x = drawn(Recurrence(R, cell, D, 6, 2)), inputs(R, B, 4, D)
    outputs, states = layer(x)
    for r in range(R):
        theirs = (nn.LSTM if cell == "lstm" else nn.GRU)(D, 6, 2, batch_first=True)
        with torch.no_grad():
            for mine, its in zip(layer.parts, theirs.parameters(), strict=True):
                its.copy_(mine[r])
        expected, last = theirs(x[r])
        last = last[0] if cell == "lstm" else last
        torch.testing.assert_close(outputs[r], expected)
        for b in range(B):  # the first place's net gave row b the states of rows 2b and 2b + 1
            torch.testing.assert_close(states[r, b], torch.cat([last[0, b], last[1, b]]))


def test_maps_are_normalised_as_pytorchs():
    layer, x = drawn(Maps(R, 3, 4, 3, 2)).train(), inputs(R, B, 3, 8, 8)
    found = layer(x)
    for r in range(R):
        maps = nn.functional.conv2d(x[r], layer.convolution.weight[r], stride=2, padding=1)
        torch.testing.assert_close(found[r], nn.BatchNorm2d(4)(maps), atol=1e-5, rtol=1e-5)
