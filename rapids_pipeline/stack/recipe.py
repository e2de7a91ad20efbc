"""One validated object per stage: what a run does, with its defaults.

A `RunConfig` is complete: together with the input files it determines every number of a run, and it is
written into the run's manifest. Its `Recipe` is the method; `rapids_pipeline.stack.named_recipes` has those with a
name.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from features.feature_sets import FEATURE_SETS, FeatureSet, feature_set
from features.molecules import fitted_in_fold
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.kernels.composite import CompositeKernel
from rapids_pipeline.stack.target_transforms import TransformName

BOOSTING, BOOSTING_PSEUDO = "boosting", "boosting_pseudo"
"""Names of the boosters among the members of a blend: without and with pseudo-labelled rows."""


NO_TUBE = "engine = 'ridge' has squared errors, which have no tube: epsilon must be 0, or take another engine"


def _named_set(value: Any) -> Any:
    """Let a feature set be given by its name or TOML file."""
    if not isinstance(value, str):
        return value
    try:
        return feature_set(value)
    except InputError as error:
        raise ValueError(str(error)) from None


Features = Annotated[FeatureSet, BeforeValidator(_named_set)]


class StageConfig(BaseModel):
    """Base of the stages' settings: frozen, and unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SvrConfig(StageConfig):
    """A first-level member: one SVR a gene (published: RBF, C=1, epsilon=0.1, gamma="scale").

    Its feature set is one table that all genes share, or, where blocks of it say `own_target`, has columns of
    each gene's own.
    """

    C: float = Field(default=1.0, gt=0)
    epsilon: float = Field(default=0.1, ge=0)
    kernel: Literal["rbf", "linear"] = "rbf"
    gamma: float | Literal["scale"] = "scale"
    tol: float = Field(default=1e-3, gt=0)
    max_iter: int | None = Field(default=None, ge=1)
    engine: str = "auto"
    features: Features = FEATURE_SETS["svr_shared"]

    @property
    def name(self) -> str:
        """What the member is called: its feature set's name."""
        return self.features.name

    @model_validator(mode="after")
    def _usable_features(self) -> "SvrConfig":
        if self.features.needs_predictions:
            raise ValueError(
                f"{self.name} stacks on predictions of the SVRs, which are what it would be used for"
            )
        if self.features.own_target and self.kernel != "rbf":
            raise ValueError(f"{self.name} gives every gene columns of its own, which needs kernel = 'rbf'")
        if self.engine == "ridge" and self.epsilon:
            raise ValueError(NO_TUBE)
        return self


class MachineConfig(StageConfig):
    """A kernel machine: targets transformed and reduced to principal components, each solved on a composite kernel.

    Component j, with singular value s_j, is divided by its root mean square s_j/√n and has the penalty
    λ_j = `penalty` · (s_1/s_j)^`penalty_growth` ("ridge": λ; engines with a tube: C = 1/λ, and `epsilon` in units of
    the component's root mean square). With `targets` = "genes" the transformed genes are solved as they are, each with
    `penalty`, and components serve the response profiles only. Row i has the noise h_i ∝ (|a_i|²)^`noise_exponent`, a_i
    its scores: strong responses vary more. h multiplies the penalty.
    """

    weights: dict[str, float]
    profile_shrinkage: float = Field(default=1.0, ge=0)
    transform: TransformName = "asinh"
    transform_scale: float = Field(default=2.0, gt=0)
    n_components: int = Field(default=120, ge=1)
    targets: Literal["components", "genes"] = "components"
    engine: str = "ridge"
    penalty: float = Field(default=1.5, gt=0)
    penalty_growth: float = Field(default=1.0, ge=0)
    epsilon: float = Field(default=0.0, ge=0)
    noise_exponent: float = Field(default=0.0, ge=0, le=1)
    tol: float = Field(default=1e-3, gt=0)
    max_iter: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _usable(self) -> "MachineConfig":
        CompositeKernel(self.weights)
        if self.engine == "ridge" and self.epsilon:
            raise ValueError(NO_TUBE)
        if self.engine == "auto":
            raise ValueError(
                "engine = 'auto' would leave open which loss is meant: name 'ridge' (squared errors) or an engine of "
                "epsilon-insensitive ones, such as 'douglas-rachford' or 'smo'"
            )
        return self

    @property
    def kernel(self) -> CompositeKernel:
        """The composite kernel."""
        return CompositeKernel(self.weights, self.profile_shrinkage)

    def with_molecules(self, encoder: str) -> "MachineConfig":
        """Return the machine with `encoder` for rbf(molecules)."""
        return self.model_copy(update={"weights": dict(self.kernel.with_molecules(encoder).weights)})


class KernelConfig(StageConfig):
    """A first-level member of two kernel machines.

    `known` predicts pairs whose compound was measured in another cell type, so that it has a response profile; all
    others are predicted by `new_compounds`, whose kernel therefore has no profiles in it.
    """

    name: str = Field(default="composite", min_length=1)
    known: MachineConfig
    new_compounds: MachineConfig

    @model_validator(mode="after")
    def _no_profiles_of_new_compounds(self) -> "KernelConfig":
        if self.new_compounds.kernel.of_profiles:
            raise ValueError(
                f"{self.name}: new_compounds is for pairs without a response profile, so its weights cannot have one"
            )
        return self

    @property
    def machines(self) -> tuple[MachineConfig, MachineConfig]:
        """Both machines."""
        return self.known, self.new_compounds

    @property
    def encoders(self) -> list[str]:
        """The molecule encoders whose features `Rows.molecules` must hold."""
        named = {name for machine in self.machines for name in machine.kernel.encoders}
        return sorted(name for name in named if not fitted_in_fold(name))

    def with_molecules(self, encoder: str) -> "KernelConfig":
        """Return the member with `encoder` for rbf(molecules)."""
        known, new = (machine.with_molecules(encoder) for machine in self.machines)
        return self.model_copy(update={"known": known, "new_compounds": new})


