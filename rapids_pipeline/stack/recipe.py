"""A recipe: a method's members, which of them stack on others, and their blend; all of it checked.

`rapids_pipeline.stack.named_recipes` has those with a name, a TOML file defines others:

    name = "mine"
    description = "one SVR and a quick booster that reads its predictions"
    n_folds = 5

    [[members]]
    kind = "svr"                   # or own_target_svr, composite, booster, net, response_transfer
    features = "svr_shared"        # a name, a .toml file beside this one, or a table (`features NAME --toml`)
    C = 2.0

    [[members]]
    kind = "booster"
    n_estimators = 300
    features = "boosting"
    stacks_on = ["svr_shared"]     # members are called by `name`, by default like their feature set
    pseudo_labels = { use = "auto", weight = 0.5 }

Whatever it leaves out has its default; `rapids-perturb recipes NAME --toml` prints a recipe in full. A `RunConfig` is
complete: together with the input files it determines every number of a run, and the run's manifest has it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tomli_w
from pydantic import (
    Field,
    PlainValidator,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from features.feature_sets import FEATURE_SETS, FeatureSet
from features.molecules import ATLAS, NONE, TABLE, is_table
from features.rows import varying
from rapids_pipeline.backend.errors import InputError, quoted, shown
from rapids_pipeline.backend.settings import LARGEST_SEED, bounded, named, words
from rapids_pipeline.evaluation.baseline_names import SIMPLE
from rapids_pipeline.stack.members import KINDS
from rapids_pipeline.stack.members.member import (
    MOST_MEMBERS,
    OFF,
    PSEUDO,
    REMEDY,
    Member,
    StageConfig,
)

if TYPE_CHECKING:
    import pandas as pd

PIPELINE = "pipeline"
"""What a table of scores calls the whole recipe."""
OLD_KEYS = ("svrs", "kernels", "boosting", "pseudo_labels")


def _member(value: Any, info: ValidationInfo) -> Member:
    """Return a member from its settings; the kind says of which class."""
    if isinstance(value, Member):
        return value
    if not isinstance(value, dict):
        raise ValueError("must be a table with the settings of a member")
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"no kind of member {quoted(kind)}; choose among {', '.join(KINDS)}")
    return KINDS[kind].model_validate(value, context=info.context)


AnyMember = Annotated[SerializeAsAny[Member], PlainValidator(_member)]


Objective = Literal["mrrmse", "discrimination", "balanced"]
"""What a blend is tuned for (`rapids_pipeline.stack.objective`)."""


class BlendConfig(StageConfig):
    """The weighted sum of the members: `shrink` lets the weights sum to less than one, `clip` bounds the result.

    The bounds are the smallest and the largest training value of each gene. `weights` says what members count, by
    name, before these numbers are divided by their sum; a member that it leaves out counts nothing. The sum of the
    predictions is then multiplied by `amplitude`. Without `weights` both are learnt from out-of-fold predictions.
    `objective` says what the blend is tuned for (`rapids_pipeline.stack.objective`).
    """

    shrink: bool = True
    clip: bool = True
    weights: dict[str, Annotated[float, bounded(0.0, 1e6)]] = Field(default={}, max_length=MOST_MEMBERS)
    amplitude: Annotated[float, bounded(1e-3, 1e3)] = 1.0
    objective: Objective = "mrrmse"

    @model_serializer(mode="wrap")
    def _without_usual_objective(self, settings: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the usual objective out, so that earlier versions read what knows no other."""
        found: dict[str, Any] = settings(self)
        if self.objective == "mrrmse":
            found.pop("objective", None)
        return found

    @model_validator(mode="after")
    def _amplitude_of_weights(self) -> "BlendConfig":
        if self.amplitude != 1 and not self.weights:
            raise ValueError("amplitude needs weights: learnt weights have an amplitude of their own")
        return self


@dataclass(frozen=True)
class Form:
    """A member as it is fitted: with pseudo-labels, then called NAME_pseudo, or without."""

    name: str
    member: Member
    labelled: bool


