"""Where the workers of a cluster are: those of this machine are started here, others are found by their scheduler."""

import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import current_process, get_context
from pathlib import Path
from typing import Any

from rapids_pipeline.backend.arrays import host_bytes
from rapids_pipeline.backend.devices import processor_count
from rapids_pipeline.backend.errors import InputError, UnavailableError

CUDA = "cuda"
MOST_WORKERS = 1024
LOST = 30.0
"""Seconds after which another worker is started for one of this machine that is gone. A nanny starts a worker that died
anew, but gives up one that dies while it starts."""

FORK_SERVER = {"PYTHONSAFEPATH": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"} | dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
)
"""Variables of the process that workers are forked from. Nothing is loaded from its working folder, and no library that
it imports starts a thread, because a process with threads cannot be forked safely."""
FORKS = sys.platform == "linux"
"""Whether workers are forked; elsewhere each one starts, and imports, by itself."""


def begin(cluster: str | None, modules: Sequence[str]) -> None:
    """Start the process that workers of this machine are forked from, where `cluster` wants any and there is none yet.

    It imports what workers need, once for all of them, while this process goes on. It ends with this process, however
    that ends. A module that is not installed is left out.
    """
    if not (FORKS and cluster and cluster.startswith("local:") and find_spec("distributed")):
        return
    from multiprocessing import forkserver

    before = {name: os.environ.get(name) for name in FORK_SERVER}
    os.environ.update(FORK_SERVER)
    try:
        get_context("forkserver").set_forkserver_preload(
            ["rapids_pipeline.backend.cluster", "distributed", *modules]
        )
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


class Started:
    """The workers of this machine that this process has started, n of them with a thread each."""

    def __init__(self, cluster: Any, n: int) -> None:
        self._cluster, self._n = cluster, n
        self._since: float | None = None  # when some were first seen to be missing

    def replace_lost(self, there: int) -> None:
        """Start as many workers as are missing, where some have been for `LOST` seconds."""
        now = time.monotonic()
        if there >= self._n:
            self._since = None
        elif self._since is None:
            self._since = now
        elif now >= self._since + LOST:
            self._cluster.scale(len(self._cluster.worker_spec) + self._n - there)
            self._since = now


@contextmanager
def workers_of(
    distributed: Any, cluster: str, modules: Sequence[str]
) -> Iterator[tuple[dict[str, Any], Started | None]]:
    """Yield how a client finds the scheduler, and what was started; a cluster of this machine is started and closed."""
    kind, _, number = cluster.partition(":")
    if kind == "local":
        if not number.isdigit() or not 1 <= int(number) <= MOST_WORKERS:
            raise InputError(
                f"--cluster {cluster}: give a number of workers from 1 to {MOST_WORKERS}, such as local:4"
            )
        if getattr(
            current_process(), "_inheriting", False
        ):  # a worker that imports the script which starts it
            raise InputError(
                f"--cluster {cluster}: a script that starts workers is imported by them; put what it does under "
                "`if __name__ == '__main__':`"
            )
        n = int(number)
        modules = [name for name in modules if find_spec(name.partition(".")[0])]
        begin(cluster, modules)
        how: dict[str, Any] = {"threads_per_worker": 1, "memory_limit": host_bytes() // n}
        share = str(max(1, processor_count() // n))  # of the processors, for joblib and numba
        one = {name: value for name, value in FORK_SERVER.items() if name.endswith("_NUM_THREADS")}
        here = os.environ | one  # as they are now: the process that workers are forked from has older ones
        how |= {"env": here | {"LOKY_MAX_CPU_COUNT": share, "NUMBA_NUM_THREADS": share}, "preload": modules}
        how |= {
            "dashboard_address": ":0",
            "scheduler_kwargs": {"dashboard": False},
        }  # no fixed port, no pages
        how["silence_logs"] = logging.CRITICAL
        with _memory_stays(), distributed.LocalCluster(n_workers=0, **how) as started:
            started.scale(n)
            # a client of the cluster itself would wait for all workers
            yield {"address": started.scheduler_address}, Started(started, n)
    elif cluster == CUDA:
        try:
            from dask_cuda import LocalCUDACluster  # type: ignore[import-not-found]
        except ImportError:
            raise UnavailableError("--cluster cuda: needs dask-cuda, which comes with RAPIDS") from None
        with LocalCUDACluster(dashboard_address=None) as started:
            yield {"address": started}, None
    elif "://" in cluster:
        yield {"address": cluster}, None
    elif Path(cluster).suffix == ".json":
        if not Path(cluster).is_file():
            raise InputError(
                f"--cluster {cluster}: there is no such file; a scheduler writes it when it starts"
            )
        yield {"scheduler_file": cluster}, None
    else:
        raise InputError(
            f"--cluster {cluster}: give local:N, cuda, tcp://HOST:PORT or a scheduler's .json file"
        )


@contextmanager
def _memory_stays() -> Iterator[None]:
    """Start workers with the allocator's own threshold.

    Dask's sends every freed block back to the system, and a fit that makes large arrays again and again waits for it.
    """
    import dask

    name = "distributed.nanny.pre-spawn-environ"
    how = {name: dask.config.get(name) | {"MALLOC_TRIM_THRESHOLD_": None}}
    if FORKS:
        how["distributed.worker.multiprocessing-method"] = "forkserver"
    with dask.config.set(how):
        yield
