"""States of what is fitted: restored objects transform alike, to the last bit, and damaged states are refused."""

import copy

import numpy as np
import pandas as pd
import pytest

from features.blocks import OneHotBlock
from features.feature_sets import FeatureSet, FeatureTable
from features.molecules import FITTED_IN_FOLD, descriptors
from features.molecules.descriptors import DescriptorEncoder
from features.reduction import TruncatedSVD
from features.rows import Rows
from features.target_encoders import LeaveOneOutEncoder, TargetEncoder
from rapids_pipeline.backend.arrays import to_host
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import StateReader
from tests.features.test_feature_sets import EVERY_SET, SMILES, example, feature_set, targets_for

SAVED_DTYPES = [np.dtype(name) for name in ("float32", "float64", "int32", "int64", "uint8")]
GROUPS = ["b", "a", "b", "c", "a", "b"]
Y = np.random.default_rng(3).normal(size=(6, 4)).astype(np.float32)


def reader(state):
    return StateReader(state, "DIR/model: it")


def leaves(state, place=()):
    """Every value of a state that is no state, with its place."""
    for name, value in state.items():
        if isinstance(value, dict):
            yield from leaves(value, (*place, name))
        else:
            yield (*place, name), value


def changed(state, place, change):
    """A deep copy of a state with one value changed, or left out where the change says so."""
    made = copy.deepcopy(state)
    inner = made
    for name in place[:-1]:
        inner = inner[name]
    if change is MISSING:
        del inner[place[-1]]
    else:
        inner[place[-1]] = change
    return made


MISSING = object()


def wrong_values(value):
    """What must not be taken for a value: nothing, another kind, another dtype or shape, no number."""
    yield from (MISSING, None, {"inner": 1})
    if isinstance(value, np.ndarray):
        yield from (value.tolist(), value[..., None], value[None], *map(value.astype, (np.float16, str)))
        yield np.concatenate([value, value[:1]])
        if value.dtype.kind == "f" and value.size:
            for number in (np.nan, np.inf):
                broken = value.copy()
                broken.flat[-1] = number
                yield broken
    elif isinstance(value, list):
        yield from (value[0], [*value, value[0]], value[:-1], [*value[:-1], 7], np.array(value))
    else:
        yield from ([value], np.array(value), "1" if isinstance(value, int | float) else 1, np.nan)


def assert_every_damage_is_refused(restore, state):
    assert restore(reader(state)) is not None
    for place, value in leaves(state):
        for wrong in wrong_values(value):
            with pytest.raises(InputError, match=r"^DIR/model: it") as raised:
                restore(reader(changed(state, place, wrong)))
            assert "damaged" in str(raised.value), (place, wrong)


def fitted_table(name):
    rows, targets = example()
    chosen = feature_set(name)
    targets = targets_for(chosen, targets)
    table = FeatureTable(chosen, sigma=0.2, seed=4)
    table.fit_transform(rows.take(np.arange(40)), targets[:40])
    return chosen, table, rows


# --- feature sets -------------------------------------------------------------------------------------------


@EVERY_SET
@pytest.mark.filterwarnings("error")
def test_a_restored_table_transforms_to_the_last_bit_alike(name):
    chosen, table, rows = fitted_table(name)
    state = table.state()
    again = FeatureTable.from_state(chosen, reader(copy.deepcopy(state)))
    strangers = rows.obs.assign(cell_type="nowhere", sm_name="nothing")
    for asked in (rows, rows.take(np.array([57])), Rows(strangers, rows.molecules, rows.predictions)):
        expected, found = table.transform(asked), again.transform(asked)
        assert found.dtype == expected.dtype and found.tobytes() == expected.tobytes()
    assert again.columns_ == table.columns_
    assert [place for place, _ in leaves(again.state())] == [place for place, _ in leaves(state)]
    for (_, expected), (_, found) in zip(leaves(state), leaves(again.state()), strict=True):
        np.testing.assert_array_equal(found, expected)


@EVERY_SET
def test_states_are_plain_data(name):
    _, table, _ = fitted_table(name)
    for place, value in leaves(table.state()):
        assert all(part.replace("_", "").isalnum() for part in place)
        if isinstance(value, np.ndarray):
            assert value.dtype in SAVED_DTYPES and value.flags.c_contiguous
        else:
            assert type(value) in (str, int, float, bool, list)
            assert not isinstance(value, list) or {type(entry) for entry in value} == {str}


@pytest.mark.parametrize("name", ["boosting_aggregates", "svr_loo", "op2_first_light", "svr_per_target"])
def test_damaged_tables_are_refused(name):
    chosen, table, _ = fitted_table(name)
    state = table.state()
    for place, value in leaves(state):
        for wrong in wrong_values(value) if place[-1] not in ("levels_0", "columns") else [MISSING]:
            with pytest.raises(InputError, match=r"^DIR/model: it"):
                FeatureTable.from_state(chosen, reader(changed(state, place, wrong)))


