"""Rows and pairs: parts of them, and the numbers of what is distinct among them."""

import numpy as np
import pandas as pd
import pytest

from features.rows import Pairs, Rows, contexts_of, numbered, places, varying
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import StateReader
from tests.features.test_feature_sets import example


def test_take_keeps_rows_together():
    rows, _ = example()
    part = rows.take(np.array([5, 2]))
    assert part.obs["sm_name"].tolist() == rows.obs["sm_name"].iloc[[5, 2]].tolist()
    assert part.molecules.keys() == rows.molecules.keys()
    for name, values in rows.molecules.items():
        np.testing.assert_array_equal(part.molecules[name], values[[5, 2]])
    np.testing.assert_array_equal(part.predictions, rows.predictions[[5, 2]])
    assert Rows(rows.obs).take(np.array([1])).predictions is None


def test_joined_rows_are_those_of_both_in_order():
    rows, _ = example()
    both = Rows.joined(rows.take(np.arange(4)), rows.take(np.arange(4, 9)))
    pd.testing.assert_frame_equal(both.obs, rows.obs.iloc[:9])
    for name, values in rows.molecules.items():
        np.testing.assert_array_equal(both.molecules[name], values[:9])
    np.testing.assert_array_equal(both.predictions, rows.predictions[:9])
    assert Rows.joined(rows, Rows(rows.obs, rows.molecules)).predictions is None


def test_labels_are_numbered_in_sorted_order_and_found_again():
    levels, codes = numbered(np.array(["b", "a", "B", "b"]))
    assert levels.tolist() == ["B", "a", "b"] and codes.tolist() == [2, 1, 0, 2]
    assert places(("a", "c", "B"), levels).tolist() == [1, -1, 0]
    assert places((), ("a",)).tolist() == [] and places(("a",), ()).tolist() == [-1]


@pytest.mark.parametrize("smiles", [True, False])
def test_pairs_are_numbers_of_what_is_distinct(smiles):
    rows, _ = example()
    obs = rows.obs if smiles else rows.obs.drop(columns="SMILES")
    pairs = Pairs.of(Rows(obs, rows.molecules), ["morgan"])
    levels = pairs.levels
    assert len(pairs) == len(obs)
    assert [levels.cell_types[k] for k in pairs.cell_type] == obs["cell_type"].tolist()
    assert [levels.compounds[k] for k in pairs.compound] == obs["sm_name"].tolist()
    assert (
        [levels.smiles[k] for k in pairs.molecule] == obs["SMILES"].tolist() if smiles else not levels.smiles
    )
    np.testing.assert_array_equal(levels.molecules["morgan"][pairs.molecule], rows.molecules["morgan"])


def test_one_name_for_two_molecules_and_two_names_for_one_are_told_apart():
    obs = pd.DataFrame({"cell_type": "B", "sm_name": ["a", "a", "b", "a"], "SMILES": ["C", "CC", "C", "C"]})
    assert Pairs.of(Rows(obs)).molecule.tolist() == [0, 1, 2, 0]


def test_parts_of_pairs_share_their_levels_until_they_stand_alone():
    pairs = Pairs.of(example()[0], ["morgan"])
    part = pairs.take(np.array([59, 2, 2]))
    assert part.levels is pairs.levels and part.compound.tolist() == pairs.compound[[59, 2, 2]].tolist()
    alone = part.alone()
    assert len(alone.levels.compounds) == 2 and len(alone.levels.smiles) == 2
    for k, levels in enumerate((part.levels, alone.levels)):
        found = (part, alone)[k]
        assert [levels.smiles[m] for m in found.molecule] == [pairs.levels.smiles[m] for m in part.molecule]
    made = []
    for other in (part.levels, part.levels, alone.levels):
        pairs.levels.between(other, "key", lambda: made.append(1) or np.ones((1, 1)))
    assert len(made) == 2  # kept between the same levels, made anew between others


def test_pairs_are_the_same_after_a_save():
    pairs = Pairs.of(example()[0], ["morgan", "chemberta"])
    again = Pairs.from_state(StateReader(pairs.state(), "saved"))
    assert again.levels.cell_types == pairs.levels.cell_types and again.levels.smiles == pairs.levels.smiles
    for name in ("cell_type", "compound", "molecule"):
        np.testing.assert_array_equal(getattr(again, name), getattr(pairs, name))
    state = {**pairs.state(), "molecule": pairs.molecule + 1}
    with pytest.raises(InputError, match="molecule has numbers outside"):
        Pairs.from_state(StateReader(state, "saved"))


