"""Feature screening: which features help to predict one gene, some genes, or all.

    python -m rapids_pipeline.screen --target A1BG

Every candidate feature set is scored on the same splits, by the same model, from columns that are fitted inside each
split. Differences from a reference set come with paired bootstrap intervals, and with several genes the screen says
whether the order of the sets on one gene holds for the others. `rapids_pipeline.screening` has the parts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from rapids_pipeline.backend.errors import exits_cleanly
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.backend.run_folder import require_writable
from rapids_pipeline.data.columns import DEFAULT_LAYER
from rapids_pipeline.data.problem import ProblemFiles, open_problem
from rapids_pipeline.evaluation.splits import SPLITS
from rapids_pipeline.reports.run import LiveStages
from rapids_pipeline.reports.screen import screen_table, sentences, write_screen
from rapids_pipeline.studies.screen.candidates import default_sets, screenable_sets
from rapids_pipeline.studies.screen.flow import ScreenRequest, Search, Watcher, screen
from rapids_pipeline.studies.screen.models import ModelName
from rapids_pipeline.studies.screen.standings import Standings

FILES = "screen.html, screen.csv, screen.json, screen.png"


class LiveTable(Watcher, Progress):
    """Fills the table in while the screen runs: on a terminal in place, in a log a line a candidate."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.standings: Standings | None = None
        self._live: Live | None = None
        self._name, self._of, self._done, self._total = "", "", 0, 0

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the table until the screen ends, on a terminal."""
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, transient=True, auto_refresh=False) as self._live:
            yield
        self._live = None

    def begins(self, name: str, number: int, total: int) -> Progress:
        """Show which candidate is being scored."""
        self._name, self._of = name, f"{number} of {total}"
        return self

    def start(self, total: int) -> None:
        """Show how many fits the candidate takes."""
        self._done, self._total = 0, total
        self._refresh()

    def advance(self, steps: int = 1) -> None:
        """Show one more fit."""
        self._done += steps
        self._refresh()

    def finished(self, standings: Standings) -> None:
        """Show the table so far."""
        self.standings = standings
        if self._live is None:
            last = standings.entries[-1]
            line = f"  {last.name:<22} {last.losses.score:9.4f} {last.seconds:7.1f} s"
            self.console.print(line, highlight=False, soft_wrap=True)

    def _refresh(self) -> None:
        if self._live is not None:
            now = Text(f"{self._of}: {self._name}, fit {min(self._done + 1, self._total)} of {self._total}")
            parts = [now] if self.standings is None else [screen_table(self.standings.screen()), now]
            self._live.update(Group(*parts), refresh=True)


class QuietStages(LiveStages):
    """Stages that leave the terminal to the table while the screen runs."""

    @contextmanager
    def shown(self, name: str) -> Iterator[Progress]:
        """Show a bar until the stage ends, but for the screen's own."""
        if name == "screen":
            yield Progress()
            return
        with super().shown(name) as progress:
            yield progress


@exits_cleanly
def command(
    target: Annotated[
        str, typer.Option(help="A gene, several (A,B,C), random:N, variable:N (the most variable), or all.")
    ] = "A1BG",
    train: Annotated[Path | None, typer.Option(help="Training file; without one, the demo data.")] = None,
    features: Annotated[
        str,
        typer.Option(
            help="Feature sets or .toml files, separated by commas, or 'all' (that need no weights)."
        ),
    ] = "all",
    search: Annotated[
        Search,
        typer.Option(
            help="compare: the sets as they are. ablation: one set without each of its blocks. forward: add "
            "blocks one by one."
        ),
    ] = "compare",
    reference: Annotated[
        str | None,
        typer.Option(
            help="Set that differences are taken from, or 'mean'. Default: onehot, or the first set named."
        ),
    ] = None,
    model: Annotated[ModelName, typer.Option(help="What is fitted to the columns.")] = "svr",
    split: Annotated[
        str,
        typer.Option(help=f"What is held out: {', '.join(SPLITS)}."),
    ] = "random",
    test: Annotated[
        Path | None, typer.Option(help="Pairs to predict, for --split scarce or made_scarce with --train.")
    ] = None,
    molecules: Annotated[
        str, typer.Option(help="morgan, descriptors, chemberta, a folder of weights or a hub id.")
    ] = "morgan",
    folds: Annotated[int, typer.Option(help="Cross-validation folds.")] = 5,
    repeats: Annotated[int, typer.Option(help="How often to deal the folds anew.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the folds.")] = 0,
    layer: Annotated[str, typer.Option(help="Layer of an .h5ad training file.")] = DEFAULT_LAYER,
    out: Annotated[Path | None, typer.Option(help="Result folder; default runs/screen-TARGET.")] = None,
) -> None:
    """Compare feature sets: cross-validated error on one gene or many, with intervals, as a table and a report."""
    console, stages = Console(), QuietStages()
    folder = out or Path("runs") / f"screen-{target.replace(':', '-').replace(',', '-')}"
    require_writable(folder)
    with stages.stage("ingest"):
        problem = open_problem(ProblemFiles(train, test, layer))
    names = () if features == "all" else tuple(name.strip() for name in features.split(","))
    request = ScreenRequest(target, names, search, reference, model, split, folds, repeats, seed, molecules)
    table = LiveTable(stages.console)
    try:
        with table.shown():
            found = screen(
                problem.data,
                request,
                pairs=problem.pairs,
                source=problem.source,
                folder=folder,
                stages=stages,
                watcher=table,
            )
    except KeyboardInterrupt:
        if table.standings is not None:
            write_screen(table.standings.screen(), folder)
            stages.console.print(
                f"the {len(table.standings.entries)} finished sets: {folder}/screen.html; the same command continues",
                highlight=False,
                soft_wrap=True,
            )
        raise
    write_screen(found, folder)
    console.print(screen_table(found))
    left_out = [name for name in screenable_sets() if not names and name not in default_sets()]
    if left_out:
        console.print(
            f"left out, as they need weights: {', '.join(left_out)} (--features takes them by name)"
        )
    for sentence in sentences(found):
        console.print(sentence, highlight=False, soft_wrap=True)
    console.print(f"written: {folder}/{FILES}", highlight=False, soft_wrap=True)
