"""What terminals and pages show of names: text, whatever is in it."""

import io
import re

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rapids_pipeline.data.demo import simulate
from rapids_pipeline.data.tables import training_from_frame
from rapids_pipeline.evaluation.baseline_names import SIMPLE
from rapids_pipeline.evaluation.baselines import ALL_BASELINES
from rapids_pipeline.reports import page
from rapids_pipeline.reports.charts import Mark, interval_chart
from rapids_pipeline.reports.page import LiveStages, Page, PlainConsole, Section, Sheet, page_of, print_report
from tests.reports import pages

NAMES = [
    "[/x]",
    "[red]",
    "[/]",
    "[bold]x[/bold]",
    "[link=file:///etc/passwd]x",
    ":smile:",
    "\\[x]",
    "[@click=quit]x",
]
HOSTILE = {
    "\x1b[31mred": "\\x1b[31mred",
    "\x1b]0;x\x07": "\\x1b]0;x\\x07",
    "\x9b2J": "\\x9b2J",
    "a\rb": "a\\rb",
    "a\u202eb": "a\\u202eb",
    "a\u200bb": "a\\u200bb",
}


def printed(*parts, width=80):
    console = PlainConsole()
    console.file, console.width = io.StringIO(), width
    for part in parts:
        console.print(part)
    return console.file.getvalue()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("as_text", [False, True])
def test_markup_in_a_table_is_text(name, as_text):
    table = Table("name", name, title=name)
    table.add_row(page.words(name, "bold") if as_text else name, "1")
    assert printed(table).count(name) == 3
    assert printed(name) == f"{name}\n"


@pytest.mark.parametrize("name", HOSTILE)
def test_control_characters_in_a_table_are_spelled_out(name):
    table = Table("name", "number", title=name)
    table.add_row(name, "1")
    table.add_row(page.words(name), "2")
    table.add_row(Text(name), "3")
    shown = printed(table, name)
    assert shown.count(HOSTILE[name]) >= 4
    assert all(sign.isprintable() or sign == "\n" for sign in shown)
    rows = [line for line in shown.splitlines() if line.startswith("│")]
    assert len(rows[0]) == len(rows[1]), "a name is spelled out before widths are measured"


def test_lines_of_a_cell_stay_lines():
    table = Table("name")
    table.add_row("one\ntwo")
    assert [line for line in printed(table).splitlines() if "one" in line or "two" in line] == [
        "│ one  │",
        "│ two  │",
    ]


def test_colours_come_from_styles_alone():
    console = PlainConsole()
    console.file, console._color_system = (
        io.StringIO(),
        Console(force_terminal=True, color_system="standard")._color_system,
    )
    console._force_terminal = True
    console.print("[red]x[/red]")
    console.print(Text("y", "red"))
    assert console.file.getvalue() == "[red]x[/red]\n\x1b[31my\x1b[0m\n"


def test_reports_and_stages_print_text(capsys):
    print_report("[/x]\x1b[2J", "y" * 3000)
    LiveStages().say("  [/x]\x1b[2J\nnext :smile:")
    LiveStages().say("z" * 10_000_000)
    out, err = capsys.readouterr()
    assert out == "[/x]\\x1b[2J\n" + "y" * 3000 + "\n", "a path of a report is not cut"
    first, second = err.splitlines()
    assert first == "  [/x]\\x1b[2J next :smile:"
    assert len(second) == 4000 and second.startswith("zzz") and "…" in second


def test_a_bar_has_the_steps_the_remaining_time_and_the_workers():
    clock = iter(range(0, 1000, 2))  # two seconds from one look to the next
    stages = LiveStages(
        Console(file=io.StringIO(), force_terminal=True, width=160, get_time=lambda: next(clock))
    )
    with stages.stage("svr") as progress:
        progress.start(4)
        progress.made_by("8 workers")
        progress.advance()
        progress.advance()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stages.console.file.getvalue())
    assert re.search(r"svr +.* 2/4 +0:\d\d:\d\d elapsed, 0:\d\d:\d\d left +8 workers", shown), shown


BREAKING = '"><script>alert(1)</script><b onload="'


def test_a_page_escapes_names_wherever_they_stand():
    sheet = Sheet([BREAKING, BREAKING], [[BREAKING, BREAKING]], [BREAKING], text=[BREAKING])
    chart = page.svg(lambda: interval_chart([Mark(BREAKING, 1, 0, 2, BREAKING)], BREAKING), "c", BREAKING)
    section = Section(BREAKING, BREAKING, BREAKING, chart, sheet, [BREAKING], BREAKING)
    told = Page(
        BREAKING, BREAKING, [BREAKING], [section], {BREAKING: BREAKING}, {BREAKING: BREAKING}, BREAKING
    )
    content = page_of(told)
    found = pages.Page(content)
    assert "script" not in found.tags and "b" not in found.tags and found.faults == []
    assert not any(name.startswith("on") for _, name, _ in found.attributes)
    assert "<script" not in content and BREAKING in found.text


@pytest.mark.parametrize("name", HOSTILE)
def test_a_page_spells_out_what_steers_a_terminal(name):
    chart = page.svg(lambda: interval_chart([Mark(name, 1, 0, 2, "1")], "x"), "c", name)
    section = Section("s", name, name, chart, items=[name])
    content = page_of(Page(name, name, [name], [section], {name: name}, {name: name}))
    raw = {sign for sign in content if not sign.isprintable() and sign not in "\n\u200b"}
    assert raw == set()


def test_baselines_are_called_what_they_are():
    """A mean "across cell types" is, as published, that of a cell type: over its compounds."""
    data = simulate(0, 3)
    training = training_from_frame(data.de_train, "demo")
    asked = training.obs[["cell_type", "sm_name"]].head(1)
    for name, column in (("mean_across_celltypes", "cell_type"), ("mean_across_compounds", "sm_name")):
        rows = (training.obs[column] == asked[column].iloc[0]).to_numpy()
        found = ALL_BASELINES[name](training, asked)[0]
        np.testing.assert_allclose(found, training.Y[rows].mean(axis=0), rtol=1e-4)
        assert SIMPLE[name] == {"cell_type": "cell-type mean", "sm_name": "compound mean"}[column]


def test_molecules_are_drawn_unless_they_are_too_large():
    drawn = page.molecule("CC(=O)Oc1ccccc1C(=O)O", "<aspirin>")
    assert drawn.startswith("<svg") and "&lt;aspirin&gt;" in drawn and "<aspirin>" not in drawn
    assert page.molecule("", "none") == page.molecule("C1CC1" * 300, "rings") == ""
