"""A saved model: a folder of plain data, written and read without pickle.

    manifest.json       format, time, package versions, what the caller says `about` the model, and every other file
                        with its size and SHA-256; `seal` is the SHA-256 of all that
    state.json          the state, part by part; an array is {"$array": its name in the part's file}
    NAME.safetensors    the arrays of part NAME, none where it has no arrays

Reading runs no code from the folder. Nothing in it is believed before its kind, its size and its hash were checked,
in this order; whatever does not fit ends in one line that names the folder, the file and what to do. Files that the
manifest does not list are not looked at.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rapids_pipeline.backend.devices import installed_versions
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import sha256_of
from rapids_pipeline.backend.state import State, StateReader, arrays_of, joined, save_arrays, split

__all__ = ["FORMAT", "Bundle", "read_bundle", "write_bundle"]

FORMAT = 2
MANIFEST, STATE, ARRAYS = "manifest.json", "state.json", ".safetensors"
LARGEST_MANIFEST, LARGEST_STATE = 16 * 2**20, 32 * 2**20
"""Bytes; read as Python objects they take up to about twenty times as much memory."""
MOST_FILES = 10_000
PART_NAME = r"[a-z][a-z0-9_]{0,63}"
REMEDY = "train again or copy the folder again"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _File(BaseModel):
    """A file as the manifest lists it; its name cannot leave the folder."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(pattern=rf"^(state\.json|{PART_NAME}\.safetensors)$")]
    bytes: Annotated[int, Field(ge=0)]
    sha256: Digest


