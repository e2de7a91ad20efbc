"""Neural nets: replicas of one architecture in a space of the targets, their predictions reduced gene by gene.

    ŷ = mean over replicas of the inverse of the target space ( u · net (codes of the pair, or columns of a table) )

Whatever a fit learns from or is built on (target space, unit u, levels, columns and their spread, the best epoch) comes
from its own training rows; with `every_fold` all of it is learnt anew for the nets of each fold. u is the root mean
square of the targets, so that published learning rates, which are for targets of about unit size, serve targets of any
unit. Replicas are trained as one (`rapids_pipeline.nets`).

What a pair is to a net: the numbers of its cell type and compound, and of its dose and time where training rows differ
in them (`embedding_mlp`), or the columns of a feature set, standardised (all other architectures). An unknown cell type
or compound has the mean vector of the known ones. An unknown dose or time is that of the nearest known one, by its
logarithm.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from features.feature_sets import FeatureSet, FeatureTable
from features.rows import Rows, context_numbers, log10_of
from rapids_pipeline.backend.arrays import Float32, Float64, Indices, Mask
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.errors import UnavailableError
from rapids_pipeline.backend.settings import bounded
from rapids_pipeline.backend.state import State, StateReader
from rapids_pipeline.nets.settings import Architecture, EmbeddingMlp, Training
from rapids_pipeline.stack.compact import Compact, Part
from rapids_pipeline.stack.members.booster import SEED_STRIDE, aggregated
from rapids_pipeline.stack.members.member import MOST_COMPONENTS, Features, Fits, Member, TrainingSet
from rapids_pipeline.stack.target_space import SCALES, TargetSpace, TransformName

if TYPE_CHECKING:
    from torch import Tensor, nn

PREDICTED_AT_ONCE = 4096
"""Rows times replicas whose predictions are in memory at once."""
LABELS = ("cell_type", "sm_name")
MOST_REPLICAS = 1000


class NetMember(Member):
    """Replicas of a net, trained on leading components of the targets.

    The defaults are the eighth net of the third place, trained as the recipe `third_place` trains its nets. Predictions
    of the replicas are reduced by `aggregate`, gene by gene: their mean, or the median as published.
    `features` is for architectures that read columns, which are standardised by the training rows with
    `standardise`; `encoder_sigma` is the noise of leave-one-out encodings among them. Encodings by the targets are of
    their components. With `every_fold` there are `replicas` nets for each of the folds of `training.validation`, which
    are trained without it.
    """

    kind: Literal["net"] = "net"
    architecture: Architecture = EmbeddingMlp()
    features: Features | None = None
    standardise: bool = True
    encoder_sigma: Annotated[float, bounded(0.0, 100.0, "it is the noise of an encoding of size 1")] = 0.0
    transform: TransformName = "asinh"
    transform_scale: Annotated[float, bounded(*SCALES, "it counts root mean squares")] = 2.0
    centre: bool = False
    n_components: Annotated[int | Literal["none"], bounded(1, MOST_COMPONENTS, words=["none"])] = 100
    training: Training = Training(learning_rate=0.009719, batch_size=192)
    replicas: Annotated[int, bounded(1, MOST_REPLICAS, "each is a net of its own")] = 3
    every_fold: bool = False
    aggregate: Literal["median", "mean"] = "mean"
    contexts: tuple[Literal["dose_uM", "time_h"], ...] = Field(default=(), max_length=2)

    @model_validator(mode="after")
    def _reads_what_it_needs(self) -> Self:
        kind = self.architecture.kind
        if isinstance(self.architecture, EmbeddingMlp) == (self.features is not None):
            need = "reads a pair's names alone, and no" if self.features else "reads columns: name a"
            raise ValueError(f"{self.name or 'net'}: {kind} {need} feature set")
        if self.features is not None and self.features.own_target:
            raise ValueError(
                f"{self.features.name} gives every gene columns of its own, and a net has one table for all"
            )
        return self

    @property
    def default_name(self) -> str:
        """Its feature set's name, or its architecture's."""
        return self.architecture.kind if self.features is None else self.features.name

    @property
    def feature_sets(self) -> list[FeatureSet]:
        """The feature set, where it reads one."""
        return [] if self.features is None else [self.features]

    @property
    def by_names(self) -> bool:
        """Whether it reads neither molecules nor other members' predictions."""
        blocks = () if self.features is None else self.features.blocks
        return all(block.fitted_on in ("levels", "targets") for block in blocks)

    def with_molecules(self, encoder: str) -> Self:
        """Return the member with `encoder` in the blocks of molecules that name none."""
        return self._with_features(None if self.features is None else self.features.with_molecules(encoder))

    def in_contexts(self, columns: Sequence[str]) -> Self:
        """Return the member for training rows that differ in `columns`."""
        if self.features is None:
            return self.model_copy(update={"contexts": tuple(columns)})
        return self._with_features(self.features.in_contexts(columns))

    def without_molecules(self) -> "Self | None":
        """Return the member without blocks of molecules, None where it reads nothing else."""
        if self.features is None:
            return self
        features = self.features.without_molecules()
        return None if features is None else self._with_features(features)

    def _with_features(self, features: FeatureSet | None) -> Self:
        return self.model_copy(update={"features": features})

    @property
    def space(self) -> TargetSpace:
        """The space of the targets, not learnt yet."""
        n_components = None if self.n_components == "none" else self.n_components
        how = {"centre": self.centre, "products": "float32"}
        return TargetSpace(n_components, self.transform, self.transform_scale, **how)  # type: ignore[arg-type]

    def engine_choice(self, Y: Float32, device: DeviceName) -> str:
        """Return with what nets are trained; UnavailableError where that is not here."""
        torch = require_torch()
        if device == "cuda" and not torch.cuda.is_available():
            raise UnavailableError(
                "--device cuda: this PyTorch has no CUDA; install one that has, or use --device cpu"
            )
        together = f", {self.replicas} replicas as one" if self.replicas > 1 else ""
        return f"torch {torch.__version__.split('+')[0]} on {device}{together}"

    def side_by_side(self, n: int) -> bool:
        """Say that fits run side by side: a step is too small to be divided among processors."""
        return True

    def prepare(self, data: TrainingSet) -> "NetFits":
        """Return its fits."""
        return NetFits(self, data)

    def notes(self, model: "Nets") -> list[str]:
        """Return how much of the targets its space keeps."""
        share = model.groups[0].space.explained_share_
        return [f"the target space of {self.name} keeps {share:.1%} of the sum of squared targets"]

    def model_from_state(self, reader: StateReader) -> "Nets":
        """Make fitted nets of their state."""
        groups = reader.names()
        if not groups or len(groups) > (self.training.validation_folds if self.every_fold else 1):
            raise reader.fault(f"there are {len(groups)} groups of nets")
        found = (reader.part(f"group_{number}") for number in range(len(groups)))
        return Nets([self._group_from_state(group) for group in found], self.aggregate)

    def _group_from_state(self, reader: StateReader) -> "NetGroup":
        inputs = (
            _Codes.from_state(reader, self) if self.features is None else _Columns.from_state(reader, self)
        )
        space = self.space.restore(reader.part("space"))
        k = len(space.unit_) if space.svd_ is None else space.svd_.components_.shape[0]
        net = self.nets(inputs.width, k, "meta")
        weights, found = reader.part("weights"), {}
        for name, like in net.state_dict().items():
            found[name] = weights.array(_saved_as(name), np.float32, tuple(like.shape))
        if len(found) < len(weights.names()):
            raise weights.fault("there are weights that the architecture does not have")
        import torch

        net.load_state_dict({name: torch.from_numpy(array) for name, array in found.items()}, assign=True)
        return NetGroup(inputs, space, reader.number("unit"), net.eval())

    def width(self, rows: Rows, scores: Float32) -> list[int]:
        """Return how wide the inputs of rows with such scores are: levels of each column, or columns of each block."""
        if self.features is None:
            return _Codes.learnt(rows, self.contexts).width
        table = FeatureTable(self.features)
        table.fit_transform(replace(rows, predictions=scores), scores)
        return list(table.columns_.values())

    def nets(self, width: Sequence[int], k: int, device: str) -> "nn.Module":
        """Return nets of random or, on the device "meta", of no values, for inputs of a width and k outputs."""
        require_torch()
        import torch

        from rapids_pipeline.nets.modules import net_of

        with torch.device(device):
            return net_of(self.architecture, self.replicas, width, k)


