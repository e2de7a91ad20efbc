"""Kills of every command: before file operations all over it, moments after one, at any moment; also one after another.

After each kill no file is half a file, and in the end the same command, typed again, ends well and leaves what an
undisturbed one leaves, to the byte but for times, and nothing else.
"""

import json
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.faults.attempts import Ended, attempt, differences, emptied, half_files, snapshot

MOMENT_S = 0.02
"""The longest moment after an operation."""


@dataclass(frozen=True)
class Command:
    """A command on small data, in a folder of its own.

    Attributes
    ----------
    name : str
    words : tuple of str
        It writes to names in its working folder.
    earlier : tuple of str
        A command before it whose results it replaces; none where it is empty.
    share : int
        How many of all kills it gets, as a weight.
    """

    name: str
    words: tuple[str, ...]
    earlier: tuple[str, ...] = ()
    share: int = 1


@dataclass
class Reference:
    """What an undisturbed command has in its folder before and after, and what it does."""

    before: Path
    old: dict[str, str]
    final: dict[str, str]
    operations: list[str]
    seconds: float


@dataclass(frozen=True)
class Kill:
    """A kill before an operation, or `seconds` after one; operation −1 is the command's beginning."""

    operation: int
    seconds: float | None = None

    def acts(self) -> tuple[Mapping[int, Callable[[], None]], Callable[[], None] | None]:
        """Return what the process does to itself, before its operations and in the beginning."""
        if self.seconds is None:
            return {self.operation: _die}, None
        if self.operation < 0:
            return {}, self._later
        return {self.operation: self._later}, None

    def _later(self) -> None:
        # An alarm that nobody handles ends a process as SIGKILL does: at once, and without a word to it.
        signal.setitimer(signal.ITIMER_REAL, max(self.seconds or 0.0, 1e-6))

    def __str__(self) -> str:
        if self.seconds is None:
            return f"before operation {self.operation}"
        after = "the start" if self.operation < 0 else f"operation {self.operation}"
        return f"{1000 * self.seconds:.1f} ms after {after}"


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Outcome:
    """What came of a trial: kills that hit, and violations."""

    name: str
    kills: int = 0
    violations: list[str] = field(default_factory=list)


def commands(files: Mapping[str, Path], model: Path) -> list[Command]:
    """Return the commands that are killed; `model` is the folder of a run."""
    train = ("--train", str(files["de_train.parquet"]), "--molecules", "morgan", "--device", "cpu")
    both = (*train, "--test", str(files["id_map.csv"]), "--recipe", str(files["few.toml"]))
    run = ("run", *both, "--out", "out")
    screen = (
        "screen",
        *train[:4],
        "--features",
        "onehot,cell_type",
        "--folds",
        "2",
        "--target",
        "A1BG",
        "--out",
        "out",
    )
    predict = ("predict", "--model", str(model), "--pairs", str(files["id_map.csv"]), "--out")
    half = ("predict", "--model", str(model), "--pairs", str(files["half.csv"]), "--out")
    parts = ("--block-rows", "7")
    cv = (
        "cv",
        *train,
        "--recipe",
        str(files["few.toml"]),
        "--folds",
        "2",
        "--split",
        "random",
        "--out",
        "out",
    )
    tune = (
        "tune",
        *train,
        "--recipe",
        str(files["few.toml"]),
        "--trials",
        "3",
        "--split",
        "random",
        "--out",
        "out",
    )
    return [
        Command("run", run, share=6),
        Command("run over another", (*run, "--seed", "1", "--overwrite"), run, share=3),
        Command("cv", cv, share=3),
        Command("screen", screen, share=4),
        Command("tune", tune, share=3),
        Command("predict to CSV", (*predict, "out.csv"), share=4),
        Command(
            "predict over a CSV", (*predict, "out.csv.gz", "--overwrite"), (*half, "out.csv.gz"), share=3
        ),
        Command("predict to parts", (*predict, "out", *parts), share=4),
        Command(
            "predict over parts", (*predict, "out", *parts, "--overwrite"), (*half, "out", *parts), share=3
        ),
    ]


