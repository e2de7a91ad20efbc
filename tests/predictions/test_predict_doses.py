"""Predictions at doses and times: of the pairs, fanned out over several, and drawn."""

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.predictions import dose_response
from rapids_pipeline.predictions.predict import predict_file
from rapids_pipeline.stack.saved import load_model
from tests.command_line import error_line, invoke, run_arguments, succeed
from tests.predictions.test_predict import close
from tests.reports.pages import Page


@pytest.fixture(scope="module")
def dosed(small_files, tmp_path_factory):
    """The folder of a run on the small demo data with doses and times made up, and the file of its pairs."""
    folder = tmp_path_factory.mktemp("dosed")
    rng = np.random.default_rng(0)
    for name, read in ((small_files.train, pd.read_parquet), (small_files.test, pd.read_csv)):
        table = read(name)
        made = {
            "dose_uM": rng.choice([0.1, 1.0, 10.0], len(table)),
            "time_h": rng.choice([6.0, 24.0], len(table)),
        }
        table = pd.concat([pd.DataFrame(made), table], axis=1)
        (table.to_parquet if name.suffix == ".parquet" else table.to_csv)(folder / name.name, index=False)
    files = folder / small_files.train.name, folder / small_files.test.name
    succeed(*run_arguments(*files, folder / "run", "--quick"))
    return folder / "run", files[1]


def test_pairs_carry_their_doses_and_times(dosed, tmp_path):
    run, pairs = dosed
    found = predict_file(run, pairs, tmp_path / "p.csv")
    submission, again = (
        pd.read_csv(file).set_index("id") for file in (run / "submission.csv", tmp_path / "p.csv")
    )
    np.testing.assert_allclose(again.loc[submission.index], submission, atol=1e-5)
    beside = pd.read_csv(found.beside).set_index("id")
    assert beside["dose_uM"].to_dict() == pd.read_csv(pairs).set_index("id")["dose_uM"].to_dict()
    pd.read_csv(pairs).drop(columns="dose_uM").assign(time_h=100.0).to_csv(
        tmp_path / "other.csv", index=False
    )
    notes = predict_file(run, tmp_path / "other.csv", tmp_path / "q.csv").notes
    assert any("pairs have no dose_uM, in which the training rows differ" in note for note in notes)
    assert any("have a time_h outside the training rows' 6 to 24" in note for note in notes)


def test_every_pair_is_fanned_out_over_doses_and_times(dosed, tmp_path):
    run, pairs = dosed
    some = pd.read_csv(pairs).head(3).drop(columns=["dose_uM", "time_h"])
    some.to_csv(tmp_path / "some.csv", index=False)
    arguments = ("predict", "--model", str(run), "--pairs", str(tmp_path / "some.csv"))
    succeed(*arguments, "--doses", "0.1, 10", "--times", "6,24", "--out", str(tmp_path / "all.csv"))
    found = pd.read_csv(tmp_path / "all.csv").set_index("id")
    suffixes = ["_0.1uM_6h", "_0.1uM_24h", "_10uM_6h", "_10uM_24h"]
    assert list(found.index) == [f"{name}{suffix}" for name in some["id"] for suffix in suffixes]
    one = some.assign(dose_uM=10.0, time_h=6.0)
    one.to_csv(tmp_path / "one.csv", index=False)
    predict_file(run, tmp_path / "one.csv", tmp_path / "o.csv")
    alone = pd.read_csv(tmp_path / "o.csv").set_index("id")
    np.testing.assert_allclose(found.loc[[f"{name}_10uM_6h" for name in some["id"]]], alone, atol=1e-5)
    assert np.abs(found.to_numpy()[0] - found.to_numpy()[3]).max() > 1e-3, "a dose and time tell pairs apart"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--doses", "1,x"), "--doses 1,x: give numbers separated by commas, such as 0.1,1,10"),
        (("--doses", "1,-2"), "--doses: -2: give different numbers of 0 or more"),
        (("--times", "6,6"), "--times: 6: give different numbers of 0 or more"),
    ],
)
def test_doses_that_are_none_are_refused(dosed, tmp_path, options, says):
    run, pairs = dosed
    result = invoke("predict", "--model", run, "--pairs", pairs, *options, "--out", tmp_path / "p.csv")
    assert says in error_line(result)


