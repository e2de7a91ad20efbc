"""The registry of boosting engines: name → a pure function that grows trees with vector leaves.

exact      exact search over presorted codes, numba; works on the host
hist       the same trees by histograms, for many rows; takes sketches; works on the host
pyboost    Py-Boost on an NVIDIA GPU; its trees predict anywhere
xgboost    XGBoost's `multi_output_tree`; works on the host and on CUDA
auto       exact on a CPU, hist from 30,000 rows on or with a sketch; xgboost on CUDA
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.boosting import exact, histogram, pyboost, xgboost
from rapids_pipeline.boosting.training import Trained

MANY_ROWS = 30_000
"""From so many rows on hist is faster than exact in every cell of benchmarks/boosting_crossover.py."""
NUMBA_REMEDY = "the exact boosting engine needs numba: pip install 'rapids-perturb[cpu]'"


@dataclass(frozen=True)
class Engine:
    """An engine and what has to be known to call it.

    Attributes
    ----------
    name : str
    fit : callable
        (X (n, p), Y (n, d), Settings, Watch, (X, Y) to validate by or None, weights=(n,) above 0 or None) → Trained;
        float32 arrays, weights float64.
    devices : tuple of str
        Where it works.
    require : callable
        Raises UnavailableError where the engine cannot run.
    sketches : bool
        Whether `fit` takes a `Sketch` as one more argument.
    """

    name: str
    fit: Callable[..., Trained]
    devices: tuple[DeviceName, ...]
    require: Callable[[], None]
    sketches: bool = False


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
        Engine("hist", histogram.fit, ("cpu",), require_numba, sketches=True),
        Engine("pyboost", pyboost.fit, ("cuda",), pyboost.require_pyboost, sketches=True),
        Engine("xgboost", xgboost.fit, ("cpu", "cuda"), xgboost.require_xgboost),
    )
}


def choose_engine(
    name: str, device: DeviceName = "cpu", *, sketched: bool = False, n_rows: int = 0
) -> Choice:
    """Return the engine called `name`; "auto" picks one for the device, a sketch and the number of training rows.

    Raises
    ------
    InputError
        There is no such engine (the message lists them), it does not work on that device, or takes no sketch.
    UnavailableError
        The engine cannot run here; the message says what to install.
    """
    if name != "auto" and name not in ENGINES:
        raise InputError(f"no boosting engine {name!r}; choose one of auto, {', '.join(ENGINES)}")
    if device not in ("cpu", "cuda"):
        raise InputError(f"no device {device!r}; choose cpu or cuda")
    if name == "auto" and sketched:
        engine = ENGINES["hist" if device == "cpu" else "pyboost"]
        reason = f"auto: gradients are sketched, on a {'CPU' if device == 'cpu' else 'GPU'}"
    elif name == "auto" and device == "cpu" and n_rows >= MANY_ROWS:
        engine, reason = ENGINES["hist"], f"auto: a CPU and at least {MANY_ROWS:,} rows"
    elif name == "auto":
        engine = ENGINES["exact" if device == "cpu" else "xgboost"]
        reason = "auto: the device is a CPU" if device == "cpu" else "auto: the device is a GPU"
    else:
        engine, reason = ENGINES[name], "asked for"
    if device not in engine.devices:
        raise InputError(f"engine {engine.name!r} works on {', '.join(engine.devices)} only, not on {device}")
    if sketched and not engine.sketches:
        takers = " or ".join(other.name for other in ENGINES.values() if other.sketches)
        raise InputError(f"engine {engine.name!r} takes no sketch; choose {takers}, or sketch=None")
    engine.require()
    return Choice(engine, reason)
