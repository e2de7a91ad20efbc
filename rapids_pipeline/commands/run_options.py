"""From the options of a command line to one validated `RunConfig`; what cannot be used is named by its option."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from features.feature_sets import feature_set
from features.molecules.encoders import chosen_encoder
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.stack.named_recipes import recipe
from rapids_pipeline.stack.recipe import Recipe, RunConfig

T = TypeVar("T")


@dataclass(frozen=True)
class RecipeChanges:
    """What options change in a recipe; None leaves it as it is.

    Attributes
    ----------
    folds : int
    engine : str
        Of the SVRs on shared features.
    boosting_engine : str
    svr_features : str
        Feature sets separated by commas: one SVR member each, with the settings of the recipe's first.
    boosting_features : str
    """

    folds: int | None = None
    engine: str | None = None
    boosting_engine: str | None = None
    svr_features: str | None = None
    boosting_features: str | None = None


def run_config(name: str, changes: RecipeChanges, molecules: str, seed: int) -> RunConfig:
    """Return the settings of a run; the molecules "auto" become an encoder that can be had here.

    Raises
    ------
    InputError
        There is no such recipe or feature set, or a value is out of range; the message names the option.
    """
    changed = changed_recipe(recipe(name), changes)
    encoder, because = chosen_encoder(molecules)
    settings: dict[str, Any] = {"recipe": changed, "molecules": encoder, "molecules_because": because}
    return _named("--seed", lambda: RunConfig(**settings, seed=seed))


def changed_recipe(found: Recipe, changes: RecipeChanges) -> Recipe:
    """Return a recipe with the changes made; errors as `run_config`."""
    if changes.folds is not None:
        found = _named("--folds", lambda: _updated(found, n_folds=changes.folds))
    if changes.svr_features is not None:
        names = [name.strip() for name in changes.svr_features.split(",") if name.strip()]
        sets, first = [feature_set(name) for name in names], found.svrs[0]
        svrs = _named("--svr-features", lambda: tuple(_updated(first, features=chosen) for chosen in sets))
        found = _named("--svr-features", lambda: _updated(found, svrs=svrs))
    if changes.boosting_features is not None:
        chosen = feature_set(changes.boosting_features)
        found = _named(
            "--boosting-features",
            lambda: _updated(found, boosting=_updated(found.boosting, features=chosen)),
        )
    if changes.engine is not None:
        svrs = _named(
            "--engine",
            lambda: tuple(
                svr if svr.features.own_target else _updated(svr, engine=changes.engine) for svr in found.svrs
            ),
        )
        found = _updated(found, svrs=svrs)
    if changes.boosting_engine is not None:
        found = _updated(found, boosting=_updated(found.boosting, engine=changes.boosting_engine))
    return found


def _updated(settings: T, **values: Any) -> T:
    """Return settings with other values, validated."""
    fields = {name: getattr(settings, name) for name in type(settings).model_fields}  # type: ignore[attr-defined]
    return type(settings)(**fields | values)


def _named(option: str, make: Callable[[], T]) -> T:
    """Return what `make` makes; an InputError that names the option where the values cannot be used."""
    try:
        return make()
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        given = "" if isinstance(first["input"], dict) else f" {first['input']}"
        raise InputError(f"{option}{given}: {message[0].lower()}{message[1:]}") from None
