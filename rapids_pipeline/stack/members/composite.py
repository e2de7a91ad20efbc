"""A member of two models on composite kernels (`rapids_pipeline.stack.members.kernel_model`).

`known_compounds` is for pairs whose compound was measured in another cell type, so that it has a response profile, and
`new_compounds` for all others. Where the training rows differ in dose or time, both have the terms of their
`context_weights`, too, and a compound measured at another dose or time is `known_compounds`'.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from pydantic import model_validator

from features.molecules import NONE, fitted_in_fold
from features.rows import Pairs, Rows
from rapids_pipeline.backend.arrays import Float32, Float64, Indices, to_device
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.state import State, StateReader
from rapids_pipeline.stack.members.kernel_model import KernelModel, KernelModelConfig, fit_kernel_model
from rapids_pipeline.stack.members.member import REMEDY, Fits, Member, TrainingSet
from rapids_pipeline.stack.target_space import Compact
from rapids_pipeline.svr.engines import choose_engine
from rapids_pipeline.svr.kernel_ridge import ITERATES_FROM


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
        iterates = known.engine.name == "ridge" and len(Y) >= ITERATES_FROM
        how = f"; by conjugate gradients from {ITERATES_FROM:,} rows" if iterates else ""
        return f"{known.engine.name} ({known.reason}{how})"

    def side_by_side(self, n: int) -> bool:
        """Say whether fits run side by side: those by a factorisation do, with small Gram matrices and one thread."""
        return n <= ITERATES_FROM and all(model.engine == "ridge" for model in self.models)

    def notes(self, model: Any) -> list[str]:
        """Return which models are solved on landmarks, and how much of their kernels these keep."""
        parts = {"known_compounds": model.known_compounds, "new_compounds": model.new_compounds}
        return [
            f"{self.name}: {name} is solved on {len(part.landmarks):,} of {len(part.kernel.rows):,} rows, since the "
            f"Gram matrix of all is too large for the memory; they keep {1 - part.left:.2%} of the kernel's trace"
            for name, part in parts.items()
            if part.landmarks is not None
        ]

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
class CompositeModel:
    """Both models of a member, `known_compounds` and `new_compounds`."""

    encoders: Sequence[str]
    known_compounds: KernelModel
    new_compounds: KernelModel

    @property
    def models(self) -> tuple[KernelModel, KernelModel]:
        """Both models, `known_compounds` first."""
        return self.known_compounds, self.new_compounds

    def predict(self, rows: Rows) -> Float32:
        """Return the predictions of rows, (m, t) float32; a row's do not depend on the others, to rounding."""
        pairs = Pairs.of(rows, self.encoders)
        return _by_model(pairs, self.known_compounds, lambda: self.new_compounds).dense()

    def drivers(self, row: Rows, gene: int | None = None) -> tuple[Indices, Float64, float]:
        """Return which training rows drive the prediction of one row, and how much.

        The transformed prediction is z = μ + (Σ_i k_i β_i + b) V. Row i contributes what k_i β_i V adds to a gene's z;
        or to all genes, k_i β_i · s / |s|, its part along s = Σ_i k_i β_i + b.

        Parameters
        ----------
        row : Rows
            One row.
        gene : int, optional
            The gene; by default all of them.

        Returns
        -------
        rows : ndarray of int, (s,)
            Training rows, in their order.
        contributions : ndarray of float64, (s,)
        rest : float
            What b contributes, and for a gene μ: with it the contributions sum to z_gene, or to |s|.
        """
        pair = Pairs.of(row, self.encoders)
        model = self.known_compounds if self.known_compounds.kernel.is_known(pair)[0] else self.new_compounds
        products, b = model.products(pair), model.intercept.astype(np.float64)
        if gene is None:
            s = products.sum(axis=0) + b
            along, offset = s / (np.linalg.norm(s) or 1.0), 0.0
        else:
            along, offset = model.space.direction(gene, model.by_genes)
        rows = np.arange(len(model.kernel.rows)) if model.landmarks is None else model.landmarks
        return rows, products @ along, float(b @ along) + offset

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


def _by_model(pairs: Pairs, known: KernelModel, new_compounds: Callable[[], KernelModel]) -> Compact:
    """Return the predictions of each pair by its model; `new_compounds()` is called where a pair needs it."""
    served = known.kernel.is_known(pairs)
    known_pairs, new_pairs = np.flatnonzero(served), np.flatnonzero(~served)
    parts = [known.part(pairs, known_pairs)] if len(known_pairs) else []
    parts += [new_compounds().part(pairs, new_pairs)] if len(new_pairs) else []
    return Compact(len(pairs), len(known.space.unit_), parts)
