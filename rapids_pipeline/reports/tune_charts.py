"""Pictures of a tuning: the course of the search, what decides, and every parameter against the error."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from rapids_pipeline.studies.tune.results import TrialRow, Tuned, TunedMachine, TunedParameter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINT, LINE, START, TUNED, BAR = "#9aa7b4", "#2f7d8f", "#b2182b", "#2166ac", "#6fa3b3"
COLUMNS = 4
SHOWN = 0.9
"""Share of the trials whose errors the slices span; worse ones are drawn at the upper edge."""


def overview(found: Tuned) -> bytes:
    """Return a PNG: a row a machine, with the course of its search and the importance of its parameters."""
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(11, 4.2 * len(found.machines)), layout="constrained")
        axes = figure.subplots(len(found.machines), 2, squeeze=False)
        for (left, right), machine in zip(axes, found.machines, strict=True):
            _history(left, machine)
            _importance(right, machine)
        return _png(figure)


def slices(machine: TunedMachine) -> bytes:
    """Return a PNG: a panel a parameter, its values against the change of the error."""
    from matplotlib.figure import Figure

    n_rows = -(-len(machine.parameters) // COLUMNS)
    with _style():
        figure = Figure(figsize=(11, 2.3 * n_rows), layout="constrained")
        axes = figure.subplots(n_rows, COLUMNS, squeeze=False, sharey=True).ravel()
        for panel, parameter in zip(axes, machine.parameters, strict=False):
            _slice(panel, machine, parameter)
        for panel in axes[len(machine.parameters) :]:
            panel.set_visible(False)
        figure.supylabel("error of held-out rows, change from the recipe's (%)", fontsize=9)
        return _png(figure)


def _history(axes: "Axes", machine: TunedMachine) -> None:
    changes = np.array([_percent(trial) for trial in machine.trials])
    pruned = np.array([trial.pruned for trial in machine.trials])
    complete = np.where(pruned, np.inf, changes)
    numbers, top = np.arange(len(changes)), _top(machine)
    axes.plot(
        numbers[~pruned], np.minimum(changes[~pruned], top), "o", color=POINT, markersize=4, label="trial"
    )
    if pruned.any():
        stopped = np.minimum(changes[pruned], top)
        axes.plot(numbers[pruned], stopped, "x", color=POINT, markersize=4, label="stopped early")
    axes.step(numbers, np.minimum.accumulate(complete), where="post", color=LINE, label="best so far")
    axes.axhline(0, color=START, linestyle="--", linewidth=1, label="the recipe")
    axes.set_title(f"{machine.machine}: {len(changes)} trials", loc="left")
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("trial")
    axes.set_ylabel("error, change from the recipe's (%)")
    axes.legend(fontsize=8, frameon=False)


def _importance(axes: "Axes", machine: TunedMachine) -> None:
    known = [(p.importance, p.name) for p in machine.parameters if p.importance is not None]
    axes.set_title("what decides the order of the trials", loc="left")
    if not known:
        axes.text(0.5, 0.5, "too few trials to say", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    known.sort()
    axes.barh([name for _, name in known], [share for share, _ in known], color=BAR)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("importance (functional ANOVA of ranks)")


def _slice(axes: "Axes", machine: TunedMachine, parameter: TunedParameter) -> None:
    values: list[Any] = [trial.parameters[parameter.name] for trial in machine.trials]
    changes = np.minimum([_percent(trial) for trial in machine.trials], _top(machine))
    places, names = _placed(values)
    axes.plot(places, changes, "o", color=POINT, markersize=3)
    if names:
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
    elif 0 < min(values) < max(values):
        axes.set_xscale("log")
        ticks = np.geomspace(min(values), max(values), 3)
        axes.set_xticks(ticks, [f"{float(f'{tick:.2g}'):g}" for tick in ticks])
        axes.set_xticks([], minor=True)
    axes.plot(places[0], changes[0], "o", color=START, markersize=6, label="the recipe")
    axes.plot(places[machine.best], changes[machine.best], "D", color=TUNED, markersize=5, label="tuned")
    axes.set_title(parameter.name.removeprefix("weights."), loc="left", fontsize=8)
    axes.tick_params(labelsize=7)


def _placed(values: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """Return where values are on an axis: names at 0, 1, … with the names, numbers as they are."""
    if not any(isinstance(value, str) for value in values):
        return list(values), []
    names = sorted(set(values))
    return [names.index(value) for value in values], names


def _percent(trial: TrialRow) -> float:
    return 100 * trial.change


def _top(machine: TunedMachine) -> float:
    """Return the upper end of the errors that are drawn."""
    return float(np.quantile([_percent(trial) for trial in machine.trials], SHOWN))


@contextmanager
def _style() -> Iterator[None]:
    """Draw with matplotlib's defaults whatever the user's are; a dollar sign in a name is a dollar sign."""
    from matplotlib import style

    plain = {"text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False}
    with style.context(["default", plain]):
        yield


def _png(figure: "Figure") -> bytes:
    content = BytesIO()
    figure.savefig(content, format="png", dpi=130)
    return content.getvalue()
