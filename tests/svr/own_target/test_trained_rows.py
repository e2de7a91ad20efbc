"""Training rows of SVRs on each target's own statistics: the statistics of a feature set's blocks, leaks, distances."""

import numpy as np
import pytest

from features.feature_sets import FeatureTable
from features.rows import contexts_of
from rapids_pipeline.svr.own_target.trained_rows import Statistics, TrainedRows
from tests.svr.own_targets import RECIPES, example, side_of

EVERY_RECIPE = pytest.mark.parametrize("name", list(RECIPES))


@EVERY_RECIPE
def test_statistics_are_those_of_the_feature_sets_blocks_to_the_last_bit(name):
    rows, Y, others = example()
    trained = TrainedRows(*(side_of(RECIPES[name], rows, number, seed=3) for number in (0, 1)))
    for side, of_row, found in zip(trained.sides, trained.of_row, trained.statistics(Y), strict=True):
        levels, start = side.others(others), 0
        for position, block in side.blocks.statistics:
            maker = block.model_copy(update={"own_target": False}).maker(seed=3 + position)
            own = slice(start, start + len(block.statistics))
            shape = (-1, len(block.statistics), Y.shape[1])
            expected = maker.fit_transform(rows, Y).reshape(shape).transpose(2, 1, 0)
            np.testing.assert_array_equal(found.trained[:, own, of_row], expected)
            expected = maker.transform(others).reshape(shape).transpose(2, 1, 0)
            np.testing.assert_array_equal(
                found.everyone[:, own][:, :, levels.labels[levels.of_row]], expected
            )
            start = own.stop


@pytest.mark.parametrize("name", ["published", "smooth", "two of one column"])
@pytest.mark.parametrize("row", [0, 33, 69])
def test_neither_a_rows_own_target_nor_a_replicates_is_in_its_statistics(name, row):
    rows, Y, _ = example()
    contexts = contexts_of(rows.obs)
    changed = Y.copy()
    changed[contexts == contexts[row]] += 1000
    trained = TrainedRows(*(side_of(RECIPES[name], rows, number) for number in (0, 1)))
    pairs = zip(trained.of_row, trained.statistics(Y), trained.statistics(changed), strict=True)
    for of_row, before, after in pairs:
        assert before.trained[:, :, of_row[row]].tobytes() == after.trained[:, :, of_row[row]].tobytes()
        assert np.any(before.trained[:, :, of_row] != after.trained[:, :, of_row])


def test_leaky_statistics_hold_the_rows_own_target():
    rows, Y, _ = example()
    changed = Y.copy()
    changed[4] += 1000
    trained = TrainedRows(*(side_of(RECIPES["leaky"], rows, number) for number in (0, 1)))
    before, after = trained.statistics(Y)[0], trained.statistics(changed)[0]
    assert np.any(before.trained[:, :, trained.of_row[0, 4]] != after.trained[:, :, trained.of_row[0, 4]])


def test_levels_are_fewer_than_rows_only_where_rows_agree():
    rows, _, _ = example()
    side = side_of(RECIPES["published"], rows, 1)
    of_row, examples = side.training()
    assert len(examples) <= 4 * 5 and len(np.unique(of_row)) == len(examples)
    for row, level in enumerate(of_row):
        assert side.label_of_row[row] == side.label_of_row[examples[level]]
        assert (side.folds[:, row] == side.folds[:, examples[level]]).all()


@pytest.mark.parametrize("name", ["published", "compound only", "no onehot", "smooth"])
def test_distances_are_those_of_the_shared_columns(name):
    rows, _, others = example()
    sides = [side_of(RECIPES[name], rows, number) for number in (0, 1)]
    trained = TrainedRows(*sides)
    tables = [FeatureTable(side.blocks.shared) for side in sides if side.blocks.shared is not None]
    inside, outside = (
        np.hstack([np.zeros((m, 0)), *made])
        for m, made in (
            (70, [table.fit_transform(rows, np.zeros((70, 0), np.float32)) for table in tables]),
            (25, [table.transform(others) for table in tables]),
        )
    )
    ((_, levels),) = trained.parts(others)
    for found, X in ((trained.distances(), inside), (trained.distances(levels), outside)):
        for i, row in enumerate(X):
            expected = [sum((row - other) ** 2) for other in inside]
            np.testing.assert_allclose(found[i], expected, rtol=1e-6, atol=1e-6)


def test_statistics_of_chunks_are_those_of_all_targets():
    rows, Y, _ = example()
    trained = TrainedRows(*(side_of(RECIPES["published"], rows, number) for number in (0, 1)))
    parts = [trained.statistics(np.ascontiguousarray(Y[:, some])) for some in (slice(0, 2), slice(2, 5))]
    for whole, *chunks in zip(trained.statistics(Y), *parts, strict=True):
        joined = Statistics.joined(chunks)
        np.testing.assert_array_equal(joined.trained, whole.trained)
        np.testing.assert_array_equal(joined.everyone, whole.everyone)
