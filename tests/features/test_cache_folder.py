"""Where embeddings are kept when nobody says where."""

from pathlib import Path

import pytest

from features.molecules.cache import cache_folder
from rapids_pipeline.backend.errors import InputError


def test_the_folder_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAPIDS_PERTURB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the XDG standard
    assert cache_folder("auto") == tmp_path / ".cache" / "rapids-perturb" / "embeddings"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("auto") == tmp_path / "xdg" / "rapids-perturb" / "embeddings"
    monkeypatch.setenv("RAPIDS_PERTURB_CACHE", "~/mine")
    assert cache_folder("auto") == tmp_path / "mine" / "embeddings"
    assert cache_folder("~/other") == tmp_path / "other"
    assert cache_folder(tmp_path) == tmp_path
    assert cache_folder(None) is None
    with pytest.raises(InputError, match="cache"):
        cache_folder("")


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("RAPIDS_PERTURB_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.warns(UserWarning, match="set RAPIDS_PERTURB_CACHE"):
        assert cache_folder("auto") is None
