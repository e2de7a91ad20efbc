"""The registry of boosting engines: name → module with `fit` and `predict`."""

from types import ModuleType

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.boosting import xgboost

ENGINES: dict[str, ModuleType] = {"xgboost": xgboost}


def engine(name: str) -> ModuleType:
    """Return the engine called `name`; InputError lists the engines where there is none."""
    if name not in ENGINES:
        raise InputError(f"no boosting engine {name!r}; choose one of {', '.join(ENGINES)}")
    return ENGINES[name]
