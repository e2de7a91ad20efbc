"""A fitted stack: predicts any pair of cell type and compound, and turns into plain data and back."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from features.rows import Rows
from rapids_pipeline.backend.state import State, StateReader
from rapids_pipeline.stack.blend import Weights, weights_from_state
from rapids_pipeline.stack.members.booster import Boosters, FittedBooster
from rapids_pipeline.stack.members.svr import FirstLevelModel, model_from_state
from rapids_pipeline.stack.nested import Matrix
from rapids_pipeline.stack.recipe import BOOSTING, BOOSTING_PSEUDO, Recipe


@dataclass(frozen=True, eq=False)
class StackModel:
    """Members and blend of a stack of t targets.

    Attributes
    ----------
    first : dict of member to FirstLevelModel
        In the order in which the boosters read their predictions.
    boosters : Boosters
    booster_name : str
        "boosting" or "boosting_pseudo".
    weights : Weights
    low, high : ndarray of float32, (t,)
        Bounds of the blend.
    """

    first: Mapping[str, FirstLevelModel]
    boosters: Boosters
    booster_name: str
    weights: Weights
    low: Matrix
    high: Matrix

    def predict(self, rows: Rows) -> Matrix:
        """Return the blend's predictions, (m, t) float32, in the unit of the training targets."""
        return self.blend(self.predict_members(rows))

    def predict_members(self, rows: Rows) -> dict[str, Matrix]:
        """Return every member's predictions, (m, t) float32."""
        members = {name: model.predict(rows) for name, model in self.first.items()}
        stacked = replace(rows, predictions=np.hstack(list(members.values())))
        return members | {self.booster_name: self.boosters.predict(stacked)}

    def blend(self, members: Mapping[str, Matrix]) -> Matrix:
        """Return the bounded weighted sum of members' predictions."""
        return np.clip(self.weights.mix(members), self.low, self.high)

    def state(self) -> State:
        """Return what it has learnt, a part for each member."""
        boosters = {f"booster_{number}": fitted.state() for number, fitted in enumerate(self.boosters.fitted)}
        first = {f"first_{number}": model.state() for number, model in enumerate(self.first.values())}
        blend = {
            "weights": self.weights.state(),
            "booster": self.booster_name,
            "low": self.low,
            "high": self.high,
        }
        return first | boosters | {"blend": blend}

    @classmethod
    def from_state(cls, recipe: Recipe, n_targets: int, reader: StateReader) -> "StackModel":
        """Make it of its state and the recipe it was fitted by; InputError where they do not fit together."""
        first = {
            config.name: model_from_state(config, reader.part(f"first_{number}"))
            for number, config in enumerate(recipe.first_level)
        }
        boosters = [
            FittedBooster.from_state(recipe.boosting, reader.part(f"booster_{number}"))
            for number in range(recipe.boosting.n_seeds)
        ]
        blend = reader.part("blend")
        name = blend.text("booster")
        weights = weights_from_state(blend.part("weights"))
        if name not in (BOOSTING, BOOSTING_PSEUDO) or set(weights.weights) != {*first, name}:
            raise blend.fault("the weights are not those of the recipe's members")
        low, high = (blend.array(bound, np.float32, (n_targets,)) for bound in ("low", "high"))
        return cls(first, Boosters(boosters, recipe.boosting.aggregate), name, weights, low, high)
