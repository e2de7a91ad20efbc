r"""Kernel machines on composite kernels: targets transformed, reduced to components, solved on one Gram matrix.

With z = T(y) the transformed targets (`rapids_pipeline.stack.target_transforms`), μ their mean over the training rows
and Z − μ ≈ A Vᵀ its leading principal components, component j is solved as a_j / u_j, u_j = s_j/√n, by an engine of
`rapids_pipeline.svr.engines` on K = `LearntKernel.gram`; a new pair gets

    ŷ = T⁻¹( μ + Σ_j u_j (k β_j + b_j) V_j ),   k = K(pair, training rows)

All machines share one K for all genes, so a fit takes one factorisation however many genes there are. Whatever is
learnt (μ, V, S of the kernel, profiles, scales) is learnt from the training rows of the fit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.reduction import TruncatedSVD
from features.rows import Pairs, Rows
from rapids_pipeline.backend.arrays import Array, namespace, to_device, to_host
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import State, StateReader
from rapids_pipeline.kernels.composite import LearntKernel
from rapids_pipeline.stack.recipe import KernelConfig, MachineConfig
from rapids_pipeline.stack.target_transforms import TargetTransform
from rapids_pipeline.svr.engines import choose_engine, solve_duals
from rapids_pipeline.svr.gram import require_room

Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]

LEAST_NOISE = 1e-3
"""Part of the rows' mean square that is added to each row's before noise is made of it."""
ROWS_AT_ONCE = 1024
"""Rows predicted at once."""


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components of transformed targets, learnt from n training rows of t targets.

    Attributes
    ----------
    transform : TargetTransform
    mean : ndarray of float32, (t,)
        μ.
    directions : ndarray of float32, (q, t)
        Vᵀ.
    """

    transform: TargetTransform
    mean: Matrix
    directions: Matrix

    @classmethod
    def learn(cls, config: MachineConfig, Y: Array) -> tuple["Components", Array, Floats, Floats]:
        """Learn from training targets (n, t), float32, in their library and on their device.

        Returns
        -------
        components : Components
        centred : array, (n, t)
            Z − μ, in the library of Y.
        scores : ndarray of float64, (n, q)
            A, on the host.
        singular_values : ndarray of float64, (q,)
        """
        xp = namespace(Y)
        transform = TargetTransform(config.transform, config.transform_scale).fit(Y)
        z = transform.forward(Y)
        mean = xp.astype(xp.sum(z, axis=0, dtype=xp.float64) / Y.shape[0], z.dtype)
        z -= mean[None, :]
        svd = TruncatedSVD(config.n_components, products="float32").fit(z)
        if not len(svd.singular_values_):
            raise InputError("all training rows have the same targets: there is nothing to learn")
        directions = np.asarray(to_host(svd.components_), dtype=np.float32)
        scores = to_host(svd.transform(z)).astype(np.float64)
        values = to_host(svd.singular_values_).astype(np.float64)
        return cls(transform, to_host(mean).astype(np.float32), directions), z, scores, values

    def state(self) -> State:
        """Return what was learnt."""
        return {"transform": self.transform.state(), "mean": self.mean, "directions": self.directions}

    @classmethod
    def from_state(cls, config: MachineConfig, reader: StateReader) -> "Components":
        """Make them of their state; InputError where it is damaged."""
        mean = reader.array("mean", np.float32, (None,))
        directions = reader.array("directions", np.float32, (None, len(mean)))
        transform = TargetTransform(config.transform, config.transform_scale)
        return cls(transform.restore(reader.part("transform"), len(mean)), mean, directions)


@dataclass(frozen=True, eq=False)
class FittedMachine:
    """A kernel machine of n training rows.

    Attributes
    ----------
    components : Components
    kernel : LearntKernel
    dual_coef : ndarray of float32, (n, q) or, solved by genes, (n, t)
        u_j β_j.
    intercept : ndarray of float32, (q,) or (t,)
        u_j b_j.
    by_genes : bool
        Whether genes were solved, not components.
    """

    components: Components
    kernel: LearntKernel
    dual_coef: Matrix
    intercept: Matrix
    by_genes: bool

    def predict(self, pairs: Pairs) -> Matrix:
        """Return the predictions of pairs, (m, t) float32; a pair's do not depend on the others."""
        predicted = np.empty((len(pairs), len(self.components.mean)), dtype=np.float32)
        for start in range(0, len(pairs), ROWS_AT_ONCE):
            some = np.arange(start, min(start + ROWS_AT_ONCE, len(pairs)))
            K = self.kernel.between(pairs.take(some), np.empty(0))
            z = (K @ self.dual_coef.astype(np.float64)).astype(np.float32) + self.intercept
            if not self.by_genes:
                z = z @ self.components.directions
            predicted[some] = self.components.transform.back(z + self.components.mean)
        return predicted

    def state(self) -> State:
        """Return what was learnt."""
        return {
            "components": self.components.state(),
            "kernel": self.kernel.state(),
            "dual_coef": self.dual_coef,
            "intercept": self.intercept,
        }

    @classmethod
    def from_state(cls, config: MachineConfig, reader: StateReader) -> "FittedMachine":
        """Make it of its state; InputError where that is damaged."""
        components = Components.from_state(config, reader.part("components"))
        kernel = LearntKernel.from_state(config.kernel, reader.part("kernel"))
        by_genes = config.targets == "genes"
        width = components.directions.shape[1 if by_genes else 0]
        dual_coef = reader.array("dual_coef", np.float32, (len(kernel.rows), width))
        return cls(components, kernel, dual_coef, reader.array("intercept", np.float32, (width,)), by_genes)


