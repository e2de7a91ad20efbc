"""Faults of the machine: full disks, limits, folders that go away, closed outputs, signals, clocks that are set back.

Each ends with one line that names the path and what is needed (exit code 2), or it does no harm (exit code 0); a signal
ends a command with 130 or 143. Nothing is lost: once the cause is gone, the same command goes on from what was finished
and leaves what an undisturbed one leaves.
"""

import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from benchmarks.faults.attempts import attempt
from benchmarks.faults.kills import Command, Reference
from benchmarks.faults.trials import DELETED, FULL, PAGE, Fault, judged


def more_commands(files: Mapping[str, Path], run: Path) -> list[Command]:
    """Return commands besides those that are killed; `run` is the folder of a run on the small problem."""
    wide = ("--train", str(files["wide.parquet"]), "--molecules", "morgan", "--device", "cpu")
    wide = (*wide, "--test", str(files["wide.csv"]), "--recipe", str(files["kernels.toml"]), "--out", "out")
    few = ("--molecules", "morgan", "--device", "cpu", "--recipe", str(files["few.toml"]), "--out", "out")
    truth = ("--truth", str(files["de_test.parquet"]), "--train", str(files["de_train.parquet"]), "--json")
    predict = ("predict", "--model", str(run), "--pairs", str(files["id_map.csv"]), "--out")
    return [
        Command("predict to gzip", (*predict, "out.csv.gz")),
        Command("submit to h5ad", ("submit", "--run", str(run), "--out", "out.h5ad")),
        Command("demo", ("demo", "--genes", "8", *few)),
        Command("start", ("start", "--data", "nothing", "--demo-genes", "8", *few)),
        Command("evaluate", ("evaluate", "--prediction", str(run / "submission.csv"), *truth)),
        Command("wide run", ("run", *wide)),
        Command("wide cv", ("cv", *wide, "--folds", "2", "--split", "random")),
    ]


def faults(
    commands: Mapping[str, Command],
    known: Mapping[str, Reference],
    rng: random.Random,
    *,
    disks: bool,
    kind: str = "",
) -> Iterator[Fault]:
    """Yield the faults of the commands whose kind has these words; those of disks only where they can be mounted."""
    made: list[tuple[tuple[str, ...], Iterator[Fault]]] = [
        (("disk full", "read-only disk"), _full_disks(commands, known) if disks else iter(())),
        (("file-size limit",), _file_sizes(commands)),
        ((DELETED, "two at once"), _folders(commands, known)),
        (("environment",), _environments(commands)),
        (("stdout closed", "stdout full"), _outputs(commands)),
        (("12 descriptors", "memory limit"), _limits(commands)),
        (("SIGINT", "SIGTERM"), _signals(commands, known, rng)),
        (("clock set back",), _clocks(commands, known)),
    ]
    for kinds, found in made:
        if any(kind in one for one in kinds):
            yield from (fault for fault in found if kind in fault.kind)


