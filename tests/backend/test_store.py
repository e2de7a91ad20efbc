"""The store of finished fits: what was put is found again, by the same key alone, and whole."""

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel

from features.rows import Rows
from rapids_pipeline.backend import store as module
from rapids_pipeline.backend.store import FOLDER, Kept, Recent, Store, content_hash


class Settings(BaseModel):
    penalty: float = 1.0


def parts(Y=0.0, smiles="C", columns=1.0, penalty=1.0):
    """All that a study may depend on."""
    obs = pd.DataFrame({"cell_type": ["A", "B"], "SMILES": ["CC", smiles]})
    rows = Rows(obs, {"morgan": np.full((2, 3), columns, np.float32)})
    return rows, np.full((2, 4), Y, np.float32), ("G1", "G2"), Settings(penalty=penalty), "cpu", None


KEPT = Kept(
    {"losses": np.arange(6.0).reshape(2, 3), "few": np.array([1, 2])}, {"seconds": 0.1, "names": ["a"]}
)


def test_a_fit_is_found_again_by_the_same_study_and_the_same_rows(tmp_path):
    store, rows = Store(tmp_path, *parts()), np.arange(5)
    assert store.get(rows) is None
    store.put(KEPT, rows)
    found = Store(tmp_path, *parts()).get(np.arange(5))
    assert found.facts == KEPT.facts and found.arrays.keys() == KEPT.arrays.keys()
    for name, array in KEPT.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
        assert found.arrays[name].dtype == array.dtype
    assert store.get(np.arange(4)) is None and store.get(rows, rows) is None


@pytest.mark.parametrize("change", [{"Y": 1.0}, {"smiles": "N"}, {"columns": 2.0}, {"penalty": 2.0}, {}])
def test_another_study_and_other_versions_of_the_packages_find_nothing(tmp_path, monkeypatch, change):
    Store(tmp_path, *parts()).put(KEPT, "fit")
    if not change:
        monkeypatch.setattr(module, "installed_versions", lambda: {"numpy": "0.0"})
    assert Store(tmp_path, *parts(**change)).get("fit") is None


def flipped(content):
    """Change the last byte, which is one of an array."""
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"x" + b[1:], lambda b: b"", flipped, None]
)
def test_a_damaged_entry_and_one_of_another_fit_are_made_anew(tmp_path, damage):
    store = Store(tmp_path, *parts())
    store.put(KEPT, "fit")
    [path] = (tmp_path / FOLDER).iterdir()
    if damage is None:
        store.put(Kept(KEPT.arrays, "another"), "another fit")
        [other] = [one for one in path.parent.iterdir() if one != path]
        other.replace(path)
    else:
        path.write_bytes(damage(path.read_bytes()))
    assert store.get("fit") is None
    store.put(KEPT, "fit")
    assert store.get("fit") is not None


def test_without_a_folder_nothing_is_kept():
    store = Store(None, *parts())
    store.put(KEPT, "fit")
    assert store.get("fit") is None


def test_a_value_is_made_once_and_dropped_where_there_is_no_room_if_used_longest_ago():
    recent, made = Recent(limit=20, size_of=len), []
    for key, bytes_ in (("a", 8), ("b", 8), ("a", 8), ("c", 8), ("a", 8), ("b", 8), ("d", 99), ("a", 8)):
        assert recent.once(key, lambda key=key, n=bytes_: made.append(key) or key * n) == key * bytes_
    assert made == ["a", "b", "c", "b", "d", "a"], "a was used after b; d takes all the room"
    assert len(recent) == 1


def test_values_that_differ_have_hashes_that_differ():
    values = [
        *(np.zeros(4), np.zeros((2, 2)), np.zeros(4, np.float32), np.zeros(0)),
        *("a", ["a"], [["a"]], ["a", "b"], [], None, 0, 0.5, {"a": 1}, {"a": "1"}, [1, 2], [[1], 2]),
    ]
    assert len({content_hash(value) for value in values}) == len(values)
    assert content_hash("a", "b") != content_hash("ab") != content_hash("a", "b", "")
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
