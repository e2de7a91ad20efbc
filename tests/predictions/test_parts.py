"""Folders of parts: what was interrupted goes on with the same bytes, and nothing else is taken or replaced."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.predictions import parts, predict
from rapids_pipeline.predictions.predict import predict_file
from tests.command_line import error_line, invoke, names_in, succeed

NAMES = [f"part-{k:05d}.parquet" for k in range(4)]


@pytest.fixture
def options(model, pairs, tmp_path):
    """The command that predicts 37 pairs in four parts."""
    return ["predict", "--model", model, "--pairs", pairs, "--out", tmp_path / "out", "--block-rows", 10]


@pytest.fixture(scope="module")
def whole(model, pairs, tmp_path_factory):
    """The bytes of the parts of a prediction that nothing interrupted, in the same blocks."""
    out = tmp_path_factory.mktemp("whole") / "out"
    predict_file(model, pairs, out, block_rows=10)
    return bytes_of(out)


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_interrupted_prediction_goes_on_where_it_was(options, whole, tmp_path, monkeypatch):
    made, first = [], predict.PairPredictor.predict

    def interrupted(self, rows):
        made.append(rows.start)
        if len(made) == 3:
            raise KeyboardInterrupt
        return first(self, rows)

    monkeypatch.setattr(predict.PairPredictor, "predict", interrupted)
    stopped = invoke(*options)
    assert stopped.exit_code == 130 and "2 of 4 parts are kept in" in stopped.stderr
    assert "the same command continues" in stopped.stderr and not (tmp_path / "out").exists()
    succeed(*options)
    assert made == [0, 10, 20, 20, 30]
    assert bytes_of(tmp_path / "out") == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.manifest.json", "out.report.html"]
    succeed(*options)
    assert made == [0, 10, 20, 20, 30], "a finished one is not made again"


def test_a_damaged_part_is_made_anew(options, whole, tmp_path, monkeypatch):
    write = parts.PartFolder.write

    def interrupted(self, number, *what):
        if number == 2:
            raise KeyboardInterrupt
        write(self, number, *what)

    with monkeypatch.context() as patched:
        patched.setattr(parts.PartFolder, "write", interrupted)
        assert invoke(*options).exit_code == 130
    (folder,) = tmp_path.glob(".out.unfinished-*")
    part = (folder / NAMES[1]).read_bytes()
    (folder / NAMES[1]).write_bytes(part[: len(part) // 2])
    (folder / ".unfinished-part-00002-abcdefgh.parquet").write_bytes(part[:9])
    succeed(*options)
    assert bytes_of(tmp_path / "out") == whole


KILLED = """
import os, signal
from rapids_pipeline.commands import app as cli
from rapids_pipeline.predictions import parts

write = parts.PartFolder.write

def written(self, number, *what):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, number, *what)

parts.PartFolder.write = written
cli.main()
"""


def test_a_killed_process_leaves_whole_parts_and_no_folder(options, whole, tmp_path):
    command = [sys.executable, "-c", KILLED, *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    kept, lock = sorted(tmp_path.iterdir(), reverse=True)
    assert kept.name.startswith(".out.unfinished-") and lock.name == ".out.lock"
    assert sorted(path.name for path in kept.glob("part-*")) == NAMES[:2]
    succeed(*options)
    assert bytes_of(tmp_path / "out") == whole
    assert names_in(tmp_path) == ["out", "out.manifest.json", "out.report.html"]


def test_other_pairs_never_take_kept_parts(options, pairs, tmp_path, monkeypatch):
    def fail(self, rows):
        if rows.start:
            raise KeyboardInterrupt
        return np.full((rows.stop, 8), 7, np.float32)

    with monkeypatch.context() as patched:
        patched.setattr(predict.PairPredictor, "predict", fail)
        assert invoke(*options).exit_code == 130
    pd.read_csv(pairs).iloc[::-1].to_csv(tmp_path / "turned.csv", index=False)
    result = succeed(*options, "--pairs", tmp_path / "turned.csv")
    assert (pd.read_parquet(tmp_path / "out").iloc[:, 10:] != 7).all(axis=None)
    assert "unfinished parts of another prediction are in" in result.stderr


def test_what_is_there_is_replaced_only_when_asked(options, pairs, tmp_path):
    succeed(*options)
    less = tmp_path / "less.csv"
    pd.read_csv(pairs).iloc[:5].to_csv(less, index=False)
    refused = error_line(invoke(*options, "--pairs", less))
    assert "holds another prediction; choose another folder or add --overwrite" in refused
    assert len(pd.read_parquet(tmp_path / "out")) == 37
    succeed(*options, "--pairs", less, "--overwrite")
    assert len(pd.read_parquet(tmp_path / "out")) == 5
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    refused = error_line(invoke(*options, "--out", tmp_path / "mine", "--overwrite"))
    assert "holds thesis.txt, which is no part of a prediction" in refused
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_too_little_room_is_said_before_anything_is_predicted(model, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(parts.shutil, "disk_usage", lambda place: parts.shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(
        InputError, match=r"37 rows × 8 genes need .* free; choose another disk or fewer pairs"
    ):
        predict_file(model, pairs, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_prediction_that_is_no_number_is_refused(model, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(
        predict.PairPredictor, "predict_rows", lambda self, which: np.full((len(which), 8), np.inf)
    )
    with pytest.raises(InputError, match="the model predicts inf for id 0, gene "):
        predict_file(model, pairs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_predictor_travels_and_brings_back_what_encoders_said(model, pairs):
    work = predict.opened(model, pairs)
    expected = predict.predicted_block(work, slice(0, 10))
    arrived = pickle.loads(pickle.dumps(work))
    found = predict.predicted_block(arrived, slice(0, 10))
    np.testing.assert_array_equal(found.arrays["predicted"], expected.arrays["predicted"])
    assert found.facts == expected.facts
    blocks = [slice(start, min(start + 10, 37)) for start in range(0, 37, 10)]
    progress = Counted()
    made = dict(arrived.blocks(blocks[1:], predict.THREADS, progress, of=4))
    assert sorted(made) == [0, 1, 2] and (progress.total, progress.done) == (4, 4)
    assert arrived.notes == work.notes


class Counted(Progress):
    total, done = 0, 0

    def start(self, total, what=""):
        self.total = total

    def advance(self, steps=1):
        self.done += steps