def _full_disks(commands: Mapping[str, Command], known: Mapping[str, Reference]) -> Iterator[Fault]:
    for name, command in commands.items():
        if name == "evaluate":  # writes nothing
            continue
        used = sum(
            -(-path.stat().st_size // PAGE) * PAGE
            for path in (known[name].before.parent / "undisturbed").rglob("*")
            if path.is_file()
        )
        for share in (0.0, 0.15, 0.4, 0.7, 0.95):
            free = int(share * used) // PAGE * PAGE
            yield Fault(
                "disk full",
                f"{free} bytes free",
                command,
                (0, 2) if share else (2,),
                f"out.*({FULL})",
                free=free,
            )
    for name in ("run", "cv", "predict to CSV", "predict to parts", "demo"):
        yield Fault(
            "read-only disk", "all of it", commands[name], says="out.*(Read-only|cannot be)", read_only=True
        )


def _limit(what: int, value: int) -> None:
    resource.setrlimit(what, (value, value))


def _file_sizes(commands: Mapping[str, Command]) -> Iterator[Fault]:
    for name in commands:
        for size in (0, 700, 3000):
            setup = partial(_limit, resource.RLIMIT_FSIZE, size)
            codes = (0,) if name == "evaluate" else (0, 2) if size else (2,)
            yield Fault(
                "file-size limit",
                f"{size} bytes a file",
                commands[name],
                codes,
                f"(out|a file).*({FULL})",  # the system does not always say which
                setup=setup,
            )


def _folders(commands: Mapping[str, Command], known: Mapping[str, Reference]) -> Iterator[Fault]:
    for name, command in commands.items():
        if name == "evaluate":  # writes nothing
            continue
        operations = known[name].operations
        for share in (0.1, 0.5, 0.9):
            number = int(share * len(operations))
            before = {number: partial(_delete, ".")}
            case = f"deleted before operation {number}"
            yield Fault(DELETED, case, command, (0, 2), "out", before=before)
    for name in ("run", "cv", "screen", "tune", "predict to CSV", "predict to parts"):
        number = len(known[name].operations) // 2
        command = commands[name]
        meanwhile = partial(_second, command.words)
        yield Fault(
            "two at once",
            "the first is stopped in the middle",
            command,
            (0,),
            before={number: _stop},
            meanwhile=meanwhile,
        )


def _delete(folder: str) -> None:
    for path in Path(folder).iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _second(words: tuple[str, ...], first: int) -> None:
    """Type a command where the process `first`, which stops itself, has begun; it has to be refused."""
    _, status = os.waitpid(first, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        raise RuntimeError("the first process ended before it stopped")
    folder = Path(f"/proc/{first}/cwd").readlink()
    ended = attempt(words, folder)
    os.kill(first, signal.SIGCONT)
    if wrong := judged(ended, (2,), "out.*another process"):
        raise RuntimeError(f"the second process: {wrong}")


def _environments(commands: Mapping[str, Command]) -> Iterator[Fault]:
    cases: dict[str, dict[str, str | None]] = {
        "HOME unset": {"HOME": None, "XDG_CACHE_HOME": None, "RAPIDS_PERTURB_CACHE": None},
        "HOME is missing": {"HOME": "/missing", "XDG_CACHE_HOME": None, "RAPIDS_PERTURB_CACHE": None},
        "TMPDIR is missing": {"TMPDIR": "/missing"},
        "LC_ALL=C": {"LC_ALL": "C"},
        "an ASCII terminal": {
            "LC_ALL": "C",
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
            "PYTHONIOENCODING": "ascii",
        },
        "TERM=dumb": {"TERM": "dumb"},
        "no variables": dict.fromkeys([name for name in os.environ if not name.endswith("_THREADS")]),
    }
    for case, variables in cases.items():
        for name in ("screen", "predict to CSV"):
            setup = partial(_set, variables)
            yield Fault("environment", case, commands[name], (0,), setup=setup, fresh=True)
    python = Path(sys.executable).resolve()
    if os.geteuid() == 0 and all(one.stat().st_mode & 0o001 for one in (python, *python.parents)):
        yield Fault(
            "environment", "a user without a name", commands["screen"], (0,), setup=_nobody, fresh=True
        )


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def _nobody() -> None:
    Path().chmod(0o777)
    _set({"HOME": None, "XDG_CACHE_HOME": None, "RAPIDS_PERTURB_CACHE": None})
    os.setgroups([])
    os.setgid(54321)
    os.setuid(54321)


def _outputs(commands: Mapping[str, Command]) -> Iterator[Fault]:
    for name in ("run", "screen", "predict to CSV", "evaluate", "demo"):
        command = commands[name]
        yield Fault(
            "stdout closed", "before the first line", command, (0,), setup=_closed_pipe, fresh=name != "run"
        )
        yield Fault(
            "stdout closed", "after the first line", command, (0,), setup=_one_line, fresh=name != "run"
        )
        yield Fault(
            "stdout closed", "from the beginning", command, (0,), setup=partial(os.close, 1), fresh=True
        )
        yield Fault(
            "stdout full", "/dev/full", command, (2,), "output.*No space left", setup=_full_output, fresh=True
        )


def _closed_pipe() -> None:
    read, write = os.pipe()
    os.dup2(write, 1)
    os.close(read)
    os.close(write)


def _one_line() -> None:
    read, write = os.pipe()
    if not os.fork():
        os.close(write)
        os.close(1)
        os.read(read, 1)
        os._exit(0)
    os.dup2(write, 1)
    os.close(read)
    os.close(write)


def _full_output() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def _limits(commands: Mapping[str, Command]) -> Iterator[Fault]:
    for name in ("run", "screen", "predict to CSV", "predict to parts"):
        setup = partial(_limit, resource.RLIMIT_NOFILE, 12)
        yield Fault(
            "12 descriptors",
            "of a process",
            commands[name],
            (0, 2),
            "open files|descriptors",
            setup=setup,
            fresh=True,
        )
    for name in ("wide run", "wide cv"):
        for room in (8, 24, 60, 120):
            setup = partial(_less_memory, room * 2**20)
            yield Fault(
                "memory limit",
                f"{room} MiB more than at the start",
                commands[name],
                (0, 2),
                "memory|allocate",
                setup=setup,
            )


def _less_memory(room: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + room)


def _signals(
    commands: Mapping[str, Command], known: Mapping[str, Reference], rng: random.Random
) -> Iterator[Fault]:
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        for name, command in commands.items():
            if name.startswith("wide"):
                continue
            n, seconds = len(known[name].operations), known[name].seconds
            for place in sorted({rng.randrange(max(n, 1)) for _ in range(2)}):
                before = {place: partial(_signal_self, number)}
                yield Fault(number.name, f"at operation {place}", command, (0, code), before=before)
            for _ in range(3):
                moment = rng.uniform(0, seconds)
                meanwhile = partial(_signal, number, moment)
                yield Fault(number.name, f"after {moment:.3f} s", command, (0, code), meanwhile=meanwhile)
        for moment in (0.15, 0.4, 0.8, 1.5, 2.5, 4.0):
            meanwhile = partial(_signal, number, moment)
            case = f"{moment} s after the start of Python"
            yield Fault(number.name, case, commands["screen"], (0, code), meanwhile=meanwhile, fresh=True)


def _signal_self(number: int) -> None:
    os.kill(os.getpid(), number)


def _signal(number: int, seconds: float, pid: int) -> None:
    time.sleep(seconds)
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _clocks(commands: Mapping[str, Command], known: Mapping[str, Reference]) -> Iterator[Fault]:
    for name in ("run", "cv", "tune", "predict to parts"):
        command, n = commands[name], len(known[name].operations)
        yield Fault("clock set back", "a year, in the middle", command, (0,), before={n // 2: _a_year_ago})
        before = {n // 2: _from_the_future}
        yield Fault(
            "clock set back", "what is kept is from the future", command, (-signal.SIGKILL,), before=before
        )


def _a_year_ago() -> None:
    now = time.time
    time.time = lambda: now() - 365 * 86400.0


def _from_the_future() -> None:
    for folder, _, names in os.walk("."):
        for name in names:
            with suppress(FileNotFoundError):  # another thread may have renamed it
                os.utime(f"{folder}/{name}", (time.time() + 365 * 86400,) * 2)
    os.kill(os.getpid(), signal.SIGKILL)
