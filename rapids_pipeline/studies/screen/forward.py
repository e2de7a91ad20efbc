"""Forward selection whose score is not the selected maximum.

The score of a set that was selected by some splits is too good on those splits. So the reported one is nested: for
every outer split the selection is made anew, by splits of that split's training rows alone, and what it selected
predicts the rows held out.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.blocks import Block
from features.feature_sets import FeatureSet
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.evaluation.splits import Split
from rapids_pipeline.studies.screen.candidates import Step, forward_selection, set_of
from rapids_pipeline.studies.screen.losses import Losses, Problem, losses_of, predictions

Matrix = NDArray[np.float32]
SplitsOf = Callable[[pd.DataFrame, Matrix], Sequence[Sequence[Split]]]


@dataclass(frozen=True, eq=False)
class Selection:
    """What forward selection found.

    Attributes
    ----------
    losses : Losses
        Nested: of the sets that each outer split's training rows selected.
    steps : list of Step
        The selection by all rows, which is what one would use; its scores are optimistic.
    empty : float
        Score without any block.
    shares : dict of str to float
        In what share of the outer splits a block was selected.
    """

    losses: Losses
    steps: list[Step]
    empty: float
    shares: dict[str, float]

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The steps as rows of a report."""
        before = [self.empty, *(step.score for step in self.steps)]
        return [
            step.entry(score) | {"share": self.shares.get(step.block.name, 0.0)}
            for step, score in zip(self.steps, before, strict=False)
        ]


def nested_forward(
    problem: Problem, blocks: Sequence[Block], splits_of: SplitsOf, progress: Progress | None = None
) -> Selection:
    """Select blocks by all rows, and score selecting itself.

    Parameters
    ----------
    problem : Problem
        Whose splits are the outer ones, and those that the selection by all rows uses.
    blocks : sequence of Block
    splits_of : callable
        Inner splits of some training rows: of their `obs` and responses.
    progress : Progress, optional
        Advances once an outer split, and once for the selection by all rows.
    """
    progress = progress or Progress()
    steps, empty = selected(problem, blocks)
    progress.advance()
    features, chosen = problem.features(), Counter[str]()

    def predict(number: int) -> Matrix:
        training = problem.splits[number].training
        rows, Y = problem.rows.take(training), problem.Y[training]
        inner = Problem(rows, Y, splits_of(rows.obs, Y), problem.model, problem.seed)
        found = [step.block for step in selected(inner, blocks)[0]]
        chosen.update(block.name for block in found)
        return predictions(problem, features, set_of(found) if found else None, number)

    losses = losses_of(problem, predict, progress)
    n_splits = len(problem.splits)
    return Selection(losses, steps, empty, {name: count / n_splits for name, count in chosen.items()})


def selected(problem: Problem, blocks: Sequence[Block]) -> tuple[list[Step], float]:
    """Return the steps of forward selection on a problem's splits, and the score without any block."""
    features = problem.features()

    def score(recipe: FeatureSet | None) -> float:
        return losses_of(problem, lambda number: predictions(problem, features, recipe, number)).score

    empty = score(None)
    return forward_selection(blocks, score, empty), empty
