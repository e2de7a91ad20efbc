"""One validated object per stage: what a run does, with its defaults.

A `RunConfig` is complete: together with the input files it determines every number of a run, and it is
written into the run's manifest.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from features.feature_sets import FEATURE_SETS, FeatureSet


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
    features: FeatureSet = FEATURE_SETS["svr_shared"]

    @model_validator(mode="after")
    def _one_table_for_all_genes(self) -> "SvrConfig":
        name = self.features.name
        if self.features.needs_predictions:
            raise ValueError(f"{name} stacks on predictions of the SVRs, which are what it would be used for")
        if self.features.own_target:
            raise ValueError(
                f"{name} gives every gene columns of its own, and the SVRs of a run share one table; `screen` takes it"
            )
        return self


class BoostingConfig(StageConfig):
    """Multi-output boosting in a TruncatedSVD of the targets.

    Chosen by the training rows of real data (lincs_lung): out-of-fold, and on a split that imitates scarce cell
    types. The published pipeline: 1,000 trees of depth 10 at rate 0.01, the same share of columns and noise.
    """

    n_components: int = Field(default=45, ge=1)
    n_estimators: int = Field(default=500, ge=1)
    learning_rate: float = Field(default=0.02, gt=0, le=1)
    max_depth: int = Field(default=6, ge=1)
    min_samples_leaf: int = Field(default=1, ge=1)
    colsample: float = Field(default=0.2, gt=0, le=1)
    subsample: float = Field(default=1.0, gt=0, le=1)
    reg_lambda: float = Field(default=1.0, ge=0)
    max_bins: int = Field(default=256, ge=3, le=256)
    encoder_sigma: float = Field(default=0.21, ge=0)
    engine: str = "auto"
    features: FeatureSet = FEATURE_SETS["boosting"]

    @model_validator(mode="after")
    def _one_table_for_all_components(self) -> "BoostingConfig":
        if self.features.own_target:
            raise ValueError(
                f"{self.features.name} gives every gene columns of its own, and the booster has one table for all"
            )
        return self


class RunConfig(StageConfig):
    """Everything a run does."""

    molecules: str = "chemberta"
    n_folds: int = Field(default=5, ge=3, le=20)
    seed: int = Field(default=0, ge=0)
    clip: bool = True
    svr: SvrConfig = SvrConfig()
    boosting: BoostingConfig = BoostingConfig()

    def resolved(self) -> "RunConfig":
        """Return the settings with `molecules` in the feature sets' blocks that name no encoder."""
        stages = {
            stage: settings.model_copy(update={"features": settings.features.with_molecules(self.molecules)})
            for stage, settings in (("svr", self.svr), ("boosting", self.boosting))
        }
        return self.model_copy(update=stages)
