"""Searches among feature sets: what matters is found, and in noise nothing is."""

import numpy as np
import pandas as pd
import pytest

from features.feature_sets import FEATURE_SETS
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.studies.screen.study import ScreenRequest, screen


def scores(screen):
    return {found.feature_set: found.score for found in screen.sets}


def planted(signal: str, seed: int = 0, n: int = 240) -> PerturbationData:
    """Return data of which one block alone explains the responses: `sm_name`, `cell_type`, or none."""
    rng = np.random.default_rng(seed)
    compounds, cells = rng.integers(0, 24, n), rng.integers(0, 6, n)
    effects = rng.normal(size=(24, 2))
    levels = {"sm_name": effects[compounds], "cell_type": effects[cells], "none": np.zeros((n, 2))}
    Y = levels[signal] * 2 + 0.5 * rng.normal(size=(n, 2))
    names = {"cell_type": [f"cell {i}" for i in cells], "sm_name": [f"drug {i}" for i in compounds]}
    obs = pd.DataFrame(names | {"SMILES": ["C" * (i + 1) for i in compounds]})
    return PerturbationData(obs, Y.astype(np.float32), ("A1BG", "A2M"))


@pytest.mark.parametrize(
    ("model", "signal", "other"),
    [
        *(("svr", "sm_name", "cell_type"), ("svr", "cell_type", "sm_name")),
        *(("ridge", "sm_name", "cell_type"), ("boosting", "sm_name", "cell_type")),
    ],
)
def test_every_model_finds_the_block_that_matters(model, signal, other):
    found = screen(planted(signal), ScreenRequest(features=(other, signal), model=model))
    assert (found.sets[0].feature_set, found.model) == (signal, model)
    assert found.sets[0].difference_high < 0
    assert scores(found)[signal] < 0.6 * scores(found)["mean"]
    assert scores(found)[other] > 0.9 * scores(found)["mean"]


def test_forward_selection_finds_the_blocks_that_matter_and_its_score_is_nested():
    found = screen(planted("sm_name"), ScreenRequest(features=("onehot",), search="forward"))
    assert [step["block"] for step in found.selection][:1] == ["onehot:sm_name"]
    assert found.selection[0]["share"] == 1
    assert found.reference == "all blocks"
    nested = scores(found)["forward selection"]
    assert nested < 0.5 * scores(found)["mean"]
    assert nested >= found.selection[-1]["score"] - 0.02


def test_in_noise_the_nested_score_is_not_the_selected_maximum():
    """Where nothing can be learnt, selecting by a score and reporting that score would show a gain."""
    optimistic, nested = [], []
    for seed in range(8):
        data = planted("none", seed, n=60)
        found = screen(data, ScreenRequest(features=("onehot", "loo"), search="forward", model="ridge"))
        mean = scores(found)["mean"]
        steps = [step["score"] for step in found.selection]
        optimistic.append((steps[-1] if steps else mean) - mean)
        nested.append(scores(found)["forward selection"] - mean)
    assert np.mean(optimistic) <= 0 < np.mean(nested)


def test_ablation_drops_each_block():
    found = screen(planted("sm_name"), ScreenRequest(features=("onehot_loo",), search="ablation"))
    assert found.reference == "onehot_loo"
    others = {f"onehot_loo − {block.name}" for block in FEATURE_SETS["onehot_loo"].blocks}
    assert {row.feature_set for row in found.sets} == {"mean", "onehot_loo"} | others
