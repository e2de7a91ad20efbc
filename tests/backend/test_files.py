"""Files and run folders: whole or not at all, replaced or left as they were, and what a manifest says."""

import hashlib
import json
import os
import re
from pathlib import Path

import pytest

from rapids_pipeline.backend import files as module
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import (
    MANIFEST,
    MODEL,
    OOF,
    PREDICTIONS,
    REPORT,
    RESULTS,
    SCORES,
    SUBMISSION,
    RunFolder,
    recorded_hash,
    recorded_input,
    sha256_of,
    written_atomically,
)

FILES = (SUBMISSION, PREDICTIONS, OOF, SCORES, REPORT)


def writers(text, names=FILES, fail_at=None):
    """Writers of files, and of a folder for the model, that all say the same; one of them may fail."""

    def writer(name):
        def write(path):
            if name == MODEL:
                path.mkdir()
                path = path / f"{text}.json"
            path.write_text(text)
            if name == fail_at:
                raise RuntimeError("the writer failed")

        return write

    return {name: writer(name) for name in names}


def contents(folder):
    """The results' texts by their places, without the manifest."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_text() for name, path in found.items() if name != MANIFEST}


def test_a_folder_replaces_the_one_of_the_run_before(tmp_path):
    out = tmp_path / "out"
    for text in ("old", "new"):
        RunFolder(out, {"seed": 0}).publish(writers(text, RESULTS[:-1]), {})
        assert contents(out) == dict.fromkeys([*FILES, f"{MODEL}/{text}.json"], text)


@pytest.mark.parametrize("name", [SUBMISSION, SCORES, MODEL])
def test_earlier_results_survive_a_failing_writer(tmp_path, name):
    RunFolder(tmp_path, {"seed": 0}).publish(writers("old", RESULTS[:-1]), {})
    before = (tmp_path / MANIFEST).read_text()
    with pytest.raises(RuntimeError, match="the writer failed"):
        RunFolder(tmp_path, {"seed": 0}).publish(writers("new", RESULTS[:-1], name), {})
    assert contents(tmp_path) == dict.fromkeys([*FILES, f"{MODEL}/old.json"], "old")
    assert (tmp_path / MANIFEST).read_text() == before


def test_another_runs_model_is_kept_unless_told_otherwise(tmp_path):
    out = tmp_path / "out"
    (out / MODEL).mkdir(parents=True)
    with pytest.raises(InputError, match="holds another run's model"):
        RunFolder(out, {"seed": 0})


def test_a_file_in_a_folders_place_is_refused(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / MODEL).write_text("a file")
    with pytest.raises(InputError, match="cannot be written"):
        RunFolder(out, {"seed": 0}, overwrite=True).publish(writers("new", (SUBMISSION, MODEL)), {})
    assert (out / MODEL).read_text() == "a file"


@pytest.fixture
def recorded(tmp_path):
    """Write a manifest that names a training file of the run, with changes; return its path."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.csv").write_text("a,b\n")

    def write(**changed):
        path = tmp_path / "run" / "train.csv"
        found = {"path": str(path), "sha256": sha256_of(path)} | changed
        path.with_name(MANIFEST).write_text(json.dumps({"inputs": {"train": found}}))
        return path.with_name(MANIFEST)

    return write


def test_a_recorded_input_is_found_from_the_working_folder_and_from_the_manifests(
    recorded, tmp_path, monkeypatch
):
    place = tmp_path / "run" / "train.csv"
    assert recorded_input(recorded(), "train") == (place, "")
    assert recorded_input(recorded(path="train.csv"), "train") == (place, "")
    monkeypatch.chdir(tmp_path)
    found, why = recorded_input(recorded(path="run/train.csv"), "train")
    assert (found.resolve(), why) == (place, "")
    assert recorded_hash(recorded(), "train") == sha256_of(place)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"sha256": "0" * 64}, "the run's train file .*train.csv has changed since"),
        ({"path": "/nowhere/t.csv"}, "the run's train file /nowhere/t.csv is gone"),
        ({"path": None}, "the run's manifest names no train file"),
    ],
)
def test_an_input_that_is_not_to_be_had_says_why(recorded, changed, why):
    found, said = recorded_input(recorded(**changed), "train")
    assert found is None and re.fullmatch(why, said)


