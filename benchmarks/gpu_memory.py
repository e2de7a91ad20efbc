"""How much memory of a GPU is in use, by the driver's word (`nvidia-smi`), sampled while other processes run."""

import os
import subprocess
import threading
import time
from typing import Self

QUERY = ("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits")
PATIENCE_S = 10.0


def chosen_gpu() -> str:
    """Return the first device of CUDA_VISIBLE_DEVICES, or 0: an index in the order of the bus, or a UUID."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"


def used_mib(gpu: str) -> int | str:
    """Return the MiB in use on a GPU, or in words why they are not known."""
    try:
        asked = subprocess.run(
            [*QUERY, "-i", gpu], capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
    except FileNotFoundError:
        return "nvidia-smi is not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi gives no answer ({type(error).__name__})"
    said = (asked.stdout.strip() or asked.stderr.strip() or "nothing").splitlines()[0]
    try:
        return int(said)
    except ValueError:
        return f"nvidia-smi says {said!r}"


class MemorySampler:
    """Samples the memory in use in a thread, between `with` and its end.

    Attributes
    ----------
    before : int or str
        MiB in use at the start, or why they are not known; then nothing is sampled.
    peak : int or None
        The most that was seen.
    """

    def __init__(self, gpu: str, every_s: float = 0.2) -> None:
        self.gpu, self.every_s = gpu, every_s
        self.before = used_mib(gpu)
        self.peak = self.before if isinstance(self.before, int) else None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        if self.peak is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(self.every_s):
            used = used_mib(self.gpu)
            if isinstance(used, int):
                self.peak = max(self.peak or 0, used)

    def after(self, within_mib: int, patience_s: float) -> int | str:
        """Return what is in use once it has fallen to `within_mib` above `before`, or after some seconds of waiting."""
        until = time.monotonic() + patience_s
        while True:
            used = used_mib(self.gpu)
            if not isinstance(used, int) or not isinstance(self.before, int):
                return used
            if used <= self.before + within_mib or time.monotonic() > until:
                return used
            time.sleep(self.every_s)
