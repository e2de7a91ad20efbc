"""Multi-target epsilon-insensitive support vector regression: every gene's SVR at once."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rapids_pipeline.svr.engines import NotConvergedWarning
    from rapids_pipeline.svr.estimator import MultiTargetSVR

__all__ = ["MultiTargetSVR", "NotConvergedWarning"]


def __getattr__(name: str) -> Any:
    """Import the estimator, and scikit-learn with it, when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rapids_pipeline.svr import engines, estimator

    return getattr(estimator if name == "MultiTargetSVR" else engines, name)
