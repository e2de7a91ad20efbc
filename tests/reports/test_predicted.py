"""The page of a run: the verdict first, every name escaped, tables that sort and are searched in a browser."""

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline import PerturbationModel
from rapids_pipeline.reports import page, run_facts
from rapids_pipeline.reports.page import Page as PageOf
from rapids_pipeline.reports.page import Section, Sheet
from tests.command_line import error_line, invoke, names_in, run_arguments, succeed
from tests.reports.pages import Page, browse, in_a_browser
from tests.reports.test_screen import HOSTILE


@pytest.fixture(scope="module")
def run(small_files, tmp_path_factory):
    """A run of kernels and a booster whose pairs have a new compound among them."""
    folder = tmp_path_factory.mktemp("page")
    new = [["a new one", "NK cells", "my <b>compound</b>", "CCCCO"]]
    columns = ["id", "cell_type", "sm_name", "SMILES"]
    pairs = pd.concat([small_files.id_map, pd.DataFrame(new, columns=columns)], ignore_index=True)
    pairs.to_csv(folder / "pairs.csv", index=False)
    succeed(*run_arguments(small_files.train, folder / "pairs.csv", folder / "run"))
    return folder / "run"


@pytest.fixture(scope="module")
def cv(small_files, run):
    """A cross-validation of the same recipe and data."""
    files = ["--train", small_files.train, "--test", small_files.test, "--split", "random", "--folds", "3"]
    recipe = run.parent / "recipe.toml"
    recipe.write_text(succeed("recipes", "best", "--toml").stdout.replace("n_folds = 5", "n_folds = 3"))
    out = run.parent / "cv"
    succeed("cv", *files, "--recipe", recipe, "--molecules", "morgan", "--out", out)
    return out


def test_the_page_says_what_to_expect_first_and_stands_by_itself(run):
    text = (run / "report.html").read_text()
    found = Page(text)
    assert found.faults == [] and len(set(found.ids)) == len(found.ids)
    scores = json.loads((run / "scores.json").read_text())["out_of_fold"]
    error = scores["pipeline"]["mean_rowwise_rmse"]
    assert found.words["h1"][0].startswith(f"Error of held-out training rows: MRRMSE {error:.4f} (")
    for name in (
        "pairs",
        "heat",
        "genes",
        "drivers",
        "new",
        "by-cell-type",
        "by-compound",
        "members",
        "notes",
    ):
        assert name in found.ids, name
    assert "<b>compound</b>" not in text and "my <b>compound</b>" in found.text
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert set(found.tags) & {"a", "iframe", "object", "form"} == set()
    alts = [value for tag, name, value in found.attributes if (tag, name) == ("img", "alt")]
    assert alts and all(alts)


def test_the_tables_are_those_of_the_results(run):
    found = Page((run / "report.html").read_text())
    table = pd.read_parquet(run / "predictions.parquet")
    genes = list(table.columns[table.columns.get_loc("compound_rows") + 1 :])
    Y = table[genes].to_numpy(np.float64)
    first = int(np.argmax((Y**2).mean(axis=1)))
    assert f"{np.sqrt((Y[first] ** 2).mean()):.4f}" in found.text
    up = genes[int(np.argmax(Y[first]))]
    assert f"{up}\N{NO-BREAK SPACE}+{Y[first].max():.2f}" in found.text
    groups = json.loads((run / "scores.json").read_text())["by_group"]
    for column in ("cell_type", "sm_name"):
        rows = groups[column].values()
        assert sum(one["rows"] for one in rows) == len(pd.read_parquet(run / "oof.parquet"))
        whole = sum(one["rows"] * one["pipeline"] for one in rows) / sum(one["rows"] for one in rows)
        scores = json.loads((run / "scores.json").read_text())["out_of_fold"]
        assert whole == pytest.approx(scores["pipeline"]["mean_rowwise_rmse"])


def test_it_is_made_anew_from_the_folder(run, cv, tmp_path):
    before = Page((run / "report.html").read_text())
    said = succeed("report", "--run", run, "--out", tmp_path / "again.html").stdout
    again = Page((tmp_path / "again.html").read_text())
    assert again.ids == before.ids and again.words["h1"] == before.words["h1"]
    assert again.words["td"] == before.words["td"]
    assert said.splitlines()[0] == before.words["h1"][0]
    succeed("report", "--run", run, "--cv", cv, "--out", tmp_path / "with_cv.html")
    verdict = Page((tmp_path / "with_cv.html").read_text()).words["h1"][0]
    methods = {one["name"]: one for one in json.loads((cv / "cv.json").read_text())["methods"]}
    assert re.match(
        r"Expect MRRMSE [0-9.]+ \([0-9.]+ to [0-9.]+\) (on your pairs|by the split random); ", verdict
    )
    expected = methods["pipeline"]["expected"] or {
        "error": methods["pipeline"]["scores"]["mean_rowwise_rmse"]
    }
    assert f"MRRMSE {expected['error']:.4f} (" in verdict


