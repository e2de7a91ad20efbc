"""Tuning through the command line: files, words, refusals, a recipe that `run` takes."""

import json
import subprocess
import sys
import tomllib
from html.parser import HTMLParser

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from rapids_pipeline.commands import app as cli
from rapids_pipeline.commands import tune
from rapids_pipeline.reports import tune as report
from rapids_pipeline.reports.tune_live import SEARCH, LiveTrials
from rapids_pipeline.stack.members.booster import BoosterMember
from rapids_pipeline.stack.named_recipes import RECIPES, recipe, to_toml
from rapids_pipeline.studies.tune.limits import Limits
from rapids_pipeline.studies.tune.study import MachineStudy

FILES = ["recipe.toml", "study.db", "tune.csv", "tune.html", "tune.json", "tune.png"]
PNG = b"\x89PNG\r\n\x1a\n"


def invoke(*arguments):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(tune.command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def error_line(result, code=2):
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture(scope="module")
def small_recipe(tmp_path_factory, member):
    """A recipe that is quick to run, with the small member in it."""
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    booster = BoosterMember(n_estimators=3, n_components=4, stacks_on=("composite",))
    small = RECIPES["quick"].with_members(member, booster)
    path.write_text(to_toml(small))
    return path


@pytest.fixture(scope="module")
def arguments(task_files, small_recipe):
    return ["--train", task_files.train, "--test", task_files.test, "--recipe", small_recipe]


@pytest.fixture(scope="module")
def finished(arguments, tmp_path_factory):
    out = tmp_path_factory.mktemp("tune") / "out"
    result = invoke(*arguments, "--out", out, "--trials", 13)
    assert result.exit_code == 0, result.output
    return out, result


def test_it_leaves_its_files_and_says_how_to_use_them(finished, task_files):
    out, result = finished
    assert sorted(path.name for path in out.iterdir()) == FILES
    use = f"use it: rapids-perturb run --train {task_files.train} --test {task_files.test} --out runs/tuned"
    assert f"{use} --molecules morgan --recipe {out}/recipe.toml" in result.stdout
    assert (
        "tuned on: known_compounds (for compounds measured in another cell type, all of your pairs)"
        in result.stdout
    )


def test_every_trial_is_on_file_the_recipe_first(finished, member):
    out, result = finished
    found, table = json.loads((out / "tune.json").read_text()), pd.read_csv(out / "tune.csv")
    [machine] = found["machines"]
    assert len(machine["trials"]) == len(table) == 13 and list(table["trial"]) == list(range(13))
    first, best = table.iloc[0], table[table["best"]].iloc[0]
    assert first["change"] == 0 and first["penalty"] == member.known_compounds.penalty
    assert best["change"] == table["change"][~table["stopped_early"]].min() <= 0
    assert best["trial"] == machine["best"] and machine["trials"][machine["best"]]["scores"] == {
        lot["split"]: lot["tuned"] for lot in machine["lots"]
    }
    assert found["provenance"]["versions"]["optuna"] and found["provenance"]["inputs"]["test"]
    words = "no trial was better" if not machine["best"] else "the interval "
    assert words in result.stdout


def test_the_recipe_is_the_best_trial_and_is_run(finished, task_files, tmp_path):
    out, _ = finished
    table = pd.read_csv(out / "tune.csv")
    best = table[table["best"]].iloc[0]
    tuned = recipe(out / "recipe.toml").members[0]
    known = tuned.known_compounds
    assert known.penalty == best["penalty"] and known.transform == best["transform"]
    assert known.weights["tanimoto"] == best["weights.tanimoto"]
    assert "rbf(molecules)" in tuned.new_compounds.weights, "the encoder is named by the run"
    files = ["--train", task_files.train, "--test", task_files.test, "--out", tmp_path / "run"]
    words = ["run", *files, "--molecules", "morgan", "--recipe", out / "recipe.toml"]
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["config"]["recipe"]["name"] == "tuned"


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids, self.outside = [], []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.outside += [found[k] for k in ("src", "href") if k in found and not found[k].startswith("data:")]


def test_the_reports_open(finished):
    from matplotlib.image import imread

    out, _ = finished
    page = Page()
    page.feed((out / "tune.html").read_text())
    assert page.ids == ["scores", "search", "settings", "slices-known_compounds"] and page.outside == []
    assert (out / "tune.png").read_bytes().startswith(PNG) and imread(out / "tune.png").std() > 0
    assert tomllib.loads((out / "recipe.toml").read_text())["name"] == "tuned"


def test_the_same_command_goes_on_and_ends_where_one_run_ends(finished, arguments, tmp_path, monkeypatch):
    out, calls, one_more = tmp_path / "out", [], MachineStudy.one_more

    def interrupted(self, checkpoint):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return one_more(self, checkpoint)

    monkeypatch.setattr(MachineStudy, "one_more", interrupted)
    monkeypatch.setattr(report, "overview", lambda found: PNG)  # drawing takes longer than the trials
    monkeypatch.setattr(report, "slices", lambda machine: PNG)
    first = invoke(*arguments, "--out", out, "--trials", 13)
    assert first.exit_code == 130 and "study.db; the same command continues" in first.stderr
    assert [path.name for path in out.iterdir()] == ["study.db"]
    second = invoke(*arguments, "--out", out, "--trials", 13)
    assert second.exit_code == 0, second.output
    assert "going on after 5 trials of earlier sessions" in second.stderr
    ours, theirs = (pd.read_csv(folder / "tune.csv").drop(columns="seconds") for folder in (out, finished[0]))
    pd.testing.assert_frame_equal(ours, theirs)
    third = invoke(*arguments, "--out", out, "--trials", 1)
    assert third.exit_code == 0 and len(pd.read_csv(out / "tune.csv")) == 13, "it only reports"


def test_another_task_in_the_same_folder_is_refused(finished, arguments):
    out, _ = finished
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for more, what in (
        (["--seed", 1], "splits and seed"),
        (["--molecules", "descriptors"], "recipe"),
        (["--split", "random"], "splits"),
    ):
        line = error_line(invoke(*arguments, "--out", out, "--trials", 14, *more))
        assert line.startswith(f"error: {out}/study.db: the study of a tuning with other {what}")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--minutes", "0"], "error: --minutes 0: must be above 0"),
        (["--trials", "0"], "error: --trials 0: must be at least 1"),
        (["--split", "magic"], "error: --split magic: choose among"),
        (["--recipe", "quick"], "error: --recipe quick: has no composite kernel to tune"),
        (["--recipe", "magic"], "error: no recipe 'magic'"),
        (["--device", "tpu"], "error: --device"),
    ],
)
def test_refusals_leave_nothing(arguments, tmp_path, more, words):
    assert error_line(invoke(*arguments, "--out", tmp_path / "out", *more)).startswith(words)
    assert not (tmp_path / "out").exists()


def test_no_trial_in_the_time(arguments, tmp_path):
    line = error_line(invoke(*arguments, "--out", tmp_path / "out", "--minutes", "1e-9"))
    assert line.startswith("error: --minutes 1e-09: no trial of known_compounds finished in this time")


def test_the_command_line_does_not_load_optuna():
    code = "import sys, rapids_pipeline.commands.app, rapids_pipeline.commands.tune; print('optuna' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_terminal_shows_the_time_and_the_trials():
    from io import StringIO

    from rich.console import Console

    shown, text = LiveTrials(Limits(10, 40)), StringIO()
    shown.console = Console(file=text, force_terminal=True, width=120)
    with shown.stage(SEARCH):
        shown.begins(3, {"known_compounds": -0.01})
        shown.fits()
        shown.trial_finished("known_compounds", 4, -0.02)
    assert "of 10 minutes" in text.getvalue() and "4 of 40; error: known_compounds -1.98%" in text.getvalue()
