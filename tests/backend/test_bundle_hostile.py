"""Bundles made by someone who means harm, with hashes and seal as they should be: refused, or harmless."""

import copy
import errno
import json
import os
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rapids_pipeline.backend import bundle as bundles
from rapids_pipeline.backend import state
from rapids_pipeline.backend.bundle import read_bundle, write_bundle
from rapids_pipeline.backend.errors import InputError
from tests.backend.test_bundle import (
    STATE,
    header,
    less_memory_than,
    manifest_of,
    refused,
    replaced,
    rewritten,
)

RNG = np.random.default_rng(0)
ARRAYS = {
    "float32": RNG.normal(size=(3, 5)).astype(np.float32),
    "float64": np.array([np.pi, np.nan, -np.inf, -0.0, 5e-324]),
    "int32": np.array([-(2**31), 2**31 - 1], np.int32),
    "int64": np.array([[-(2**63)], [2**63 - 1]]),
    "uint8": np.arange(256, dtype=np.uint8),
    "bool": np.array([True, False, True]),
    "empty": np.zeros((4, 0, 2), np.float32),
    "scalar": np.array(7.5),
    "by-columns": np.asfortranarray(RNG.normal(size=(4, 3))),
    "every_other": np.arange(10)[::-2],
}
TWO_PARTS = {"svr_0": STATE["svr_0"], "blend": {"names": ["a", "b"], "weights": [0.25, 0.75]}}
"""The second has no arrays."""
BLANK = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.fixture
def folder(tmp_path):
    write_bundle(tmp_path / "model", TWO_PARTS, {"recipe": {"name": "mine"}})
    return tmp_path / "model"


def message(folder):
    """The one line that a folder is refused with."""
    with pytest.raises(InputError) as caught:
        read_bundle(folder)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    return str(caught.value)


# --- round trips --------------------------------------------------------------------------------------------


def test_every_kind_of_array_comes_back_to_the_last_bit_and_can_be_written_to(tmp_path):
    write_bundle(tmp_path / "m", {"a": {"deep": {"er": ARRAYS}}, "b": {}, "c": {"in": {}}}, {})
    state = read_bundle(tmp_path / "m").state
    assert state.names() == ["a", "b", "c"]
    found = state.part("a").part("deep").part("er")
    for name, array in ARRAYS.items():
        again = found.array(name, array.dtype, array.shape, finite=False)
        assert again.tobytes() == array.tobytes() and again.flags.writeable and again.flags.aligned
    assert state.part("b").names() == [] and state.part("c").part("in").names() == []
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        "a.safetensors",
        "manifest.json",
        "state.json",
    ]


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.lists(st.text() | st.floats(allow_nan=False, allow_infinity=False) | st.integers()),
)
states = st.dictionaries(
    st.from_regex(state.NAME, fullmatch=True),
    st.recursive(values, lambda inner: st.dictionaries(st.from_regex(state.NAME, fullmatch=True), inner)),
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.from_regex(bundles.PART_NAME, fullmatch=True), states, max_size=3), values)
def test_whatever_is_plain_comes_back(tmp_path_factory, state, about):
    folder = tmp_path_factory.mktemp("any") / "m"
    write_bundle(folder, state, {"what": about})
    found = read_bundle(folder)
    assert (found.state._state, found.about) == (state, {"what": about})


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"x": np.float32(1)}, r"part\.x is no plain data"),
        ({"x": [1.0, [2.0]]}, r"part\.x is no plain data"),
        *(({"x": x}, r"part\.x is no plain data") for x in ([float("inf")], float("nan"), object())),
        ({"in": {"x": np.zeros(2, np.float16)}}, r"part\.in\.x is an array of float16"),
        ({"x": np.array([None])}, r"part\.x is an array of object"),
        ({"x": np.array(["a"])}, r"part\.x is an array of <U1"),
        ({"a.b": 1}, r"part\.a\.b is no name"),
        ({"a b": 1}, r"part\.a b is no name"),
        ({"$array": "x"}, r"part\.\$array is no name"),
        ({"__metadata__": np.zeros(1)}, "is no name"),
        ({3: 1}, "is no name"),
    ],
)
def test_what_is_no_state_is_named(tmp_path, part, says):
    with pytest.raises(ValueError, match=says):
        write_bundle(tmp_path / "m", {"part": part}, {})
    with pytest.raises(FileExistsError):
        write_bundle(tmp_path / "m", {}, {})


