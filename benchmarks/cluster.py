"""Work on a cluster and work that is cut off: what it costs, and that no byte differs.

    python -m benchmarks.cluster [--parts busy,overhead,killed,lost,resumed] [--data FOLDER] [--out FILE]

busy      64 simulated workers, whose units wait instead of fitting: how much of their time they are busy from the
          first unit to the last, while they get what units share, too; and the bytes that move for a unit
overhead  `run` on two workers of this machine and without a cluster, in turns: `published` on lincs_lung, `best` and
          `published` on the demo at full size
killed    a run on a cluster of two workers of which one is killed with SIGKILL every 20 s
lost      a run whose scheduler is killed: how it ends, and the same command afterwards
resumed   the demo at full size, `best` and `published`, killed with SIGKILL after half of its time and typed again; and
          once more when finished

Every run is a process of its own, and its submission and out-of-fold predictions are compared by their bytes with those
of the run without a cluster. Prints a table and writes benchmarks/results/cluster.json and cluster.md.
"""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.pipeline import files_of
from rapids_pipeline.backend.parallel import Shared, Unit, executor_of
from rapids_pipeline.backend.store import Kept

WORKERS, UNITS_A_WORKER, MEDIAN_S, SPREAD, SHARED_BYTES, RESULT_BYTES = 64, 40, 2.0, 0.3, 40_000_000, 100_000
"""Units take log-normal times; SPREAD is the standard deviation of their logarithms."""
ROUNDS, KILL_S = 2, 20.0
COMPARED = ("submission.csv", "oof.parquet")
RUN = ["run", "--molecules", "morgan"]
SIMULATED = """
import sys
import rapids_pipeline.stack.fit
from distributed import LocalCluster
if __name__ == "__main__":
    where, n = sys.argv[1], int(sys.argv[2])
    how = dict(processes=False, threads_per_worker=1, protocol="tcp", dashboard_address=None, memory_limit=0)
    with LocalCluster(n_workers=n, **how) as cluster:
        open(where, "w").write(cluster.scheduler_address)
        sys.stdin.read()
"""
"""A process with a scheduler and many workers, which wait without needing processors."""


