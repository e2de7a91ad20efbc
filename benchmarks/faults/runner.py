"""Commands on bad input, each in a process of its own with limits, and what is wrong with how they end.

A server is a process that has imported everything and has run some commands once; it forks a process for each case, so
that a case costs what the command does. `judged` keeps as many servers as there are cores.

    exit code     0, 2 or 3; no signal
    message       where it is 2 or 3, stderr ends with one line "error: …" (or several, one for each fault), each of at
                  most 500 characters; no traceback; no control characters in the output
    time, memory  at most 10 s in which the process waited for no core, and 1.5 GB resident
    files         the input is as it was, nothing half-written, no results of what was refused, TMPDIR empty
"""

import atexit
import contextlib
import gc
import importlib
import io
import json
import multiprocessing
import os
import pkgutil
import re
import resource
import shutil
import signal
import socket
import stat
import sys
import tempfile
import threading
import time
import traceback
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

FIFO, SOCKET, SPARSE = "(a FIFO)", "(a socket)", "(a terabyte of nothing)"
"""In the place of a file's content: what is no regular file, or one that takes no room on the disk."""
LINK = "(a link to) "
"""What begins a content that is a symbolic link's destination."""
LONGEST_S, LARGEST_MB, LONGEST_LINE, LARGEST_OUTPUT = 10.0, 1500, 500, 200_000
PATIENCE_S = 60.0
"""Seconds after which a case is killed on a machine that is busy with other things, too."""
ADDRESSES_GB = 8
"""Addresses that a case may ask for beyond its server's: what reads without end fails before the machine does."""
LEFT = re.compile(r"(^|/)\.unfinished-|\.tmp$|\.lock$|(^|/)tmp\w{8}$")
"""Names of what only a process at work has."""
KEPT = re.compile(r"(^|/)\.(run|finished|study)(/|$)")
"""Names of what unfinished work keeps to go on."""
LEFT_OUT = ("__main__", "cluster", "gpu", "pyboost", "rapids", "cuml")
"""Parts of names of modules that a server does not import: they need a GPU, or begin to work when imported."""
LIBRARIES = (
    "pyarrow.parquet pyarrow.compute scipy.sparse h5py anndata anndata.io rdkit.Chem xgboost joblib".split()
)


class Case(NamedTuple):
    """A command, and the files of its working folder; a name that ends in "/" is a folder."""

    kind: str
    argv: Sequence[str]
    files: Mapping[str, bytes | str]


class Outcome(NamedTuple):
    """How a case ended: exit code (negative: a signal), seconds, peak in MB, output, and what is wrong with it."""

    kind: str
    argv: Sequence[str]
    code: int
    seconds: float
    peak_mb: float
    out: str
    err: str
    violations: list[str]

    def told(self) -> str:
        """Return what went wrong on one line."""
        last = json.dumps(self.err.rstrip("\n").rsplit("\n", 1)[-1][:300])
        words = json.dumps(list(self.argv))[:300]
        return f"{self.kind}: {'; '.join(self.violations)} [exit {self.code}] {last} $ {words}"


def judged(
    cases: Sequence[Case], servers: int = 2, warm: Iterable[Case] = (), folder: Path | None = None
) -> Iterator[Outcome]:
    """Yield the outcome of every case, in their order.

    Parameters
    ----------
    cases : sequence of Case
        The commands; each has an empty working folder, where its files are written.
    servers : int
        Processes that fork the cases, which are as many at a time.
    warm : iterable of Case
        Commands that a server runs first, so that what is compiled or loaded once does not count.
    folder : Path, optional
        Where the working folders are made, and removed.
    """
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as room,
        context.Pool(servers, initializer=prepare, initargs=(list(warm),)) as pool,
    ):
        yield from pool.imap(_judge, [(case, Path(room)) for case in cases])


