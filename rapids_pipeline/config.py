"""One validated object per stage: what a run does, with its defaults.

A `RunConfig` is complete: together with the input files it determines every number of a run, and it is
written into the run's manifest.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

DEFAULT_LAYER = "clipped_sign_log10_pval"
"""The layer of the Open Problems files that holds the responses."""


@dataclass(frozen=True)
class RunInputs:
    """The files of a run and how to read them."""

    train: Path
    test: Path
    layer: str = DEFAULT_LAYER
    metadata_columns: tuple[str, ...] = ()


class StageConfig(BaseModel):
    """Base of the stages' settings: frozen, and unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SvrConfig(StageConfig):
    """The multi-target SVR on shared features (published: RBF, C=1, epsilon=0.1, gamma="scale")."""

    C: float = Field(default=1.0, gt=0)
    epsilon: float = Field(default=0.1, ge=0)
    kernel: Literal["rbf", "linear"] = "rbf"
    gamma: float | Literal["scale"] = "scale"
    tol: float = Field(default=1e-3, gt=0)
    max_iter: int | None = Field(default=None, ge=1)
    engine: str = "auto"


class BoostingConfig(StageConfig):
    """Multi-output boosting in a TruncatedSVD of the targets.

    Trees, depth and bins are set so that XGBoost's vector leaves, which cost nodes × bins × outputs, stay
    affordable on two cores; the published pipeline grows 1,000 trees of depth 10 at rate 0.01.
    """

    n_components: int = Field(default=45, ge=1)
    n_estimators: int = Field(default=100, ge=1)
    learning_rate: float = Field(default=0.1, gt=0, le=1)
    max_depth: int = Field(default=4, ge=1)
    colsample: float = Field(default=0.4, gt=0, le=1)
    reg_lambda: float = Field(default=1.0, ge=0)
    max_bins: int = Field(default=32, ge=2, le=256)
    encoder_sigma: float = Field(default=0.0, ge=0)
    engine: str = "xgboost"


class RunConfig(StageConfig):
    """Everything a run does."""

    molecules: str = "chemberta"
    n_folds: int = Field(default=5, ge=3, le=20)
    seed: int = Field(default=0, ge=0)
    clip: bool = True
    svr: SvrConfig = SvrConfig()
    boosting: BoostingConfig = BoostingConfig()
