"""Morgan fingerprints and their Tanimoto similarities against RDKit and sets of bits."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rdkit")

from rdkit import Chem, DataStructs
from rdkit.Chem import AllChem, rdFingerprintGenerator
from sklearn.compose import ColumnTransformer

from features.molecules import morgan
from features.molecules.morgan import MorganEncoder, nearest, tanimoto
from rapids_pipeline.backend.errors import InputError

ASPIRIN, ASPIRIN_AGAIN = "CC(=O)Oc1ccccc1C(=O)O", "OC(=O)C1=CC=CC=C1OC(C)=O"
CAFFEINE = "Cn1cnc2c1c(=O)n(C)c(=O)n2C"
MOLECULES = [ASPIRIN, CAFFEINE, "C[C@@H](N)C(=O)O", "ClCCBr", "[Na+].[Cl-]", "O"]


def test_morgan_equals_direct_calls_of_rdkit():
    rows = MorganEncoder(n_bits=512, radius=3).fit_transform(MOLECULES)
    for row, smiles in zip(rows, MOLECULES, strict=True):
        on = AllChem.GetMorganFingerprintAsBitVect(Chem.MolFromSmiles(smiles), 3, nBits=512).GetOnBits()
        np.testing.assert_array_equal(np.flatnonzero(row), sorted(on))
    assert set(np.unique(rows)) == {0.0, 1.0}


def test_morgan_rows_are_float32_and_named():
    rows = MorganEncoder().transform(np.array(MOLECULES))
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous
    assert rows.shape == (6, 1024)
    names = MorganEncoder(n_bits=3).get_feature_names_out()
    assert names.tolist() == ["morgan_0", "morgan_1", "morgan_2"]
    assert MorganEncoder().transform([]).shape == (0, 1024)


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


def test_it_is_rdkits():
    bits = MorganEncoder().transform(MOLECULES)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    theirs = [generator.GetFingerprint(Chem.MolFromSmiles(text)) for text in MOLECULES]
    expected = [DataStructs.BulkTanimotoSimilarity(one, theirs) for one in theirs]
    np.testing.assert_allclose(tanimoto(bits, bits), expected, atol=1e-7)


def test_empty_fingerprints_are_unlike_as_in_rdkit():
    empty = DataStructs.ExplicitBitVect(16)
    ours = tanimoto(np.zeros((1, 16)), np.zeros((1, 16)))[0, 0]
    assert ours == DataStructs.TanimotoSimilarity(empty, empty) == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 9), st.integers(1, 40))
def test_it_is_that_of_sets(seed, n, m, p):
    rng = np.random.default_rng(seed)
    A, B = (rng.random((size, p)) < 0.3 for size in (n, m))
    found = tanimoto(A.astype(np.float32), B.astype(np.float32))
    for i, a in enumerate(A):
        for j, b in enumerate(B):
            both, either = set(np.flatnonzero(a)) & set(np.flatnonzero(b)), set(np.flatnonzero(a | b))
            assert found[i, j] == pytest.approx(len(both) / len(either) if either else 0)


def test_the_nearest_is_the_first_of_the_most_similar_whatever_the_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    A, B = ((rng.random((size, 12)) < 0.4).astype(np.float32) for size in (23, 7))
    whole = tanimoto(A, B)
    for block in (1, 10, 50, 10_000):
        monkeypatch.setattr(morgan, "BLOCK_VALUES", block)
        index, similarity = nearest(A, B)
        np.testing.assert_array_equal(index, whole.argmax(axis=1))
        np.testing.assert_array_equal(similarity, whole.max(axis=1))


def test_refusals():
    with pytest.raises(InputError, match=r"\(2, 8\) and \(3, 9\) cannot be compared"):
        tanimoto(np.zeros((2, 8)), np.zeros((3, 9)))
    with pytest.raises(InputError, match="no fingerprint to be near to"):
        nearest(np.zeros((2, 8)), np.zeros((0, 8)))


@pytest.mark.parametrize("columns", ["SMILES", ["SMILES"]])
def test_it_works_in_a_column_transformer(columns):
    frame = pd.DataFrame({"SMILES": ["CCO", "c1ccccc1", "CCO"], "x": [1.0, 2.0, 3.0]}, index=[4, 5, 6])
    made = ColumnTransformer([("fingerprint", MorganEncoder(n_bits=64), columns)])
    np.testing.assert_array_equal(
        made.fit_transform(frame), MorganEncoder(n_bits=64).transform(frame["SMILES"])
    )
    framed = made.set_output(transform="pandas").fit_transform(frame)
    assert list(framed.columns)[:2] == ["fingerprint__morgan_0", "fingerprint__morgan_1"]
    assert list(framed.index) == [4, 5, 6]
    with pytest.raises(InputError, match="SMILES must be one column, and there are 2"):
        MorganEncoder().transform(frame)
