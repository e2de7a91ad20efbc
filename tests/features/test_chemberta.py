"""ChemBERTa's code on two models: the real SMILES transformer in the `rxnmapper` wheel, a small made one."""

import functools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("rdkit")

from features.molecules import language_model  # noqa: E402
from features.molecules.encoders import ChemBERTaEncoder, molecule_encoder  # noqa: E402
from features.molecules.language_model import (  # noqa: E402
    load_language_model,
    model_folder,
)
from features.molecules.smiles import (  # noqa: E402
    canonical_smiles,
    load_tokenizer,
    unknown_share,
)
from rapids_pipeline.backend.errors import InputError, UnavailableError  # noqa: E402

uncached = functools.partial(ChemBERTaEncoder, cache=None)

PAIRS = {
    "statins": (
        "CCC(C)C(=O)OC1CC(C)C=C2C=CC(C)C(CCC3CC(O)CC(=O)O3)C12",
        "CCC(C)(C)C(=O)OC1CC(C)C=C2C=CC(C)C(CCC3CC(O)CC(=O)O3)C12",
    ),
    "steroids": ("CC12CCC3C(CCC4=CC(=O)CCC34C)C1CCC2O", "CC(=O)C1CCC2C3CCC4=CC(=O)CCC4(C)C3CCC12C"),
    "xanthines": ("Cn1cnc2c1c(=O)n(C)c(=O)n2C", "Cn1c(=O)c2[nH]cnc2n(C)c1=O"),
    "salicylates": ("CC(=O)Oc1ccccc1C(=O)O", "O=C(O)c1ccccc1O"),
}
MOLECULES = [smiles for pair in PAIRS.values() for smiles in pair]
BRACKETS = [
    "C[C@@H](N)C(=O)[O-]",
    "[Na+].[Cl-]",
    "C/C=C\\CBr",
    "ClC(Cl)=C",
    "N#CC1CC%121CC%12",
    "C[N+](C)(C)C",
]
SCHWALLER = re.compile(  # as published, in full
    r"(\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>>?|\*|\$|\%[0-9]{2}|[0-9])"
)


@pytest.fixture(scope="module")
def rxn(rxn_folder):
    return uncached(str(rxn_folder)).fit(MOLECULES)


@pytest.fixture
def roberta_copy(roberta_folder, tmp_path):
    return Path(shutil.copytree(roberta_folder, tmp_path / "copy"))


def one_at_a_time(encoder, smiles, pooling):
    """The formula, one molecule a forward pass: no batch, no padding, no mask."""
    loaded = encoder.language_model_
    rows = []
    for string in smiles:
        ids = loaded.tokenizer(canonical_smiles(string))["input_ids"]
        with torch.no_grad():
            states = loaded.encoder(torch.tensor([ids])).last_hidden_state[0].numpy().astype(np.float64)
        pooled = sum(states) / len(states) if pooling == "mean" else states[0]
        rows.append(pooled / np.sqrt(sum(pooled**2)))
    return np.array(rows)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("source", ["rxn_folder", "roberta_folder"])
def test_embedding_equals_a_loop_over_molecules(source, pooling, request):
    encoder = uncached(str(request.getfixturevalue(source)), pooling=pooling, batch_size=3)
    rows = encoder.fit(MOLECULES).transform(MOLECULES)
    np.testing.assert_allclose(rows, one_at_a_time(encoder, MOLECULES, pooling), atol=1e-5)
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    names = encoder.get_feature_names_out()
    assert len(names) == rows.shape[1]
    assert names[:2].tolist() == ["chemberta_0", "chemberta_1"]


def test_without_normalisation_rows_keep_their_length(rxn, rxn_folder):
    raw = uncached(str(rxn_folder), normalize=False).fit(MOLECULES).transform(MOLECULES)
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert (lengths > 1.5).all()
    np.testing.assert_allclose(raw / lengths, rxn.transform(MOLECULES), atol=1e-5)


