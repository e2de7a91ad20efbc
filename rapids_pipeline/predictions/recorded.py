"""What the manifest of a run records of the files it read and of its settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapids_pipeline.backend.run_folder import manifest_part, read_manifest, recorded_hash


@dataclass(frozen=True)
class Settings:
    """What, besides the test file, determined a run's predictions.

    Attributes
    ----------
    values : dict
        Recipe, molecules, options of reading and the device, by name.
    seed : int or None
    train : str or None
        SHA-256 of the training file.
    """

    values: dict[str, Any]
    seed: int | None
    train: str | None


def recorded_settings(manifest: Path) -> Settings:
    """Return a run's settings as its manifest has them, empty where it has none."""
    content = read_manifest(manifest)
    config, options = dict(manifest_part(content, "config")), manifest_part(content, "options")
    seed = config.pop("seed", None)
    values = config | options | {"device": content.get("device")}
    return Settings(values, seed, recorded_hash(manifest, "train"))


def remarks_on(names: Sequence[str], settings: Sequence[Settings]) -> list[str]:
    """Return what makes a combination of runs questionable: other settings than the first's, or a run that is twice.

    Parameters
    ----------
    names : sequence of str
        What to call the runs.
    settings : sequence of Settings
        Those of the runs, in the same order.
    """
    first, remarks = settings[0], []
    for number, (name, found) in enumerate(zip(names, settings, strict=True)):
        keys = dict.fromkeys([*first.values, *found.values])
        unlike = ["training file"] if found.train != first.train else []
        unlike += [key for key in keys if first.values.get(key) != found.values.get(key)]
        if unlike:
            remarks.append(f"{name} differs from {names[0]} in more than the seed: {', '.join(unlike)}")
        twin = next((names[k] for k in range(number) if settings[k] == found), None)
        if twin is not None:
            remarks.append(
                f"{name} has the training file, settings and seed of {twin}: the same run counts twice"
            )
    return remarks