@pytest.mark.parametrize("name", ["Part", "../x", "a.b", "", "manifest.json", "a" * 65, "é"])
def test_parts_have_plain_names(tmp_path, name):
    with pytest.raises(ValueError, match="is no part of a state"):
        write_bundle(tmp_path / "m", {name: {}}, {})


def test_nothing_is_written_that_would_not_be_read(tmp_path, monkeypatch):
    deep: dict = {}
    for _ in range(state.LEVELS + 1):
        deep = {"a": deep}
    with pytest.raises(ValueError, match="nested too deeply"):
        write_bundle(tmp_path / "deep", {"part": deep}, {})
    with pytest.raises(ValueError, match=r"manifest\.json: .*not JSON serializable"):
        write_bundle(tmp_path / "about", {}, {"x": {1, 2}})
    monkeypatch.setattr(bundles, "LARGEST_STATE", 100)
    with pytest.raises(ValueError, match=r"state\.json would have \d+ bytes"):
        write_bundle(tmp_path / "large", {"part": {"x": "y" * 100}}, {})


# --- files --------------------------------------------------------------------------------------------------


def test_messages_name_folder_file_and_remedy(folder):
    content = (folder / "svr_0.safetensors").read_bytes()
    (folder / "svr_0.safetensors").write_bytes(content[:-1] + b"\1")
    assert message(folder) == (
        f"{folder}: svr_0.safetensors was changed after it was written (its hash does not fit); "
        "train again or copy the folder again"
    )
    (folder / "svr_0.safetensors").write_bytes(content[:-3])
    assert f"svr_0.safetensors has {len(content) - 3} bytes and should have {len(content)}" in message(folder)
    (folder / "svr_0.safetensors").unlink()
    assert message(folder).startswith(f"{folder}: svr_0.safetensors is missing; train again")
    rewritten(folder, lambda manifest: manifest.update(format=3))
    assert message(folder) == (
        f"{folder}: manifest.json: made by a newer version, format 3; this program reads format 2: upgrade"
    )


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "svr_0.safetensors"])
def test_what_is_no_file_is_refused(folder, name, tmp_path):
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    (folder / name).mkdir()
    assert f"{name} is no regular file" in message(folder)
    (folder / name).rmdir()
    os.mkfifo(folder / name)
    assert f"{name} is no regular file" in message(folder)
    (folder / name).unlink()
    (folder / "beside").write_bytes(content)
    for target in ("beside", "/dev/zero", "/dev/null", "nowhere", tmp_path):
        (folder / name).symlink_to(target)
        assert f"{name} is no regular file" in message(folder)
        (folder / name).unlink()