def test_pairs_that_lack_what_kernels_compare_are_refused():
    obs = example()[0].obs
    with pytest.raises(InputError, match="no molecule features of morgan"):
        Pairs.of(Rows(obs), ["morgan"])
    with pytest.raises(InputError, match="no column sm_name"):
        Pairs.of(Rows(obs[["cell_type"]]))


# --- doses, times and batches -------------------------------------------------------------------------------


def with_contexts():
    rows = example()[0]
    n = np.arange(len(rows.obs))
    columns = {"dose_uM": np.array([1.0, np.nan, 0.0, 0.1])[n % 4], "time_h": np.array([24, 6])[n % 2]}
    columns["batch"] = np.array(["b", None, "a"], object)[n % 3]
    return Rows(rows.obs.assign(**columns), rows.molecules)


def test_contexts_are_numbers_too_and_a_missing_value_is_the_last_level():
    rows = with_contexts()
    pairs = Pairs.of(rows)
    np.testing.assert_array_equal(pairs.levels.doses, [0, 0.1, 1, np.nan])
    assert pairs.levels.times == (6, 24) and pairs.levels.batches == ("", "a", "b")
    np.testing.assert_array_equal(np.array(pairs.levels.doses)[pairs.dose], rows.obs["dose_uM"])
    np.testing.assert_array_equal(np.array(pairs.levels.times)[pairs.time], rows.obs["time_h"])
    assert [pairs.levels.batches[k] for k in pairs.batch] == rows.obs["batch"].fillna("").tolist()
    alone = pairs.take(np.array([3, 7])).alone()
    assert alone.levels.doses == (0.1,) and alone.levels.times == (6,) and alone.dose.tolist() == [0, 0]
    without = Pairs.of(example()[0])
    assert np.isnan(without.levels.doses).tolist() == [True] and without.levels.batches == ("",)
    assert not (without.dose.any() or without.time.any() or without.batch.any())


def test_contexts_are_the_same_after_a_save_and_rows_without_save_none():
    pairs = Pairs.of(with_contexts())
    again = Pairs.from_state(StateReader(pairs.state(), "saved"))
    np.testing.assert_array_equal(again.levels.doses, pairs.levels.doses)
    assert (again.levels.times, again.levels.batches) == (pairs.levels.times, pairs.levels.batches)
    for name in ("dose", "time", "batch"):
        np.testing.assert_array_equal(getattr(again, name), getattr(pairs, name))
    plain = Pairs.of(example()[0])
    assert not {"doses", "times", "batches", "dose", "time", "batch"} & set(plain.state())
    assert not Pairs.from_state(StateReader(plain.state(), "saved")).dose.any()


@pytest.mark.parametrize("doses", [[1.0, 0.5], [-1.0, 0.5], [np.nan, 1.0], [0.5, np.inf], []])
def test_damaged_doses_are_named(doses):
    state = {**Pairs.of(with_contexts()).state(), "doses": np.array(doses, np.float64)}
    with pytest.raises(InputError, match="doses must be increasing numbers"):
        Pairs.from_state(StateReader(state, "saved"))


def test_replicates_share_the_number_of_their_context():
    obs = pd.DataFrame(
        {"cell_type": list("AAABA"), "sm_name": list("xxxxy"), "dose_uM": [1, np.nan, 1, 1, np.nan]}
    )
    assert contexts_of(obs).tolist() == [0, 1, 0, 2, 3]
    assert contexts_of(obs.assign(time_h=[1, 1, 2, 1, 1])).tolist() == [0, 1, 2, 3, 4]
    assert contexts_of(obs.assign(dose_uM=np.nan)).tolist() == [0, 0, 0, 1, 2]
    assert varying(obs) == ("dose_uM",) and varying(obs.assign(dose_uM=1.0, time_h=np.nan)) == ()
    with pytest.raises(InputError, match="column dose_uM must hold numbers only; give it without a unit"):
        contexts_of(obs.assign(dose_uM="1 uM"))