def test_tables_of_other_sets_are_refused():
    states = {name: fitted_table(name)[1].state() for name in ("onehot", "loo", "svr_loo", "op2_first_light")}
    for name, state in states.items():
        for other in states.keys() - {name}:
            with pytest.raises(InputError, match=r"^DIR/model: it"):
                FeatureTable.from_state(feature_set(other), reader(state))
    swapped = FeatureSet(name="swapped", blocks=feature_set("loo").blocks[::-1])
    with pytest.raises(InputError, match=r"block_0: the encoded column is cell_type, not sm_name"):
        FeatureTable.from_state(swapped, reader(states["loo"]))
    means = feature_set("op2_first_heavy")
    with pytest.raises(InputError, match=r"statistics are mean, not mean, quantile_0\.25"):
        FeatureTable.from_state(means, reader(states["op2_first_light"]))


def test_columns_that_are_reduced_must_be_as_many_as_were():
    chosen, table, _ = fitted_table("boosting")
    state = table.state()
    for place in (("block_2", "reduced", "width"), ("block_3", "reduced", "width")):
        with pytest.raises(InputError, match=r"svd reduces \d+ columns, and there are 3;"):
            FeatureTable.from_state(chosen, reader(changed(state, place, 3)))
        with pytest.raises(InputError, match=r"width is 0;"):
            FeatureTable.from_state(chosen, reader(changed(state, place, 0)))


def test_statistics_of_each_targets_own_are_of_one_target():
    rows, targets = example()
    shared = FeatureTable(feature_set("op2_first_light"))
    shared.fit_transform(rows, targets)
    blocks = feature_set("op2_first_light").blocks
    changes = [{"own_target": True} if block.kind == "statistics" else {} for block in blocks]
    made = [block.model_copy(update=change) for block, change in zip(blocks, changes, strict=True)]
    own = FeatureSet(name="own", blocks=tuple(made))
    with pytest.raises(InputError, match="they are statistics of too many targets, 7"):
        FeatureTable.from_state(own, reader(shared.state()))


def test_the_only_encoder_fitted_in_a_fold_is_the_one_that_is_saved():
    assert FITTED_IN_FOLD == ("descriptors",)


# --- the parts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (5, 5), (1, 4)])
def test_a_restored_reduction_is_the_same_to_the_last_bit(shape):
    A = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    svd = TruncatedSVD(4).fit(A)
    again = TruncatedSVD.from_state(reader(svd.state()))
    assert svd.components_.flags.c_contiguous and again.components_.flags.c_contiguous
    many = np.random.default_rng(1).normal(size=(500, shape[1])).astype(np.float32)
    scores = svd.transform(many)
    assert again.transform(many).tobytes() == scores.tobytes()
    assert again.inverse_transform(scores).tobytes() == svd.inverse_transform(scores).tobytes()
    assert again.explained_share_ == svd.explained_share_
    assert again.get_feature_names_out().tolist() == svd.get_feature_names_out().tolist()
    with pytest.raises(ValueError, match="features"):
        again.transform(many[:, 1:])


def test_a_reduction_to_nothing_is_restored():
    svd = TruncatedSVD(4).fit(np.zeros((5, 7)))
    assert TruncatedSVD.from_state(reader(svd.state())).transform(np.ones((2, 7))).shape == (2, 0)


def test_a_reduction_learnt_by_torch_is_saved_from_the_host():
    torch = pytest.importorskip("torch")
    A = np.random.default_rng(0).normal(size=(12, 30)).astype(np.float32)
    svd = TruncatedSVD(4).fit(torch.asarray(A))
    state = svd.state()
    assert all(isinstance(state[name], np.ndarray) for name in ("components", "singular_values"))
    again = TruncatedSVD.from_state(reader(state))
    np.testing.assert_allclose(again.transform(A), to_host(svd.transform(torch.asarray(A))), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"singular_values": np.array([1.0, 2.0])}, "singular_values do not descend"),
        ({"singular_values": np.array([1.0, -2.0])}, "singular_values do not descend"),
        ({"explained_share": 1.5}, r"explained_share 1\.5 is outside"),
        ({"components": np.zeros((2, 0), np.float32)}, "components have no columns"),
    ],
)
def test_a_reduction_that_is_none_is_refused(change, says):
    state = dict(TruncatedSVD(2).fit(np.random.default_rng(0).normal(size=(9, 5))).state())
    with pytest.raises(InputError, match=f"^DIR/model: it: {says}"):
        TruncatedSVD.from_state(reader(state | change))
    assert_every_damage_is_refused(TruncatedSVD.from_state, state)


def one_hot():
    return OneHotBlock(column="cell_type").maker()


