"""The settings of a kernel model that are tuned, their ranges, and the way from parameters to a model and back.

Weights and the penalty are searched on a logarithmic scale around the recipe's, x/REACH to x·REACH; what is 0 stays 0.
The largest weight stays as it is: all weights and the penalty times one number are the same model (β/c solves cK with
C/c), so it is the unit of the others. The recipe is a point of the space, and `model_of(start)` is its model to the
last bit; other values are rounded to `DIGITS` digits, so that what is tried is what the file says.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from rapids_pipeline.kernels.terms import terms_of
from rapids_pipeline.stack.members.kernel_model import BOUNDS, KernelModelConfig
from rapids_pipeline.stack.target_space import TRANSFORMS

REACH = 10.0
"""Factor by which weights and the penalty may grow or shrink."""
LENGTH_REACH = 4.0
"""Factor by which the lengths of dose and time may grow or shrink."""
DIGITS = 4
N_COMPONENTS = (30, 60, 120, 180, 240)
HALVES = 4
"""Steps of √2 by which the scale of asinh may grow or shrink; a grid, so that what is learnt of it serves again."""
EDGE = 0.03
"""Share of a range, at either end, in which a value counts as at the edge."""
NEAR = 0.12
"""Standard deviation, as a share of the range, of numbers drawn near the recipe's."""
NEAR_CHOICE = 0.25
"""How often another name is drawn than the recipe's."""
WEIGHTS = "weights."

