"""Batches of the language models: how they are cut, what happens when memory runs out, and precision."""

import dataclasses
import functools
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("rdkit")

from features.molecules import language_model  # noqa: E402
from features.molecules.encoders import ChemBERTaEncoder  # noqa: E402
from rapids_pipeline.backend.errors import InputError, UnavailableError  # noqa: E402

uncached = functools.partial(ChemBERTaEncoder, cache=None)
MOLECULES = ["C" * n for n in range(1, 21)] + ["CC(=O)Oc1ccccc1C(=O)O", "Cn1cnc2c1c(=O)n(C)c(=O)n2C"]


class LittleMemory(torch.nn.Module):
    """An encoder on a device that holds `room` tokens, padding included, and no more."""

    def __init__(self, encoder, room):
        super().__init__()
        self.encoder, self.room, self.config = encoder, room, encoder.config
        self.fitted, self.refused = [], []
        self.error = torch.OutOfMemoryError("CUDA out of memory.")

    def forward(self, input_ids, attention_mask):
        if input_ids.numel() > self.room:
            self.refused.append(tuple(input_ids.shape))
            raise self.error
        self.fitted.append(tuple(input_ids.shape))
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask)


@pytest.fixture(scope="module")
def roberta(roberta_folder):
    return uncached(str(roberta_folder)).load()


def squeezed(encoder, room):
    """Give an encoder little memory."""
    small = LittleMemory(encoder.language_model_.encoder, room)
    encoder.language_model_ = dataclasses.replace(encoder.language_model_, encoder=small)
    return small


@pytest.mark.parametrize("budget", [1, 50, 200, 10**6])
def test_an_adaptive_batch_has_as_many_molecules_as_the_budget_allows(roberta_folder, monkeypatch, budget):
    encoder = uncached(str(roberta_folder)).load()
    expected = encoder.set_params(batch_size=1).transform(MOLECULES)
    monkeypatch.setitem(language_model.TOKENS_PER_BATCH, "cpu", budget)
    watched = squeezed(encoder.set_params(batch_size="auto"), room=10**9)
    np.testing.assert_allclose(encoder.transform(MOLECULES), expected, atol=1e-5)
    batches = watched.fitted
    assert sum(size for size, _ in batches) == len(MOLECULES)
    assert all(size * length <= budget or size == 1 for size, length in batches)
    for (size, _), (_, following) in itertools.pairwise(batches):
        assert (size + 1) * following > budget  # one molecule more would have been too many
    assert len(batches) == (1 if budget == 10**6 else len(MOLECULES) if budget == 1 else len(batches))


@pytest.mark.parametrize("batch_size", ["auto", 16])
def test_batches_are_halved_until_memory_suffices(roberta_folder, batch_size):
    encoder = uncached(str(roberta_folder), batch_size=batch_size).load()
    expected = encoder.transform(MOLECULES)
    small = squeezed(encoder, room=60)
    np.testing.assert_allclose(encoder.transform(MOLECULES), expected, atol=1e-5)
    assert small.refused
    assert sum(size for size, _ in small.fitted) == len(MOLECULES)
    assert any(size > 1 for size, _ in small.fitted)  # halved, not given up
    assert len(small.refused) < 5  # later batches start small: no failure for every one of them


def test_one_molecule_too_long_for_the_memory_is_named(roberta_folder):
    encoder = uncached(str(roberta_folder)).load()
    squeezed(encoder, room=10)
    with pytest.raises(UnavailableError, match=r"device cpu: .* one molecule of \d+ tokens.*smaller model"):
        encoder.transform(MOLECULES)


def test_other_errors_of_the_encoder_are_not_taken_for_a_lack_of_memory(roberta_folder):
    encoder = uncached(str(roberta_folder)).load()
    squeezed(encoder, room=10).error = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        encoder.transform(MOLECULES)


def test_batches_are_filled_by_length_whatever_the_order(roberta_folder):
    encoder = uncached(str(roberta_folder), batch_size=3).load()
    expected = encoder.transform(MOLECULES)
    watched = squeezed(encoder, room=10**9)
    shuffled = np.random.default_rng(1).permutation(len(MOLECULES))
    np.testing.assert_array_equal(encoder.transform([MOLECULES[i] for i in shuffled]), expected[shuffled])
    lengths = [length for _, length in watched.fitted]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 3


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_rows_of_random_batches_equal_single_molecules(roberta, pooling):
    roberta.set_params(pooling=pooling, batch_size=1)
    alone = roberta.transform(MOLECULES)
    rng = np.random.default_rng(0)
    for size in (2, 7, 50):
        some = rng.permutation(len(MOLECULES))[:15]
        rows = roberta.set_params(batch_size=size).transform([MOLECULES[i] for i in some])
        np.testing.assert_allclose(rows, alone[some], atol=1e-5)
    assert np.linalg.norm(alone[:, None] - alone, axis=2)[np.triu_indices(len(alone), 1)].min() > 1e-4


def test_padding_that_is_not_masked_would_be_seen(roberta):
    """The tests above can fail: without the mask, a short molecule depends on its batch."""
    model = roberta.language_model_
    blind = lambda input_ids, attention_mask: model.encoder(input_ids=input_ids)  # noqa: E731
    blind.config = model.encoder.config
    unmasked = dataclasses.replace(model, encoder=blind)
    alone = language_model.embed(unmasked, ["C"])
    batched = language_model.embed(unmasked, ["C", "C" * 20])[:1]
    assert np.abs(alone - batched).max() > 1e-4


@pytest.mark.parametrize("source", ["rxn_folder", "roberta_folder"])
def test_bfloat16_is_near_float32_and_rows_stay_float32(source, request):
    folder = str(request.getfixturevalue(source))
    full = uncached(folder).load().transform(MOLECULES)
    half = uncached(folder, precision="bfloat16").load().transform(MOLECULES)
    assert half.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-6)  # pooled in float32
    assert 1e-5 < np.abs(half - full).max() < 0.02


def test_weights_that_give_no_finite_embedding_are_refused(roberta_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(roberta_folder, tmp_path / "broken"))
    weights = load_file(folder / "model.safetensors")
    weights["roberta.embeddings.LayerNorm.weight"][:] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    encoder = ChemBERTaEncoder(str(folder), cache=tmp_path / "kept").load()
    with pytest.raises(InputError, match=r"broken: its weights give no finite embedding of CCO"):
        encoder.transform(["CCO"])
    assert not (tmp_path / "kept").exists()
