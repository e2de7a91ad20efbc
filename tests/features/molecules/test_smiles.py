"""SMILES: canonical spelling, distinct molecules, salts, and tokenizers that know SMILES or are refused."""

import json
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("rdkit")

from features.molecules.smiles import (
    canonical_smiles,
    distinct_molecules,
    largest_fragment,
    load_tokenizer,
    unknown_share,
)
from rapids_pipeline.backend.errors import InputError, UnavailableError

ASPIRIN, ASPIRIN_AGAIN = "CC(=O)Oc1ccccc1C(=O)O", "OC(=O)C1=CC=CC=C1OC(C)=O"
CAFFEINE = "Cn1cnc2c1c(=O)n(C)c(=O)n2C"


@pytest.mark.parametrize(
    "bad", ["", "  ", "C1CC", "c1ccccc", "CO>>CC", "CCO ethanol", "xyz", None, float("nan"), 3]
)
def test_what_is_no_molecule_has_no_canonical_smiles(bad, capfd):
    assert canonical_smiles(bad) is None
    assert capfd.readouterr() == ("", "")


def test_canonical_smiles_is_one_per_molecule():
    assert canonical_smiles(ASPIRIN) == canonical_smiles(ASPIRIN_AGAIN) == canonical_smiles(f" {ASPIRIN}\n")
    assert canonical_smiles("C[C@@H](N)C(=O)O") != canonical_smiles("C[C@H](N)C(=O)O")
    assert canonical_smiles(canonical_smiles(CAFFEINE)) == canonical_smiles(CAFFEINE)


def test_distinct_molecules_against_a_naive_search():
    strings = [CAFFEINE, ASPIRIN, ASPIRIN_AGAIN, CAFFEINE, "CCO", "OCC"]
    distinct, row = distinct_molecules(strings)
    naive = [canonical_smiles(s) for s in strings]
    assert [distinct[i] for i in row] == naive
    assert sorted(distinct) == sorted(set(naive))


def test_a_missing_rdkit_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rdkit", None)
    with pytest.raises(UnavailableError, match=r"pip install '\.\[chem\]'"):
        canonical_smiles("CCO")


SALTS = {
    "[Na+].CC(=O)[O-]": "CC(=O)[O-]",
    "CCN.Cl": "CCN",
    "[I-].C[N+](C)(C)C": "C[N+](C)(C)C",
    "N.N.Cl[Pt]Cl.C": "C",  # one carbon goes before seven other atoms
    "O.OS(=O)(=O)O": "O=S(=O)(O)O",
}


def test_the_largest_organic_fragment_of_a_salt():
    for salt, part in SALTS.items():
        assert largest_fragment(canonical_smiles(salt)) == canonical_smiles(part)
    assert largest_fragment(canonical_smiles(ASPIRIN)) == canonical_smiles(ASPIRIN)


@pytest.mark.parametrize(
    "mixture", [f"{ASPIRIN}.{CAFFEINE}", "CCO.CCCO.C", "Cl.Cl.CCN", "O=C(O)C(F)(F)F.c1ccc2ccccc2c1"]
)
def test_the_largest_fragment_of_organic_salts_against_counting_atoms(mixture):
    from rdkit import Chem

    organic = [f for f in mixture.split(".") if "C" in f.replace("Cl", "") or "c" in f]
    largest = max(organic, key=lambda f: Chem.AddHs(Chem.MolFromSmiles(f)).GetNumAtoms())
    assert largest_fragment(canonical_smiles(mixture)) == canonical_smiles(largest)


KNOWN = [ASPIRIN, CAFFEINE, "CCC(C)C(=O)OC1CC(C)C=C2C=CC(C)C(CCC3CC(O)CC(=O)O3)C12", "N#CC1CC%121CC%12"]
BRACKETS = ["C[C@@H](N)C(=O)[O-]", "[Na+].[Cl-]", "C/C=C\\CBr", "ClC(Cl)=C", "C[N+](C)(C)C"]
SCHWALLER = re.compile(  # as published, in full
    r"(\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>>?|\*|\$|\%[0-9]{2}|[0-9])"
)


def test_tokens_equal_a_naive_search_in_the_vocabulary(rxn_folder):
    vocabulary = (rxn_folder / "vocab.txt").read_text().splitlines()
    tokenizer = load_tokenizer(rxn_folder)
    for smiles in KNOWN + BRACKETS:
        tokens = ["[CLS]", *SCHWALLER.findall(smiles), "[SEP]"]
        expected = [vocabulary.index(t) if t in vocabulary else vocabulary.index("[UNK]") for t in tokens]
        assert tokenizer(smiles)["input_ids"] == expected
    batch = tokenizer(["CCO", "C"], padding=True)["input_ids"]
    assert batch[1][3:] == [vocabulary.index("[PAD]")] * 2


def test_unknown_tokens_are_counted_by_their_characters(rxn_folder):
    tokenizer = load_tokenizer(rxn_folder)
    assert unknown_share(tokenizer, KNOWN) == 0
    assert unknown_share(tokenizer, ["CC[Og]C"]) == pytest.approx(4 / 7)
    assert unknown_share(tokenizer, []) == 0


def test_the_trap_of_a_tokenizer_that_knows_no_smiles(rxn_folder, tmp_path):
    """AutoTokenizer takes the ALBERT checkpoint's name at its word: every molecule becomes one [UNK]."""
    transformers = pytest.importorskip("transformers")
    trap = transformers.AutoTokenizer.from_pretrained(str(rxn_folder))
    assert unknown_share(trap, KNOWN) == 1
    folder = Path(shutil.copytree(rxn_folder, tmp_path / "trap"))
    trap.save_pretrained(folder)
    with pytest.raises(InputError, match=r"does not know SMILES \(100% .*--molecules morgan"):
        load_tokenizer(folder)


def test_a_tokenizer_that_lowers_case_is_refused(roberta_copy):
    path = roberta_copy / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["normalizer"] = {"type": "Lowercase"}
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match=r"does not know SMILES .*same tokens"):
        load_tokenizer(roberta_copy)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("vocab.txt", b"C\n\xff\xfe", "vocab.txt: not UTF-8 text"),
        ("special_tokens_map.json", b"{", "special_tokens_map.json: not a map of special tokens"),
        ("special_tokens_map.json", b"[1]", "special_tokens_map.json: not a map of special tokens"),
        (
            "special_tokens_map.json",
            b'{"pad_token": "[NO]"}',
            r"special token \[NO\] is not in the vocabulary",
        ),
    ],
)
def test_broken_files_of_a_smiles_vocabulary_are_named(rxn_folder, tmp_path, file, content, message):
    folder = Path(shutil.copytree(rxn_folder, tmp_path / "copy"))
    (folder / file).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_tokenizer(folder)
