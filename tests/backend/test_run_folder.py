"""Run folders that hold folders: replaced whole, or left as they were."""

import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.run_folder import MANIFEST, MODEL, SUBMISSION, RunFolder


def writers(text, failing=False):
    def model(path):
        path.mkdir()
        (path / f"{text}.json").write_text(text)
        if failing:
            raise RuntimeError("no")

    return {SUBMISSION: lambda path: path.write_text(text), MODEL: model}


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_replaces_the_one_of_the_run_before(tmp_path):
    out = tmp_path / "out"
    for text in ("old", "new"):
        RunFolder(out, {"seed": 0}).publish(writers(text), {})
        assert names(out) == sorted([MANIFEST, f"{MODEL}/{text}.json", SUBMISSION])
    assert (out / SUBMISSION).read_text() == "new"


def test_a_failing_folder_leaves_the_one_before(tmp_path):
    out = tmp_path / "out"
    RunFolder(out, {"seed": 0}).publish(writers("old"), {})
    with pytest.raises(RuntimeError, match="no"):
        RunFolder(out, {"seed": 0}).publish(writers("new", failing=True), {})
    assert names(out) == sorted([MANIFEST, f"{MODEL}/old.json", SUBMISSION])


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
        RunFolder(out, {"seed": 0}, overwrite=True).publish(writers("new"), {})
    assert (out / MODEL).read_text() == "a file"