def test_a_reader_chooses_the_pairs_of_which_all_is_told(run, tmp_path):
    table = pd.read_parquet(run / "predictions.parquet", columns=["cell_type", "sm_name"])
    before, sizes = (
        Page((run / "report.html").read_text()),
        pd.read_csv(run / "submission.csv", index_col="id"),
    )
    weakest = table.iloc[int((sizes**2).mean(axis=1).argmin())]
    succeed("report", "--run", run, "--pair", ",".join(weakest), "--out", tmp_path / "page.html")
    found = Page((tmp_path / "page.html").read_text())
    assert weakest["sm_name"] in found.chart_words["Genes"]
    assert ", ".join(weakest) not in before.chart_words["Genes"]
    line = error_line(
        invoke("report", "--run", run, "--pair", "B cells,nobody", "--out", tmp_path / "no.html")
    )
    assert "nobody" in line and not (tmp_path / "no.html").exists()
    asked = [word for pair in table.head(7).agg(",".join, axis=1) for word in ("--pair", pair)]
    assert error_line(invoke("report", "--run", run, *asked)).endswith("a page has room for 6; give fewer")


def test_a_page_of_other_pairs_by_the_model_of_the_run(run, cv, small_files, tmp_path):
    pairs = tmp_path / "library.csv"
    pairs.write_text("cell_type,sm_name,SMILES\nNK cells,one,CCO\nB cells,two,CCCCO\nB cells,three,CCN\n")
    succeed("predict", "--model", run, "--pairs", pairs, "--out", tmp_path / "library.parquet")
    succeed("report", "--run", run, "--prediction", tmp_path / "library.parquet", "--cv", cv)
    found = Page((tmp_path / "library.report.html").read_text())
    assert found.faults == [] and "NK cells, one" in found.text
    assert re.match(r"Expect MRRMSE .* by the split random; ", found.words["h1"][0]), "not of these pairs"
    assert "3 of 3 pairs have a compound without any training row" in found.text
    assert "of 3 pairs to predict 100% have a new compound" not in found.text, (
        "the cross-validation was given"
    )
    other = tmp_path / "other"
    succeed(*run_arguments(small_files.train, small_files.test, other, "--quick"))
    line = error_line(invoke("report", "--run", other, "--prediction", tmp_path / "library.parquet"))
    assert line.endswith(f"library.parquet: is by another model than that of --run {other}")
    line = error_line(invoke("report", "--run", run, "--prediction", run))
    assert "has no manifest beside it" in line


