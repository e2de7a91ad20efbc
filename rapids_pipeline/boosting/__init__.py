"""Multi-output gradient boosting."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rapids_pipeline.boosting.estimator import MultiOutputBooster

__all__ = ["MultiOutputBooster"]


def __getattr__(name: str) -> Any:
    """Import the estimator, and scikit-learn with it, when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rapids_pipeline.boosting import estimator

    return getattr(estimator, name)