def test_rows_do_not_depend_on_their_batch(rxn_folder, rxn):
    rows = rxn.transform(MOLECULES)
    for size in (1, 5):
        other = uncached(str(rxn_folder), batch_size=size).load().transform(MOLECULES)
        np.testing.assert_allclose(other, rows, atol=1e-5)
    np.testing.assert_array_equal(rxn.transform(MOLECULES[::-1])[::-1], rows)
    np.testing.assert_allclose(rxn.transform([MOLECULES[6]])[0], rows[6], atol=1e-5)
    assert rxn.transform([]).shape == (0, 256)


def test_tokens_equal_a_naive_search_in_the_vocabulary(rxn_folder, rxn):
    vocabulary = (rxn_folder / "vocab.txt").read_text().splitlines()
    for smiles in MOLECULES + BRACKETS:
        tokens = ["[CLS]", *SCHWALLER.findall(smiles), "[SEP]"]
        expected = [vocabulary.index(t) if t in vocabulary else vocabulary.index("[UNK]") for t in tokens]
        assert rxn.language_model_.tokenizer(smiles)["input_ids"] == expected
    batch = rxn.language_model_.tokenizer(["CCO", "C"], padding=True)["input_ids"]
    assert batch[1][3:] == [vocabulary.index("[PAD]")] * 2


def test_unknown_tokens_are_counted_by_their_characters(rxn):
    tokenizer = rxn.language_model_.tokenizer
    assert unknown_share(tokenizer, MOLECULES) == 0
    assert unknown_share(tokenizer, ["CC[Og]C"]) == pytest.approx(4 / 7)
    assert unknown_share(tokenizer, []) == 0
    with pytest.warns(UserWarning, match=r"57\.1% of the SMILES characters are unknown"):
        rxn.transform(["CC.[Og]"])


def test_embeddings_tell_molecules_apart_and_pair_the_similar(rxn):
    rows = rxn.transform(MOLECULES)
    assert np.isfinite(rows).all()
    similarity = rows @ rows.T - 2 * np.eye(len(rows))
    assert similarity.max() < 1 - 1e-4
    nearest = similarity.argmax(axis=1)
    np.testing.assert_array_equal(nearest, [i ^ 1 for i in range(len(rows))])


def test_spellings_share_a_row_and_each_molecule_is_embedded_once(rxn, monkeypatch):
    seen = []
    embed = language_model.embed
    monkeypatch.setattr(language_model, "embed", lambda m, s, *a: seen.extend(s) or embed(m, s, *a))
    rows = rxn.transform(["CC(=O)Oc1ccccc1C(=O)O", "CCO", "OC(=O)C1=CC=CC=C1OC(C)=O", "OCC"])
    assert len(seen) == 2
    np.testing.assert_array_equal(rows[0], rows[2])
    np.testing.assert_array_equal(rows[1], rows[3])


def test_truncated_molecules_are_counted_and_read_to_the_limit(rxn_folder, rxn):
    encoder = uncached(str(rxn_folder), max_length=10).load()
    with pytest.warns(UserWarning, match="2 of 3 molecules have more than 10 tokens"):
        rows = encoder.transform(["CCCCCCCCCC", "CCCCCCCCC", "CCCCCCCC"])  # 8 atoms + [CLS] + [SEP] = 10
    assert encoder.n_truncated_ == 2
    np.testing.assert_allclose(rows[0], rows[2], atol=1e-6)
    rxn.transform(MOLECULES)
    assert rxn.n_truncated_ == 0


def test_an_encoder_with_few_positions_lowers_the_limit(roberta_folder):
    encoder = uncached(str(roberta_folder)).load()
    assert encoder.language_model_.max_tokens == 64  # 66 positions less RoBERTa's padding id 1, less 1
    with pytest.warns(UserWarning, match="more than 64 tokens"):
        assert np.isfinite(encoder.transform(["N(O)" * 60 + "C"])).all()


def test_loading_is_silent_and_leaves_the_libraries_as_they_were(rxn_folder, capfd):
    logging = transformers.utils.logging
    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    load_language_model(str(rxn_folder))
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_the_trap_of_a_tokenizer_that_knows_no_smiles(rxn_folder, tmp_path):
    """AutoTokenizer takes the ALBERT checkpoint's name at its word: every molecule becomes one [UNK]."""
    trap = transformers.AutoTokenizer.from_pretrained(str(rxn_folder))
    assert unknown_share(trap, MOLECULES) == 1
    folder = Path(shutil.copytree(rxn_folder, tmp_path / "trap"))
    trap.save_pretrained(folder)
    with pytest.raises(InputError, match=r"does not know SMILES \(100% .*--molecules morgan"):
        uncached(str(folder)).fit(MOLECULES)


