"""The registry of boosting engines: name → a pure function that grows trees with vector leaves.

exact      exact search over presorted codes, numba; works on the host
pyboost    Py-Boost on an NVIDIA GPU; its trees predict anywhere
xgboost    XGBoost's `multi_output_tree`; works on the host and on CUDA
auto       exact on a CPU, xgboost on CUDA
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.boosting import exact, pyboost, xgboost
from rapids_pipeline.boosting.training import Floats, Settings, Trained, Watch

NUMBA_REMEDY = "the exact boosting engine needs numba: pip install 'rapids-perturb[cpu]'"


class BoostingEngine(Protocol):
    """Grows trees on X (n, p) and Y (n, d)."""

    def __call__(
        self,
        X: Floats,
        Y: Floats,
        settings: Settings,
        watch: Watch,
        validation: tuple[Floats, Floats] | None = None,
    ) -> Trained:
        """Return the trees, in the arrays that all engines share."""


@dataclass(frozen=True)
class Engine:
    """An engine and what has to be known to call it.

    Attributes
    ----------
    name : str
    fit : BoostingEngine
    devices : tuple of str
        Where it works.
    require : callable
        Raises UnavailableError where the engine cannot run.
    """

    name: str
    fit: BoostingEngine
    devices: tuple[DeviceName, ...]
    require: Callable[[], None]


@dataclass(frozen=True)
class Choice:
    """The engine chosen for a fit and, in words, why."""

    engine: Engine
    reason: str


def require_numba() -> None:
    """Raise UnavailableError where numba is not installed."""
    if find_spec("numba") is None:
        raise UnavailableError(NUMBA_REMEDY)


ENGINES = {
    engine.name: engine
    for engine in (
        Engine("exact", exact.fit, ("cpu",), require_numba),
        Engine("pyboost", pyboost.fit, ("cuda",), pyboost.require_pyboost),
        Engine("xgboost", xgboost.fit, ("cpu", "cuda"), xgboost.require_xgboost),
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
        raise InputError(f"no boosting engine {name!r}; choose one of auto, {', '.join(ENGINES)}")
    if device not in ("cpu", "cuda"):
        raise InputError(f"no device {device!r}; choose cpu or cuda")
    if name == "auto":
        engine = ENGINES["exact" if device == "cpu" else "xgboost"]
        reason = "auto: the device is a CPU" if device == "cpu" else "auto: the device is a GPU"
    else:
        engine, reason = ENGINES[name], "asked for"
    if device not in engine.devices:
        raise InputError(f"engine {engine.name!r} works on {', '.join(engine.devices)} only, not on {device}")
    engine.require()
    return Choice(engine, reason)
