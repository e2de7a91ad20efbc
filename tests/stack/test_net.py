"""Members of kind net: against their steps by hand, unknown names, contexts, weights, checkpoints, and saved."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from features.feature_sets import FeatureTable
from features.rows import Rows
from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.backend.state import StateReader, joined, split
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
from rapids_pipeline.nets.training import Examples, trained
from rapids_pipeline.stack.fit import fit_stack
from rapids_pipeline.stack.members.net import NetMember, _nearest
from rapids_pipeline.stack.saved import StackModel
from rapids_pipeline.stack.target_space import TargetSpace
from tests.stack_example import (
    NET,
    SVR,
    assert_alone_as_among_others,
    example,
    folded,
    net,
    recipe,
    training_set,
    with_made_up,
)

TRAINING, ARCHITECTURE = NET.training, NET.architecture
MLP = net()


def fitted(member, weight=None, seed=7, rows=None):
    train, test, Y = rows or example()
    data = training_set(train, test, Y, weight, seed)
    return member.prepare(data).fit(np.arange(len(Y)))


def aggregated(space, net, inputs, unit):
    return np.median(
        [space.inverse_transform(z.numpy() * np.float32(unit)) for z in predicted(net, inputs)], axis=0
    )


def test_a_member_equals_its_steps_by_hand():
    train, test, Y = example()
    space = TargetSpace(5, products="float32")
    z = space.components_for(Y)
    unit = np.sqrt((z.astype(np.float64) ** 2).sum() / Y.size)
    cells, compounds = sorted(set(train.obs["cell_type"])), sorted(set(train.obs["sm_name"]))

    def codes(rows):
        first = [cells.index(c) for c in rows.obs["cell_type"]]
        return torch.tensor(
            [
                [c, len(cells) + 1 + compounds.index(m)]
                for c, m in zip(first, rows.obs["sm_name"], strict=True)
            ]
        )

    net = net_of(ARCHITECTURE, 3, [len(cells) + 1, len(compounds) + 1], z.shape[1])
    examples = Examples(codes(train), torch.from_numpy(z / np.float32(unit)), torch.ones(len(Y)))
    trained(net, examples, TRAINING, 7)
    np.testing.assert_allclose(
        fitted(NET).predict(test), aggregated(space, net, codes(test), unit), atol=1e-5
    )


def test_columns_of_a_feature_set_are_standardised_by_the_training_rows():
    train, test, Y = example()
    space, table = TargetSpace(5, products="float32"), FeatureTable(MLP.features, 0.0, 7)
    z = space.components_for(Y)
    unit = np.sqrt((z.astype(np.float64) ** 2).sum() / Y.size)
    X = table.fit_transform(train, z / np.float32(unit))
    mean, deviation = X.mean(0, dtype=np.float64), X.std(0, dtype=np.float64)
    spread = np.where(deviation > 1e-9, deviation, 1)

    def columns(x):
        return torch.from_numpy((x - mean.astype(np.float32)) / spread.astype(np.float32))

    net = net_of(MLP.architecture, 3, [X.shape[1]], z.shape[1])
    trained(
        net, Examples(columns(X), torch.from_numpy(z / np.float32(unit)), torch.ones(len(Y))), TRAINING, 7
    )
    expected = aggregated(space, net, columns(table.transform(test)), unit)
    np.testing.assert_allclose(fitted(MLP).predict(test), expected, atol=1e-5)


@pytest.mark.parametrize("factor", [2.0**-10, 2.0**10])
def test_the_unit_of_the_targets_does_not_matter(factor):
    train, test, Y = example()
    one = fitted(NET).predict(test)
    other = fitted(NET, rows=(train, test, Y * np.float32(factor))).predict(test)
    np.testing.assert_array_equal(other / np.float32(factor), one)


@pytest.mark.parametrize("member", [NET, MLP], ids=["embedding_mlp", "mlp"])
def test_unknown_cell_types_and_compounds_are_predicted_and_no_row_is_dropped(member):
    model = fitted(member)
    structures = {"made up": np.zeros((4, 10), np.float32)}
    obs = pd.DataFrame(
        {"cell_type": ["cell 0", "new", "cell 0", "new"], "sm_name": ["drug 01", "drug 01", "new", "new"]}
    )
    found = model.predict(Rows(obs, structures))
    assert found.shape == (4, 25) and np.isfinite(found).all()
    assert len(np.unique(found.round(4), axis=0)) == 4


def test_the_vector_of_what_is_unknown_is_the_mean_of_the_known_ones():
    weight = fitted(NET).groups[0].net[0].weight.detach()
    torch.testing.assert_close(weight[:, 4], weight[:, :4].mean(1))
    torch.testing.assert_close(weight[:, -1], weight[:, 5:-1].mean(1))


def with_doses(rows, doses):
    return Rows(rows.obs.assign(dose_uM=doses), rows.molecules)


def test_doses_are_told_apart_where_training_rows_differ_in_them():
    train, test, Y = example()
    doses = np.tile([0.1, 10.0], len(Y))[: len(Y)]
    Y = Y + np.where(doses > 1, 3.0, -3.0)[:, None].astype(np.float32)
    member = NET.in_contexts(("dose_uM",)).updated(training=TRAINING.model_copy(update={"epochs": 60}))
    data = training_set(with_doses(train, doses), with_doses(test, 10.0), Y, None, 0)
    model = member.prepare(data).fit(np.arange(len(Y)))
    high, near, low = (model.predict(with_doses(test, dose)) for dose in (10.0, 7.0, 0.1))
    np.testing.assert_array_equal(high, near)
    assert high.mean() - low.mean() > 2


def test_a_missing_dose_is_a_level_of_its_own_and_a_fit_may_have_no_other():
    train, test, Y = example()
    member = NET.in_contexts(("dose_uM",))
    for doses, learnt in (
        (np.where(np.arange(len(Y)) % 2, np.nan, 1.0), True),
        (np.full(len(Y), np.nan), False),
    ):
        data = training_set(with_doses(train, doses), with_doses(test, 1.0), Y, None, 0)
        model = member.prepare(data).fit(np.arange(len(Y)))
        missing, given = (model.predict(with_doses(test, dose)) for dose in (np.nan, 1.0))
        assert np.isfinite(missing).all() and np.isfinite(given).all()
        assert bool(np.abs(missing - given).max() > 1e-4) == learnt


def test_the_nearest_dose_is_nearest_by_its_logarithm():
    known = np.array([0.0, 0.1, 1.0, 100.0])
    found = _nearest(np.array([0.0, 0.09, 5.0, 20.0, 1e4, np.nan]), known)
    assert found.tolist() == [0, 1, 2, 3, 3, 4]
    assert _nearest(np.array([1.0, np.nan]), np.array([])).tolist() == [0, 0]


def test_a_row_without_weight_teaches_nothing():
    train, test, Y = example()
    member = MLP.updated(
        architecture=Mlp(blocks=(Block(width=12, order="linear relu drop"),)),
        features=with_made_up("svr_shared"),
        n_components="none",
    )
    weight = np.where(np.arange(len(Y)) < 3, 0.0, 1.0)
    rms = np.sqrt((Y**2).mean())
    swapped = Y.copy()
    swapped[:3] = -Y[:3]  # of the same size, so that the unit stays
    one, other = (fitted(member, weight, rows=(train, test, y)).predict(test) for y in (Y, swapped))
    np.testing.assert_allclose(one, other, atol=1e-4 * rms)


@pytest.mark.parametrize("member", [NET, MLP], ids=["embedding_mlp", "mlp"])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"n_components": "none", "replicas": 1},
        {"transform": "asinh", "centre": True, "aggregate": "mean"},
    ],
    ids=["svd", "genes", "asinh"],
)
def test_nets_come_back_from_their_state(member, changed):
    _, test, _ = example()
    member = member.updated(**changed)
    model = fitted(member)
    tree, arrays = split(model.state(), "net")
    again = member.model_from_state(StateReader(joined(tree, "net", arrays), "model"))
    np.testing.assert_array_equal(again.predict(test), model.predict(test))
    assert_alone_as_among_others(model.predict, test)


OTHERS = {
    "lstm": Recurrent(hidden=6, head=(9,)),
    "gru": Recurrent(cell="gru", hidden=6, head=(9,)),
    "conv1d": Conv1d(head=(9,)),
    "transformer": Transformer(width=8, layers=1, heads=2, feed_forward=12),
    "transformer of blocks": Transformer(tokens="blocks", width=8, layers=1, heads=2, feed_forward=12),
    "conv_resnet": ConvResNet(side=32),
    "conditional_encoder_decoder": ConditionalEncoderDecoder(
        towers=(Tower(of="cell_type", widths=(4,)), Tower(of="compound", widths=(6, 5))),
        compound=(5,),
        code=(6,),
        decoder=(8,),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_architecture_learns_is_saved_and_predicts_rows_alone(name):
    train, test, _ = example()
    how = TRAINING.model_copy(update={"epochs": 2, "masking": 0.3, "clip_norm": 1.0})
    member = net(architecture=OTHERS[name], training=how, replicas=2)
    model = fitted(member)
    assert np.std(model.predict(train)) > 1e-3
    tree, arrays = split(model.state(), "net")
    again = member.model_from_state(StateReader(joined(tree, "net", arrays), "model"))
    np.testing.assert_array_equal(again.predict(test), model.predict(test))
    assert_alone_as_among_others(model.predict, test)


def test_the_net_that_all_targets_share_reads_their_means_by_cell_type_and_compound():
    train, test, _ = example()
    member = MLP.updated(
        architecture=SampleGeneMlp(sample=(6, 5), gene=(4, 3)), features="loo", standardise=False
    )
    model = fitted(member)
    assert np.std(model.predict(train)) > 1e-3
    assert_alone_as_among_others(model.predict, test)
    with pytest.raises(InputError, match="one column a target, 5 of them"):
        fitted(member.updated(features=with_made_up("svr_loo")))


def test_a_single_net_gives_scores_that_stand_for_its_predictions():
    train, test, Y = example()
    member = NET.updated(replicas=1)
    data = training_set(train, test, Y, None, 7)
    [compact] = member.prepare(data).fit_compact(np.arange(len(Y)), [np.arange(len(Y), len(Y) + 6)])
    assert compact.parts[0].scores.shape == (6, 5)
    np.testing.assert_allclose(compact[:], fitted(member).predict(test), atol=1e-6)


def test_the_epoch_is_chosen_by_rows_that_are_not_trained_on():
    train, test, Y = example()
    member = NET.updated(training=TRAINING.model_copy(update={"checkpoint": "best", "validation_folds": 4}))
    data = training_set(train, test, Y, None, 7)
    [judging] = member.prepare(data)._judging(np.arange(len(Y)))
    assert 8 <= judging.sum() <= 16
    changed = Y.copy()
    changed[judging] *= -1
    one, other = (fitted(member, rows=(train, test, y)).groups[0] for y in (Y, changed))
    np.testing.assert_array_equal(one.space.svd_.components_, other.space.svd_.components_)


def test_pseudo_labelled_rows_never_choose_the_epoch():
    train, test, Y = example()
    member = NET.updated(training=TRAINING.model_copy(update={"checkpoint": "best", "validation_folds": 2}))
    data = training_set(train, test, Y, None, 7)
    both = np.arange(len(Y) + 6)
    [judging] = member.prepare(data)._judging(both)
    assert judging.any() and not judging[len(Y) :].any()


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_with_every_fold_each_row_is_left_out_once_and_all_nets_are_reduced(checkpoint):
    train, test, Y = example()
    how = TRAINING.model_copy(update={"checkpoint": checkpoint, "validation_folds": 3})
    member = NET.updated(training=how, every_fold=True, replicas=2, aggregate="mean")
    data = training_set(train, test, Y, None, 7)
    judging = member.prepare(data)._judging(np.arange(len(Y)))
    np.testing.assert_array_equal(np.sum(judging, axis=0), 1)
    model = fitted(member)
    assert model.replicas == 6
    each = [member.prepare(data)._group(np.arange(len(Y)), rows, k) for k, rows in enumerate(judging)]
    parts = [group.space.inverse_transform(z) for group in each for z in group.scores(test)]
    np.testing.assert_allclose(model.predict(test), np.mean(parts, axis=0), atol=1e-5)
    tree, arrays = split(model.state(), "net")
    again = member.model_from_state(StateReader(joined(tree, "net", arrays), "model"))
    np.testing.assert_array_equal(again.predict(test), model.predict(test))


def test_a_left_out_row_reaches_a_group_in_no_way():
    train, test, Y = example()
    how = TRAINING.model_copy(update={"validation_folds": 3})
    member = MLP.updated(training=how, every_fold=True, features=with_made_up("onehot_loo"))
    first = member.prepare(training_set(train, test, Y, None, 7))
    judging = first._judging(np.arange(len(Y)))[1]
    changed = Y.copy()
    changed[judging] *= -1
    other = member.prepare(training_set(train, test, changed, None, 7))
    one, two = (fits._group(np.arange(len(Y)), judging, 1).scores(test) for fits in (first, other))
    np.testing.assert_array_equal(one, two)


def test_a_damaged_state_is_refused():
    state = dict(fitted(NET).state()["group_0"])
    for name, broken, says in (
        (
            "weights",
            {**state["weights"], "layer_0_weight": np.zeros((3, 3, 4), np.float32)},
            "layer_0_weight must be float32",
        ),
        (
            "weights",
            {**state["weights"], "more": np.zeros(1, np.float32)},
            "weights that the architecture does not have",
        ),
        ("compounds", ["one"], "layer_0_weight must be float32"),
        ("unit", "large", "unit is no finite number"),
    ):
        with pytest.raises(InputError, match=says):
            NET.model_from_state(StateReader({"group_0": {**state, name: broken}}, "model"))
    for groups in ({}, {"group_0": state, "group_1": state}):
        with pytest.raises(InputError, match=f"there are {len(groups)} groups of nets"):
            NET.model_from_state(StateReader(groups, "model"))


def test_a_huge_architecture_in_a_saved_model_allocates_nothing():
    huge = NET.updated(architecture=EmbeddingMlp(embedding=100_000, blocks=(Block(width=100_000),) * 3))
    with pytest.raises(InputError, match="must be float32"):
        huge.model_from_state(StateReader(fitted(NET).state(), "model"))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"features": "svr_shared"}, "embedding_mlp reads a pair's names alone, and no feature set"),
        ({"architecture": {"kind": "mlp"}}, "mlp reads columns: name a feature set"),
        ({"architecture": {"kind": "lstm"}}, "embedding_mlp"),
        ({"architecture": {"kind": "mlp"}, "features": "svr_per_target"}, "columns of its own"),
        ({"replicas": 0}, "from 1 to 1,000"),
        ({"stacks_on": ("composite",)}, "kind net reads no predictions"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, says):
    with pytest.raises(ValueError, match=says):
        NetMember(**values)


def test_nets_of_both_levels_are_blended_with_other_members():
    train, test, Y = example()
    above = MLP.updated(name="above", features=with_made_up("boosting"), stacks_on=("svr_shared",))
    found = fit_stack(train, test, Y, folded(Y), recipe(SVR, NET, above), 0, "cpu")
    assert list(found.members) == ["svr_shared", "embedding_mlp", "above"]
    assert any("the target space of embedding_mlp keeps" in note for note in found.notes)


def test_for_a_new_compound_the_other_members_answer():
    train, test, Y = example()
    new = test.obs.assign(sm_name=[*test.obs["sm_name"][:3], "new", "new", "new"])
    asked = Rows(new, test.molecules)
    which = recipe(SVR, NET, blend={"weights": {"svr_shared": 3.0, "embedding_mlp": 1.0}})
    found = fit_stack(train, asked, Y, folded(Y), which, 0, "cpu")
    weights = found.model.weights
    assert weights.weights == {"svr_shared": 0.75, "embedding_mlp": 0.25} and weights.amplitude == 1
    alone = np.clip(
        weights.amplitude * found.test_members["svr_shared"][:], found.model.low, found.model.high
    )
    np.testing.assert_allclose(found.test[3:], alone[3:], rtol=1e-5)
    assert np.abs(found.test[:3] - alone[:3]).max() > 1e-3
    assert "3 pairs have a new cell type or compound; embedding_mlp know" in found.notes[-1]
    state = StateReader(found.model.state(), "model")
    again = StackModel.from_state(which, Y.shape[1], state)
    np.testing.assert_array_equal(again.predict(asked), found.test)


def test_without_pytorch_a_recipe_with_nets_ends_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UnavailableError, match="members of kind net need PyTorch: pip install"):
        NET.engine_choice(np.zeros((2, 2), np.float32), "cpu")


def test_settings_of_nets_load_no_pytorch():
    code = "import sys, rapids_pipeline.stack.named_recipes; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