def test_a_restored_one_hot_encoding_is_the_same():
    rows, _ = example()
    maker, again = one_hot(), one_hot()
    maker.fit_transform(rows.take(np.arange(3)), None)
    assert again.restore(reader(maker.state())) == 3
    assert again.transform(rows).tobytes() == maker.transform(rows).tobytes()
    assert again.transform(rows.take(np.arange(0))).shape == (0, 3)


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("levels_0", ["a", "a"], "levels_0 names something twice"),
        ("levels_0", [], "a column without levels"),
        ("columns", [], "the encoded column is , not cell_type"),
        ("columns", ["cell_type", "sm_name"], "the encoded column is cell_type, sm_name, not cell_type"),
    ],
)
def test_levels_that_are_none_are_refused(name, wrong, says):
    maker = one_hot()
    maker.fit_transform(example()[0], None)
    with pytest.raises(InputError, match=says):
        one_hot().restore(reader(changed(maker.state(), (name,), wrong)))


ENCODERS = {
    "one statistic": TargetEncoder(),
    "several": TargetEncoder(("mean", "count", "quantile_0.25"), smoothing=1.5),
    "leave-one-out": LeaveOneOutEncoder(0.2),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_a_restored_target_encoder_is_the_same(name):
    encoder = ENCODERS[name].fit(pd.Series(GROUPS, name="sm_name"), Y)
    again = type(encoder).from_state(reader(encoder.state()))
    asked = pd.Series(["c", "unseen", "a", "a"], name="sm_name")
    assert again.transform(asked).tobytes() == encoder.transform(asked).tobytes()
    assert again.table_.column == "sm_name"


def test_damaged_target_encoders_are_refused():
    state = TargetEncoder(("mean", "max")).fit(GROUPS, Y).state()
    assert_every_damage_is_refused(TargetEncoder.from_state, state)
    for statistics, says in ((["mode", "max"], "no statistic 'mode'"), ([], "name every statistic once")):
        with pytest.raises(InputError, match=f"^DIR/model: it: {says}"):
            TargetEncoder.from_state(reader(changed(state, ("statistics",), statistics)))
    with pytest.raises(InputError, match="it is of a TargetEncoder, not of a LeaveOneOutEncoder"):
        LeaveOneOutEncoder.from_state(reader(state))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["a", "b"], r"table: values must be float32 \(3, 1, any\), not float32 \(4, 1, 4\)"),
        (["a", "b", "b"], "table: levels names something twice"),
        ([], "table: levels are empty"),
    ],
)
@pytest.mark.parametrize("encoder", [LeaveOneOutEncoder(), TargetEncoder()])
def test_levels_that_do_not_fit_the_table_are_refused(encoder, wrong, says):
    state = encoder.fit(GROUPS, Y).state()
    with pytest.raises(InputError, match=says):
        type(encoder).from_state(reader(changed(state, ("table", "levels"), wrong)))


@pytest.mark.parametrize("encoder", [LeaveOneOutEncoder(), TargetEncoder()])
def test_labels_that_are_no_strings_are_not_saved(encoder):
    encoder.fit([1, 1, 2, 2, 3, 3], Y)
    with pytest.raises(
        InputError, match="encoder of column group cannot be saved: its labels are no strings"
    ):
        encoder.state()


# --- descriptors --------------------------------------------------------------------------------------------


def fitted_descriptors():
    pytest.importorskip("rdkit")
    return DescriptorEncoder(clip=4, desalt=True).fit([*SMILES[:5], "CCN.Cl"])


def test_restored_descriptors_are_the_same():
    encoder = fitted_descriptors()
    again = DescriptorEncoder.from_state(reader(encoder.state()))
    assert again.get_params() == encoder.get_params()
    asked = [*SMILES, "[Na+].OCC(=O)[O-]", "C" * 300]
    assert again.transform(asked).tobytes() == encoder.transform(asked).tobytes()
    assert (again.notes(), again.n_imputed_) == (encoder.notes(), encoder.n_imputed_)


def test_damaged_descriptors_are_refused():
    encoder = fitted_descriptors()
    state = dict(encoder.state())
    for place, value in leaves(state):
        for wrong in wrong_values(value):
            with pytest.raises(InputError, match=r"^DIR/model: it"):
                DescriptorEncoder.from_state(reader(changed(state, place, wrong)))
    numbers = {"scale": np.zeros_like(state["scale"]), "constant": np.full_like(state["constant"], 2)}
    for change in ({name: wrong} for name, wrong in (numbers | {"clip": -1.0}).items()):
        with pytest.raises(InputError, match=r"^DIR/model: it"):
            DescriptorEncoder.from_state(reader(state | change))


@pytest.mark.parametrize("change", ["fewer", "renamed", "reordered"])
def test_another_rdkits_descriptors_are_refused(change, monkeypatch):
    encoder = fitted_descriptors()
    listed = descriptors._descriptor_list()
    renamed = [*listed[:5], ("NewName", listed[5][1]), *listed[6:]]
    listed = {"fewer": listed[:-3], "renamed": renamed, "reordered": listed[::-1]}[change]
    monkeypatch.setattr(descriptors, "_descriptor_list", lambda: listed)
    descriptors._known.cache_clear()
    try:
        again = DescriptorEncoder.from_state(reader(encoder.state()))
        with pytest.raises(
            InputError, match=r"RDKit .* the model was trained with 217 .* install the version"
        ):
            again.transform(SMILES)
    finally:
        descriptors._known.cache_clear()
