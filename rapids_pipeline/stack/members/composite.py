r"""Models on composite kernels: targets transformed, reduced to components, solved on one Gram matrix.

With z = T(y) − μ the centred transformed targets and A Vᵀ ≈ Z their leading components
(`rapids_pipeline.stack.target_space`), component j is solved as a_j / u_j, u_j = s_j/√n, by an engine of
`rapids_pipeline.svr.engines` on K = `LearntKernel.gram`; a new pair gets

    ŷ = T⁻¹( μ + Σ_j u_j (k β_j + b_j) V_j ),   k = K(pair, training rows)

One K serves all genes, so a fit takes one factorisation however many genes there are. Whatever is learnt (μ, V, S of
the kernel, profiles, scales) is learnt from the training rows of the fit.

A member has two such models: `known_compounds` for pairs whose compound was measured in another cell type, so that it
has a response profile, and `new_compounds` for all others. Where the training rows differ in dose or time, both have
the terms of their `context_weights`, too, and a compound measured at another dose or time is `known_compounds`'.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from features.molecules import NONE, fitted_in_fold, refuse_foreign
from features.rows import Pairs, Rows
from rapids_pipeline.backend.arrays import Array, Float32, Float64, Indices, to_device, to_host
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.errors import InputError, quoted
from rapids_pipeline.backend.files import from_file
from rapids_pipeline.backend.settings import bounded, is_number, named
from rapids_pipeline.backend.state import State, StateReader
from rapids_pipeline.kernels.composite import MOLECULES, CompositeKernel, LearntKernel, renamed
from rapids_pipeline.kernels.response_profiles import DOSE_LENGTH, TIME_LENGTH
from rapids_pipeline.stack.members.member import (
    MOST_COMPONENTS,
    REMEDY,
    Fits,
    Member,
    StageConfig,
    TrainingSet,
)
from rapids_pipeline.stack.members.svr import FAR, NO_TUBE
from rapids_pipeline.stack.target_space import ROWS_AT_ONCE, SCALES, Compact, Part, TargetSpace, TransformName
from rapids_pipeline.svr.dual import require_room
from rapids_pipeline.svr.engines import choose_engine, solve_duals
from rapids_pipeline.svr.kernel_ridge import ITERATES_FROM

LEAST_NOISE = 1e-3
"""Part of the rows' mean square that is added to each row's before noise is made of it."""


BOUNDS = {
    "weights": (0.0, 1e6),
    "profile_shrinkage": (0.0, 1e6),
    "dose_length": (1e-3, 1e3),
    "time_length": (1e-3, 1e3),
    "transform_scale": SCALES,
    "penalty": (1e-8, 1e8),
    "penalty_growth": (0.0, 10.0),
    "epsilon": (0.0, 1e6),
}
"""From the smallest to the largest number of each setting; a search stays within them, too."""
MOST_TERMS, LONGEST_TERM = 100, 200
"""Terms of a kernel, and characters of the name of one: each is a matrix between all pairs of rows."""


def _weights(value: Any) -> dict[str, float]:
    """Return the weights of terms by their names, each of them a number in its bounds."""
    if not isinstance(value, Mapping):
        raise ValueError("must be a table of weights, such as { tanimoto = 1.0 }")
    if len(value) > MOST_TERMS:
        raise ValueError(
            f"has {len(value):,} terms, and a kernel at most {MOST_TERMS}: each is a matrix between all rows"
        )
    weights = {}
    for name, weight in value.items():
        low, high = BOUNDS["weights"]
        if len(str(name)) > LONGEST_TERM:
            raise ValueError(f"no kernel factor {quoted(name)}: it has {len(name):,} characters")
        if not is_number(weight) or not low <= weight <= high:
            raise ValueError(
                f"the weight of {quoted(name)} must be a number from {low:g} to {high:g}, not {quoted(weight)}"
            )
        weights[name] = float(weight)
    return weights


Weights = Annotated[dict[str, float], BeforeValidator(_weights)]


class KernelModelConfig(StageConfig):
    """A model on a composite kernel: targets transformed and reduced to principal components, each solved on it.

    Component j, with singular value s_j, is divided by its root mean square s_j/√n and has the penalty
    λ_j = `penalty` · (s_1/s_j)^`penalty_growth` ("ridge": λ; engines with a tube: C = 1/λ, and `epsilon` in units of
    the component's root mean square). With `targets` = "genes" the transformed genes are solved as they are, each with
    `penalty`, and components serve the response profiles only. Row i has the noise h_i ∝ (|a_i|²)^`noise_exponent`, a_i
    its scores: strong responses vary more. h multiplies the penalty. `context_weights` are terms that a run adds to
    `weights` where its training rows differ in dose or time (`in_contexts`); the factors `dose` and `time` compare
    them over `dose_length` and `time_length` decades.
    """

    weights: Weights
    context_weights: Weights = Field(default_factory=dict)
    profile_shrinkage: Annotated[float, bounded(*BOUNDS["profile_shrinkage"], "it counts rows")] = 1.0
    dose_length: Annotated[float, bounded(*BOUNDS["dose_length"], "it counts decades")] = DOSE_LENGTH
    time_length: Annotated[float, bounded(*BOUNDS["time_length"], "it counts decades")] = TIME_LENGTH
    transform: TransformName = "asinh"
    transform_scale: Annotated[float, bounded(*BOUNDS["transform_scale"], "it counts root mean squares")] = (
        2.0
    )
    n_components: Annotated[int, bounded(1, MOST_COMPONENTS)] = 120
    targets: Literal["components", "genes"] = "components"
    engine: Annotated[str, named()] = "ridge"
    penalty: Annotated[float, bounded(*BOUNDS["penalty"], FAR)] = 1.5
    penalty_growth: Annotated[float, bounded(*BOUNDS["penalty_growth"], "it is an exponent")] = 1.0
    epsilon: Annotated[float, bounded(*BOUNDS["epsilon"], "components have size 1")] = 0.0
    noise_exponent: Annotated[float, bounded(0.0, 1.0)] = 0.0
    tol: Annotated[float, bounded(1e-12, 1.0, "it is a share of what a solution may be off")] = 1e-3
    max_iter: Annotated[int | None, bounded(1, 1_000_000_000, optional=True)] = None

    @model_validator(mode="after")
    def _usable(self, info: ValidationInfo) -> Self:
        CompositeKernel(self.weights)
        twice = sorted(set(self.weights) & set(self.context_weights))
        if twice:
            raise ValueError(f"{twice[0]!r} is both in weights and in context_weights: leave one of them out")
        named = CompositeKernel(self.weights | self.context_weights).encoders
        for encoder in named if from_file(info.context) else ():
            if encoder != MOLECULES:
                refuse_foreign(encoder)
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
        return CompositeKernel(self.weights, self.profile_shrinkage, self.dose_length, self.time_length)

    @property
    def space(self) -> TargetSpace:
        """The space of the targets, not learnt yet."""
        return TargetSpace(
            self.n_components, self.transform, self.transform_scale, centre=True, products="float32"
        )

    def with_molecules(self, encoder: str) -> Self:
        """Return the settings with `encoder` for rbf(molecules)."""
        named = {
            "weights": renamed(self.weights, encoder),
            "context_weights": renamed(self.context_weights, encoder),
        }
        return self.model_copy(update=named)

    def in_contexts(self) -> Self:
        """Return the settings for training rows that differ in dose or time: `context_weights` among the `weights`."""
        weights = dict(self.weights)
        for name, weight in self.context_weights.items():  # `with_molecules` may have made two products one
            weights[name] = weights.get(name, 0.0) + weight
        return self.model_copy(update={"weights": weights, "context_weights": {}})


class CompositeMember(Member):
    """A member of two models on composite kernels.

    `known_compounds` predicts pairs whose compound was measured in another context: in another cell type, so that it
    has a response profile, or where training rows differ in them at another dose or time. All others are predicted by
    `new_compounds`, whose kernel therefore has no profiles in it.
    """

    kind: Literal["composite"] = "composite"
    known_compounds: KernelModelConfig
    new_compounds: KernelModelConfig

    @model_validator(mode="before")
    @classmethod
    def _old_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and "known" in values:
            raise ValueError(f"known is called known_compounds now; {REMEDY}")
        return values

    @model_validator(mode="after")
    def _no_profiles_of_new_compounds(self) -> Self:
        if self.new_compounds.in_contexts().kernel.of_profiles:
            raise ValueError(
                f"{self.name}: new_compounds is for pairs without a response profile, so its weights cannot have one"
            )
        return self

    @property
    def default_name(self) -> str:
        """The kind's name."""
        return "composite"

    @property
    def models(self) -> tuple[KernelModelConfig, KernelModelConfig]:
        """The settings of both models, `known_compounds` first."""
        return self.known_compounds, self.new_compounds

    @property
    def encoders(self) -> list[str]:
        """The molecule encoders whose features `Rows.molecules` must hold."""
        named = {name for model in self.models for name in model.kernel.encoders}
        return sorted(name for name in named if not fitted_in_fold(name))

    def with_molecules(self, encoder: str) -> Self:
        """Return the member with `encoder` for rbf(molecules)."""
        known, new = (model.with_molecules(encoder) for model in self.models)
        return self.model_copy(update={"known_compounds": known, "new_compounds": new})

    def in_contexts(self, columns: Sequence[str]) -> Self:
        """Return the member for training rows that differ in dose or time."""
        known, new = (model.in_contexts() for model in self.models)
        return self.model_copy(update={"known_compounds": known, "new_compounds": new})

    def without_molecules(self) -> Self:
        """Return the member with identity of compounds where a kernel compares molecules."""
        return self.with_molecules(NONE)

    def engine_choice(self, Y: Float32, device: DeviceName) -> str:
        """Return which engine solves `known_compounds`, and why."""
        known, _ = (choose_engine(model.engine, to_device(Y[:1], device)) for model in self.models)
        return f"{known.engine.name} ({known.reason})"

    def side_by_side(self, n: int) -> bool:
        """Say whether fits run side by side: those by a factorisation do, with small Gram matrices and one thread."""
        return n <= ITERATES_FROM and all(model.engine == "ridge" for model in self.models)

    def prepare(self, data: TrainingSet) -> "CompositeFits":
        """Return its fits, which share what kernels compare and no target enters (numbers, similarities)."""
        return CompositeFits(self, data)

    def model_from_state(self, reader: StateReader) -> "CompositeModel":
        """Make a fitted model of its state."""
        known = KernelModel.from_state(self.known_compounds, reader.part("known_compounds"))
        new = KernelModel.from_state(self.new_compounds, reader.part("new_compounds"))
        if known.space.unit_.shape != new.space.unit_.shape:
            raise reader.fault("the two models have different numbers of targets")
        return CompositeModel(self.encoders, known, new)


@dataclass(frozen=True, eq=False)
class KernelModel:
    """A fitted model on a composite kernel, of n training rows.

    Attributes
    ----------
    space : TargetSpace
    kernel : LearntKernel
    dual_coef : ndarray of float32, (n, q) or, solved by genes, (n, t)
        u_j β_j.
    intercept : ndarray of float32, (q,) or (t,)
        u_j b_j.
    by_genes : bool
        Whether genes were solved, not components.
    """

    space: TargetSpace
    kernel: LearntKernel
    dual_coef: Float32
    intercept: Float32
    by_genes: bool

    def predict(self, pairs: Pairs) -> Float32:
        """Return the predictions of pairs, (m, t) float32; a pair's do not depend on the others, to rounding."""
        rows = np.arange(len(pairs))
        return Compact(len(pairs), len(self.space.unit_), [self.part(pairs, rows)]).dense()

    def scores(self, pairs: Pairs) -> Float32:
        """Return the scores of pairs, (m, q) float32; solved by genes their z, (m, t)."""
        found = np.empty((len(pairs), len(self.intercept)), dtype=np.float32)
        for start in range(0, len(pairs), ROWS_AT_ONCE):
            some = np.arange(start, min(start + ROWS_AT_ONCE, len(pairs)))
            K = self.kernel.between(pairs.take(some), np.empty(0))
            found[some] = (K @ self.dual_coef.astype(np.float64)).astype(np.float32) + self.intercept
        return found

    def part(self, pairs: Pairs, rows: Indices) -> Part:
        """Return the predictions of some of the pairs, as scores where components were solved."""
        scores = self.scores(pairs.take(rows))
        return Part(rows, self.space.back(scores)) if self.by_genes else Part(rows, scores, self.space)

    def state(self) -> State:
        """Return what was learnt."""
        return {
            "space": self.space.state(),
            "kernel": self.kernel.state(),
            "dual_coef": self.dual_coef,
            "intercept": self.intercept,
        }

    @classmethod
    def from_state(cls, config: KernelModelConfig, reader: StateReader) -> "KernelModel":
        """Make it of its state; InputError where that is damaged."""
        space = config.space.restore(reader.part("space"))
        kernel = LearntKernel.from_state(config.kernel, reader.part("kernel"))
        by_genes = config.targets == "genes"
        width = len(space.unit_) if by_genes else len(space.singular_values)
        dual_coef = reader.array("dual_coef", np.float32, (len(kernel.rows), width))
        return cls(space, kernel, dual_coef, reader.array("intercept", np.float32, (width,)), by_genes)


@dataclass(frozen=True, eq=False)
class CompositeModel:
    """Both models of a member, `known_compounds` and `new_compounds`."""

    encoders: Sequence[str]
    known_compounds: KernelModel
    new_compounds: KernelModel

    def predict(self, rows: Rows) -> Float32:
        """Return the predictions of rows, (m, t) float32; a row's do not depend on the others, to rounding."""
        pairs = Pairs.of(rows, self.encoders)
        return _by_model(pairs, self.known_compounds, lambda: self.new_compounds).dense()

    def state(self) -> State:
        """Return what both have learnt."""
        return {"known_compounds": self.known_compounds.state(), "new_compounds": self.new_compounds.state()}


class CompositeFits(Fits[CompositeMember]):
    """Fits of both models; `new_compounds` is fitted for a prediction only where a pair needs it."""

    def __init__(self, member: CompositeMember, data: TrainingSet) -> None:
        super().__init__(member, data)
        self._pairs = Pairs.of(data.rows, member.encoders)

    def fit(self, training: Indices) -> CompositeModel:
        """Fit to some rows."""
        return CompositeModel(
            self.member.encoders, *(self._fitted(config, training) for config in self.member.models)
        )

    def fit_predict(self, training: Indices, groups: Sequence[Indices]) -> list[Float32]:
        """Return the predictions of groups of rows by a fit to some others."""
        return [found.dense() for found in self.fit_compact(training, groups)]

    def fit_compact(self, training: Indices, groups: Sequence[Indices]) -> list[Compact]:
        """Return the same predictions, as scores of components."""
        known = self._fitted(self.member.known_compounds, training)
        made: list[KernelModel] = []

        def new_compounds() -> KernelModel:
            if not made:
                made.append(self._fitted(self.member.new_compounds, training))
            return made[0]

        return [_by_model(self._pairs.take(group), known, new_compounds) for group in groups]

    def _fitted(self, config: KernelModelConfig, training: Indices) -> KernelModel:
        weight = None if self.data.weight is None else self.data.weight[training]
        return fit_kernel_model(
            config, self._pairs.take(training), self.data.targets(training), self.data.device, weight
        )


Learnt = tuple[TargetSpace, Array, Array]
"""A learnt space of targets, the centred training targets z and their scores (`TargetSpace.learn`)."""


def learn_space(config: KernelModelConfig, Y: Array) -> Learnt:
    """Learn the space of training targets `Y` (n, t), float32, in their library and on their device."""
    space = config.space
    return space, *space.learn(Y)


def fit_kernel_model(
    config: KernelModelConfig,
    pairs: Pairs,
    Y: Float32,
    device: DeviceName,
    weight: Float64 | None = None,
    learn: Callable[[KernelModelConfig, Array], Learnt] = learn_space,
) -> KernelModel:
    """Fit one model on its composite kernel.

    Parameters
    ----------
    config : KernelModelConfig
    pairs : Pairs
        n training rows.
    Y : ndarray of float32, (n, t)
    device : str
        Where the Gram matrix is made and solved.
    weight : ndarray of float64, (n,), optional
        What each row counts; all alike by default.
    learn : callable
        `learn_space`, or what has kept its result; of z it then reads the place, and with targets = "genes" the
        values.

    Raises
    ------
    InputError
        There is no such engine, a Gram matrix of n rows does not fit in memory, or the rows lack what the kernel
        compares.
    UnavailableError
        The engine cannot run here.
    """
    space, z, reduced = learn(config, to_device(Y, device))
    if not len(space.singular_values):
        raise InputError("all training rows have the same targets: there is nothing to learn")
    require_room(z, len(pairs), len(pairs), choose_engine(config.engine, z).engine.work_bytes)
    scores, singular = to_host(reduced).astype(np.float64), space.singular_values
    learnt = config.kernel.learn(pairs, scores)
    by_genes = config.targets == "genes"
    unit = np.ones(Y.shape[1]) if by_genes else singular / np.sqrt(len(Y))
    growth = np.ones(len(unit)) if by_genes else (singular[0] / singular) ** config.penalty_growth
    targets = z if by_genes else to_device(scores / unit, device)
    solution = solve_duals(
        learnt.gram(targets),
        targets,
        C=1 / (config.penalty * growth),
        epsilon=config.epsilon,
        tol=config.tol,
        max_iter=config.max_iter,
        engine_name=config.engine,
        sample_weight=(1 if weight is None else weight) / row_noise(scores, config.noise_exponent),
    )
    dual_coef, intercept = (to_host(x) * unit for x in (solution.dual_coef, solution.intercept))
    return KernelModel(space, learnt, dual_coef.astype(np.float32), intercept.astype(np.float32), by_genes)


def row_noise(scores: Float64, exponent: float) -> Float64:
    """Return h ∝ (|a_i|² + LEAST_NOISE · mean |a|²)^exponent of rows of scores (n, q), of geometric mean 1, (n,)."""
    squares = np.einsum("ij,ij->i", scores, scores)
    mean = float(squares.mean())
    if not exponent or mean == 0:
        return np.ones(len(scores))
    noise = (squares / mean + LEAST_NOISE) ** exponent
    return np.asarray(noise / np.exp(np.log(noise).mean()), dtype=np.float64)


def _by_model(pairs: Pairs, known: KernelModel, new_compounds: Callable[[], KernelModel]) -> Compact:
    """Return the predictions of each pair by its model; `new_compounds()` is called where a pair needs it."""
    served = known.kernel.is_known(pairs)
    known_pairs, new_pairs = np.flatnonzero(served), np.flatnonzero(~served)
    parts = [known.part(pairs, known_pairs)] if len(known_pairs) else []
    parts += [new_compounds().part(pairs, new_pairs)] if len(new_pairs) else []
    return Compact(len(pairs), len(known.space.unit_), parts)
