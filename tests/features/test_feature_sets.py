"""Feature sets: columns, errors, and that no row's own target enters its features."""

import numpy as np
import pandas as pd
import pytest

from features import feature_sets
from features.blocks import LeaveOneOutBlock, MoleculeBlock, OneHotBlock, StatisticsBlock
from features.feature_sets import FEATURE_SETS, FeatureSet, FeatureTable
from features.feature_sets import feature_set as any_feature_set
from features.rows import Rows, contexts_of
from features.target_encoders import TargetEncoder
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import StateReader

N, N_MOLECULES, N_TARGETS = 60, 20, 7
EVERY_SET = pytest.mark.parametrize("name", sorted(FEATURE_SETS))
SMILES = ["CCO", "c1ccccc1O", "CC(=O)O", "CCN", "CCCl", "c1ccncc1", "CC(C)=O", "OCC(O)CO"]


def feature_set(name):
    """The set of a name, where --molecules names an encoder whose columns the example has."""
    return any_feature_set(name).with_molecules("made up")


def example(seed=0):
    """60 rows of 5 cell types and 8 compounds, the last compound measured once."""
    rng = np.random.default_rng(seed)
    compounds = rng.integers(0, 7, N)
    compounds[-1] = 7
    obs = pd.DataFrame(
        {
            "cell_type": [f"cell {c}" for c in np.arange(N) % 5],
            "sm_name": [f"compound {c}" for c in compounds],
            "SMILES": [SMILES[c] for c in compounds],
        }
    )
    made_up = rng.normal(size=(8, N_MOLECULES)).astype(np.float32)[compounds]
    molecules = {"made up": made_up, "morgan": made_up[:, :9], "chemberta": made_up[:, 4:]}
    predictions = rng.normal(size=(N, N_TARGETS)).astype(np.float32)
    return Rows(obs, molecules, predictions), rng.normal(size=(N, N_TARGETS)).astype(np.float32)


def targets_for(chosen, Y):
    """A set whose columns are each target's own is made for one target."""
    return Y[:, :1] if chosen.own_target else Y


def width(block, n_targets):
    if isinstance(block, StatisticsBlock):
        wide = len(block.statistics) * n_targets
        return wide if block.n_components is None else WIDTHS[block.name]
    return n_targets if isinstance(block, LeaveOneOutBlock) else WIDTHS[block.name]


WIDTHS = {
    "onehot:cell_type": 5,
    "onehot:sm_name": 8,
    "molecules:made up": N_MOLECULES,
    "molecules:morgan": 9,
    "molecules:chemberta": N_MOLECULES - 4,
    "molecules:descriptors": 217,
    "svd:molecules:made up": 8,  # eight compounds have rank eight
    "svd:predictions": N_TARGETS,
    "svd:statistics:cell_type:mean+max": 2 * N_TARGETS,
    "svd:statistics:sm_name:mean+max": 2 * N_TARGETS,
}


@EVERY_SET
def test_columns_are_the_blocks_side_by_side(name):
    rows, Y = example()
    chosen = feature_set(name)
    Y = targets_for(chosen, Y)
    table = FeatureTable(chosen)
    X = table.fit_transform(rows, Y)
    assert table.columns_ == {block.name: width(block, Y.shape[1]) for block in chosen.blocks}
    assert X.shape == (N, sum(table.columns_.values()))
    assert X.dtype == np.float32
    start = 0
    for position, block in enumerate(chosen.blocks):
        alone = FeatureTable(FeatureSet(name="alone", blocks=(block,)), seed=position).fit_transform(rows, Y)
        np.testing.assert_array_equal(X[:, start : start + alone.shape[1]], alone)
        start += alone.shape[1]
    assert table.transform(rows.take(np.arange(3))).shape == (3, X.shape[1])


@EVERY_SET
def test_held_out_rows_features_depend_on_training_rows_only(name):
    rows, Y = example()
    chosen = feature_set(name)
    Y = targets_for(chosen, Y)
    inside, outside = np.arange(40), np.arange(40, N)
    table = FeatureTable(chosen)
    table.fit_transform(rows.take(inside), Y[inside])
    batch = table.transform(rows.take(outside))
    alone = np.vstack([table.transform(rows.take(np.array([i]))) for i in outside])
    np.testing.assert_allclose(alone, batch, rtol=1e-4, atol=1e-4)


