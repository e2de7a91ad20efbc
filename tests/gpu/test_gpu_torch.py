"""A SMILES transformer gives the same embeddings on a GPU as on a CPU. Stand-in: the CPU again, in other batches."""

import numpy as np
import pytest

from features.molecules.encoders import ChemBERTaEncoder
from features.molecules.language_model import embed, load_language_model
from tests.gpu.requirements import need, on_gpu
from tests.smiles_models import TEXTS

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

SMILES = [*TEXTS, "C" * 60, "CCO", "c1ccccc1", "CCN(CC)CC"] * 3


@pytest.fixture(params=["cpu", on_gpu])
def device(request):
    if request.param == "cuda":
        need("torch")
        if not torch.cuda.is_available():
            pytest.skip("this PyTorch is built without CUDA, or too new for the driver")
    return request.param


def loaded(folder, device):
    return load_language_model(str(folder), device=device)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("batch_size", ["auto", 1, 4])
def test_embeddings_are_those_of_the_cpu(device, roberta_folder, pooling, batch_size):
    there = embed(loaded(roberta_folder, device), SMILES, pooling, batch_size=batch_size)
    here = embed(loaded(roberta_folder, "cpu"), SMILES, pooling)
    assert there.dtype == np.float32 and there.shape == here.shape
    np.testing.assert_allclose(there, here, atol=2e-5)


def test_a_cached_embedding_is_taken_on_either_device(device, roberta_folder, tmp_path):
    there, here = (
        ChemBERTaEncoder(model=str(roberta_folder), device=where, cache=tmp_path).fit_transform(SMILES)
        for where in (device, "cpu")
    )
    np.testing.assert_allclose(there, here, atol=2e-5)
