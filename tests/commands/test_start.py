"""start: a folder's files by their names, the demo where there are none, one line where it cannot tell."""

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from features.molecules.weights import chosen_encoder
from rapids_pipeline.backend.files import KEPT
from rapids_pipeline.commands.start import files_in
from rapids_pipeline.data.demo import write_demo
from tests.command_line import error_line, invoke, run_arguments

RUN = ["--quick", "--device", "cpu"]


def start(data, out, *options, env=None):
    return invoke("start", "--data", data, "--out", out, *options, env=env)


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("x")
    return folder


def test_files_go_by_their_names(tmp_path):
    folder = touch(tmp_path, "de_train.h5ad", "id_map.csv.gz", "notes.txt", "de_train.txt", ".hidden")
    found = files_in(folder)
    assert (found[0].name, found[1].name, found[2]) == ("de_train.h5ad", "id_map.csv.gz", None)
    touch(folder, "de_test.parquet")
    assert files_in(folder)[2] == folder / "de_test.parquet"


def test_no_folder_and_one_without_files_mean_the_demo(tmp_path):
    assert files_in(tmp_path / "missing") is None
    (tmp_path / "lost+found").mkdir()
    assert files_in(touch(tmp_path, ".DS_Store")) is None


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["de_train.csv"], "no file of pairs to predict; expected id_map with one of .parquet, .csv"),
        (["id_map.csv"], "no training file; expected de_train with one of"),
        (["counts.csv"], "no training file; expected de_train"),
        (["de_train.csv", "de_train.tsv", "id_map.csv"], "holds de_train.csv and de_train.tsv; leave one"),
        (["de_train.csv", "id_map.csv", "id_map.tsv"], "holds id_map.csv and id_map.tsv; leave one"),
    ],
)
def test_what_cannot_be_told_ends_in_one_line(tmp_path, names, says):
    line = error_line(start(touch(tmp_path / "data", *names), tmp_path / "out", *RUN))
    assert line.startswith(f"error: --data {tmp_path}/data: {says}")
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_folder(tmp_path):
    touch(tmp_path, "data")
    line = error_line(start(tmp_path / "data", tmp_path / "out", *RUN))
    assert line == f"error: --data {tmp_path}/data: cannot be read (Not a directory)"


def test_an_empty_folder_runs_the_demo(tmp_path):
    done = start(tmp_path / "none", tmp_path / "out", *RUN, "--demo-genes", "20")
    assert done.exit_code == 0, done.output
    assert f"{tmp_path}/none holds no files: the demo on built-in, simulated data" in done.stdout
    assert (tmp_path / "out" / "data" / "de_train.parquet").exists()
    assert pd.read_csv(tmp_path / "out" / "submission.csv").shape == (255, 21)


def test_a_folder_with_files_is_run_and_scored_where_the_truth_is_there(tmp_path):
    files = write_demo(tmp_path / "data", 0, 20)
    done = start(tmp_path / "data", tmp_path / "out", *RUN, env={"RAPIDS_PERTURB_MOLECULES": "morgan"})
    assert done.exit_code == 0, done.output
    assert f"{tmp_path}/out/submission.csv against {files.truth}" in done.stdout.replace("\n", "")
    ids = pd.read_csv(tmp_path / "out" / "submission.csv")["id"]
    assert ids.tolist() == pd.read_csv(files.test)["id"].tolist()
    assert start(tmp_path / "data", tmp_path / "out2", "--demo-genes", "5", *RUN).exit_code == 2


def test_the_defaults_are_those_of_run(tmp_path, monkeypatch):
    chosen = []
    for place in ("start", "demo"):
        monkeypatch.setattr(
            f"rapids_pipeline.commands.{place}.run_files",
            lambda files, out, config, *_, **__: chosen.append(config),
        )
    monkeypatch.delenv("RAPIDS_PERTURB_MOLECULES", raising=False)
    folder = touch(tmp_path / "data", "de_train.csv", "id_map.csv")
    assert start(folder, tmp_path / "out").exit_code == 0
    assert start(tmp_path / "none", tmp_path / "out", "--demo-genes", 3).exit_code == 0
    run, demo = chosen
    assert run == demo
    assert (run.molecules, run.recipe.name) == (chosen_encoder("auto")[0], "best")
    assert run.molecules_because.startswith("auto: ")


def test_a_terminated_run_ends_at_once_and_leaves_nothing_half_written(tmp_path):
    files = write_demo(tmp_path / "data", 0, 400)
    words = run_arguments(files.train, files.test, tmp_path / "out")
    command = [sys.executable, "-m", "rapids_pipeline", *map(str, words)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True
    )
    try:
        time.sleep(4)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143
    assert "terminated" in said.splitlines() and "Traceback" not in said
    left = {path.name for path in tmp_path.glob("out/*")}
    assert left <= {KEPT}
