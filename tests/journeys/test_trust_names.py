"""Names from a stranger (cell types, compounds, genes) through every command: they stay names.

What must hold: in pages they are text, in every context; no control character of theirs reaches a terminal; none
becomes a path, a format, a template, a program or SQL; in tables they are what they were, to the letter.
"""

import csv
import json
import os
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("rdkit")
pytest.importorskip("xgboost")

from tests.command_line import invoke
from tests.journeys.watched import secrets, watching

NAMES = {
    "script": "<script>alert(1)</script>",
    "image": '"><img src=x onerror=alert(2)>',
    "attribute in single quotes": "' onmouseover='alert(3)",
    "attribute in double quotes": '" onfocus="alert(4)" autofocus="',
    "end of a script": "</script><svg/onload=alert(5)>",
    "end of title, style and textarea": "</title></style></textarea><script src=//x></script>",
    "comment": "<!--x--><![CDATA[y]]>",
    "entities": "&lt;script&gt;&#60;b&#62;&amp;",
    "frame": "<iframe src=javascript:alert(6)>",
    "link": "javascript:alert(7)",
    "template": "{{ 7*7 }}{% for x in [] %}{# c #}${{7*7}}",
    "template that leaves its sandbox": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "format of braces": "{0.__class__.__mro__}{}{x!r:>{y}}",
    "format of percents": "%s%n%(x)d%",
    "rich markup": "[red]x[/red][/x][link=file:///etc/passwd]y[/link][bold",
    "mathematics": "$\\frac{1}{$^_\\input{/etc/passwd}",
    "escape codes": "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "escape codes in one byte": "\x9b2J\x9d0;x\x9c",
    "text from right to left": "a\u202egnp.exe\u2066",
    "backspaces": "safe\b\b\b\bevil\x7f",
    "path up": "../../../../tmp/pwned",
    "path": "/tmp/pwned",
    "path of Windows": "..\\..\\C:\\pwned",
    "device": "/dev/stdout",
    "formula": "=cmd|' /C calc'!A0",
    "formula of a sum": "@SUM(1+1)*cmd",
    "formula with a plus": "+1+HYPERLINK(1)",
    "formula with a minus": "-2+3",
    "SQL": "'; DROP TABLE trials; --",
    "shell": "$(touch pwned)`touch pwned`; touch pwned | touch pwned",
    "option": "--overwrite",
    "YAML": "!!python/object/apply:os.system ['touch pwned']",
    "YAML of anchors": "- a: &x [*x, *x]",
    "JSON": '"}],"__proto__":{"x":1}//',
    "separators": 'a,b;c"d',
    "environment": "${HOME}$HOME%PATH%~",
}
RECIPE = """name = "small"
n_folds = 3
[[members]]
kind = "svr"
epsilon = 0.0
engine = "ridge"
features = "svr_shared"
"""
SMILES = ["C" * length + end for end in ("", "O", "N", "Cl") for length in range(1, 12)]
INPUTS = ("train.parquet", "pairs.csv", "recipe.toml")
TAGS = set(
    "html head meta link title style body main header h1 h2 p dl div dt dd ul li section table thead tbody tr th td "
    "small details summary pre svg g path rect text tspan defs use clippath polyline line circle img metadata br ol "
    "code figure figcaption a span strong em b".split()
)
ALLOWED_LINKS = re.compile(r"#|data:image/|data:,$|https://github\.com/")


class Tags(HTMLParser):
    """The tags and attributes of a page, and its text."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.found, self.text = [], ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def named_data(folder):
    """Training rows whose cell types, compounds and genes have the names, and pairs to predict."""
    names, rng = list(NAMES.values()), np.random.default_rng(0)
    pairs = [((row + shift) % len(names), row) for row in range(len(names)) for shift in (0, 1, 2, 5)]
    frame = pd.DataFrame({"cell_type": [names[c] for c, _ in pairs], "sm_name": [names[m] for _, m in pairs]})
    frame["SMILES"] = [SMILES[m] for _, m in pairs]
    frame["dose_uM"] = np.tile([0.1, 10.0], len(frame) // 2)
    genes = pd.DataFrame(rng.normal(size=(len(frame), len(names))).astype(np.float32), columns=names)
    pd.concat([frame, genes], axis=1).to_parquet(folder / "train.parquet")
    asked = [((row + 3) % len(names), row) for row in range(len(names))]
    table = pd.DataFrame({"cell_type": [names[c] for c, _ in asked], "sm_name": [names[m] for _, m in asked]})
    table.assign(dose_uM=1.0, id=names).to_csv(folder / "pairs.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Every command on such data, in a folder of its own: what it ended with."""
    folder = tmp_path_factory.mktemp("names")
    outside, place = secrets(folder), folder / "here"
    place.mkdir()
    named_data(folder)
    files = ["--train", folder / "train.parquet", "--molecules", "morgan"]
    test, small = ["--test", folder / "pairs.csv"], ["--recipe", folder / "recipe.toml", "--device", "cpu"]
    (folder / "recipe.toml").write_text(RECIPE)
    script, formula = NAMES["script"], NAMES["formula"]
    predict = ["predict", "--model", "run", "--pairs", folder / "pairs.csv"]
    commands = {
        "run": ["run", *files, *test, *small, "--out", "run"],
        "predict": [*predict, "--out", "predicted.csv", "--doses", "0.1,1", "--draw", script],
        "parts": [*predict, "--out", "parts"],
        "submit": ["submit", "--run", "run", "--out", "submitted.csv"],
        "evaluate": ["evaluate", "--prediction", "run/submission.csv", "--truth", "run/submission.csv"],
        "cv": ["cv", *files, *test, *small, "--split", "random", "--out", "cv"],
        "screen": [
            "screen",
            *files,
            "--target",
            "all",
            "--features",
            "onehot,loo",
            "--folds",
            "2",
            "--out",
            "screen",
        ],
        "screen of a gene": [
            "screen",
            *files,
            "--target",
            formula,
            "--features",
            "onehot,loo",
            "--folds",
            "2",
        ],
        "features": ["features", "onehot"],
    }
    before, ended = Path.cwd(), {}
    os.chdir(place)
    try:
        with watching(outside, folder, os.environ["RAPIDS_PERTURB_CACHE"], matplotlib.get_cachedir()):
            for name, words in commands.items():
                ended[name] = invoke(*words)
    finally:
        os.chdir(before)
    return folder, ended