def prepare(warm: Sequence[Case] = ()) -> None:
    """Make this process a server: everything imported, the warming commands run; one thread a library."""
    with contextlib.suppress(
        OSError, AttributeError
    ):  # a server on one core starts no threads, which no fork copies
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[os.getpid() % len(os.sched_getaffinity(0))]})
    import features
    import rapids_pipeline

    for package in (rapids_pipeline, features):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not any(part in module.name for part in LEFT_OUT):
                importlib.import_module(module.name)
    for name in LIBRARIES:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as room:
        for number, case in enumerate(warm):
            folder = Path(room) / str(number)
            _write(case.files, folder)
            with (
                contextlib.chdir(folder),
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
                contextlib.suppress(SystemExit),
            ):
                _call(case.argv)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    gc.collect()
    gc.freeze()


def _call(argv: Sequence[str]) -> None:
    from rapids_pipeline.commands import app

    sys.argv = ["rapids-perturb", *argv]
    app.main()


# --- a case ----------------------------------------------------------------------------------------------------


def _judge(asked: tuple[Case, Path]) -> Outcome:
    """Run a case in a process of its own, and judge it."""
    case, room = asked
    folder = Path(tempfile.mkdtemp(dir=room))
    places = {name: folder / name for name in ("work", "tmp", "home")}
    for place in places.values():
        place.mkdir()
    sockets = _write(case.files, places["work"])
    before = _contents(places["work"])
    began = time.monotonic()
    pid = os.fork()
    if not pid:
        _be(case.argv, folder)
    code, waited, peak_mb = _waited(pid, began)
    seconds = time.monotonic() - began - waited
    for one in sockets:
        one.close()
    out, err = ((folder / name).read_bytes()[: 2 * LARGEST_OUTPUT] for name in ("out", "err"))
    texts = [text.decode("utf-8", "backslashreplace") for text in (out, err)]
    wrong = _told(code, *texts) + _lasting(code, seconds, peak_mb)
    wrong += _left(code, before, _contents(places["work"]), places["tmp"])
    shutil.rmtree(folder, ignore_errors=True)
    return Outcome(case.kind, case.argv, code, seconds, peak_mb, *(text[:5000] for text in texts), wrong)


def _write(files: Mapping[str, bytes | str], folder: Path) -> list[socket.socket]:
    """Write a case's files; return the open ends of its sockets."""
    folder.mkdir(parents=True, exist_ok=True)
    opened = []
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        elif content == FIFO:
            os.mkfifo(path)
        elif content == SOCKET:
            opened.append(socket.socket(socket.AF_UNIX))
            with contextlib.chdir(path.parent):  # an address has at most 108 letters
                opened[-1].bind(path.name)
        elif content == SPARSE:
            with path.open("wb") as stream:
                os.truncate(stream.fileno(), 2**40)
        elif isinstance(content, str) and content.startswith(LINK):
            path.symlink_to(content.removeprefix(LINK))
        else:
            path.write_bytes(
                content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
            )
    return opened


