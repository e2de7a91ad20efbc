"""What the manifest of a run records of the files it read and of its settings."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapids_pipeline.backend.files import sha256_of


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


def recorded_input(manifest: Path, name: str) -> tuple[Path | None, str]:
    """Return the file that a run's manifest names as its input `name`, or None and why it is not to be had."""
    try:
        recorded: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))["inputs"][name]
        path, expected = Path(recorded["path"]), str(recorded["sha256"])
    except FileNotFoundError:
        return None, f"there is no {manifest} to name the run's {name} file"
    except (OSError, ValueError, KeyError, TypeError):
        return None, f"the run's manifest names no {name} file"
    if not path.is_file():
        return None, f"the run's {name} file {path} is gone"
    if sha256_of(path) != expected:
        return None, f"the run's {name} file {path} has changed since"
    return path, ""


def recorded_hash(manifest: Path, name: str) -> str | None:
    """Return the SHA-256 that a run's manifest has for its input `name`, None where it has none."""
    found = _part(_part(_content(manifest), "inputs"), name).get("sha256")
    return None if found is None else str(found)


def recorded_settings(manifest: Path) -> Settings:
    """Return a run's settings as its manifest has them, empty where it has none."""
    content = _content(manifest)
    config, options = dict(_part(content, "config")), _part(content, "options")
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


def _content(manifest: Path) -> dict[str, Any]:
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _part(content: dict[str, Any], name: str) -> dict[str, Any]:
    found = content.get(name)
    return found if isinstance(found, dict) else {}