def waited(shared: Any, seconds: float) -> Kept:
    """Wait as long as a fit would take, and return what is as large as its result."""
    time.sleep(seconds)
    return Kept({"scores": np.full(RESULT_BYTES // 8, float(shared[0]))}, {})


def busy() -> dict[str, Any]:
    """Return how busy simulated workers are, and what moves over the loopback network for a unit."""
    import psutil

    draw = random.Random(0)
    delays = [draw.lognormvariate(0.0, SPREAD) * MEDIAN_S for _ in range(WORKERS * UNITS_A_WORKER)]
    shared = Shared(
        lambda: np.ones(SHARED_BYTES // 8), keep=True
    )  # as rows and targets, which stay for a whole run
    units = [Unit(f"unit {k + 1}/{len(delays)}", shared, delay) for k, delay in enumerate(delays)]
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "address"
        argv = [sys.executable, "-c", SIMULATED, str(where), str(WORKERS)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, cwd=harness.REPOSITORY) as process:
            try:
                with executor_of(awaited(where)) as executor:
                    executor.client.wait_for_workers(WORKERS)  # type: ignore[attr-defined]
                    before, began = psutil.net_io_counters().bytes_sent, time.perf_counter()
                    list(executor.results(waited, units))
                    wall, moved = time.perf_counter() - began, psutil.net_io_counters().bytes_sent - before
            finally:
                process.kill()
    most = max(sum(delays) / WORKERS, max(delays))
    return {
        "workers": WORKERS,
        "units": len(units),
        "median seconds of a unit": MEDIAN_S,
        "standard deviation of the logarithms of their times": SPREAD,
        "seconds": wall,
        "share of their time in units": sum(delays) / (WORKERS * wall),
        "share that no schedule exceeds": sum(delays) / (WORKERS * most),
        "bytes a unit": moved / len(units),
        "of which its result": RESULT_BYTES,
        "shared bytes, sent to each worker": SHARED_BYTES,
    }


def awaited(path: Path, seconds: float = 120.0) -> str:
    """Return the content of a file that another process writes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.exists() and path.read_text():
            time.sleep(0.5)
            return path.read_text()
        time.sleep(0.1)
    raise TimeoutError(f"{path}: not written in {seconds:.0f} s")


# --- runs --------------------------------------------------------------------------------------------------------


def started(argv: list[str], out: Path) -> "subprocess.Popen[str]":
    """Start a command of this program."""
    command = [sys.executable, "-m", "rapids_pipeline", *argv, "--out", str(out)]
    how: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "cwd": harness.REPOSITORY}
    return subprocess.Popen(command, text=True, **how)


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Return a command's exit code and the last line of stderr."""
    _, told = process.communicate()
    return process.returncode, (told.strip().splitlines() or [""])[-1]


def timed(argv: list[str], out: Path) -> float:
    """Return the seconds of a command that must end well."""
    began = time.perf_counter()
    code, told = ended(started(argv, out))
    if code:
        raise RuntimeError(f"{' '.join(argv)}: exit code {code}: {told}")
    return time.perf_counter() - began


def same_bytes(one: Path, other: Path) -> bool:
    """Say whether two runs have the same submission and out-of-fold predictions."""
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in COMPARED)


def overhead(argv: list[str], place: Path) -> dict[str, Any]:
    """Return the seconds of a run without a cluster and on two workers here, in turns."""
    taken: dict[str, list[float]] = {"no cluster": [], "local:2": []}
    for number in range(ROUNDS):
        for name, more in (("no cluster", []), ("local:2", ["--cluster", "local:2"])):
            taken[name].append(timed([*argv, *more], place / f"{name} {number}"))
    alone, two = (statistics.median(taken[name]) for name in ("no cluster", "local:2"))
    same = all(same_bytes(place / "no cluster 0", place / f"local:2 {k}") for k in range(ROUNDS))
    return {
        "no cluster s": alone,
        "local:2 s": two,
        "overhead": two / alone - 1,
        "same bytes": same,
        "all": taken,
    }


@contextmanager
def two_workers(folder: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Yield the address of a scheduler with two workers, which are started again where they die, and its process."""
    file, dask = folder / "scheduler.json", str(Path(sys.executable).parent / "dask")
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": harness.REPOSITORY}
    words = ["--scheduler-file", str(file), "--no-dashboard"]
    scheduler = subprocess.Popen([dask, "scheduler", *words, "--port", "0"], **quiet)
    try:
        address = json.loads(awaited(file))["address"]
        workers = subprocess.Popen([dask, "worker", *words, "--nworkers", "2", "--nthreads", "1"], **quiet)
        try:
            yield address, scheduler
        finally:
            workers.terminate()
            workers.wait(30)
    finally:
        scheduler.kill()
        scheduler.wait()


def killed(argv: list[str], like: Path, place: Path) -> dict[str, Any]:
    """Run on two workers while one is killed every `KILL_S` seconds."""
    import distributed

    place.mkdir(parents=True)
    with two_workers(place) as (address, _), distributed.Client(address, set_as_default=False) as client:
        client.wait_for_workers(2)
        began, kills = time.perf_counter(), 0
        process = started([*argv, "--cluster", address], place / "out")
        while process.poll() is None:
            if time.perf_counter() - began > KILL_S * (kills + 1):
                pids = sorted(client.run(os.getpid, on_error="ignore").values())
                if pids:
                    os.kill(pids[kills % len(pids)], signal.SIGKILL)
                    kills += 1
            time.sleep(0.2)
        code, told = ended(process)
        seconds = time.perf_counter() - began
    same = not code and same_bytes(like, place / "out")
    return {"exit code": code, "last line": told, "seconds": seconds, "kills": kills, "same bytes": same}


def lost(argv: list[str], like: Path, place: Path, after: float) -> dict[str, Any]:
    """Run on two workers whose scheduler is killed after some seconds, and run the same command again without them."""
    place.mkdir(parents=True)
    with two_workers(place) as (address, scheduler):
        process = started([*argv, "--cluster", address], place / "out")
        time.sleep(after)
        scheduler.kill()
        began = time.perf_counter()
        code, told = ended(process)
        ending = time.perf_counter() - began
    again = timed(argv, place / "out")
    return {
        **{"exit code": code, "last line": told, "ended after s": ending, "again s": again},
        "same bytes": same_bytes(like, place / "out"),
    }


def resumed(argv: list[str], like: Path, place: Path, whole: float) -> dict[str, Any]:
    """Kill a run after half of the time that a whole one takes, and type it again; then once more."""
    log = place.with_suffix(".log")
    process = started(argv, place)
    time.sleep(whole / 2)
    process.kill()
    process.communicate()
    began = time.time()
    again = timed([*argv, "--log", str(log)], place)
    lines = [(datetime.fromisoformat(line.split()[0]).timestamp() - began, line) for line in log.open()]
    first, kept = lines[0][0], [when for when, line in lines if line.endswith("kept from before\n")]
    nothing = timed(argv, place)
    return {
        **{"whole s": whole, "killed after s": whole / 2, "again s": again, "saved": 1 - again / whole},
        "seconds of it until the first fit is read: start, imports, tables": first,
        "fits read": len(kept),
        "of fits": len(lines),
        **{"finished, again s": nothing, "same bytes": same_bytes(like, place)},
    }


def markdown(report: dict[str, Any]) -> str:
    """Return a table for each part."""
    lines = []
    for part, found in report["parts"].items():
        rows = [
            (name, f"{x:.3g}" if isinstance(x, float) else x) for name, x in found.items() if name != "all"
        ]
        lines += [f"**{part}**", "", *harness.table("what | found", rows), ""]
    return "\n".join(lines)


@harness.ends_in_one_line
def main() -> None:
    """Measure, print and write."""
    parser = harness.options_of(__doc__, "cluster.json", harness.DATA)
    parser.add_argument("--parts", default="busy,overhead,killed,lost,resumed")
    asked = parser.parse_args()
    parts, found = asked.parts.split(","), {}
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        if "busy" in parts:
            found["busy"] = busy()
        if set(parts) - {"busy"}:
            subprocess.run(
                [sys.executable, "-m", "rapids_pipeline", "demo", "--data-only", "--out", str(room / "demo")],
                **{"check": True, "capture_output": True, "cwd": harness.REPOSITORY},
            )
            demo = [*RUN, *files_of(room / "demo" / "data")]
            long = [*demo, "--recipe", "published"]
            whole, like = timed(demo, room / "whole"), room / "whole"
        if "overhead" in parts:
            published = [*RUN, "--recipe", "published", *files_of(asked.data / "lincs_lung")]
            found["overhead, published on lincs_lung"] = overhead(published, room / "lung")
            found["overhead, best on the demo"] = overhead(demo, room / "overhead")
            found["overhead, published on the demo"] = overhead(long, room / "long")
        if "killed" in parts:
            found["killed"] = killed(demo, like, room / "killed")
        if "lost" in parts:
            found["lost"] = lost(demo, like, room / "lost", whole / 2)
        if "resumed" in parts:
            found["resumed, best"] = resumed(demo, like, room / "resumed", timed(demo, room / "warm"))
            seconds, like = timed(long, room / "long alone"), room / "long alone"
            found["resumed, published"] = resumed(long, like, room / "long resumed", seconds)
    harness.written(asked.out, markdown, parts=found)


if __name__ == "__main__":
    main()
