"""What long work keeps: finished fits on disk, so that it goes on where it stopped, and in memory what fits share.

    DIR/.finished/KEY.safetensors,  KEY = SHA-256 of all that a fit depends on

The key covers the data, the rows, the settings, the device, the versions of the packages and this program's code, so
what other work left in the folder is never taken for this one's. An entry holds arrays and a small JSON document, with
a hash of both: an entry that is damaged, or that was made for another key, counts as missing and is made anew.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rapids_pipeline.backend.devices import code_hash, installed_versions
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import written_atomically
from rapids_pipeline.backend.state import State, joined, split

if TYPE_CHECKING:
    from pandas import DataFrame

V = TypeVar("V")
FOLDER = ".finished"


class Kept(NamedTuple):
    """A finished fit: its arrays by name, and what else there is to know, as JSON has it."""

    arrays: dict[str, NDArray[Any]]
    facts: Any = None

    @classmethod
    def of_state(cls, state: State) -> "Kept":
        """Return what a fitted model has learnt as a finished fit (`rapids_pipeline.backend.state`)."""
        tree, arrays = split(state, "model")
        return cls(arrays, tree)

    @property
    def state(self) -> State:
        """What a fitted model has learnt, of a fit that `of_state` made."""
        return joined(self.facts, "model", dict(self.arrays))


class Store:
    """The finished fits of a study or a run.

    Parameters
    ----------
    folder : Path or None
        Result folder of the work. The store is made in it when the first fit is kept; None keeps nothing.
    *study
        What all fits depend on, as `content_hash` takes it. Versions of packages and this program's code are added.
    """

    def __init__(self, folder: Path | None, *study: object) -> None:
        self._folder = None if folder is None else folder / FOLDER
        self.study = content_hash(installed_versions(), code_hash(), *study)

    def get(self, *fit: object) -> Kept | None:
        """Return a finished fit, None where there is none; `fit` is what the fit depends on besides the study."""
        if self._folder is None:
            return None
        key = content_hash(self.study, *fit)
        try:
            with safe_open(self._path(key), framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
                metadata = file.metadata()
            kept = Kept(arrays, json.loads(metadata["facts"]))
            whole = metadata["content"] == content_hash(key, *kept)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        return kept if whole else None

    def put(self, kept: Kept, *fit: object) -> None:
        """Keep a finished fit, whole or not at all.

        Raises
        ------
        InputError
            It cannot be written, such as where the disk is full; what was kept before stays.
        """
        if self._folder is None:
            return
        key = content_hash(self.study, *fit)
        arrays = {name: np.ascontiguousarray(array) for name, array in kept.arrays.items()}
        facts = json.dumps(kept.facts)
        metadata = {"facts": facts, "content": content_hash(key, arrays, json.loads(facts))}
        size = sum(array.nbytes for array in arrays.values())
        try:
            with written_atomically(self._path(key)) as path:
                save_file(arrays, path, metadata)
        except (OSError, SafetensorError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise InputError(
                f"{self._folder}: a finished fit of {size / 1e6:.1f} MB cannot be kept ({why}); make room there, "
                "and the same command goes on from the fits that are kept"
            ) from error

    def once(self, make: Callable[[], Kept], *fit: object) -> Kept:
        """Return a finished fit, of the store or else made and kept."""
        kept = self.get(*fit)
        if kept is None:
            kept = make()
            self.put(kept, *fit)
        return kept

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{key[:32]}.safetensors"


class Recent:
    """Values by key in bounded memory: those used longest ago are dropped, and made again when they are wanted again.

    Parameters
    ----------
    limit : int
        Bytes of all values together; the latest stays whatever its size.
    size_of : callable
        The bytes of a value.
    """

    def __init__(self, limit: int, size_of: Callable[[Any], int]) -> None:
        self.limit, self._size_of, self._bytes = limit, size_of, 0
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def once(self, key: Hashable, make: Callable[[], V]) -> V:
        """Return what was made for a key before, or make it."""
        if key in self._kept:
            self._kept.move_to_end(key)
            kept: V = self._kept[key]
            return kept
        made = make()
        self._kept[key] = made
        self._bytes += self._size_of(made)
        while self._bytes > self.limit and len(self._kept) > 1:
            self._bytes -= self._size_of(self._kept.popitem(last=False)[1])
        return made


def content_hash(*parts: object) -> str:
    """Return the SHA-256 of arrays, frames, dataclasses, settings, mappings, sequences, and all that JSON has."""
    found = hashlib.sha256()
    for piece in _pieces(parts):
        found.update(piece)
    return found.hexdigest()


def _is_frame(part: object) -> TypeGuard["DataFrame"]:
    from pandas import DataFrame  # heavy, and here whoever has a frame has it

    return isinstance(part, DataFrame)


def _pieces(part: object) -> Iterator[Any]:
    """Yield the bytes of a value; before each value its kind and its size, so that no two values share their bytes."""
    if isinstance(part, np.ndarray) and part.dtype != object:
        yield f"array {part.dtype.str} {part.shape}\n".encode()
        yield np.ascontiguousarray(part).data
    elif _is_frame(part):
        yield from _pieces({str(name): list(map(str, part[name])) for name in part.columns})
    elif is_dataclass(part) and not isinstance(part, type):
        yield from _pieces([getattr(part, field.name) for field in fields(part)])
    elif isinstance(part, BaseModel):
        yield from _pieces(part.model_dump(mode="json"))
    elif isinstance(part, Mapping):
        yield f"mapping {len(part)}\n".encode()
        for name in sorted(part):
            yield from _pieces(name)
            yield from _pieces(part[name])
    elif isinstance(part, list | tuple) and not all(isinstance(one, str) for one in part):
        yield f"sequence {len(part)}\n".encode()
        for one in part:
            yield from _pieces(one)
    else:
        text = json.dumps(part)
        yield f"json {len(text)} {text}\n".encode()