@dataclass(frozen=True, eq=False)
class CompositeModel:
    """The two machines of a member: pairs with a response profile are `known`'s, all others `new_compounds`'."""

    encoders: Sequence[str]
    known: FittedMachine
    new_compounds: FittedMachine

    def predict(self, rows: Rows) -> Matrix:
        """Return the predictions of rows, (m, t) float32; a row's do not depend on the others."""
        pairs = Pairs.of(rows, self.encoders)
        return _by_profile(pairs, self.known, lambda: self.new_compounds)

    def state(self) -> State:
        """Return what the machines have learnt."""
        return {"known": self.known.state(), "new_compounds": self.new_compounds.state()}

    @classmethod
    def from_state(cls, config: KernelConfig, reader: StateReader) -> "CompositeModel":
        """Make it of its state; InputError where that is damaged."""
        known = FittedMachine.from_state(config.known, reader.part("known"))
        new = FittedMachine.from_state(config.new_compounds, reader.part("new_compounds"))
        if known.components.mean.shape != new.components.mean.shape:
            raise reader.fault("the two machines have different numbers of targets")
        return cls(config.encoders, known, new)


def fit_composite(config: KernelConfig, rows: Pairs, Y: Matrix, device: DeviceName) -> CompositeModel:
    """Fit both machines to training rows and their targets (n, t)."""
    machines = (fit_machine(machine, rows, Y, device) for machine in config.machines)
    return CompositeModel(config.encoders, *machines)


def fit_and_predict(
    config: KernelConfig, rows: Pairs, Y: Matrix, groups: Sequence[Pairs], device: DeviceName
) -> list[Matrix]:
    """Return what `fit_composite(…)` predicts for groups of pairs; the second machine is fitted where it is needed."""
    known = fit_machine(config.known, rows, Y, device)
    made: list[FittedMachine] = []

    def new_compounds() -> FittedMachine:
        if not made:
            made.append(fit_machine(config.new_compounds, rows, Y, device))
        return made[0]

    return [_by_profile(group, known, new_compounds) for group in groups]


Reduced = tuple[Components, Array, Floats, Floats]
"""What `Components.learn` returns."""


def fit_machine(
    config: MachineConfig,
    rows: Pairs,
    Y: Matrix,
    device: DeviceName,
    learn: Callable[[MachineConfig, Array], Reduced] = Components.learn,
) -> FittedMachine:
    """Fit one machine.

    Parameters
    ----------
    config : MachineConfig
    rows : Pairs
        n training rows.
    Y : ndarray of float32, (n, t)
    device : str
        Where the Gram matrix is made and solved.
    learn : callable
        `Components.learn`, or what has kept its result; of `centred` it then reads the place, and with targets =
        "genes" the values.

    Raises
    ------
    InputError
        There is no such engine, a Gram matrix of n rows does not fit in memory, or the rows lack what the kernel
        compares.
    UnavailableError
        The engine cannot run here.
    """
    components, centred, scores, singular = learn(config, to_device(Y, device))
    require_room(centred, len(rows), len(rows), choose_engine(config.engine, centred).engine.work_bytes)
    learnt = config.kernel.learn(rows, scores)
    by_genes = config.targets == "genes"
    unit = np.ones(Y.shape[1]) if by_genes else singular / np.sqrt(len(Y))
    growth = np.ones(len(unit)) if by_genes else (singular[0] / singular) ** config.penalty_growth
    targets = centred if by_genes else to_device(scores / unit, device)
    solution = solve_duals(
        learnt.gram(targets),
        targets,
        C=1 / (config.penalty * growth),
        epsilon=config.epsilon,
        tol=config.tol,
        max_iter=config.max_iter,
        engine_name=config.engine,
        sample_weight=1 / row_noise(scores, config.noise_exponent),
    )
    dual_coef, intercept = (to_host(x) * unit for x in (solution.dual_coef, solution.intercept))
    return FittedMachine(
        components, learnt, dual_coef.astype(np.float32), intercept.astype(np.float32), by_genes
    )


def row_noise(scores: Floats, exponent: float) -> Floats:
    """Return h ∝ (|a_i|² + LEAST_NOISE · mean |a|²)^exponent of rows of scores (n, q), of geometric mean 1, (n,)."""
    squares = np.einsum("ij,ij->i", scores, scores)
    mean = float(squares.mean())
    if not exponent or mean == 0:
        return np.ones(len(scores))
    noise = (squares / mean + LEAST_NOISE) ** exponent
    return np.asarray(noise / np.exp(np.log(noise).mean()), dtype=np.float64)


def _by_profile(pairs: Pairs, known: FittedMachine, new_compounds: Any) -> Matrix:
    """Return the predictions of each pair by its machine; `new_compounds()` is called where a pair needs it."""
    profiled = known.kernel.has_profile(pairs)
    predicted = np.empty((len(pairs), len(known.components.mean)), dtype=np.float32)
    for mine, machine in ((profiled, lambda: known), (~profiled, new_compounds)):
        which = np.flatnonzero(mine)
        if len(which):
            predicted[which] = machine().predict(pairs.take(which))
    return predicted
