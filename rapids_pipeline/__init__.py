"""Predict how a small molecule changes the expression of every gene in a cell type.

    from rapids_pipeline import PerturbationModel

Importing this package is cheap: it loads neither torch, cuDF, XGBoost, RDKit nor pandas. `PerturbationModel` is loaded
when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rapids_pipeline.commands.model import PerturbationModel

__all__ = ["PerturbationModel", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name != "PerturbationModel":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rapids_pipeline.commands.model import PerturbationModel

    return PerturbationModel


def __dir__() -> list[str]:
    return [*globals(), "PerturbationModel"]
