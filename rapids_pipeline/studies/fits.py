"""A whole recipe, fitted to the training rows of a split and scored on the rows held out.

Everything that is fitted (encodings, target space, SVRs, boosters, blend, bounds) sees the split's training rows
only, with outer folds of their own. Pseudo-labels are given to the held-out rows as a run gives them to the pairs to
predict: their cell types and molecules are used, their responses are not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.rows import Rows
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.evaluation.expectation import strengths
from rapids_pipeline.evaluation.metrics import METRICS, rowwise_scores
from rapids_pipeline.evaluation.splits import Split, random_folds
from rapids_pipeline.stack.fit import fit_stack
from rapids_pipeline.stack.recipe import RunConfig

Matrix = NDArray[np.float32]
Floats = NDArray[np.float64]
Baseline = Callable[[PerturbationData, pd.DataFrame], Matrix]

PIPELINE = "pipeline"
"""What the blend of all members is called among the methods."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What a split's m held-out rows got; t genes.

    Attributes
    ----------
    predicted : ndarray of float32, (m, t)
        By the whole recipe.
    scores : dict of method to ndarray of float64, (n_metrics, m)
        Of every row, by the metrics of `METRICS` in their order; the pipeline first, then members, then baselines.
    strength : ndarray of float64, (m,)
        How strong a response the training rows let expect (`rapids_pipeline.evaluation.expectation`).
    """

    predicted: Matrix
    scores: dict[str, Floats]
    strength: Floats


def fit_split(
    train: Rows,
    data: PerturbationData,
    split: Split,
    config: RunConfig,
    device: DeviceName,
    baselines: Mapping[str, Baseline],
) -> HeldOut:
    """Fit a recipe to the training rows of a split; predict and score the rows held out.

    Parameters
    ----------
    train : Rows
        All n rows, molecules encoded.
    data : PerturbationData
        The same rows with their responses.
    split : Split
    config : RunConfig
        Resolved: every block of molecules names its encoder.
    device : str
    baselines : mapping of name to Baseline
    """
    inside, outside = data.take(split.training), data.obs.iloc[split.held_out].reset_index(drop=True)
    folds = random_folds(len(split.training), config.recipe.n_folds, config.seed)
    rows = train.take(split.training), train.take(split.held_out)
    stack = fit_stack(*rows, inside.Y, folds, config.recipe, config.seed, device)
    predicted = {PIPELINE: stack.test, **stack.test_members}
    truth = data.Y[split.held_out]
    scores = {name: _scores(truth, values) for name, values in predicted.items()}
    for name, baseline in baselines.items():
        scores[name] = _scores(truth, baseline(inside, outside))
    return HeldOut(stack.test, scores, strengths(inside.obs, inside.Y, outside))


def _scores(truth: Matrix, predicted: Matrix) -> Floats:
    found = rowwise_scores(truth, predicted)
    return np.stack([found[name] for name in METRICS])
