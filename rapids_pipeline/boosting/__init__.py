"""Multi-output gradient boosting."""

from rapids_pipeline.boosting.estimator import MultiOutputBooster

__all__ = ["MultiOutputBooster"]
