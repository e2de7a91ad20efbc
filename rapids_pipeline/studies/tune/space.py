"""The settings of a model that are tuned, their ranges, and the way from parameters to a model and back.

What is tuned is a kernel model of a composite member, a booster or a net. The recipe is a point of the space, and
`model_of(start)` is its model to the last bit; other values are rounded to `DIGITS` digits, so that what is tried is
what the file says. What is 0 stays 0, but for settings whose range begins there.

Kernel models: weights and the penalty are searched on a logarithmic scale around the recipe's, x/REACH to x·REACH. The
largest weight stays as it is: all weights and the penalty times one number are the same model (β/c solves cK with C/c),
so it is the unit of the others.

Boosters and nets: settings by their path, as "training.learning_rate" and "architecture.blocks.0.width". Widths and
counts are on grids around the recipe's by steps of √2. The ranges of a net are about those that the third place of the
competition has left in its comments (widths 64 to 512 or 128 to 1,024, batches a multiple of 32, 50 to 246 components,
learning rates 0.0026 to 0.0098).
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import BaseModel

from rapids_pipeline.backend.settings import bounds_of
from rapids_pipeline.kernels.terms import terms_of
from rapids_pipeline.nets.settings import Transformer
from rapids_pipeline.stack.members.booster import BoosterMember
from rapids_pipeline.stack.members.kernel_model import WEIGHTS, KernelModelConfig
from rapids_pipeline.stack.members.net import NetMember
from rapids_pipeline.stack.target_space import TRANSFORMS

Model = KernelModelConfig | BoosterMember | NetMember

REACH = 10.0
"""Factor by which weights and penalties may grow or shrink."""
RATE_REACH = 4.0
"""Factor by which the learning rate of a net may grow or shrink."""
LENGTH_REACH = 4.0
"""Factor by which the lengths of dose and time may grow or shrink."""
DIGITS = 4
N_COMPONENTS = (30, 60, 120, 180, 240)
DEPTHS, LEAVES = (2, 3, 4, 5, 6, 8, 10, 12), (1, 2, 4, 8, 16)
"""Depths of trees, and the fewest rows of a leaf."""
BATCHES = (32, 64, 96, 128, 192, 256)
LOSSES = ("mrrmse", "mse", "mae", "huber", "log_cosh")
SCHEDULES = ("linear", "constant", "plateau")
MOST_DROPPED = 0.6
"""Largest share of entries that are set to 0."""
WIDTH_STEP = 8
"""Widths that are tried are multiples of it, where the recipe's is not small."""
FIXED = {"fold", "groups", "heads", "layers", "side"}
"""Numbers of an architecture that are no widths."""
HALVES = 4
"""Steps of √2 by which the scale of asinh may grow or shrink; a grid, so that what is learnt of it serves again."""
EDGE = 0.03
"""Share of a range, at either end, in which a value counts as at the edge."""
NEAR = 0.12
"""Standard deviation, as a share of the range, of numbers drawn near the recipe's."""
NEAR_CHOICE = 0.25
"""How often another name is drawn than the recipe's."""
WEIGHT = "weights."

