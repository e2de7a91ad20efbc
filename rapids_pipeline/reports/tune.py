"""What a person looks at after a tuning: tables, sentences, and the files of the result folder.

recipe.toml  the tuned recipe, whole
tune.html    all of it in one file that needs no network
tune.json    every trial, with settings and versions
tune.csv     a row a trial
tune.png     the course of the search, and what decides
"""

import base64
import csv
import json
import math
from io import StringIO
from pathlib import Path
from typing import Any

import jinja2
from rich.table import Table

from rapids_pipeline.backend.files import written_atomically
from rapids_pipeline.reports.tune_charts import overview, slices
from rapids_pipeline.stack.named_recipes import to_toml
from rapids_pipeline.stack.recipe import Recipe
from rapids_pipeline.studies.tune.results import Change, Tuned, TunedMachine, TunedParameter

RECIPE = "recipe.toml"
FILES = (RECIPE, "tune.html", "tune.csv", "tune.json", "tune.png")
MOST_MOVED = 8
"""Parameters in the terminal table."""


def score_table(found: Tuned) -> Table:
    """Return a table with a row a machine and split: the recipe's error and the tuned one's."""
    table = Table()
    for name in ("machine", "split"):
        table.add_column(name, no_wrap=True)
    for heading in ("recipe", "tuned", "change", "95 % interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    for machine in found.machines:
        for lot in machine.lots:
            errors = f"{lot.start:.4f}", f"{lot.tuned:.4f}"
            change = percent(lot.change.value), interval(lot.change)
            table.add_row(machine.machine, lot.split, *errors, *change)
    return table


def parameter_table(found: Tuned) -> Table:
    """Return a table of the settings that changed most."""
    table = Table()
    table.add_column("machine", no_wrap=True)
    table.add_column("setting", overflow="fold")
    for heading in ("recipe", "tuned", "importance"):
        table.add_column(heading, justify="right", no_wrap=True)
    for machine in found.machines:
        for parameter in most_moved(machine)[:MOST_MOVED]:
            values = number(parameter.start), number(parameter.tuned)
            table.add_row(machine.machine, parameter.name, *values, share(parameter.importance))
    return table


def most_moved(machine: TunedMachine) -> list[TunedParameter]:
    """Return the parameters that changed, those that moved furthest first."""
    changed = [parameter for parameter in machine.parameters if parameter.moved]
    return sorted(changed, key=lambda parameter: -parameter.moved)


def sentences(found: Tuned) -> list[str]:
    """Return in words what was tuned on what, what it brought, and how far to trust it."""
    lines = [f"tuned on: {line}" for line in found.tuned_on]
    for machine in found.machines:
        lines += _of_machine(machine)
    if len(found.machines) > 1:
        shares = " and ".join(f"{machine.share:.0%} {machine.machine}" for machine in found.machines)
        lines.append(f"together, weighted by the rows they serve ({shares}): {_judged(found.change)}")
    if any(machine.best for machine in found.machines):
        lines.append(
            "an interval knows the luck of the rows, not that the best of many trials was taken: expect somewhat less "
            "of new pairs"
        )
    return lines


def _of_machine(machine: TunedMachine) -> list[str]:
    pruned = sum(trial.pruned for trial in machine.trials)
    counted = f"{len(machine.trials)} trials" + (f", {pruned} of them stopped early" if pruned else "")
    if not machine.best:
        return [f"{machine.machine}: no trial was better than the recipe, which stays as it is ({counted})"]
    lines = [f"{machine.machine}: trial {machine.best} is the best ({counted}): {_judged(machine.change)}"]
    edge = [parameter.name for parameter in machine.parameters if parameter.at_edge]
    if edge:
        lines.append(
            f"{machine.machine}: at the edge of what was tried: {', '.join(edge)}; tuning the tuned recipe goes further"
        )
    missed = machine.trials[machine.best].unconverged_fits
    if missed:
        lines.append(
            f"{machine.machine}: in {missed} fits of the best trial some targets did not converge (max_iter, tol)"
        )
    return lines


def _judged(change: Change) -> str:
    verdict = (
        "the interval includes 0, so it may be luck of these rows"
        if change.in_doubt
        else "the interval does not include 0"
    )
    return (
        f"the error of held-out rows changes by {percent(change.value)} ({interval(change)}, compounds resampled): "
        f"{verdict}"
    )


def write_tuning(found: Tuned, recipe: Recipe, folder: Path) -> None:
    """Write the files of `FILES`; all are made before the first is written, each whole or not at all."""
    picture = overview(found)
    contents = {
        RECIPE: to_toml(recipe).encode(),
        "tune.html": _page(found, picture).encode(),
        "tune.csv": _csv(found).encode(),
        "tune.json": (json.dumps(found.to_json(), indent=2, ensure_ascii=False) + "\n").encode(),
        "tune.png": picture,
    }
    for name, content in contents.items():
        with written_atomically(folder / name) as path:
            path.write_bytes(content)


def _csv(found: Tuned) -> str:
    """Return a row a trial; a column that a machine does not have is empty."""
    rows: list[dict[str, Any]] = []
    for machine in found.machines:
        for trial in machine.trials:
            row = {"machine": machine.machine, "trial": trial.trial, "stopped_early": trial.pruned}
            row |= {"best": trial.trial == machine.best, "change": trial.change, "seconds": trial.seconds}
            rows.append(row | {f"mrrmse_{k}": v for k, v in trial.scores.items()} | trial.parameters)
    text = StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _page(found: Tuned, picture: bytes) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rapids_pipeline.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("tune.html.j2").render(
        found=found,
        sentences=sentences(found),
        picture=_base64(picture),
        slices={machine.machine: _base64(slices(machine)) for machine in found.machines},
        percent=percent,
        interval=interval,
        number=number,
        share=share,
        provenance=json.dumps(found.provenance, indent=2, ensure_ascii=False),
    )


def _base64(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def percent(change: float) -> str:
    """Return a relative change in per cent, with its sign."""
    return f"{100 * change:+.2f} %".replace("-", "−") if math.isfinite(change) else "–"


def interval(change: Change) -> str:
    """Return an interval in per cent."""
    return f"{percent(change.low).removesuffix(' %')} to {percent(change.high)}"


def number(value: float | str) -> str:
    """Return a setting as text."""
    return value if isinstance(value, str) else f"{value:g}"


def share(value: float | None) -> str:
    """Return an importance in per cent; empty where it is unknown."""
    return "" if value is None else f"{value:.0%}"