Raw = float | int | str
"""A parameter as the sampler has it: a number of a range, a place on a grid, or a choice."""


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`; the start is any of them."""

    name: str
    start: float
    low: float
    high: float
    log: bool = False

    def value(self, raw: Raw) -> float:
        """Return the setting that a number stands for."""
        return self.start if raw == self.start else float(f"{raw:.{DIGITS}g}")

    def near(self, rng: np.random.Generator) -> Raw:
        """Draw a number near the start."""
        low, high, start = (math.log(v) if self.log else v for v in (self.low, self.high, self.start))
        x = min(max(start + rng.normal(0, NEAR * (high - low)), low), high)
        return min(max(math.exp(x), self.low), self.high) if self.log else float(x)

    def at_edge(self, raw: Raw) -> bool:
        """Say whether a number is so near an end that one beyond it might be better; 0 is an end by nature."""
        low, high, x = (math.log(v) if self.log else v for v in (self.low, self.high, float(raw)))
        margin = EDGE * (high - low)
        return x > high - margin or (x < low + margin and (self.log or self.low > 0))


@dataclass(frozen=True)
class Grid:
    """One of a few numbers in order; the sampler has its place."""

    name: str
    start: float
    values: tuple[float, ...]

    def value(self, raw: Raw) -> float:
        """Return the setting at a place."""
        return self.values[int(raw)]

    def near(self, rng: np.random.Generator) -> Raw:
        """Draw the start's place or one beside it."""
        place = self.values.index(self.start) + int(rng.integers(-1, 2))
        return min(max(place, 0), len(self.values) - 1)


@dataclass(frozen=True)
class Choice:
    """One of a few names."""

    name: str
    start: str
    values: tuple[str, ...]

    def value(self, raw: Raw) -> str:
        """Return the setting."""
        return str(raw)

    def near(self, rng: np.random.Generator) -> Raw:
        """Draw the start, or at times another name."""
        other = self.values[int(rng.integers(len(self.values)))]
        return other if rng.random() < NEAR_CHOICE else self.start


Parameter = Range | Grid | Choice


@dataclass(frozen=True)
class ModelSpace:
    """A model and what of it is tuned."""

    model: KernelModelConfig
    parameters: tuple[Parameter, ...]

    @classmethod
    def of(cls, model: KernelModelConfig, n_rows: int) -> "ModelSpace":
        """Return the space around a model that is fitted to at least `n_rows` rows."""
        found: list[Parameter] = [*_weights(model), _around("penalty", model.penalty)]
        by_components = model.targets == "components"
        if by_components:
            found.append(_from_zero("penalty_growth", model.penalty_growth, 2.0))
        if model.kernel.of_profiles:
            found.append(_from_zero("profile_shrinkage", model.profile_shrinkage, 4.0))
        factors = {factor.name for _, product in terms_of(model.weights) for factor in product}
        for name, start in (("dose", model.dose_length), ("time", model.time_length)):
            if name in factors:
                found.append(
                    Range(f"{name}_length", start, start / LENGTH_REACH, start * LENGTH_REACH, log=True)
                )
        found.append(Range("noise_exponent", model.noise_exponent, 0.0, 1.0))
        if model.engine != "ridge":
            epsilon = model.epsilon
            found.append(_around("epsilon", epsilon) if epsilon else _from_zero("epsilon", 0.0, 0.5))
        found.append(Choice("transform", model.transform, TRANSFORMS))
        scales = (model.transform_scale * 2 ** (half / 2) for half in range(-HALVES, HALVES + 1))
        rounded = (x if x == model.transform_scale else float(f"{x:.{DIGITS}g}") for x in scales)
        found.append(Grid("transform_scale", model.transform_scale, tuple(rounded)))
        if by_components or model.kernel.of_profiles:
            possible = {n for n in N_COMPONENTS if n < n_rows} | {model.n_components}
            found.append(Grid("n_components", model.n_components, tuple(sorted(possible))))
        return cls(model, tuple(_within_bounds(parameter) for parameter in found))

    @property
    def start(self) -> dict[str, Raw]:
        """The recipe's model, as the sampler has it."""
        return {p.name: p.values.index(p.start) if isinstance(p, Grid) else p.start for p in self.parameters}

    def near(self, rng: np.random.Generator) -> dict[str, Raw]:
        """Draw a model near the recipe's."""
        return {parameter.name: parameter.near(rng) for parameter in self.parameters}

    def values(self, raw: Mapping[str, Raw]) -> dict[str, float | str]:
        """Return the settings that parameters stand for; the scale, which asinh alone has, is else the recipe's."""
        found = {parameter.name: parameter.value(raw[parameter.name]) for parameter in self.parameters}
        if found["transform"] != "asinh":
            found["transform_scale"] = self.model.transform_scale
        return found

    def model_of(self, raw: Mapping[str, Raw]) -> KernelModelConfig:
        """Return the model that parameters stand for; what is not tuned is the recipe's."""
        weights, settings = dict(self.model.weights), self.values(raw)
        for name in [name for name in settings if name.startswith(WEIGHTS)]:
            weights[name.removeprefix(WEIGHTS)] = float(settings.pop(name))
        return self.model.updated(**settings, weights=weights)

    def at_edge(self, raw: Mapping[str, Raw]) -> list[str]:
        """Return the names of the parameters at the edge of their range; a grid's are not told."""
        return [p.name for p in self.parameters if isinstance(p, Range) and p.at_edge(raw[p.name])]


def _within_bounds(parameter: Parameter) -> Parameter:
    """Return a parameter with the part of its range that the setting can have."""
    bounds = BOUNDS.get("weights" if parameter.name.startswith(WEIGHTS) else parameter.name)
    if bounds is None or isinstance(parameter, Choice):
        return parameter
    low, high = bounds
    if isinstance(parameter, Grid):
        return replace(parameter, values=tuple(x for x in parameter.values if low <= x <= high))
    return replace(parameter, low=max(parameter.low, low), high=min(parameter.high, high))


def _weights(model: KernelModelConfig) -> list[Parameter]:
    """Return all weights but those of 0 and the largest one, the unit."""
    unit = max(model.weights, key=lambda name: model.weights[name])
    return [_around(WEIGHTS + name, x) for name, x in model.weights.items() if x and name != unit]


def _around(name: str, start: float) -> Range:
    return Range(name, start, start / REACH, start * REACH, log=True)


def _from_zero(name: str, start: float, high: float) -> Range:
    return Range(name, start, 0.0, max(high, 2 * start))
