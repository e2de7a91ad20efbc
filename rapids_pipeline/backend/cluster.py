"""The workers of a Dask scheduler, on this machine or on others, as an executor of units.

Dask deals units to workers, and again where a worker dies; nothing here schedules. What is added: a worker's versions
are compared with this process's, a unit that hangs loses its worker, and what cannot be done ends in one line.

    local:N            N worker processes on this machine, a thread each
    cuda               one worker a GPU of this machine (dask-cuda)
    tcp://HOST:PORT    a scheduler that runs, such as that of dask-jobqueue (SLURM) or dask-kubernetes
    FILE.json          the same, by the file that `dask scheduler --scheduler-file FILE.json` wrote
"""

import logging
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from weakref import WeakKeyDictionary

from threadpoolctl import threadpool_limits

from rapids_pipeline.backend.devices import code_hash, installed_versions
from rapids_pipeline.backend.errors import InputError, PerturbError, UnavailableError
from rapids_pipeline.backend.parallel import (
    Ended,
    Executor,
    Function,
    Shared,
    Unit,
    needed_by,
    no_longer_needed,
    peak_bytes,
)
from rapids_pipeline.backend.store import Kept, Store
from rapids_pipeline.backend.workers import LOST, Started, workers_of

MORE_TRIES = 3
"""How often a unit is made again where a worker failed."""
TIMES_SIBLINGS, LEAST_HANG = 10.0, 120.0
"""A unit hangs that takes so many times the longest of its siblings, and at least so many seconds."""
FIRST_WORKER, PATIENCE, SCHEDULER = 60.0, 300.0, 20.0
"""Seconds that work waits for the first worker, later for one where all are gone, and for the scheduler."""
RESTART = 5.0
"""Seconds that a worker which hangs has to close by itself before it is killed; no result is taken meanwhile."""
POLL = 0.5
"""Seconds between two looks at workers while no unit ends."""
TOPIC = "rapids-perturb"
INSTALL = "pip install '.[cluster]'"