def test_noise_of_encodings_is_seeded_and_differs_between_blocks():
    rows, Y = example()
    chosen = feature_set("onehot_loo")

    def made(sigma, seed):
        return FeatureTable(chosen, sigma, seed).fit_transform(rows, Y)

    plain, noisy = made(0.0, 0), made(0.2, 0)
    np.testing.assert_array_equal(noisy, made(0.2, 0))
    np.testing.assert_array_equal(noisy[:, :13], plain[:, :13])
    factors = noisy[:, 13:] / plain[:, 13:]
    assert factors.std() == pytest.approx(0.2, rel=0.15)
    assert np.all(factors[:, :N_TARGETS] != factors[:, N_TARGETS:])
    assert np.all(made(0.2, 5)[:, 13:] != noisy[:, 13:])
    table = FeatureTable(chosen, 0.2, 0)
    table.fit_transform(rows, Y)
    plain_table = FeatureTable(chosen)
    plain_table.fit_transform(rows, Y)
    np.testing.assert_array_equal(table.transform(rows), plain_table.transform(rows))


def test_only_stacking_sets_need_predictions():
    stacking = [name for name, chosen in FEATURE_SETS.items() if chosen.needs_predictions]
    assert stacking == ["boosting", "boosting_aggregates"]
    rows, Y = example()
    with pytest.raises(ValueError, match="needs first-level predictions and the rows have none"):
        FeatureTable(feature_set("boosting")).fit_transform(Rows(rows.obs, rows.molecules), Y)


def test_descriptors_are_standardised_by_the_training_rows():
    rows, Y = example()
    inside = np.flatnonzero(rows.obs["sm_name"].isin(["compound 0", "compound 1", "compound 2"]))
    chosen = FeatureSet(name="d", blocks=(MoleculeBlock(encoder="descriptors"),))
    assert chosen.encoders == [] and chosen.blocks[0].fitted_on == "molecules"
    part, whole = FeatureTable(chosen), FeatureTable(chosen)
    some = part.fit_transform(rows.take(inside), Y[inside])
    everything = whole.fit_transform(rows, Y)
    assert np.any(np.abs(some - everything[inside]) > 0.1)
    np.testing.assert_array_equal(part.transform(rows.take(inside)), some)


def test_statistics_of_each_targets_own_are_made_for_one_target_only():
    rows, Y = example()
    table = FeatureTable(feature_set("svr_per_target"))
    assert table.fit_transform(rows, Y[:, 2:3]).shape[1] == 5 + 8 + N_MOLECULES + 12
    with pytest.raises(InputError, match="cannot make one table for 7 targets"):
        table.fit_transform(rows, Y)


def test_statistics_blocks_are_cross_fitted_group_statistics():
    rows, Y = example()
    block = StatisticsBlock(column="sm_name", statistics=("mean", "quantile_0.25"), smoothing=2, n_folds=4)
    found = FeatureTable(FeatureSet(name="s", blocks=(block,)), seed=3).fit_transform(rows, Y)
    encoder = TargetEncoder(("mean", "quantile_0.25"), smoothing=2, n_folds=4, random_state=3)
    replicates = contexts_of(rows.obs)
    np.testing.assert_array_equal(found, encoder.fit_transform(rows.obs["sm_name"], Y, replicates))


def test_statistics_of_some_targets_are_of_those_that_vary_most():
    rows, Y = example()
    Y = Y * np.array([1, 5, 1, 1, 9, 1, 3], np.float32)
    how = {"column": "sm_name", "statistics": ("mean", "max"), "leaky": True}
    few, every = (
        FeatureTable(FeatureSet(name="s", blocks=(StatisticsBlock(**how, n_targets=n),))) for n in (3, None)
    )
    chosen = np.sort(np.argsort(-Y.std(0))[:3])
    columns = [*chosen, *(7 + chosen)]
    np.testing.assert_array_equal(few.fit_transform(rows, Y), every.fit_transform(rows, Y)[:, columns])
    np.testing.assert_array_equal(few.transform(rows), every.transform(rows)[:, columns])
    again = FeatureTable.from_state(few.feature_set, StateReader(few.state(), "table"))
    np.testing.assert_array_equal(again.transform(rows), few.transform(rows))
    assert few.feature_set.blocks[0].name == "leaky:statistics:sm_name:mean+max:top_3"
    with pytest.raises(InputError, match="statistics of too many targets, 7"):
        FeatureTable.from_state(few.feature_set, StateReader(every.state(), "table"))