class _Manifest(BaseModel):
    """The manifest; `seal` is of everything else."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: int
    created: str
    versions: dict[str, str]
    about: dict[str, Any]
    files: Annotated[list[_File], Field(max_length=MOST_FILES)]
    seal: Digest


@dataclass(frozen=True)
class Bundle:
    """A saved model as read.

    Attributes
    ----------
    about : dict
        What `write_bundle` was told.
    state : StateReader
        Its source is the folder's path; it has a part for each part written.
    versions : dict of str to str
        Packages of the run that wrote it (`installed_versions`).
    created : str
        When it was written, UTC.
    """

    about: dict[str, Any]
    state: StateReader
    versions: dict[str, str]
    created: str


def write_bundle(folder: Path, state: State, about: Mapping[str, Any]) -> None:
    """Write a state as a folder of its own.

    Equal states in equal order give equal bytes, but for the manifest's time and versions.

    Parameters
    ----------
    folder : Path
        Must not exist. It is not removed where writing fails: write in a staging place.
    state : mapping of str to mapping
        The parts, by names of lower-case letters, digits and underscores. Names within a part are of letters, digits,
        "_" and "-"; values as `rapids_pipeline.backend.state.State` says, arrays of numpy in float32, float64, int32,
        int64, uint8 or bool.
    about : mapping
        What JSON can hold: what the model was trained on and by.

    Raises
    ------
    ValueError
        The state or `about` is no such data (the place is named), or too large.
    OSError
        The folder exists or cannot be written to.
    """
    folder.mkdir()
    content, files = {}, []
    for name, part in state.items():
        if not re.fullmatch(PART_NAME, name) or not isinstance(part, Mapping):
            raise ValueError(f"{name!r} is no part of a state: a lower-case name and a mapping")
        content[name], arrays = split(part, name)
        if arrays:
            save_arrays(arrays, folder / f"{name}{ARRAYS}")
            files.append(f"{name}{ARRAYS}")
    _write(folder / STATE, content, LARGEST_STATE)
    manifest = {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": installed_versions(),
        "about": json.loads(
            _text(MANIFEST, about)
        ),  # names are strings now: the seal is of what is read back
        "files": [_described(folder / name) for name in (STATE, *files)],
    }
    _write(folder / MANIFEST, manifest | {"seal": _seal(manifest)}, LARGEST_MANIFEST)


def read_bundle(folder: Path) -> Bundle:
    """Read what `write_bundle` wrote.

    Memory stays under the size of the files plus that of the largest of them, but for the two JSON files.

    Raises
    ------
    InputError
        The folder is no saved model or one of a newer format, or a file of it is missing, changed, cut or too large.
        The message is one line that names folder, file and remedy.
    """
    manifest = _manifest(folder)
    listed = {file.name: file for file in manifest.files}
    if len(listed) < len(manifest.files):
        raise _fault(folder, MANIFEST, "lists a file twice")
    if STATE not in listed:
        raise _fault(folder, MANIFEST, f"lists no {STATE}")
    content = _parsed(folder, STATE, _checked(folder, listed.pop(STATE), LARGEST_STATE))
    if not all(re.fullmatch(PART_NAME, name) for name in content):
        raise _fault(folder, STATE, "has a part of no usable name")
    arrays: dict[str, Any] = {name: {} for name in content}
    for name, file in listed.items():
        part = name.removesuffix(ARRAYS)
        if part not in content:
            raise _fault(folder, STATE, f"has no part {part}, and there is a file of its arrays")
        found = _checked(folder, file)
        try:
            arrays[part] = arrays_of(found)
        except ValueError as error:
            raise _fault(folder, name, f"holds no usable arrays ({error})") from None
    try:
        state = {name: joined(part, name, arrays[name]) for name, part in content.items()}
    except ValueError as error:
        raise _fault(folder, STATE, f"does not fit the arrays ({error})") from None
    return Bundle(manifest.about, StateReader(state, str(folder)), manifest.versions, manifest.created)


def _manifest(folder: Path) -> _Manifest:
    """Read and check the manifest; what it lists is not looked at yet."""
    content = _parsed(folder, MANIFEST, _content(folder, MANIFEST, LARGEST_MANIFEST))
    found = content.get("format")
    if type(found) is int and found > 0 and found != FORMAT:
        made = "a newer" if found > FORMAT else "an earlier"
        remedy = "upgrade" if found > FORMAT else "train again"
        raise InputError(
            f"{folder}: {MANIFEST}: made by {made} version, format {str(found)[:20]}; this program reads format "
            f"{FORMAT}: {remedy}"
        )
    if found != FORMAT:
        raise _fault(folder, MANIFEST, f"says no format that this program reads ({FORMAT})")
    try:
        manifest = _Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part)[:40] for part in first["loc"])
        raise _fault(folder, MANIFEST, f"has no usable {place!r} ({first['msg'].lower()})") from None
    try:
        unchanged = _seal({key: value for key, value in content.items() if key != "seal"}) == manifest.seal
    except (RecursionError, ValueError):
        raise _fault(folder, MANIFEST, "is nested too deeply or holds what is no number") from None
    if not unchanged:
        raise _fault(folder, MANIFEST, "was changed after it was written (its seal does not fit)")
    return manifest


def _checked(folder: Path, file: _File, limit: int | None = None) -> bytes:
    """Return the bytes of a listed file after checking size and hash, in this order."""
    content = _content(folder, file.name, limit, file.bytes)
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise _fault(folder, file.name, "was changed after it was written (its hash does not fit)")
    return content


def _content(folder: Path, name: str, limit: int | None, size: int | None = None) -> bytes:
    """Return the bytes of a regular file of the folder; InputError for links, pipes and a size that is not as told."""
    flags = (
        os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    path = folder / name
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise _fault(folder, name, "is no regular file")
        with os.fdopen(os.open(path, flags), "rb") as stream:
            found = os.fstat(stream.fileno()).st_size
            if limit is not None and found > limit:
                raise _fault(folder, name, f"has {found} bytes, more than {limit}")
            if size is not None and found != size:
                raise _fault(
                    folder, name, f"has {found} bytes and should have {str(size)[:20]}: it was cut or changed"
                )
            return stream.read(found)
    except FileNotFoundError:
        raise _fault(folder, name, "is missing") from None
    except MemoryError:
        raise _fault(folder, name, "does not fit into memory") from None
    except OSError as error:
        raise _fault(folder, name, f"cannot be read ({error.strerror or error})") from None


def _parsed(folder: Path, name: str, content: bytes) -> dict[str, Any]:
    """Return the object of a JSON file: no value named twice, no NaN, not deeper than Python's recursion."""
    try:
        found = json.loads(content.decode(), object_pairs_hook=_each_once, parse_constant=_no_number)
    except RecursionError:
        raise _fault(folder, name, "is nested too deeply") from None
    except ValueError as error:
        raise _fault(folder, name, f"is no usable JSON ({str(error)[:80]})") from None
    if not isinstance(found, dict):
        raise _fault(folder, name, "is no JSON object")
    return found


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name occurs twice")
    return dict(pairs)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _seal(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest's canonical JSON: sorted names, no white space, ASCII only."""
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _described(path: Path) -> dict[str, Any]:
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _text(name: str, content: Mapping[str, Any]) -> str:
    """Return the text of a JSON file; ValueError, with the file's name, where JSON cannot hold the content."""
    try:
        return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
    except RecursionError:
        raise ValueError(f"{name}: nested too deeply") from None


def _write(path: Path, content: Mapping[str, Any], limit: int) -> None:
    """Write a JSON file of at most `limit` bytes."""
    encoded = _text(path.name, content).encode()
    if len(encoded) > limit:
        raise ValueError(
            f"{path.name} would have {len(encoded)} bytes, more than the {limit} that are read back"
        )
    path.write_bytes(encoded)


def _fault(folder: Path, name: str, what: str) -> InputError:
    return InputError(f"{folder}: {name} {what}; {REMEDY}")
