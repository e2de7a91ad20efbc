"""How far a pair is from training: every column by brute force."""

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from rapids_pipeline.data.pairs import read_batch
from rapids_pipeline.predictions.applicability import COLUMNS, applicability
from rapids_pipeline.stack.saved import load_model


def test_applicability_by_brute_force(model, pairs):
    training, batch = load_model(model).obs, read_batch(pairs, load_model(model).obs)
    found = applicability(batch, training)
    assert list(found.table.columns) == list(COLUMNS)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)

    def bits(smiles):
        return generator.GetFingerprint(Chem.MolFromSmiles(smiles))

    def canonical(smiles):
        return Chem.MolToSmiles(Chem.MolFromSmiles(smiles))

    for row in pd.concat([batch.table, found.table], axis=1).itertuples():
        likeness = [
            DataStructs.TanimotoSimilarity(bits(row.SMILES), bits(text)) for text in training["SMILES"]
        ]
        same = [canonical(text) == canonical(row.SMILES) for text in training["SMILES"]]
        assert row.tanimoto == pytest.approx(max(likeness), abs=1e-6)
        near = training["sm_name"][np.isclose(likeness, max(likeness))]
        assert row.nearest_compound in set(near)
        assert row.compound_known == any(same) and row.compound_rows == sum(same)
        assert row.cell_type_rows == (training["cell_type"] == row.cell_type).sum()
        assert row.cell_type_known == (row.cell_type_rows > 0)
    assert any("have a cell_type the model was not trained on (a new one)" in note for note in found.notes)
    assert any("of 9 molecules are new to the model" in note for note in found.notes)
