"""The cache of rows by molecule: where it is, same bits, right key, many writers, damage, folders that refuse."""

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("rdkit")

from features.molecules import cache as cache_module
from features.molecules import language_model
from features.molecules.cache import MoleculeCache, cache_folder, computed_through
from features.molecules.encoders import ChemBERTaEncoder
from rapids_pipeline.backend.errors import InputError

MOLECULES = ["CCO", "CC(=O)Oc1ccccc1C(=O)O", "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "CCN", "ClCCBr"]
AGAIN = ["OCC", *MOLECULES[1:]]


@pytest.fixture
def encode(roberta_folder, tmp_path):
    """Embed molecules with a fresh encoder; returns the rows and how many came from the cache."""

    def encoded(smiles=MOLECULES, model=roberta_folder, **options):
        encoder = ChemBERTaEncoder(str(model), **{"cache": tmp_path / "kept", **options}).load()
        return encoder.transform(smiles), encoder.n_cached_

    return encoded


def only_file(folder):
    (path,) = folder.glob("*.npz")
    return path


def test_the_same_bits_come_back_and_the_model_is_not_asked(encode, monkeypatch):
    fresh, from_cache = encode()
    assert from_cache == 0
    np.testing.assert_array_equal(fresh, encode(cache=None)[0])
    monkeypatch.setattr(language_model, "embed", lambda *_: pytest.fail("embedded again"))
    kept, from_cache = encode([*AGAIN, "CCO"])
    assert from_cache == len(MOLECULES)
    np.testing.assert_array_equal(kept, fresh[[0, 1, 2, 3, 4, 0]])


def test_only_the_molecules_that_are_new_are_embedded(encode, monkeypatch):
    encode(MOLECULES[:3])
    seen, embed = [], language_model.embed
    monkeypatch.setattr(
        language_model, "embed", lambda model, smiles, *a: seen.extend(smiles) or embed(model, smiles, *a)
    )
    rows, from_cache = encode()
    assert (from_cache, seen) == (3, MOLECULES[3:])
    np.testing.assert_allclose(rows, encode(cache=None)[0], atol=1e-5)
    assert encode()[1] == 5


@pytest.mark.parametrize("options", [{"pooling": "cls"}, {"normalize": False}, {"max_length": 60}])
def test_other_options_are_kept_apart(encode, options):
    plain, _ = encode()
    other, from_cache = encode(**options)
    assert from_cache == 0
    if "max_length" not in options:  # cuts none of these molecules
        assert (other != plain).any()
    assert encode(**options)[1] == encode()[1] == 5


def test_what_does_not_change_the_embedding_shares_the_cache(encode, roberta_folder, tmp_path):
    encode()
    assert encode(max_length=200, batch_size=2)[1] == 5  # the encoder reads 64 tokens at most anyway
    assert encode(model=shutil.copytree(roberta_folder, tmp_path / "elsewhere"))[1] == 5


@pytest.mark.parametrize("changed", ["weights", "tokenizer", "config.json"])
def test_other_files_are_another_model(encode, roberta_folder, tmp_path, changed):
    from safetensors.torch import load_file, save_file

    plain, _ = encode()
    folder = Path(shutil.copytree(roberta_folder, tmp_path / "changed"))
    if changed == "weights":
        weights = load_file(folder / "model.safetensors")
        weights["roberta.encoder.layer.0.output.dense.bias"][0] += 0.5
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        path = folder / {"tokenizer": "tokenizer.json"}.get(changed, changed)
        document = json.loads(path.read_text())
        if changed == "tokenizer":
            ids = document["model"]["vocab"]
            ids["C"], ids["c"] = ids["c"], ids["C"]
        else:
            document["layer_norm_eps"] = 0.1
        path.write_text(json.dumps(document))
    other, from_cache = encode(model=folder)
    assert from_cache == 0
    assert (other != plain).any()


def test_other_versions_of_the_libraries_are_kept_apart(encode, monkeypatch):
    encode()
    monkeypatch.setattr("features.molecules.encoders.version", lambda name: "0.0.1")
    assert encode()[1] == 0


def test_options_changed_after_loading_are_heeded(roberta_folder, tmp_path):
    encoder = ChemBERTaEncoder(str(roberta_folder), cache=tmp_path).load()
    mean = encoder.transform(MOLECULES)
    first = encoder.set_params(pooling="cls").transform(MOLECULES)
    assert encoder.n_cached_ == 0
    assert (mean != first).any()


def small_cache(folder, width=3):
    return MoleculeCache(folder, "key", width)


def rows_of(*numbers, width=3):
    return np.array([np.arange(width) + number for number in numbers], dtype=np.float32)


def test_a_damaged_byte_is_never_taken_for_an_embedding(tmp_path):
    cache = small_cache(tmp_path)
    cache.add(["C", "CC", "CCC"], rows_of(1, 2, 3))
    whole, content = cache.read(), cache.path.read_bytes()
    found = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        cache.path.write_bytes(damaged)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            kept = cache.read()
        found += bool(caught)
        assert bool(caught) == (kept == {})
        for smiles, row in kept.items():  # a byte that carries no content, such as a date
            np.testing.assert_array_equal(row, whole[smiles])
    assert found > len(content) / 4


DAMAGES = {
    "empty": lambda path, content: path.write_bytes(b""),
    "cut short": lambda path, content: path.write_bytes(content[: len(content) // 2]),
    "without its last byte": lambda path, content: path.write_bytes(content[:-1]),
    "something else": lambda path, content: path.write_text("no archive"),
    "another key": lambda path, content: rewrite(path, key=b"other"),
    "a part missing": lambda path, content: rewrite(path, rows=None),
    "too narrow": lambda path, content: rewrite(path, rows=np.ones((5, 7), dtype=np.float32)),
    "too few rows": lambda path, content: rewrite(path, rows=np.ones((4, 48), dtype=np.float32)),
    "another type": lambda path, content: rewrite(path, rows=np.ones((5, 48))),
    "objects": lambda path, content: rewrite(path, rows=np.full((5, 48), None)),
    "not finite": lambda path, content: rewrite(path, rows=np.full((5, 48), np.inf, dtype=np.float32)),
}


def rewrite(path, **changed):
    with np.load(path) as archive:
        parts = {name: archive[name] for name in archive.files}
    parts |= {name: np.frombuffer(v, np.uint8) if isinstance(v, bytes) else v for name, v in changed.items()}
    np.savez(path, **{name: part for name, part in parts.items() if part is not None})


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_reported_and_made_anew(encode, tmp_path, damage):
    fresh, _ = encode()
    path = only_file(tmp_path / "kept")
    DAMAGES[damage](path, path.read_bytes())
    with pytest.warns(UserWarning, match=r"\.npz is damaged, kept are computed anew") as caught:
        rows, from_cache = encode()
    assert (from_cache, len(caught)) == (0, 1)
    assert "\n" not in str(caught[0].message)
    np.testing.assert_array_equal(rows, fresh)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encode()[1] == 5


WRITER = """
import sys, warnings
from pathlib import Path
import numpy as np
from features.molecules.cache import MoleculeCache
warnings.simplefilter("error")
cache = MoleculeCache(Path(sys.argv[1]), "key", 3)
for number in range(15):
    cache.add([f"{sys.argv[2]}-{number}", "shared"], np.full((2, 3), number, dtype=np.float32))
    kept = cache.read()
    assert all(f"{sys.argv[2]}-{n}" in kept for n in range(number + 1))
"""


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*command, name], stderr=subprocess.PIPE, text=True) for name in "abc"]
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert (writer.returncode, errors) == (0, "")
    kept = small_cache(tmp_path).read()
    assert set(kept) == {f"{name}-{n}" for name in "abc" for n in range(15)} | {"shared"}
    for name in "abc":
        np.testing.assert_array_equal(kept[f"{name}-7"], [7, 7, 7])
    assert {path.suffix for path in tmp_path.iterdir()} == {".npz", ".lock"}  # no temporary file is left