def test_a_file_that_may_not_be_read_is_named(folder, monkeypatch):
    def forbidden(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", forbidden)
    assert "manifest.json cannot be read (Permission denied)" in message(folder)


def test_the_folder_may_be_a_link_and_other_files_lie_in_it(folder, tmp_path):
    (folder / "notes.txt").write_text("mine")
    (folder / "svr_1.safetensors").write_bytes(b"not listed")
    (folder / "svr_2.safetensors").symlink_to("/dev/zero")
    (tmp_path / "link").symlink_to(folder)
    assert read_bundle(tmp_path / "link").state.source == str(tmp_path / "link")


@pytest.mark.parametrize("name", ["manifest.json", "state.json"])
def test_a_huge_json_file_is_refused_by_its_size(folder, name):
    with (folder / name).open("ab") as stream:
        stream.truncate(2**40)  # no disk space is used
    if name == "state.json":
        rewritten(folder, lambda manifest: manifest["files"][0].update(bytes=2**40))
    with less_memory_than(5e6):
        assert "bytes, more than" in message(folder)


@pytest.mark.parametrize("size", [0, 1, 2**40, 2**70, 10**4000])
def test_a_claimed_size_allocates_nothing(folder, size):
    rewritten(folder, lambda manifest: manifest["files"][1].update(bytes=size))
    with less_memory_than(5e6):
        assert "svr_0.safetensors has" in message(folder)


def test_files_without_a_part_and_a_model_without_a_state_are_refused(folder):
    rewritten(
        folder, lambda manifest: manifest["files"].append(manifest["files"][1] | {"name": "x.safetensors"})
    )
    (folder / "x.safetensors").write_bytes((folder / "svr_0.safetensors").read_bytes())
    assert "state.json has no part x" in message(folder)
    rewritten(folder, lambda manifest: manifest.update(files=2 * manifest["files"]))
    assert "manifest.json lists a file twice" in message(folder)
    rewritten(folder, lambda manifest: manifest.update(files=[]))
    assert "manifest.json lists no state.json" in message(folder)


# --- content ------------------------------------------------------------------------------------------------


def anything():
    leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
    return st.recursive(
        leaf,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    )


def places(value, place=()):
    yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in inner:
        yield from places(entry, (*place, name))


@st.composite
def mutations(draw, original):
    """A JSON document with up to three of its values replaced, removed or doubled."""
    document = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(list(places(document))))
        if not place:
            return draw(anything())
        parent = document
        for step in place[:-1]:
            parent = parent[step]
        action = draw(st.sampled_from(["replace", "remove", "double", "rename"]))
        if action == "replace":
            parent[place[-1]] = draw(anything())
        elif action == "remove":
            del parent[place[-1]]
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(parent[place[-1]]))
        else:
            parent[draw(st.text(max_size=5))] = copy.deepcopy(parent[place[-1]])
    return document


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(["manifest.json", "state.json"]), st.booleans())
def test_made_up_json_never_raises_anything_but_the_one_error(folder, data, name, sealed):
    pristine = {path: path.read_bytes() for path in folder.iterdir()}
    document = data.draw(mutations(json.loads(pristine[folder / name])))
    try:
        if name == "state.json":
            replaced(folder, name, json.dumps(document).encode())
        else:
            if sealed and isinstance(document, dict):
                document.pop("seal", None)
                try:
                    document["seal"] = bundles._seal(document)
                except ValueError:
                    document["seal"] = "0" * 64
            (folder / name).write_text(json.dumps(document))
        try:
            read_bundle(folder)
        except InputError as error:
            assert str(error).startswith(f"{folder}: ") and "\n" not in str(error)
    finally:
        for path, content in pristine.items():
            path.write_bytes(content)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"svr_0": {}, "svr_0": {}}', "a name occurs twice"),
        (b'{"svr_0": {"x": NaN}}', "NaN is no number"),
        (b'{"svr_0": {"x": ' + b"9" * 5000 + b"}}", "is no usable JSON"),
        (b"\xff", "is no usable JSON"),
        (b"[" * 200_000, "is nested too deeply"),
        (b'{"svr_0": ' + b'{"a":' * 900 + b"{}" + b"}" * 901, "too many levels|nested too deeply"),
        (b'{"svr_0": {"x": {"$array": "x"}}}', "does not mention the array 'inner.codes'"),
        (b'{"svr_0": {"y": {"$array": "x"}}}', "the array svr_0.y is not there"),
        (b'{"svr_0": {"x": {"$array": "x", "y": 1}}}', "the array svr_0.x is not there"),
        (b'{"svr_0": {"x": {"$array": ["x"]}}}', "the array svr_0.x is not there"),
        (b'{"svr_0": {"z": {"$array": "z"}}}', "the array svr_0.z is not there"),
        (b'{"svr_0": {"a\\nb": 1}}', "is no name of a state"),
        (b'{"svr_0": [1]}', "has no parts"),
        (b'{"svr_0": {}, "\\u001b[31m": {}}', "a part of no usable name"),
    ],
)
def test_states_that_no_program_wrote_are_refused(folder, text, says):
    replaced(folder, "state.json", text)
    refused(folder, says)
    assert message(folder).isprintable()


@pytest.mark.parametrize("levels", [100, 900, 980, 990, 995])
def test_deep_manifests_are_read_or_refused(folder, levels):
    manifest = manifest_of(folder)
    manifest.pop("seal")
    text = json.dumps(manifest | {"seal": "0" * 64}).replace('"mine"', "[" * levels + "]" * levels)
    (folder / "manifest.json").write_text(text)
    refused(folder, "seal does not fit|nested too deeply")


