"""How long nets take: operations counted by hand, what is asked for expressly, and the way out that is named."""

import pytest

from features.feature_sets import feature_set
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.nets.settings import Block, Mlp, Training
from rapids_pipeline.stack.duration import of_a_row, operations, require_agreed
from rapids_pipeline.stack.members.net import NetMember
from rapids_pipeline.stack.named_recipes import RECIPES
from tests.stack_example import example
from tests.stack_example import recipe as stack_recipe


def long_run(name, times=1):
    train, test, _ = example()
    require_agreed(RECIPES[name].with_molecules("made up"), train, len(test.obs), 25, "cpu", times=times)


@pytest.mark.parametrize("name", ["best", "third_place", "scape", "jn_ap"])
def test_short_work_needs_no_consent(name):
    long_run(name)


def test_long_work_names_its_hours_and_the_way_out():
    with pytest.raises(
        InputError, match=r"the nets of second_place_faithful need [\d,]+ TFLOP here, about [\d,]+ hours"
    ) as e:
        long_run("second_place_faithful", times=1000)
    assert "take second_place, which takes minutes" in str(e.value) and "--yes" in str(e.value)
    train, test, _ = example()
    require_agreed(RECIPES["second_place_faithful"], train, len(test.obs), 25, "cuda", times=1000)


def test_operations_are_those_of_the_products():
    """An MLP of 14 → 16 → 25: three products a layer, of which the first has no gradient of its inputs."""
    train, test, _ = example()
    net = NetMember(
        architecture=Mlp(blocks=(Block(width=16),)),
        features=feature_set("onehot"),
        n_components="none",
        replicas=3,
        training=Training(epochs=7),
    )
    p = len(set(train.obs.cell_type)) + len(set(train.obs.sm_name))
    row = 2 * (2 * p * 16 + 3 * 16 * 25) * 7 * 3
    assert of_a_row(net, train, 25) == row
    fits = len(train.obs) * (1 + 3 * 2 / 3 + 3 * 1 / 3)  # whole, three without a fold, three without two
    by_fold = {"rows": 4, "most_measured": 5}
    for validation, groups in by_fold.items():
        how = Training(epochs=7, validation=validation, validation_folds=5)
        assert of_a_row(net.updated(every_fold=True, training=how), train, 25) == row * groups
    assert operations(stack_recipe(net), train, len(test.obs), 25) == pytest.approx(row * fits)