def _be(argv: Sequence[str], folder: Path) -> None:
    """Be the case's process, which ends in here."""
    code: Any = 70
    try:
        os.setsid()
        for number, (name, flags) in enumerate(
            (
                ("/dev/null", os.O_RDONLY),
                (str(folder / "out"), os.O_WRONLY),
                (str(folder / "err"), os.O_WRONLY),
            )
        ):
            os.dup2(os.open(name, flags | os.O_CREAT, 0o600), number)
        sys.stdin, sys.stdout, sys.stderr = (
            io.TextIOWrapper(
                os.fdopen(number, how, closefd=False), encoding="utf-8", errors="backslashreplace"
            )
            for number, how in enumerate(("rb", "wb", "wb"))
        )
        os.chdir(folder / "work")
        os.environ |= {
            "TMPDIR": str(folder / "tmp"),
            "HOME": str(folder / "home"),
            "TERM": "dumb",
            "COLUMNS": "100",
        }
        tempfile.tempdir = None
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESSES_GB * 2**30,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        atexit._clear()
        try:
            _call(argv)
            code = 0
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = 1
            traceback.print_exc()
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _waited(pid: int, began: float) -> tuple[int, float, float]:
    """Wait for a process, and kill it where it goes beyond its limits.

    Returns its exit code, the seconds in which it waited for a core, and its peak in MB.
    """
    proc, waited, pause = Path(f"/proc/{pid}"), 0.0, 0.002
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            break
        with contextlib.suppress(OSError, IndexError, ValueError):  # it ended meanwhile
            waited = int((proc / "schedstat").read_text().split()[1]) / 1e9
            resident = int((proc / "statm").read_text().split()[1]) * resource.getpagesize()
            lasts = time.monotonic() - began
            if lasts - waited > 1.2 * LONGEST_S or lasts > PATIENCE_S or resident > 2e6 * LARGEST_MB:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
        time.sleep(pause)
        pause = min(1.3 * pause, 0.03)
    with contextlib.suppress(ProcessLookupError):  # what it left running
        os.killpg(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(status), waited, usage.ru_maxrss / 1e3


# --- what is wrong ---------------------------------------------------------------------------------------------


def _told(code: int, out: str, err: str) -> list[str]:
    """Return what is wrong with an exit code and the output."""
    wrong = []
    if code < 0:
        wrong.append(f"ended by {signal.Signals(-code).name}")
    elif code not in (0, 2, 3):
        wrong.append(f"exit code {code}")
    if "Traceback (most recent call last)" in out + err:
        wrong.append("traceback")
    lines = err.rstrip("\n").split("\n")
    if code in (2, 3):
        first = next((k for k, line in enumerate(lines) if line.startswith("error: ")), None)
        if first is None:
            wrong.append("refused without a line `error: …`")
        elif not all(line.startswith("error: ") for line in lines[first:]):
            wrong.append("an error message of several lines")
    if longest := [len(line) for line in lines if len(line) > LONGEST_LINE]:
        wrong.append(f"a line of {max(longest)} characters")
    if len(out) + len(err) > LARGEST_OUTPUT:
        wrong.append("output of more than 200,000 characters")
    if raw := sorted({repr(sign) for sign in out + err if _is_raw(sign)}):
        wrong.append(f"control characters in the output: {' '.join(raw[:5])}")
    return wrong


def _is_raw(sign: str) -> bool:
    """Say whether a terminal would obey or hide a character: controls, formats (direction, no width), surrogates."""
    return sign != "\n" and unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _lasting(code: int, seconds: float, peak_mb: float) -> list[str]:
    """Return what is wrong with a case's time and memory."""
    wrong = [f"hang: {seconds:.1f} s, ended by {code}"] if seconds > LONGEST_S else []
    return wrong + ([f"peak of {peak_mb:.0f} MB"] if peak_mb > LARGEST_MB else [])


def _contents(folder: Path) -> dict[str, Any]:
    """Return what a folder holds: times and sizes of files by name."""
    found: dict[str, Any] = {}
    for path in folder.rglob("*"):
        known = path.lstat()
        kind = stat.S_IFMT(known.st_mode)
        about = (known.st_size, known.st_mtime_ns) if stat.S_ISREG(kind) else ()
        found[os.fsdecode(os.path.relpath(path, folder))] = (kind, *about)
    return found


def _left(code: int, before: Mapping[str, Any], after: Mapping[str, Any], temporary: Path) -> list[str]:
    """Return what is wrong with the files that a case left."""
    wrong = [f"input changed: {name!r}" for name, known in before.items() if after.get(name) != known]
    new = [name for name in after if name not in before]
    wrong += [f"left behind: {name!r}" for name in new if LEFT.search(name)]
    wrong += [f"left behind in TMPDIR: {path.name!r}" for path in temporary.iterdir()]
    if code:
        files = [name for name in new if not stat.S_ISDIR(after[name][0])]
        wrong += [
            f"written though refused: {name!r}"
            for name in files
            if not KEPT.search(name) and not LEFT.search(name)
        ]
    return wrong[:5]