class Cluster(Executor):
    """The workers of a Dask scheduler.

    Parameters
    ----------
    client : distributed.Client
    name : str
        What `--cluster` said, for messages.
    log : Path, optional
    least_hang : float
        Seconds that a unit may take, whatever its siblings took.
    started : Started, optional
        The workers that this process has started, which it replaces where they are gone.
    """

    def __init__(
        self,
        client: Any,
        name: str,
        log: Path | None = None,
        least_hang: float = LEAST_HANG,
        started: Started | None = None,
    ) -> None:
        super().__init__(log)
        self.client, self.name, self.least_hang, self.started = client, name, least_hang, started
        self._workers: int | None = None  # not counted yet
        self._places: list[str] = []  # the address of the worker of every thread, when they were last counted
        self.began: dict[str, tuple[float, str]] = {}
        self._sent: WeakKeyDictionary[Shared, Any] = WeakKeyDictionary()
        self._versions = _versions_here()
        client.subscribe_topic(TOPIC, self._heard)

    def require_workers(self) -> None:
        """Wait for the first worker, and see that every worker has the versions of this process.

        Raises
        ------
        UnavailableError
            No worker came, or one lacks this program.
        InputError
            A worker has other versions; the first one is named.
        """
        try:
            self._wait_for_one()
        except TimeoutError:
            raise UnavailableError(f"--cluster {self.name}: no worker came in {FIRST_WORKER:.0f} s") from None
        for worker, there in self.client.run(_versions_here, on_error="return").items():
            if isinstance(there, BaseException):
                raise UnavailableError(
                    f"--cluster {self.name}: worker {worker} cannot import this program "
                    f"({type(there).__name__}: {there}); install it there"
                )
            if problem := _other_versions(there, self._versions):
                raise InputError(f"--cluster {self.name}: worker {worker} {problem}")
        self.threads()

    def _wait_for_one(self) -> Any:
        """Wait for a worker; where those of this machine do not come, others are started."""
        patience = FIRST_WORKER
        if self.started is not None:
            self.started.replace_lost(0)
            with suppress(TimeoutError):
                return self.client.wait_for_workers(1, timeout=LOST)
            self.started.replace_lost(0)
            patience -= LOST
        return self.client.wait_for_workers(1, timeout=patience)

    def threads(self) -> int:
        """Return how many units all workers make at once."""
        try:
            found = self.client.nthreads()
        except (OSError, TimeoutError) as error:
            raise self.lost() from error
        self._workers = len(found)
        most = max(found.values(), default=0)
        self._places = [worker for turn in range(most) for worker, threads in found.items() if turn < threads]
        return len(self._places)

    def workers(self) -> str:
        """Return how many workers there were when they were last counted; empty before that."""
        if self._workers is None:
            return ""
        return f"{self._workers} worker{'s' * (self._workers != 1)}"

    def lost(self) -> UnavailableError:
        """Return the error that says that the scheduler is gone."""
        return UnavailableError(
            f"--cluster {self.name}: the scheduler is gone; finished fits are kept where there is a folder for them, "
            "and the same command goes on from there"
        )

    def _ended(
        self, function: Function, units: list[tuple[int, Unit]], store: Store, side_by_side: bool
    ) -> Iterator[Ended]:
        from distributed import KilledWorker

        if not self._workers:
            self.require_workers()
        waiting, ended = deque(units), SimpleQueue[str]()
        running: dict[str, tuple[int, Unit, Any]] = {}
        left, watch = needed_by(units), _Watch(self)
        blamed: deque[tuple[int, Unit]] = deque()  # a worker died four times while these were on it
        alone: set[int] = set()
        culprits: list[tuple[Unit, Any]] = []
        given = 0
        stage = time.monotonic_ns()  # keys are new, so that no result of other work is taken for one of these
        try:
            while waiting or running or blamed:
                if not waiting and not running:
                    waiting.append(blamed.popleft())
                    alone.add(waiting[0][0])
                for _ in range(min(len(waiting), watch.room(len(running)))):
                    place, unit = waiting.popleft()
                    key = f"unit-{stage}-{place}{'-alone' * (place in alone)}"
                    first = self._places[given % len(self._places)] if given < 2 * len(self._places) else None
                    given += 1
                    future = self._submitted(function, unit, f"{unit.name} {stage}", key, first)
                    running[future.key] = place, unit, future
                    future.add_done_callback(lambda done: ended.put(done.key))
                try:
                    place, unit, future = running.pop(ended.get(timeout=POLL))
                except Empty:
                    watch.look([f"{unit.name} {stage}" for _, unit, _ in running.values()])
                    continue
                if isinstance(future.exception(), KilledWorker):
                    # The scheduler blames all that a dead worker had; with nothing beside it, only what killed it.
                    if place in alone:
                        culprits.append((unit, future))
                    else:
                        blamed.append((place, unit))
                    continue
                kept, worker, seconds, peak = self._result(unit, future)
                watch.finished(f"{unit.name} {stage}", seconds)
                store.put(kept, *unit.key)
                for shared in no_longer_needed(unit, left):
                    del self._sent[shared]
                yield Ended(place, kept, worker, seconds, peak)
            for unit, future in culprits:  # named when all others are kept
                self._result(unit, future)
        finally:
            if running and self.client.status == "running":
                self.client.cancel([future for _, _, future in running.values()], force=True)

    def _submitted(self, function: Function, unit: Unit, name: str, key: str, first: str | None) -> Any:
        """Return the future of a unit; what it shares is sent where it has not been, or was lost.

        `first` is the worker to begin on. Dask would give the first units of a call to the worker that has what they
        share, and move them to idle ones later. Where that worker is gone or slow, Dask chooses as ever.
        """
        for number, part in enumerate(unit.shared.parts):
            future = self._sent.get(part)
            if future is None or future.status in ("error", "lost", "cancelled"):
                self._sent[part] = self._send(part, f"shared-{number}-of-{key}")
        parts = [self._sent[part] for part in unit.shared.parts]
        given = unit.shared.vary, unit.argument, name, self._versions
        how = {} if first is None else {"workers": [first], "allow_other_workers": True}
        return self.client.submit(
            _call, function, *given, *parts, key=key, pure=False, retries=MORE_TRIES, **how
        )

    def _send(self, shared: Shared, key: str) -> Any:
        """Return the future of a shared object; of a variant that of the difference.

        It is a task of its own and not scattered: the scheduler keeps the call, and makes it again where all workers
        that held the object are gone. Workers get the object from each other.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sending large graph")
            return self.client.submit(_itself, shared.make(), key=key, pure=False)

    def _result(self, unit: Unit, future: Any) -> "_Made":
        """Return what a unit found; raise what it raised, or that it failed on several workers."""
        from distributed import KilledWorker

        try:
            made: _Made | PerturbError = future.result()
        except KilledWorker as error:
            why = f"{MORE_TRIES + 1} workers died over it, the last one was {error.last_worker.address}"
            raise self._failed(unit, why, "what that worker printed") from None
        except Exception as error:
            if future.status != "error":  # not the unit failed: its result cannot be fetched
                raise self.lost() from error
            self._write(f"{unit.name}  failed\n{''.join(traceback.format_exception(error))}")
            why = f"it failed {MORE_TRIES + 1} times, the last time with {type(error).__name__}: {error}"
            raise self._failed(unit, why, str(self.log or "none, give --log FILE")) from error
        if isinstance(made, PerturbError):
            raise made
        return made

    def _failed(self, unit: Unit, why: str, log: str) -> UnavailableError:
        return UnavailableError(
            f"--cluster {self.name}: {unit.name}: {why} (its log: {log}); finished fits are kept"
        )

    def _heard(self, event: tuple[float, dict[str, str]]) -> None:
        """Note that a worker has begun a unit."""
        told = event[1]
        self.began[told["unit"]] = time.monotonic(), told["worker"]


class _Watch:
    """Watches the workers while they make the units of one call."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._longest = cluster, 0.0
        self._threads, self._asked, self._alive = 0, 0.0, time.monotonic()

    def room(self, running: int) -> int:
        """Return how many more units can be given out: one for every thread, and one to go on with."""
        if time.monotonic() > self._asked + POLL:
            self._threads, self._asked = self._cluster.threads(), time.monotonic()
        return max(0, 2 * self._threads - running)

    def finished(self, name: str, seconds: float) -> None:
        """Note how long a unit took."""
        self._longest = max(self._longest, seconds)
        self._cluster.began.pop(name, None)

    def look(self, running: list[str]) -> None:
        """Restart the worker of a unit that hangs.

        Raises
        ------
        UnavailableError
            The scheduler is gone, or there was no worker for `PATIENCE` seconds.
        """
        cluster, now = self._cluster, time.monotonic()
        if cluster.client.status != "running":
            raise cluster.lost()
        threads = cluster.threads()
        if cluster.started is not None:
            cluster.started.replace_lost(threads)
        if threads:
            self._alive = now
        elif now > self._alive + PATIENCE:
            raise UnavailableError(
                f"--cluster {cluster.name}: there has been no worker for {PATIENCE:.0f} s; finished fits are kept"
            )
        limit = max(cluster.least_hang, TIMES_SIBLINGS * self._longest)
        for name in running if self._longest else []:
            began, worker = cluster.began.get(name, (now, ""))
            if now > began + limit:
                del cluster.began[name]
                cluster._write(f"{name.rsplit(' ', 1)[0]}  hangs on {worker}, which is restarted")
                cluster.client.restart_workers([worker], timeout=RESTART, raise_for_error=False)