class BoostingConfig(StageConfig):
    """Multi-output boosting in a reduced space of the targets.

    Chosen by the training rows of real data (lincs_lung): out-of-fold, and on a split that imitates scarce cell
    types. The published pipeline: 1,000 trees of depth 10 at rate 0.01, the same share of columns and noise.

    `n_seeds` boosters that differ in their random draws are aggregated by `aggregate`. With
    `early_stopping_rounds` each fit finds its number of trees on one fold of its own training rows first.
    """

    target_space: Literal["svd", "none", "pca_asinh"] = "svd"
    n_components: int = Field(default=45, ge=1)
    n_estimators: int = Field(default=500, ge=1)
    learning_rate: float = Field(default=0.02, gt=0, le=1)
    max_depth: int = Field(default=6, ge=1)
    min_samples_leaf: int = Field(default=1, ge=1)
    colsample: float = Field(default=0.2, gt=0, le=1)
    subsample: float = Field(default=1.0, gt=0, le=1)
    reg_lambda: float = Field(default=1.0, ge=0)
    max_bins: int = Field(default=256, ge=3, le=256)
    early_stopping_rounds: int | None = Field(default=None, ge=1)
    encoder_sigma: float = Field(default=0.21, ge=0)
    n_seeds: int = Field(default=1, ge=1)
    aggregate: Literal["median", "mean"] = "median"
    engine: str = "auto"
    features: Features = FEATURE_SETS["boosting"]

    @model_validator(mode="after")
    def _one_table_for_all_components(self) -> "BoostingConfig":
        if self.features.own_target:
            raise ValueError(
                f"{self.features.name} gives every gene columns of its own, and the booster has one table for all"
            )
        return self


class PseudoLabelConfig(StageConfig):
    """Second stage: boosters that also learn from the test pairs, labelled by the mean of all first-stage members.

    "auto" makes both stages and takes the one whose blend is better on rows that neither saw.
    """

    use: Literal["auto", "on", "off"] = "auto"
    weight: float = Field(default=1.0, gt=0)


class BlendConfig(StageConfig):
    """The weighted sum of the members: `shrink` lets the weights sum to less than one, `clip` bounds the result.

    The bounds are the smallest and the largest training value of each gene.
    """

    shrink: bool = True
    clip: bool = True


class Recipe(StageConfig):
    """A method: members, how they are stacked, blended and, where the evidence says so, trained again."""

    name: str = Field(min_length=1)
    description: str = ""
    n_folds: int = Field(default=5, ge=3, le=20)
    svrs: tuple[SvrConfig, ...] = (SvrConfig(),)
    kernels: tuple[KernelConfig, ...] = ()
    boosting: BoostingConfig = BoostingConfig()
    pseudo_labels: PseudoLabelConfig = PseudoLabelConfig()
    blend: BlendConfig = BlendConfig()

    @model_validator(mode="after")
    def _distinct_members(self) -> "Recipe":
        names = [member.name for member in self.first_level]
        if not names:
            raise ValueError("a recipe needs at least one member among svrs and kernels")
        taken = sorted(
            {name for name in names if names.count(name) > 1 or name in (BOOSTING, BOOSTING_PSEUDO)}
        )
        if taken:
            raise ValueError(
                f"two members are called {taken[0]}: an SVR has the name of its feature set, and the boosters are "
                f"{BOOSTING} and {BOOSTING_PSEUDO}"
            )
        return self

    @property
    def first_level(self) -> tuple[SvrConfig | KernelConfig, ...]:
        """The members of the first level, in the order in which the boosters read them."""
        return (*self.svrs, *self.kernels)

    @property
    def encoders(self) -> list[str]:
        """The molecule encoders whose features all members together need."""
        named = {name for features in self.feature_sets for name in features.encoders}
        return sorted(named | {name for kernel in self.kernels for name in kernel.encoders})

    @property
    def feature_sets(self) -> list[FeatureSet]:
        """The feature sets of all members."""
        return [*(svr.features for svr in self.svrs), self.boosting.features]

    def with_molecules(self, encoder: str) -> "Recipe":
        """Return the recipe with `encoder` where a feature set or a kernel names none."""
        svrs = tuple(
            svr.model_copy(update={"features": svr.features.with_molecules(encoder)}) for svr in self.svrs
        )
        boosting = self.boosting.model_copy(
            update={"features": self.boosting.features.with_molecules(encoder)}
        )
        kernels = tuple(kernel.with_molecules(encoder) for kernel in self.kernels)
        return self.model_copy(update={"svrs": svrs, "kernels": kernels, "boosting": boosting})


class RunConfig(StageConfig):
    """Everything a run does; and, for people only, why its `molecules` were chosen."""

    recipe: Recipe
    molecules: str = "chemberta"
    molecules_because: str = Field(default="asked for", exclude=True)
    seed: int = Field(default=0, ge=0)

    def resolved(self) -> "RunConfig":
        """Return the settings with `molecules` in the recipe's feature sets."""
        return self.model_copy(update={"recipe": self.recipe.with_molecules(self.molecules)})