@pytest.mark.parametrize("value", ["1e999", "-1e999"])
def test_numbers_beyond_a_float_are_refused(folder, value):
    manifest = manifest_of(folder)
    text = json.dumps(manifest).replace('"mine"', value)
    (folder / "manifest.json").write_text(text)
    refused(folder, "holds what is no number")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (header(x=BLANK | {"dtype": "F8_E4M3", "data_offsets": [0, 1]}) + b"\0", "is of type F8_E4M3"),
        (header(x=BLANK | {"dtype": "F16", "data_offsets": [0, 2]}) + b"\0" * 2, "is of type F16"),
        (header(x=BLANK | {"dtype": "U64", "data_offsets": [0, 8]}) + b"\0" * 8, "is of type U64"),
        (header(x=BLANK | {"dtype": "PICKLE"}) + b"\0" * 4, "holds no usable arrays"),
        (header(x=BLANK | {"dtype": "BOOL", "data_offsets": [0, 1]}) + b"\2", "is neither true nor false"),
        (header(x=BLANK, y=BLANK) + b"\0" * 4, "holds no usable arrays"),
        (header(x=BLANK) + b"\0" * 5, "holds no usable arrays"),
        (header(x=BLANK | {"shape": [0, 2**62], "data_offsets": [0, 0]}), "is empty and huge"),
        (header(x=BLANK | {"shape": [0, 2**40], "data_offsets": [0, 0]}), "is empty and huge"),
        (header(x=BLANK | {"shape": [2**62, 8], "data_offsets": [0, 0]}), "holds no usable arrays"),
        (header(x=BLANK | {"shape": [1] * 99}) + b"\0" * 4, "holds no usable arrays"),
        (header(x=BLANK | {"shape": "x"}) + b"\0" * 4, "holds no usable arrays"),
        (header(__metadata__={"x": "y"}), "does not fit the arrays"),
        (header(__metadata__={"x": ["y"]}), "holds no usable arrays"),
        ((5 * 2**20).to_bytes(8, "little") + b"{" * (5 * 2**20), "header, or one that is too large"),
        (b"\x93NUMPY\x01\x00", "header, or one that is too large"),
        (header(x=BLANK | {"shape": [1 << 40, 1 << 20], "data_offsets": [0, 1 << 62]}), r"\S"),
        (header(x=BLANK | {"shape": [1 << 40]}) + b"\0" * 4, r"\S"),
        (header(x=BLANK | {"shape": [-1]}) + b"\0" * 4, r"\S"),
        (header(x=BLANK | {"shape": [2], "dtype": "BF16"}) + b"\0" * 4, r"\S"),
        (header(x=BLANK | {"data_offsets": [4, 8]}) + b"\0" * 8, r"\S"),
        (struct.pack("<Q", 1 << 60) + b"{}", r"\S"),
        (struct.pack("<Q", 2) + b"{", r"\S"),
        (b"", r"\S"),
        (b"not safetensors at all", r"\S"),
    ],
)
def test_arrays_that_no_program_wrote_are_refused(folder, content, says):
    replaced(folder, "svr_0.safetensors", content)
    with less_memory_than(20e6):
        refused(folder, says)


def test_many_arrays_of_nothing_stay_small(folder):
    empty = BLANK | {"shape": [0], "data_offsets": [0, 0]}
    content = header(**{f"x{number}": empty for number in range(50_000)})
    assert len(content) < state.LARGEST_HEADER
    replaced(folder, "svr_0.safetensors", content)
    with less_memory_than(100e6):
        refused(folder, "does not fit the arrays")


def test_memory_of_reading_is_the_files_and_the_largest_of_them(tmp_path):
    state = {f"part_{k}": {"x": np.zeros(2_000_000, np.float32)} for k in range(4)}
    write_bundle(tmp_path / "m", state, {})
    with less_memory_than(5 * 8e6 * 1.1):
        found = read_bundle(tmp_path / "m")
    assert found.state.part("part_3").array("x", np.float32, (2_000_000,)).sum() == 0
