r"""A model on a composite kernel: targets transformed, reduced to components, solved on one Gram matrix.

With z = T(y) − μ the centred transformed targets and A Vᵀ ≈ Z their leading components
(`rapids_pipeline.stack.target_space`), component j is solved as a_j / u_j, u_j = s_j/√n, by an engine of
`rapids_pipeline.svr.engines` on K = `LearntKernel.gram`; a new pair gets

    ŷ = T⁻¹( μ + Σ_j u_j (k β_j + b_j) V_j ),   k = K(pair, training rows)

One K serves all genes, so a fit takes one factorisation however many genes there are. Whatever is learnt (μ, V, S of
the kernel, profiles, scales) is learnt from the training rows of the fit. By "ridge", K is float32 from `ITERATES_FROM`
rows. Where it does not fit in memory (`rapids_pipeline.stack.room`), the sum is over landmarks
(`rapids_pipeline.svr.nystroem`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from features.molecules import refuse_foreign
from features.rows import Pairs
from rapids_pipeline.backend.arrays import (
    Array,
    Float32,
    Float64,
    Indices,
    namespace,
    to_device,
    to_host,
)
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.errors import InputError, quoted
from rapids_pipeline.backend.files import from_file
from rapids_pipeline.backend.settings import bounded, is_number, named
from rapids_pipeline.backend.state import State, StateReader
from rapids_pipeline.kernels.composite import CompositeKernel, LearntKernel
from rapids_pipeline.kernels.response_profiles import DOSE_LENGTH, TIME_LENGTH
from rapids_pipeline.kernels.terms import MOLECULES, renamed
from rapids_pipeline.stack.compact import Compact, Part
from rapids_pipeline.stack.members.member import MOST_COMPONENTS, StageConfig
from rapids_pipeline.stack.members.svr import FAR, NO_TUBE
from rapids_pipeline.stack.target_space import SCALES, TargetSpace, TransformName
from rapids_pipeline.svr import nystroem
from rapids_pipeline.svr.dual import require_room
from rapids_pipeline.svr.engines import choose_engine, solve_duals
from rapids_pipeline.svr.kernel_ridge import ITERATES_FROM

LEAST_NOISE = 1e-3
"""Part of the rows' mean square that is added to each row's before noise is made of it."""

WEIGHTS = (0.0, 1e6)
"""From the smallest to the largest weight of a term; a search stays within them, too."""
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
        low, high = WEIGHTS
        if len(str(name)) > LONGEST_TERM:
            raise ValueError(f"no kernel factor {quoted(name)}: it has {len(name):,} characters")
        if not is_number(weight) or not low <= weight <= high:
            raise ValueError(
                f"the weight of {quoted(name)} must be a number from {low:g} to {high:g}, not {quoted(weight)}"
            )
        weights[name] = float(weight)
    return weights


Weights = Annotated[dict[str, float], BeforeValidator(_weights)]


def refuse_foreign_terms(weights: Mapping[str, float], info: ValidationInfo) -> None:
    """Raise ValueError where a term is none, or one of a file reads weights that the file's user has not named."""
    named = CompositeKernel(weights).encoders
    for encoder in named if from_file(info.context) else ():
        if encoder != MOLECULES:
            refuse_foreign(encoder)


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
    profile_shrinkage: Annotated[float, bounded(0.0, 1e6, "it counts rows")] = 1.0
    dose_length: Annotated[float, bounded(1e-3, 1e3, "it counts decades")] = DOSE_LENGTH
    time_length: Annotated[float, bounded(1e-3, 1e3, "it counts decades")] = TIME_LENGTH
    transform: TransformName = "asinh"
    transform_scale: Annotated[float, bounded(*SCALES, "it counts root mean squares")] = 2.0
    n_components: Annotated[int, bounded(1, MOST_COMPONENTS)] = 120
    targets: Literal["components", "genes"] = "components"
    engine: Annotated[str, named()] = "ridge"
    penalty: Annotated[float, bounded(1e-8, 1e8, FAR)] = 1.5
    penalty_growth: Annotated[float, bounded(0.0, 10.0, "it is an exponent")] = 1.0
    epsilon: Annotated[float, bounded(0.0, 1e6, "components have size 1")] = 0.0
    noise_exponent: Annotated[float, bounded(0.0, 1.0)] = 0.0
    tol: Annotated[float, bounded(1e-12, 1.0, "it is a share of what a solution may be off")] = 1e-3
    max_iter: Annotated[int | None, bounded(1, 1_000_000_000, optional=True)] = None

    @model_validator(mode="after")
    def _usable(self, info: ValidationInfo) -> Self:
        CompositeKernel(self.weights)
        twice = sorted(set(self.weights) & set(self.context_weights))
        if twice:
            raise ValueError(f"{twice[0]!r} is both in weights and in context_weights: leave one of them out")
        refuse_foreign_terms(self.weights | self.context_weights, info)
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


