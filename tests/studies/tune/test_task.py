"""The task: the split that is like the pairs, for each model that they need."""

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.stack.members.booster import BoosterMember
from rapids_pipeline.stack.members.net import NetMember
from rapids_pipeline.studies.tune.task import is_known, plan, served_by


def planned(task, pairs, split="auto", member=None):
    return plan(served_by(member or task.member), task.data.obs, task.Y, task.rows, pairs, split, 0)


def lots_of(task, pairs, split="auto", member=None):
    return {duty.model: [lot.name for lot in duty.lots] for duty in planned(task, pairs, split, member)[0]}


def test_scarce_pairs_of_known_compounds_leave_new_compounds_alone(task):
    [duty], sentences = planned(task, task.pairs)
    assert (duty.model, [lot.name for lot in duty.lots]) == ("known_compounds", ["scarce", "made_scarce"])
    assert [len(lot.repeats) for lot in duty.lots] == [2, 1]
    assert sentences[0].startswith(
        "known_compounds (for compounds measured in another cell type, all of your pairs)"
    )
    assert sentences[1].endswith("stays as it is: no pair needs it")


def test_pairs_of_both_kinds_tune_both_models_by_their_shares(task):
    pairs = pd.concat([task.pairs, task.new], ignore_index=True)
    assert lots_of(task, pairs) == {
        "known_compounds": ["scarce", "made_scarce"],
        "new_compounds": ["compound"],
    }
    shares = [len(task.pairs) / len(pairs), len(task.new) / len(pairs)]
    assert [duty.share for duty in planned(task, pairs)[0]] == pytest.approx(shares)


def test_each_kind_of_pairs_and_each_split_tunes_the_model_that_it_needs(task):
    unheard = task.pairs.assign(cell_type="unheard of")
    assert lots_of(task, task.new) == {"new_compounds": ["compound"]}
    assert lots_of(task, unheard) == {"known_compounds": ["cell_type"]}
    assert lots_of(task, None) == {"known_compounds": ["random"]}
    assert lots_of(task, task.pairs, "compound") == {"new_compounds": ["compound"]}
    assert lots_of(task, None, "cell_type") == {"known_compounds": ["cell_type"]}


@pytest.mark.parametrize("split", ["auto", "random", "compound", "cell_type", "joint"])
def test_a_model_is_tuned_on_rows_that_it_serves(task, split):
    compounds, cell_types = (task.data.obs[c].to_numpy(str) for c in ("sm_name", "cell_type"))
    for duty in planned(task, task.pairs, split)[0]:
        for part in (part for lot in duty.lots for part in lot.splits):
            assert not np.intersect1d(part.training, part.held_out).size
            for row in part.held_out:
                same = compounds[part.training] == compounds[row]
                served = bool((same & (cell_types[part.training] != cell_types[row])).any())
                assert served == (duty.model == "known_compounds")


def test_whether_a_pair_has_a_profile_is_what_the_fitted_kernel_says(task):
    training, others = task.rows.take(np.arange(0, 60)), task.rows.take(np.arange(60, len(task.rows)))
    kernel = task.member.known_compounds.kernel.learn(training, task.Y[:60].astype(np.float64))
    np.testing.assert_array_equal(is_known(training, others), kernel.is_known(others))


@pytest.mark.parametrize(
    ("split", "words"), [("magic", "choose among"), ("scarce", "needs the pairs to predict")]
)
def test_splits_that_cannot_be_made(task, split, words):
    with pytest.raises(InputError, match=f"--split {split}: {words}"):
        planned(task, None, split)


def test_a_booster_is_tuned_on_all_rows_that_are_held_out(task):
    both = pd.concat([task.pairs, task.new], ignore_index=True)
    booster = BoosterMember(stacks_on=("composite",))
    [duty], [sentence] = planned(task, both, member=booster)
    assert (duty.model, duty.share) == ("boosting", 1.0)
    assert sentence.startswith("boosting (for every pair) is tuned on ")
    [duty], _ = planned(task, None, "compound", booster)
    assert sorted(np.concatenate([split.held_out for split in duty.lots[0].splits])) == list(
        range(len(task.Y))
    )


def test_a_net_that_knows_names_alone_is_tuned_for_pairs_of_known_compounds(task):
    both = pd.concat([task.pairs, task.new], ignore_index=True)
    assert lots_of(task, both, member=NetMember()) == {"embedding_mlp": ["scarce", "made_scarce"]}
    with pytest.raises(InputError, match="fewer than 10 rows are held out for embedding_mlp: take another"):
        planned(task, task.new, member=NetMember())