# --- sets as files ------------------------------------------------------------------------------------------


@EVERY_SET
def test_a_set_written_as_toml_is_read_back(name, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(FEATURE_SETS[name].to_toml())
    assert any_feature_set(path) == FEATURE_SETS[name]
    assert any_feature_set(str(path)) == FEATURE_SETS[name]


def test_the_example_of_the_documentation_is_a_feature_set(tmp_path):
    text = (feature_sets.__doc__ or "").split("defines others:")[1]
    path = tmp_path / "mine.toml"
    path.write_text("\n".join(line.strip() for line in text.splitlines()))
    assert [block.name for block in any_feature_set(path).blocks] == [
        "onehot:cell_type",
        "molecules:morgan",
        "statistics:sm_name:mean+quantile_0.25",
    ]


BLOCK = 'name = "x"\n[[blocks]]\nkind = "statistics"\ncolumn = "sm_name"\n'


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name = ", "not a TOML file"),
        ('name = "x"', "blocks: is missing"),
        ('name = "x"\nblocks = []', "blocks: must have at least 1"),
        ('name = "[/x]\\u001b"', r"name: '\[/x\]\\x1b' has characters that cannot be seen"),
        ('name = "x"\n' + 101 * '[[blocks]]\nkind = "molecules"\n', "blocks: has more than 100"),
        (
            BLOCK + "smoothing = 1e300",
            r"smoothing: must be a number from 0 to 1e\+09, not 1e\+300: it counts",
        ),
        (
            BLOCK + "n_folds = 1",
            "n_folds: must be a whole number from 2 to 1,000, not 1: the statistics are made",
        ),
        (
            BLOCK + "n_components = 1e9",
            "n_components: must be a whole number from 1 to 100,000, not 10000000",
        ),
        (BLOCK + f"statistics = {['mean'] * 51}", "statistics: has more than 50"),
        (BLOCK + f"statistics = ['quantile_0.{'9' * 5000}']", "has more than 40 characters"),
        (BLOCK + "statistics = ['mean', 'mean']", "name every statistic once"),
        ('name = "x"\n[[blocks]]\nkind = "onehot"\ncolumn = "donor"', r"blocks\[0\].*column"),
        ('name = "x"\n[[blocks]]\nkind = "magic"', r"blocks\[0\].*magic"),
        ('name = "x"\n[[blocks]]\nkind = "molecules"\nbits = 3', r"blocks\[0\].*bits"),
        ('name = "x"\n[[blocks]]\nkind = "statistics"\ncolumn = "sm_name"\nstatistics = ["mode"]', "mode"),
        ('name = "x"\n' + 2 * '[[blocks]]\nkind = "molecules"\n', "block molecules occurs twice"),
    ],
)
def test_a_file_that_defines_no_set_is_one_line(text, complaint, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=complaint) as raised:
        any_feature_set(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.toml: No such file"):
        any_feature_set(tmp_path / "nowhere.toml")


def test_molecules_of_the_run_go_into_blocks_that_name_no_encoder():
    chosen = FeatureSet(
        name="two", blocks=(OneHotBlock(column="cell_type"), MoleculeBlock(), MoleculeBlock(encoder="morgan"))
    )
    assert chosen.encoders == ["morgan"]
    resolved = chosen.with_molecules("folder/of/weights")
    assert resolved.encoders == ["folder/of/weights", "morgan"]
    assert resolved.with_molecules("other") == resolved
    with pytest.raises(ValueError, match="names no encoder"):
        FeatureTable(chosen)


def test_unknown_set_lists_the_known_ones():
    with pytest.raises(InputError, match=r"no feature set 'magic'; choose among .*svr_shared.*boosting"):
        any_feature_set("magic")
    assert all(name == chosen.name for name, chosen in FEATURE_SETS.items())
