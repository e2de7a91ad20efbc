"""The report of a screen: right words, whole files, and a page that stands by itself."""

import csv
import json
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image, rcParams
from rich.console import Console

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.reports import page
from rapids_pipeline.reports import screen as report
from rapids_pipeline.reports.screen import screen_table, sentences, write_screen
from rapids_pipeline.studies.screen.results import Agreement, GeneRmse, Screen, ScreenedSet
from tests.command_line import names_in
from tests.reports.pages import Page, browse, in_a_browser

NAN = float("nan")
FILES = ["screen.csv", "screen.html", "screen.json", "screen.png"]
HOSTILE = ["<script>alert(1)</script>", "$\\frac{$", '"onload=x', "[red]x[/blue]", "a&b\x00\n"]


def one_set(name, rank, score, low, high, improved=0.5, **changes):
    """Return a candidate whose difference from 0.93 has the interval [low, high]."""
    numbers = score, score - 0.04, score + 0.05, score - 0.93
    candidate = ScreenedSet(name, f"says {name}", rank, *numbers, low, high, improved, 1300, 12.34)
    return replace(candidate, **changes)


def screen_of(sets, **changes):
    fixed = {"metric": "MRRMSE", "reference": "onehot", "level": 0.95, "rows": 614, "folds": 5, "repeats": 2}
    names = {"split": "random", "split_in_words": "random rows", "model": "SVR", "molecules": "morgan"}
    genes = ["A1BG", *(f"GENE{i}" for i in range(99))]
    unchanged = {"search": "compare", "target": "random:100", "genes": genes, "seed": 0, "source": "a file"}
    return Screen(**{**fixed, **names, **unchanged, "sets": sets, **changes})


SETS = [
    one_set("loo", 1, 0.87, -0.07, -0.05, 0.75),
    one_set("molecules", 2, 0.91, -0.03, 0.01),
    one_set("onehot", 3, 0.93, 0.0, 0.0, 0.0),
    one_set("cell_type", 4, 0.97, 0.03, 0.05, 0.25),
    one_set("mean", 5, 0.99, 0.05, 0.07),
]
QUANTILES = {"5%": -0.1, "25%": 0.41, "50%": 0.7, "75%": 0.9, "95%": 0.97}
AGREEMENT = Agreement("A1BG", 0.831, QUANTILES, [("GENE7", -0.71), ("GENE9", -0.2)], 2)
RELATIVE = [[0.9, 0.98, 1.0, 1.05, 1.1], [1.2, 1.0, 1.0, NAN, 0.8], [0.7, 0.9, 1.0, 1.0, 1.3]]
STEPS = [
    {"block": "onehot:sm_name", "score": 0.9, "difference": -0.1, "share": 1.0},
    {"block": "loo:cell_type", "score": 0.875, "difference": -0.025, "share": 0.4},
]
GENE_RMSE = GeneRmse(["A1BG", "GENE7", "GENE9"], [one.feature_set for one in SETS], RELATIVE)


@pytest.fixture
def panel():
    return screen_of(SETS, agreement=AGREEMENT, gene_rmse=GENE_RMSE)


@pytest.fixture
def single():
    sets = [replace(one, genes_improved=None) for one in SETS]
    return screen_of(sets, target="A1BG", genes=["A1BG"], metric="RMSE")


@pytest.fixture
def hostile():
    sets = [replace(one, feature_set=name, description=name) for one, name in zip(SETS, HOSTILE, strict=True)]
    agreement = replace(AGREEMENT, gene=HOSTILE[0], turned_round=[(name, -0.5) for name in HOSTILE])
    texts = dict.fromkeys(("target", "source", "model", "molecules", "split_in_words"), HOSTILE[0])
    return screen_of(
        sets,
        reference=HOSTILE[2],
        agreement=agreement,
        gene_rmse=GeneRmse(HOSTILE[:3], HOSTILE, RELATIVE),
        notes=HOSTILE,
        selection=[{"block": name, "score": 0.9, "difference": -0.1, "share": 0.5} for name in HOSTILE],
        provenance={"command": HOSTILE[0]},
        **texts,
    )


