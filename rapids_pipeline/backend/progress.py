"""Stages of long work: how far the one under way has come, and how long each took.

Numerical code reports to a `Progress` and knows no terminal; whoever shows it derives from `Stages`.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum


class Detail(IntEnum):
    """How much is said besides results and errors."""

    QUIET = 0
    USUAL = 1
    VERBOSE = 2


DETAIL: ContextVar[Detail] = ContextVar("detail", default=Detail.USUAL)
"""How much the command under way says."""


@contextmanager
def detail_of(detail: Detail) -> Iterator[None]:
    """Say so much inside."""
    before = DETAIL.set(detail)
    try:
        yield
    finally:
        DETAIL.reset(before)


class Progress:
    """Receives how far the stage under way has come; this one shows nothing."""

    def start(self, total: float | None, what: str = "") -> None:
        """Say how many steps the stage under way has, and what they are; again wherever another part of it begins."""

    def advance(self, steps: float = 1) -> None:
        """Say that `steps` more steps are done."""

    def made_by(self, workers: str) -> None:
        """Say who makes the steps, such as "8 workers"."""

    def made(self, what: str) -> None:
        """Say what one step took: its name, worker, seconds and memory."""

    def found(self, result: object) -> None:
        """Say what the stage found so far; a study tells its own kind of result."""


class Stages:
    """Runs named stages one after the other and remembers their wall-clock seconds; shows nothing.

    Attributes
    ----------
    seconds : dict of str to float
        Seconds each finished stage took, in order.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        """Run one stage: `with stages.stage("svr") as progress: …`"""
        began = time.perf_counter()
        with self.shown(name) as progress:
            yield progress
        self.seconds[name] = round(time.perf_counter() - began, 3)
        self.finished(name)

    @contextmanager
    def shown(self, name: str) -> Iterator[Progress]:
        """Show the stage while it runs."""
        yield Progress()

    def finished(self, name: str) -> None:
        """Show that a stage is done."""
