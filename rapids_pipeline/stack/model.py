"""A fitted stack: predicts any pair of cell type and compound, and turns into plain data and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from features.rows import Rows
from rapids_pipeline.backend.arrays import Float32
from rapids_pipeline.backend.state import State, StateReader
from rapids_pipeline.stack.blend import Weights, weights_from_state
from rapids_pipeline.stack.members.member import Model
from rapids_pipeline.stack.recipe import Recipe

ROWS_AT_ONCE = 512
"""Rows that the second level predicts at once: its members read all predictions of the first side by side."""


@dataclass(frozen=True, eq=False)
class StackModel:
    """Members and blend of a stack of t targets.

    Attributes
    ----------
    models : dict of str to Model
        By the name of the form that was fitted; those that others read come first.
    stacks_on : dict of str to sequence of str
        Whose predictions a model reads, in this order; of the second level only.
    weights : Weights
        Of the members that are blended.
    low, high : ndarray of float32, (t,)
        Bounds of the blend.
    """

    models: Mapping[str, Model]
    stacks_on: Mapping[str, Sequence[str]]
    weights: Weights
    low: Float32
    high: Float32

    def predict(self, rows: Rows) -> Float32:
        """Return the blend's predictions, (m, t) float32, in the unit of the training targets.

        A row's prediction does not depend on the others, to rounding.
        """
        first = {
            name: model.predict(rows) for name, model in self.models.items() if name not in self.stacks_on
        }
        predicted = np.empty((len(rows.obs), len(self.low)), dtype=np.float32)
        for start in range(0, len(predicted), ROWS_AT_ONCE):
            some = np.arange(start, min(start + ROWS_AT_ONCE, len(predicted)))
            members = {name: values[some] for name, values in first.items()}
            for name, read in self.stacks_on.items():
                stacked = np.hstack([members[other] for other in read])
                members[name] = self.models[name].predict(replace(rows.take(some), predictions=stacked))
            predicted[some] = self.blend(members)
        return predicted

    def blend(self, members: Mapping[str, Float32]) -> Float32:
        """Return the bounded weighted sum of members' predictions."""
        return np.clip(self.weights.mix(members), self.low, self.high)

    def state(self) -> State:
        """Return what it has learnt, a part for each model."""
        models = {f"member_{number}": model.state() for number, model in enumerate(self.models.values())}
        blend = {
            "models": list(self.models),
            "weights": self.weights.state(),
            "low": self.low,
            "high": self.high,
        }
        return models | {"blend": blend}

    @classmethod
    def from_state(cls, recipe: Recipe, n_targets: int, reader: StateReader) -> "StackModel":
        """Make it of its state and the recipe it was fitted by; InputError where they do not fit together."""
        blend = reader.part("blend")
        names, forms = blend.levels("models"), {form.name: form for form in recipe.forms}
        if not set(names) <= set(forms):
            raise blend.fault("the models are not those of the recipe's members")
        models = {
            name: forms[name].member.model_from_state(reader.part(f"member_{number}"))
            for number, name in enumerate(names)
        }
        stacks_on = stacks_on_of(recipe, names)
        if not {read for reads in stacks_on.values() for read in reads} <= set(names):
            raise blend.fault("a model that another reads is missing")
        weights = weights_from_state(blend.part("weights"))
        blended = {forms[name].member.name for name in set(weights.weights) & set(models)}
        if not len(blended) == len(weights.weights) == len(recipe.members):
            raise blend.fault("the weights are not those of the recipe's members")
        low, high = (blend.array(bound, np.float32, (n_targets,)) for bound in ("low", "high"))
        return cls(models, stacks_on, weights, low, high)


def stacks_on_of(recipe: Recipe, names: Sequence[str]) -> dict[str, Sequence[str]]:
    """Return whose predictions forms of a recipe read, for those that read any."""
    forms = {form.name: form.member for form in recipe.forms}
    return {name: forms[name].stacks_on for name in names if forms[name].stacks_on}