def _saved_as(name: str) -> str:
    """Return the name under which a state has a parameter: names there begin with a letter and have no dots."""
    return f"layer_{name.replace('.', '_')}"


def require_torch() -> Any:
    """Return PyTorch; UnavailableError where it is missing."""
    try:
        import torch
    except ImportError:
        raise UnavailableError(
            "members of kind net need PyTorch: pip install '.[nets]', or take a recipe without nets"
        ) from None
    return torch


@dataclass(frozen=True, eq=False)
class _Codes:
    """Numbers of a pair's cell type, compound and contexts among those of the training rows.

    The numbers of a column follow those of the one before. A column's last number is for what is unknown or missing.
    """

    levels: tuple[tuple[str, ...], ...]
    contexts: tuple[Literal["dose_uM", "time_h"], ...]
    values: tuple[Float64, ...]

    @classmethod
    def learnt(cls, rows: Rows, contexts: tuple[Literal["dose_uM", "time_h"], ...]) -> "_Codes":
        levels = (tuple(sorted(set(rows.obs[column].astype(str)))) for column in LABELS)
        known = (context_numbers(rows.obs, column)[:, 0] for column in contexts)
        return cls(tuple(levels), contexts, tuple(np.unique(x[np.isfinite(x)]) for x in known))

    @property
    def width(self) -> list[int]:
        """Numbers of each column, that of the unknown included."""
        return [len(known) + 1 for known in (*self.levels, *self.values)]

    def of(self, rows: Rows) -> "Indices":
        """Return the numbers of rows, (m, columns)."""
        columns: list[Any] = []
        for column, known in zip(LABELS, self.levels, strict=True):
            place = {label: number for number, label in enumerate(known)}
            columns.append([place.get(label, len(known)) for label in rows.obs[column].astype(str)])
        for context, known_values in zip(self.contexts, self.values, strict=True):
            columns.append(_nearest(context_numbers(rows.obs, context)[:, 0], known_values))
        first = np.cumsum([0, *self.width[:-1]])
        return np.asarray(np.array(columns, dtype=np.intp).T.reshape(len(rows.obs), -1) + first)

    def finish(self, net: "nn.Module", codes: "Tensor") -> None:
        """Give the nets, trained on rows of these numbers, what stands for levels that none of the rows has."""
        net.learn_unknown(self.width, codes)

    def state(self) -> State:
        (cells, compounds), values = self.levels, zip(self.contexts, self.values, strict=True)
        return {"cell_types": list(cells), "compounds": list(compounds)} | dict[str, Any](values)

    @classmethod
    def from_state(cls, reader: StateReader, member: NetMember) -> "_Codes":
        levels = tuple(reader.levels("cell_types")), tuple(reader.levels("compounds"))
        values = tuple(reader.array(column, np.float64, (None,)) for column in member.contexts)
        return cls(levels, member.contexts, values)