def written(screen, folder):
    write_screen(screen, folder)
    html = (folder / "screen.html").read_text(encoding="utf-8")
    return html, Page(html)


def printed(screen, width=200, colour=False):
    console = Console(width=width, force_terminal=colour, color_system="standard" if colour else None)
    with console.capture() as capture:
        console.print(screen_table(screen))
    return capture.get()


# --- words ------------------------------------------------------------------------------------------------


def test_the_terminal_table_has_a_title_and_every_number_of_a_row(panel, single):
    title, *lines = printed(panel).splitlines()
    assert title.startswith("MRRMSE of random:100; ref.: onehot")
    expected = "1 loo 1,300 0.8700 −0.0600 −0.0700, −0.0500 better 75 % 12.3"
    assert next(line for line in lines if "loo" in line).split() == expected.split()
    assert "genes" in printed(panel) and "genes" not in printed(single)


def test_verdicts_are_words_and_colours(panel):
    lines = printed(panel, colour=True).splitlines()
    names = "loo", "molecules", "cell_type"
    loo, molecules, cell_type = (next(line for line in lines if f" {name} " in line) for name in names)
    assert "\x1b[1;32mbetter" in loo and "\x1b[31mworse" in cell_type and "\x1b" not in molecules


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.2, 0.0, ""), (0.0, 0.2, ""), (-0.2, -1e-9, "better"), (1e-9, 0.2, "worse")],
)
def test_an_interval_that_touches_zero_decides_nothing(low, high, verdict):
    table = screen_table(screen_of([one_set("loo", 1, 0.9, low, high)]))
    assert str(next(iter(table.columns[6].cells))) == verdict


@pytest.mark.parametrize("width", [80, 120])
def test_a_narrow_terminal_keeps_numbers_whole(panel, width):
    named = [replace(SETS[0], feature_set="molecules+" * 9, columns=13_000), *SETS[1:]]
    lines = printed(replace(panel, sets=named), width).splitlines()
    assert max(map(len, lines)) <= width
    row = next(line for line in lines if "0.8700" in line).split()
    assert {"13,000", "0.8700", "−0.0600", "better", "75", "12.3"} <= set(row)
    assert "−0.0700," in row or width < 80


@pytest.mark.parametrize(
    ("score", "shown"), [(0.87, "0.8700"), (1.87, "1.8700"), (1234.567, "1234.6"), (0.00123, "0.001230")]
)
def test_decimals_follow_the_size_of_the_scores(score, shown):
    assert f" {shown} " in printed(screen_of([one_set("loo", 1, score, NAN, NAN)]))


def test_markup_in_a_name_is_text(hostile):
    shown = printed(replace(hostile, target="[red]y[/blue]"))
    assert "[red]x[/blue]" in shown and "[red]y[/blue]" in shown


def test_sentences_of_a_panel(panel):
    assert sentences(panel) == [
        "split: random rows; 614 rows, 5 folds, 2 times, seed 0",
        "reference: onehot; differences below zero are better; intervals: 95 %, paired bootstrap over folds and rows",
        "lowest MRRMSE: loo with 0.8700 (0.8300 to 0.9200)",
        "of 4 other candidates 1 are better than onehot, 2 worse; of 1 the interval has zero in it",
        "may I trust A1BG? its order of the sets has a rank correlation of 0.83 with the panel's; the middle half of "
        "all genes have 0.41 to 0.90; 2 of 100 genes turn the order round (the most: GENE7 −0.71, GENE9 −0.20)",
    ]


