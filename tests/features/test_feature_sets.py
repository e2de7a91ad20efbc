"""Feature sets: columns, errors, and that no row's own target enters its features."""

import numpy as np
import pandas as pd
import pytest

from features.feature_sets import (
    BLOCKS,
    FEATURE_SETS,
    FeatureSet,
    FeatureTable,
    Rows,
    feature_set,
    needs_predictions,
)
from features.target import LeaveOneOutEncoder
from rapids_pipeline.backend.errors import InputError

N, N_MOLECULES, N_TARGETS = 60, 20, 7
EVERY_SET = pytest.mark.parametrize("name", sorted(FEATURE_SETS))


def example(seed=0):
    """60 rows of 5 cell types and 8 compounds, the last compound measured once."""
    rng = np.random.default_rng(seed)
    compounds = rng.integers(0, 7, N)
    compounds[-1] = 7
    obs = pd.DataFrame(
        {
            "cell_type": [f"cell {c}" for c in np.arange(N) % 5],
            "sm_name": [f"compound {c}" for c in compounds],
        }
    )
    molecules = rng.normal(size=(8, N_MOLECULES)).astype(np.float32)[compounds]
    predictions = rng.normal(size=(N, N_TARGETS)).astype(np.float32)
    return Rows(obs, molecules, predictions), rng.normal(size=(N, N_TARGETS)).astype(np.float32)


WIDTHS = {
    "onehot:cell_type": 5,
    "onehot:sm_name": 8,
    "molecules": N_MOLECULES,
    "loo:cell_type": N_TARGETS,
    "loo:sm_name": N_TARGETS,
    "svd:molecules": 8,  # eight compounds have rank eight
    "svd:predictions": N_TARGETS,
}


@EVERY_SET
def test_columns_are_the_blocks_side_by_side(name):
    rows, Y = example()
    table = FeatureTable(feature_set(name))
    X = table.fit_transform(rows, Y)
    assert table.columns_ == {block: WIDTHS[block] for block in FEATURE_SETS[name].blocks}
    assert X.shape == (N, sum(table.columns_.values()))
    assert X.dtype == np.float32
    start = 0
    for block, width in table.columns_.items():
        alone = FeatureTable(FeatureSet("alone", (block,), "")).fit_transform(rows, Y)
        np.testing.assert_array_equal(X[:, start : start + width], alone)
        start += width
    assert table.transform(rows.take(np.arange(3))).shape == (3, X.shape[1])


@EVERY_SET
@pytest.mark.parametrize("row", [0, 31, N - 1])
def test_a_rows_own_target_never_enters_its_features(name, row):
    rows, Y = example()
    changed = Y.copy()
    changed[row] += 1000
    before = FeatureTable(feature_set(name)).fit_transform(rows, Y)
    after = FeatureTable(feature_set(name)).fit_transform(rows, changed)
    assert after[row].tobytes() == before[row].tobytes()
    uses_targets = any(BLOCKS[block]().fitted_on == "targets" for block in FEATURE_SETS[name].blocks)
    assert np.any(after != before) == uses_targets


@EVERY_SET
def test_held_out_rows_features_depend_on_training_rows_only(name):
    rows, Y = example()
    inside, outside = np.arange(40), np.arange(40, N)
    table = FeatureTable(feature_set(name))
    table.fit_transform(rows.take(inside), Y[inside])
    batch = table.transform(rows.take(outside))
    alone = np.vstack([table.transform(rows.take(np.array([i]))) for i in outside])
    np.testing.assert_allclose(alone, batch, atol=1e-5)


def test_the_check_finds_group_means_that_include_the_row():
    rows, Y = example()
    changed = Y.copy()
    changed[0] += 1000
    leaky = [
        LeaveOneOutEncoder().fit(rows.obs["sm_name"], y).transform(rows.obs["sm_name"]) for y in (Y, changed)
    ]
    assert np.all(leaky[0][0] != leaky[1][0])


def test_noise_of_encodings_is_seeded_and_differs_between_blocks():
    rows, Y = example()
    recipe = feature_set("onehot_loo")

    def made(sigma, seed):
        return FeatureTable(recipe, sigma, seed).fit_transform(rows, Y)

    plain, noisy = made(0.0, 0), made(0.2, 0)
    np.testing.assert_array_equal(noisy, made(0.2, 0))
    np.testing.assert_array_equal(noisy[:, :13], plain[:, :13])
    factors = noisy[:, 13:] / plain[:, 13:]
    assert factors.std() == pytest.approx(0.2, rel=0.15)
    assert np.all(factors[:, :N_TARGETS] != factors[:, N_TARGETS:])
    assert np.all(made(0.2, 5)[:, 13:] != noisy[:, 13:])
    table = FeatureTable(recipe, 0.2, 0)
    table.fit_transform(rows, Y)
    plain_table = FeatureTable(recipe)
    plain_table.fit_transform(rows, Y)
    np.testing.assert_array_equal(table.transform(rows), plain_table.transform(rows))


def test_unseen_levels_are_defined():
    rows, Y = example()
    table = FeatureTable(feature_set("onehot_loo"))
    table.fit_transform(rows, Y)
    obs = pd.DataFrame({"cell_type": ["nowhere"], "sm_name": ["nothing"]})
    features = table.transform(Rows(obs, rows.molecules[:1]))
    np.testing.assert_array_equal(features[0, :13], 0)
    np.testing.assert_allclose(features[0, 13:], np.tile(Y.mean(axis=0), 2), rtol=1e-4, atol=1e-6)


def test_order_of_rows_follows():
    rows, Y = example()
    order = np.random.default_rng(1).permutation(N)
    for name in ("svr_loo", "boosting"):
        table = FeatureTable(feature_set(name))
        expected = table.fit_transform(rows, Y)[order]
        found = FeatureTable(feature_set(name)).fit_transform(rows.take(order), Y[order])
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_take_keeps_rows_together():
    rows, _ = example()
    part = rows.take(np.array([5, 2]))
    assert part.obs["sm_name"].tolist() == rows.obs["sm_name"].iloc[[5, 2]].tolist()
    np.testing.assert_array_equal(part.molecules, rows.molecules[[5, 2]])
    np.testing.assert_array_equal(part.predictions, rows.predictions[[5, 2]])
    assert Rows(rows.obs, rows.molecules).take(np.array([1])).predictions is None


def test_only_stacking_sets_need_predictions():
    assert [name for name in FEATURE_SETS if needs_predictions(FEATURE_SETS[name])] == ["boosting"]
    rows, Y = example()
    with pytest.raises(ValueError, match="needs first-level predictions and the rows have none"):
        FeatureTable(feature_set("boosting")).fit_transform(Rows(rows.obs, rows.molecules), Y)


def test_unknown_set_lists_the_known_ones():
    with pytest.raises(InputError, match=r"no feature set 'magic'; choose among .*svr_shared.*boosting"):
        feature_set("magic")
    assert all(name == recipe.name for name, recipe in FEATURE_SETS.items())
    assert all(block in BLOCKS for recipe in FEATURE_SETS.values() for block in recipe.blocks)
