"""Predict how a small molecule changes the expression of every gene in a cell type.

    from rapids_pipeline import PerturbationModel

Importing this package is cheap: it loads neither torch, cuDF, XGBoost, RDKit nor pandas. `PerturbationModel` and
the version are loaded when they are first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rapids_pipeline.commands.model import PerturbationModel

    __version__: str

__all__ = ["PerturbationModel", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from rapids_pipeline.backend.devices import VERSION

        return VERSION
    if name == "PerturbationModel":
        from rapids_pipeline.commands.model import PerturbationModel

        return PerturbationModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
