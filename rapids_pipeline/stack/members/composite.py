"""A member of models on composite kernels (`rapids_pipeline.stack.members.kernel_model`).

    known_compounds     pairs whose compound was measured in another cell type, so that it has a response profile
    atlas_compounds     of the others those whose compound an atlas has: `new_compounds` with the terms of
                        `atlas_weights`, times a strength that evidence chooses (`atlas_strength`)
    new_compounds       all others

So a compound that is absent from the atlas is predicted exactly as without one. Where the training rows differ in dose
or time, the models have the terms of their `context_weights`, too, and a compound measured at another dose or time is
`known_compounds`'.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, ValidationInfo, model_validator

from features.molecules import NONE, fitted_in_fold
from features.rows import Pairs, Rows
from rapids_pipeline.backend.arrays import Float32, Float64, Indices, Mask, to_device
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.state import State, StateReader
from rapids_pipeline.kernels.terms import renamed, terms_of
from rapids_pipeline.stack.compact import Compact
from rapids_pipeline.stack.members.atlas_strength import Strength, choose_strength, in_atlas
from rapids_pipeline.stack.members.kernel_model import (
    KernelModel,
    KernelModelConfig,
    Weights,
    fit_kernel_model,
    refuse_foreign_terms,
)
from rapids_pipeline.stack.members.member import REMEDY, Fits, Member, TrainingSet
from rapids_pipeline.svr.engines import choose_engine
from rapids_pipeline.svr.kernel_ridge import ITERATES_FROM


class CompositeMember(Member):
    """A member of two models on composite kernels, and of a third where there is an atlas.

    `known_compounds` predicts pairs whose compound was measured in another context: in another cell type, so that it
    has a response profile, or where training rows differ in them at another dose or time. All others are predicted by
    `new_compounds`, whose kernel therefore has no profiles in it. `atlas_weights` are terms that new compounds of an
    atlas have besides; `atlas` says that the rows have one (a run with --atlas says so).
    """

    kind: Literal["composite"] = "composite"
    known_compounds: KernelModelConfig
    new_compounds: KernelModelConfig
    atlas_weights: Weights = Field(default_factory=dict)
    atlas: bool = False

    @model_validator(mode="before")
    @classmethod
    def _old_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and "known" in values:
            raise ValueError(f"known is called known_compounds now; {REMEDY}")
        return values

    @model_validator(mode="after")
    def _usable(self, info: ValidationInfo) -> Self:
        if self.new_compounds.in_contexts().kernel.of_profiles:
            raise ValueError(
                f"{self.name}: new_compounds is for pairs without a response profile, so its weights cannot have one"
            )
        terms = terms_of(self.atlas_weights) if self.atlas_weights else ()
        if terms:
            refuse_foreign_terms(self.atlas_weights, info)
        if any(not any(f.of_atlas for f in fs) or any(f.of_profiles for f in fs) for _, fs in terms):
            raise ValueError(
                f"{self.name}: every term of atlas_weights needs a factor atlas_linear or atlas_rbf, and none of "
                "profiles"
            )
        if self.atlas and not terms:
            raise ValueError(f"{self.name}: atlas = true needs atlas_weights, whose terms read it")
        return self

    @property
    def default_name(self) -> str:
        """The kind's name."""
        return "composite"

    @property
    def models(self) -> tuple[KernelModelConfig, KernelModelConfig]:
        """The settings of both models, `known_compounds` first."""
        return self.known_compounds, self.new_compounds

    def atlas_compounds(self, strength: float) -> KernelModelConfig:
        """Return the settings of `new_compounds` with the terms of the atlas, times a strength."""
        weights = dict(self.new_compounds.weights)
        for name, weight in self.atlas_weights.items():
            weights[name] = weights.get(name, 0.0) + strength * weight
        return self.new_compounds.model_copy(update={"weights": weights})

    def fitted(self, model: "CompositeModel") -> tuple[KernelModelConfig, ...]:
        """Return the settings of the models that a fitted one has, in the order of its `serving`."""
        if model.atlas_compounds is None or model.strength is None:
            return self.models
        return *self.models, self.atlas_compounds(model.strength.value)

    @property
    def encoders(self) -> list[str]:
        """The molecule encoders whose features `Rows.molecules` must hold."""
        read = (*self.models, self.atlas_compounds(1.0)) if self.atlas else self.models
        named = {name for model in read for name in model.kernel.encoders}
        return sorted(name for name in named if not fitted_in_fold(name))

    def with_molecules(self, encoder: str) -> Self:
        """Return the member with `encoder` for rbf(molecules)."""
        known, new = (model.with_molecules(encoder) for model in self.models)
        named = {"known_compounds": known, "new_compounds": new}
        return self.model_copy(update=named | {"atlas_weights": renamed(self.atlas_weights, encoder)})

    def with_atlas(self) -> Self:
        """Return the member for rows with an atlas; as it is without `atlas_weights`."""
        return self.model_copy(update={"atlas": bool(self.atlas_weights)})

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
        parts = {
            "known_compounds": model.known_compounds,
            "new_compounds": model.new_compounds,
            "atlas_compounds": model.atlas_compounds,
        }
        of_atlas = [] if model.strength is None else [f"{self.name}: {model.strength.said()}"]
        return of_atlas + [
            f"{self.name}: {name} is solved on {len(part.landmarks):,} of {len(part.kernel.rows):,} rows, since the "
            f"Gram matrix of all is too large for the memory; they keep {1 - part.left:.2%} of the kernel's trace"
            for name, part in parts.items()
            if part is not None and part.landmarks is not None
        ]

    def prepare(self, data: TrainingSet) -> "CompositeFits":
        """Return its fits, which share what kernels compare and no target enters (numbers, similarities)."""
        return CompositeFits(self, data)

    def model_from_state(self, reader: StateReader) -> "CompositeModel":
        """Make a fitted model of its state."""
        known = KernelModel.from_state(self.known_compounds, reader.part("known_compounds"))
        new = KernelModel.from_state(self.new_compounds, reader.part("new_compounds"))
        strength = Strength.from_state(reader.part("strength")) if self.atlas else None
        of_atlas = None
        if strength is not None and strength.value:
            config = self.atlas_compounds(strength.value)
            of_atlas = KernelModel.from_state(config, reader.part("atlas_compounds"))
        if any(model.space.unit_.shape != known.space.unit_.shape for model in (new, of_atlas or new)):
            raise reader.fault("the models have different numbers of targets")
        return CompositeModel(self.encoders, known, new, of_atlas, strength)


