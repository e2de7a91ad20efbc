"""What a person looks at: progress bars, tables and pictures."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from features.feature_sets import FeatureSet
from rapids_pipeline.backend.progress import Progress, Stages


class _Bar(Progress):
    def __init__(self, bars: Bars, name: str) -> None:
        self._bars = bars
        self._task = bars.add_task(name, total=None)

    def start(self, total: int) -> None:
        self._bars.update(self._task, total=total)

    def advance(self, steps: int = 1) -> None:
        self._bars.advance(self._task, steps)


class LiveStages(Stages):
    """Stages with a progress bar each on a terminal, and a line each in a log."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self.console = console or Console(stderr=True)

    @contextmanager
    def shown(self, name: str) -> Iterator[Progress]:
        """Show a bar until the stage ends, on a terminal."""
        if not self.console.is_terminal:
            yield Progress()
            return
        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Bars(*columns, console=self.console, transient=True) as bars:
            yield _Bar(bars, name)

    def finished(self, name: str) -> None:
        """Print the stage and its seconds."""
        self.console.print(f"  {name:<12} {self.seconds[name]:7.1f} s", highlight=False)


def score_table(scores: Mapping[str, Mapping[str, float]]) -> Table:
    """Return a table with one row a method and one column a metric; the best method of a metric is bold.

    Parameters
    ----------
    scores : mapping of method to mapping of metric to float
        Of errors (names ending in rmse, mae or MRRMSE) the lowest is best, of the others the highest.
    """
    table = Table()
    table.add_column("method")
    metrics = list(next(iter(scores.values())))
    best = {
        metric: (min if metric.endswith(("rmse", "mae")) else max)(row[metric] for row in scores.values())
        for metric in metrics
    }
    for metric in metrics:
        table.add_column("MRRMSE" if metric == "mean_rowwise_rmse" else metric.removeprefix("mean_rowwise_"))
        table.columns[-1].justify = "right"
    for method, row in scores.items():
        cells = [
            f"[bold]{row[metric]:.4f}[/bold]" if row[metric] == best[metric] else f"{row[metric]:.4f}"
            for metric in metrics
        ]
        table.add_row(method, *cells)
    return table


def feature_sets_table(sets: Mapping[str, FeatureSet]) -> Table:
    """Return a table with one row a feature set."""
    table = Table()
    table.add_column("feature set", no_wrap=True)
    table.add_column("what it says")
    table.add_column("blocks", justify="right")
    for name, recipe in sets.items():
        table.add_row(name, recipe.description, str(len(recipe.blocks)))
    return table


def feature_set_table(recipe: FeatureSet) -> Table:
    """Return a table with one row a block of a feature set."""
    table = Table(title=f"{recipe.name}: {recipe.description}", title_justify="left")
    table.add_column("block", overflow="fold")
    table.add_column("columns", no_wrap=True)
    table.add_column("fitted on", no_wrap=True)
    for block in recipe.blocks:
        table.add_row(block.name, block.columns, block.fitted_on)
    return table


def bar_chart(
    path: Path,
    names: Sequence[str],
    values: Sequence[float],
    errors: Sequence[float],
    title: str,
    axis: str,
    reference: float | None = None,
    reference_name: str = "",
) -> None:
    """Draw horizontal bars from zero, with error bars and a reference line, to a PNG of 150 dpi.

    The smallest value is on top.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    order = sorted(range(len(names)), key=lambda i: -values[i])
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(names) + 1.6), layout="constrained")
    axes.barh(
        [names[i] for i in order],
        [values[i] for i in order],
        xerr=[errors[i] for i in order],
        color="#6fa3b3",
        error_kw={"ecolor": "#333333", "capsize": 3, "elinewidth": 1.2},
    )
    for row, i in enumerate(order):
        axes.text(0.01 * max(values), row, f"{values[i]:.4f}", va="center", fontsize=9)
    if reference is not None:
        axes.axvline(reference, color="#c0504d", linestyle="--", linewidth=1.2)
        above: dict[str, Any] = {
            "transform": axes.get_xaxis_transform(),
            "ha": "center",
            "va": "bottom",
            "fontsize": 9,
        }
        axes.text(reference, 1.01, reference_name, color="#c0504d", **above)
    axes.set_xlabel(axis)
    axes.set_title(title, loc="left", pad=18)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
