"""Tanimoto similarities against RDKit and sets of bits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from features.molecules import morgan as module
from features.molecules.morgan import MorganEncoder, nearest, tanimoto
from rapids_pipeline.backend.errors import InputError

SMILES = ["CCO", "CC(=O)Oc1ccccc1C(=O)O", "c1ccccc1", "CCN", "O", "CC(C)Cc1ccc(cc1)C(C)C(=O)O"]


def test_it_is_rdkits():
    bits = MorganEncoder().transform(SMILES)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    theirs = [generator.GetFingerprint(Chem.MolFromSmiles(text)) for text in SMILES]
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
        monkeypatch.setattr(module, "BLOCK_VALUES", block)
        index, similarity = nearest(A, B)
        np.testing.assert_array_equal(index, whole.argmax(axis=1))
        np.testing.assert_array_equal(similarity, whole.max(axis=1))


def test_refusals():
    with pytest.raises(InputError, match=r"\(2, 8\) and \(3, 9\) cannot be compared"):
        tanimoto(np.zeros((2, 8)), np.zeros((3, 9)))
    with pytest.raises(InputError, match="no fingerprint to be near to"):
        nearest(np.zeros((2, 8)), np.zeros((0, 8)))