def test_a_model_of_one_dose_is_asked_for_none(model, pairs, tmp_path):
    with pytest.raises(
        InputError, match="--doses: the model's training rows do not differ in dose_uM, so it tells"
    ):
        predict_file(model, pairs, tmp_path / "p.csv", doses=(0.1, 1.0))


@pytest.mark.parametrize("name", ["p.csv", "p", "p.parquet"])
def test_dose_responses_are_drawn_beside_the_predictions(dosed, tmp_path, name):
    run, pairs = dosed
    training, genes = load_model(run / "model").obs, load_model(run / "model").genes
    some = pd.read_csv(pairs).drop(columns=["dose_uM", "time_h"])
    some = some[some["sm_name"].isin(some["sm_name"].unique()[:3])]
    some.to_csv(tmp_path / "some.csv", index=False)
    arguments = ["predict", "--model", run, "--pairs", tmp_path / "some.csv", "--out", tmp_path / name]
    options = ["--doses", "0,0.1,3,10", "--times", "6,24", "--draw", f"{genes[3]}, {genes[0]}"]
    result = succeed(*arguments, *options)
    charts = some["cell_type"].nunique() * 2
    assert f"{2 * 2 * len(some)} curves of 2 genes drawn: {tmp_path / 'p.doses.html'}" in result.stderr
    page = Page((tmp_path / "p.doses.html").read_text())
    assert not page.faults and page.tags.count("svg") == charts
    report = Page((tmp_path / "p.report.html").read_text())
    assert not report.faults and "doses" in report.ids
    for other in [*tmp_path.glob("p.*csv"), tmp_path / "p.report.html"]:
        other.unlink()
    assert "p.doses.html: exists already" in error_line(invoke(*arguments, *options))
    found = predict_file(
        run, tmp_path / "some.csv", tmp_path / "q.csv", doses=(10, 0.1), times=(6,), draw=genes[1:3]
    )
    written = pd.read_csv(tmp_path / "q.csv").iloc[found.curves.rows]
    close(found.curves.response, written[list(genes[1:3])])
    points = found.curves.points
    assert points["dose_uM"].tolist() == [0.1, 10.0] * len(some)
    for row in points.itertuples():
        there = (training["cell_type"] == row.cell_type) & (training["sm_name"] == row.sm_name)
        assert list(row.trained_doses) == sorted(set(training["dose_uM"][there & (training["time_h"] == 6)]))


def test_pairs_with_doses_of_their_own_are_drawn(dosed, tmp_path):
    run, pairs = dosed
    one = pd.read_csv(pairs).head(1)
    table = pd.concat([one.assign(dose_uM=dose, id=dose) for dose in (1.0, 10.0, 1.0, np.nan)])
    table.assign(id=range(4)).to_csv(tmp_path / "pairs.csv", index=False)
    genes = load_model(run / "model").genes[:1]
    found = predict_file(run, tmp_path / "pairs.csv", tmp_path / "p.csv", draw=[*genes, *genes])
    assert found.curves.rows.tolist() == [0, 1] and found.curves.genes == genes


def test_what_cannot_be_drawn_is_refused_before_anything_is_predicted(dosed, model, tmp_path, monkeypatch):
    run, pairs = dosed
    gene = load_model(run / "model").genes[0]

    def refused(words, folder=run, draw=(gene,), **options):
        with pytest.raises(InputError, match=words) as caught:
            predict_file(folder, pairs, tmp_path / "p.csv", draw=draw, **options)
        assert "\n" not in str(caught.value) and len(str(caught.value)) <= 500

    some = {"doses": (0.1, 1.0)}
    refused(
        f"--draw {gene.lower()}x: no such gene among 8; nearest names: {gene}",
        draw=(f"{gene.lower()}x",),
        **some,
    )
    refused("--draw: the model's training rows do not differ in dose_uM", model)
    refused(
        "--draw: no compound is to be predicted at two doses or more; give some, such as --doses 0.1,1",
        doses=(1.0,),
    )
    monkeypatch.setattr(dose_response, "COMPOUNDS", 2)
    refused(
        r"--draw: \d+ compounds would be in one chart, and no more than 2 can be told apart; give --pairs a",
        **some,
    )
    monkeypatch.setattr(dose_response, "COMPOUNDS", 1000)
    monkeypatch.setattr(dose_response, "CHARTS", 1)
    refused(
        r"--draw: 1 genes × \d+ cell types and times are \d+ charts, and a page has 1 at most; name fewer",
        **some,
    )
    assert list(tmp_path.iterdir()) == []