class Recipe(StageConfig):
    """A method: members, how they are stacked, blended and, where the evidence says so, trained again.

    `source` says who published it, `differs` what is otherwise here.
    """

    name: Annotated[str, named()]
    description: Annotated[str, words()] = ""
    source: Annotated[str, words()] = ""
    differs: tuple[Annotated[str, words()], ...] = Field(default=(), max_length=50)
    n_folds: Annotated[int, bounded(3, 20, "every member is fitted once a fold")] = 5
    members: tuple[AnyMember, ...] = Field(min_length=1, max_length=MOST_MEMBERS)
    blend: BlendConfig = BlendConfig()

    @model_validator(mode="before")
    @classmethod
    def _no_old_keys(cls, values: Any) -> Any:
        old = [key for key in OLD_KEYS if isinstance(values, dict) and key in values]
        if old:
            raise ValueError(f"{old[0]} is a key of earlier versions, members are listed now; {REMEDY}")
        return values

    @model_validator(mode="after")
    def _members_fit_together(self) -> "Recipe":
        names = [member.name for member in self.members]
        forms = [*names, *(m.name + PSEUDO for m in self.members if m.pseudo_labels.use != "off")]
        twice = [name for name in forms if forms.count(name) > 1]
        if twice:
            raise ValueError(f"two members are called {twice[0]}: give one of them another name")
        taken = [name for name in forms if name == PIPELINE or name in SIMPLE]
        if taken:
            raise ValueError(f"a member is called {taken[0]}, as something else in a run's scores: rename it")
        for member in self.members:
            for other in (*member.stacks_on, *member.pseudo_labels.teacher):
                if other not in names:
                    raise ValueError(
                        f"{member.name}: there is no member {shown(other)}; the members are "
                        f"{shown(', '.join(names), 200)}"
                    )
            for listed in (member.stacks_on, member.pseudo_labels.teacher):
                if len(set(listed)) < len(listed):
                    raise ValueError(f"{member.name} names a member twice")
            for below in self.named(member.stacks_on):
                _require_first_level(member, below)
        unknown = sorted(set(self.blend.weights) - set(names))
        if unknown:
            raise ValueError(f"blend.weights: there is no member {shown(unknown[0])}")
        if self.blend.weights and not sum(self.blend.weights.values()):
            raise ValueError("blend.weights: all of them are 0")
        return self

    def __repr__(self) -> str:
        """Return its name and its members' names; `to_toml` has all of it."""
        return f"<recipe {self.name}: {', '.join(member.name for member in self.members)}>"

    def named(self, names: Sequence[str]) -> list[Member]:
        """Return members by their names, in this order."""
        found = {member.name: member for member in self.members}
        return [found[name] for name in names]

    @property
    def forms(self) -> list[Form]:
        """What is fitted, in an order in which each finds what it learns from: by level, then pseudo-labelled.

        A member with pseudo-labels "on" is fitted without them, too, where it is a teacher.
        """
        labelled = [m for m in self.members if m.pseudo_labels.use != "off"]
        taught_by = {teacher.name for member in labelled for teacher in self.teachers_of(member)}
        by_level = sorted(self.members, key=lambda member: bool(member.stacks_on))
        plain = [m for m in by_level if m.pseudo_labels.use != "on" or m.name in taught_by]
        return [
            *(Form(member.name, member, False) for member in plain),
            *(Form(member.name + PSEUDO, member, True) for member in labelled),
        ]

    def teachers_of(self, member: Member) -> list[Member]:
        """Return the members whose mean predictions label the test rows for a member, the second level first."""
        taught = self.named(member.pseudo_labels.teacher) or list(self.members)
        return sorted(taught, key=lambda teacher: not teacher.stacks_on)

    @property
    def encoders(self) -> list[str]:
        """The molecule encoders whose features all members together need."""
        return sorted({name for member in self.members for name in member.encoders})

    @property
    def feature_sets(self) -> list[FeatureSet]:
        """The feature sets of all members."""
        return [features for member in self.members for features in member.feature_sets]

    def with_molecules(self, encoder: str) -> "Recipe":
        """Return the recipe with `encoder` where a feature set or a kernel names none."""
        return self.with_members(*(member.with_molecules(encoder) for member in self.members))

    def with_atlas(self) -> "Recipe":
        """Return the recipe for rows that have an atlas.

        Raises
        ------
        InputError
            No member reads one.
        """
        found = self.with_members(*(member.with_atlas() for member in self.members))
        if ATLAS not in found.encoders:
            raise InputError(
                f"--atlas: no member of the recipe {self.name} reads an atlas; take --recipe best, or give a member of "
                "kind composite atlas_weights"
            )
        return found

    def in_contexts(self, columns: Sequence[str]) -> "Recipe":
        """Return the recipe for training rows that differ in `columns`, of `dose_uM` and `time_h`; none: as it is."""
        return self.with_members(*(m.in_contexts(columns) for m in self.members)) if columns else self

    def without_molecules(self) -> "Recipe":
        """Return the recipe for perturbations without structures.

        Kernels compare compounds by identity, and feature sets lose their blocks of molecules. A member that reads
        nothing else is left out, and so is one that stacks on none but such members.

        Raises
        ------
        InputError
            There is no member left.
        """
        kept = {member.name: member.without_molecules() for member in self.members}
        kept |= {
            name: None
            for name, member in kept.items()
            if member is not None and member.stacks_on and not any(kept[other] for other in member.stacks_on)
        }
        members = [_without(member, kept) for member in kept.values() if member is not None]
        if not members:
            raise InputError(
                f"--molecules {NONE}: the recipe {self.name} reads nothing but molecules; take another"
            )
        return self.with_members(*members)

    def without_pseudo_labels(self) -> "Recipe":
        """Return the recipe for a problem without pairs to predict, whose members learn from measured rows alone."""
        return self.with_members(*(m.model_copy(update={"pseudo_labels": OFF}) for m in self.members))

    def with_members(self, *members: Member) -> "Recipe":
        """Return the recipe with other members, checked."""
        return self.updated(members=members)


