"""What all reports share: numbers as text, charts in one style, the page, its files, and the stages that are watched.

A report says what stands on its page: facts, sentences, and sections with a table or a chart. `page_of` makes one HTML
file of them that needs no network, with a light and a dark theme.
"""

import base64
import csv
import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup, escape
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.segment import Segment
from rich.text import Text

from rapids_pipeline.backend.errors import one_line, visible
from rapids_pipeline.backend.files import written
from rapids_pipeline.backend.progress import DETAIL, Detail, Progress, Stages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BETTER, WORSE, UNDECIDED, PLAIN, GREY = "#2166ac", "#b2182b", "#5b6673", "#2f7d8f", "#8a8f96"
UNKNOWN = "–"
MOST_ATOMS = 150
"""Heavy atoms of a molecule that is drawn: laying out hundreds of rings takes RDKit longer than all else."""
LONGEST_NOTE = 4000
"""Characters of a line that a stage says: notes list names, of which there may be millions."""
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that steer a terminal or turn the direction of the text around them."""

# --- numbers ----------------------------------------------------------------------------------------------


def number(value: float, decimals: int = 4) -> str:
    """Return a score as text."""
    return f"{value:.{decimals}f}" if math.isfinite(value) else UNKNOWN


def signed(value: float, decimals: int = 4) -> str:
    """Return a difference as text, with its sign."""
    return f"{value:+.{decimals}f}".replace("-", "−") if math.isfinite(value) else UNKNOWN


def percent(share: float) -> str:
    """Return a share in per cent, with three digits."""
    return f"{100 * share:.3g} %" if math.isfinite(share) else UNKNOWN


def change(share: float) -> str:
    """Return a relative change in per cent, with its sign."""
    return f"{signed(100 * share, 2)} %" if math.isfinite(share) else UNKNOWN


def decimals_for(scores: Iterable[float]) -> int:
    """Return how many decimals scores take: 4 around one, fewer for large ones, more for small ones."""
    largest = max((score for score in scores if math.isfinite(score)), default=0.0)
    exponent = math.floor(math.log10(largest)) if largest > 0 else 0
    return max(4 - exponent - (exponent < 0), 0)


def short(name: str, width: int = 26) -> str:
    """Return a name that fits beside a chart, without characters that no font or XML has."""
    printable = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    half = width // 2
    return printable if len(printable) <= width else f"{printable[:half]}…{printable[1 - half :]}"


# --- charts -----------------------------------------------------------------------------------------------


@contextmanager
def chart_style() -> Iterator[None]:
    """Draw with matplotlib's defaults whatever the user's are; a dollar sign in a name is a dollar sign."""
    from matplotlib import style

    settings = {"svg.fonttype": "none", "svg.hashsalt": "rapids-perturb", "text.parse_math": False}
    with style.context(["default", settings, {"axes.spines.top": False, "axes.spines.right": False}]):
        yield


def png(draw: "Callable[[], Figure]") -> bytes:
    """Return what a function draws as a PNG of 150 dpi."""
    content = BytesIO()
    with chart_style():
        draw().savefig(content, format="png", dpi=150)
    return content.getvalue()


def image(picture: bytes, label: str) -> Markup:
    """Return a PNG as an element of a page."""
    encoded = base64.b64encode(picture).decode()
    return Markup(f'<img alt="{escape(label)}" src="data:image/png;base64,{encoded}">')


def svg(draw: "Callable[[], Figure]", name: str, label: str) -> Markup:
    """Return what a function draws as an element of a page: no namespaces or metadata, ids that begin with `name`."""
    content = BytesIO()
    with chart_style():
        draw().savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(content.getvalue())
    for metadata in root.findall("{*}metadata"):
        root.remove(metadata)
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = {_local(key): value for key, value in element.attrib.items()}
        element.attrib = {key: value.replace("url(#", f"url(#{name}-") for key, value in attributes.items()}
        if "id" in element.attrib:
            element.set("id", f"{name}-{element.attrib['id']}")
        if element.get("href", "").startswith("#"):
            element.set("href", f"#{name}-{element.attrib['href'][1:]}")
    root.set("role", "img")
    root.set("aria-label", visible(label))
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def molecule(smiles: str, name: str) -> Markup:
    """Return the drawing of a molecule by RDKit, empty where it has no structure or more than `MOST_ATOMS` atoms."""
    from rdkit import Chem
    from rdkit.Chem.Draw import rdMolDraw2D

    parsed = Chem.MolFromSmiles(smiles) if smiles else None
    if parsed is None or parsed.GetNumAtoms() > MOST_ATOMS:
        return Markup("")
    drawer = rdMolDraw2D.MolDraw2DSVG(220, 160)
    rdMolDraw2D.PrepareAndDrawMolecule(drawer, parsed)
    drawer.FinishDrawing()
    text = drawer.GetDrawingText()
    svg = text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{escape(name)}"', 1)
    return Markup(svg)


def _local(name: str) -> str:
    return name.rpartition("}")[2]


# --- pages and files --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sheet:
    """A table of a page: the first cell of a row names it, `notes` are small lines below these names."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    bold: Sequence[int] = ()
    text: Sequence[str] = ()
    """Headings of the columns that hold words."""


