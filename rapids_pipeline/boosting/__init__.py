"""Multi-output gradient boosting in a reduced target space."""

from rapids_pipeline.boosting.estimator import MultiOutputBooster
from rapids_pipeline.boosting.target_space import TargetSpace

__all__ = ["MultiOutputBooster", "TargetSpace"]