def test_the_steps_of_a_selection_are_said(panel):
    assert (
        "selected by all rows, with scores that are too good: onehot:sm_name (0.9000; in 100 % of the folds), "
        "loo:cell_type (0.8750; in 40 % of the folds)" in sentences(replace(panel, selection=STEPS))
    )
    assert not any("selected" in one for one in sentences(panel))


def test_many_genes_that_turn_round_are_counted_and_not_all_named(panel):
    turned = [(f"GENE{i}", -0.9 + 0.01 * i) for i in range(20)]
    agreement = replace(AGREEMENT, turned_round=turned, n_turned_round=33)
    answer = sentences(replace(panel, agreement=agreement))[-1]
    assert "33 of 100 genes turn" in answer and answer.endswith("GENE4 −0.86, …)") and "GENE5" not in answer


def test_no_correlation_is_said_so(panel):
    silent = Agreement("A1BG", NAN, dict.fromkeys(QUANTILES, NAN), [], 0)
    answer = sentences(replace(panel, agreement=silent))[-1]
    assert answer == (
        "may I trust A1BG? cannot be said: every set does equally well on it; no gene turns the order round"
    )


def test_an_interrupted_screen_says_so_everywhere(panel, tmp_path):
    banner = '<p class="banner" role="status">interrupted: only the finished candidates</p>'
    for complete in (False, True):
        screen = replace(panel, complete=complete)
        assert (banner in written(screen, tmp_path)[0]) != complete
        assert sentences(screen)[0].startswith("interrupted") != complete


# --- files ------------------------------------------------------------------------------------------------


def test_the_csv_has_the_fields_in_their_order(panel, tmp_path):
    sets = [*SETS[:-1], replace(SETS[-1], score_low=NAN, genes_improved=None)]
    write_screen(replace(panel, sets=sets), tmp_path)
    with (tmp_path / "screen.csv").open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    assert header == [column.name for column in fields(ScreenedSet)]
    assert [row[0] for row in rows] == [one.feature_set for one in SETS]
    assert float(rows[0][header.index("difference")]) == SETS[0].difference
    assert rows[-1][header.index("score_low")] == rows[-1][header.index("genes_improved")] == ""


def test_the_json_is_the_document_without_nan(panel, tmp_path):
    changed = replace(panel, target="Gen-Ä", provenance={"limits": (1.0, float("inf"))})
    write_screen(changed, tmp_path)
    text = (tmp_path / "screen.json").read_text(encoding="utf-8")
    document = json.loads(text, parse_constant=pytest.fail)
    assert document["gene_rmse"]["relative"][1] == [1.2, 1.0, 1.0, None, 0.8]
    assert document["provenance"] == {"limits": [1.0, None]}
    assert document.keys() == changed.document.keys() and len(document["genes"]) == 50
    assert text.startswith('{\n  "format"') and "Gen-Ä" in text


