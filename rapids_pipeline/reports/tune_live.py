"""The search as a person at a terminal sees it."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars

from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.reports.page import LiveStages
from rapids_pipeline.studies.tune.limits import Limits, Watcher

SEARCH = "trials"
"""The stage in which trials run."""


class LiveTrials(LiveStages, Watcher):
    """Stages that show the trials: on a terminal a bar a limit, in a log a line whenever one is the best so far."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self._limits, self._began = limits, time.monotonic()
        self._bars: Bars | None = None
        self._best: dict[str, float] = {}

    @contextmanager
    def shown(self, name: str) -> Iterator[Progress]:
        """Show a bar until the stage ends; of the trials one for the time and one for their number."""
        self._began = time.monotonic()
        if name != SEARCH or not self.console.is_terminal:
            with super().shown(name) as progress:
                yield progress
            return
        columns = TextColumn("{task.description:<15}"), BarColumn(), TextColumn("{task.fields[said]}")
        with Bars(*columns, console=self.console, transient=True) as self._bars:
            self._bars.add_task("time", total=60 * self._limits.minutes, said="")
            self._bars.add_task(SEARCH, total=self._limits.trials, said="")
            yield Progress()
        self._bars = None

    def begins(self, trials: int, best: Mapping[str, float]) -> None:
        """Show what earlier sessions found."""
        self._best = dict(best)
        if trials:
            self.console.print(f"  going on after {trials} trials of earlier sessions", highlight=False)
        self._show_trials(trials)

    def fits(self) -> None:
        """Show how much of the time is over."""
        if self._bars is not None:
            seconds = time.monotonic() - self._began
            said = f"{seconds / 60:.1f} of {self._limits.minutes:g} minutes"
            self._bars.update(self._bars.task_ids[0], completed=seconds, said=said)

    def trial_finished(self, machine: str, trials: int, best: float) -> None:
        """Show the number of trials and the best so far."""
        better = best < self._best.get(machine, 0.0)
        self._best[machine] = best
        self._show_trials(trials)
        if better and self._bars is None:
            self.console.print(f"  trial {trials:<5} {machine} {math.expm1(best):+.2%}", highlight=False)

    def _show_trials(self, trials: int) -> None:
        if self._bars is not None:
            best = ", ".join(f"{name} {math.expm1(score):+.2%}" for name, score in self._best.items())
            of = f" of {self._limits.trials}" if self._limits.trials else ""
            said = f"{trials}{of}; error: {best}" if best else f"{trials}{of}"
            self._bars.update(self._bars.task_ids[1], completed=trials, said=said)
