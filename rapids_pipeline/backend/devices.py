"""Which device a run uses, decided once at its start and written down with the reason."""

from dataclasses import dataclass
from typing import Literal

from rapids_pipeline.backend.errors import InputError, ProblemsError
from rapids_pipeline.backend.gpu import gpu_problems

DeviceName = Literal["cpu", "cuda"]
DEVICE_OPTIONS = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Device:
    """The chosen device (`name`: "cpu" or "cuda") and, in words, why it was chosen."""

    name: DeviceName
    reason: str


def processor_count() -> int:
    """Return how many processors this process may use: those it is bound to, and no more than a container's quota."""
    from joblib import cpu_count

    return int(cpu_count())


def why_no_cuda() -> str | None:
    """Return None where a GPU run can start, otherwise one clause that says the first thing that is missing."""
    problems = gpu_problems()
    return problems[0].what if problems else None


def resolve_device(requested: str) -> Device:
    """Turn `--device auto|cpu|cuda` into a device.

    Parameters
    ----------
    requested : str
        "cpu" and "cuda" are taken at their word; "auto" takes CUDA where it can run and the CPU otherwise.

    Raises
    ------
    InputError
        `requested` is none of the three.
    ProblemsError
        "cuda" was asked for and cannot run here: one line a problem, with its remedy. Nothing falls back in silence.
    """
    if requested not in DEVICE_OPTIONS:
        raise InputError(f"--device {requested}: choose one of {', '.join(DEVICE_OPTIONS)}")
    if requested == "cpu":
        return Device("cpu", "asked for")
    problems = gpu_problems()
    if not problems:
        return Device("cuda", "asked for" if requested == "cuda" else "auto: a GPU run can start")
    if requested == "cuda":
        raise ProblemsError([f"--device cuda: {problem}" for problem in problems])
    return Device("cpu", f"auto: {problems[0].what}")