def _nearest(values: Float64, known: Float64) -> "Indices":
    """Return the place of the nearest known dose or time, by its logarithm; len(known) where none is given or known."""
    if not len(known):
        return np.zeros(len(values), dtype=np.intp)
    apart = np.abs(log10_of(values, known)[:, None] - log10_of(known, known))
    return np.where(np.isnan(values), len(known), np.nan_to_num(apart).argmin(axis=1))


@dataclass(frozen=True, eq=False)
class _Columns:
    """Columns of a feature table less their mean, over their standard deviation; a constant one over 1."""

    table: FeatureTable
    mean: Float32
    spread: Float32

    @classmethod
    def learnt(cls, member: NetMember, rows: Rows, targets: Float32, seed: int) -> tuple["_Columns", Float32]:
        assert member.features is not None
        table = FeatureTable(member.features, member.encoder_sigma, seed)
        X = table.fit_transform(rows, targets)
        mean, spread = np.zeros(X.shape[1], np.float32), np.ones(X.shape[1], np.float32)
        if member.standardise:
            mean, deviation = X.mean(axis=0, dtype=np.float64), X.std(axis=0, dtype=np.float64)
            mean, spread = (
                mean.astype(np.float32),
                np.where(deviation > 1e-9, deviation, 1).astype(np.float32),
            )
        made = cls(table, mean, spread)
        return made, made._standardised(X)

    @property
    def width(self) -> list[int]:
        """Columns of each block."""
        return list(self.table.columns_.values())

    def of(self, rows: Rows) -> Float32:
        return self._standardised(self.table.transform(rows))

    def _standardised(self, X: Float32) -> Float32:
        return (X - self.mean) / self.spread

    def finish(self, net: "nn.Module", columns: "Tensor") -> None:
        """Add nothing: columns of unknown levels are the table's concern."""

    def state(self) -> State:
        return {"table": self.table.state(), "mean": self.mean, "spread": self.spread}

    @classmethod
    def from_state(cls, reader: StateReader, member: NetMember) -> "_Columns":
        assert member.features is not None
        table = FeatureTable.from_state(member.features, reader.part("table"))
        p = sum(table.columns_.values())
        spread = reader.array("spread", np.float32, (p,))
        if not (spread > 0).all():
            raise reader.fault("the spread of a column is not above 0")
        return cls(table, reader.array("mean", np.float32, (p,)), spread)


@dataclass(frozen=True, eq=False)
class NetGroup:
    """Replicas that were trained as one, with what their rows and targets go through."""

    inputs: _Codes | _Columns
    space: TargetSpace
    unit: float
    net: "nn.Module"

    def scores(self, rows: Rows) -> Float32:
        """Return what each replica predicts in the space, (R, m, k) float32 on the host."""
        import torch

        from rapids_pipeline.nets.modules import predicted
        from rapids_pipeline.nets.training import one_thread

        with one_thread():
            found = predicted(self.net, torch.from_numpy(self.inputs.of(rows))).cpu().numpy()
        return np.asarray(found * np.float32(self.unit), dtype=np.float32)

    def state(self) -> State:
        """Return what they have learnt."""
        weights = {_saved_as(name): x.cpu().numpy() for name, x in self.net.state_dict().items()}
        return {**self.inputs.state(), "space": self.space.state(), "unit": self.unit, "weights": weights}


