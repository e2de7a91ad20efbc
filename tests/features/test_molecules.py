import numpy as np
import pytest
from sklearn.base import clone

from features.molecules.descriptors import DescriptorEncoder
from features.molecules.encoders import ChemBERTaEncoder, molecule_encoder
from features.molecules.morgan import MorganEncoder
from features.molecules.smiles import canonical_smiles, distinct_molecules, largest_fragment
from rapids_pipeline.backend.errors import InputError, UnavailableError

pytest.importorskip("rdkit")

ASPIRIN, ASPIRIN_AGAIN = "CC(=O)Oc1ccccc1C(=O)O", "OC(=O)C1=CC=CC=C1OC(C)=O"
CAFFEINE = "Cn1cnc2c1c(=O)n(C)c(=O)n2C"
MOLECULES = [ASPIRIN, CAFFEINE, "C[C@@H](N)C(=O)O", "ClCCBr", "[Na+].[Cl-]"]


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


def test_morgan_equals_direct_calls_of_rdkit():
    from rdkit import Chem
    from rdkit.Chem import AllChem

    rows = MorganEncoder(n_bits=512, radius=3).fit_transform(MOLECULES)
    for row, smiles in zip(rows, MOLECULES, strict=True):
        on = AllChem.GetMorganFingerprintAsBitVect(Chem.MolFromSmiles(smiles), 3, nBits=512).GetOnBits()
        np.testing.assert_array_equal(np.flatnonzero(row), sorted(on))
    assert set(np.unique(rows)) == {0.0, 1.0}


def test_morgan_rows_are_float32_and_named():
    rows = MorganEncoder().transform(np.array(MOLECULES))
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous
    assert rows.shape == (5, 1024)
    names = MorganEncoder(n_bits=3).get_feature_names_out()
    assert names.tolist() == ["morgan_0", "morgan_1", "morgan_2"]
    assert MorganEncoder().transform([]).shape == (0, 1024)


def test_two_spellings_give_identical_rows_and_rows_are_independent():
    encoder = MorganEncoder()
    rows = encoder.transform([ASPIRIN, CAFFEINE, ASPIRIN_AGAIN])
    np.testing.assert_array_equal(rows[0], rows[2])
    for row, smiles in zip(rows, [ASPIRIN, CAFFEINE], strict=False):
        np.testing.assert_array_equal(row, encoder.transform([smiles])[0])


def test_each_distinct_molecule_is_computed_once(monkeypatch):
    class CountingGenerator:
        calls = 0

        def GetFingerprintAsNumPy(self, molecule):
            self.calls += 1
            return np.zeros(1024)

    generator = CountingGenerator()
    monkeypatch.setattr(MorganEncoder, "_generator", lambda self: generator)
    MorganEncoder().transform([ASPIRIN, CAFFEINE, ASPIRIN_AGAIN, CAFFEINE])
    assert generator.calls == 2


@pytest.mark.parametrize("method", ["fit", "transform"])
def test_an_invalid_molecule_is_named_with_its_position(method):
    with pytest.raises(InputError, match=r"position 2 .*'C1CC'"):
        getattr(MorganEncoder(), method)([ASPIRIN, CAFFEINE, "C1CC"])
    with pytest.raises(InputError, match="one string"):
        getattr(MorganEncoder(), method)(ASPIRIN)


@pytest.mark.parametrize("parameters", [{"n_bits": 0}, {"radius": -1}])
def test_morgan_parameters_are_checked(parameters):
    with pytest.raises(InputError, match="n_bits"):
        MorganEncoder(**parameters).fit(MOLECULES)


def test_registry_names(tmp_path):
    assert isinstance(molecule_encoder("morgan"), MorganEncoder)
    assert isinstance(molecule_encoder("descriptors"), DescriptorEncoder)
    chemberta = molecule_encoder("chemberta", device="cuda")
    assert (chemberta.model, chemberta.device) == ("DeepChem/ChemBERTa-10M-MTR", "cuda")
    assert molecule_encoder("seyonec/ChemBERTa-zinc-base-v1").model == "seyonec/ChemBERTa-zinc-base-v1"
    assert molecule_encoder(str(tmp_path)).model == str(tmp_path)


@pytest.mark.parametrize("name", ["", "ecfp", "no/such/folder", "./nothing", "a/"])
def test_registry_refuses_other_names_and_lists_the_choices(name):
    with pytest.raises(InputError, match=r"morgan, descriptors, chemberta, an existing folder .* hub id"):
        molecule_encoder(name)


def test_estimators_clone_and_keep_their_parameters():
    for encoder in (
        MorganEncoder(n_bits=64, desalt=True),
        DescriptorEncoder(clip=3.0, desalt=True),
        ChemBERTaEncoder(model="a/b", max_length=20, pooling="cls", precision="bfloat16", cache=None),
    ):
        assert clone(encoder).get_params() == encoder.get_params()


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


def test_salts_are_counted_and_noted():
    encoder = MorganEncoder()
    assert encoder.notes() == []
    encoder.transform([ASPIRIN, "CCN.Cl", "Cl.NCC", "CCN"])
    assert (encoder.n_molecules_, encoder.n_salts_) == (3, 1)
    assert encoder.notes() == ["1 of 3 molecules are salts (several fragments)"]
    encoder.set_params(desalt=True).transform(["CCN.Cl"])
    assert encoder.notes() == [
        "1 of 1 molecules are salts (several fragments); the largest organic fragment was encoded"
    ]
    encoder.transform([ASPIRIN])
    assert encoder.notes() == []


def test_a_desalted_salt_is_encoded_as_its_parent_and_only_where_asked():
    strings = ["CCN.Cl", "CCN", ASPIRIN]
    plain, desalted = (MorganEncoder(desalt=desalt).transform(strings) for desalt in (False, True))
    np.testing.assert_array_equal(plain[1:], desalted[1:])
    np.testing.assert_array_equal(desalted[0], plain[1])
    assert (plain[0] != plain[1]).any()
