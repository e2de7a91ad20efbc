"""A row's own targets and its replicates' never enter its features, in any feature set that does not say so.

To the last bit.
"""

import numpy as np
import pytest

from features.blocks import StatisticsBlock
from features.feature_sets import FEATURE_SETS, FeatureSet, FeatureTable
from features.rows import contexts_of
from tests.features.test_feature_sets import EVERY_SET, N, example, feature_set, targets_for


@EVERY_SET
@pytest.mark.parametrize("row", [0, 33, N - 1])
def test_a_rows_own_target_never_enters_its_features_nor_its_replicates(name, row):
    rows, Y = example()
    chosen = feature_set(name)
    Y = targets_for(chosen, Y)
    changed = Y.copy()
    changed[row] += 1000
    before = FeatureTable(chosen).fit_transform(rows, Y)
    after = FeatureTable(chosen).fit_transform(rows, changed)
    excluded = name != "boosting_aggregates"  # a basis learnt from statistics: said in its block's docstring
    contexts = contexts_of(rows.obs)
    alike = np.flatnonzero(contexts == contexts[row])
    assert (len(alike) > 1) == (row != N - 1)
    for replicate in alike:
        assert (after[replicate].tobytes() == before[replicate].tobytes()) == excluded
    if row != N - 1:  # the last row's compound is its own only, its cell type is not
        assert np.any(after != before) == chosen.uses_targets


def test_leaky_statistics_are_named_so_and_fail_the_check():
    rows, Y = example()
    changed = Y.copy()
    changed[3] += 1000
    block = StatisticsBlock(column="sm_name", leaky=True)
    chosen = FeatureSet(name="published", blocks=(block,))
    assert chosen.leaky and block.name == "leaky:statistics:sm_name:mean"
    assert not any(shipped.leaky for shipped in FEATURE_SETS.values())
    before, after = (FeatureTable(chosen).fit_transform(rows, y) for y in (Y, changed))
    assert np.all(after[3] != before[3])