@dataclass(frozen=True)
class Section:
    """A part of a page, in this order: its heading, what there is to know, a chart, a table, items, a last remark."""

    name: str
    heading: str
    words: str = ""
    chart: Markup | None = None
    sheet: Sheet | None = None
    items: Sequence[str] = ()
    remark: str = ""


@dataclass(frozen=True)
class Page:
    """What stands on a page; sections that are None are left out."""

    title: str
    lead: str
    sentences: Sequence[str]
    sections: Sequence[Section | None]
    provenance: Mapping[str, Any]
    facts: Mapping[str, str] = field(default_factory=dict)
    banner: str = ""
    sortable: bool = False
    """Whether tables are sorted by a click on a heading, and searched where they are long."""


def page_of(page: Page) -> str:
    """Return a page as HTML; what would steer a terminal or turn the text around is spelled out."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rapids_pipeline.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    script = Path(__file__).with_name("templates").joinpath("tables.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    provenance = json.dumps(without_nan(page.provenance), indent=2, ensure_ascii=False, default=str)
    sections = [section for section in page.sections if section is not None]
    content = environment.get_template("page.html.j2").render(
        page=page,
        sections=sections,
        provenance=provenance,
        script=Markup(script),
        script_hash=f"sha256-{digest}",
    )
    return STEERING.sub(lambda found: ascii(found[0])[1:-1], content)


def write_files(folder: Path, contents: Mapping[str, str | bytes]) -> None:
    """Write the files of a report, each whole or not at all; the folder is made where it is missing."""
    for name, content in contents.items():
        # A path that is no UTF-8 reaches us with surrogates in it; they are spelled out.
        data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
        with written(folder / name) as path:
            path.write_bytes(data)


def json_text(document: Any) -> str:
    """Return a document as JSON, with null in place of NaN and infinity."""
    return json.dumps(without_nan(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Iterable[str] = ()) -> str:
    """Return rows as CSV, by default with the columns that any row has; what is missing or not finite is empty."""
    text, found = StringIO(), dict.fromkeys(columns) or dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(found), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(without_nan, rows))
    return text.getvalue()


def without_nan(value: Any) -> Any:
    """Return a document with None in place of NaN and infinity, which JSON lacks."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- terminals --------------------------------------------------------------------------------------------


class PlainConsole(Console):
    """A terminal on which text is text: no markup, no emoji by name, and control characters are spelled out.

    Whoever wants words in bold or colour gives a `rich.text.Text`.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **how: Any) -> Text:
        """Return a text that is printed as it is: spelled out before widths are measured."""
        return super().render_str(visible(text, but="\n"), **how | {"markup": False, "emoji": False})

    def render(self, renderable: RenderableType, options: Any = None) -> Iterable[Segment]:
        """Yield what is printed; what came as a `Text` is spelled out here at the latest."""
        for segment in super().render(renderable, options):
            plain = segment.control is not None or segment.text.isprintable()
            yield segment if plain else Segment(visible(segment.text, but="\n"), segment.style)


def words(text: str, style: str = "") -> Text:
    """Return a text for a table, spelled out, in a style."""
    return Text(visible(text, but="\n"), style)


# --- stages -----------------------------------------------------------------------------------------------


class _Bars(RichProgress):
    """A bar with what the stage found so far above it."""

    found: RenderableType | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return what is found, then the bar."""
        return [*([] if self.found is None else [self.found]), self.make_tasks_table(self.tasks)]


