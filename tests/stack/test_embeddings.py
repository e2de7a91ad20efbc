"""Simulated responses that depend on an embedding: with its table unseen compounds and combinations are predicted."""

import numpy as np
import pandas as pd
import pytest

from features.molecules import TABLE
from features.molecules.table import EmbeddingTable, encode_compounds
from features.rows import Rows
from rapids_pipeline.evaluation.metrics import mean_rowwise_rmse
from rapids_pipeline.stack.fit import fit_stack
from rapids_pipeline.stack.members.member import TrainingSet
from rapids_pipeline.stack.named_recipes import RECIPES
from rapids_pipeline.stack.recipe import RunConfig
from tests.stack_example import folded

CELLS, WIDTH, GENES = 3, 4, 30
MEMBERS = {"svr_shared": ("standard", 0), "composite": ("best", 0)}


def simulated(names, seed=0):
    """Embeddings of `names`, and their effects in every cell type: linear in the embedding, mostly shared."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(len(names), WIDTH)).astype(np.float32)
    table = EmbeddingTable("t.csv", tuple(names), tuple(f"e{k}" for k in range(WIDTH)), values)
    shared, own = rng.normal(size=(WIDTH, GENES)), 0.3 * rng.normal(size=(CELLS, WIDTH, GENES))
    return table, lambda rows, cell: rows @ (shared + own[cell])


def measured(names, table, effect, seed=1):
    """Rows of every name in every cell type, and their responses with noise."""
    obs = pd.DataFrame({"cell_type": np.repeat([f"cell {c}" for c in range(CELLS)], len(names))})
    obs = obs.assign(sm_name=list(names) * CELLS, SMILES="")
    noise = 0.3 * np.random.default_rng(seed).normal(size=(len(obs), GENES))
    Y = np.vstack([effect(table.rows(names), cell) for cell in range(CELLS)]) + noise
    return obs, Y.astype(np.float32)


def predicted(molecules, which, table, train, test):
    """Predictions of test rows by a member of a recipe, with --molecules none or the table."""
    recipe, place = MEMBERS[which]
    config = RunConfig(recipe=RECIPES[recipe], molecules=molecules).resolved()
    member = config.recipe.members[place]
    columns = encode_compounds(member.encoders, train[0], test[0], table=table)
    rows = Rows.joined(Rows(train[0], columns.training), Rows(test[0], columns.others))
    fits = member.prepare(TrainingSet(rows, train[1], None, (), 0, "cpu"))
    asked = np.arange(len(train[0]), len(rows.obs))
    return fits.fit_predict(np.arange(len(train[0])), [asked])[0]


def errors(which, table, train, test):
    """MRRMSE with --molecules none and with the table."""
    found = (predicted(molecules, which, table, train, test) for molecules in ("none", "t.csv"))
    return [mean_rowwise_rmse(test[1], one) for one in found]


@pytest.mark.parametrize("which", MEMBERS)
def test_the_table_beats_none_on_compounds_that_were_never_measured(which):
    names = [f"KO {k}" for k in range(60)]
    table, effect = simulated(names)
    train, test = (measured(some, table, effect) for some in (names[:45], names[45:]))
    none, with_table = errors(which, table, train, test)
    zeros = mean_rowwise_rmse(test[1], np.zeros_like(test[1]))
    assert with_table < 0.75 * none
    assert none < 1.1 * zeros, "which says no more than the cell type's mean"


@pytest.mark.parametrize("which", MEMBERS)
def test_combinations_of_additive_effects_are_predicted_better_with_the_table(which):
    names = [f"d{k}" for k in range(16)]
    table, effect = simulated(names, seed=2)
    both = [f"{a}+{b}" for i, a in enumerate(names) for b in names[i + 1 :]]
    both = [both[k] for k in np.random.default_rng(0).permutation(len(both))]
    train = measured([*names, *both[:40]], table, effect)
    test = measured(both[40:60], table, effect)
    none, with_table = errors(which, table, train, test)
    assert with_table < 0.75 * none


@pytest.mark.parametrize("which", MEMBERS)
def test_the_embedding_of_a_held_out_perturbation_moves_no_other_prediction(which):
    names = [f"KO {k}" for k in range(20)]
    table, effect = simulated(names)
    train, test = (measured(some, table, effect) for some in (names[:15], names[15:]))
    away = np.where(np.arange(20)[:, None] == 19, np.float32(1e3), table.rows(names))
    wild = EmbeddingTable("t.csv", table.names, table.columns, away)
    before, after = (predicted("t.csv", which, found, train, test) for found in (table, wild))
    moved = np.abs(after - before).max(axis=1) > 1e-6
    assert moved.tolist() == (test[0]["sm_name"] == "KO 19").tolist()


@pytest.mark.parametrize("molecules", ["none", "t.csv"])
def test_a_whole_stack_is_fitted_and_comes_back_from_its_state(molecules, tmp_path):
    from rapids_pipeline.stack.saved import SavedModel, load_model, save_model

    names = [f"KO {k}" for k in range(12)]
    table, effect = simulated(names)
    (obs, Y), (asked, _) = (
        measured(some, table, effect) for some in (names[:10], [*names[10:], "KO 1+KO 11"])
    )
    quick = RECIPES["best"].members[1].model_copy(update={"n_estimators": 5})
    recipe = RECIPES["best"].with_members(RECIPES["best"].members[0], quick)
    config = RunConfig(recipe=recipe, molecules=molecules).resolved()
    columns = encode_compounds(config.encoders, obs, asked, table=table)
    rows = Rows(obs, columns.training), Rows(asked, columns.others)
    stack = fit_stack(*rows, Y, folded(Y), config.recipe, 0, "cpu")
    genes = tuple(f"G{k}" for k in range(GENES))
    kept = table if molecules == "t.csv" else None
    save_model(tmp_path / "model", SavedModel(stack.model, config, genes, obs, {}, table=kept))
    loaded = load_model(tmp_path / "model")
    assert (loaded.table is None) == (molecules == "none")
    np.testing.assert_allclose(loaded.predict(asked)[0], stack.test, atol=1e-5)
    assert TABLE in loaded.config.recipe.encoders or molecules == "none"