@dataclass(frozen=True, eq=False)
class Nets:
    """Groups of trained replicas; the predictions of all are aggregated gene by gene."""

    groups: Sequence[NetGroup]
    aggregate: str

    @property
    def replicas(self) -> int:
        """How many nets there are."""
        return sum(len(next(group.net.parameters())) for group in self.groups)

    def predict(self, rows: Rows) -> Float32:
        """Return the predictions of rows, (m, t) float32; a row's do not depend on the others, to rounding."""
        m, at_once = len(rows.obs), max(1, PREDICTED_AT_ONCE // self.replicas)
        made = np.empty((m, len(self.groups[0].space.unit_)), dtype=np.float32)
        for start in range(0, m, at_once):
            some = np.arange(start, min(start + at_once, m))
            few = rows.take(some)
            each = [group.space.inverse_transform(z) for group in self.groups for z in group.scores(few)]
            made[some] = aggregated(each, self.aggregate)
        return made

    def state(self) -> State:
        """Return what they have learnt, group by group."""
        return {f"group_{number}": group.state() for number, group in enumerate(self.groups)}


class NetFits(Fits[NetMember]):
    """Fits of all replicas of a group at once, one group after the other."""

    def fit(self, training: Indices) -> Nets:
        """Fit to some rows."""
        groups = enumerate(self._judging(training))
        return Nets(
            [self._group(training, judging, number) for number, judging in groups], self.member.aggregate
        )

    def _group(self, training: Indices, judging: Mask, number: int) -> NetGroup:
        """Fit a group to rows of which some judge it."""
        from rapids_pipeline.nets.training import trained

        data, member, seed = self.data, self.member, self.data.seed + SEED_STRIDE * number
        learning = training[~judging]
        space, rows = member.space, data.take(learning)
        scores = space.components_for(data.targets(learning))
        unit = float(
            np.sqrt(np.mean(np.square(scores, dtype=np.float64)) * (scores.shape[1] / len(space.unit_)))
        )
        unit = unit or 1.0
        scores = scores / np.float32(unit)
        inputs: _Codes | _Columns
        if member.features is None:
            inputs = _Codes.learnt(rows, member.contexts)
            X: Any = inputs.of(rows)
        else:
            inputs, X = _Columns.learnt(member, rows, scores, seed)
        examples = self._examples(X, scores, learning)
        judges = None
        if judging.any() and member.training.checkpoint == "best":
            some = training[judging]
            z = space.transform(data.targets(some)) / np.float32(unit)
            judges = self._examples(inputs.of(data.take(some)), z, some)
        net = member.nets(inputs.width, scores.shape[1], data.device)
        net = trained(net, examples, member.training, seed, judges, member.name)
        inputs.finish(net, examples.inputs)
        return NetGroup(inputs, space, unit, net)

    def fit_compact(self, training: Indices, groups: Sequence[Indices]) -> list[Compact]:
        """Return the scores that a single net predicts; of several replicas the targets, which are aggregated."""
        if self.member.replicas > 1 or self.member.every_fold:
            return super().fit_compact(training, groups)
        [nets] = self.fit(training).groups
        t = len(nets.space.unit_)
        found = [nets.scores(self.data.take(group))[0] for group in groups]
        return [Compact(len(z), t, [Part(np.arange(len(z)), z, nets.space)]) for z in found]

    def _judging(self, training: Indices) -> list[Mask]:
        """Return for every group which rows it is not trained on: measured ones of a fold, or none."""
        from rapids_pipeline.evaluation.splits import judging_folds

        how = self.member.training
        folds = np.full(len(training), -1, dtype=np.intp)
        if how.checkpoint == "best" or self.member.every_fold:
            assert self.data.measured is not None
            measured = np.flatnonzero(training < len(self.data.measured.Y))
            obs, Y = self.data.rows.obs.iloc[training[measured]], self.data.targets(training[measured])
            folds[measured] = judging_folds(how.validation, obs, Y, how.validation_folds, self.data.seed)
        return [folds == k for k in range(int(folds.max()) + 1 if self.member.every_fold else 1)]

    def _examples(self, inputs: Any, targets: Float32, rows: Indices) -> Any:
        import torch

        from rapids_pipeline.nets.training import Examples

        weight = np.ones(len(rows)) if self.data.weight is None else self.data.weight[rows]
        weight = (weight / weight.mean()).astype(np.float32)
        parts = (np.ascontiguousarray(inputs), np.ascontiguousarray(targets), weight)
        return Examples(*(torch.from_numpy(part).to(self.data.device) for part in parts))
