"""Result folders and files that one process at a time writes to, and what killed processes left in them.

A lock is a file that its process has locked (flock) and removes in the end. A dead process holds nothing, since the
system lets go of its locks; the file that it leaves is taken by whoever comes next.
"""

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import LOCK, UNFINISHED, require_writable


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made where it is missing, against other processes; a dead process holds nothing.

    What killed processes left half-written in it is removed first. A folder that is empty in the end and was made here
    is removed.

    Raises
    ------
    InputError
        Another process holds it, or it cannot be made or written to.
    """
    require_writable(folder)
    with _made(folder), _held(folder / LOCK, f"--out {folder}"):
        for place in ("", ".*/", ".*/.*/"):  # what unfinished work keeps has names that begin with a dot
            _remove(folder.glob(f"{place}{UNFINISHED}*"))
        yield


class Journal:
    """What the process that holds a file publishes; it stays where that process is killed, for its like to go on.

    Parameters
    ----------
    descriptor : int, optional
        Of the file that is locked; without one nothing is kept.
    path : Path
        What is published, for messages.
    """

    def __init__(self, descriptor: int | None = None, path: Path = Path()) -> None:
        self._descriptor, self._path = descriptor, path

    def is_of(self, identity: Mapping[str, Any]) -> bool:
        """Say whether a process was stopped while it published what has this identity."""
        return self._descriptor is not None and os.pread(self._descriptor, 64, 0) == self._key(identity)

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Write down that results of this identity are being published (InputError: the disk is full)."""
        if self._descriptor is None:
            return
        try:
            os.pwrite(self._descriptor, self._key(identity), 0)
        except OSError as error:
            raise InputError(
                f"--out {self._path}: cannot be written ({error.strerror}); make room there"
            ) from error

    @staticmethod
    def _key(identity: Mapping[str, Any]) -> bytes:
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest().encode()


@contextmanager
def locked_file(path: Path, beside: Iterable[Path] = ()) -> Iterator[Journal]:
    """Hold a file that will be written against other processes, as `locked` does a folder, with files beside it."""
    require_writable(path.parent)
    with _made(path.parent), _held(path.with_name(f".{path.name}{LOCK}"), f"--out {path}") as descriptor:
        for one in (path, *beside):
            stem, suffix = glob.escape(one.stem), glob.escape(one.suffix)
            _remove(one.parent.glob(f"{UNFINISHED}{stem}-????????{suffix}"))
        yield Journal(descriptor, path)


def _remove(left: Iterable[Path]) -> None:
    for path in list(left):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder where it is missing; what was made and is empty in the end is removed."""
    created = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for one in created:
            with suppress(OSError):  # holds something, or is gone
                one.rmdir()


@contextmanager
def _held(lock: Path, what: str) -> Iterator[int]:
    """Hold a lock file, and remove it in the end; where the work failed it stays if something is written in it."""
    descriptor = _taken(lock, what)
    failed = True
    try:
        yield descriptor
        failed = False
    finally:
        if not (failed and os.fstat(descriptor).st_size):
            with suppress(OSError):  # the folder was deleted meanwhile
                lock.unlink()
        os.close(descriptor)


def _taken(lock: Path, what: str) -> int:
    import fcntl

    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(f"{what}: cannot be written ({error.strerror})") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it removed it in the end: the name may be another file's by now, which others hold.
            if lock.exists() and os.path.samestat(os.fstat(descriptor), lock.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise InputError(
                f"{what}: another process is writing there; wait for it to end, or choose another name"
            ) from None
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(descriptor)
            raise InputError(
                f"{what}: its file system cannot lock files ({error.strerror}), so two processes could mix their "
                "results; choose another disk"
            ) from error
        os.close(descriptor)
