"""The report of a tuning: tables, sentences, and the files of the result folder.

recipe.toml  the tuned recipe, whole
tune.html    all of it in one file that needs no network
tune.json    every trial, with settings and versions
tune.csv     every trial in a row
tune.png     the course of the search, and what decides
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Column, Table
from rich.text import Text

from rapids_pipeline.reports import page
from rapids_pipeline.reports.page import BETTER, GREY, PLAIN, WORSE, Page, Section, Sheet, change, number
from rapids_pipeline.stack.recipe import Recipe, to_toml
from rapids_pipeline.studies.tune.results import Change, Course, TrialRow, Tuned, TunedModel, TunedParameter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RECIPE = "recipe.toml"
FILES = (RECIPE, "tune.html", "tune.csv", "tune.json", "tune.png")
MOST_MOVED = 8
"""Parameters in the terminal table."""
COLUMNS = 4
SHOWN = 0.9
"""Share of the trials whose errors the charts of the settings span; worse ones are drawn at the upper edge."""
ERROR = "error of held-out rows, change from the recipe's (%)"


def write_tuning(found: Tuned, recipe: Recipe, folder: Path) -> None:
    """Write the files of `FILES`; all are made before the first is written, each whole or not at all."""
    picture = page.png(lambda: overview(found))
    contents: dict[str, str | bytes] = {
        RECIPE: to_toml(recipe),
        "tune.html": page.page_of(_page(found, picture)),
        "tune.csv": page.csv_text([row for model in found.models for row in _csv_rows(model)]),
        "tune.json": page.json_text(asdict(found)),
        "tune.png": picture,
    }
    page.write_files(folder, contents)


# --- the search, while it runs ----------------------------------------------------------------------------


def drawn(course: Course) -> Text:
    """Return what a terminal shows while the search runs."""
    limit = f" of {course.limit}" if course.limit else ""
    earlier = f", {course.earlier} of earlier sessions" if course.earlier else ""
    best = ", ".join(f"{name} {change(math.expm1(score))}" for name, score in course.best.items())
    time = f"{course.spent:.1f} of {course.minutes:g} minutes"
    return page.words(f"{course.trials}{limit} trials{earlier}; {time}{f'; error: {best}' if best else ''}")


def logged(course: Course) -> str:
    """Return the line that a log gets: at the beginning, and for every trial that is the best of its model so far."""
    if course.begins and course.earlier:
        return f"going on after {course.earlier} trials of earlier sessions"
    if course.last is None:
        return ""
    model, trial = course.last
    return f"{model} trial {trial:<5} {change(math.expm1(course.best[model]))}"


# --- words and numbers ------------------------------------------------------------------------------------


def tables(found: Tuned) -> list[Table]:
    """Return the tables for a terminal: the errors by split, and the settings that changed most, where any did."""
    names = (Column(name, no_wrap=True) for name in ("model", "split"))
    errors = (Column(name, justify="right", no_wrap=True) for name in ("recipe", "tuned", "change"))
    scores = Table(*names, *errors, Column("95 % interval", justify="right"))
    for name, split, *_, start, tuned, changed, interval in _score_cells(found):
        scores.add_row(name, split, start, tuned, changed, interval)
    numbers = (Column(name, justify="right", no_wrap=True) for name in ("recipe", "tuned", "importance"))
    settings = Table(Column("model", no_wrap=True), Column("setting", overflow="fold"), *numbers)
    for model in found.models:
        for one in most_moved(model)[:MOST_MOVED]:
            settings.add_row(*_setting_cells(model.model, one))
    return [scores, *([settings] if settings.rows else [])]


def most_moved(model: TunedModel) -> list[TunedParameter]:
    """Return the parameters that changed, those that moved furthest first."""
    changed = [parameter for parameter in model.parameters if parameter.moved]
    return sorted(changed, key=lambda parameter: -parameter.moved)


def verdict(found: Tuned) -> str:
    """Return the first line of the page: whether the tuned recipe is better, and by how much."""
    if not any(model.improved for model in found.models):
        return f"No trial was better than the recipe {found.settings['recipe']}: keep it"
    told = f"Tuning changes the error of held-out rows by {change(found.change.value)} ({_interval(found.change)})"
    return f"{told}; it may be luck of these rows" if found.change.in_doubt else told


def sentences(found: Tuned) -> list[str]:
    """Return in words what was tuned on what, what it brought, and how far to trust it."""
    lines = [f"tuned on: {line}" for line in found.tuned_on]
    for model in found.models:
        lines += _of_model(model)
    if len(found.models) > 1:
        shares = " and ".join(f"{page.percent(model.share)} {model.model}" for model in found.models)
        lines.append(f"together, weighted by the rows they serve ({shares}): {_judged(found.change)}")
    if any(model.improved for model in found.models):
        lines.append(
            "an interval knows the luck of the rows, not that the best of many trials was taken: expect somewhat less "
            "of new pairs"
        )
    return lines


def _of_model(model: TunedModel) -> list[str]:
    pruned = sum(trial.pruned for trial in model.trials)
    counted = f"{len(model.trials)} trials" + (f", {pruned} of them stopped early" if pruned else "")
    if not model.improved:
        return [f"{model.model}: no trial was better than the recipe, which stays as it is ({counted})"]
    lines = [f"{model.model}: trial {model.best} is the best ({counted}): {_judged(model.change)}"]
    edge = ", ".join(parameter.name for parameter in model.parameters if parameter.at_edge)
    if edge:
        further = "tuning the tuned recipe goes further"
        lines.append(f"{model.model}: at the edge of what was tried: {edge}; {further}")
    missed = _best(model).unconverged_fits
    if missed:
        lines.append(
            f"{model.model}: in {missed} fits of the best trial some targets did not converge (max_iter, tol)"
        )
    return lines


def _judged(found: Change) -> str:
    includes = "includes 0, so it may be luck of these rows" if found.in_doubt else "does not include 0"
    return (
        f"the error of held-out rows changes by {change(found.value)} ({_interval(found)}, compounds resampled): the "
        f"interval {includes}"
    )


def _best(model: TunedModel) -> TrialRow:
    return model.trials[model.best - 1]


def _interval(found: Change) -> str:
    return f"{change(found.low).removesuffix(' %')} to {change(found.high)}"


def _score_cells(found: Tuned) -> list[list[str]]:
    """Return the errors by model and split."""
    return [
        [
            *(model.model, lot.split, lot.split_in_words, str(lot.rows), str(lot.fits)),
            *(number(lot.start), number(lot.tuned), change(lot.change.value), _interval(lot.change)),
        ]
        for model in found.models
        for lot in model.lots
    ]


def _setting_cells(model: str, one: TunedParameter) -> list[str]:
    """Return a setting of a model: in the recipe and tuned, and its importance."""
    values = [value if isinstance(value, str) else f"{value:g}" for value in (one.start, one.tuned)]
    return [
        model,
        one.name,
        *values,
        "" if one.importance is None else page.percent(round(one.importance, 2)),
    ]


def _csv_rows(model: TunedModel) -> list[dict[str, Any]]:
    """Return the trials of a model; a column that it does not have is empty."""
    rows = []
    for trial in model.trials:
        row = {"model": model.model, "trial": trial.trial, "stopped_early": trial.pruned}
        row |= {"best": trial.trial == model.best, "change": trial.change, "seconds": trial.seconds}
        rows.append(row | {f"mrrmse_{lot}": x for lot, x in trial.scores.items()} | trial.parameters)
    return rows


# --- the page ---------------------------------------------------------------------------------------------


def _page(found: Tuned, picture: bytes) -> Page:
    searched = page.image(picture, "Error of every trial, and the importance of the parameters")
    words = "Trial 1 is the recipe as it is. Points above the upper end are drawn on it."
    pictures = [
        Section(
            f"slices-{model.model}",
            f"Every setting against the error: {model.model}",
            "Every point is a trial; the red one is the recipe, the blue one the best.",
            page.image(page.png(partial(slices, model)), f"Settings of {model.model} against the error"),
        )
        for model in found.models
    ]
    return Page(
        title=verdict(found),
        lead=f"{found.n_trials} trials from the recipe {found.settings['recipe']}; data: {found.settings['source']}",
        sentences=sentences(found),
        sections=[
            _scores(found),
            Section("search", "The search", words, searched),
            _settings(found),
            *pictures,
        ],
        provenance=found.provenance,
    )


def _scores(found: Tuned) -> Section:
    words = (
        "MRRMSE of held-out rows (lower is better); every row is predicted by fits that never saw its response. A "
        "change below 0 is an improvement; its interval resamples compounds."
    )
    headings = "model,split,what is held out,rows,fits,recipe,tuned,change,95 % interval".split(",")
    sheet = Sheet(headings, _score_cells(found), text=["split", "what is held out"])
    return Section("scores", "Scores", words, sheet=sheet)


def _settings(found: Tuned) -> Section:
    both = [(model.model, one) for model in found.models for one in model.parameters]
    rows = [_setting_cells(*one) for one in both]
    for cells, (_, one) in zip(rows, both, strict=True):
        cells[3] += " (edge)" * one.at_edge
    changed = [place for place, (_, one) in enumerate(both) if one.moved]
    headings = ["model", "setting", "recipe", "tuned", "importance"]
    return Section("settings", "Settings", sheet=Sheet(headings, rows, bold=changed, text=["setting"]))


# --- charts -----------------------------------------------------------------------------------------------


def overview(found: Tuned) -> "Figure":
    """Draw for each model the course of its search and the importance of its parameters."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2 * len(found.models)), layout="constrained")
    axes = figure.subplots(len(found.models), 2, squeeze=False)
    for (left, right), model in zip(axes, found.models, strict=True):
        _history(left, model)
        _importances(right, model)
    return figure


