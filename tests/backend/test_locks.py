"""Locks: one process writes to a result folder or file, a dead one holds nothing, and what it left is removed."""

import errno
import subprocess
import sys

import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import LOCK, UNFINISHED
from rapids_pipeline.backend.locks import locked, locked_file


def test_a_folder_is_held_by_one_process_at_a_time_and_by_no_dead_one(tmp_path):
    out = tmp_path / "new" / "out"
    hold = (
        "import sys, time; from pathlib import Path; from rapids_pipeline.backend.locks import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", hold, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        (out / f"{UNFINISHED}half.csv").write_text("half")
        (out / f"{UNFINISHED}staging").mkdir()
        (out / f"{UNFINISHED}staging" / "model").write_text("half")
        said = f"--out {out}: another process is writing there; wait for it to end, or choose another name"
        with pytest.raises(InputError) as refused, locked(out):
            pytest.fail("the folder was not held")
        assert str(refused.value) == said
        assert len(list(out.iterdir())) == 3
    finally:
        other.kill()
        other.communicate()
    with locked(out):
        assert [path.name for path in out.iterdir()] == [LOCK]
    assert not list(out.iterdir())


def test_a_folder_that_is_empty_in_the_end_is_removed_where_it_was_made(tmp_path):
    with locked(tmp_path / "new" / "out"):
        assert (tmp_path / "new" / "out" / LOCK).exists()
    assert not list(tmp_path.iterdir())


def test_a_lock_that_its_holder_removed_is_taken_anew(tmp_path, monkeypatch):
    """Between opening and locking the file, the process that held it ended and another one took the name."""
    import fcntl

    real, taken = fcntl.flock, []

    def flock(descriptor, how):
        real(descriptor, how)
        if not taken:
            taken.append(descriptor)
            (tmp_path / LOCK).unlink()

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path), pytest.raises(InputError, match="another process"), locked(tmp_path):
        pytest.fail("the folder was not held")


def test_a_file_that_is_written_is_held_too(tmp_path):
    out, beside = tmp_path / "predicted.csv", tmp_path / "predicted.applicability.csv"
    for half in (
        "predicted-abcdefgh.csv",
        "predicted.applicability-abcdefgh.csv",
        "predicted-two-abcdefgh.csv",
    ):
        (tmp_path / f"{UNFINISHED}{half}").write_text("half")
    with (
        locked_file(out, [beside]),
        pytest.raises(InputError, match="another process is writing there"),
        locked_file(out),
    ):
        pytest.fail("the file was not held")
    assert [path.name for path in tmp_path.iterdir()] == [f"{UNFINISHED}predicted-two-abcdefgh.csv"]


def test_what_was_stopped_while_it_was_published_is_known_again(tmp_path):
    out, mine = tmp_path / "predicted.csv", {"model": "a", "rows": 3}
    with pytest.raises(KeyError), locked_file(out) as journal:
        assert not journal.is_of(mine)
        journal.begin(mine)
        raise KeyError
    with locked_file(out) as journal:
        assert journal.is_of(mine)
        assert not journal.is_of(mine | {"rows": 4})
    assert not any(tmp_path.iterdir())
    with locked_file(out) as journal:
        assert not journal.is_of(mine)


def test_what_was_left_half_written_among_kept_fits_is_removed(tmp_path):
    kept = tmp_path / ".run" / ".finished"
    kept.mkdir(parents=True)
    (kept / f"{UNFINISHED}fit-abcdefgh.safetensors").write_text("half")
    (kept / "fit.safetensors").write_text("whole")
    with locked(tmp_path):
        assert [path.name for path in kept.iterdir()] == ["fit.safetensors"]


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    import fcntl

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    message = (
        r"--out .*: its file system cannot lock files \(No locks available\), so two processes could mix"
    )
    with pytest.raises(InputError, match=message), locked(tmp_path / "out"):
        pytest.fail("nothing was locked")