@dataclass(frozen=True, eq=False)
class CompositeModel:
    """The models of a member.

    Attributes
    ----------
    encoders : sequence of str
    known_compounds, new_compounds : KernelModel
    atlas_compounds : KernelModel, optional
        None without an atlas, and where its strength is 0.
    strength : Strength, optional
        Of the atlas.
    """

    encoders: Sequence[str]
    known_compounds: KernelModel
    new_compounds: KernelModel
    atlas_compounds: KernelModel | None = None
    strength: Strength | None = None

    def serving(self, pairs: Pairs) -> list[tuple[KernelModel, Mask]]:
        """Return every model with the pairs that it predicts, (m,) bool, in the order of `CompositeMember.fitted`."""
        is_known = self.known_compounds.kernel.is_known(pairs)
        known, new, of_atlas = _served(pairs, is_known, self.atlas_compounds is not None)
        found = [(self.known_compounds, known), (self.new_compounds, new)]
        return found if self.atlas_compounds is None else [*found, (self.atlas_compounds, of_atlas)]

    def predict(self, rows: Rows) -> Float32:
        """Return the predictions of rows, (m, t) float32; a row's do not depend on the others, to rounding."""
        return self.compact(rows)[:]

    def compact(self, rows: Rows) -> Compact:
        """Return the same predictions as scores."""
        pairs, known = Pairs.of(rows, self.encoders), self.known_compounds
        models = (lambda: known), (lambda: self.new_compounds), (lambda: self.atlas_compounds)
        return _by_model(pairs, known.kernel.is_known(pairs), models, len(known.space.unit_))

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
        [model] = [one for one, served in self.serving(pair) if served[0]]
        products, b = model.products(pair), model.intercept.astype(np.float64)
        if gene is None:
            s = products.sum(axis=0) + b
            along, offset = s / (np.linalg.norm(s) or 1.0), 0.0
        else:
            along, offset = model.space.direction(gene, model.by_genes)
        rows = np.arange(len(model.kernel.rows)) if model.landmarks is None else model.landmarks
        return rows, products @ along, float(b @ along) + offset

    def state(self) -> State:
        """Return what they have learnt."""
        parts = {
            "known_compounds": self.known_compounds,
            "new_compounds": self.new_compounds,
            "atlas_compounds": self.atlas_compounds,
            "strength": self.strength,
        }
        return {name: part.state() for name, part in parts.items() if part is not None}


