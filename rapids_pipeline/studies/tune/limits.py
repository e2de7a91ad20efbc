"""When a search ends, and who is told how it goes."""

from collections.abc import Mapping
from dataclasses import dataclass

from rapids_pipeline.backend.errors import InputError


class TimeUpError(Exception):
    """The time limit is over."""


@dataclass(frozen=True)
class Limits:
    """When a search ends.

    Attributes
    ----------
    minutes : float
        Of this session.
    trials : int, optional
        Of all machines together, earlier sessions included.
    """

    minutes: float = 10.0
    trials: int | None = None

    def __post_init__(self) -> None:
        if not self.minutes > 0:
            raise InputError(f"--minutes {self.minutes:g}: must be above 0")
        if self.trials is not None and self.trials < 1:
            raise InputError(f"--trials {self.trials}: must be at least 1")


class Watcher:
    """Is told how a search goes; this one shows nothing."""

    def begins(self, trials: int, best: Mapping[str, float]) -> None:
        """Hear how many trials earlier sessions finished, and the best score of each machine."""

    def fits(self) -> None:
        """Hear that a fit is about to begin."""

    def trial_finished(self, machine: str, trials: int, best: float) -> None:
        """Hear that a trial of a machine is finished, how many there are of all, and the machine's best score."""
