"""Files that appear whole or not at all."""

import hashlib
import os

import pytest

from rapids_pipeline.backend.files import sha256_of, written_atomically


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