class CompositeFits(Fits[CompositeMember]):
    """Fits of the models; predictions of rows take only those models that one of the rows needs."""

    def __init__(self, member: CompositeMember, data: TrainingSet) -> None:
        super().__init__(member, data)
        self._pairs = Pairs.of(data.rows, member.encoders)

    def fit(self, training: Indices) -> CompositeModel:
        """Fit to some rows."""
        known, new = (self._fitted(config, training) for config in self.member.models)
        return CompositeModel(self.member.encoders, known, new, *self.of_atlas(training))

    def fit_predict(self, training: Indices, groups: Sequence[Indices]) -> list[Float32]:
        """Return the predictions of groups of rows by a fit to some others."""
        return [found[:] for found in self.fit_compact(training, groups)]

    def fit_compact(self, training: Indices, groups: Sequence[Indices]) -> list[Compact]:
        """Return the same predictions, as scores of components."""
        member, rows = self.member, self._pairs.take(training)
        known = cache(lambda: self._fitted(member.known_compounds, training))
        new = cache(lambda: self._fitted(member.new_compounds, training))
        models, t = (known, new, cache(lambda: self.of_atlas(training)[0])), self.data.Y.shape[1]
        # Which pairs are known depends on no score.
        learnt = member.known_compounds.kernel.learn(rows, np.zeros((len(rows), 1)))
        taken = [self._pairs.take(group) for group in groups]
        return [_by_model(pairs, learnt.is_known(pairs), models, t) for pairs in taken]

    def of_atlas(self, training: Indices) -> tuple[KernelModel | None, Strength | None]:
        """Return `atlas_compounds` and the strength of the atlas; None where there is none, or its strength is 0.

        Pseudo-labelled rows are no evidence.
        """
        if not self.member.atlas or self.data.measured is None:
            return None, None
        measured = training[training < len(self.data.measured.Y)]
        strength = choose_strength(
            self.member.new_compounds,
            self.member.atlas_weights,
            self._pairs.take(measured),
            lambda: self.data.targets(measured),
            self._weight(measured),
        )
        if not strength.value:
            return None, strength
        return self._fitted(self.member.atlas_compounds(strength.value), training), strength

    def _weight(self, training: Indices) -> Float64 | None:
        return None if self.data.weight is None else self.data.weight[training]

    def _fitted(self, config: KernelModelConfig, training: Indices) -> KernelModel:
        data = self.data
        return fit_kernel_model(  # without a name, or **, the targets are forgotten when they are not needed any more
            config,
            self._pairs.take(training),
            data.targets(training),
            data.device,
            weight=self._weight(training),
            on_landmarks=data.on_landmarks,
        )


def _by_model(
    pairs: Pairs, is_known: Mask, models: Sequence[Callable[[], KernelModel | None]], n_targets: int
) -> Compact:
    """Return the predictions of each pair by its model, of `known_compounds`, `new_compounds` and `atlas_compounds`.

    A model is asked for where a pair needs it.
    """
    atlas = bool((in_atlas(pairs) & ~is_known).any()) and models[2]() is not None
    parts = []
    for served, model in zip(_served(pairs, is_known, atlas), models, strict=True):
        one = model() if served.any() else None
        if one is not None:
            parts.append(one.part(pairs, np.flatnonzero(served)))
    return Compact(len(pairs), n_targets, parts)


def _served(pairs: Pairs, is_known: Mask, atlas: bool) -> tuple[Mask, Mask, Mask]:
    """Return which pairs known_compounds, new_compounds and, with an `atlas` that counts, atlas_compounds predicts."""
    of_atlas = in_atlas(pairs) & ~is_known & atlas
    return is_known, ~is_known & ~of_atlas, of_atlas