def test_the_same_screen_gives_the_same_bytes_whatever_the_users_settings_of_matplotlib(
    panel, tmp_path, monkeypatch
):
    write_screen(panel, tmp_path / "a")
    monkeypatch.setitem(rcParams, "font.size", 25.0)
    write_screen(panel, tmp_path / "b")
    assert rcParams["font.size"] == 25.0 and names_in(tmp_path / "a") == FILES
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_report_that_cannot_be_made_leaves_the_old_one(panel, tmp_path, monkeypatch):
    write_screen(panel, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(page, "png", lambda draw: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_screen(replace(panel, target="another"), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_write_that_breaks_off_leaves_no_half_file(panel, tmp_path, monkeypatch):
    def breaks_off(path, content):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", breaks_off)
    message = r"/screen\.\w+: cannot be written \(No space left on device\); make room there, or choose another place"
    with pytest.raises(InputError, match=message):
        write_screen(panel, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_picture_is_of_150_dpi_and_shows_something(panel, tmp_path):
    write_screen(panel, tmp_path)
    pixels = image.imread(tmp_path / "screen.png")
    assert pixels.shape[:2] == (int(150 * (0.34 * 5 + 1.5)), 960)
    assert 0.01 < np.mean(pixels[..., :3].min(2) < 0.9) < 0.5


def test_pyplot_is_not_loaded():
    code = "import sys, rapids_pipeline.reports.screen as r\n"
    code += "assert 'matplotlib' not in sys.modules\n"
    code += "from rapids_pipeline.studies.screen.results import Screen\n"
    code += "s = Screen('', '', [], '', '', .95, 0, 5, 1, 0, '', '', '', '', '', [])\n"
    code += "r.page.png(lambda: r._score_chart(s)); assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- page -------------------------------------------------------------------------------------------------


def test_the_page_is_well_formed_and_what_it_refers_to_is_on_it(panel, hostile, single, tmp_path):
    for screen in (panel, hostile, single):
        html, page = written(screen, tmp_path)
        assert not page.faults and len(page.ids) == len(set(page.ids))
        assert {"h1", "title", "table", "svg"} <= set(page.tags)
        labels = [v for _, key, value in page.attributes if key == "aria-labelledby" for v in value.split()]
        links = [value for _, key, value in page.attributes if key in ("href", "src", "xlink:href")]
        assert labels and links and set(labels) <= set(page.ids)
        assert all(link.startswith("data:") or link.removeprefix("#") in page.ids for link in links)
        inside = re.findall(r"url\(([^)]*)\)", html)
        assert inside and {one.removeprefix("#") for one in inside} <= set(page.ids)
        assert not re.search(r"https?://", html) and "@import" not in html


def test_the_page_begins_with_the_best_set(panel, tmp_path):
    title = written(panel, tmp_path)[1].words["h1"][0]
    assert title.startswith("loo predicts random:100 best: MRRMSE 0.8700 (") and "; onehot: 0.9" in title


def test_the_page_runs_no_names(hostile, tmp_path):
    html, page = written(hostile, tmp_path)
    assert "script" not in page.tags and not any(key.startswith("on") for _, key, _ in page.attributes)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    for chart in ("MRRMSE", "RMSE"):
        assert "<script>alert(1)</script>" in page.chart_words[chart]
    assert "$\\frac{$" in page.chart_words["MRRMSE"]


def test_charts_have_every_candidate_and_its_marks(panel, tmp_path):
    page = written(panel, tmp_path)[1]
    names = {one.feature_set for one in SETS}
    assert names <= set(page.chart_words["MRRMSE"]) and names <= set(page.chart_words["RMSE"])
    assert set(page.chart_words["Difference"]) & names == names - {"onehot"}
    assert {"A1BG", "GENE7", "GENE9"} <= set(page.chart_words["RMSE"])
    marks = {f"scores-{kind}-{row}" for kind in ("value", "interval") for row in range(5)}
    assert marks | {"scores-reference", "differences-zero"} <= set(page.ids)
    assert "differences-value-3" in page.ids and "differences-value-4" not in page.ids


@pytest.mark.parametrize(
    ("mark", "colour"),
    [
        *(("scores-value-0", report.PLAIN), ("scores-value-4", report.GREY)),
        *(("differences-value-0", report.BETTER), ("differences-value-1", report.UNDECIDED)),
        ("differences-value-2", report.WORSE),
    ],
)
def test_marks_have_the_colour_of_the_baseline_and_of_their_verdict(panel, mark, colour, tmp_path):
    html = written(panel, tmp_path)[0]
    assert colour in html.split(f'id="{mark}"')[1].split("</g>")[0]


def test_an_interval_is_drawn_where_its_numbers_are(panel):
    with page.chart_style():
        lines = {line.get_gid(): line for line in report._score_chart(panel, "").axes[0].lines}
    assert list(lines["interval-1"].get_xdata()) == [SETS[1].score_low, SETS[1].score_high]
    assert [list(lines[name].get_xdata()) for name in ("value-1", "reference")] == [[0.91], [0.93, 0.93]]


def test_the_heat_maps_white_is_one(panel):
    with page.chart_style():
        mesh = report._gene_map(GENE_RMSE, "onehot").axes[0].collections[0]
    assert mesh.norm.vcenter == 1.0
    red, _, blue, _ = mesh.cmap(mesh.norm(0.8))
    assert blue > red and min(mesh.cmap(mesh.norm(1.0))) > 0.95


def test_the_table_says_what_its_headers_are_and_notes_and_provenance_stand_below(panel, tmp_path):
    page = written(replace(panel, notes=["mind the gap"], provenance={"numpy": "2.0"}), tmp_path)[1]
    scopes = [value for tag, key, value in page.attributes if (tag, key) == ("th", "scope")]
    assert len(scopes) == page.tags.count("th") and {"row", "col"} == set(scopes)
    assert "0.8300 to 0.9200" in page.text and "better" in page.words["td"]
    assert "mind the gap" in page.words["li"] and '"numpy": "2.0"' in page.text and "details" in page.tags


def test_one_gene_has_neither_map_nor_question(single, tmp_path):
    page = written(single, tmp_path)[1]
    assert set(page.chart_words) == {"RMSE", "Difference"}
    assert "May I trust" not in page.text and "genes improved" not in page.text
    assert not any("trust" in sentence for sentence in sentences(single))


def test_forward_steps_are_a_table(panel, tmp_path):
    cells = written(replace(panel, search="forward", selection=STEPS), tmp_path)[1].words["td"]
    start = cells.index("onehot:sm_name")
    assert cells[start : start + 4] == ["onehot:sm_name", "0.9000", "−0.1000", "100 %"]
    assert "40 %" in cells[start + 4 :] and "Forward selection" not in written(panel, tmp_path)[1].text


@pytest.mark.parametrize(
    "sets", [[], SETS[:1], [replace(SETS[0], **dict.fromkeys(("score", "score_low"), NAN))]]
)
def test_a_screen_with_hardly_anything_is_reported(sets, tmp_path):
    page = written(screen_of(sets, complete=False), tmp_path)[1]
    assert not page.faults and names_in(tmp_path) == FILES
    assert ("svg" in page.tags) == bool(sets)


# --- browser ----------------------------------------------------------------------------------------------


@in_a_browser
def test_a_browser_without_network_shows_the_charts(panel, tmp_path):
    write_screen(panel, tmp_path)
    dom, console = browse(tmp_path / "screen.html", "--dump-dom")
    assert console == []
    charts = re.findall(r"<svg.*?</svg>", dom, re.DOTALL)
    assert len(charts) == 3
    for chart, least in zip(charts, (5, 4, 15), strict=True):
        assert chart.count("<path") + chart.count("<use") > least
        assert all(one.feature_set in chart for one in SETS if one.feature_set != "onehot")


@in_a_browser
@pytest.mark.parametrize(("scheme", "page_is_dark"), [(1, False), (0, True)])
def test_a_browser_paints_the_page_in_light_and_dark(panel, tmp_path, scheme, page_is_dark):
    write_screen(panel, tmp_path)
    shot = tmp_path / "shot.png"
    size = "--window-size=1200,1800"
    browse(
        tmp_path / "screen.html",
        f"--blink-settings=preferredColorScheme={scheme}",
        size,
        f"--screenshot={shot}",
    )
    pixels = image.imread(shot)[..., :3]
    assert (pixels[5, 5].max() < 0.3) == page_is_dark
    blue, white = [0x21 / 255, 0x66 / 255, 0xAC / 255], [1.0, 1.0, 1.0]
    assert np.sum(np.abs(pixels - blue).max(-1) < 0.02) > 50  # the candidate that is better
    assert np.mean(np.abs(pixels - white).max(-1) < 0.01) > 0.2  # the charts' cards