def test_a_folder_that_cannot_be_made_costs_one_warning(encode, tmp_path):
    (tmp_path / "file").write_text("")
    expected, _ = encode()
    with pytest.warns(UserWarning, match=r"cannot be kept in .*going on without") as caught:
        rows, from_cache = encode(cache=tmp_path / "file" / "kept")
    assert (from_cache, len(caught)) == (0, 1)
    np.testing.assert_array_equal(rows, expected)


def test_a_read_only_folder_is_read_and_warned_of_when_something_is_new(encode, monkeypatch):
    encode(MOLECULES[:4])

    def refuse(path):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(cache_module, "written_atomically", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encode(MOLECULES[:4])[1] == 4
    monkeypatch.setattr(cache_module, "MOLECULES_PER_WRITE", 1)
    with pytest.warns(UserWarning, match="Read-only file system") as caught:
        _, from_cache = encode([*MOLECULES, "CCCC"])
    assert (from_cache, len(caught)) == (4, 1)


def test_a_file_that_may_not_be_read_costs_one_warning(encode, monkeypatch, tmp_path):
    read = Path.read_bytes

    def refuse(path):
        if path.is_relative_to(tmp_path / "kept"):  # the cache; weights are read all the same
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.warns(UserWarning, match="Permission denied") as caught:
        rows, from_cache = encode()
    assert (from_cache, len(caught)) == (0, 1)
    np.testing.assert_array_equal(rows, encode(cache=None)[0])


def test_a_lock_that_is_never_released_does_not_stop_the_work(tmp_path, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr(cache_module, "LOCK_TIMEOUT_S", 0.05)
    cache = small_cache(tmp_path)
    with FileLock(f"{cache.path}.lock"), pytest.warns(UserWarning, match="going on without"):
        cache.add(["C"], rows_of(1))
    small_cache(tmp_path).add(["C"], rows_of(1))
    np.testing.assert_array_equal(cache.read()["C"], rows_of(1)[0])


def test_a_file_is_not_filled_beyond_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "MOST_MOLECULES", 3)
    cache = small_cache(tmp_path)
    cache.add(["C", "CC"], rows_of(1, 2))
    cache.add(["CC", "CCC", "CCCC"], rows_of(9, 3, 4))
    assert {name: row[0] for name, row in cache.read().items()} == {"C": 1, "CC": 2, "CCC": 3}
    before = cache.path.stat().st_mtime_ns
    cache.add(["CCCCC"], rows_of(5))
    assert cache.path.stat().st_mtime_ns == before
    rows, from_cache = computed_through(cache, ["CCCCC", "C"], lambda part: rows_of(*map(len, part)))
    np.testing.assert_array_equal(rows, rows_of(5, 1))
    assert from_cache == 1


def test_float64_rows_may_have_nan(tmp_path):
    cache = MoleculeCache(tmp_path, "key", 2, np.float64)
    cache.add(["C"], np.array([[np.nan, 1 / 3]]))
    np.testing.assert_array_equal(cache.read()["C"], [np.nan, 1 / 3])
    with pytest.warns(UserWarning, match="damaged"):
        assert MoleculeCache(tmp_path, "key", 2).read() == {}  # float32 was asked for


def test_an_interrupt_keeps_what_is_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "MOLECULES_PER_WRITE", 2)
    parts = []

    def embed(part):
        parts.append(list(part))
        if len(parts) == 3:
            raise KeyboardInterrupt
        return rows_of(*(len(smiles) for smiles in part))

    chain = ["C", "CC", "CCC", "CCCC", "CCCCC"]
    with pytest.raises(KeyboardInterrupt):
        computed_through(small_cache(tmp_path), chain, embed)
    rows, from_cache = computed_through(small_cache(tmp_path), chain[::-1], embed)
    assert from_cache == 4
    assert parts[-1] == ["CCCCC"]
    np.testing.assert_array_equal(rows, rows_of(5, 4, 3, 2, 1))


def test_no_cache_leaves_no_file_and_auto_is_the_default(encode, roberta_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("RAPIDS_PERTURB_CACHE", str(tmp_path / "named"))
    assert encode(cache=None)[1] == encode(cache=None)[1] == 0
    assert list(tmp_path.iterdir()) == []
    ChemBERTaEncoder(str(roberta_folder)).fit_transform(MOLECULES)
    only_file(tmp_path / "named" / "embeddings")


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
