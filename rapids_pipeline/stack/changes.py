"""Changes of a recipe by options, and the way from them to one validated `RunConfig`.

What cannot be used is named by its option.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, TypeVar

from pydantic import ValidationError

from features.feature_sets import FeatureSet, feature_set
from features.molecules.weights import chosen_encoder
from rapids_pipeline.backend.errors import InputError, meant, quoted
from rapids_pipeline.backend.settings import message_of, names_in
from rapids_pipeline.boosting import engines as boosting
from rapids_pipeline.stack.members.member import Member
from rapids_pipeline.stack.members.svr import AnySvrMember, OwnTargetSvrMember, SvrMember
from rapids_pipeline.stack.named_recipes import recipe
from rapids_pipeline.stack.recipe import Recipe, RunConfig
from rapids_pipeline.svr import engines as svr

T = TypeVar("T")


@dataclass(frozen=True)
class RecipeChanges:
    """What options change in a recipe; None leaves it as it is.

    Attributes
    ----------
    folds : int
    engine : str
        Of the members of kind svr.
    boosting_engine : str
        Of all boosters.
    svr_features : str
        Feature sets separated by commas: one SVR member each, in the place of the recipe's SVRs of the first level and
        with the settings of the first of them; a set with columns of each gene's own makes an own_target_svr.
    boosting_features : str
        Of all boosters.
    objective : str
        Of the blend.
    """

    folds: int | None = None
    engine: str | None = None
    boosting_engine: str | None = None
    svr_features: str | None = None
    boosting_features: str | None = None
    objective: str | None = None


def run_config(name: str | Recipe, changes: RecipeChanges, molecules: str, seed: int) -> RunConfig:
    """Return the settings of a run by a recipe or its name; the molecules "auto" become what can be had here.

    Raises
    ------
    InputError
        There is no such recipe or feature set, or a value is out of range; the message names the option.
    """
    changed = changed_recipe(recipe(name) if isinstance(name, str) else name, changes)
    encoder, because = chosen_encoder(molecules)
    settings: dict[str, Any] = {"recipe": changed, "molecules": encoder, "molecules_because": because}
    return _named("--seed", lambda: RunConfig(**settings, seed=seed))


def changed_recipe(found: Recipe, changes: RecipeChanges) -> Recipe:
    """Return a recipe with the changes made; errors as `run_config`."""
    if changes.folds is not None:
        found = _named("--folds", lambda: found.updated(n_folds=changes.folds))
    if changes.objective is not None:
        blend = _named("--objective", lambda: found.blend.updated(objective=changes.objective))
        found = found.updated(blend=blend)
    if changes.svr_features is not None:
        sets = [feature_set(name) for name in names_in(changes.svr_features)]
        found = _named("--svr-features", lambda: _with_svrs(found, sets))
    for option, kind, setting, value in (
        ("--boosting-features", "booster", "features", changes.boosting_features),
        ("--engine", "svr", "engine", changes.engine),
        ("--boosting-engine", "booster", "engine", changes.boosting_engine),
    ):
        if value is not None:
            if setting == "engine":
                _require_engine(option, value, boosting if kind == "booster" else svr)
            found = _named(option, partial(_with_setting, found, option, kind, setting, value))
    return found


def _require_engine(option: str, name: str, of: ModuleType) -> None:
    known = ["auto", *of.ENGINES]
    if name not in known:
        raise InputError(f"{option} {quoted(name)}{meant(name, known)}: choose one of {', '.join(known)}")


def _with_setting(found: Recipe, option: str, kind: str, setting: str, value: str) -> Recipe:
    """Return a recipe whose members of a kind have another setting."""
    if not any(member.kind == kind for member in found.members):
        raise InputError(
            f"{option}: the recipe {found.name} has no member of kind {kind}: give --recipe another"
        )
    changed: dict[str, Any] = {setting: value}
    if setting == "features":
        changed["features"] = feature_set(value)
        changed |= {} if changed["features"].needs_predictions else {"stacks_on": ()}
    return found.with_members(*(m.updated(**changed) if m.kind == kind else m for m in found.members))


def _with_svrs(found: Recipe, sets: Sequence[FeatureSet]) -> Recipe:
    """Return a recipe with one SVR a feature set where its SVRs of the first level were."""
    old = [m for m in found.members if isinstance(m, AnySvrMember) and not m.stacks_on]
    if not old:
        raise InputError(
            f"--svr-features: the recipe {found.name} has no SVR of the first level: give --recipe another"
        )
    new = [_svr_like(old[0], features) for features in sets]
    names = {member.name for member in old}

    def renamed(listed: Sequence[str]) -> list[str]:
        place = next((place for place, name in enumerate(listed) if name in names), None)
        kept = [name for name in listed if name not in names]
        return kept if place is None else [*kept[:place], *(svr.name for svr in new), *kept[place:]]

    members: list[Member] = []
    for member in found.members:
        if member is old[0]:
            members += new
        elif member.name not in names:
            labels = member.pseudo_labels.updated(teacher=renamed(member.pseudo_labels.teacher))
            members.append(member.updated(stacks_on=renamed(member.stacks_on), pseudo_labels=labels))
    return found.with_members(*members)


def _svr_like(other: AnySvrMember, features: FeatureSet) -> AnySvrMember:
    """Return an SVR on a feature set, called like it, with the settings of another SVR."""
    kind = OwnTargetSvrMember if features.own_target else SvrMember
    if features.own_target and getattr(other, "kernel", "rbf") != "rbf":
        raise InputError(
            f"--svr-features: {features.name} gives every gene columns of its own, which needs kernel = 'rbf'"
        )
    fields = set(kind.model_fields) & set(type(other).model_fields) - {"kind", "name", "features"}
    if kind is not type(other):
        fields -= {"engine"}  # each kind has engines of its own
    settings: dict[str, Any] = {name: getattr(other, name) for name in fields}
    return kind(**settings, features=features)


def _named(option: str, make: Callable[[], T]) -> T:
    """Return what `make` makes; an InputError that names the option where the values cannot be used."""
    try:
        return make()
    except ValidationError as error:
        raise InputError(f"{option}: {message_of(error.errors(include_url=False)[0])}") from None
