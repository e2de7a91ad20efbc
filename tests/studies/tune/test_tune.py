"""Tuning through the command line: files, words, refusals, a recipe that `run` takes."""

import json
import subprocess
import sys
import tomllib
from io import StringIO

import pandas as pd
import pytest
from matplotlib.image import imread
from rich.console import Console

from rapids_pipeline.backend.store import FOLDER
from rapids_pipeline.reports import page
from rapids_pipeline.reports import tune as report
from rapids_pipeline.reports.page import LiveStages
from rapids_pipeline.stack.members.booster import BoosterMember
from rapids_pipeline.stack.named_recipes import RECIPES, recipe
from rapids_pipeline.stack.recipe import to_toml
from rapids_pipeline.studies.tune.results import Course
from rapids_pipeline.studies.tune.study import ModelStudy
from tests.command_line import error_line, invoke, manifest_of, names_in, run_arguments, succeed
from tests.reports.pages import Page

FILES = [FOLDER, "recipe.toml", "tune.csv", "tune.html", "tune.json", "tune.png"]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def small_recipe(tmp_path_factory, member):
    """A recipe that is quick to run, with the small member in it."""
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    booster = BoosterMember(n_estimators=3, n_components=4, stacks_on=("composite",))
    path.write_text(to_toml(RECIPES["quick"].with_members(member, booster)))
    return path


@pytest.fixture(scope="module")
def arguments(task_files, small_recipe):
    files = ["--train", task_files.train, "--test", task_files.test]
    return ["tune", *files, "--recipe", small_recipe, "--molecules", "morgan"]


@pytest.fixture(scope="module")
def finished(arguments, tmp_path_factory):
    out = tmp_path_factory.mktemp("tune") / "out"
    return out, succeed(*arguments, "--out", out, "--trials", 13)


def test_it_leaves_its_files_and_says_how_to_use_them(finished, task_files):
    out, result = finished
    assert names_in(out) == FILES
    use = f"next: rapids-perturb run --train {task_files.train} --test {task_files.test} --recipe {out}/recipe.toml"
    assert f"{use} --molecules morgan --out runs/tuned  # " in result.stderr
    served = "compounds measured in another cell type, all of your pairs"
    assert f"tuned on: known_compounds (for {served})" in result.stdout


def test_every_trial_is_on_file_the_recipe_first(finished, member):
    out, result = finished
    found, table = json.loads((out / "tune.json").read_text()), pd.read_csv(out / "tune.csv")
    [model] = found["models"]
    assert len(model["trials"]) == len(table) == 13 and list(table["trial"]) == list(range(1, 14))
    first, best = table.iloc[0], table[table["best"]].iloc[0]
    assert first["change"] == 0 and first["penalty"] == member.known_compounds.penalty
    assert best["change"] == table["change"][~table["stopped_early"]].min() <= 0
    assert best["trial"] == model["best"] and model["trials"][model["best"] - 1]["scores"] == {
        lot["split"]: lot["tuned"] for lot in model["lots"]
    }
    assert found["provenance"]["versions"]["optuna"] and found["provenance"]["inputs"]["test"]
    words = "no trial was better" if model["best"] == 1 else "the interval "
    assert words in result.stdout


def test_the_recipe_is_the_best_trial_and_is_run(finished, task_files, tmp_path):
    out, _ = finished
    table = pd.read_csv(out / "tune.csv")
    best, tuned = table[table["best"]].iloc[0], recipe(out / "recipe.toml").members[0]
    known = tuned.known_compounds
    assert known.penalty == best["penalty"] and known.transform == best["transform"]
    assert known.weights["tanimoto"] == best["weights.tanimoto"]
    assert "rbf(molecules)" in tuned.new_compounds.weights, "the encoder is named by the run"
    succeed(*run_arguments(task_files.train, task_files.test, tmp_path, "--recipe", out / "recipe.toml"))
    assert manifest_of(tmp_path)["config"]["recipe"]["name"] == "tuned"


def test_the_reports_open(finished):
    out, _ = finished
    read = Page((out / "tune.html").read_text())
    parts = {"scores", "search", "settings", "slices-known_compounds"}
    assert not read.faults and parts <= set(read.ids)
    improved = any(model["best"] > 1 for model in json.loads((out / "tune.json").read_text())["models"])
    assert read.words["h1"][0].startswith("Tuning changes the error" if improved else "No trial was better")
    assert (out / "tune.png").read_bytes().startswith(PNG) and imread(out / "tune.png").std() > 0
    assert tomllib.loads((out / "recipe.toml").read_text())["name"] == "tuned"


def test_the_same_command_goes_on_and_ends_where_one_run_ends(finished, arguments, tmp_path, monkeypatch):
    out, calls, one_more = tmp_path / "out", [], ModelStudy.one_more

    def interrupted(self, checkpoint):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return one_more(self, checkpoint)

    monkeypatch.setattr(ModelStudy, "one_more", interrupted)
    monkeypatch.setattr(page, "png", lambda draw: PNG)  # drawing takes longer than the trials
    first = invoke(*arguments, "--out", out, "--trials", 13)
    assert first.exit_code == 130 and f"{FOLDER}; the same command continues" in first.stderr
    assert names_in(out) == [FOLDER]
    second = succeed(*arguments, "--out", out, "--trials", 13)
    assert "going on after 5 trials of earlier sessions" in second.stderr
    ours, theirs = (pd.read_csv(folder / "tune.csv").drop(columns="seconds") for folder in (out, finished[0]))
    pd.testing.assert_frame_equal(ours, theirs)
    succeed(*arguments, "--out", out, "--trials", 1)
    assert len(pd.read_csv(out / "tune.csv")) == 13, "it only reports"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--minutes 0", "--minutes 0: must be above 0"),
        ("--minutes 1e-9", "--minutes 1e-09: no trial of known_compounds finished in this time"),
        ("--split magic", "Invalid value for '--split': 'magic' is none of random, compound"),
        (
            "--member magic",
            "--member 'magic': the recipe quick has no such member to tune; it has composite, boosting",
        ),
        ("--recipe magic", "no recipe 'magic'"),
        ("--device tpu", "--device"),
    ],
)
def test_refusals_leave_nothing(arguments, tmp_path, more, words):
    line = error_line(invoke(*arguments, "--out", tmp_path / "out", *more.split()))
    assert line.startswith(f"error: {words}")
    assert not (tmp_path / "out").exists()


def test_the_command_line_does_not_load_optuna():
    code = "import sys, rapids_pipeline.commands.tune, rapids_pipeline.studies.tune.study\n"
    code += "print('optuna' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_terminal_shows_the_time_and_the_trials():
    stages = LiveStages(Console(file=StringIO(), force_terminal=True, width=160), report.drawn, report.logged)
    with stages.stage("trials") as progress:
        progress.start(40)
        progress.found(Course(4, 3, 40, 1.25, 10, {"known_compounds": -0.02}))
    shown = "4 of 40 trials, 3 of earlier sessions; 1.2 of 10 minutes; error: known_compounds −1.98 %"
    assert shown in stages.console.file.getvalue()


def test_a_log_has_the_trials_that_are_the_best_so_far():
    best = {"known_compounds": -0.02}
    assert report.logged(Course(5, 5, 40, 0, 10, best, begins=True)).startswith("going on after 5 trials")
    assert report.logged(Course(5, 5, 40, 0, 10, best)) == ""
    line = report.logged(Course(6, 5, 40, 0, 10, best, ("known_compounds", 6)))
    assert line.split() == ["known_compounds", "trial", "6", "−1.98", "%"]
