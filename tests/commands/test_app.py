"""The command line: its subcommands, how they end, and what does not hide its packages."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rapids_pipeline import __version__, pipeline
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.commands import option_groups, options
from rapids_pipeline.commands.app import PLACES, SUBCOMMANDS, subcommand
from rapids_pipeline.evaluation.splits import SPLITS
from rapids_pipeline.stack.named_recipes import RECIPES
from tests.command_line import error_line, invoke, program, run_arguments, succeed

ROOT = Path(__file__).parents[2]


def test_every_file_has_a_subcommand_and_every_subcommand_a_file():
    files = {path.stem for path in (ROOT / "rapids_pipeline" / "commands").glob("*.py")}
    assert {place.partition(".")[0] for place in PLACES} == files - {
        "__init__",
        "app",
        "options",
        "option_groups",
        "model",
    }
    assert len(SUBCOMMANDS) == len(PLACES), "no two of one name"


def test_the_help_has_a_sentence_a_subcommand():
    lines = succeed("--help").stdout.split("Commands")[1].splitlines()
    assert [line.split()[1] for line in lines if line[1:3] == " " + line[2:3].strip()] == [*SUBCOMMANDS]


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_a_subcommand_has_help_and_refuses_what_it_does_not_know(name):
    assert succeed(name, "-h").stdout == succeed(name, "--help").stdout
    refused = invoke(name, "--no-such-option")
    assert refused.exit_code == 2
    assert "No such option" in refused.stderr and "Traceback" not in refused.output


@pytest.mark.parametrize("word", ["run", "no-such-command", "--no-such-option"])
def test_usage_errors_end_with_2(word):
    result = invoke(word)
    assert result.exit_code == 2 and "Traceback" not in result.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "--nope"], "No such option: --nope"),
        (["run", "--folds", "x"], "Invalid value for '--folds': "),
        (["run"], "Missing option '--train'"),
        (["nope"], "No such command 'nope'"),
        (["recipes", "a", "b"], "Got unexpected extra argument"),
        (["run", "--replicates", "[/x]"], "Invalid value for '--replicates': "),
        (["screen", "--folds", "1000000000"], "Invalid value for '--folds': "),
        (["screen", "--seed", str(2**64)], "Invalid value for '--seed': "),
        (["screen", "--repeats", "0"], "Invalid value for '--repeats': "),
        (["cv", "--train", "x", "--folds", "-1"], "Invalid value for '--folds': "),
        (["tune", "--train", "x", "--minutes", "inf"], "Invalid value for '--minutes': "),
        (["tune", "--train", "x", "--trials", "0"], "Invalid value for '--trials': "),
        (["demo", "--genes", "0"], "Invalid value for '--genes': "),
        (["run", "x" * 100_000], "Missing option"),
        (["\x1b[31m" + "x" * 100_000], "No such command '\\x1b[31mxxx"),
    ],
)
def test_a_wrong_command_line_is_one_line(words, says):
    line = error_line(invoke(*words))
    assert line.startswith(f"error: {says}") and len(line) <= 500 and "--help` says more)" in line
    assert line.isprintable()


def test_without_words_the_help_is_shown():
    shown = invoke()
    assert shown.exit_code == 2 and "Usage" in shown.output and "error: " not in shown.output


def test_a_message_of_several_lines_is_printed_as_one(small, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise InputError("first\nsecond")

    monkeypatch.setattr(pipeline, "run", refuse)
    assert error_line(invoke(*small(tmp_path / "out"))) == "error: first second"


def test_the_module_and_the_command_are_one_program():
    script = Path(sys.executable).with_name("rapids-perturb")
    if not script.exists():
        pytest.skip("the package's command is not installed")
    installed = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert installed.stdout == program("--version").stdout == f"rapids-perturb {__version__}\n"


def test_a_bad_file_ends_the_real_program_with_2(tiny):
    (tiny / "train.csv").write_text("")
    result = program(*run_arguments(tiny / "train.csv", tiny / "id_map.csv", tiny / "out"))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        "device: cpu (asked for)",
        "molecules: morgan (asked for)",
        f"error: {tiny}/train.csv: the file is empty (0 bytes)",
    ]
    assert not (tiny / "out").exists()


@pytest.mark.parametrize("words", [["rapids_pipeline", "features", "loo"], ["rapids_pipeline.screen", "-h"]])
def test_a_file_of_the_users_hides_no_package_but_where_the_path_says_so(tmp_path, words):
    (tmp_path / "features.py").write_text("raise SystemExit('the wrong file')")
    command, told = [sys.executable, "-m", *words], []
    for path in (str(ROOT), f"{tmp_path}{os.pathsep}{ROOT}"):
        environment = os.environ | {"PYTHONPATH": path}
        told.append(subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True))
    assert told[0].returncode == 0, told[0].stderr
    hides = f"error: {tmp_path}/features.py hides the package features of this program; rename it"
    assert error_line(told[1]) == hides


def test_the_help_names_every_split():
    assert options.SPLIT_NAMES == ", ".join(SPLITS)


@pytest.mark.parametrize("name", ["run", "cv", "screen", "tune", "predict", "demo"])
def test_commands_that_fit_or_predict_take_a_cluster_and_a_log(name):
    help_text = invoke(name, "--help").stdout
    assert "--cluster" in help_text and "--log" in help_text


def test_parameters_that_stand_for_several_options_are_made_of_them():
    seen = []

    @option_groups.with_several
    def command(seed: int = 0, where: option_groups.Where = option_groups.HERE) -> None:
        seen.append((seed, where))

    assert list(inspect.signature(command).parameters) == ["seed", "cluster", "log"]
    command(seed=3, cluster="local:2", log=Path("fits.log"))
    command()
    assert seen == [(3, option_groups.Where("local:2", Path("fits.log"))), (0, option_groups.HERE)]


def test_a_cluster_that_is_none_ends_a_command_with_a_line(small_files, tmp_path):
    words = run_arguments(small_files.train, small_files.test, tmp_path / "out", "--cluster", "many")
    remedy = "give local:N, cuda, tcp://HOST:PORT or a scheduler's .json file"
    assert error_line(invoke(*words)) == f"error: --cluster many: {remedy}"
    assert not (tmp_path / "out").exists()


# --- manners ----------------------------------------------------------------------------------------------


def completed(words, *, last=""):
    """Return what the program offers a bash that asks how its words go on."""
    asked = {"COMP_WORDS": " ".join(["rapids-perturb", *words, last]), "COMP_CWORD": str(len(words) + 1)}
    start = "import sys; sys.argv[0] = 'rapids-perturb'; from rapids_pipeline.__main__ import main; main()"
    environment = os.environ | asked | {"_RAPIDS_PERTURB_COMPLETE": "complete_bash"}
    command = [sys.executable, "-c", start]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()


def test_a_shell_completes_subcommands_options_and_values(monkeypatch, tmp_path):
    assert completed([]) == list(SUBCOMMANDS)
    assert completed([], last="pa") == ["pathways"]
    assert completed(["run"], last="--rec") == ["--recipe"]
    assert completed(["screen", "--model"]) == ["svr", "ridge", "boosting"]
    assert completed(["cv", "--split"], last="sca") == ["scaffold", "scarce"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quicker.toml").touch()
    for words in (["run", "--recipe"], ["recipes"]):
        assert completed(words, last="qui") == ["quick", "quicker.toml"]
    assert set(completed(["cv", "--recipe"])) == {*RECIPES, "quicker.toml"}
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
    assert "_RAPIDS_PERTURB_COMPLETE=complete_bash" in succeed("--show-completion").stdout


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_subcommand_has_quiet_and_verbose(name):
    parameters = {option for one in subcommand(name).params for option in one.opts}
    assert {"--quiet", "-q", "--verbose", "-v"} <= parameters


@pytest.mark.parametrize("before", [True, False])
def test_quiet_says_results_only_and_verbose_more(small, tmp_path, before):
    def told(option, number):
        words = small(tmp_path / f"out{number}", "--quick")
        return succeed(*([option, *words] if before else [*words, option]))

    quiet, loud = told("--quiet", 1), told("-v", 2)
    assert quiet.stderr == "" and "MRRMSE on training rows" in quiet.stdout
    lines = loud.stderr.splitlines()
    assert lines[0].startswith("device: cpu") and lines[-1].startswith("done: ")
    assert any(line.startswith("  svr_shared 1/") and " s  peak " in line for line in lines)
    usual = succeed(*small(tmp_path / "out3", "--quick"))
    assert usual.stderr.splitlines()[-1].startswith("next: rapids-perturb genes --run ")
    assert not any(" peak " in line for line in usual.stderr.splitlines()), "nothing is left of --verbose"


def test_quiet_and_verbose_exclude_each_other():
    for words in (["-q", "recipes", "-v"], ["recipes", "-q", "-v"], ["-q", "-v", "recipes"]):
        result = invoke(*words)
        assert (result.exit_code == 2) == (words != ["-q", "recipes", "-v"])
    assert "exclude each other" in error_line(invoke("recipes", "-q", "-v"))


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("runn", "run"),
        ("recipes publishd", "published"),
        ("features onehott", "onehot"),
        ("cv --train x --split randm", "random"),
        ("cv --train x --recipe standrd", "standard"),
        ("cv --train x --recipe standard --engine smoo", "smo"),
        ("cv --train x --boosting-engine exat", "exact"),
        ("cv --train x --svr-features onehott --recipe standard", "onehot"),
        ("cv --train x --molecules morgn", "morgan"),
        ("cv --train x --column cell_typ=x", "cell_type"),
        ("screen --reference onehott", "onehot"),
        ("screen --features onehott", "onehot"),
        ("tune --train x --member compsite", "composite"),
        ("submit --run x --out y.csv --combine medan", "median"),
    ],
)
def test_a_mistyped_value_is_refused_with_the_nearest_name_before_any_work(
    words, meant, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert f"(did you mean '{meant}'?)" in error_line(invoke(*words.split()))
    assert not list(tmp_path.iterdir())


def test_json_alone_is_printed_where_it_is_asked_for(small, tmp_path):
    told = json.loads(succeed(*small(tmp_path / "out", "--quick", "--json")).stdout)
    assert told == json.loads((tmp_path / "out" / "scores.json").read_text())