COMMANDS = ["run", "predict", "parts", "submit", "cv", "screen", "screen of a gene", "features"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_the_names(done, command):
    result = done[1][command]
    assert result.exit_code == 0, repr(result.output[-1500:])


@pytest.mark.parametrize("command", [*COMMANDS, "evaluate"])
def test_no_control_character_reaches_a_terminal(done, command):
    result = done[1][command]
    assert "Traceback" not in result.output
    shown = {sign for sign in result.output if not sign.isprintable() and sign not in "\n\t"}
    assert not shown, (shown, result.output[-1500:])


@pytest.fixture(scope="module")
def pages(done):
    found = {path.name: Tags(path.read_text()) for path in (done[0] / "here").rglob("*.html")}
    assert {"cv.html", "screen.html", "predicted.doses.html"} <= set(found)
    return found


def test_pages_have_no_tag_and_no_attribute_of_the_names(pages):
    for name, page in pages.items():
        ours = 1 if name.endswith("report.html") else 0
        assert [tag for tag, _ in page.found].count("script") == ours, (
            "tests/reports has the hash that it must have"
        )
        for tag, attributes in page.found:
            assert tag in TAGS or (tag, ours, attributes) == ("script", 1, {}), (name, tag)
            bad = ("autofocus", "srcdoc", "formaction")
            handlers = [key for key in attributes if key.startswith("on") or key in bad]
            assert not handlers, (name, tag, attributes)
            for key in ("href", "src", "xlink:href", "action", "data"):
                link = attributes.get(key)
                assert link is None or ALLOWED_LINKS.match(link), (name, tag, link)


@pytest.mark.parametrize("which", NAMES)
def test_a_name_in_a_page_is_text(done, pages, which):
    name = NAMES[which]
    for path in (done[0] / "here").rglob("*.html"):
        content = path.read_text()
        if "<" in name:
            assert name not in content, path.name
        assert "49" not in NAMES or "alert(" not in re.sub(r">[^<]*<", "><", content), path.name
        assert not [sign for sign in content if not sign.isprintable() and sign not in "\n\t\r\xa0"], (
            path.name
        )
    where = [page for page in pages.values() if name in page.text]
    assert which not in ("script",) or where, "the name of the gene that is drawn is in its page"


@pytest.mark.parametrize("which", NAMES)
def test_tables_have_the_names_to_the_letter(done, which):
    """A formula is not made harmless: programs join on names. docs/methods/trust.md says so."""
    folder, name = done[0] / "here", NAMES[which]
    with (folder / "run" / "submission.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    assert name in rows[0] and name in [row[0] for row in rows[1:]]
    assert name in pd.read_parquet(folder / "run" / "oof.parquet").columns
    assert name in set(pd.read_parquet(folder / "run" / "oof.parquet")["cell_type"])
    with (folder / "predicted.applicability.csv").open(newline="", encoding="utf-8") as stream:
        assert name in {row["sm_name"] for row in csv.DictReader(stream)}


def test_no_name_became_a_file_outside_of_the_results_or_a_program(done):
    folder = done[0]
    assert {path.name for path in folder.iterdir()} == {"here", "outside", *INPUTS}
    assert not [path for path in folder.rglob("*") if "pwned" in path.name and path.parent.name != "outside"]
    top = {
        "run",
        "cv",
        "screen",
        "parts",
        "parts.manifest.json",
        "parts.report.html",
        "runs",
        "submitted.csv",
    }
    assert {
        path.name for path in (folder / "here").iterdir() if not path.name.startswith("predicted.")
    } == top
    (only,) = (folder / "here" / "runs").iterdir()
    assert only.is_dir() and (only / "screen.html").exists(), "the folder of a gene's screen has one part"


@pytest.mark.parametrize(
    "which", ["path up", "path", "path of Windows", "shell", "option", "device", "environment"]
)
def test_the_folder_of_a_screen_that_is_named_after_a_gene_stays_below_runs(
    which, done, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = [
        "--train",
        done[0] / "train.parquet",
        "--molecules",
        "morgan",
        "--features",
        "onehot",
        "--folds",
        "2",
    ]
    result = invoke("screen", *words, f"--target={NAMES[which]}")
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    (only,) = (tmp_path / "runs").iterdir()
    assert {path.suffix for path in only.iterdir() if path.is_file()} == {".html", ".csv", ".json", ".png"}
    assert shlex.quote(only.name) == only.name, "it can be typed as it is"


def test_json_has_the_names_to_the_letter(done):
    for path in (done[0] / "here").rglob("*.json"):
        json.loads(path.read_text())
    config = json.loads((done[0] / "here" / "screen" / "screen.json").read_text())
    assert isinstance(config, dict)
