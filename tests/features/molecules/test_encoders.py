"""Encoders of molecules by name, and ChemBERTa's on two models: one in the `rxnmapper` wheel, a small made one."""

import functools
import shutil

import numpy as np
import pytest
from sklearn.base import clone

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("rdkit")

from features.molecules.descriptors import DescriptorEncoder  # noqa: E402
from features.molecules.encoders import ChemBERTaEncoder, molecule_encoder  # noqa: E402
from features.molecules.morgan import MorganEncoder  # noqa: E402
from features.molecules.smiles import canonical_smiles  # noqa: E402
from features.molecules.weights import chosen_encoder  # noqa: E402
from rapids_pipeline.backend.errors import InputError  # noqa: E402

uncached = functools.partial(ChemBERTaEncoder, cache=None)

MOLECULES = [
    "CCC(C)C(=O)OC1CC(C)C=C2C=CC(C)C(CCC3CC(O)CC(=O)O3)C12",
    "CC12CCC3C(CCC4=CC(=O)CCC34C)C1CCC2O",
    "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
    "Cn1c(=O)c2[nH]cnc2n(C)c1=O",
    "CC(=O)Oc1ccccc1C(=O)O",
]


@pytest.fixture(scope="module")
def rxn(rxn_folder):
    return uncached(str(rxn_folder)).fit(MOLECULES)


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
    assert encoder.transform([]).shape == (0, rows.shape[1])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    names = encoder.get_feature_names_out()
    assert len(names) == rows.shape[1]
    assert names[:2].tolist() == ["chemberta_0", "chemberta_1"]


def test_without_normalisation_rows_keep_their_length(rxn, rxn_folder):
    raw = uncached(str(rxn_folder), normalize=False).fit(MOLECULES).transform(MOLECULES)
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert (lengths > 1.5).all()
    np.testing.assert_allclose(raw / lengths, rxn.transform(MOLECULES), atol=1e-5)


def test_truncated_molecules_are_counted_and_read_to_the_limit(rxn_folder, rxn):
    encoder = uncached(str(rxn_folder), max_length=10).load()
    with pytest.warns(UserWarning, match="2 of 3 molecules have more than 10 tokens"):
        rows = encoder.transform(["CCCCCCCCCC", "CCCCCCCCC", "CCCCCCCC"])  # 8 atoms + [CLS] + [SEP] = 10
    assert encoder.n_truncated_ == 2
    np.testing.assert_allclose(rows[0], rows[2], atol=1e-6)
    rxn.transform(MOLECULES)
    assert rxn.n_truncated_ == 0


def test_molecules_of_unknown_characters_are_warned_of(rxn):
    with pytest.warns(UserWarning, match=r"57\.1% of the SMILES characters are unknown"):
        rxn.transform(["CC.[Og]"])


def test_mostly_unknown_molecules_are_refused_in_fit(rxn_folder):
    with pytest.raises(InputError, match="100% of the characters are unknown"):
        uncached(str(rxn_folder)).fit(["[Og]"])


@pytest.mark.parametrize(
    "parameters", [{"pooling": "max"}, {"batch_size": 0}, {"batch_size": "some"}, {"max_length": 2}]
)
def test_parameters_are_checked_before_anything_is_loaded(parameters):
    with pytest.raises(InputError, match=next(iter(parameters))):
        uncached("no/model", **parameters).load()


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
        ChemBERTaEncoder(model="a/b", max_length=20, pooling="cls", cache=None),
    ):
        assert clone(encoder).get_params() == encoder.get_params()


def test_auto_takes_chemberta_where_all_of_it_is_on_this_machine(roberta_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.HfApi", None)  # the network is not asked
    assert chosen_encoder("descriptors") == ("descriptors", "asked for")
    name, reason = chosen_encoder("auto")
    assert name == "morgan" and "--molecules chemberta fetches them" in reason
    model = tmp_path / "models--DeepChem--ChemBERTa-10M-MTR"
    shutil.copytree(roberta_folder, model / "snapshots" / "1234")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("1234")
    assert chosen_encoder("auto") == ("chemberta", "auto: its weights are on this machine")
    for weights in (model / "snapshots" / "1234").glob("*.safetensors"):
        weights.unlink()
    assert chosen_encoder("auto")[0] == "morgan"