class _Shown(Progress):
    """Shows a stage: on a terminal by a bar, in a log by a line whenever there is something to say."""

    def __init__(self, stages: "LiveStages", name: str, bars: _Bars) -> None:
        self._stages, self._bars = stages, bars
        self._task = bars.add_task(name, total=None, what="", workers="")

    def start(self, total: float | None, what: str = "") -> None:
        self._bars.update(self._task, total=total, completed=0, what=what)

    def advance(self, steps: float = 1) -> None:
        self._bars.advance(self._task, steps)

    def made_by(self, workers: str) -> None:
        self._bars.update(self._task, workers=workers)

    def made(self, what: str) -> None:
        self._stages.say_more(f"  {what}")

    def found(self, result: Any) -> None:
        self._stages.latest = result
        if self._stages.console.is_terminal:
            self._bars.found = self._stages.drawn(result)
        elif line := self._stages.logged(result):
            self._stages.say(f"  {line}")


class LiveStages(Stages):
    """Stages with a bar for each on a terminal, and with lines in a log.

    Parameters
    ----------
    console : Console, optional
        By default that of stderr.
    drawn : callable, optional
        What a terminal shows above the bar, of what a stage found.
    logged : callable, optional
        The line that a log gets, of what a stage found; none where it is empty.

    Attributes
    ----------
    latest
        What a stage found last; None before that.
    """

    def __init__(
        self,
        console: Console | None = None,
        drawn: Callable[[Any], RenderableType] = lambda _: "",
        logged: Callable[[Any], str] = lambda _: "",
    ) -> None:
        super().__init__()
        self.console = console or PlainConsole(stderr=True)
        self.drawn, self.logged = drawn, logged
        self.latest: Any = None

    @contextmanager
    def shown(self, name: str) -> Iterator[Progress]:
        """Show a bar until the stage ends, on a terminal."""
        columns = (
            TextColumn("{task.description:<15}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("elapsed,"),
            TimeRemainingColumn(),
            TextColumn("left"),
            TextColumn("{task.fields[what]} {task.fields[workers]}", markup=False),
        )
        bars = _Bars(*columns, console=self.console, transient=True)
        with bars if self.console.is_terminal and DETAIL.get() > Detail.QUIET else nullcontext():
            yield _Shown(self, name, bars)

    def finished(self, name: str) -> None:
        """Print the stage and its seconds."""
        self.say(f"  {name:<15} {self.seconds[name]:7.1f} s")

    def say(self, text: str, least: Detail = Detail.USUAL) -> None:
        """Print a line unless --quiet is given; one of some thousand characters is cut."""
        if DETAIL.get() >= least:
            line = one_line(text, LONGEST_NOTE)
            self.console.print(line, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def say_more(self, text: str) -> None:
        """Print a line where --verbose is given."""
        self.say(text, Detail.VERBOSE)


def print_json(document: Any) -> None:
    """Print a document to stdout as JSON, in ASCII, with null in place of NaN and infinity."""
    sys.stdout.write(json.dumps(without_nan(document), indent=2, allow_nan=False, default=str) + "\n")


def print_found(document: Any, as_json: bool, *parts: RenderableType) -> None:
    """Print what was found to stdout: as JSON the document, otherwise the parts of its report."""
    if as_json:
        print_json(document)
    else:
        print_report(*parts)


def print_report(*parts: RenderableType) -> None:
    """Print the parts of a report to stdout: tables, and sentences, in which nothing is markup."""
    console = PlainConsole()
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))