def reference(command: Command, folder: Path) -> Reference:
    """Return what an undisturbed command does; ValueError where it does not end well or leaves what it should not."""
    before, place = emptied(folder / "before"), folder / "undisturbed"
    if command.earlier:
        _ended_well(command.name, attempt(command.earlier, before))
    old = snapshot(before)
    emptied(place, before)
    ended = _ended_well(command.name, attempt(command.words, place))
    final = snapshot(place)
    wrong = [
        f"{name}: {content}" for name, content in final.items() if content.startswith(("left", "damaged"))
    ]
    if wrong:
        raise ValueError(f"{command.name}, undisturbed, leaves {wrong}")
    again = emptied(folder / "again", before)
    _ended_well(command.name, attempt(command.words, again))
    if unlike := differences(snapshot(again), final):
        raise ValueError(f"{command.name} is not the same twice: {unlike}")
    return Reference(before, old, final, ended.operations, ended.seconds)


def _ended_well(name: str, ended: Ended) -> Ended:
    if ended.code:
        raise ValueError(f"{name}, undisturbed, ends with {ended.code}: {ended.err[-2000:]}")
    return ended


def plan(known: Reference, kills: int, rng: random.Random) -> Iterator[tuple[Kill, ...]]:
    """Yield the kills of each trial, as many as asked for: before all or evenly spread operations, then others."""
    n = len(known.operations)
    whole = max(kills // 2, 1)
    every = (
        range(n) if n <= whole else sorted({round(i * (n - 1) / (whole - 1)) for i in range(whole)} | {n - 1})
    )
    yield from ((Kill(number),) for number in every)
    left = kills - len(every)
    while left > 0:
        kind = rng.random()
        if kind < 0.3:
            trial = tuple(Kill(rng.randrange(n)) for _ in range(3))
        elif kind < 0.7:
            trial = (Kill(rng.randrange(n), rng.uniform(0, MOMENT_S)),)
        else:
            trial = (Kill(-1, rng.uniform(0, known.seconds)),)
        left -= len(trial)
        yield trial


def tried(command: Command, known: Reference, kills: Sequence[Kill], place: Path) -> Outcome:
    """Kill a command, check what it leaves, type it again until it ends, and compare."""
    outcome, said = Outcome(command.name), ", then ".join(map(str, kills))
    emptied(place, known.before)
    for kill in kills:
        before, setup = kill.acts()
        ended = attempt(command.words, place, before=before, setup=setup)
        last = ended.operations[-1] if ended.operations else "the first operation"
        if ended.code in (-signal.SIGKILL, -signal.SIGALRM) and "[hung" not in ended.err:
            outcome.kills += 1
        elif ended.code:
            # A finished one may refuse to be made again: what it made is there.
            if differences(snapshot(place), known.final):
                outcome.violations.append(
                    f"refused restart ({said}; at {last}): exit {ended.code}: {_last(ended.err)}"
                )
            break
        found = half_files(snapshot(place), known.old, known.final)
        outcome.violations += [f"{fault} ({said}; at {last})" for fault in found]
        if not ended.code:
            break
    if differences(snapshot(place), known.final):
        ended = attempt(command.words, place)
        if ended.code:
            outcome.violations.append(f"refused restart ({said}): exit {ended.code}: {_last(ended.err)}")
        outcome.violations += [f"{one} ({said})" for one in differences(snapshot(place), known.final)]
    return outcome


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "(nothing said)"


# --- side by side ---------------------------------------------------------------------------------------------

Trial = Callable[[Path], Any]


def side_by_side(trials: Iterator[Trial], places: Path, jobs: int) -> Iterator[Any]:
    """Yield what trials return, made in `jobs` forked processes at a time; each gets a folder of its own."""
    running: dict[int, tuple[int, int]] = {}
    free = list(range(jobs))
    while True:
        while free and (trial := next(trials, None)) is not None:
            slot = free.pop()
            read, write = os.pipe()
            pid = os.fork()
            if not pid:
                _report(trial, places / f"place-{slot}", write)
            os.close(write)
            running[read] = pid, slot
        if not running:
            return
        import select

        ready, _, _ = select.select(list(running), [], [])
        for read in ready:
            pid, slot = running.pop(read)
            with os.fdopen(read) as stream:
                text = stream.read()
            os.waitpid(pid, 0)
            free.append(slot)
            yield json.loads(text)


def _report(trial: Trial, place: Path, write: int) -> None:
    """Be the process of a trial."""
    try:
        found = trial(place)
        text = json.dumps(found if isinstance(found, dict) else vars(found))
    except BaseException:
        text = json.dumps({"name": "the campaign", "kills": 0, "violations": [traceback.format_exc()]})
    try:
        with os.fdopen(write, "w") as stream:
            stream.write(text)
        sys.stderr.flush()
    finally:
        os._exit(0)