@dataclass(frozen=True, eq=False)
class KernelModel:
    """A fitted model on a composite kernel, of n training rows.

    Attributes
    ----------
    space : TargetSpace
    kernel : LearntKernel
    dual_coef : ndarray of float32, (n, q) or, solved by genes, (n, t)
        u_j β_j; on landmarks (s, q) or (s, t).
    intercept : ndarray of float32, (q,) or (t,)
        u_j b_j.
    by_genes : bool
        Whether genes were solved, not components.
    landmarks : ndarray of int, (s,), optional
        The training rows that it is a sum over (`rapids_pipeline.svr.nystroem`); by default all of them.
    left : float
        Share of the kernel's trace that landmarks leave.
    noise : ndarray of float64, (n,), optional
        What multiplies the penalty of each row: h_i over the row's sample weight. Older models have not kept it.
    """

    space: TargetSpace
    kernel: LearntKernel
    dual_coef: Float32
    intercept: Float32
    by_genes: bool
    landmarks: Indices | None = None
    left: float = 0.0
    noise: Float64 | None = None

    def predict(self, pairs: Pairs) -> Float32:
        """Return the predictions of pairs, (m, t) float32; a pair's do not depend on the others, to rounding."""
        rows = np.arange(len(pairs))
        return Compact(len(pairs), len(self.space.unit_), [self.part(pairs, rows)])[:]

    def scores(self, pairs: Pairs) -> Float32:
        """Return the scores of pairs, (m, q) float32; solved by genes their z, (m, t)."""
        return self.kernel.products(pairs, self.dual_coef.astype(np.float64), self.landmarks) + self.intercept

    def products(self, pair: Pairs) -> Float64:
        """Return k_i β_i of every training row (or landmark) for one pair, (s, q) or (s, t): its scores less b."""
        k = self.kernel.between(pair, np.empty(0), self.landmarks)[0]
        return np.asarray(k[:, None] * self.dual_coef.astype(np.float64))

    def part(self, pairs: Pairs, rows: Indices) -> Part:
        """Return the predictions of some of the pairs, as scores where components were solved."""
        scores = self.scores(pairs.take(rows))
        return Part(rows, self.space.back(scores)) if self.by_genes else Part(rows, scores, self.space)

    def state(self) -> State:
        """Return what was learnt."""
        found: State = {
            "space": self.space.state(),
            "kernel": self.kernel.state(),
            "dual_coef": self.dual_coef,
            "intercept": self.intercept,
            **({} if self.noise is None else {"noise": self.noise}),
        }
        if self.landmarks is None:
            return found
        return {**found, "landmarks": self.landmarks.astype(np.int32), "left": self.left}

    @classmethod
    def from_state(cls, config: KernelModelConfig, reader: StateReader) -> "KernelModel":
        """Make it of its state; InputError where that is damaged."""
        space = config.space.restore(reader.part("space"))
        kernel = LearntKernel.from_state(config.kernel, reader.part("kernel"))
        by_genes = config.targets == "genes"
        width = len(space.unit_) if by_genes else len(space.singular_values)
        intercept = reader.array("intercept", np.float32, (width,))
        n, names = len(kernel.rows), reader.names()
        noise = reader.array("noise", np.float64, (n,)) if "noise" in names else None
        if noise is not None and not (noise > 0).all():
            raise reader.fault("the noise of a training row is not above 0")
        landmarks, left = None, 0.0
        if "landmarks" in names:
            landmarks, left = reader.codes("landmarks", (None,), n).astype(np.intp), reader.number("left")
        dual_coef = reader.array("dual_coef", np.float32, (n if landmarks is None else len(landmarks), width))
        return cls(space, kernel, dual_coef, intercept, by_genes, landmarks, left, noise)


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
    on_landmarks: bool = False,
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
        `learn_space`, or what has kept its result; z is read with targets = "genes" alone.
    on_landmarks : bool
        Whether "ridge" is solved on landmarks where there are many rows (`rapids_pipeline.stack.room`).

    Raises
    ------
    InputError
        There is no such engine, a Gram matrix of n rows does not fit in memory, or the rows lack what the kernel
        compares.
    UnavailableError
        The engine cannot run here.
    """
    n, t = Y.shape
    space, z, reduced = learn(config, to_device(Y, device))
    if not len(space.singular_values):
        raise InputError("all training rows have the same targets: there is nothing to learn")
    iterates = config.engine == "ridge" and n >= ITERATES_FROM
    if not iterates:
        require_room(reduced, n, n, choose_engine(config.engine, reduced).engine.work_bytes)
    scores, singular = to_host(reduced).astype(np.float64), space.singular_values
    learnt = config.kernel.learn(pairs, scores)
    by_genes = config.targets == "genes"
    unit = np.ones(t) if by_genes else singular / np.sqrt(n)
    growth = np.ones(len(unit)) if by_genes else (singular[0] / singular) ** config.penalty_growth
    targets = z if by_genes else to_device(scores / unit, device)
    counts = (1 if weight is None else weight) / row_noise(scores, config.noise_exponent)
    del Y, z  # which may be as large as K
    how = {"single": iterates, "on_landmarks": iterates and on_landmarks}
    made = _solved(config, learnt, targets, config.penalty * growth, counts, **how)
    coef, intercept = ((to_host(x) * unit).astype(np.float32) for x in (made.coef, made.intercept))
    return KernelModel(space, learnt, coef, intercept, by_genes, made.landmarks, made.left, 1 / counts)


class _Solved(NamedTuple):
    """Coefficients of the training rows, or of landmarks among them, of every target; and what landmarks leave."""

    coef: Array
    intercept: Array
    landmarks: Indices | None = None
    left: float = 0.0


def _solved(
    config: KernelModelConfig,
    learnt: LearntKernel,
    targets: Array,
    penalty: Float64,
    counts: Float64,
    *,
    single: bool,
    on_landmarks: bool,
) -> _Solved:
    """Solve targets (n, q) on a Gram matrix of float64 or `single` precision, or on landmarks."""
    dtype = namespace(targets).float32 if single else None
    if on_landmarks:
        made = nystroem.solve(
            lambda rows: learnt.between(learnt.rows, targets, rows, dtype),
            learnt.diagonal(targets),
            targets,
            penalty=penalty,
            weight=counts,
        )
        return _Solved(made.coef, made.intercept, made.landmarks, made.left)
    solution = solve_duals(
        learnt.gram(targets, dtype),
        targets,
        C=1 / penalty,
        epsilon=config.epsilon,
        tol=config.tol,
        max_iter=config.max_iter,
        engine_name=config.engine,
        sample_weight=counts,
    )
    return _Solved(solution.dual_coef, solution.intercept)


def row_noise(scores: Float64, exponent: float) -> Float64:
    """Return h ∝ (|a_i|² + LEAST_NOISE · mean |a|²)^exponent of rows of scores (n, q), of geometric mean 1, (n,)."""
    squares = np.einsum("ij,ij->i", scores, scores)
    mean = float(squares.mean())
    if not exponent or mean == 0:
        return np.ones(len(scores))
    noise = (squares / mean + LEAST_NOISE) ** exponent
    return np.asarray(noise / np.exp(np.log(noise).mean()), dtype=np.float64)