Raw = float | int | str
"""A parameter as the sampler has it: a number of a range, a place on a grid, or a choice."""


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`; the start is any of them. `whole`: beyond `high` there is nothing, as beyond 1."""

    name: str
    start: float
    low: float
    high: float
    log: bool = False
    whole: bool = False

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
        above = x > high - margin and not self.whole
        return above or (x < low + margin and (self.log or self.low > 0))


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

    model: Model
    parameters: tuple[Parameter, ...]

    @classmethod
    def of(cls, model: Model, n_rows: int) -> "ModelSpace":
        """Return the space around a model that is fitted to at least `n_rows` rows."""
        if isinstance(model, KernelModelConfig):
            found = _of_kernels(model, n_rows)
        else:
            found = _of_booster(model, n_rows) if isinstance(model, BoosterMember) else _of_net(model, n_rows)
        return cls(model, tuple(_within_bounds(model, parameter) for parameter in found))

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

    def model_of(self, raw: Mapping[str, Raw]) -> Model:
        """Return the model that parameters stand for; what is not tuned is the recipe's."""
        settings = self.model.model_dump(mode="json")
        for name, value in self.values(raw).items():
            _put(settings, name, value)
        return type(self.model).model_validate(settings)

    def at_edge(self, raw: Mapping[str, Raw]) -> list[str]:
        """Return the names of the parameters at the edge of their range; a grid's are not told."""
        return [p.name for p in self.parameters if isinstance(p, Range) and p.at_edge(raw[p.name])]


def _put(settings: Any, path: str, value: float | str) -> None:
    """Set what is at a path in nested tables and lists; the name of a weight may have dots of its own."""
    while True:
        head, _, rest = path.partition(".")
        place: Any = int(head) if isinstance(settings, list) else path if path in settings else head
        if not rest or place == path:
            settings[place] = value
            return
        settings, path = settings[place], rest


def _within_bounds(model: Model, parameter: Parameter) -> Parameter:
    """Return a parameter with the part of its range that the setting can have."""
    *path, name = [WEIGHT] if parameter.name.startswith(WEIGHT) else parameter.name.split(".")
    owner: Any = model
    for part in path:
        owner = owner[int(part)] if isinstance(owner, tuple) else getattr(owner, part)
    if name == WEIGHT:
        low, high = WEIGHTS
    elif isinstance(owner, BaseModel) and (bounds := bounds_of(owner, name)) is not None:
        low, high = bounds.low, bounds.high
    else:
        return parameter
    if isinstance(parameter, Grid):
        return replace(parameter, values=tuple(x for x in parameter.values if low <= x <= high))
    return (
        parameter
        if isinstance(parameter, Choice)
        else replace(parameter, low=max(parameter.low, low), high=min(parameter.high, high))
    )


# --- of kernels -------------------------------------------------------------------------------------------


def _of_kernels(model: KernelModelConfig, n_rows: int) -> Iterator[Parameter]:
    unit = max(model.weights, key=lambda name: model.weights[name])
    for name, weight in model.weights.items():
        if weight and name != unit:
            yield _around(WEIGHT + name, weight)
    yield _around("penalty", model.penalty)
    by_components = model.targets == "components"
    if by_components:
        yield _from_zero("penalty_growth", model.penalty_growth, 2.0)
    if model.kernel.of_profiles:
        yield _from_zero("profile_shrinkage", model.profile_shrinkage, 4.0)
    factors = {factor.name for _, product in terms_of(model.weights) for factor in product}
    for name, start in (("dose", model.dose_length), ("time", model.time_length)):
        if name in factors:
            yield _around(f"{name}_length", start, LENGTH_REACH)
    yield Range("noise_exponent", model.noise_exponent, 0.0, 1.0, whole=True)
    if model.engine != "ridge":
        yield _around("epsilon", model.epsilon) if model.epsilon else _from_zero("epsilon", 0.0, 0.5)
    yield from _of_targets(model, n_rows if by_components or model.kernel.of_profiles else 0)


def _of_targets(model: Model, n_rows: int) -> Iterator[Parameter]:
    """Yield what a model does with its targets; without rows it has no components to choose the number of."""
    yield Choice("transform", model.transform, TRANSFORMS)
    scales = (model.transform_scale * 2 ** (half / 2) for half in range(-HALVES, HALVES + 1))
    rounded = (x if x == model.transform_scale else float(f"{x:.{DIGITS}g}") for x in scales)
    yield Grid("transform_scale", model.transform_scale, tuple(rounded))
    if n_rows and model.n_components != "none":
        yield _one_of("n_components", model.n_components, (n for n in N_COMPONENTS if n < n_rows))


# --- of boosters and nets ---------------------------------------------------------------------------------


def _of_booster(member: BoosterMember, n_rows: int) -> Iterator[Parameter]:
    yield _around("learning_rate", member.learning_rate)
    yield _counted("n_estimators", member.n_estimators)
    yield _one_of("max_depth", member.max_depth, DEPTHS)
    yield _one_of("min_samples_leaf", member.min_samples_leaf, LEAVES)
    for name, share in (("colsample", member.colsample), ("subsample", member.subsample)):
        yield Range(name, share, min(0.05, share), 1.0, log=True, whole=True)
    yield (
        _around("reg_lambda", member.reg_lambda) if member.reg_lambda else _from_zero("reg_lambda", 0.0, 1.0)
    )
    if member.features.uses_targets and member.encoder_sigma:
        yield _from_zero("encoder_sigma", member.encoder_sigma, 1.0)
    yield from _of_targets(member, n_rows)


def _of_net(member: NetMember, n_rows: int) -> Iterator[Parameter]:
    training = member.training
    yield from _of_layers("architecture", member.architecture)
    yield _around("training.learning_rate", training.learning_rate, RATE_REACH)
    yield _counted("training.epochs", training.epochs, 2)
    yield _one_of("training.batch_size", training.batch_size, (n for n in BATCHES if n < n_rows))
    [*losses] = training.loss.items()
    if len(losses) == 1 and losses[0][1] == 1 and losses[0][0] in LOSSES:
        yield Choice("training.loss", losses[0][0], LOSSES)
    yield Choice("training.schedule", training.schedule, SCHEDULES)
    for name, value in (("masking", training.masking), ("input_noise", training.input_noise)):
        if value:
            yield _from_zero(f"training.{name}", value, MOST_DROPPED)
    for name, value in (("target_noise", training.target_noise), ("weight_decay", training.weight_decay)):
        if value:
            yield _around(f"training.{name}", value)
    yield from _of_targets(member, n_rows)


def _of_layers(path: str, value: Any, step: int = 0) -> Iterator[Parameter]:
    """Yield the widths and the dropout of an architecture, or of a part of it; widths are multiples of `step`."""
    if isinstance(value, tuple):
        for place, part in enumerate(value):
            yield from _of_layers(f"{path}.{place}", part)
    elif isinstance(value, BaseModel):
        for name in sorted(set(type(value).model_fields) - FIXED):
            part, here = getattr(value, name), f"{path}.{name}"
            if name.endswith("dropout") and part:
                yield _from_zero(here, part, MOST_DROPPED)
            elif isinstance(part, int | tuple | BaseModel) and not isinstance(part, bool):
                yield from _of_layers(here, part, value.heads if isinstance(value, Transformer) else 0)
    elif isinstance(value, int):
        step = step or (WIDTH_STEP if value >= 4 * WIDTH_STEP else 1)
        widths = (step * max(round(value * 2 ** (half / 2) / step), 1) for half in (-4, -3, -2, -1, 1, 2))
        yield _one_of(path, value, widths)


def _around(name: str, start: float, reach: float = REACH) -> Range:
    return Range(name, start, start / reach, start * reach, log=True)


def _from_zero(name: str, start: float, high: float) -> Range:
    return Range(name, start, 0.0, max(high, 2 * start))


def _one_of(name: str, start: int, others: Iterable[int]) -> Grid:
    return Grid(name, start, tuple(sorted({start, *others})))


def _counted(name: str, start: int, halves: int = 4) -> Grid:
    return _one_of(name, start, (max(round(start * 2 ** (h / 2)), 1) for h in range(-halves, halves + 1)))
