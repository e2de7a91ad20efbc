"""What is tuned on what: the split that is like the pairs, for each model that they need."""

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.studies.tune.task import has_profile, plan


def planned(task, pairs, split="auto"):
    return plan(task.data.obs, task.Y, task.rows, pairs, split, 0)


def by_model(found):
    return {duty.model: [lot.name for lot in duty.lots] for duty in found.duties}


def test_scarce_pairs_of_known_compounds_leave_new_compounds_alone(task):
    found = planned(task, task.pairs)
    assert by_model(found) == {"known_compounds": ["scarce", "made_scarce"]}
    assert [len(lot.repeats) for lot in found.duties[0].lots] == [2, 1]
    assert found.sentences[0].startswith(
        "known_compounds (for compounds measured in another cell type, all of your pairs)"
    )
    assert found.sentences[1].endswith("stays as it is: no pair needs it")


def test_pairs_of_both_kinds_tune_both_models_by_their_shares(task):
    pairs = pd.concat([task.pairs, task.new], ignore_index=True)
    found = planned(task, pairs)
    assert by_model(found) == {"known_compounds": ["scarce", "made_scarce"], "new_compounds": ["compound"]}
    assert [duty.share for duty in found.duties] == pytest.approx(
        [len(task.pairs) / len(pairs), len(task.new) / len(pairs)]
    )


def test_pairs_of_unseen_compounds_leave_the_other_model_alone(task):
    assert by_model(planned(task, task.new)) == {"new_compounds": ["compound"]}


def test_pairs_of_an_unseen_cell_type(task):
    pairs = task.pairs.assign(cell_type="unheard of")
    assert by_model(planned(task, pairs)) == {"known_compounds": ["cell_type"]}


def test_without_pairs_rows_are_held_out_at_random(task):
    assert by_model(planned(task, None)) == {"known_compounds": ["random"]}


def test_a_split_by_name_tunes_whom_its_rows_need(task):
    assert by_model(planned(task, task.pairs, "compound")) == {"new_compounds": ["compound"]}
    assert by_model(planned(task, None, "cell_type")) == {"known_compounds": ["cell_type"]}


@pytest.mark.parametrize("split", ["auto", "random", "compound", "cell_type", "joint"])
def test_a_model_is_tuned_on_rows_that_it_serves(task, split):
    compounds, cell_types = (task.data.obs[c].to_numpy(str) for c in ("sm_name", "cell_type"))
    for duty in planned(task, task.pairs, split).duties:
        for part in (part for lot in duty.lots for part in lot.splits):
            assert not np.intersect1d(part.training, part.held_out).size
            for row in part.held_out:
                same = compounds[part.training] == compounds[row]
                served = bool((same & (cell_types[part.training] != cell_types[row])).any())
                assert served == (duty.model == "known_compounds")


def test_whether_a_pair_has_a_profile_is_what_the_fitted_kernel_says(task):
    training, others = task.rows.take(np.arange(0, 60)), task.rows.take(np.arange(60, len(task.rows)))
    kernel = task.member.known_compounds.kernel.learn(training, task.Y[:60].astype(np.float64))
    np.testing.assert_array_equal(has_profile(training, others), kernel.has_profile(others))


def test_refusals(task):
    with pytest.raises(InputError, match="--split magic: choose among"):
        planned(task, None, "magic")
    with pytest.raises(InputError, match=r"--split scarce: needs the pairs to predict"):
        planned(task, None, "scarce")
