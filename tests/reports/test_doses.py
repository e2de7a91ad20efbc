"""The page of dose–response curves: the verdict, marked doses, hostile names."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline import PerturbationModel
from rapids_pipeline.predictions.dose_response import Curves
from rapids_pipeline.predictions.predict import Predicted, predictor_of
from rapids_pipeline.reports import page as pages
from rapids_pipeline.reports.doses import PAIRS, _doses_of, dose_section, write_doses
from tests.reports.pages import Page
from tests.reports.test_screen import HOSTILE

DOSES = (0.0, 0.1, 1.0, 10.0)


def curves_of(compounds, cell_types=("B cells", "T cells"), times=(24.0,), genes=("A1BG",), doses=DOSES):
    keys = [
        (cell, time, name, dose)
        for cell in cell_types
        for time in times
        for name in compounds
        for dose in doses
    ]
    points = pd.DataFrame(keys, columns=["cell_type", "time_h", "sm_name", "dose_uM"])
    points["trained_doses"] = pd.Series([(0.1, 5.0)] * len(points))
    response = np.zeros((len(points), len(genes)), np.float32)
    return Curves(tuple(genes), np.arange(len(genes)), np.arange(len(points)), points, response)


@pytest.fixture
def drawn(tmp_path):
    def draw(curves, notes=()):
        place = tmp_path / "p.doses.html"
        predicted = Predicted(
            len(curves.points),
            3,
            list(notes),
            Path("p.applicability.csv"),
            {"model": "abc"},
            None,
            curves,
            place,
        )
        assert write_doses(predicted).endswith(f"drawn: {place}")
        text = place.read_text()
        page = Page(text)
        assert not page.faults and len(set(page.ids)) == len(page.ids)
        return text, page

    return draw


def test_the_verdict_names_what_moves_a_gene_most_and_at_which_dose(drawn):
    curves = curves_of(["one", "two", "three", "four"])
    response = curves.response.copy()
    at = curves.points.set_index(["cell_type", "sm_name", "dose_uM"]).index
    for key, value in {
        ("T cells", "two", 1.0): -3.25,
        ("T cells", "two", 10.0): 1.0,
        ("B cells", "one", 10.0): 2.5,
        ("B cells", "two", 0.0): 0.75,
        ("B cells", "three", 0.1): 0.5,
        ("B cells", "four", 0.1): 0.25,
    }.items():
        response[at.get_loc(key), 0] = value
    text, page = drawn(replace(curves, response=response), ["a note"])
    first = page.words["li"][0]
    assert first == (
        "A1BG is moved most by two (−3.2500 at 1 µM; T cells, 24 h), then one (+2.5000 at 10 µM; B cells, 24 h, "
        "outside the doses of its training rows), then three (+0.5000 at 0.1 µM; B cells, 24 h)"
    )
    assert "A1BG in B cells" in page.words["h2"] and "a note" in page.words["li"]
    rows = text.split("<tbody>")[2]
    assert rows.index("two") < rows.index("one"), "the strongest of a cell type first"
    assert "0.1, 5" in page.text, "the doses of training rows"


def test_doses_that_were_trained_on_are_filled_and_zero_has_a_place(drawn):
    text, page = drawn(curves_of(["one", "two"], cell_types=["B cells"]))
    [words] = page.chart_words.values()
    assert [word for word in map(str.strip, words) if word in {"0", "0.1", "1", "10"}][:4] == [
        "0",
        "0.1",
        "1",
        "10",
    ]
    assert {"one", "two"} <= set(map(str.strip, words))
    for number in (0, 1):
        group = text.split(f'id="curves-0-trained-{number}"')[1].split("</g>")[0]
        assert group.count("<use") == 1, "0.1 µM alone was trained on and drawn"


@pytest.mark.parametrize("times", [(float("nan"),), (6.0, 24.0), (2.0, 6.0, 8.0, 24.0)])
def test_every_time_has_a_panel(drawn, times):
    _, page = drawn(curves_of(["one"], ["B cells"], times, ["A1BG", "A2M"]))
    assert list(page.chart_words) == ["A1BG", "A2M"]
    titles = [f"{time:g} h" for time in times if time == time]
    for words in page.chart_words.values():
        assert [word for word in map(str.strip, words) if word.endswith(" h")] == titles
    assert ("time (h)" in page.words["th"]) == bool(titles)


def test_names_cannot_break_the_page(drawn):
    text, page = drawn(curves_of([*HOSTILE, "_hidden"], HOSTILE[:1], genes=HOSTILE[:2]))
    assert "<script>" not in text and not [tag for tag in page.tags if tag in ("script", "a", "iframe")]
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "_hidden" in page.text


# --- the strongest pairs of a page of predictions ---------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    """A model of two cell types and five compounds at three doses each; one compound has one dose only."""
    rng = np.random.default_rng(0)
    keys = [(cell, f"c{k}", dose) for cell in ("B", "T") for k in range(4) for dose in (0.1, 1.0, 10.0)]
    table = pd.DataFrame([*keys, ("B", "c4", 3.0)], columns=["cell_type", "sm_name", "dose_uM"])
    genes = {f"G{g}": rng.normal(size=len(table)) * (1 + table["dose_uM"]) for g in range(9)}
    return PerturbationModel("quick", molecules="none").fit(table.assign(**genes)).model_


def test_the_section_has_the_model_s_own_predictions_and_marks_its_doses(model):
    asked = pd.DataFrame(
        {"cell_type": "B", "sm_name": ["c1", "c1", "c4", "nobody", "c2", "c3"], "SMILES": ""}
    )
    section = dose_section(model, asked.assign(dose_uM=1.0))
    rows = [dict(zip(section.sheet.headings, row, strict=True)) for row in section.sheet.rows]
    assert list(dict.fromkeys(row["pair"] for row in rows)) == ["B, c1", "B, c4", "B, nobody"][:PAIRS]
    marked = {(row["pair"], row["dose (µM)"]) for row in rows if row["trained on"] == "yes"}
    assert marked == {("B, c1", "0.1"), ("B, c1", "1"), ("B, c1", "10"), ("B, c4", "3")}
    for row in rows[::4]:
        pair = pd.DataFrame({"cell_type": ["B"], "sm_name": [row["pair"][3:]], "SMILES": ""})
        work = predictor_of(model, pair, "the model", doses=[float(row["dose (µM)"])])
        Y = work.predict_rows(np.array([0]))[0].astype(float)
        assert float(row["size"]) == pytest.approx(np.sqrt((Y**2).mean()), abs=2e-3)
        for told in row["genes"].split(", "):
            gene, value = told.split("\N{NO-BREAK SPACE}")
            assert float(value.replace("−", "-")) == pytest.approx(Y[int(gene[1:])], abs=0.02)
    found = Page(pages.page_of(pages.Page("t", "l", [], [section], {})))
    assert not found.faults and "Dose" in found.chart_words


def test_a_model_that_learnt_no_doses_has_no_section(model):
    plain = SimpleNamespace(obs=model.obs.drop(columns="dose_uM"))
    assert dose_section(plain, pd.DataFrame({"cell_type": ["B"], "sm_name": ["c1"]})) is None


def test_doses_that_are_drawn():
    doses = np.array([0.0, 0.1, 1.0, 10.0, 10.0, np.nan])
    own = np.array([False, True, False, True, True, True])
    drawn = _doses_of(doses, own)
    assert {0.1, 10.0} <= set(drawn) and drawn == sorted(drawn) and len(drawn) == 7
    assert _doses_of(doses, np.zeros(6, bool)) == [0.0, 0.1, 1.0, 10.0], (
        "a compound without doses has those of all"
    )
    many = _doses_of(np.geomspace(0.01, 100, 60), np.zeros(60, bool))
    assert len(many) == 7 and (many[0], many[-1]) == (0.01, 100)
