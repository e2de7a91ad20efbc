"""What a process does while an attack is under way: files it opens, programs, connections and code that it runs.

Python's audit events see what goes through Python; inotify also sees what a library opens by itself. An audit hook
cannot be taken away again, so there is one, which looks only while `watching` is entered.
"""

import ctypes
import os
import struct
import sys
import sysconfig
import tempfile
from contextlib import contextmanager
from pathlib import Path

from rapids_pipeline.data.readers import PROBE

ROOT = Path(__file__).parents[2]
SECRET, PAYLOAD = "s3cr3t_content", "pwn3d_payload"
"""What stands in every file that must not be read; what stands in all code of the attacks."""
PROGRAMS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "pty.spawn"}
NETWORK = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request"}
OWN = [ROOT, *map(Path, {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()})]
SYSTEM = [
    Path(place)
    for place in ("/usr", "/lib", "/etc/ld.so.cache", "/proc", "/sys", "/dev/null", "/dev/urandom")
]
SYSTEM += [Path("/etc/mime.types"), Path("/etc/fonts"), Path("/etc/localtime"), Path("/etc/os-release")]
DANGEROUS = {"os", "posix", "subprocess", "runpy", "exec", "eval", "compile", "open", "__import__", "getattr"}
"""Modules and functions that nothing here unpickles."""
IN_ACCESS, IN_OPEN = 0x1, 0x20

_watches: list["Watch"] = []


class Watch:
    """Faults found while it is entered; `outside` must not be opened, `allowed` may."""

    def __init__(self, outside, allowed):
        self.faults, self.outside = [], outside
        # not resolved: ~/.venv and /tmp may be links
        self.allowed = [*OWN, *SYSTEM, *map(Path, allowed), Path(tempfile.gettempdir(), "weights-")]
        self.allowed += [place.resolve() for place in self.allowed]

    def see(self, event, arguments):
        """Note an audit event that an attack should not cause."""
        if event == "open":
            self._opened(arguments[0])
        elif event == "subprocess.Popen" and [*arguments[1]][1:4] == ["-P", "-c", PROBE]:
            pass  # reads an HDF5 file before this process does; inotify sees what it opens
        elif event in NETWORK or (event in PROGRAMS and arguments[0] != "uname"):  # `platform` asks that one
            self.faults.append(f"{event} {arguments!r}"[:300])
        elif event == "import" and PAYLOAD in str(arguments[0]):
            self.faults.append(f"import {arguments[0]}")
        elif event == "compile" and PAYLOAD in str(arguments):
            self.faults.append(f"compile {arguments!r}"[:300])
        elif event == "exec" and PAYLOAD in f"{arguments[0].co_filename}{arguments[0].co_consts}":
            self.faults.append(f"exec {arguments[0]!r}")
        elif event == "pickle.find_class" and (arguments[0] in DANGEROUS or arguments[1] in DANGEROUS):
            self.faults.append(f"unpickled {arguments!r}")

    def _opened(self, path):
        if not isinstance(path, str | bytes | os.PathLike):
            return
        place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 (links as they are)
        real = os.path.realpath(place)
        inside = any(one.startswith(f"{self.outside}{os.sep}") for one in (place, real))
        if inside or not all(
            any(one.startswith(str(fine)) for fine in self.allowed) for one in (place, real)
        ):
            self.faults.append(f"open {place}")


def _hook(event, arguments):
    for watch in _watches:
        watch.see(event, arguments)


sys.addaudithook(_hook)


@contextmanager
def watching(outside: Path, *allowed: Path):
    """Fail where a file of `outside` is opened, or any file but Python's, the project's and those of `allowed`."""
    watch = Watch(outside, allowed)
    with _opens_of(outside) as opened:
        _watches.append(watch)
        try:
            yield watch
        finally:
            _watches.remove(watch)
        names = opened()
    assert not watch.faults, watch.faults
    assert not names, f"opened by a library: {names}"
    left = [path for place in map(Path, allowed) for path in place.rglob(f"{PAYLOAD}*.ran")]
    assert not left, f"code was run: {left}"


@contextmanager
def _opens_of(folder: Path):
    """Yield a function that names the files of a folder that anything has opened since."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    assert descriptor >= 0
    for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        assert libc.inotify_add_watch(descriptor, os.fsencode(place), IN_OPEN | IN_ACCESS) >= 0

    def names():
        found = set()
        try:
            events = os.read(descriptor, 2**20)
        except BlockingIOError:
            return found
        while events:
            _, _, _, length = struct.unpack_from("iIII", events)
            if length:  # a file; the folder itself may be listed
                found.add(events[16 : 16 + length].rstrip(b"\0").decode())
            events = events[16 + length :]
        return found

    try:
        yield names
    finally:
        os.close(descriptor)


def secrets(folder: Path) -> Path:
    """Make a folder of files that no attack may read: settings, weights' files, a table, a module that tells."""
    outside = folder / "outside"
    outside.mkdir()
    for name in (
        "secret.toml",
        "secret.json",
        "vocab.txt",
        "tokenizer.json",
        "model.safetensors",
        "table.csv",
    ):
        (outside / name).write_text(f"{SECRET} = 1\n")
    (outside / f"{PAYLOAD}.py").write_text(code(folder))
    return outside


def code(folder: Path) -> str:
    """Return a module that leaves a file in `folder` where it is run."""
    return f"open({str(folder / f'{PAYLOAD}.ran')!r}, 'w').close()\n"


class Bomb:
    """An object whose pickle runs code."""

    def __init__(self, folder: Path) -> None:
        self.text = code(folder)

    def __reduce__(self):
        return exec, (self.text,)


def told(result, code=(2, 3)):
    """Check that a command was refused in one line without what it must not know; return the line."""
    assert result.exit_code in code, result.output
    lines = [
        line for line in result.stderr.splitlines() if not line.startswith(("device: ", "molecules: ", "  "))
    ]
    assert len(lines) == 1 and lines[0].startswith("error: ") and len(lines[0]) <= 507, lines
    assert SECRET not in result.output and "Traceback" not in result.output
    assert all(sign.isprintable() for line in result.stderr.splitlines() for sign in line), result.stderr
    return lines[0]
