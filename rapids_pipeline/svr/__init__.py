"""Multi-target epsilon-insensitive support vector regression: every gene's SVR at once."""

from rapids_pipeline.svr.engines import NotConvergedWarning
from rapids_pipeline.svr.estimator import MultiTargetSVR

__all__ = ["MultiTargetSVR", "NotConvergedWarning"]
