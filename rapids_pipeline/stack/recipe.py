"""A recipe: a method's members, which of them stack on others, and their blend; all of it checked.

A `RunConfig` is complete: together with the input files it determines every number of a run, and it is written into
the run's manifest. `rapids_pipeline.stack.named_recipes` has the recipes with a name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, PlainValidator, SerializeAsAny, model_validator

from features.feature_sets import FeatureSet
from rapids_pipeline.stack.members import KINDS
from rapids_pipeline.stack.members.member import PSEUDO, REMEDY, Member, StageConfig

OLD_KEYS = ("svrs", "kernels", "boosting", "pseudo_labels")


def _member(value: Any) -> Member:
    """Return a member from its settings; the kind says of which class."""
    if isinstance(value, Member):
        return value
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind not in KINDS:
        raise ValueError(f"no kind of member {kind!r}; choose among {', '.join(KINDS)}")
    return KINDS[kind].model_validate(value)


AnyMember = Annotated[SerializeAsAny[Member], PlainValidator(_member)]


class BlendConfig(StageConfig):
    """The weighted sum of the members: `shrink` lets the weights sum to less than one, `clip` bounds the result.

    The bounds are the smallest and the largest training value of each gene.
    """

    shrink: bool = True
    clip: bool = True


@dataclass(frozen=True)
class Form:
    """A member as it is fitted: with pseudo-labels, then called NAME_pseudo, or without."""

    name: str
    member: Member
    labelled: bool


class Recipe(StageConfig):
    """A method: members, how they are stacked, blended and, where the evidence says so, trained again."""

    name: str = Field(min_length=1)
    description: str = ""
    n_folds: int = Field(default=5, ge=3, le=20)
    members: tuple[AnyMember, ...] = Field(min_length=1)
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
        for member in self.members:
            for other in (*member.stacks_on, *member.pseudo_labels.teacher):
                if other not in names:
                    raise ValueError(
                        f"{member.name}: there is no member {other}; the members are {', '.join(names)}"
                    )
            for listed in (member.stacks_on, member.pseudo_labels.teacher):
                if len(set(listed)) < len(listed):
                    raise ValueError(f"{member.name} names a member twice")
            for below in self.named(member.stacks_on):
                _require_first_level(member, below)
        return self

    def named(self, names: Sequence[str]) -> list[Member]:
        """Return members by their names, in this order."""
        found = {member.name: member for member in self.members}
        return [found[name] for name in names]

    @property
    def first_level(self) -> list[Member]:
        """The members that stack on no others."""
        return [member for member in self.members if not member.stacks_on]

    @property
    def second_level(self) -> list[Member]:
        """The members that stack on others."""
        return [member for member in self.members if member.stacks_on]

    @property
    def forms(self) -> list[Form]:
        """What is fitted, in an order in which each finds what it learns from: by level, then pseudo-labelled.

        A member with pseudo-labels "on" is fitted without them, too, where it is a teacher.
        """
        labelled = [m for m in self.members if m.pseudo_labels.use != "off"]
        taught_by = {teacher.name for member in labelled for teacher in self.teachers_of(member)}
        plain = [
            m
            for m in (*self.first_level, *self.second_level)
            if m.pseudo_labels.use != "on" or m.name in taught_by
        ]
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

    def with_members(self, *members: Member) -> "Recipe":
        """Return the recipe with other members, checked."""
        return Recipe(
            **{name: getattr(self, name) for name in type(self).model_fields} | {"members": members}
        )


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
    """Everything a run does; and, for people only, why its `molecules` were chosen."""

    recipe: Recipe
    molecules: str = "chemberta"
    molecules_because: str = Field(default="asked for", exclude=True)
    seed: int = Field(default=0, ge=0)

    def resolved(self) -> "RunConfig":
        """Return the settings with `molecules` in the recipe's members."""
        return self.model_copy(update={"recipe": self.recipe.with_molecules(self.molecules)})