def test_a_tokenizer_that_lowers_case_is_refused(roberta_copy):
    path = roberta_copy / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["normalizer"] = {"type": "Lowercase"}
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match=r"does not know SMILES .*same tokens"):
        load_tokenizer(roberta_copy)


def test_mostly_unknown_molecules_are_refused_in_fit(rxn_folder):
    with pytest.raises(InputError, match="100% of the characters are unknown"):
        uncached(str(rxn_folder)).fit(["[Og]"])


def test_a_character_tokenizer_that_drops_characters_is_measured(rxn_folder, tmp_path):
    """ChemBERTa-2's format: a vocabulary of whole tokens, no merges, so characters; others are dropped."""
    vocabulary = (rxn_folder / "vocab.txt").read_text().splitlines()
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    special = {f"{n}_token": f"[{n.upper()}]" for n in ("unk", "cls", "sep", "pad", "mask")}
    special |= {"bos_token": "[CLS]", "eos_token": "[SEP]", "tokenizer_class": "RobertaTokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(special))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta", "vocab_size": 600}))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.unk_token_id not in tokenizer("C[C@@H](Cl)Br")["input_ids"]
    assert unknown_share(tokenizer, ["C[C@@H](Cl)Br"]) == pytest.approx(7 / 13)  # [ @ @ H ] l r


def test_missing_weights_are_refused_and_a_missing_pooler_is_not(roberta_copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(roberta_copy / "model.safetensors")
    assert not any("pooler" in name for name in weights)  # as in ChemBERTa: nothing here uses it
    uncached(str(roberta_copy)).load()
    del weights["roberta.encoder.layer.1.output.dense.weight"]
    save_file(weights, roberta_copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"1 weights .*encoder\.layer\.1\.output\.dense\.weight.*random"):
        uncached(str(roberta_copy)).load()


def test_weights_of_another_shape_or_broken_are_refused(roberta_copy):
    config = json.loads((roberta_copy / "config.json").read_text())
    (roberta_copy / "config.json").write_text(json.dumps(config | {"intermediate_size": 32}))
    with pytest.raises(InputError, match=r"6 weights .*another shape .*layer\.0\.intermediate.*random"):
        uncached(str(roberta_copy)).load()
    (roberta_copy / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(InputError, match="its weights cannot be loaded"):
        uncached(str(roberta_copy)).load()


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("config.json", "config.json is missing"),
        ("model.safetensors", "weights are missing; expected one of model.safetensors"),
        ("tokenizer.json", "tokenizer is missing; expected one of tokenizer.json"),
    ],
)
def test_an_incomplete_folder_is_named_with_the_missing_file(roberta_copy, absent, message):
    (roberta_copy / absent).unlink()
    with pytest.raises(InputError, match=message) as caught:
        molecule_encoder(str(roberta_copy)).load()
    assert str(roberta_copy) in str(caught.value)


@pytest.mark.parametrize(
    "parameters",
    [{"pooling": "max"}, {"batch_size": 0}, {"batch_size": "some"}, {"precision": "int8"}, {"max_length": 2}],
)
def test_parameters_are_checked_before_anything_is_loaded(parameters):
    with pytest.raises(InputError, match=next(iter(parameters))):
        uncached("no/model", **parameters).load()


def test_invalid_molecules_and_names_are_refused(rxn):
    with pytest.raises(InputError, match="position 1"):
        rxn.transform(["CCO", "C1CC"])
    with pytest.raises(InputError, match="no such folder"):
        model_folder("no/such/folder")


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_missing_package_says_what_to_install(package, monkeypatch, roberta_folder):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(UnavailableError, match=rf"{package}: pip install '\.\[chemberta\]'"):
        uncached(str(roberta_folder)).load()


def test_cuda_that_is_not_there_is_refused(roberta_folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnavailableError, match="--device cpu"):
        uncached(str(roberta_folder), device="cuda").load()
