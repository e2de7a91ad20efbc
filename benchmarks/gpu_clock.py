"""Seconds of work on a device, waited for and by turns, and how much of its memory the work takes."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Work = Callable[[], Any]


def synchronise(device: str) -> None:
    """Wait until the device has done all it was given."""
    if device == "cuda":
        import cupy

        cupy.cuda.runtime.deviceSynchronize()


def seconds(work: Work, device: str) -> float:
    """Return the seconds that some work takes until the device is done."""
    synchronise(device)
    began = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - began


def by_turns(rivals: Mapping[str, Work], rounds: int, device: str) -> dict[str, list[float]]:
    """Return every rival's seconds of every round; in a round each has one turn."""
    taken: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, work in rivals.items():
            taken[name].append(seconds(work, device))
    return taken


def median(values: list[float]) -> float:
    """Return the median."""
    return float(np.median(values))


def peak_mib(work: Work, device: str) -> float | None:
    """Return by how many MiB the device's memory in use rises, at most, during some work; None on a CPU."""
    if device != "cuda":
        return None
    import cupy

    def free() -> int:
        return int(cupy.cuda.runtime.memGetInfo()[0])

    synchronise(device)
    least, ended = [free()], threading.Event()
    first = least[0]

    def watch() -> None:
        while not ended.wait(0.01):
            least.append(free())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    work()
    synchronise(device)
    ended.set()
    watcher.join()
    return round((first - min(least)) / 2**20, 1)
