"""Trials of commands under a fault of the machine: how one ends, and whether it goes on when the fault is gone."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.faults.attempts import Act, Ended, attempt, differences, half_files, snapshot
from benchmarks.faults.kills import Command, Reference

DISK = 64 * 2**20
PAGE = 4096
ANNOUNCED = (
    "device: ",
    "molecules: ",
    "  ",
    "warning: ",
    "finished ",
    "interrupted",
    "terminated",
    "nothing to do",
)
"""How lines on stderr begin that are no errors."""
DELETED = "output folder deleted"
FULL = r"No space left|File too large|room|need"
LONGEST = 500


@dataclass(frozen=True)
class Fault:
    """A command under a fault.

    Attributes
    ----------
    kind, name : str
        What is wrong, and the case of it.
    command : Command
    codes : tuple of int
        With which exit codes it may end.
    says : str
        What the error line has to match, where it ends with 2.
    free : int, optional
        Bytes that are free on the disk of the working folder.
    read_only : bool
        Whether the disk can only be read.
    before, setup, fresh, meanwhile
        As `attempts.attempt` takes them.
    """

    kind: str
    name: str
    command: Command
    codes: tuple[int, ...] = (2,)
    says: str = ""
    free: int | None = None
    read_only: bool = False
    before: Mapping[int, Act] = field(default_factory=dict)
    setup: Act | None = None
    fresh: bool = False
    meanwhile: Callable[[int], None] | None = None


def tried(fault: Fault, known: Reference, place: Path) -> dict[str, Any]:
    """Run a command under its fault, then without it, and say what is wrong with how that went."""
    violations: list[str] = []
    shutil.rmtree(place, ignore_errors=True)
    with _disk(place, fault) as folder:
        emptied_into(folder, known.before)
        ballast = folder / "ballast"
        if fault.free is not None:
            _fill(ballast, fault.free)
        if fault.read_only:
            _remount(place, "ro")
        ended = attempt(
            fault.command.words,
            folder,
            before=fault.before,
            setup=fault.setup,
            fresh=fault.fresh,
            meanwhile=fault.meanwhile,
        )
        if fault.read_only:
            _remount(place, "rw")
        ballast.unlink(missing_ok=True)
        violations += judged(ended, fault.codes, fault.says)
        violations += half_files(snapshot(folder), known.old, known.final)
        left = differences(snapshot(folder), known.final)
        if ended.code == 0 and fault.kind != DELETED:  # what was deleted after it was written is not there
            violations += left
        elif left:  # what is finished may refuse to be made again
            kept = _finished(folder)
            again = attempt(fault.command.words, folder)
            if again.code and fault.kind == DELETED and "add --overwrite" in again.err:
                # What it knew of its own results was deleted, too.
                again = attempt([*fault.command.words, "--overwrite"], folder)
            if again.code:
                violations.append(f"refused restart: exit {again.code}: {_tail(again.err)}")
            else:
                violations += differences(snapshot(folder), known.final)
                made = sum(
                    operation.startswith("rename") and _kept_name(operation) for operation in again.operations
                )
                usual = sum(
                    operation.startswith("rename") and _kept_name(operation) for operation in known.operations
                )
                if made + kept > usual:
                    violations.append(
                        f"{kept} finished units were there, and {made} of {usual} were made again"
                    )
    said = [
        f"{one} ({fault.name}; {fault.command.name}; exit {ended.code}: {_tail(ended.err)})"
        for one in violations
    ]
    return {"name": fault.kind, "hit": int(ended.code != 0 or 0 in fault.codes), "violations": said}


def emptied_into(folder: Path, like: Path) -> None:
    """Copy what a command finds into a folder that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(like, folder, symlinks=True, dirs_exist_ok=True)


def judged(ended: Ended, codes: tuple[int, ...], says: str) -> list[str]:
    """Return what is wrong with how a command ended."""
    wrong = []
    for sign in ("Traceback", "Exception ignored", "[hung"):
        if sign in ended.err or sign in ended.out:
            wrong.append(f"{sign}: {_tail(ended.err, 600)}")
    if ended.code not in codes:
        wrong.append(f"exit code {ended.code}, expected {' or '.join(map(str, codes))}")
    lines = [line for line in ended.err.splitlines() if line.strip() and not line.startswith(ANNOUNCED)]
    if ended.code == 2:
        if len(lines) != 1 or not lines[0].startswith("error: ") or len(lines[0]) > LONGEST:
            wrong.append(f"not one line of at most {LONGEST} characters: {lines}")
        elif says and not re.search(says, lines[0]):
            wrong.append(f"the line does not say {says!r}")
    elif ended.code in (0, 130, 143) and any(line.startswith("error: ") for line in lines):
        wrong.append("an error line, and an exit code that says otherwise")
    return wrong


def _finished(folder: Path) -> int:
    return sum(1 for path in folder.rglob(".finished/*.safetensors") if not path.name.startswith("."))


def _kept_name(operation: str) -> bool:
    return ".finished/" in operation.rpartition(" ")[2]


def _tail(text: str, length: int = 300) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-3:])[-length:]


# --- disks ---------------------------------------------------------------------------------------------


def mounts() -> bool:
    """Say whether this process may mount small disks."""
    with tempfile.TemporaryDirectory() as place:
        if subprocess.run(
            [*"mount -t tmpfs -o size=1m tmpfs".split(), place], capture_output=True, check=False
        ).returncode:
            return False
        subprocess.run(["umount", place], check=True)
        return True


@contextmanager
def _disk(place: Path, fault: Fault) -> Iterator[Path]:
    """Make the folder of a trial, on a disk of its own where the fault is one of disks."""
    place.mkdir(parents=True, exist_ok=True)
    if fault.free is None and not fault.read_only:
        yield place / "work"
        return
    subprocess.run([*f"mount -t tmpfs -o size={DISK} tmpfs".split(), str(place)], check=True)
    try:
        yield place / "work"
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _fill(ballast: Path, free: int) -> None:
    """Leave so many bytes free on a disk."""
    left = os.statvfs(ballast.parent).f_bavail * PAGE
    with ballast.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, max(left - free, 1))


def _remount(place: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True)