@pytest.mark.parametrize("content", ["{", "[]", '{"inputs": []}', '{"inputs": {"train": 3}}', "\x00"])
def test_a_manifest_that_is_none_names_nothing(tmp_path, content):
    assert recorded_input(tmp_path / MANIFEST, "train")[1].startswith("there is no ")
    (tmp_path / MANIFEST).write_text(content)
    assert recorded_input(tmp_path / MANIFEST, "train") == (None, "the run's manifest names no train file")
    assert recorded_hash(tmp_path / MANIFEST, "train") is None


@pytest.mark.parametrize("after", range(len(FILES) + 1))
def test_an_interrupted_publish_destroys_nothing(tmp_path, monkeypatch, after):
    """However far the moves came, results are whole, no manifest vouches for a mixture, and the same run goes on."""
    old, new = {"config": {"seed": 0}}, {"config": {"seed": 1}}
    RunFolder(tmp_path, old).publish(writers("old"), {"weights": "old"})
    moved, move = [], Path.replace

    def replace(self, target):
        if Path(target).parent == tmp_path:
            if len(moved) == after:
                raise KeyboardInterrupt
            moved.append(target)
        return move(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            RunFolder(tmp_path, new, overwrite=True).publish(writers("new"), {"weights": "new"})
    found = contents(tmp_path)
    assert [found[name] for name in FILES] == ["new"] * after + ["old"] * (len(FILES) - after)
    assert not (tmp_path / MANIFEST).exists()
    with pytest.raises(InputError, match=r"holds another run's submission.csv; .* add --overwrite"):
        RunFolder(tmp_path, old)
    RunFolder(tmp_path, new).publish(writers("new"), {"weights": "new"})
    assert contents(tmp_path) == dict.fromkeys(FILES, "new")
    assert json.loads((tmp_path / MANIFEST).read_text())["weights"] == "new"


def test_results_that_no_run_was_publishing_are_another_runs(tmp_path):
    (tmp_path / SUBMISSION).write_text("mine")
    folder = RunFolder(tmp_path, {"seed": 0}, overwrite=True)
    folder.kept.mkdir()
    (folder.kept / "a finished fit").write_text("kept before the run was stopped")
    with pytest.raises(InputError, match="holds another run's submission"):
        RunFolder(tmp_path, {"seed": 0})


def test_a_finished_run_is_found_while_its_results_and_the_code_are_the_same(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path, {"seed": 0})
    assert folder.finished() is None
    folder.publish(writers("new", RESULTS[:-1]), {"shape": 3})
    assert folder.finished()["shape"] == 3
    assert RunFolder(tmp_path, {"seed": 1}, overwrite=True).finished() is None
    for name, other in (("code_hash", "0"), ("installed_versions", {"numpy": "0"})):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda other=other: other)
            assert folder.finished() is None
    (tmp_path / MODEL / "new.json").write_text("ne")
    assert folder.finished() is None
    (tmp_path / MODEL / "new.json").unlink()
    assert folder.finished() is None


def test_a_broken_manifest_is_another_runs(tmp_path):
    identity = {"config": {"seed": 0}}
    RunFolder(tmp_path, identity).publish(writers("old"), {})
    for content in ("", "[]", "{", "null", '{"config": {"seed": 1}}'):
        (tmp_path / MANIFEST).write_text(content)
        with pytest.raises(InputError, match="holds another run's"):
            RunFolder(tmp_path, identity)


def test_a_result_name_taken_by_a_folder_is_refused(tmp_path):
    (tmp_path / OOF).mkdir()
    with pytest.raises(InputError, match=r"holds another run's oof.parquet"):
        RunFolder(tmp_path, {})
    with pytest.raises(InputError, match=r"--out .*: cannot be written \(Is a directory\)"):
        RunFolder(tmp_path, {}, overwrite=True).publish(writers("new"), {})


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "table.csv"
    with written_atomically(path) as temporary:
        assert temporary.suffix == ".csv"
        assert temporary.parent == path.parent
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert [file.name for file in path.parent.iterdir()] == ["table.csv"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("error", [ValueError("full disk"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_nothing_else_and_success_replaces_it(tmp_path, error):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(type(error)), written_atomically(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]
    with written_atomically(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()