def slices(model: TunedModel) -> "Figure":
    """Draw for each parameter its values against the change of the error."""
    from matplotlib.figure import Figure

    n_rows = -(-len(model.parameters) // COLUMNS)
    figure = Figure(figsize=(11, 2.3 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, COLUMNS, squeeze=False, sharey=True).ravel()
    for panel, parameter in zip(axes, model.parameters, strict=False):
        _slice(panel, model, parameter)
    for panel in axes[len(model.parameters) :]:
        panel.set_visible(False)
    figure.supylabel(ERROR, fontsize=9)
    return figure


def _history(axes: "Axes", model: TunedModel) -> None:
    changes, top = _changes(model), _top(model)
    pruned = np.array([trial.pruned for trial in model.trials])
    numbers, complete = np.array([trial.trial for trial in model.trials]), np.where(pruned, np.inf, changes)
    shown = np.minimum(changes, top)
    axes.plot(numbers[~pruned], shown[~pruned], "o", color=GREY, markersize=4, label="trial")
    if pruned.any():
        axes.plot(numbers[pruned], shown[pruned], "x", color=GREY, markersize=4, label="stopped early")
    axes.step(numbers, np.minimum.accumulate(complete), where="post", color=PLAIN, label="best so far")
    axes.axhline(0, color=WORSE, linestyle="--", linewidth=1, label="the recipe")
    axes.set_title(f"{model.model}: {len(changes)} trials", loc="left")
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("trial")
    axes.set_ylabel(ERROR)
    axes.legend(fontsize=8, frameon=False)


def _importances(axes: "Axes", model: TunedModel) -> None:
    known = sorted((p.importance, p.name) for p in model.parameters if p.importance is not None)
    axes.set_title("what decides the order of the trials", loc="left")
    if not known:
        axes.text(0.5, 0.5, "too few trials to say", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    axes.barh([name for _, name in known], [share for share, _ in known], color=PLAIN)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("importance (functional ANOVA of ranks)")


def _slice(axes: "Axes", model: TunedModel, parameter: TunedParameter) -> None:
    values: list[Any] = [trial.parameters[parameter.name] for trial in model.trials]
    changes, best = np.minimum(_changes(model), _top(model)), model.best - 1
    places, names = _placed(values)
    axes.plot(places, changes, "o", color=GREY, markersize=3)
    if names:
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
    elif 0 < min(values) < max(values):
        axes.set_xscale("log")
        ticks = np.geomspace(min(values), max(values), 3)
        axes.set_xticks(ticks, [f"{float(f'{tick:.2g}'):g}" for tick in ticks])
        axes.set_xticks([], minor=True)
    axes.plot(places[0], changes[0], "o", color=WORSE, markersize=6, label="the recipe")
    axes.plot(places[best], changes[best], "D", color=BETTER, markersize=5, label="tuned")
    axes.set_title(parameter.name.removeprefix("weights."), loc="left", fontsize=8)
    axes.tick_params(labelsize=7)


def _placed(values: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """Return where values are on an axis: names at 0, 1, … with the names, numbers as they are."""
    if not any(isinstance(value, str) for value in values):
        return list(values), []
    names = sorted(set(values))
    return [names.index(value) for value in values], names


def _changes(model: TunedModel) -> Any:
    """Return the change of every trial's error in per cent."""
    return 100 * np.array([trial.change for trial in model.trials])


def _top(model: TunedModel) -> float:
    """Return the upper end of the errors that are drawn."""
    return float(np.quantile(_changes(model), SHOWN))
