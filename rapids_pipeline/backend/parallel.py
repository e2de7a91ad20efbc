"""Independent fits: in threads of this machine or on the workers of a Dask cluster, and each finished one is kept.

A *unit* is a fit, or a block of predictions, that needs no other unit. An executor takes units from the store where
they are finished, and has the others made: by threads (joblib), or with `--cluster` by Dask distributed, which deals
units to workers, and again where a worker dies. Either way a unit is the same call, and its matrix products take one
thread, so results depend neither on the executor nor on the number of processors.

    shared      what several units read (rows, targets); it goes to a worker once, from there or from another worker
    argument    what a unit alone reads (its rows' numbers)
    key         what the unit depends on, besides what its store was made for

A unit that cannot be used (bad input) ends the work at once. One whose worker dies, hangs or runs out of memory is made
elsewhere, at most three times more; then one line names it and where its log is. What is finished is kept by then.
"""

import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from rapids_pipeline.backend.devices import processor_count
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.backend.store import Kept, Store

T = TypeVar("T")


class Shared:
    """What several units read.

    Parameters
    ----------
    make : callable
        Makes it when it is first wanted. It must have a pickled form where units run on a cluster.
    keep : bool
        Whether it stays where it is for later units; otherwise it is dropped with the last unit of a call.
    of : Shared, optional
        What it is a variant of: it is `vary(that, make())`, so that a worker that has the one is sent the difference.
    vary : callable, optional
        Of a module, so that a worker finds it by its name.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        *,
        keep: bool = False,
        of: "Shared | None" = None,
        vary: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self.keep, self.make, self.of, self.vary = keep, make, of, vary
        self._lock = threading.Lock()
        self._made: list[Any] = []

    @property
    def parts(self) -> "list[Shared]":
        """What a worker must have: itself, or what it is a variant of and itself, the difference."""
        return [self] if self.of is None else [self.of, self]

    def get(self) -> Any:
        """Return it."""
        with self._lock:
            if not self._made:
                made = self.make()
                if self.of is not None and self.vary is not None:
                    made = self.vary(self.of.get(), made)
                self._made.append(made)
            return self._made[0]

    def drop(self) -> None:
        """Forget it, once no unit needs it any more."""
        with self._lock:
            self._made.clear()


@dataclass(frozen=True, eq=False)
class Unit:
    """An independent fit.

    Attributes
    ----------
    name : str
        For people: "svr 3/16".
    shared : Shared
    argument : object
    key : tuple
        What it depends on, besides what its store was made for (`rapids_pipeline.backend.store.content_hash`).
    """

    name: str
    shared: Shared
    argument: Any
    key: tuple[Any, ...] = ()


Function = Callable[[Any, Any], Kept]
"""(shared, argument) → what was found; of a module, so that a worker finds it by its name."""


@dataclass(frozen=True, eq=False)
class Ended:
    """A unit that was made: its place among the units, what was found, where, in what time and memory."""

    place: int
    kept: Kept
    worker: str
    seconds: float
    peak_bytes: int


class Executor(ABC):
    """Where units run.

    Parameters
    ----------
    log : Path, optional
        A file that gets a line a unit: time, name, worker, seconds, peak memory of the worker.
    """

    def __init__(self, log: Path | None = None) -> None:
        self.log = log

    def results(
        self,
        function: Function,
        units: Sequence[Unit],
        *,
        store: Store | None = None,
        progress: Progress | None = None,
        side_by_side: bool = True,
    ) -> Iterator[tuple[int, Kept]]:
        """Yield (place of a unit, what was found) as units end; those that the store has come first.

        Parameters
        ----------
        function : callable
        units : sequence of Unit
        store : Store, optional
            Where finished units are looked for and kept.
        progress : Progress, optional
            Advances once a unit.
        side_by_side : bool
            Whether threads of this machine make several at once.

        Raises
        ------
        PerturbError
            That a unit raised; or a unit failed on several workers; or a finished unit cannot be kept.
        """
        store, progress = store or Store(None), progress or Progress()
        missing: list[tuple[int, Unit]] = []
        for place, unit in enumerate(units):
            kept = store.get(*unit.key)
            if kept is None:
                missing.append((place, unit))
                continue
            self._tell(progress, f"{unit.name}  kept from before")
            progress.advance()
            yield place, kept
        progress.made_by(self.workers())
        for ended in self._ended(function, missing, store, side_by_side):
            took = f"{ended.seconds:.3f} s  peak {ended.peak_bytes / 2**20:.0f} MiB"
            self._tell(progress, f"{units[ended.place].name}  worker {ended.worker}  {took}")
            progress.advance()
            progress.made_by(self.workers())
            yield ended.place, ended.kept

    def workers(self) -> str:
        """Return how many workers there are now, in words; empty where units are made by this process."""
        return ""

    @abstractmethod
    def _ended(
        self, function: Function, units: list[tuple[int, Unit]], store: Store, side_by_side: bool
    ) -> Iterator[Ended]:
        """Make units, keep each in the store when it ends, and yield them as they end."""

    def _tell(self, progress: Progress, line: str) -> None:
        progress.made(line)
        self._write(line)

    def _write(self, line: str) -> None:
        if self.log is None:
            return
        try:
            with self.log.open("a", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(f"{datetime.now(UTC).isoformat(timespec='milliseconds')}  {line}\n")
        except OSError as error:
            raise InputError(f"--log {self.log}: cannot be written ({error.strerror or error})") from None


def needed_by(units: Iterable[tuple[int, Unit]]) -> Counter[Shared]:
    """Return how many units need each shared object."""
    return Counter(part for _, unit in units for part in unit.shared.parts)


def no_longer_needed(unit: Unit, left: Counter[Shared]) -> list[Shared]:
    """Count a unit off; return what no unit that is left needs, and what need not be kept."""
    left.subtract(unit.shared.parts)
    return [part for part in unit.shared.parts if not left[part] and not part.keep]


def in_order(results: Iterable[tuple[int, Kept]]) -> Iterator[Kept]:
    """Yield results by place, whatever order they come in."""
    early: dict[int, Kept] = {}
    place = 0
    for found, kept in results:
        early[found] = kept
        while place in early:
            yield early.pop(place)
            place += 1


class Threads(Executor):
    """Threads of this process: as many as it may use processors, or one after the other."""

    def _ended(
        self, function: Function, units: list[tuple[int, Unit]], store: Store, side_by_side: bool
    ) -> Iterator[Ended]:
        from joblib import Parallel, delayed

        left, lock = needed_by(units), threading.Lock()

        def made(place: int, unit: Unit) -> Ended:
            began = time.perf_counter()
            kept = function(unit.shared.get(), unit.argument)
            store.put(kept, *unit.key)
            with lock:
                for shared in no_longer_needed(unit, left):
                    shared.drop()
            return Ended(place, kept, "threads", time.perf_counter() - began, peak_bytes())

        jobs = processor_count() if side_by_side else 1
        with threadpool_limits(1, "blas"):
            calls = (delayed(made)(place, unit) for place, unit in units)
            results = Parallel(jobs, prefer="threads", return_as="generator_unordered")(calls)
            try:
                for ended in results:  # noqa: UP028 (what is not yielded is closed below)
                    yield ended
            except GeneratorExit:  # broken off: whoever did so needs no warning that fits are lost
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    results.close()
                raise


THREADS = Threads()
"""The executor where none is given."""


def side_by_side(calls: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """Return what calls return, by name: as many at once as this process may use processors, each on one thread."""
    from joblib import Parallel, delayed

    with threadpool_limits(1, "blas"):
        made = Parallel(processor_count(), prefer="threads")(delayed(call)() for call in calls.values())
    return dict(zip(calls, made, strict=True))


def peak_bytes() -> int:
    """Return the most memory that this process has had; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def executor_of(
    cluster: str | None, log: Path | None = None, modules: Sequence[str] = ()
) -> Iterator[Executor]:
    """Yield the executor that `--cluster` names, and close it.

    Parameters
    ----------
    cluster : str, optional
        As `rapids_pipeline.backend.cluster.connected` takes it; None: threads of this process.
    log : Path, optional
        `Executor.log`.
    modules : sequence of str
        What workers of this machine import when they start.
    """
    if cluster is None:
        yield Threads(log)
        return
    from rapids_pipeline.backend.cluster import connected

    with connected(cluster, log, modules) as executor:
        yield executor