def _without(member: Member, kept: Mapping[str, Member | None]) -> Member:
    """Return a member that names no member which is left out."""
    labels = member.pseudo_labels
    taught = {"teacher": tuple(name for name in labels.teacher if kept[name] is not None)}
    stacks_on = tuple(name for name in member.stacks_on if kept[name] is not None)
    changed = {"stacks_on": stacks_on, "pseudo_labels": labels.model_copy(update=taught)}
    return member.model_copy(update=changed)


def _require_first_level(member: Member, other: Member) -> None:
    """Raise ValueError unless a member can stack on another."""
    if other.name == member.name:
        raise ValueError(f"{member.name} stacks on itself")
    if other.stacks_on:
        raise ValueError(
            f"{member.name} stacks on {other.name}, which itself stacks on others: there are two levels"
        )
    if other.pseudo_labels.use == "on":
        raise ValueError(
            f"{member.name} stacks on {other.name}, whose pseudo_labels are on: a member that others stack on is "
            "fitted without them"
        )


class RunConfig(StageConfig):
    """Everything a run does; and, for people only, why its `molecules` (what `--molecules` names) were chosen."""

    recipe: Recipe
    molecules: str = "chemberta"
    molecules_because: str = Field(default="asked for", exclude=True)
    seed: Annotated[int, bounded(0, LARGEST_SEED)] = 0

    def resolved(self) -> "RunConfig":
        """Return the settings with `molecules` in the recipe's members; InputError as `Recipe.without_molecules`."""
        if self.molecules == NONE:
            return self.model_copy(update={"recipe": self.recipe.without_molecules()})
        encoder = TABLE if is_table(self.molecules) else self.molecules
        return self.model_copy(update={"recipe": self.recipe.with_molecules(encoder)})

    @property
    def encoders(self) -> list[str]:
        """What compounds are encoded by: what `molecules` names, though no member may read it, and the recipe's."""
        if self.molecules == NONE:
            return self.recipe.encoders
        return [TABLE if is_table(self.molecules) else self.molecules, *self.recipe.encoders]

    def with_atlas(self, given: bool) -> "RunConfig":
        """Return the settings for rows with an atlas where one is `given`; InputError as `Recipe.with_atlas`."""
        return self.model_copy(update={"recipe": self.recipe.with_atlas()}) if given else self

    def left_out(self) -> list[str]:
        """Return in words which members of the recipe `molecules` leaves out."""
        if self.molecules != NONE:
            return []
        kept = {member.name for member in self.recipe.without_molecules().members}
        names = [member.name for member in self.recipe.members if member.name not in kept]
        said = f"; left out, as they read nothing but molecules: {', '.join(names)}" if names else ""
        return [f"molecules: {NONE}; compounds are told apart by name{said}"]

    def in_contexts(self, obs: "pd.DataFrame") -> "RunConfig":
        """Return the settings for these training rows: with what tells doses and times apart where they differ."""
        return self.model_copy(update={"recipe": self.recipe.in_contexts(varying(obs))})


def to_toml(found: Recipe) -> str:
    """Return a recipe as the TOML file that defines it; feature sets that have a name are named.

    Members that stack on none, or have no pseudo-labels, say nothing of it, nor does a blend whose weights are learnt.
    """
    content = found.model_dump(mode="json", exclude_none=True)
    if not found.blend.weights:
        del content["blend"]["weights"], content["blend"]["amplitude"]
    for name in ("source", "differs"):
        if not content[name]:
            del content[name]
    for member, settings in zip(found.members, content["members"], strict=True):
        if member.pseudo_labels.use == "off":
            del settings["pseudo_labels"]
        if not member.stacks_on:
            del settings["stacks_on"]
        for features in member.feature_sets:
            if "features" in settings and FEATURE_SETS.get(features.name) == features:
                settings["features"] = features.name
    return tomli_w.dumps(content)