def test_predict_leaves_a_page_beside_what_it_writes(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = Path("pairs.csv")
    pairs.write_text("cell_type,sm_name,SMILES\nNK cells,one,CCO\nB cells,two,CCCCO\nB cells,three,CCN\n")
    said = succeed("predict", "--model", run, "--pairs", pairs, "--out", "some.csv").stdout
    assert said.strip().endswith("beside it some.applicability.csv, some.report.html")
    succeed("predict", "--model", run, "--pairs", pairs, "--out", "parts", "--block-rows", 1)
    of_csv, of_parts = (Page(Path(name).read_text()) for name in ("some.report.html", "parts.report.html"))
    assert of_csv.faults == [] and of_csv.words["td"] == of_parts.words["td"]
    assert of_csv.words["h1"] == Page((run / "report.html").read_text()).words["h1"], "the errors of the run"
    succeed("report", "--run", run, "--prediction", "parts", "--out", "again.html")
    assert Page(Path("again.html").read_text()).words["td"] == of_parts.words["td"]
    assert {"some.csv", "some.applicability.csv"} < set(names_in(tmp_path))
    succeed("predict", "--model", run, "--pairs", pairs, "--out", "bare.csv", "--no-report")
    assert not Path("bare.report.html").exists()

    shutil.copytree(run / "model", "alone")
    monkeypatch.setattr(run_facts, "MOST_PAIRS", 2)
    succeed("predict", "--model", "alone", "--pairs", pairs, "--out", "many", "--block-rows", 1)
    found = Page(Path("many.report.html").read_text())
    assert found.words["h1"][0].startswith("The strongest of 3 responses: ")
    assert "this page cannot say what error to expect" in found.text and "members" not in found.ids
    assert "The 2 of 3 pairs with the strongest responses" in found.text
    assert "3 of 3 pairs have a compound without any training row" in found.text


def test_it_refuses_what_is_no_run_and_another_cross_validation(run, cv, tmp_path):
    assert "holds no finished run" in error_line(invoke("report", "--run", tmp_path))
    assert "holds no cross-validation" in error_line(invoke("report", "--run", run, "--cv", tmp_path))
    other = tmp_path / "cv"
    shutil.copytree(cv, other)
    document = json.loads((other / "cv.json").read_text())
    document["provenance"]["inputs"]["atlas"] = {"path": "atlas/manifest.json", "sha256": "0"}
    (other / "cv.json").write_text(json.dumps(document))
    line = error_line(invoke("report", "--run", run, "--cv", other))
    assert line.endswith("is of another atlas than the run; cross-validate the same")
    document["provenance"]["config"]["recipe"]["n_folds"] = 4
    (other / "cv.json").write_text(json.dumps(document))
    line = error_line(invoke("report", "--run", run, "--cv", other))
    assert line.endswith("is of another recipe than the run; cross-validate the same")


def test_a_model_in_python_writes_the_same_page(run, small_files, tmp_path):
    model = PerturbationModel("quick", molecules="morgan").fit(small_files.train, small_files.test)
    model.report(tmp_path / "page.html")
    found = Page((tmp_path / "page.html").read_text())
    assert "pairs" in found.ids and "drivers" not in found.ids, "quick has no kernels"
    bare = PerturbationModel("quick", molecules="morgan").fit(small_files.train)
    with pytest.raises(ValueError, match="fit the model with pairs to predict"):
        bare.report(tmp_path / "none.html")


# --- the script -------------------------------------------------------------------------------------------


def small_page(rows):
    sheet = Sheet(["name", "value"], rows)
    return page.page_of(PageOf("t", "l", ["s"], [Section("s", "h", sheet=sheet)], {}, sortable=True))


def test_only_the_script_of_the_page_may_run():
    content = small_page([["a", "1"]])
    script = re.search(r"<script>(.*?)</script>", content, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\"" in content and content.count("<script") == 1
    plain = page.page_of(PageOf("t", "l", ["s"], [], {}))
    assert "script" not in plain


PROBE = """<script>
const rows = () => [...document.querySelectorAll("tbody tr")].filter((row) => !row.hidden)
  .map((row) => row.cells[0].textContent.trim());
const told = [];
const heads = document.querySelectorAll("thead button");
for (const place of [1, 1, 0]) { heads[place].click(); told.push(rows()); }
told.push([...document.querySelectorAll("th[aria-sort]")].map((head) => head.getAttribute("aria-sort")));
const search = document.querySelector("input[type=search]");
search.value = "ALPHA 12"; search.dispatchEvent(new Event("input")); told.push(rows());
document.title = JSON.stringify(told);
</script></body>"""


@in_a_browser
def test_a_browser_sorts_and_searches_tables(tmp_path):
    values = {"alpha 1": "−3.5", "beta": "10", "alpha 12": "2", "gamma": "", "alpha 2": "1,000"}
    rows = [[name, value] for name, value in values.items()] + [[f"row {k:02}", "5"] for k in range(10)]
    text = small_page(rows).replace("</body>", PROBE)
    text = re.sub(r"; script-src '[^']*'", "; script-src 'unsafe-inline'", text)
    place = tmp_path / "page.html"
    place.write_text(text)
    dom, console = browse(place, "--dump-dom")
    assert console == []
    up, down, names, marked, searched = json.loads(re.search(r"<title>(.*?)</title>", dom)[1])
    middle = [f"row {k:02}" for k in range(10)]
    assert up == ["alpha 1", "alpha 12", *middle, "beta", "alpha 2", "gamma"], "what is no number comes last"
    assert down == up[::-1]
    assert names == sorted(up) and marked == ["ascending"]
    assert searched == ["alpha 12"]


@in_a_browser
def test_a_browser_runs_the_whole_page_without_a_word(run, tmp_path):
    place = tmp_path / "report.html"
    shutil.copy(run / "report.html", place)
    dom, console = browse(place, "--dump-dom")
    assert console == [] and 'type="search"' in dom and "<button" in dom
    for width in (1400, 500):
        shot = tmp_path / f"{width}.png"
        browse(place, f"--window-size={width},900", f"--screenshot={shot}")
        assert shot.stat().st_size > 20_000


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_words(name, small_files, tmp_path):
    frame = small_files.de_train.copy()
    shown = name.strip()
    frame["cell_type"] = frame["cell_type"].replace(frame["cell_type"].iloc[0], shown)
    gene = frame.columns[-1]
    frame = frame.rename(columns={gene: shown})
    asked = frame[["cell_type", "sm_name"]].head(3)
    model = PerturbationModel("quick", molecules="morgan").fit(frame, asked)
    model.report(tmp_path / "page.html")
    content = (tmp_path / "page.html").read_text()
    found = Page(content)
    assert found.faults == [] and found.tags.count("script") == 1
    assert not any(attribute.startswith("on") for _, attribute, _ in found.attributes)
