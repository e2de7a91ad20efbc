"""Files that appear whole or not at all, and the folder that a run leaves behind, with its manifest.

    submission.csv       the predictions of the test pairs, as Kaggle wants them: id, then genes
    predictions.parquet  the same with what the ids stand for: pairs, how far they are from the training rows, genes
    oof.parquet          out-of-fold predictions of the training rows: metadata columns, then genes
    scores.json          out-of-fold scores of the pipeline, its members and the baselines
    report.html          all of it in words, tables and pictures
    model/               the trained model (`rapids_pipeline.stack.saved`)
    manifest.json        what made them: versions, device, settings, inputs with hashes, seeds, timings

A run computes everything first and writes it last; the manifest is written after the results it vouches for. Until
then it keeps what it needs to go on in DIR/.run: its finished fits (`rapids_pipeline.backend.store`), and while it
publishes a journal of what it is. One process writes to a folder at a time.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rapids_pipeline.backend.devices import code_hash, installed_versions, provenance
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.limits import require_file

SUBMISSION, OOF, SCORES, MANIFEST = "submission.csv", "oof.parquet", "scores.json", "manifest.json"
MODEL, PREDICTIONS, REPORT = "model", "predictions.parquet", "report.html"
LONGEST_NAME = 1024
"""Letters of a path that settings name."""
FOLDER = "folder"
"""In the context of validators: the folder of the file that settings come from; None for a saved model's."""
RESULTS = (SUBMISSION, PREDICTIONS, OOF, SCORES, REPORT, MODEL, MANIFEST)
MANIFEST_FORMAT = 1
LOCK, UNFINISHED = ".lock", ".unfinished-"
"""The file that a process holds while it writes to a folder; what names of half-written files begin with."""
KEPT, JOURNAL = ".run", "publishing.json"
"""The folder of what an unfinished run keeps, and the file in it that says what is being published."""


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success move it there, on any error remove it.

    The final name therefore never holds half a file, whatever interrupts the writer. The temporary name
    keeps the suffix of `path`, since some writers choose their format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(
        prefix=f"{UNFINISHED}{path.stem}-", suffix=path.suffix, dir=path.parent
    )
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


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield a temporary path as `written_atomically`; a place that cannot be written is an InputError."""
    try:
        with written_atomically(path) as temporary:
            yield temporary
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); make room there, or choose another place"
        ) from error


@contextmanager
def written_folder(path: Path) -> Iterator[Path]:
    """Yield a place to make a folder at; on success it replaces `path`. Errors as `written`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=path.parent) as staging:
            yield Path(staging, path.name)
            move(Path(staging, path.name), path, Path(staging, f"replaced-{path.name}"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); make room there, or choose another place"
        ) from error


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise InputError where a command would replace the file `path`, named by --out, and was not told to."""
    if path.exists() and not overwrite:
        raise InputError(f"--out {path}: exists already; choose another name or add --overwrite")


def from_file(context: Mapping[str, Any] | None) -> bool:
    """Say whether validators see settings that a person's file has, not those of Python or of a saved model."""
    return context is not None and context[FOLDER] is not None


def within(folder: Path | None, name: str) -> Path:
    """Return the path of a file that settings of `folder` name; InputError where it is not in it or below it.

    Settings of no folder, those of a saved model, name no files.
    """
    if folder is None:
        raise InputError(f"{name[:80]!r} is a name, and these settings have to be complete by themselves")
    inside = "\0" not in name and len(name) < LONGEST_NAME and not Path(name).is_absolute()
    try:
        inside = inside and (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a name too long for a file, links in a circle
        inside = False
    if not inside:
        raise InputError(
            f"{name[:80]!r} is not in the folder of the file that names it; copy it there, or write its content "
            "instead of its name"
        )
    return folder / name


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class RunFolder:
    """A folder that a run may write to, checked before the work begins; `locked` meanwhile.

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
        self.path, self.kept = path, path / KEPT
        self.identity = json.loads(json.dumps(identity))
        require_writable(path)
        taken = [name for name in RESULTS if (path / name).exists()]
        # Results without a manifest are this run's where it was killed while it published them.
        found = read_manifest(path / MANIFEST if (path / MANIFEST).exists() else self.kept / JOURNAL)
        if taken and not overwrite and not self._is_of(found):
            raise InputError(
                f"--out {path}: holds another run's {taken[0]}; choose another folder or add --overwrite"
            )

    def finished(self) -> dict[str, Any] | None:
        """Return the manifest where the folder holds all results of this run, by this code; None elsewhere."""
        found = read_manifest(self.path / MANIFEST)
        made_by = {"versions": installed_versions(), "code": code_hash()}
        if not self._is_of(found) or any(found.get(key) != value for key, value in made_by.items()):
            return None
        results = manifest_part(found, "results")
        if set(results) != set(RESULTS) - {MANIFEST} or any(
            results[name] != _bytes_of(self.path / name) for name in results
        ):
            return None
        self._forget()
        return found

    def publish(self, writers: dict[str, Callable[[Path], None]], manifest: dict[str, Any]) -> None:
        """Write every result beside its final place, then move all of them there, the manifest last.

        Parameters
        ----------
        writers : dict of name to function
            Each writes its file, or makes its folder, at the path it is given.
        manifest : dict
            What the manifest says besides the identity, versions, time and the results' sizes.

        Raises
        ------
        InputError
            The disk is full, or a file's name is taken by a folder or a folder's by a file.
        """
        try:
            self.kept.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=self.path) as staging:
                for name, write in writers.items():
                    write(Path(staging, name))
                made = {
                    "code": code_hash(),
                    "results": {name: _bytes_of(Path(staging, name)) for name in writers},
                }
                content = {"format": MANIFEST_FORMAT, **self.identity, **manifest, **provenance(), **made}
                write_json(Path(staging, MANIFEST), content)
                with written_atomically(self.kept / JOURNAL) as journal:
                    write_json(journal, self.identity)
                (self.path / MANIFEST).unlink(missing_ok=True)  # never beside results it did not make
                for name in (*writers, MANIFEST):
                    move(Path(staging, name), self.path / name, Path(staging, f"replaced-{name}"))
            self._forget()
        except OSError as error:
            raise InputError(
                f"--out {self.path}: cannot be written ({error.strerror or error}); finished fits are kept there, and "
                "the same command goes on from them"
            ) from error

    def _is_of(self, found: dict[str, Any]) -> bool:
        return bool(found) and all(found.get(key) == value for key, value in self.identity.items())

    def _forget(self) -> None:
        """Remove what the run kept to go on."""
        if self.kept.is_dir():
            shutil.rmtree(self.kept)


def _bytes_of(path: Path) -> int:
    """Return the size of a file, or of all files in a folder; −1 where there is neither."""
    if path.is_dir():
        return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
    return path.stat().st_size if path.is_file() else -1


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
    """Return how a manifest names an input file: absolute path, size in bytes and SHA-256; errors as `require_file`."""
    require_file(path)
    return {"path": str(path.absolute()), "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def model_folder(path: Path) -> Path:
    """Return the folder of a saved model: `path`, or its `model/` where `path` is the folder of a run."""
    inside = path / MODEL
    return inside if os.path.isdir(inside) else path  # noqa: PTH112 (takes names of any length)


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
