"""The engines of boosting: what each is told and gives back, their registry, and the choice among them.

exact      exact search over presorted codes, compiled by numba; works on the host
pyboost    Py-Boost on an NVIDIA GPU; its trees predict anywhere
xgboost    XGBoost's `multi_output_tree`; works on the host and on CUDA
auto       exact on a CPU, xgboost on CUDA

A new engine is one file with a `fit` and a `require`, and one line in `ENGINES`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module

import numpy as np

from rapids_pipeline.backend.arrays import Float32, Float64
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.errors import InputError, meant
from rapids_pipeline.boosting.trees import TreeEnsemble

Listener = Callable[[int, float | None], None]
"""Called after every tree with how many there are and, with a validation set, its RMSE."""

MIN_BINS, MAX_BINS = 3, 256
LEAST_WEIGHT = 1e-20
"""A row that weighs less than this share of the heaviest counts as one without weight."""
LEAST_LAMBDA, MOST_LAMBDA = 1e-30, 1e15
"""λ in units of the largest weight is 0 below the one and cut off at the other, so float32 holds it and its square."""


@dataclass(frozen=True)
class Settings:
    """The parameters of a fit; they mean the same in every engine (see `MultiOutputBooster`)."""

    n_estimators: int
    learning_rate: float
    max_depth: int
    min_samples_leaf: int
    colsample: float
    subsample: float
    reg_lambda: float
    max_bins: int
    seed: int
    device: DeviceName
    n_jobs: int


@dataclass(frozen=True)
class Trained:
    """The trees, and the validation RMSE after 1, 2, … of all trees that were grown (empty without a set)."""

    model: TreeEnsemble
    validation_scores: list[float]


@dataclass
class Watch:
    """Follows a fit: tells the listener, remembers validation scores and says when to stop.

    The score is the root mean square error over all entries of the validation targets.
    """

    patience: int | None = None
    listener: Listener | None = None
    scores: list[float] = field(default_factory=list)
    trees: int = 0

    def stops_after(self, score: float | None) -> bool:
        """Take note of one more tree and its validation score; say whether it was the last one."""
        self.trees += 1
        if score is not None:
            self.scores.append(score)
        if self.listener is not None:
            self.listener(self.trees, score)
        return bool(self.scores) and self.patience is not None and self.trees - self.best >= self.patience

    @property
    def best(self) -> int:
        """How many trees gave the lowest score (the fewest of equals); all of them without scores."""
        return int(np.argmin(self.scores)) + 1 if self.scores else self.trees

    def trained(self, model: TreeEnsemble) -> Trained:
        """Return the result: with early stopping, the trees up to the best score."""
        return Trained(model if self.patience is None else model.first(self.best), self.scores)


# --- weights of rows --------------------------------------------------------------------------------------------------


def in_units_of_the_largest(
    weights: Float64 | None, settings: Settings
) -> tuple[Float64 | None, Settings, int]:
    """Divide weights and λ by the power of two that brings the largest weight to [1, 2); return its exponent, too."""
    if weights is None:
        return None, settings, 0
    exponent = int(np.frexp(weights.max())[1]) - 1
    reg_lambda = settings.reg_lambda
    if exponent:
        reg_lambda = min(float(np.ldexp(reg_lambda, -exponent)), MOST_LAMBDA)
        reg_lambda = reg_lambda if reg_lambda >= LEAST_LAMBDA else 0.0
    return np.ldexp(weights, -exponent), replace(settings, reg_lambda=reg_lambda), exponent


def rescaled(gain: Float32, exponent: int) -> Float32:
    """Return gain · 2^exponent, float32, at most the largest there is."""
    return np.ldexp(gain.astype(np.float64), exponent).clip(max=np.finfo(np.float32).max).astype(np.float32)


def weighted_mean(Y: Float32, weights: Float64 | None) -> Float32:
    """Return Σ w y / Σ w of every column, summed in float64; equal weights give the very bits of no weights."""
    if weights is None or weights.min() == weights.max():
        mean = Y.mean(axis=0, dtype=np.float64)
    else:
        share = (weights / weights.max())[:, None]
        mean = np.sum(share * Y.astype(np.float64), axis=0) / share.sum()
    return np.asarray(mean, dtype=np.float32)


# --- registry and choice ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Engine:
    """An engine and what has to be known to call it.

    Attributes
    ----------
    name : str
    devices : tuple of str
        Where it works.
    module : str
        The module that has its `fit` and `require`, imported when one of them is first called.
    """

    name: str
    devices: tuple[DeviceName, ...]
    module: str

    @property
    def fit(self) -> Callable[..., Trained]:
        """Grow trees: (X (n, p), Y (n, d), Settings, Watch, (X, Y) to validate by or None, weights (n,) or None).

        Arrays are float32, weights float64 and above 0.
        """
        found: Callable[..., Trained] = import_module(self.module).fit
        return found

    def require(self) -> None:
        """Raise UnavailableError where the engine cannot run."""
        import_module(self.module).require()


@dataclass(frozen=True)
class Choice:
    """The engine chosen for a fit and, in words, why."""

    engine: Engine
    reason: str


ENGINES = {
    engine.name: engine
    for engine in (
        Engine("exact", ("cpu",), "rapids_pipeline.boosting.exact.engine"),
        Engine("pyboost", ("cuda",), "rapids_pipeline.boosting.pyboost"),
        Engine("xgboost", ("cpu", "cuda"), "rapids_pipeline.boosting.xgboost"),
    )
}


def choose_engine(name: str, device: DeviceName = "cpu") -> Choice:
    """Return the engine called `name`; "auto" picks one for the device.

    Raises
    ------
    InputError
        There is no such engine (the message lists them), or it does not work on that device.
    UnavailableError
        The engine cannot run here; the message says what to install.
    """
    if name != "auto" and name not in ENGINES:
        raise InputError(
            f"no boosting engine {name!r}{meant(name, ENGINES)}; choose one of auto, {', '.join(ENGINES)}"
        )
    if device not in ("cpu", "cuda"):
        raise InputError(f"no device {device!r}; choose cpu or cuda")
    if name != "auto":
        choice = Choice(ENGINES[name], "asked for")
    elif device == "cpu":
        choice = Choice(ENGINES["exact"], "auto: the device is a CPU")
    else:
        choice = Choice(ENGINES["xgboost"], "auto: the device is a GPU")
    engine = choice.engine
    if device not in engine.devices:
        raise InputError(f"engine {name!r} works on {', '.join(engine.devices)} only, not on {device}")
    engine.require()
    return choice
