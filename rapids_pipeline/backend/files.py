"""Files that appear whole or not at all, and the folder that a run leaves behind, with its manifest.

    submission.csv   the predictions of the test pairs
    oof.parquet      out-of-fold predictions of the training rows: metadata columns, then genes
    scores.json      out-of-fold scores of the pipeline, its members and the baselines
    model/           the trained model (`rapids_pipeline.stack.saved`)
    manifest.json    what made them: versions, device, settings, inputs with hashes, seeds, timings

A run computes everything first and writes it last; the manifest is written after the results it vouches for. Settings
come from files, too: those that have no name are read from TOML.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rapids_pipeline.backend.devices import provenance
from rapids_pipeline.backend.errors import InputError, first_fault

if TYPE_CHECKING:
    from pydantic import BaseModel

S = TypeVar("S", bound="BaseModel")

SUBMISSION, OOF, SCORES, MANIFEST = "submission.csv", "oof.parquet", "scores.json", "manifest.json"
MODEL = "model"
RESULTS = (SUBMISSION, OOF, SCORES, MODEL, MANIFEST)
MANIFEST_FORMAT = 1


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success move it there, on any error remove it.

    The final name therefore never holds half a file, whatever interrupts the writer. The temporary name
    keeps the suffix of `path`, since some writers choose their format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise InputError where a command would replace the file `path`, named by --out, and was not told to."""
    if path.exists() and not overwrite:
        raise InputError(f"--out {path}: exists already; choose another name or add --overwrite")


def by_name_or_toml(name: str | Path, known: Mapping[str, S], settings: type[S], what: str) -> S:
    """Return the settings of a known name, or those that a TOML file has, checked by their pydantic class.

    Raises
    ------
    InputError
        No such name (the message lists them, and calls them `what`) or file, or a file with other content (the
        message names the key).
    """
    import tomllib

    from pydantic import ValidationError

    if str(name) in known:
        return known[str(name)]
    path = Path(name)
    if path.suffix != ".toml":
        raise InputError(f"no {what} {str(name)!r}; choose among {', '.join(known)}, or name a .toml file")
    try:
        return settings.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file ({error})") from None
    except ValidationError as error:
        raise InputError(f"{path}: {first_fault(error)}") from None


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class RunFolder:
    """A folder that a run may write to, checked before the work begins.

    Parameters
    ----------
    path : Path
        The folder; it need not exist, and is not made before `publish`.
    identity : dict
        What determines the results: inputs' hashes and settings. Results of the same identity may be
        replaced, since they are the same results.
    overwrite : bool
        Replace the results of another run, too.

    Raises
    ------
    InputError
        The path is a file, cannot be written to, or holds another run's results and `overwrite` is false.
    """

    def __init__(self, path: Path, identity: dict[str, Any], *, overwrite: bool = False) -> None:
        self.path = path
        self.identity = identity
        require_writable(path)
        taken = [name for name in RESULTS if (path / name).exists()]
        found = read_manifest(path / MANIFEST)
        same = bool(found) and all(found.get(key) == value for key, value in identity.items())
        if taken and not overwrite and not same:
            raise InputError(
                f"--out {path}: holds another run's {taken[0]}; choose another folder or add --overwrite"
            )

    def publish(self, writers: dict[str, Callable[[Path], None]], manifest: dict[str, Any]) -> None:
        """Write every result beside its final place, then move all of them there, the manifest last.

        Parameters
        ----------
        writers : dict of name to function
            Each writes its file, or makes its folder, at the path it is given.
        manifest : dict
            What the manifest says besides the identity, versions and time.

        Raises
        ------
        InputError
            The disk is full, or a file's name is taken by a folder or a folder's by a file.
        """
        created = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=self.path) as staging:
                for name, write in writers.items():
                    write(Path(staging, name))
                content = {"format": MANIFEST_FORMAT, **self.identity, **manifest, **provenance()}
                write_json(Path(staging, MANIFEST), content)
                (self.path / MANIFEST).unlink(missing_ok=True)  # never beside results it did not make
                for name in (*writers, MANIFEST):
                    move(Path(staging, name), self.path / name, Path(staging, f"replaced-{name}"))
        except OSError as error:
            raise InputError(f"--out {self.path}: cannot be written ({error.strerror or error})") from error
        finally:
            for folder in created:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()


def require_writable(path: Path) -> None:
    """Raise InputError where `path` is not a folder that can be written to, nor can be made one."""
    try:
        existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    except OSError as error:
        raise InputError(f"--out {path}: cannot be a folder ({error.strerror})") from error
    if existing == path and not path.is_dir():
        raise InputError(f"--out {path}: is a file, expected a folder")
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        remedy = "choose another folder (in a container: docker run --user $(id -u):$(id -g))"
        raise InputError(f"--out {path}: {existing} cannot be written to; {remedy}")


def describe_input(path: Path) -> dict[str, Any]:
    """Return how a manifest names an input file: absolute path, size in bytes and SHA-256."""
    return {"path": str(path.absolute()), "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def model_folder(path: Path) -> Path:
    """Return the folder of a saved model: `path`, or its `model/` where `path` is the folder of a run."""
    return path / MODEL if (path / MODEL).is_dir() else path


def write_json(path: Path, content: Any) -> None:
    """Write JSON with sorted-as-given keys, two spaces of indent and a final newline."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_manifest(manifest: Path) -> dict[str, Any]:
    """Return what a run's manifest says, empty where there is none or it cannot be read."""
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def manifest_part(content: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the object that a manifest, or a part of one, has under a name, empty where it has none."""
    found = content.get(name)
    return found if isinstance(found, dict) else {}


def recorded_hash(manifest: Path, name: str) -> str | None:
    """Return the SHA-256 that a run's manifest has for its input `name`, None where it has none."""
    found = manifest_part(manifest_part(read_manifest(manifest), "inputs"), name).get("sha256")
    return None if found is None else str(found)


def recorded_input(manifest: Path, name: str) -> tuple[Path | None, str]:
    """Return the file that a run's manifest names as its input `name`, or None and why it is not to be had.

    A relative path is looked for from the working folder, then from the manifest's. The file must still have the
    SHA-256 that the manifest has for it.
    """
    if not manifest.exists():
        return None, f"there is no {manifest} to name the run's {name} file"
    recorded = manifest_part(manifest_part(read_manifest(manifest), "inputs"), name)
    if not isinstance(recorded.get("path"), str) or "sha256" not in recorded:
        return None, f"the run's manifest names no {name} file"
    path = Path(recorded["path"])
    found = next((place for place in (path, manifest.parent / path) if place.is_file()), None)
    if found is None:
        return None, f"the run's {name} file {path} is gone"
    if sha256_of(found) != recorded["sha256"]:
        return None, f"the run's {name} file {found} has changed since"
    return found, ""


def move(made: Path, place: Path, aside: Path) -> None:
    """Move a file or folder into place; what was there is replaced, and a folder stays if that fails."""
    if not (made.is_dir() and place.is_dir()):
        made.replace(place)
        return
    place.replace(aside)  # a folder does not replace one that holds files
    try:
        made.replace(place)
    except BaseException:
        aside.replace(place)
        raise
