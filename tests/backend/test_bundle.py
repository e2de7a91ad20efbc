"""Bundles: bit-identical round trips; what was changed, cut, taken away or made up is refused, and nothing is run."""

import hashlib
import json
import pickle
import struct
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest

from rapids_pipeline.backend import bundle as bundles
from rapids_pipeline.backend.bundle import FORMAT, read_bundle, write_bundle
from rapids_pipeline.backend.errors import InputError

STATE = {
    "svr_0": {
        "x": np.arange(12, dtype=np.float32).reshape(3, 4),
        "inner": {"codes": np.array([1, 2], np.int32)},
    },
    "blend": {
        "names": ["a", "b"],
        "weights": [0.25, 0.75],
        "on": True,
        "kernel": "rbf",
        "none": np.zeros((0, 3)),
    },
}


@pytest.fixture
def folder(tmp_path):
    write_bundle(tmp_path / "model", STATE, {"recipe": {"name": "mine"}})
    return tmp_path / "model"


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def rewritten(folder, change):
    """Change the manifest and seal it again, as someone would who means to."""
    manifest = manifest_of(folder)
    change(manifest)
    manifest.pop("seal", None)
    (folder / "manifest.json").write_text(json.dumps(manifest | {"seal": bundles._seal(manifest)}))


def replaced(folder, name, content):
    """Put other bytes in a file's place, with their right size and hash in the manifest."""
    (folder / name).write_bytes(content)

    def change(manifest):
        for file in manifest["files"]:
            if file["name"] == name:
                file |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    rewritten(folder, change)


def refused(folder, says=r"\S"):
    with pytest.raises(InputError, match=says) as caught:
        read_bundle(folder)
    assert str(folder) in str(caught.value)


def test_equal_states_give_equal_bytes(folder, tmp_path):
    write_bundle(tmp_path / "again", STATE, {"recipe": {"name": "mine"}})
    for path in folder.iterdir():
        if path.name != "manifest.json":
            assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_every_changed_byte_is_noticed(folder):
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for place in {0, 1, 7, len(content) - 1, *range(0, len(content), max(1, len(content) // 60))}:
            changed = bytearray(content)
            changed[place] ^= 1
            if path.name == "manifest.json" and not content[place : place + 1].strip():
                continue  # white space between values
            path.write_bytes(bytes(changed))
            refused(folder)
        path.write_bytes(content)
    read_bundle(folder)


def test_cut_and_missing_files_are_refused(folder):
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for length in (0, 1, len(content) // 2, len(content) - 2):
            path.write_bytes(content[:length])
            refused(folder)
        path.unlink()
        refused(folder)
        path.write_bytes(content)
    refused(folder / "none")
    refused(folder / "manifest.json")


@pytest.mark.parametrize("version", [FORMAT + 1, FORMAT - 1, 0, -1, "1", None, 1.5, True, [1]])
def test_another_format_is_refused_and_an_earlier_one_says_what_to_do(folder, version):
    rewritten(folder, lambda manifest: manifest.update(format=version))
    earlier = "made by an earlier version, format 1; .* format 2: train again$"
    refused(folder, earlier if version == FORMAT - 1 and version is not True else r"\S")


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/b", "a\\b", ".", "..", "", "x\x00", "manifest.json", "x" * 5000, 3, None],
)
def test_names_that_lead_elsewhere_are_refused(folder, name):
    rewritten(folder, lambda manifest: manifest["files"][0].update(name=name))
    refused(folder)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"a":' * 50_000, "NaN", "\ufeff{}"])
def test_manifests_that_are_no_objects_are_refused(folder, text):
    (folder / "manifest.json").write_text(text)
    refused(folder)
    (folder / "manifest.json").write_bytes(b"\xff\xfe\x00")
    refused(folder)


@contextmanager
def less_memory_than(n_bytes):
    tracemalloc.start()
    yield
    assert tracemalloc.get_traced_memory()[1] < n_bytes
    tracemalloc.stop()


def header(**arrays):
    text = json.dumps(arrays).encode()
    return struct.pack("<Q", len(text)) + text


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


def test_a_pickle_is_not_run(folder):
    for name in ("svr_0.safetensors", "state.json"):
        content = (folder / name).read_bytes()
        replaced(folder, name, pickle.dumps(Bomb()))
        refused(folder)
        replaced(folder, name, content)
    read_bundle(folder)


def test_arrays_can_be_read_by_whoever_can_read_the_rest(folder):
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