_Made = tuple[Kept, str, float, int]
"""What a unit found; the worker; seconds; peak memory of the worker in bytes."""


def _itself(value: Any) -> Any:
    return value


def _call(
    function: Function,
    vary: Callable[[Any, Any], Any] | None,
    argument: Any,
    name: str,
    versions: dict[str, str],
    *parts: Any,
) -> _Made | PerturbError:
    """Make a unit on a worker; what is wrong with the input is returned, since another worker would find the same."""
    from distributed import get_worker

    worker, began = get_worker(), time.perf_counter()
    worker.log_event(TOPIC, {"unit": name, "worker": worker.address})
    if problem := _other_versions(_versions_here(), versions):  # of a worker that came later
        return InputError(f"worker {worker.address} {problem}")
    try:
        with threadpool_limits(1, "blas"):
            kept = function(parts[0] if vary is None else vary(*parts), argument)
    except PerturbError as error:
        return error
    return kept, worker.address, time.perf_counter() - began, peak_bytes()


@lru_cache(1)
def _versions_here() -> dict[str, str]:
    return installed_versions() | {"rapids-perturb's code": code_hash()[:12]}


def _other_versions(there: dict[str, str], here: dict[str, str]) -> str:
    """Return in words what a worker has in another version than the process that asks; empty where all is alike."""
    for package in sorted(here.keys() | there.keys()):
        if here.get(package) != there.get(package):
            found, wanted = (versions.get(package, "not") for versions in (there, here))
            return f"has {package} {found}, this process {wanted}; results could differ: install the same version"
    return ""


@contextmanager
def connected(cluster: str, log: Path | None = None, modules: Sequence[str] = ()) -> Iterator[Cluster]:
    """Yield the executor of a cluster, and close it.

    Parameters
    ----------
    cluster : str
        "local:N", N worker processes here; "cuda", one worker a GPU; "tcp://HOST:PORT" (or tls://), a scheduler; or
        the JSON file that a scheduler wrote (`dask scheduler --scheduler-file`).
    log : Path, optional
        `Executor.log`.
    modules : sequence of str
        What workers of this machine import when they start, while the caller reads its tables.

    Raises
    ------
    InputError
        It names nothing of the kind, or workers have other versions.
    UnavailableError
        Dask is not installed, no scheduler answers, or no worker comes.
    """
    try:
        import distributed
    except ImportError:
        raise UnavailableError(f"--cluster {cluster}: needs Dask distributed: {INSTALL}") from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters is said by errors here
    with (
        workers_of(distributed, cluster, modules) as (given, started),
        _client(distributed, given, cluster) as client,
    ):
        executor = Cluster(client, cluster, log, started=started)
        if not cluster.startswith("local:"):
            executor.require_workers()
        with _copies_kept(client):
            yield executor


@contextmanager
def _copies_kept(client: Any) -> Iterator[None]:
    """Keep the scheduler's memory manager from dropping copies of shared objects between two units of a worker.

    It would every two seconds, wherever no unit waits at the moment, and the object would be sent again.
    """
    running = client.amm.running()
    client.amm.stop()
    try:
        yield
    finally:
        if running and client.status == "running":
            with suppress(OSError, TimeoutError):  # the scheduler is gone
                client.amm.start()


@contextmanager
def _client(distributed: Any, given: dict[str, Any], cluster: str) -> Iterator[Any]:
    try:
        client = distributed.Client(**given, timeout=SCHEDULER, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise UnavailableError(f"--cluster {cluster}: no scheduler answers ({error})") from None
    try:
        yield client
    finally:
        client.close(timeout=5)
