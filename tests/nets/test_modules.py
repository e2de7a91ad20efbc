"""The nets: numbers of parameters at the published sizes, rows that do not see each other, what unknown levels get."""

import pytest
import torch

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.nets.layers import prepare
from rapids_pipeline.nets.modules import net_of, predicted
from rapids_pipeline.nets.settings import (
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
from rapids_pipeline.stack.winners.third_place import STAGE_1, STAGE_2

PUBLISHED = {1: 331_842, 2: 582_572, 3: 553_567, 5: 360_007, 6: 297_282, 7: 529_740, 8: 257_500}
"""Trainable parameters of the nets of stage 1 of the third place."""
FOLDS = {"initial": (74_196, (229, 324)), "light": (37_774, (187, 202)), "heavy": (110_618, (779, 142))}
"""Columns of the first place's schemes, and their steps and columns a step."""
FIRST_PLACE = {
    "lstm": {"initial": 40_510_243, "light": 34_942_755, "heavy": 112_506_659},
    "gru": {"initial": 40_419_107, "light": 34_867_235, "heavy": 112_438_819},
    "cnn": {"initial": 19_077_299, "light": 14_555_315, "heavy": 23_591_091},
}
GENES = 18_211
BLOCK = Block(width=9, dropout=0.3)
NETS = {
    "embedding_mlp": (EmbeddingMlp(embedding=4, norm=True, blocks=(Block(width=9, dropout=0.3),)), [4, 6]),
    "mlp": (Mlp(blocks=(BLOCK, Block(width=8, order="linear relu norm drop"))), [2, 3]),
    "lstm": (Recurrent(hidden=6, head=(9, 8)), [2, 3]),
    "gru": (Recurrent(cell="gru", hidden=6, layers=3, head=()), [2, 3]),
    "conv1d": (Conv1d(head=(9, 8)), [2, 3]),
    "transformer": (Transformer(width=8, layers=2, heads=2, feed_forward=12), [2, 3]),
    "transformer of blocks": (
        Transformer(tokens="blocks", width=8, layers=2, heads=2, feed_forward=12),
        [2, 3],
    ),
    "conv_resnet": (ConvResNet(side=32), [2, 3]),
    "conv_resnet of blocks in turn": (ConvResNet(side=32), [2, 2]),
    "sample_gene_mlp": (SampleGeneMlp(sample=(5, 6), gene=(4, 3)), [7, 7]),
    "conditional_encoder_decoder": (
        ConditionalEncoderDecoder(
            towers=(Tower(of="compound", widths=(6, 5)), Tower(of="cell_type", widths=(4,))),
            compound=(5,),
            code=(6, 5),
            decoder=(8,),
        ),
        [2, 3, 2],
    ),
}
TOWERS = (
    Tower(of="compound", widths=(256, 128)),
    Tower(of="compound", widths=(256, 128)),
    Tower(of="cell_type", widths=(32,)),
    Tower(of="cell_type", widths=(32, 16)),
)
"""Of ScAPE, for log p and log fold changes."""


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
    if name != "embedding_mlp":
        return torch.randn(n, sum(NETS[name][1]), generator=g)
    return torch.stack([torch.randint(4, (n,), generator=g), 4 + torch.randint(6, (n,), generator=g)], 1)


@pytest.mark.parametrize("number", PUBLISHED)
def test_published_nets_have_the_published_numbers_of_parameters(number):
    member = STAGE_1[number]
    with torch.device("meta"):
        net = net_of(member.architecture, 1, [6, 146], member.n_components)
        ten = net_of(member.architecture, 10, [6, 146], member.n_components)
    assert parameters(net) == PUBLISHED[number]
    assert parameters(ten) == 10 * PUBLISHED[number]


@pytest.mark.parametrize("scheme", FOLDS)
@pytest.mark.parametrize("net", FIRST_PLACE)
def test_nets_of_the_first_place_have_the_published_numbers_of_parameters(net, scheme):
    p, fold = FOLDS[scheme]
    settings = Conv1d() if net == "cnn" else Recurrent(cell=net, fold=fold)
    with torch.device("meta"):
        assert parameters(net_of(settings, 1, [p], GENES)) == FIRST_PLACE[net][scheme]


@pytest.mark.parametrize(("statistics", "published"), [(4, 15_284_259), (2, 10_622_243)])
def test_nets_of_the_second_place_have_the_published_numbers_of_parameters(statistics, published):
    with torch.device("meta"):
        net = net_of(Transformer(), 1, [152, statistics * GENES], GENES)
        assert parameters(net) == published


def test_grouped_blocks_are_projected_as_one():
    with torch.device("meta"):
        net = net_of(Transformer(groups=(2, 2)), 1, [6, 146, 2 * GENES, 2 * GENES], GENES)
        assert parameters(net) == 15_284_259
        further = net_of(Transformer(groups=(2,)), 1, [2, 3, 4], 5)
    assert [p.weight.shape[1] for p in further.projections] == [5, 4]
    with pytest.raises(InputError, match="groups of 5 blocks, and the feature set has 3"):
        net_of(Transformer(groups=(2, 3)), 1, [2, 3, 4], 5)


def test_the_net_of_jn_ap_has_the_published_number_of_parameters():
    with torch.device("meta"):
        net = net_of(SampleGeneMlp(), 1, [GENES, GENES], GENES)
    assert parameters(net) == 1_195_612
    assert parameters(net.gene) == 540


@pytest.mark.parametrize(("n", "k", "published"), [(64, GENES, 9_632_483), (256, 256, None)])
def test_the_net_of_scape_has_the_published_number_of_parameters(n, k, published):
    with torch.device("meta"):
        net = net_of(ConditionalEncoderDecoder(towers=TOWERS), 1, [n, n, n, n], k)
    # Keras counts running values, which it does not train, among all parameters.
    running = sum(value.numel() for name, value in net.state_dict().items() if "running" in name)
    if published is None:
        assert parameters(net) + running == 554_048
    else:
        assert (parameters(net), parameters(net) + running) == (published, 9_637_475)


def test_a_shared_net_of_all_targets_needs_a_column_a_target():
    with pytest.raises(InputError, match="reads blocks of one column a target, 7 of them"):
        net_of(SampleGeneMlp(), 1, [7, 5], 7)


def test_an_encoder_refuses_more_towers_than_blocks():
    with pytest.raises(InputError, match="there are 4 towers, and the feature set has 2 blocks"):
        net_of(ConditionalEncoderDecoder(towers=TOWERS), 1, [7, 5], 7)


def test_the_decoders_condition_is_the_cell_types_alone():
    net, seen = made("conditional_encoder_decoder").eval(), []
    net.condition.register_forward_hook(lambda *parts: seen.append(parts[2]))
    x = rows_of("conditional_encoder_decoder").expand(3, -1, -1)
    compound, cell = x.clone(), x.clone()
    compound[..., :2] += 1
    cell[..., 2:] += 1  # two blocks: the second has no tower in the list, so it is the cell type's
    with torch.no_grad():
        same, of_compound, of_cell = (net(rows) for rows in (x, compound, cell))
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    assert not torch.equal(same, of_compound) and not torch.equal(same, of_cell)


def test_blocks_of_one_width_take_turns_in_convolutions():
    net, x = made("conv_resnet of blocks in turn"), torch.arange(4.0).expand(3, 1, 4)
    plain = made("conv_resnet of blocks in turn")
    plain.in_turn = 1
    with torch.no_grad():
        net.eval(), plain.eval()
        torch.testing.assert_close(net(x), plain(x[..., [0, 2, 1, 3]]))


@pytest.mark.parametrize(("k", "published"), [(45, 34_798_221), (35, 29_550_211)])
def test_nets_of_the_fourth_place_have_the_published_numbers_of_parameters(k, published):
    with torch.device("meta"):
        assert parameters(net_of(ConvResNet(), 1, [k, k], k)) == published


def test_columns_are_folded_into_a_square_where_no_fold_is_given():
    with torch.device("meta"):
        net = net_of(Recurrent(), 1, [74_196], 3)
    assert (net.steps, net.d) == (272, 273)
    with pytest.raises(InputError, match="fold = 2 steps of 2 columns are fewer than the 5 there are"):
        net_of(Recurrent(fold=(2, 2)), 1, [5], 3)


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
    net.learn_unknown([4, 6], torch.tensor([[0, 4], [1, 5], [2, 6], [0, 7], [1, 8]]))
    torch.testing.assert_close(net[0].weight[:, 3], weight[:, :3].mean(1))
    torch.testing.assert_close(net[0].weight[:, 9], weight[:, 4:9].mean(1))
    known = [0, 1, 2, *range(4, 9)]
    assert torch.equal(net[0].weight[:, known], weight[:, known])
    net.learn_unknown([4, 6], torch.tensor([[3, 9]]))
    assert torch.equal(net[0].weight[:, 3], net[0].weight[:, 0]), "the last level is known where a row has it"


def test_tokens_of_blocks_read_each_other_and_a_single_token_does_not():
    rows, changed = rows_of("mlp"), rows_of("mlp")
    changed[:, :2] += 1
    for name in ("transformer", "transformer of blocks"):
        net = made(name)
        assert (predicted(net, rows) - predicted(net, changed)).abs().max() > 1e-4
    layer = made("transformer of blocks").encoder[0].eval()
    x = torch.randn(3, 4, 2, 8, generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[:, :, 1] += 1
    moved = (layer(x) - layer(other)).abs().amax((0, 2, 3))
    assert (moved > 1e-5).all()
    other = x.clone()
    other[:, 1] += 1
    moved = (layer(x) - layer(other)).abs().amax((0, 2, 3))
    assert (moved > 1e-5).tolist() == [False, True, False, False], "rows read no other row"


def test_a_layer_of_the_encoder_is_pytorchs():
    ours = made("transformer of blocks").encoder[0].eval()
    x = torch.randn(3, 4, 2, 8, generator=torch.Generator().manual_seed(0))
    for r in range(3):
        how = {"dropout": 0.0, "activation": "gelu", "batch_first": True}
        theirs = torch.nn.TransformerEncoderLayer(8, 2, 12, **how).eval()
        theirs.load_state_dict(
            {
                "self_attn.in_proj_weight": ours.project.weight[r].T,
                "self_attn.in_proj_bias": ours.project.bias[r, 0],
                "self_attn.out_proj.weight": ours.out.weight[r].T,
                "self_attn.out_proj.bias": ours.out.bias[r, 0],
                "linear1.weight": ours.up.weight[r].T,
                "linear1.bias": ours.up.bias[r, 0],
                "linear2.weight": ours.down.weight[r].T,
                "linear2.bias": ours.down.bias[r, 0],
                **{f"norm{n + 1}.weight": norm.weight[r] for n, norm in enumerate(ours.norms)},
                **{f"norm{n + 1}.bias": norm.bias[r] for n, norm in enumerate(ours.norms)},
            }
        )
        torch.testing.assert_close(ours(x)[r], theirs(x[r]), atol=1e-5, rtol=1e-5)
