"""Units for the tests of a cluster; workers find this file by the path of the process that starts them."""

import os
import signal
import sys
import time

import numpy as np

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.store import Kept


def product(shared, argument):
    time.sleep(0.05)
    return Kept({"product": shared * argument})


def add(shared, difference):
    return shared + difference


def environment():
    """What a worker was started with: its share of the processors, and whether it has imported what was asked for."""
    names = ("LOKY_MAX_CPU_COUNT", "NUMBA_NUM_THREADS")
    assert "MALLOC_TRIM_THRESHOLD_" not in os.environ
    return (*(os.environ.get(name) for name in names), "json.tool" in sys.modules)


def kills_the_first(shared, argument):
    """The worker that comes first to the third unit dies over it."""
    mark = shared
    if argument == 2 and not os.path.exists(mark):  # noqa: PTH110
        with open(mark, "w"):  # noqa: PTH123
            os.kill(os.getpid(), signal.SIGKILL)
    return Kept({"product": np.array([argument])})


def kills(shared, argument):
    if argument == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return product(shared, argument)


def bad_input(shared, argument):
    raise InputError(f"row {argument:g}: cannot be used")


def no_memory(shared, argument):
    with open(shared, "a") as stream:  # noqa: PTH123
        stream.write("tried\n")
    raise MemoryError("no room for an array")


def hangs_once(shared, argument):
    if argument == 3 and not os.path.exists(shared):  # noqa: PTH110
        with open(shared, "w"):  # noqa: PTH123
            pass
        time.sleep(600)
    return Kept({"product": np.array([argument])})


def kills_the_scheduler(shared, argument):
    """The sixth unit kills the process whose number is shared, as large results are on their way from it."""
    if argument == 5:
        os.kill(shared, signal.SIGKILL)
    return Kept({"product": np.full(4_000_000, argument)})
